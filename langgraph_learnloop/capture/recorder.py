"""The callback: it notes references to what it is shown, and returns."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables.config import RunnableConfig, var_child_runnable_config
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent, GraphResumeEvent

from langgraph_learnloop.capture.events import Answered, Event, Kind
from langgraph_learnloop.capture.writer import Writer
from langgraph_learnloop.mirrors import Witness

_log = logging.getLogger(__name__)
_NO_DETAILS: dict[str, Any] = {}
_REMEMBERED = 100_000
"""Pieces of work that may be open at once."""


class Recorder(GraphCallbackHandler):
    """Note what an agent does; pass it in `callbacks`, or let `watch` do so.

    Every method appends one tuple to the writer's queue: no serialisation, no I/O, no lock held across them. It serves
    sync and async agents alike, from any number of threads.
    """

    raise_error = False
    run_inline = True
    """In async agents: run on the event loop, which costs less than the hop to a thread that LangChain makes else."""
    ignore_retriever = True
    ignore_custom_event = True
    ignore_retry = True

    def __init__(self, writer: Writer, agent: str, *, only_wanted: bool = False) -> None:
        """Record under an agent's name into a writer; with `only_wanted`, only runs in which `want` was called."""
        self.agent = agent
        self._put = writer.put
        self._only_wanted = only_wanted
        self._roots: dict[UUID, UUID] = {}
        self._streaming: set[UUID] = set()
        self._flagged: dict[UUID, None] = {}
        self.witness: Witness | None = None
        """Asked once a run whether another tracer keeps a trace of it."""
        self._unasked: dict[UUID, None] = {}

    # -- from inside a run ---------------------------------------------------------------------------------------------

    def current_run(self) -> UUID | None:
        """Return the id of the run that the calling node or tool belongs to; None outside, or when it is not seen."""
        here = _here()
        return self._roots.get(here) if here else None

    def want(self) -> None:
        """Say inside a run that it is to be recorded."""
        if (here := _here()) is not None:
            self._note("want", here, None, None)

    def flag(self, reason: str) -> None:
        """Say inside a run that it went wrong."""
        root = self.current_run()
        if root is not None:
            self._flagged[root] = None
            self._note("flag", root, None, reason)

    def is_flagged(self) -> bool:
        """Return whether the run that the calling node belongs to was flagged by `flag`."""
        return self.current_run() in self._flagged

    # -- what LangChain and LangGraph call -----------------------------------------------------------------------------

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note that a graph, a node or a runnable began."""
        self._start("chain", run_id, parent_run_id, inputs, kwargs)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note that a chat model was called."""
        kwargs["serialized"] = serialized
        self._start("model", run_id, parent_run_id, tuple(messages[0]) if messages else (), kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note that a text model was called."""
        kwargs["serialized"] = serialized
        self._start("model", run_id, parent_run_id, tuple(prompts[:1]), kwargs)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """Note that a tool was called."""
        kwargs["serialized"] = serialized
        self._start("tool", run_id, parent_run_id, input_str, kwargs)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Note when a model wrote its first token."""
        if run_id not in self._streaming:
            self._streaming.add(run_id)
            self._note("token", run_id, None, None)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        """Note that a graph, a node or a runnable came to its end."""
        is_root = self._roots.pop(run_id, None) == run_id
        self._note("end", run_id, parent_run_id, outputs if is_root else None)

    def on_llm_end(
        self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note what a model answered."""
        answers = response.generations[0] if response.generations else ()
        said = tuple(getattr(one, "message", None) or one.text for one in answers)
        self._end("end", run_id, parent_run_id, Answered(said, response.llm_output))

    def on_tool_end(self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        """Note what a tool returned."""
        self._end("end", run_id, parent_run_id, output)

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note that an exception left a graph, a node, a runnable, a model or a tool."""
        self._end("error", run_id, parent_run_id, error)

    on_llm_error = on_tool_error = on_chain_error

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Note that the graph paused for somebody."""
        if event.run_id is not None:
            self._note("interrupt", event.run_id, None, None)

    def on_resume(self, event: GraphResumeEvent) -> None:
        """Note that the graph goes on after a pause."""
        if event.run_id is not None:
            self._note("resume", event.run_id, None, None)

    def _start(self, kind: Kind, run_id: UUID, parent_id: UUID | None, payload: Any, details: dict[str, Any]) -> None:
        roots = self._roots
        root = roots.get(parent_id) if parent_id else None
        roots[run_id] = root or run_id
        if root is None:
            self._forget_the_oldest()
            if self.witness is not None:
                self._unasked[run_id] = None
            if self._only_wanted:
                details["only_wanted"] = True
        elif kind == "chain":
            payload = None  # a node's state is not told, and would be kept from being freed
        else:
            details["checkpoints"] = (_config().get("configurable") or {}).get("checkpoint_map")
            if self._unasked and self._unasked.pop(root, False) is None:  # of parallel tools, one
                self._ask_the_witness(root)
        self._put(Event(self.agent, kind, run_id, parent_id, time.perf_counter(), time.time(), payload, details, self))

    def _ask_the_witness(self, root: UUID) -> None:
        """Note the trace that another tracer keeps of a run: inside a node its handlers are known."""
        handlers = getattr(_config().get("callbacks"), "handlers", None)
        if self.witness is None or not handlers:
            return
        try:
            trace = self.witness.trace_beside(handlers, root)
        except Exception:  # noqa: BLE001 - it looks into others' objects; the run is worth more than its trace
            _log.debug("The witness failed on the run %s", root, exc_info=True)
            return
        if trace is not None:
            self._note("traced", root, None, trace)

    def _end(self, kind: Kind, run_id: UUID, parent_id: UUID | None, payload: Any) -> None:
        self._roots.pop(run_id, None)
        self._streaming.discard(run_id)
        self._note(kind, run_id, parent_id, payload)

    def _note(self, kind: Kind, run_id: UUID, parent_id: UUID | None, payload: Any) -> None:
        self._put(Event(self.agent, kind, run_id, parent_id, time.perf_counter(), 0.0, payload, _NO_DETAILS, self))

    def _forget_the_oldest(self) -> None:
        """Keep what is remembered of runs that never ended within bounds."""
        for known in (self._roots, self._flagged, self._unasked):
            while len(known) > _REMEMBERED:
                known.pop(next(iter(known)), None)
        if len(self._streaming) > _REMEMBERED:
            self._streaming.clear()


def _config() -> RunnableConfig:
    return var_child_runnable_config.get() or {}


def _here() -> UUID | None:
    """Return the callback's id of the node or tool that runs in this context."""
    found = getattr(_config().get("callbacks"), "parent_run_id", None)
    return found if isinstance(found, UUID) else None
