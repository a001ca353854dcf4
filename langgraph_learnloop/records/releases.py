"""What the agent runs: a base model with all that was changed about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Self

from pydantic import Field, model_validator

from langgraph_learnloop.records.base import Record, content_hash
from langgraph_learnloop.records.runs import Message
from langgraph_learnloop.records.training import Recipe


class Sampling(Record):
    """How tokens are drawn."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of one answer."""


MOST_SHOTS = 64
"""Messages that a release shows before every conversation."""

LONGEST_SHOTS = 100_000
"""Characters of these in all."""

LONGEST_KNOWLEDGE = 50_000
"""Characters of what a release knows in all."""


class Release(Record):
    """What the agent runs: immutable, named by its content."""

    base_model: str
    """Name or folder of the base model."""
    adapter: str | None = None
    """Folder of the LoRA adapter; None is the bare base."""
    adapter_sha256: str | None = None
    """Hash of the adapter's safetensors file."""
    instructions: str | None = None
    """A system prompt put before the agent's own; None leaves it alone."""
    shots: tuple[Message, ...] = ()
    """Exchanges that are shown before every conversation: what users say, each with the answer that is right."""
    knowledge: tuple[str, ...] = ()
    """Facts that the model is given with every conversation, as data and not as instructions."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How tokens are drawn."""
    dataset: str | None = None
    """Version of the dataset it learned from."""
    parent: str | None = None
    """The release it was made from."""
    recipe: Recipe | None = None
    """How it was trained."""
    made_at: datetime
    """When it was made, UTC; not part of its identity."""

    @model_validator(mode="after")
    def _can_be_said(self) -> Self:
        """Refuse words that no conversation can begin with."""
        if (problem := _trouble_with_shots(self.shots) or _trouble_with_knowledge(self.knowledge)) is not None:
            raise ValueError(problem)
        return self

    @cached_property
    def release_id(self) -> str:
        """Return the content hash; where an adapter lies does not change what it is."""
        empty = {name for name in ("shots", "knowledge") if not getattr(self, name)}  # older than these fields
        return content_hash(self.model_dump(mode="json", exclude={"made_at", "adapter", *empty}))[:12]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields replaced, and an id of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("release_id", None)
        return copy


def _trouble_with_shots(shots: tuple[Message, ...]) -> str | None:
    """Return why exchanges cannot be shown before a conversation, with the way out."""
    if not shots:
        return None
    if len(shots) > MOST_SHOTS:
        return f"there are {len(shots)} messages in the shots, and at most {MOST_SHOTS} are allowed: keep the best ones"
    if (long := sum(len(m.content) + len(str([c.args for c in m.tool_calls])) for m in shots)) > LONGEST_SHOTS:
        return f"the shots have {long:,} characters, and {LONGEST_SHOTS:,} are allowed: shorten them, or train on them"
    if (shots[0].role, shots[-1].role) != ("user", "assistant"):
        return "shots must begin with a user's message and end with the assistant's answer to it"
    waiting = set[str]()
    for number, message in enumerate(shots):
        if message.role == "system":
            return f"the shot {number} is a system message: put what it says into the instructions"
        if message.role == "tool":
            if (answered := message.tool_call_id or "call_0") not in waiting:
                return (
                    f"the shot {number} answers the tool call {answered!r}, which nobody asked for before: leave it out"
                )
            waiting.remove(answered)
        elif waiting:
            break
        waiting |= {call.id or f"call_{place}" for place, call in enumerate(message.tool_calls)}
    return (
        f"the tool calls {sorted(waiting)} in the shots have no answer: let a tool message follow" if waiting else None
    )


def _trouble_with_knowledge(facts: tuple[str, ...]) -> str | None:
    """Return why facts cannot be given with every conversation, with the way out."""
    if any(not fact.strip() for fact in facts):
        return "a fact of the knowledge is empty: leave it out"
    if (long := sum(map(len, facts))) > LONGEST_KNOWLEDGE:
        return (
            f"the knowledge has {long:,} characters, and {LONGEST_KNOWLEDGE:,} are allowed: keep what most "
            "conversations need, and let a tool look up the rest"
        )
    return None
