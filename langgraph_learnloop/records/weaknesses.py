"""What flagged runs have in common, and which runs are like one another."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from langgraph_learnloop.records.base import Record
from langgraph_learnloop.records.feedback import Flag
from langgraph_learnloop.records.runs import Run


class Weakness(Record):
    """A kind of request that goes wrong, or a part of the agent that breaks: flagged runs that belong together."""

    weakness_id: str
    """Content hash of the ids of its runs."""
    cause: Literal["answer", "error"]
    """What people disliked or corrected ("answer"), or an exception that left a tool or the run ("error")."""
    label: str
    """What tells it from the others: words of its requests, or the error."""
    example: str
    """Its most typical request; empty where nobody asked anything."""
    run_ids: tuple[str, ...] = Field(min_length=1)
    """Its runs, the most typical first."""
    threads: int = Field(ge=1)
    """Conversations that it was met in; a run without a thread counts as one."""
    impact: float = Field(ge=0)
    """Conversations that it spoiled, as far as severities are chances: the sum of the worst one of each thread."""
    corrected: int = Field(ge=0)
    """Runs for which somebody said what would have been right."""
    fix: Literal["repair", "correct", "train"]
    """What helps: to mend code or a service, to collect corrections, or to learn from those that are there."""
    because: str
    """Why that helps, and how it is done."""
    first_at: datetime
    """When the first of its flags was raised, UTC."""
    last_at: datetime
    """When the last of its flags was raised, UTC."""


class RunPoint(NamedTuple):
    """Where a run lies in a space of vectors."""

    run_id: str
    """The run."""
    agent: str
    """The agent that made it."""
    vector: tuple[float, ...]
    """What was asked, embedded; of length 1."""


class Near(NamedTuple):
    """A run that lies near to what was looked for."""

    run_id: str
    """The run."""
    cosine: float
    """-1 (the opposite) to 1 (the same)."""


class Similar(NamedTuple):
    """A run that was asked something similar."""

    run: Run
    """The run."""
    cosine: float
    """-1 (the opposite) to 1 (the same)."""
    flag: Flag | None
    """What is known against it; None where nothing is."""
