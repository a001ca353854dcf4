"""Make a copy of a graph that cannot act: its checkpoints are its own, no cache, no store writes, no live tools.

The nodes that hold tools are exchanged for such as answer from a recording, in inner graphs too. What the copy cannot
exchange, a tool that a node runs by itself, is stopped by whoever watches the replay (`Replaying`). A graph whose tools
cannot be placed is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore, Op, PutOp, Result
from langgraph.types import Command

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.recording import RecordableTool
from langgraph_learnloop.evaluation.replaying import REPLAYING

Graph = CompiledStateGraph[Any, Any, Any, Any]
_OWN = ("callbacks", "run_id", "run_name")
"""Parts of the graph's own config that a replay leaves out, so that nobody records it as the user's run."""
_ANSWER = ToolMessage | Command[Any]


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


def shadow_of(graph: Graph, stop_before: Sequence[str] | None) -> tuple[Graph, list[str], bool]:
    """Return a copy that cannot act, the nodes to stop before, and whether it has nodes for tools.

    Raise ConfigError when that it cannot act cannot be promised. The copy has no saver: whoever runs it gives it one.
    """
    if "messages" not in graph.channels:
        raise ConfigError(
            f"The graph {graph.name!r} has no state key 'messages', so the replay cannot ask it "
            "anything. Examine its chat model instead, or give its state that key."
        )
    stops = _stops(graph, stop_before)
    changes = {
        "checkpointer": None,
        "cache": None,
        "config": _without_own(graph.config),
        "store": ReadOnlyStore(graph.store) if graph.store is not None else None,
        "nodes": _quiet(graph),
    }
    return graph.copy(update=changes), stops, _has_tool_nodes(graph)


def _quiet(graph: Pregel[Any, Any, Any, Any]) -> dict[str, Any]:
    """Return a graph's nodes with its tool nodes, and those of the graphs it holds, exchanged."""
    nodes = {}
    for name, node in graph.nodes.items():
        if isinstance(node.bound, ToolNode):
            node = node.copy({"bound": _answering(node.bound)})
        elif isinstance(node.bound, Pregel):
            inner = node.bound
            # An inner graph's own saver would be written to; None takes the one of the graph around it.
            own = isinstance(inner.checkpointer, BaseCheckpointSaver)
            changes = {"nodes": _quiet(inner), "cache": None, **({"checkpointer": None} if own else {})}
            node = node.copy({"bound": inner.copy(changes)})
        nodes[name] = node
    return nodes


def _answering(node: ToolNode) -> ToolNode:
    """Return a tool node that answers from the recording; pure tools run."""

    def answer(request: ToolCallRequest, run: Callable[[ToolCallRequest], _ANSWER]) -> _ANSWER:
        replaying = REPLAYING.get()
        found = None if replaying is None else replaying.recorded(request.tool_call, request.tool)
        return run(request) if found is None else found

    async def aanswer(request: ToolCallRequest, run: Callable[[ToolCallRequest], Awaitable[_ANSWER]]) -> _ANSWER:
        replaying = REPLAYING.get()
        found = None if replaying is None else replaying.recorded(request.tool_call, request.tool)
        return await run(request) if found is None else found

    return ToolNode(
        list(node.tools_by_name.values()),
        name=node.name or "tools",
        tags=list(node.tags) if node.tags else None,
        # How the user's own node was set up is not told by anything public.
        handle_tool_errors=getattr(node, "_handle_tool_errors", True),
        messages_key=getattr(node, "_messages_key", "messages"),
        wrap_tool_call=answer,
        awrap_tool_call=aanswer,
    )


def inner_graphs(graph: Graph) -> list[tuple[str, Graph]]:
    """Return the graphs that a graph holds, at any depth, with their paths; also those that a node's function runs."""
    return [(path, cast(Graph, inner)) for path, inner in graph.get_subgraphs(recurse=True)]


def only_async(graph: Graph) -> bool:
    """Return whether some node has no synchronous function, so that the graph must be awaited."""
    return any(getattr(node.bound, "func", ...) is None for node in graph.nodes.values())


def _stops(graph: Graph, stop_before: Sequence[str] | None) -> list[str]:
    """Return the nodes that were named and those where the user's own graph already pauses."""
    named = list(stop_before or ())
    for name in named:
        if name not in graph.nodes:
            raise ConfigError(
                f"stop_before names the node {name!r}, which the graph {graph.name!r} does not have; "
                f"name some of {', '.join(sorted(graph.nodes))}."
            )
    if not _has_tool_nodes(graph) and stop_before is None and (acting := _first_acting(graph)) is not None:
        raise ConfigError(
            f"The graph {graph.name!r} has tools (node {acting!r} knows them) but no ToolNode, and a replay must not "
            "act. Make them recordable, loop.recordable([...]), or name the nodes that run them, "
            "stop_before=['node'], or say stop_before=[] when nothing runs them."
        )
    own = graph.interrupt_before_nodes
    paused = [name for name in graph.nodes if name != "__start__"] if own == "*" else list(own)
    return sorted({*named, *paused})


def _has_tool_nodes(graph: Graph) -> bool:
    graphs = [graph, *(inner for _, inner in inner_graphs(graph))]
    return any(isinstance(node.bound, ToolNode) for one in graphs for node in one.nodes.values())


def _first_acting(graph: Graph) -> str | None:
    """Return a node whose function holds tools, or a model that was told of tools."""
    held = {name: list(_held(getattr(node.bound, "func", None) or node.bound)) for name, node in graph.nodes.items()}
    safe = {value.name for values in held.values() for value in values if isinstance(value, RecordableTool)}
    return next((name for name, values in held.items() if any(_acts(value, safe) for value in values)), None)


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


def _acts(value: Any, safe: Collection[str]) -> bool:
    """Return whether a value is a tool that is not among the recordable ones, or a model that was told of one."""
    if isinstance(value, RunnableBinding):
        names = [_tool_name(tool) for tool in value.kwargs.get("tools") or ()]
        return any(name not in safe for name in names) or _acts(value.bound, safe)
    if isinstance(value, BaseTool):
        return value.name not in safe
    return isinstance(value, ToolNode)


def _tool_name(tool: Any) -> str | None:
    """Return the name in a tool's schema, in OpenAI's form or bare."""
    if isinstance(tool, Mapping):
        name = (tool.get("function") or tool).get("name")
        return None if name is None else str(name)
    return tool if isinstance(tool, str) else getattr(tool, "name", None)


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
