"""The corridor: the verbs of the loop in order, and what comes next. How each is done is in the rooms.

    watch -> feedback -> flagged -> curate -> train -> evaluate -> promote -> rollback

`cycle` walks it from `curate` to `promote`. Every stage is named by what went in (a dataset by its examples, a job by
base, data and recipe, a result by release and case), so a cycle that was killed is simply walked again: what was done
is found, not repeated. Every choice is an entry of `log()`.

`recording.py` holds the verbs from `feedback` to `flagged`; `learning.py` what a loop is made of, `watch`, and the
verbs until there is a candidate; what examines, ships and takes back is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    LearnLoopError,
    NotFoundError,
)
from langgraph_learnloop.evaluation.findings import Report
from langgraph_learnloop.jobs import still_there
from langgraph_learnloop.learning import Learning
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    CycleOutcome,
    CycleReport,
    Dataset,
    NodeCredit,
    Release,
    Remembered,
    Rollout,
    RolloutMode,
    Scorecard,
)
from langgraph_learnloop.releases import ReleaseDiff, diff
from langgraph_learnloop.rolling import behind_in_words, tending
from langgraph_learnloop.serving.follower import Follower
from langgraph_learnloop.serving.rollouts import Evidence
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.shadow_traffic import ShadowTraffic
from langgraph_learnloop.serving.swap import Flipped, agree, swap

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.planning import GatePlan
    from langgraph_learnloop.ports import Engine, OnProgress, Reviewer
    from langgraph_learnloop.serving.live_model import LiveModel


class LearnLoop(Learning):
    """Make one agent better, safely.

    `store` is a file or a database URL; nothing has to be started. Parts that are not given are the defaults: the
    trainer runs TRL + PEFT (Unsloth with a GPU) in a subprocess, the reviewer approves what passes the checks, the
    evaluator compares tool calls, the replayer asks the cases of an examination in this process. The operator is told
    what is decided of releases; the metric says what makes a thread of a rollout a bad one (default: a flagged run).
    """

    _engine: Engine | None = None
    _live: LiveModel | None = None
    _tenders: tuple[Callable[[], None], ...] = ()

    def model(self, engine: Engine) -> LiveModel:
        """Return a chat model whose release can be swapped while it serves; the bare base is its first champion."""
        self._engine = engine
        try:
            self._load(self.champion)
        except NotFoundError:
            base = Release(base_model=engine.base_model, sampling=self.config.sampling, made_at=self._now())
            self.store.releases.add(base)
            self._load(base)
            why = "It is the base model, the first to serve."
            self._tell(self.store.releases.point(base.release_id, why, "learnloop"))
        return self._serve(engine)

    def evaluate(
        self,
        candidate: Release,
        dataset: Dataset | None = None,
        on_progress: OnProgress | None = None,
        cycle_id: str | None = None,
        cases: Sequence[Case] = (),
    ) -> Scorecard:
        """Hold a candidate against the champion on held-out cases, through the watched graph; nothing acts.

        `dataset` says whose held-out cases are asked (default: those of the candidate's own dataset). What earlier
        lessons repaired, the suites of the settings and `cases` of your own are asked too.
        """
        if dataset is None:
            if candidate.dataset is None:
                raise DataError(
                    f"The release {candidate.release_id!r} learned from no dataset: name the one whose held-out cases "
                    "are asked, as loop.evaluate(release, dataset)."
                )
            dataset = self.store.datasets.get(candidate.dataset)
        self._load(self.champion, candidate)
        card = self.exams.card(self.champion, candidate, dataset, self._now(), on_progress, cases)
        self.store.scorecards.add(card)
        if card.passed:
            self.exams.keep_probes(candidate, self.engine)
        elif candidate.release_id not in self._in_service():
            self.engine.unload(candidate.release_id)  # nobody will ask it
        action = "gate:passed" if card.passed else "gate:stopped"
        self._decide(action, candidate.release_id, card.because, cycle_id=cycle_id)
        return card

    def plan_evaluation(self, dataset: Dataset) -> tuple[GatePlan, ...]:
        """Say beforehand what each gate could show on a dataset's held-out cases, or how many are missing."""
        champion = None
        with suppress(NotFoundError):
            champion = self.champion
        return self.exams.plan(dataset, champion)

    def examine(self, release_id: str, cases: Sequence[Case]) -> tuple[CaseResult, ...]:
        """Return how a release does on cases of your own; nothing is compared and nothing stored."""
        release = self.store.releases.resolve(release_id)
        self._load(release)
        return self.exams.here.run(release.release_id, cases)

    def replay(self, run: str, release_id: str | None = None, *, step: str | None = None) -> tuple[Case, CaseResult]:
        """Run a recorded run again with a release (default: the champion); return what happened then, and now.

        It starts at a model call (default: the first) from the run's own checkpoint, where the graph has a saver; its
        tools answer from the recording, and what was not recorded ends it. Nothing is written in the run's thread. What
        happened then is the case's `reference`; the result's score "same" says whether it happened again.
        """
        self.flush()
        release = self._release(release_id)
        self._load(release)
        return self.exams.replay(run, release, step)

    def credit(self, candidate: str, cases: Sequence[Case]) -> tuple[NodeCredit, ...]:
        """Return which nodes mend the cases when the candidate answers in them and the champion in all others."""
        release = self.store.releases.resolve(candidate)
        self._load(self.champion, release)
        return self.exams.credit(release, self.champion, cases)

    def report(self, release_id: str | None = None) -> Report:
        """Return all there is to show of a release's latest examination; NotFoundError when there was none.

        The default is the release that was examined last.
        """
        return self.exams.report(release_id)

    def promote(self, release_id: str, cycle_id: str | None = None, actor: str = "learnloop") -> Release:
        """Put a release that passed its gates in service: load it beside the others, probe it, flip the pointer.

        Threads that have begun keep the release they began with. Raise IllegalMoveError without a passed scorecard.
        """
        if (there := self.champion).release_id == self.store.releases.resolve(release_id).release_id:
            return there  # as after a process that was killed right then
        release, card = self._passed(release_id)
        self._swap(
            release,
            lambda: self._tell(
                self.store.releases.point(
                    release.release_id, card.because, actor, card.champion, action="promote", cycle_id=cycle_id
                )
            ),
        )
        if behind := self.rolling.behind(release.release_id, self.config.ack_seconds):
            why = behind_in_words(behind, release.release_id)
            self._decide("promote:partial", release.release_id, why, cycle_id=cycle_id)
        if self.config.adapters_gb is not None:
            self._tidy_after(release)
        return release

    def rollout(
        self, release_id: str, actor: str = "learnloop", *, mode: RolloutMode = "stages", percent: int | None = None
    ) -> Rollout:
        """Begin to give a release that passed its gates to new threads: first unseen, then to a few percent of them.

        It is loaded and probed first, as for `promote`. `roll_on` moves it further, or back. With "blue_green" it gets
        all new threads at once, and the champion is held ready; with "ab" it gets `percent` of them (default: half)
        until a person decides.
        """
        release, card = self._passed(release_id)
        return self._swap(release, lambda: self.rolling.start(self._new_id(), release, card, actor, mode, percent))

    def roll_on(self) -> tuple[Rollout, Evidence | None]:
        """Look at what the threads of the rollout under way say, and move it on, or back, as the settings allow."""
        self.flush()
        return self.rolling.step()

    def tend(self, seconds: float = 60.0) -> Callable[[], None]:
        """Look after rollouts in a thread, as `roll_on` does, every so many seconds; return what ends that.

        One process is enough; several do no harm. Without it call `roll_on` from a timer, or `learnloop rollout watch`.
        """
        stop = tending(self.roll_on, seconds)
        self._tenders += (stop,)
        return stop

    def rollback(self, because: str = "Somebody asked for it.", actor: str = "learnloop") -> Release:
        """End the rollout under way; without one, make the champion before this one the champion again.

        Threads that began with what is taken back get the champion with their next turn. Raise NotFoundError when there
        is nothing to go back to.
        """
        if self.store.rollouts.open() is not None:
            self.rolling.back(because, actor)
            return self.champion
        releases = self.store.releases
        bad, release = releases.champion(), still_there(releases.get(releases.previous()))
        if self._engine is not None:
            self._engine.load(release)
        self._tell(releases.point(release.release_id, because, actor, bad, action="rollback", refused=bad))
        return release

    def cycle(self, reviewer: Reviewer | None = None, on_progress: OnProgress | None = None) -> CycleReport:
        """Walk from flagged runs to a promoted release, or to the reason why not; a killed cycle is taken up again."""
        cycle_id = self.store.cycles.open() or self._new_id()
        if self._engine is None or self.exams.watched is None:
            raise ConfigError("A cycle needs the agent: call loop.model(engine) and loop.watch(graph) first.")
        self.store.cycles.start(cycle_id, self._now())
        if (done := self.store.decisions.of_cycle(cycle_id, "promote")) is not None:  # it was killed right after that
            return self._report(cycle_id, "promoted", done.because, candidate=done.subject)
        dataset = self.curate(reviewer, cycle_id)
        if dataset is None and (waiting := self.pending(cycle_id)):
            return self._report(cycle_id, "waiting", f"{len(waiting)} proposals wait for review: `learnloop review`.")
        if dataset is None:
            return self._report(cycle_id, "nothing", self.lessons.nothing(cycle_id))
        if not any(case.suite == "target" for case in self.lessons.cases(dataset)):
            few = "There are too few corrections to keep some for the gate, so nothing was trained: collect more."
            return self._report(cycle_id, "stopped", few, dataset=dataset.version)
        if problems := self._problems(dataset):
            return self._report(cycle_id, "stopped", " ".join(problems), dataset=dataset.version)
        candidate = self.train(dataset, self.recipe, on_progress, cycle_id)
        card = self.evaluate(candidate, dataset, on_progress, cycle_id)
        outcome, because = self._ship(candidate, card, cycle_id)
        found = {"dataset": dataset.version, "candidate": candidate.release_id, "scorecard": card}
        return self._report(cycle_id, outcome, because, **found)

    def diff(self, one: str | None, other: str) -> ReleaseDiff:
        """Return how a release differs from another (default: the champion); NotFoundError says which is not there.

        Ids may be their beginnings.
        """
        return diff(self.store, self.lessons, self._release(one), self.store.releases.resolve(other))

    def remembered(self, release_id: str | None = None) -> tuple[Remembered, ...]:
        """Return how a release (default: the champion) does on each lesson that was shipped before it, oldest first."""
        return self.lessons.remembered(self._release(release_id), self.evaluator)

    @property
    def engine(self) -> Engine:
        """Return the engine that serves; raise ConfigError before `model` was called."""
        if self._engine is None:
            raise ConfigError("No engine serves yet: call loop.model(engine) first.")
        return self._engine

    @property
    def live(self) -> LiveModel:
        """Return the chat model that serves; raise ConfigError before `model` was called."""
        if self._live is None:
            raise ConfigError("No model serves yet: call loop.model(engine) first.")
        return self._live

    def close(self) -> None:
        """Store what is recorded and let go of the files."""
        for stop in self._tenders:
            stop()
        self._shadow.stop()
        if self._follower is not None:
            self._follower.stop()
        self._writer.close()
        self._stop_mirrors()
        self.store.close()

    def __enter__(self) -> Self:
        """Return the loop."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the loop."""
        self.close()

    def _serve(self, engine: Engine) -> LiveModel:
        from langgraph_learnloop.serving.live_model import LiveModel

        releases, rollouts, config = self.store.releases, self.store.rollouts, self.config
        find = lru_cache(maxsize=64)(lambda release_id: still_there(releases.get(release_id)))  # they never change
        router = Router(rollouts, releases, config.poll_seconds, keep=config.threads == "keep")
        self._live = LiveModel(
            engine=engine,
            router=router,
            model_name=Path(engine.base_model).name,
            find_release=find,
            shadow=self._shadow,
        )
        if self._follower is not None:
            self._follower.stop()
        self._follower = Follower(
            engine, router, rollouts, find, releases.probes, config.poll_seconds, config.keep_warm, self._now
        )
        self._follower.start()
        return self._live

    @cached_property
    def _shadow(self) -> ShadowTraffic:
        return ShadowTraffic(self.store.rollouts.add_shadow, self._now)

    def _release(self, release_id: str | None) -> Release:
        """Return the release of an id or of its beginning, the champion for None."""
        return self.champion if release_id is None else self.store.releases.resolve(release_id)

    def _load(self, *releases: Release) -> None:
        """Have the engine hold releases, beside what it holds; raise EngineError for one that was removed."""
        for release in releases:
            self.engine.load(still_there(release))

    def _passed(self, release_id: str) -> tuple[Release, Scorecard]:
        """Return a release that may be put in service, with its scorecard; else raise IllegalMoveError."""
        release = still_there(self.store.releases.resolve(release_id))
        return release, self.rolling.check(release, self.store.scorecards.of(release.release_id))

    def _swap(self, release: Release, flip: Callable[[], Flipped]) -> Flipped:
        """Load a release beside the others and ask it what it was asked before; then `flip`, and return what it did."""
        return swap(self.engine, release, lambda: agree(release.release_id, self.exams.probe(release)), flip)

    def _tidy_after(self, release: Release) -> None:
        """Make room after a promotion; what prevents that is logged, for the promotion is done."""
        try:
            self.tidy()
        except (LearnLoopError, OSError) as error:
            self._decide("tidy:failed", release.release_id, str(error))

    def _ship(self, candidate: Release, card: Scorecard, cycle_id: str) -> tuple[CycleOutcome, str]:
        """Do with a candidate what its examination and the settings say; return the cycle's outcome, and why."""
        if not card.passed:
            return "stopped", card.because
        there = self.store.rollouts.open()
        if there is not None and there.candidate != candidate.release_id:
            return (
                "waiting",
                f"The rollout of {there.candidate} is still open; when it has ended, go on with this cycle.",
            )
        if self.config.after_gate == "promote" and self.config.autonomy != "manual":
            self.promote(candidate.release_id, cycle_id)
            return "promoted", card.because
        if there is None:  # else it was begun by a process that was killed then
            self.rollout(candidate.release_id)
        return "rolling", card.because

    def _in_service(self) -> set[str]:
        """Return the releases that new threads may get."""
        rollout = self.store.rollouts.open()
        return {self.store.releases.champion(), *([rollout.candidate] if rollout is not None else [])}

    def _report(self, cycle_id: str, outcome: CycleOutcome, because: str, **found: Any) -> CycleReport:
        report = CycleReport(cycle_id=cycle_id, outcome=outcome, because=because, **found)
        self.store.cycles.finish(report)
        return report
