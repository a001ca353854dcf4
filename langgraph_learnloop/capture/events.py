"""What the recorder hands to the writer: references and times, nothing else."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from uuid import UUID

Kind = Literal["chain", "model", "tool", "end", "error", "interrupt"]
"""The first three begin a piece of work, the next two end one, the last says that the graph paused."""


class Event(NamedTuple):
    """One callback; a tuple, because the agent waits while it is made."""

    agent: str
    """The recorder's name for the agent."""
    kind: Kind
    """What happened."""
    run_id: UUID
    """The callback's id of the piece of work."""
    parent_id: UUID | None
    """The callback's id of what it happened in."""
    clock: float
    """time.perf_counter() at the callback, for durations."""
    wall: float
    """time.time() at the callback, for dates; 0.0 where no piece of work begins."""
    payload: Any
    """What was given or came out: messages, arguments, an LLMResult, an exception; never copied deeply."""
    details: dict[str, Any]
    """The callback's other keyword arguments."""
