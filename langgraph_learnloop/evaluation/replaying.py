"""Watch one case while it is replayed: what its models said, and that none of its tools acts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tools import BaseTool
from langchain_core.tracers.context import register_configure_hook
from langgraph.errors import GraphBubbleUp

from langgraph_learnloop.texts import short

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.recording import Recording

HANDOFF = "__handoff_destination"
"""Key of the metadata of tools that only hand over to another agent of the graph, as langgraph-supervisor's do."""
PURE = "learnloop_pure"
"""Key of the metadata of tools that act on nothing outside of the graph."""
_SHORT = 200
"""Characters of a tool's arguments that a sentence quotes."""

Price = Callable[[str, int | None, int | None], float | None]
"""What a call of a model costs, in dollars, by the tokens it reads and writes; None where that is not known."""


class ToolStopped(GraphBubbleUp):
    """Carry the end of a replay through the graph; nodes that handle tool errors let it pass."""


class Replaying(BaseCallbackHandler):
    """See what one replayed case does, answer its tools, and stop it at the door of one that would act."""

    raise_error = True
    run_inline = True

    def __init__(
        self,
        recording: Recording | None = None,
        *,
        whole: bool = False,
        pure: Collection[str] = (),
        price: Price | None = None,
    ) -> None:
        """Replay to the end (`whole`), or to the first tool that the new answer asks for."""
        self._recording = recording
        self.whole = whole
        """Whether all of the run is wanted, or the next message only."""
        self._pure = set(pure)
        self._price = price
        self._running: dict[UUID, tuple[float, dict[str, Any]]] = {}
        self.said: list[AIMessage] = []
        """What the models said, in the order in which they ended."""
        self.asked = 0
        """Model calls that began."""
        self.system = False
        """Some model was given a system message."""
        self.seconds = 0.0
        """Time that model calls took, the sum of them."""
        self.tokens: int | None = None
        """Tokens that they read and wrote, where they say so."""
        self.usd: float | None = None
        """What they cost, where that is known."""
        self.ended: str | None = None
        """Id of the tool call of the new answer at which the replay stopped, as it should."""
        self.diverged: str | None = None
        """Why it stopped elsewhere."""
        self.flagged = False
        """Whether the graph said of this run that it went wrong."""

    # -- models --------------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **more: Any
    ) -> None:
        """Note when it began and whether it was given a system message."""
        self.asked += 1
        self.system = self.system or any(isinstance(m, SystemMessage) for batch in messages for m in batch)
        self._running[run_id] = time.monotonic(), more.get("metadata") or {}

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **more: Any) -> None:
        """Keep what was said."""
        began, metadata = self._running.pop(run_id, (time.monotonic(), {}))
        self.seconds += time.monotonic() - began
        for generation in (one for batch in response.generations for one in batch[:1]):
            if isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage):
                self.said.append(generation.message)
                self._count(generation.message, metadata)

    def _count(self, message: AIMessage, metadata: Mapping[str, Any]) -> None:
        usage = message.usage_metadata
        if usage is None:
            return
        self.tokens = (self.tokens or 0) + usage["total_tokens"]
        name = str(metadata.get("ls_model_name") or message.response_metadata.get("model_name") or "")
        usd = self._price(name, usage["input_tokens"], usage["output_tokens"]) if self._price is not None else None
        if usd is not None:
            self.usd = (self.usd or 0.0) + usd

    # -- tools ---------------------------------------------------------------------------------------------------------

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, **more: Any) -> None:
        """Stop the run before a tool acts; a pure one may run."""
        name = str((serialized or {}).get("name") or more.get("name") or "?")
        if name in self._pure or _says_pure(more.get("metadata")):
            return
        self._end_at(more.get("tool_call_id"))
        self.stop(
            f"The tool {name!r} was about to run where its answer cannot be given from the recording, and was stopped: "
            "a replay never acts. Make it recordable: loop.recordable([...])."
        )

    def recorded(self, call: Mapping[str, Any], tool: BaseTool | None = None) -> ToolMessage | None:
        """Return the recorded answer of a tool call, or None when the tool is pure and to be run; else stop here."""
        name, call_id = call["name"], call.get("id")
        if name in self._pure or (tool is not None and _says_pure(tool.metadata)):
            self._pure.add(name)  # so that it passes `on_tool_start`, whatever it is wrapped in
            return None
        self._end_at(call_id)
        found = self._recording.take(name, call["args"], call_id) if self._recording is not None else None
        if found is None:
            args = short(json.dumps(call["args"], ensure_ascii=False, default=str), _SHORT)
            self.stop(f"The tool {name!r} was asked for {args}, which the recording does not hold.")
        if found.answer is None:
            self.stop(f"The tool {name!r} {found.why_not}")
        return found.answer.model_copy(update={"tool_call_id": call_id or "", "id": None})

    def stop(self, because: str) -> NoReturn:
        """Stop the replay where it leaves the recording."""
        self.diverged = self.diverged or because
        raise ToolStopped(because)

    def _end_at(self, call_id: str | None) -> None:
        """End the replay if the new answer asks for this call, and no more than that answer is wanted."""
        if self.whole or call_id is None:
            return
        if any(call["id"] == call_id for said in self.said for call in said.tool_calls):
            self.ended = self.ended or call_id
            raise ToolStopped("The answer is there.")


REPLAYING: ContextVar[Replaying | None] = ContextVar("learnloop_replaying", default=None)
"""The replay that the calling code is part of; None in the user's own runs."""
register_configure_hook(REPLAYING, inheritable=True)  # so that a tool is seen that a node runs without its config


def _says_pure(metadata: Mapping[str, Any] | None) -> bool:
    known = metadata or {}
    return bool(known.get(PURE)) or HANDOFF in known
