"""What an engine is asked, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from langgraph_learnloop.records.base import Record
from langgraph_learnloop.records.releases import Sampling
from langgraph_learnloop.records.runs import Message


class Generation(Record):
    """One request to an engine."""

    release_id: str
    """Which release must answer."""
    messages: tuple[Message, ...]
    """The conversation."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tool schemas (OpenAI function form)."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How tokens are drawn."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many of the likeliest tokens to tell beside each one that is written; None tells no probabilities at all."""


class TokenLogprob(Record):
    """A token of an answer, and how likely it was."""

    token: str
    """Its text."""
    logprob: float
    """Natural logarithm of its probability, temperature left out of account."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens in its place with theirs, the likeliest first."""


class Generated(Record):
    """An engine's answer."""

    message: Message
    """The assistant message."""
    reasoning: str | None = None
    """Chain of thought, where the model wrote one."""
    input_tokens: int
    """Tokens read."""
    output_tokens: int
    """Tokens written."""
    finish_reason: Literal["stop", "length"] = "stop"
    """Why it ended."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each token that was written, where they were asked for and the engine knows them."""


class EngineHealth(Record):
    """How an engine is."""

    trouble: str | None = None
    """Why it cannot answer, in a sentence; None while it can."""
    loaded: tuple[str, ...] = ()
    """Ids of the releases that it can answer with at once."""
    waiting: int | None = None
    """Requests that wait for their turn; None where the engine does not know."""


class Probe(Record):
    """A prompt whose answer tells whether an engine serves the release that it says."""

    request: Generation
    """What is asked."""
    answer: Message
    """What the release answered when it was examined."""
