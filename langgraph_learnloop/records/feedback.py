"""What people said of a run, and which runs went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from langgraph_learnloop.errors import IllegalMoveError
from langgraph_learnloop.records.base import Record
from langgraph_learnloop.records.runs import Message


class Feedback(Record):
    """What somebody, or something, thought of a run."""

    feedback_id: str
    """Given by the caller, or made; sending the same id twice changes nothing."""
    run_id: str
    """The run it is about."""
    step_id: str | None = None
    """The model call it is about; None lets curation choose."""
    name: str = "user"
    """What was judged, e.g. "user", "helpfulness"."""
    origin: Literal["explicit", "implicit", "judge", "reviewer"] = "explicit"
    """Where it comes from."""
    score: float | None = Field(default=None, ge=-1, le=1)
    """-1 (bad) to 1 (good); None means not judged, which is not 0."""
    categories: tuple[str, ...] = ()
    """Labels such as "wrong_tool"."""
    text: str | None = None
    """A comment in words."""
    correction: Message | None = None
    """The assistant message that would have been right: text or tool calls."""
    by: str | None = None
    """Who said it."""
    at: datetime
    """When it was said, UTC."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.score is None and self.text is None and self.correction is None and not self.categories:
            raise ValueError("feedback must hold a score, a text, a category or a correction")
        return self


FlagState = Literal["open", "queued", "curated", "dismissed"]

FLAG_MOVES: Mapping[FlagState, frozenset[FlagState]] = {
    "open": frozenset({"queued", "dismissed"}),
    "queued": frozenset({"curated", "dismissed", "open"}),
    "curated": frozenset(),
    "dismissed": frozenset({"open"}),
}
"""Where a flag may go: queued flags go back to open when their curation was abandoned."""


class Flag(Record):
    """A run that went wrong, on its way to curation."""

    run_id: str
    """The run; one flag a run."""
    agent: str
    """The agent that made it."""
    thread_id: str | None = None
    """The conversation."""
    reasons: tuple[str, ...]
    """Why, in words."""
    severity: float = Field(ge=0, le=1)
    """0 (look at it some day) to 1 (worst)."""
    state: FlagState = "open"
    """Where it stands; FLAG_MOVES says where it may go."""
    at: datetime
    """When it was raised, UTC."""

    def move(self, state: FlagState) -> Flag:
        """Return the flag in its new state, or raise IllegalMoveError."""
        if state not in FLAG_MOVES[self.state]:
            legal = ", ".join(sorted(FLAG_MOVES[self.state])) or "nowhere"
            raise IllegalMoveError(
                f"The flag on run {self.run_id!r} cannot go from {self.state!r} to {state!r}; "
                f"from there it may go: {legal}."
            )
        return self.model_copy(update={"state": state})
