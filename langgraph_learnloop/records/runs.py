"""What an agent did: messages, tool calls, steps and runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import Field

from langgraph_learnloop.records.base import Record


class ToolCall(Record):
    """A model's request to run one tool."""

    name: str
    """The tool's name, as the model wrote it."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments by name, JSON-able."""
    id: str | None = None
    """The id that joins the call with its result; None in data that needs none."""


class Message(Record):
    """One chat message, in the form that every room reads (OpenAI's roles)."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks."""
    content: str = ""
    """The text; blocks that are not text are left out here and stay whole in the store."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tools the assistant asks for; only in assistant messages."""
    tool_call_id: str | None = None
    """The call that a tool message answers."""
    name: str | None = None
    """The tool's or the speaker's name."""

    def alike(self, other: Message) -> bool:
        """Return whether another message says the same and asks for the same calls; ids of calls are made anew."""
        calls, others = ([(call.name, call.args) for call in one.tool_calls] for one in (self, other))
        return self.content.strip() == other.content.strip() and calls == others

    def openai(self) -> dict[str, Any]:
        """Return the message as an OpenAI chat dict, with arguments as a mapping (chat templates want that)."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id or f"call_{i}", "type": "function", "function": {"name": c.name, "arguments": c.args}}
                for i, c in enumerate(self.tool_calls)
            ]
        if self.role == "tool":
            out["tool_call_id"] = self.tool_call_id or "call_0"
        if self.name is not None:
            out["name"] = self.name
        return out


class Step(Record):
    """One model call, tool call or node of a run."""

    step_id: str
    """The callback's run id of this step."""
    parent_id: str | None
    """The step (or run) it happened in; None when it is not known."""
    kind: Literal["model", "tool", "node"]
    """What kind of work it was."""
    name: str
    """Name of the model, tool or node."""
    node: str | None = None
    """The graph node it happened in."""
    superstep: int | None = None
    """LangGraph's number of the step; what ran in parallel shares it."""
    namespace: str | None = None
    """LangGraph's checkpoint namespace: which subgraph, and which task of it."""
    checkpoint_id: str | None = None
    """The checkpoint that its node started from, where one was kept: a replay begins there."""
    attempt: int = 1
    """How often this node had been tried in this superstep, this time included."""
    asked_by: str | None = None
    """The model step that asked for this tool call."""
    input: str | None = None
    """Hash of the list of messages that a model read."""
    output: tuple[str, ...] = ()
    """Hashes of the messages it produced."""
    tools: str | None = None
    """Hash of the tool schemas that were offered to the model."""
    reasoning: str | None = None
    """The chain of thought, where the model gave one."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What a model asked for, or the one call that a tool step ran."""
    steered: bool = False
    """The tool did more than answer: it changed the graph's state, or where the graph goes, by a `Command`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """How the model was asked to write: temperature and the like, as the caller named them."""
    cached: bool = False
    """The answer came from LangChain's cache of model calls."""
    started_at: datetime
    """When it began, UTC."""
    seconds: float | None = None
    """Wall time; None when it never ended."""
    first_token_seconds: float | None = None
    """Time to the first token; None where the model did not stream."""
    input_tokens: int | None = None
    """Tokens read by the model."""
    output_tokens: int | None = None
    """Tokens written by the model."""
    usd: float | None = None
    """What the call cost, where the model's price is known."""
    error: str | None = None
    """Type and message of the exception, if one left the step."""


Outcome = Literal["finished", "failed", "interrupted"]


class Run(Record):
    """One root invocation of the agent."""

    run_id: str
    """The callback's id of the root."""
    thread_id: str | None = None
    """The conversation it belongs to."""
    agent: str
    """The name given to LearnLoop."""
    release: str | None = None
    """The release that served it; None for a model that LearnLoop does not serve."""
    user: str | None = None
    """Whoever asked, as passed in the config's metadata under "user" or "user_id"."""
    messages: str | None = None
    """Hash of the list of the conversation's messages as the run left them."""
    question: str | None = None
    """Text of the last user message."""
    answer: str | None = None
    """Text of the last assistant message."""
    steps: tuple[Step, ...] = ()
    """What happened, in order of start."""
    outcome: Outcome
    """How it ended; a pause for a human is "interrupted", not "failed"."""
    error: str | None = None
    """Type and message of the exception that left the root."""
    started_at: datetime
    """When it began, UTC."""
    seconds: float | None = None
    """Wall time of the root."""
    usd: float | None = None
    """What the model calls cost, where prices are known."""
    tags: tuple[str, ...] = ()
    """Tags of the root's config."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The caller's metadata in the root's config, without what LangGraph puts there itself."""
    flagged: tuple[str, ...] = ()
    """Why the agent's own graph flagged it."""
    resumes: str | None = None
    """The interrupted run that this one goes on with."""
    trace: str | None = None
    """The trace that another tracer keeps of it, where one watched beside; it is shown there, and not a second time."""


COMPRESSION = 1
"""Zstandard's level for what is stored: for messages of a few kilobytes 3 takes twice as long and saves nothing."""


class Interned(NamedTuple):
    """What a store must have, besides a run, to read the run's messages. All keys are hashes of content."""

    bodies: Mapping[str, bytes] = {}
    """Compressed JSON of messages and tool schemas."""
    lists: Mapping[str, tuple[str | None, tuple[str, ...]]] = {}
    """Lists of messages: the list that one continues, and the hashes of the messages that come after."""
    blobs: Mapping[str, bytes] = {}
    """Images, audio and files."""


class Recorded(NamedTuple):
    """A finished run on its way to the store."""

    run: Run
    """The run."""
    interned: Interned
    """What it refers to, as far as the store is not known to have it."""
