"""Take what is said of a run, and notice what nobody says: check it, mask it, store it, and flag what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import orjson

from langgraph_learnloop.calls import names
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.curation.flag import flag
from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Feedback, Run
from langgraph_learnloop.signals.explicit import make_feedback
from langgraph_learnloop.signals.implicit import Turn, detectors_of, notice
from langgraph_learnloop.store.opened import Store

_MOST_OFFERED = 256
"""Sets of tools whose names are remembered."""
_MOST_RECENT = 64
"""Runs that are kept in memory."""


class Hearing:
    """Hear what is said of the runs of one store."""

    def __init__(
        self, store: Store, policy: Policy, below: float, signals: Iterable[str], now: Callable[[], datetime]
    ) -> None:
        """Keep what the policy allows; runs are flagged whose mean score is under `below`, or of which a signal speaks.

        Raise ConfigError for a signal that there is none of.
        """
        self._store = store
        self._policy = policy
        self._below = below
        self._now = now
        self._detectors = detectors_of(signals, policy.exclude_fields)
        self._offered: dict[str, frozenset[str] | None] = {}
        self._recent: dict[str, Run] = {}

    def make(self, run: Run, *, now: datetime | None = None, **said: Any) -> Feedback:
        """Return what somebody said, as `make_feedback` takes it, as it may be stored; raise DataError."""
        made = make_feedback(run, tools=self._tools(run), now=now or self._now(), **said)
        return self._policy.feedback(made)

    def keep(self, run: Run, said: Feedback) -> bool:
        """Store feedback, flag its run if need be, and return False if it was there already."""
        is_new = self._store.feedback.add(said)
        self.flag(run, self._store.runs.feedback(run.run_id))
        return is_new

    def notice(self, runs: Sequence[Run], *, in_order: bool = True) -> None:
        """Flag what went wrong in runs that were just stored, and in those that they follow in their threads.

        With `in_order` false, a run may have been stored before the one that it follows.
        """
        for run in runs:
            self.flag(run)  # nobody can have said anything of it before it was stored
        if not self._detectors:
            return
        turns = {run.run_id: run for run in runs}
        if not in_order:
            turns |= {run.run_id: run for run in self._store.runs.following(runs).values()}
        before = self._store.runs.preceding([*turns.values()], self._recent)
        self._remember(runs)
        for run in turns.values():
            turn = Turn(run, before.get(run.run_id), self._names(run))
            for about, said in notice(turn, self._detectors, self._now()):
                with suppress(NotFoundError):  # one's own detector may name any run
                    self.keep(about, self._policy.feedback(said))

    def flag(self, run: Run, feedback: Sequence[Feedback] = ()) -> None:
        """Flag a run if something speaks against it."""
        raised = flag(run, feedback, below=self._below, now=self._now())
        if raised is not None:
            self._store.flags.add(raised)

    def _remember(self, runs: Sequence[Run]) -> None:
        """Keep the latest runs at hand: the one before is most often among them, and reading it takes a while."""
        self._recent.update((run.run_id, run) for run in runs)
        for old in [*self._recent][: max(0, len(self._recent) - _MOST_RECENT)]:
            self._recent.pop(old, None)  # another thread may import runs meanwhile

    def _names(self, run: Run) -> frozenset[str] | None:
        """Return the names of all the tools that a run's model calls were offered; None where one has no name."""
        offered = {step.tools for step in run.steps if step.tool_calls and step.tools is not None}
        found = [self._names_in(digest) for digest in offered]
        known = [one for one in found if one is not None]
        return frozenset[str]().union(*known) if known and len(known) == len(found) else None

    def _names_in(self, digest: str) -> frozenset[str] | None:
        if digest not in self._offered:
            if len(self._offered) >= _MOST_OFFERED:
                self._offered.clear()
            with suppress(NotFoundError):  # erased, it says nothing
                self._offered[digest] = names(orjson.loads(self._store.runs.blob(digest)))
        return self._offered.get(digest)

    def _tools(self, run: Run) -> list[dict[str, Any]]:
        digest = next((step.tools for step in run.steps if step.tools is not None), None)
        tools: list[dict[str, Any]] = orjson.loads(self._store.runs.blob(digest)) if digest else []
        return tools
