"""Make a copy of a graph that cannot act: no checkpoints, no cache, no store writes, no tools.

Two things keep tools from running. The run stops before the nodes that hold them; and a watching callback stops any
LangChain tool that starts elsewhere. A graph whose tools cannot be placed is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.base import BaseStore, Op, PutOp, Result

from langgraph_learnloop.errors import ConfigError

Graph = CompiledStateGraph[Any, Any, Any, Any]
_OWN = ("callbacks", "run_id", "run_name")
"""Parts of the graph's own config that a replay leaves out, so that nobody records it as the user's run."""


class ToolStopped(GraphBubbleUp):
    """Carry the stop of a tool through the graph; nodes that handle tool errors let it pass."""


class Watch(BaseCallbackHandler):
    """See what one replayed case does, and stop it at the door of a tool."""

    raise_error = True
    run_inline = True

    def __init__(self) -> None:
        """Start having seen nothing."""
        self.models = 0
        self.system = False
        self.stopped: str | None = None

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **more: Any
    ) -> None:
        """Note whether the model was given a system message."""
        self.models += 1
        self.system = self.system or any(isinstance(m, SystemMessage) for batch in messages for m in batch)

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, **more: Any) -> NoReturn:
        """Stop the run before the tool does anything."""
        self.stopped = str((serialized or {}).get("name") or more.get("name") or "?")
        raise ToolStopped(self.sentence())

    def sentence(self) -> str:
        """Return why the run was stopped."""
        return (
            f"The tool {self.stopped!r} was about to run outside the graph's tool nodes and was stopped: a replay "
            "never acts. Name the node it runs in: stop_before=[...]."
        )


class ReadOnlyStore(BaseStore):
    """Answer from the user's store and throw writes away."""

    def __init__(self, store: BaseStore) -> None:
        """Wrap the user's store."""
        self._store = store
        self.supports_ttl = store.supports_ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run the operations that read; a write answers None, as it does when it is made."""
        wanted = list(ops)
        return _in_place(wanted, self._store.batch(_reads(wanted)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do the same in an event loop."""
        wanted = list(ops)
        return _in_place(wanted, await self._store.abatch(_reads(wanted)))


def shadow_of(graph: Graph, stop_before: Sequence[str] | None) -> tuple[Graph, list[str]]:
    """Return a copy that cannot act and the nodes to stop before; raise ConfigError when that cannot be promised."""
    if "messages" not in graph.channels:
        raise ConfigError(
            f"The graph {graph.name!r} has no state key 'messages', so the replay cannot ask it "
            "anything. Examine its chat model instead, or give its state that key."
        )
    stops = _stops(graph, stop_before)
    changes = {
        "checkpointer": False,
        "cache": None,
        "config": _without_own(graph.config),
        "store": ReadOnlyStore(graph.store) if graph.store is not None else None,
    }
    return graph.copy(update=changes), stops


def only_async(graph: Graph) -> bool:
    """Return whether some node has no synchronous function, so that the graph must be awaited."""
    return any(getattr(node.bound, "func", ...) is None for node in graph.nodes.values())


def _stops(graph: Graph, stop_before: Sequence[str] | None) -> list[str]:
    """Return the tool nodes, the nodes that were named, and those where the user's own graph already pauses."""
    named = list(stop_before or ())
    for name in named:
        if name not in graph.nodes:
            raise ConfigError(
                f"stop_before names the node {name!r}, which the graph {graph.name!r} does not have; "
                f"it has {', '.join(sorted(graph.nodes))}."
            )
    found = _tool_nodes(graph)
    _refuse_inner_tools(graph, {*named, *found})
    if not found and stop_before is None and (acting := _first_acting(graph)) is not None:
        raise ConfigError(
            f"The graph {graph.name!r} has tools (node {acting!r} knows them) but no ToolNode to stop before, and a "
            "replay must not act. Name the nodes that run tools, stop_before=['node'], or say stop_before=[] when "
            "nothing runs them."
        )
    own = graph.interrupt_before_nodes
    paused = [name for name in graph.nodes if name != "__start__"] if own == "*" else list(own)
    return sorted({*named, *found, *paused})


def _tool_nodes(graph: Graph) -> list[str]:
    return [name for name, node in graph.nodes.items() if isinstance(node.bound, ToolNode)]


def _refuse_inner_tools(graph: Graph, stopped: set[str]) -> None:
    for path, inner in graph.get_subgraphs(recurse=True):
        outer = path.split("|")[0]
        tools = _tool_nodes(cast(Graph, inner))
        if tools and outer not in stopped:
            raise ConfigError(
                f"The node {outer!r} of the graph {graph.name!r} is a graph with tools of its own (node {tools[0]!r}), "
                "and a replay cannot stop inside it. Examine that inner graph, or name the node: "
                f"stop_before=[{outer!r}]."
            )


def _first_acting(graph: Graph) -> str | None:
    """Return a node whose function holds tools, or a model that was told of tools."""
    for name, node in graph.nodes.items():
        if any(_acts(value) for value in _held(getattr(node.bound, "func", None) or node.bound)):
            return name
    return None


def _held(function: Any) -> Iterator[Any]:
    """Yield what a node's function refers to: closure, globals, and the object itself for a runnable."""
    yield function
    try:
        seen = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):
        return
    for value in [*seen.nonlocals.values(), *seen.globals.values()]:
        yield value
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, list | tuple | set):
            yield from value


def _acts(value: Any) -> bool:
    if isinstance(value, RunnableBinding):
        return bool(value.kwargs.get("tools")) or _acts(value.bound)
    return isinstance(value, BaseTool | ToolNode)


def _without_own(config: RunnableConfig | None) -> RunnableConfig:
    kept = {key: value for key, value in (config or {}).items() if key not in _OWN}
    settings = {k: v for k, v in (config or {}).get("configurable", {}).items() if k != "thread_id"}
    return cast(RunnableConfig, {**kept, "configurable": settings})


def _reads(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if not isinstance(op, PutOp)]


def _in_place(ops: Sequence[Op], answers: Sequence[Result]) -> list[Result]:
    """Return the answers of the reads at the places of their operations, None at those of writes."""
    left = iter(answers)
    return [None if isinstance(op, PutOp) else next(left) for op in ops]
