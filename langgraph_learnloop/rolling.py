"""How a candidate comes from no thread to all of them, a few percent at a time, and back again by itself.

`LearnLoop` holds one `Rolling`; its verb `rollout` begins one, `roll_on` looks at the evidence and moves it. People
`approve`, `pause`, `resume`, `set_stage` and go `back`. Every move is an entry of the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import ConfigError, IllegalMoveError, NotFoundError
from langgraph_learnloop.evidence import Metric, Threads
from langgraph_learnloop.records import Decision, Release, Rollout, RolloutMode, RolloutState, Scorecard, Server
from langgraph_learnloop.serving.rollouts import Evidence
from langgraph_learnloop.store.opened import Store

_log = logging.getLogger(__name__)
_ALL = 100
_HALF = 50


class Rolling:
    """Move rollouts of one agent, in its store."""

    def __init__(
        self,
        store: Store,
        config: LoopConfig,
        agent: str,
        now: Callable[[], datetime],
        moved: Callable[[Decision], object],
        metric: Metric | None = None,
    ) -> None:
        """Work on an open store; `moved` hears of every move, once it is in the store and the log."""
        self._store = store
        self._config = config
        self._now = now
        self._moved = moved
        self._threads = Threads(store, config, agent, metric)

    def check(self, release: Release, card: Scorecard | None) -> Scorecard:
        """Return the card of a release that passed its gates; raise IllegalMoveError otherwise, or during a rollout."""
        champion, there = self._store.releases.champion(), self._store.rollouts.open()
        if card is None:
            said = "it was never examined. Call loop.evaluate(release)."
        elif not card.passed:
            said = f"it was stopped by the gate: {card.because} `learnloop report` shows the cases; train another."
        elif card.champion != champion:
            said = f"it was examined against {card.champion!r}, and now {champion!r} serves. Examine it again."
        elif there is not None:
            said = (
                f"the rollout of {there.candidate!r} is still open ({there.state}, {there.percent}%). End that first."
            )
        else:
            return card
        raise IllegalMoveError(f"Release {release.release_id!r} cannot be put in service: {said}")

    def start(
        self,
        rollout_id: str,
        release: Release,
        card: Scorecard,
        by: str,
        mode: RolloutMode = "stages",
        percent: int | None = None,
    ) -> Rollout:
        """Begin with a release that was checked; IllegalMoveError if the champion was changed meanwhile."""
        stages, now = self._stages(mode, percent), self._now()
        unseen = self._config.rollout_shadow > 0 or self._config.autonomy == "manual"
        rollout = Rollout(
            rollout_id=rollout_id,
            candidate=release.release_id,
            champion=card.champion,
            mode=mode,
            stages=stages,
            percent=0 if unseen else stages[0],
            state="shadow" if unseen else "canary",
            started_at=now,
            stage_at=now,
            because=card.because,
            by=by,
        )
        self._moved(self._store.rollouts.start(rollout))
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
        """Go on with the first stage, or in the shadow if it never left that."""
        rollout = self.current()
        if rollout.state != "paused":
            raise IllegalMoveError(
                f"The rollout of {rollout.candidate!r} is not paused, it is {rollout.state!r}: move it with "
                "`learnloop rollout step`."
            )
        seen = any(percent for _, percent in rollout.past)
        state: RolloutState = "canary" if seen else "shadow"
        return self._move(rollout, state, rollout.stages[0] if seen else 0, f"{by} resumed it.", by)

    def back(self, because: str, by: str) -> Rollout:
        """End the rollout: nobody gets the candidate any more, and threads that had it get the champion."""
        return self._move(self.current(), "rolled_back", 0, because, by)

    def evidence(self, rollout: Rollout) -> Evidence | None:
        """Return what is known of the candidate; None before it was asked anything."""
        return self._threads.evidence(rollout, self._now())

    def servers(self) -> tuple[Server, ...]:
        """Return the processes that serve."""
        return self._store.rollouts.serving(self._now())

    def behind(self, release_id: str, seconds: float) -> tuple[Server, ...]:
        """Wait until every process that serves gives a release to new threads; return those that do not in time."""
        deadline = time.monotonic() + seconds
        while behind := tuple(one for one in self.servers() if one.champion != release_id or one.trouble):
            if time.monotonic() >= deadline:
                return behind
            time.sleep(0.05)
        return ()

    def _stages(self, mode: RolloutMode, percent: int | None) -> tuple[int, ...]:
        """Return the shares that the candidate gets; raise ConfigError for one that is none."""
        if percent is not None and not 1 <= percent < _ALL:
            raise ConfigError(f"A test gives the candidate from 1 to 99 percent of the new threads, not {percent}.")
        if percent is not None and mode != "ab":
            raise ConfigError(f"Only an A/B test has a percent of its own: leave it out of a rollout by {mode!r}.")
        if mode == "blue_green":
            return (_ALL,)
        return (percent or _HALF, _ALL) if mode == "ab" else self._config.rollout_stages

    def _may_go_on(self, rollout: Rollout) -> bool:
        """Return whether nobody need say so."""
        if rollout.state == "paused" or self._config.autonomy == "manual":
            return False
        if rollout.state == "shadow":
            return rollout.stages[0] != _ALL or self._config.autonomy == "automatic"
        last = rollout.next_percent in (None, _ALL)
        return rollout.mode != "ab" and (self._config.autonomy == "automatic" or not last)

    def _on(self, rollout: Rollout, because: str, by: str) -> Rollout:
        percent = rollout.next_percent or _ALL
        ends = percent == _ALL and not (rollout.mode == "blue_green" and rollout.percent == 0)
        return self._move(rollout, "live" if ends else "canary", percent, because, by)

    def _move(self, rollout: Rollout, state: RolloutState, percent: int, because: str, by: str) -> Rollout:
        moved = rollout.move(state, percent, because, by, self._now())
        self._moved(self._store.rollouts.move(moved))
        return moved


def tending(look: Callable[[], object], seconds: float) -> Callable[[], None]:
    """Look every so many seconds, in a thread; return what ends that, and waits for a look that is under way."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(seconds):
            try:
                look()
            except NotFoundError:
                pass  # there is no rollout
            except Exception:  # noqa: BLE001 - who looks after a rollout must not go away
                _log.exception("The rollout could not be looked at; it is tried again.")

    thread = threading.Thread(target=work, name="learnloop-tender", daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()

    return stop


def behind_in_words(behind: Sequence[Server], release_id: str) -> str:
    """Return who does not serve a release yet, as a sentence; "" for nobody."""
    if not behind:
        return ""
    named = ", ".join(f"{one.server_id} ({one.trouble or f'serves {one.champion}'})" for one in behind[:3])
    more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
    return f"{len(behind)} of the processes that serve do not serve {release_id} yet: {named}{more}."
