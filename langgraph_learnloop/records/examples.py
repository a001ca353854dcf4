"""What there is to learn: examples, the datasets that hold them, and what a reviewer decides."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from langgraph_learnloop.records.base import Record, content_hash
from langgraph_learnloop.records.runs import Message

Origin = Literal["correction", "approved", "teacher", "variation", "replay"]

Split = Literal["train", "validation", "heldout"]

_LEARNED = {"messages", "tools", "chosen", "rejected"}


class Example(Record):
    """One thing to learn, or to be examined on: a conversation and the right next message."""

    messages: tuple[Message, ...]
    """The conversation before the answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """Schemas of the tools on offer (OpenAI function form)."""
    chosen: Message
    """The right next assistant message."""
    rejected: Message | None = None
    """What the agent said instead."""
    origin: Origin
    """Where it comes from."""
    confidence: float = Field(default=1.0, ge=0, le=1)
    """How sure curation is that `chosen` is right."""
    review: Literal["pending", "approved", "edited", "rejected"] = "pending"
    """What review said."""
    split: Split | None = None
    """Which part of the dataset; None before the dataset is made."""
    group: str | None = None
    """Examples of one group are near-duplicates or share a thread; a group is never split."""
    run_id: str | None = None
    """The run it was made from."""
    by: str | None = None
    """Whoever corrected it."""

    @cached_property
    def example_id(self) -> str:
        """Return the content hash of what is learned (conversation, tools, chosen, rejected)."""
        return content_hash(self.model_dump(mode="json", include=_LEARNED))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields replaced; it keeps the id only while what is learned is the same."""
        copy = super().model_copy(update=update, deep=deep)
        if update and not _LEARNED.isdisjoint(update):
            copy.__dict__.pop("example_id", None)
        return copy

    @property
    def category(self) -> str:
        """Return the first tool asked for, or "answer": the slice that gates look at one by one."""
        return self.chosen.tool_calls[0].name if self.chosen.tool_calls else "answer"


class Dataset(Record):
    """A version of what is to be learned; the examples lie in the file at `path`."""

    version: str
    """Content hash of the examples with their splits."""
    parent: str | None = None
    """The version it grew from."""
    kind: Literal["sft", "preference", "unpaired"] = "sft"
    """What a trainer can do with it."""
    counts: dict[str, dict[str, int]]
    """Number of examples by origin, then by split."""
    path: str
    """A JSON-lines file, one Example a line."""
    made_at: datetime
    """When it was made, UTC."""


class Proposal(Record):
    """An example that waits for review, with what the checks said."""

    proposal_id: str
    """The example's id."""
    example: Example
    """What would be learned."""
    problems: tuple[str, ...] = ()
    """What the checks hold against it; empty when it passed."""


class Verdict(Record):
    """What a reviewer said of a proposal."""

    proposal_id: str
    """Which proposal."""
    action: Literal["approve", "edit", "reject"]
    """What to do with it."""
    chosen: Message | None = None
    """The right message, for "edit"."""
    by: str
    """Who decided."""
    because: str | None = None
    """Why."""

    @model_validator(mode="after")
    def _edit_has_text(self) -> Self:
        if (self.action == "edit") != (self.chosen is not None):
            raise ValueError("an edit must have the chosen message, and only an edit may")
        return self
