"""Take what somebody says of a run, wherever it was said: check it, mask it, store it, and flag what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson

from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.curation.flag import flag
from langgraph_learnloop.records import Feedback, Run
from langgraph_learnloop.signals.explicit import make_feedback
from langgraph_learnloop.store.opened import Store


class Hearing:
    """Hear what is said of the runs of one store."""

    def __init__(self, store: Store, policy: Policy, below: float, now: Callable[[], datetime]) -> None:
        """Keep what the policy allows; runs whose mean score is under `below` are flagged."""
        self._store = store
        self._policy = policy
        self._below = below
        self._now = now

    def make(self, run: Run, *, now: datetime | None = None, **said: Any) -> Feedback:
        """Return what somebody said, as `make_feedback` takes it, as it may be stored; raise DataError."""
        made = make_feedback(run, tools=self._tools(run), now=now or self._now(), **said)
        return self._policy.feedback(made)

    def keep(self, run: Run, said: Feedback) -> bool:
        """Store feedback, flag its run if need be, and return False if it was there already."""
        is_new = self._store.feedback.add(said)
        self.flag(run, self._store.runs.feedback(run.run_id))
        return is_new

    def flag(self, run: Run, feedback: Sequence[Feedback] = ()) -> None:
        """Flag a run if something speaks against it."""
        raised = flag(run, feedback, below=self._below, now=self._now())
        if raised is not None:
            self._store.flags.add(raised)

    def _tools(self, run: Run) -> list[dict[str, Any]]:
        digest = next((step.tools for step in run.steps if step.tools is not None), None)
        tools: list[dict[str, Any]] = orjson.loads(self._store.runs.blob(digest)) if digest else []
        return tools
