"""What was decided, and how a walk through the loop ended."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from langgraph_learnloop.records.base import Record
from langgraph_learnloop.records.evaluation import Scorecard


class Decision(Record):
    """One entry of the audit log; entries are chained by hash."""

    at: datetime
    """When, UTC."""
    actor: str
    """Who decided: a person's name, or the room."""
    action: str
    """What was done, e.g. "train", "gate", "promote", "rollback"."""
    subject: str
    """The id it was done to."""
    because: str
    """Why, in a sentence."""
    cycle_id: str | None = None
    """The cycle it belongs to."""
    previous: str
    """Hash of the entry before; the first has 32 zeros."""
    hash: str
    """Content hash of this entry with `previous`."""


CycleOutcome = Literal["promoted", "rolling", "stopped", "waiting", "nothing"]


class CycleReport(Record):
    """How one turn of the loop ended."""

    cycle_id: str
    """Its id."""
    outcome: CycleOutcome
    """"rolling": a rollout has begun; "waiting": review is open, or another rollout; "nothing": nothing was learned."""
    dataset: str | None = None
    """Dataset version."""
    candidate: str | None = None
    """Release id."""
    scorecard: Scorecard | None = None
    """What the gates said."""
    because: str
    """In a sentence."""
