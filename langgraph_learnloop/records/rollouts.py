"""How a release comes to all threads, and who serves what meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field

from langgraph_learnloop.errors import IllegalMoveError
from langgraph_learnloop.records.base import Record

RolloutState = Literal["shadow", "canary", "paused", "live", "rolled_back"]

ROLLOUT_MOVES: Mapping[RolloutState, frozenset[RolloutState]] = {
    "shadow": frozenset({"canary", "paused", "live", "rolled_back"}),
    "canary": frozenset({"canary", "paused", "live", "rolled_back"}),
    "paused": frozenset({"shadow", "canary", "live", "rolled_back"}),
    "live": frozenset(),
    "rolled_back": frozenset(),
}
"""Where a rollout may go; from "canary" to "canary" is another stage."""

RolloutMode = Literal["stages", "blue_green", "ab"]
"""How new threads are shared out: more and more of them for the candidate; all of them at once, with the champion held
ready; or an even part of them until somebody decides."""


class Rollout(Record):
    """A candidate on its way from no thread to all of them."""

    rollout_id: str
    """Given when it begins; new threads are dealt out by its hash."""
    candidate: str
    """The release that is rolled out."""
    champion: str
    """The release that serves everybody else."""
    mode: RolloutMode = "stages"
    """How new threads are shared out."""
    stages: tuple[int, ...] = (1, 5, 25, 50, 100)
    """Shares of the new threads, in percent, that the candidate gets one after the other."""
    percent: int = Field(default=0, ge=0, le=100)
    """The share that it gets now; 0 is none, as in the shadow."""
    state: RolloutState
    """Where it stands; ROLLOUT_MOVES says where it may go."""
    started_at: datetime
    """When it began, UTC."""
    stage_at: datetime
    """When it came to where it stands, UTC."""
    because: str = ""
    """Why it stands there."""
    by: str = "learnloop"
    """Who moved it there."""
    moves: int = 0
    """How often it was moved: who moves it must have seen the last move."""
    past: tuple[tuple[datetime, int], ...] = ()
    """When it came to each share that it had before, and which that was."""

    @property
    def open(self) -> bool:
        """Return whether it has not ended."""
        return bool(ROLLOUT_MOVES[self.state])

    @property
    def stage(self) -> str:
        """Return where it stands, in a word."""
        return f"{self.percent}%" if self.state == "canary" else self.state

    @property
    def next_percent(self) -> int | None:
        """Return the share of the next stage; None after the last."""
        return next((stage for stage in self.stages if stage > self.percent), None)

    def move(self, state: RolloutState, percent: int, because: str, by: str, now: datetime) -> Rollout:
        """Return the rollout where it goes, or raise IllegalMoveError."""
        if state not in ROLLOUT_MOVES[self.state]:
            legal = ", ".join(sorted(ROLLOUT_MOVES[self.state])) or "nowhere, it has ended"
            raise IllegalMoveError(
                f"The rollout of {self.candidate!r} cannot go from {self.state!r} to {state!r}; "
                f"from there it may go: {legal}."
            )
        changed = {"state": state, "percent": percent, "because": because, "by": by, "stage_at": now}
        past = (*self.past, (self.stage_at, self.percent))
        return self.model_copy(update={**changed, "moves": self.moves + 1, "past": past})

    def share_at(self, when: datetime) -> tuple[datetime, int] | None:
        """Return since when the candidate had which share of the new threads at a time; None before it began."""
        return next((one for one in reversed((*self.past, (self.stage_at, self.percent))) if one[0] <= when), None)


class Routes(NamedTuple):
    """How threads find their release."""

    champion: str
    """The release that new threads get."""
    candidate: str | None = None
    """The release that some of them get instead."""
    percent: int = 0
    """How many of a hundred."""
    salt: str = ""
    """What their ids are hashed with."""
    refused: frozenset[str] = frozenset()
    """Releases that were rolled back: threads that have begun with them get the champion."""
    shadow: str | None = None
    """The rollout whose candidate is asked what the champion was asked, without anybody seeing it."""


class ShadowAnswer(Record):
    """What a candidate did with a request that the champion had answered; nobody saw it."""

    rollout_id: str
    """The rollout that it is in the shadow of."""
    thread: str
    """Content hash of the thread's id: a thread counts once."""
    same: bool
    """It said the same and asked for the same tools."""
    error: str | None = None
    """Why it gave no answer that can be used."""
    seconds: float
    """How long it took."""
    champion_seconds: float
    """How long the champion took."""
    at: datetime
    """When, UTC."""


class Server(Record):
    """A process that serves, as it last reported itself."""

    server_id: str
    """Host, process and a random part."""
    champion: str
    """The release that it gives to new threads."""
    candidate: str | None = None
    """The release that it gives to some of them."""
    loaded: tuple[str, ...] = ()
    """Releases that are in its memory."""
    trouble: str | None = None
    """Why it cannot serve what it should."""
    at: datetime
    """When it last reported, UTC."""
