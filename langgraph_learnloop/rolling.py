"""How a candidate comes from no thread to all of them, a few percent at a time, and back again by itself.

`LearnLoop` holds one `Rolling`; its verb `rollout` begins one, `roll_on` looks at the evidence and moves it. People
`approve`, `pause`, `resume`, `set_stage` and go `back`. Every move is an entry of the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import ConfigError, IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Release, Rollout, RolloutState, Run, Scorecard, Server
from langgraph_learnloop.store.opened import Store

if TYPE_CHECKING:
    from langgraph_learnloop.serving.canary import Evidence, Seen

SERVING_WITHIN = timedelta(seconds=15)
"""A process that reported itself this long ago, or later, serves."""
_ALL = 100
_POLLS = 3
"""Times that a process may miss a look at the registry before it is out of step."""

Decide = Callable[[str, str, str, str], None]
"""Logs action, subject, because and actor."""


class Rolling:
    """Move rollouts of one agent, in its store."""

    def __init__(
        self, store: Store, config: LoopConfig, agent: str, now: Callable[[], datetime], decide: Decide
    ) -> None:
        """Work on an open store."""
        self._store = store
        self._config = config
        self._agent = agent
        self._now = now
        self._decide = decide

    def check(self, release: Release, card: Scorecard | None) -> None:
        """Raise IllegalMoveError for a release that did not pass its gates, or while another is on its way."""
        champion, there = self._store.releases.champion(), self._store.rollouts.open()
        said = None
        if card is None:
            said = "it was never examined"
        elif not card.passed:
            said = f"it was stopped by the gate: {card.because}"
        elif card.champion != champion:
            said = f"it was examined against {card.champion!r}, and now {champion!r} serves: examine it again"
        elif there is not None:
            said = f"the rollout of {there.candidate!r} is still open ({there.state}, {there.percent}%)"
        if said is not None:
            raise IllegalMoveError(f"Release {release.release_id!r} cannot be put in service: {said}")

    def start(self, rollout_id: str, release: Release, card: Scorecard, by: str) -> Rollout:
        """Begin with a release that was checked; IllegalMoveError if the champion was changed meanwhile."""
        stages, now = self._config.rollout_stages, self._now()
        first: RolloutState = "shadow" if self._config.autonomy == "manual" else "canary"
        rollout = Rollout(
            rollout_id=rollout_id,
            candidate=release.release_id,
            champion=card.champion,
            stages=stages,
            percent=0 if first == "shadow" else stages[0],
            state=first,
            started_at=now,
            stage_at=now,
            because=card.because,
            by=by,
        )
        self._store.rollouts.start(rollout)
        self._say(rollout)
        return rollout

    def current(self) -> Rollout:
        """Return the rollout that is under way, or raise NotFoundError."""
        found = self._store.rollouts.open()
        if found is None:
            raise NotFoundError("No rollout is on its way; loop.rollout(release_id) begins one.")
        return found

    def step(self) -> tuple[Rollout, Evidence | None]:
        """Look at the evidence and move the rollout as far as the settings let it move by itself."""
        rollout = self.current()
        evidence = self.evidence(rollout)
        if evidence is not None and evidence.move == "rollback":
            return self.back(evidence.because, "learnloop"), evidence
        if evidence is not None and evidence.move == "advance" and self._may_go_on(rollout):
            return self._on(rollout, evidence.because, "learnloop"), evidence
        return rollout, evidence

    def approve(self, by: str) -> Rollout:
        """Go to the next stage because a person says so."""
        return self._on(self.current(), f"{by} approved it.", by)

    def set_stage(self, percent: int, by: str) -> Rollout:
        """Go to any share of the new threads, because a person says so; 100 ends the rollout."""
        if not 1 <= percent <= _ALL:
            raise ConfigError(f"A stage is a share of new threads from 1 to 100 percent, not {percent}; or pause it.")
        state: RolloutState = "live" if percent == _ALL else "canary"
        return self._move(self.current(), state, percent, f"{by} set it to {percent}%.", by)

    def pause(self, by: str, because: str = "") -> Rollout:
        """Give no new thread to the candidate; those that have begun with it keep it."""
        return self._move(self.current(), "paused", 0, because or f"{by} paused it.", by)

    def resume(self, by: str) -> Rollout:
        """Go on with the first stage."""
        rollout = self.current()
        if rollout.state != "paused":
            raise IllegalMoveError(f"The rollout of {rollout.candidate!r} is not paused, it is {rollout.state!r}.")
        return self._move(rollout, "canary", rollout.stages[0], f"{by} resumed it.", by)

    def back(self, because: str, by: str) -> Rollout:
        """End the rollout: nobody gets the candidate any more, and threads that had it get the champion."""
        return self._move(self.current(), "rolled_back", 0, because, by)

    def evidence(self, rollout: Rollout) -> Evidence | None:
        """Return what the threads that began since the rollout did say; None before the candidate got any of them.

        In a pause those that had begun with it go on: they may still show that it must go.
        """
        from langgraph_learnloop.serving.canary import Limits, evidence

        shares = [percent for _, percent in rollout.past if percent]
        percent = rollout.percent or (shares[-1] if shares else 0)
        if percent == 0:
            return None
        now, began = self._now(), self._began(rollout)
        in_stage = [runs for runs in began if runs[0].started_at >= rollout.stage_at]
        to_candidate = sum(runs[0].release == rollout.candidate for runs in in_stage)
        return evidence(
            self._seen(rollout, began, now),
            Limits(
                margin=self._config.rollout_margin,
                least_threads=self._config.rollout_threads,
                latency_ratio=self._config.rollout_latency_ratio,
                cost_ratio=self._config.rollout_cost_ratio,
            ),
            (len(in_stage) - to_candidate, to_candidate) if rollout.percent else (0, 0),
            percent,
            waited=now - rollout.stage_at >= timedelta(minutes=self._config.rollout_minutes),
            last=rollout.next_percent in (None, _ALL),
        )

    def servers(self) -> tuple[Server, ...]:
        """Return the processes that serve."""
        return self._store.rollouts.servers(self._now(), SERVING_WITHIN)

    def behind(self, release_id: str, seconds: float) -> tuple[Server, ...]:
        """Wait until every process that serves gives a release to new threads; return those that do not in time."""
        deadline = time.monotonic() + seconds
        while behind := tuple(one for one in self.servers() if one.champion != release_id or one.trouble):
            if time.monotonic() >= deadline:
                return behind
            time.sleep(0.05)
        return ()

    def _began(self, rollout: Rollout) -> list[list[Run]]:
        """Return the runs of each thread that began since the rollout did, and was dealt to one side or the other."""
        threads: dict[str, list[Run]] = {}
        for run in self._store.runs.since(rollout.started_at, self._agent):
            if run.thread_id is not None and run.release in (rollout.candidate, rollout.champion):
                threads.setdefault(run.thread_id, []).append(run)
        older = self._store.runs.older_threads(list(threads), rollout.started_at)
        # Until every process has heard of a stage, some deal by the one before.
        unsure = timedelta(seconds=_POLLS * self._config.poll_seconds)
        sure = []
        for thread_id, runs in threads.items():
            stage = rollout.share_at(runs[0].started_at)
            if thread_id not in older and stage is not None and runs[0].started_at >= stage[0] + unsure:
                sure.append(runs)
        return sure

    def _seen(self, rollout: Rollout, threads: Sequence[Sequence[Run]], now: datetime) -> list[Seen]:
        """Return the threads that have been quiet for a while, in the order in which they became so."""
        from langgraph_learnloop.serving.canary import Seen

        quiet = now - timedelta(minutes=self._config.settle_minutes)
        flagged = self._store.flags.among([run.run_id for runs in threads for run in runs])
        ended = [
            (max(run.started_at + timedelta(seconds=run.seconds or 0.0) for run in runs), runs) for runs in threads
        ]
        found = []
        for _, runs in sorted((one for one in ended if one[0] <= quiet), key=lambda one: one[0]):
            stage = rollout.share_at(runs[0].started_at)
            if stage is None or not stage[1]:  # nobody was dealt to the candidate then
                continue
            steps = [step.seconds for run in runs for step in run.steps if step.kind == "model" and step.seconds]
            costs = [run.usd for run in runs if run.usd is not None]
            found.append(
                Seen(
                    candidate=runs[0].release == rollout.candidate,
                    bad=float(any(run.run_id in flagged for run in runs)),
                    error=any(run.outcome == "failed" for run in runs),
                    seconds=sum(steps) / len(steps) if steps else None,
                    usd=sum(costs) if costs else None,
                    handed_over=any(run.outcome == "interrupted" for run in runs),
                    percent=float(stage[1]),
                )
            )
        return found

    def _may_go_on(self, rollout: Rollout) -> bool:
        """Return whether nobody need say so."""
        last = rollout.next_percent in (None, _ALL)
        allowed = self._config.autonomy == "automatic" or (self._config.autonomy == "guarded" and not last)
        return allowed and rollout.state == "canary"

    def _on(self, rollout: Rollout, because: str, by: str) -> Rollout:
        percent = rollout.next_percent or _ALL
        return self._move(rollout, "live" if percent == _ALL else "canary", percent, because, by)

    def _move(self, rollout: Rollout, state: RolloutState, percent: int, because: str, by: str) -> Rollout:
        moved = rollout.move(state, percent, because, by, self._now())
        self._store.rollouts.move(moved)
        self._say(moved)
        return moved

    def _say(self, rollout: Rollout) -> None:
        where = rollout.state if rollout.state != "canary" else f"{rollout.percent}%"
        self._decide(f"rollout:{where}", rollout.candidate, rollout.because, rollout.by)


def behind_in_words(behind: Sequence[Server], release_id: str) -> str:
    """Return who does not serve a release yet, as a sentence; "" for nobody."""
    if not behind:
        return ""
    named = ", ".join(f"{one.server_id} ({one.trouble or f'serves {one.champion}'})" for one in behind[:3])
    more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
    return f"{len(behind)} of the processes that serve do not serve {release_id} yet: {named}{more}."
