"""Small records for the curation tests, and a reader that holds them in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Example, Feedback, Message, Proposal, Run, Step, ToolCall, content_hash

START = datetime(2026, 1, 1, tzinfo=UTC)

BOOK = {
    "type": "function",
    "function": {
        "name": "book_table",
        "parameters": {
            "type": "object",
            "properties": {
                "restaurant": {"type": "string"},
                "people": {"type": "integer", "minimum": 1, "maximum": 30},
                "meal": {"enum": ["lunch", "dinner"]},
                "day": {"type": "string", "format": "date"},
            },
            "required": ["restaurant"],
        },
    },
}
PLAY = {
    "type": "function",
    "function": {
        "name": "play_music",
        "parameters": {
            "type": "object",
            "properties": {"artist": {"type": "string"}, "rooms": {"type": "array", "items": {"type": "string"}}},
            "required": ["artist"],
        },
    },
}
TOOLS = (BOOK, PLAY)


def user(text: str) -> Message:
    """Say something as the user."""
    return Message(role="user", content=text)


def answer(text: str) -> Message:
    """Say something as the assistant."""
    return Message(role="assistant", content=text)


def call(tool: str, **args: Any) -> Message:
    """Ask for one tool."""
    return Message(role="assistant", tool_calls=(ToolCall(name=tool, args=args),))


def example(text: str, chosen: Message, **given: Any) -> Example:
    """Return a correction of a one-message conversation."""
    values: dict[str, Any] = {"origin": "correction", "tools": TOOLS, "rejected": answer("Sorry?"), "by": "ann"}
    return Example(messages=(user(text),), chosen=chosen, **{**values, **given})


def proposal(text: str, chosen: Message, **given: Any) -> Proposal:
    """Return a proposal of a one-message conversation."""
    made = example(text, chosen, **given)
    return Proposal(proposal_id=made.example_id, example=made)


class MemoryReader:
    """Hold runs, messages, feedback and tool schemas; the port that curation reads from."""

    def __init__(self) -> None:
        """Start empty."""
        self.runs: dict[str, Run] = {}
        self.bodies: dict[str, Message] = {}
        self.lists: dict[str, tuple[str, ...]] = {}
        self.said: dict[str, list[Feedback]] = {}
        self.blobs: dict[str, bytes] = {}

    def run(self, run_id: str) -> Run:
        """Return a run."""
        if run_id not in self.runs:
            raise NotFoundError(f"No run {run_id!r}.")
        return self.runs[run_id]

    def messages(self, hashes: Sequence[str]) -> tuple[Message, ...]:
        """Return messages by their hashes."""
        if any(key not in self.bodies for key in hashes):
            raise NotFoundError("A message was erased.")
        return tuple(self.bodies[key] for key in hashes)

    def conversation(self, list_hash: str | None) -> tuple[Message, ...]:
        """Return the messages of a list."""
        return self.messages(self.lists[list_hash] if list_hash else ())

    def feedback(self, run_id: str) -> tuple[Feedback, ...]:
        """Return what was said of a run."""
        return tuple(self.said.get(run_id, ()))

    def blob(self, digest: str) -> bytes:
        """Return tool schemas as JSON."""
        if digest not in self.blobs:
            raise NotFoundError(f"No blob {digest!r}.")
        return self.blobs[digest]

    def keep(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """Store messages and return their hashes."""
        hashes = tuple(content_hash(m.model_dump(mode="json")) for m in messages)
        self.bodies.update(zip(hashes, messages, strict=True))
        return hashes

    def keep_list(self, messages: Sequence[Message]) -> str:
        """Store messages as a list and return its hash."""
        hashes = self.keep(messages)
        self.lists[content_hash(list(hashes))] = hashes
        return content_hash(list(hashes))

    def step(
        self, name: str, read: Sequence[Message], said: Sequence[Message], tools: Sequence[Any] | None = TOOLS
    ) -> Step:
        """Return a model call and store what it read and said."""
        digest = None if tools is None else content_hash(list(tools))
        if digest is not None:
            self.blobs[digest] = json.dumps(list(tools or ())).encode()
        return Step(
            step_id=name, parent_id=None, kind="model", name="m", input=self.keep_list(read), output=self.keep(said),
            tools=digest, started_at=START,
        )  # fmt: skip

    def add(self, run_id: str, steps: Sequence[Step], **given: Any) -> Run:
        """Store a finished run."""
        values: dict[str, Any] = {"agent": "a", "outcome": "finished", "started_at": START, "thread_id": f"t-{run_id}"}
        self.runs[run_id] = Run(run_id=run_id, steps=tuple(steps), **{**values, **given})
        return self.runs[run_id]

    def say(self, run_id: str, by: str | None = "ann", minute: int = 0, **given: Any) -> Feedback:
        """Store feedback on a run."""
        count = len(self.said.setdefault(run_id, []))
        said = Feedback(
            feedback_id=f"{run_id}-{count}", run_id=run_id, by=by, at=START + timedelta(minutes=minute), **given
        )
        self.said[run_id].append(said)
        return said

    def simple(self, run_id: str, text: str, said: Message, **given: Any) -> Run:
        """Store a run of one model call."""
        return self.add(run_id, [self.step(f"s-{run_id}", [user(text)], [said])], **given)
