"""What the recorder hands to the writer: references and times, nothing else."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple
from uuid import UUID

from langchain_core.messages import BaseMessage

Kind = Literal["chain", "model", "tool", "end", "error", "interrupt", "resume", "token", "want", "flag", "traced"]
"""The first three begin a piece of work, the next two end one; then: the graph paused, or goes on after a pause; a
model wrote its first token; the run is to be recorded after all; the run is to be flagged; another tracer keeps a trace
of it."""


class Answered(NamedTuple):
    """What a model answered. Its messages, for LangChain's cache puts others into the result it was given."""

    said: tuple[BaseMessage | str, ...]
    """The messages, or the texts of a model that knows no messages."""
    told: dict[str, Any] | None
    """What the provider told besides, such as tokens."""


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
    """What was given or came out: messages, arguments, an Answered, an exception; never copied deeply.

    None of a graph's inner nodes: what they pass around is seen where models and tools read and write it.
    """
    details: dict[str, Any]
    """The callback's other keyword arguments."""
    source: Any = None
    """Who saw it: what one recorder saw is told apart from what another saw of the same run."""
