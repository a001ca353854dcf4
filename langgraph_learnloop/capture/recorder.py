"""The callback: it notes references to what it is shown, and returns."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent

from langgraph_learnloop.capture.events import Event, Kind
from langgraph_learnloop.capture.writer import Writer


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

    def __init__(self, writer: Writer, agent: str) -> None:
        """Record under an agent's name into a writer."""
        self.agent = agent
        self._put = writer.put

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

    def on_chain_end(self, outputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        """Note that a graph, a node or a runnable came to its end."""
        self._end("end", run_id, parent_run_id, outputs)

    def on_llm_end(
        self, response: LLMResult, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note what a model answered."""
        self._end("end", run_id, parent_run_id, response)

    def on_tool_end(self, output: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        """Note what a tool returned."""
        self._end("end", run_id, parent_run_id, output)

    def on_chain_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note that an exception left a graph, a node or a runnable."""
        self._end("error", run_id, parent_run_id, error)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note that a model failed."""
        self._end("error", run_id, parent_run_id, error)

    def on_tool_error(
        self, error: BaseException, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        """Note that a tool failed."""
        self._end("error", run_id, parent_run_id, error)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Note that the graph paused for somebody."""
        if event.run_id is not None:
            self._end("interrupt", event.run_id, None, None)

    def _start(self, kind: Kind, run_id: UUID, parent_id: UUID | None, payload: Any, details: dict[str, Any]) -> None:
        self._put(Event(self.agent, kind, run_id, parent_id, time.perf_counter(), time.time(), payload, details))

    def _end(self, kind: Kind, run_id: UUID, parent_id: UUID | None, payload: Any) -> None:
        self._put(Event(self.agent, kind, run_id, parent_id, time.perf_counter(), 0.0, payload, {}))
