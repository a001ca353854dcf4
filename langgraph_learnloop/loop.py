"""The corridor: the verbs of the loop in order, and what comes next. How each is done is in the rooms.

    watch -> feedback -> flagged -> curate -> train -> evaluate -> promote -> rollback

`cycle` walks it from `curate` to `promote`. Every stage is named by what went in (a dataset by its examples, a job by
base, data and recipe, a result by release and case), so a cycle that was killed is simply walked again: what was done
is found, not repeated. Every choice is an entry of `log()`.

`recording.py` holds the verbs from `watch` to `flagged`, `learning.py` those until there is a candidate; what examines,
ships and takes back is here.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    EngineError,
    IllegalMoveError,
    LearnLoopError,
    NotFoundError,
)
from langgraph_learnloop.jobs import still_there
from langgraph_learnloop.learning import Learning, Parts
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    CycleOutcome,
    CycleReport,
    Dataset,
    Generation,
    NodeCredit,
    Probe,
    Release,
    Remembered,
    Rollout,
    RolloutMode,
    Sampling,
    Scorecard,
)
from langgraph_learnloop.releases import ReleaseDiff, diff
from langgraph_learnloop.rolling import behind_in_words, tending
from langgraph_learnloop.serving.shadow_traffic import ShadowTraffic

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.findings import Report
    from langgraph_learnloop.evaluation.planning import GatePlan
    from langgraph_learnloop.evidence import Metric
    from langgraph_learnloop.ports import Engine, Evaluator, OnProgress, Operator, Replayer, Reviewer, Trainer
    from langgraph_learnloop.serving.live_model import LiveModel
    from langgraph_learnloop.serving.rollouts import Evidence

_PROBE_TOKENS = 32
"""Tokens of a probe's answer: enough to tell releases apart."""
_log = logging.getLogger(__name__)


class LearnLoop(Learning):
    """Make one agent better, safely.

    `store` is a file or a database URL; nothing has to be started. Parts that are not given are the defaults: the
    trainer runs TRL + PEFT (Unsloth with a GPU) in a subprocess, the reviewer approves what passes the checks, the
    evaluator compares tool calls, the replayer asks the cases of an examination in this process. The operator is told
    what is decided of releases; the metric says what makes a thread of a rollout a bad one (default: a flagged run).
    """

    def __init__(
        self,
        store: str | Path = "learnloop.db",
        agent: str | None = None,
        *,
        config: LoopConfig | None = None,
        policy: Policy | None = None,
        trainer: Trainer | None = None,
        reviewer: Reviewer | None = None,
        evaluator: Evaluator | None = None,
        replayer: Replayer | None = None,
        operator: Operator | None = None,
        rollout_metric: Metric | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Open the store, making it if need be; raise StoreError or ConfigError with the way out."""
        super().__init__(
            store,
            agent,
            config,
            policy,
            now,
            new_id,
            Parts(trainer, reviewer, evaluator, replayer, operator, rollout_metric),
        )
        self._engine: Engine | None = None
        self._live: LiveModel | None = None
        self._shadow = ShadowTraffic(self.store.rollouts.add_shadow, now)
        self._tenders: list[Callable[[], None]] = []

    def model(self, engine: Engine) -> LiveModel:
        """Return a chat model whose release can be swapped while it serves; the bare base is its first champion."""
        from langgraph_learnloop.serving.live_model import LiveModel
        from langgraph_learnloop.serving.router import Router

        self._engine = engine
        with suppress(NotFoundError):
            engine.load(still_there(self.champion))
            return self._serve(engine, LiveModel, Router)
        base = Release(base_model=engine.base_model, sampling=self.config.sampling, made_at=self._now())
        self.store.releases.add(base)
        engine.load(base)
        self._point(base.release_id, "It is the base model, the first to serve.")
        return self._serve(engine, LiveModel, Router)

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
        if dataset is None and candidate.dataset is None:
            raise DataError(
                f"The release {candidate.release_id!r} learned from no dataset: name the one whose held-out cases are "
                "asked, as loop.evaluate(release, dataset)."
            )
        examined = dataset or self.store.datasets.get(str(candidate.dataset))
        for release in (self.champion, candidate):
            self.engine.load(still_there(release))
        card = self.exams.card(self.champion, candidate, examined, self._now(), on_progress, cases)
        self.store.scorecards.add(card)
        if card.passed:
            self._keep_probes(candidate)
        elif candidate.release_id not in self._in_service():
            self.engine.unload(candidate.release_id)  # nobody will ask it
        self._decide("gate:passed" if card.passed else "gate:stopped", candidate.release_id, card.because, cycle_id)
        return card

    def plan_evaluation(self, dataset: Dataset) -> tuple[GatePlan, ...]:
        """Say beforehand what each gate could show on a dataset's held-out cases, or how many are missing."""
        with suppress(NotFoundError):
            return self.exams.plan(dataset, self.champion)
        return self.exams.plan(dataset, None)

    def examine(self, release_id: str, cases: Sequence[Case]) -> tuple[CaseResult, ...]:
        """Return how a release does on cases of your own; nothing is compared and nothing stored."""
        release = self.store.releases.resolve(release_id)
        self.engine.load(still_there(release))
        return self.exams.here.run(release.release_id, cases)

    def replay(self, run: str, release_id: str | None = None, *, step: str | None = None) -> tuple[Case, CaseResult]:
        """Run a recorded run again with a release (default: the champion); return what happened then, and now.

        It starts at a model call (default: the first) from the run's own checkpoint, where the graph has a saver; its
        tools answer from the recording, and what was not recorded ends it. Nothing is written in the run's thread. What
        happened then is the case's `reference`; the result's score "same" says whether it happened again.
        """
        self.flush()
        release = self.store.releases.resolve(release_id) if release_id else self.champion
        self.engine.load(still_there(release))
        return self.exams.replay(run, release, step)

    def credit(self, candidate: str, cases: Sequence[Case]) -> tuple[NodeCredit, ...]:
        """Return which nodes mend the cases when the candidate answers in them and the champion in all others."""
        release = self.store.releases.resolve(candidate)
        for one in (self.champion, release):
            self.engine.load(still_there(one))
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
        from langgraph_learnloop.serving.swap import swap

        if (there := self.champion).release_id == self.store.releases.resolve(release_id).release_id:
            return there  # as after a process that was killed right then
        release, card = self._passed(release_id)
        swap(
            self.engine,
            release,
            lambda: self._probe(release),
            lambda: self._point(release.release_id, card.because, "promote", cycle_id, actor, card.champion),
        )
        if behind := self.rolling.behind(release.release_id, self.config.ack_seconds):
            self._decide("promote:partial", release.release_id, behind_in_words(behind, release.release_id), cycle_id)
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
        from langgraph_learnloop.serving.swap import swap

        release, card = self._passed(release_id)
        begun: list[Rollout] = []
        swap(
            self.engine,
            release,
            lambda: self._probe(release),
            lambda: begun.append(self.rolling.start(self._new_id(), release, card, actor, mode, percent)),
        )
        return begun[0]

    def roll_on(self) -> tuple[Rollout, Evidence | None]:
        """Look at what the threads of the rollout under way say, and move it on, or back, as the settings allow."""
        self.flush()
        return self.rolling.step()

    def tend(self, seconds: float = 60.0) -> Callable[[], None]:
        """Look after rollouts in a thread, as `roll_on` does, every so many seconds; return what ends that.

        One process is enough; several do no harm. Without it call `roll_on` from a timer, or `learnloop rollout watch`.
        """
        stop = tending(self.roll_on, seconds)
        self._tenders.append(stop)
        return stop

    def rollback(self, because: str = "Somebody asked for it.", actor: str = "learnloop") -> Release:
        """End the rollout under way; without one, make the champion before this one the champion again.

        Threads that began with what is taken back get the champion with their next turn. Raise NotFoundError when there
        is nothing to go back to.
        """
        if self.store.rollouts.open() is not None:
            self.rolling.back(because, actor)
            return self.champion
        bad, release = self.store.releases.champion(), self.store.releases.get(self.store.releases.previous())
        still_there(release)
        if self._engine is not None:
            self._engine.load(release)
        self._point(release.release_id, because, "rollback", actor=actor, instead_of=bad, refused=bad)
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
        first = self.store.releases.resolve(one) if one is not None else self.champion
        return diff(self.store, self.lessons, first, self.store.releases.resolve(other))

    def remembered(self, release_id: str | None = None) -> tuple[Remembered, ...]:
        """Return how a release (default: the champion) does on each lesson that was shipped before it, oldest first."""
        release = self.store.releases.resolve(release_id) if release_id else self.champion
        return self.lessons.remembered(release, self.evaluator)

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
        self.showing.stop()
        self.store.close()

    def __enter__(self) -> Self:
        """Return the loop."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loop."""
        self.close()

    def _serve(self, engine: Engine, live_model: type[LiveModel], router: type[Any]) -> LiveModel:
        from langgraph_learnloop.serving.follower import Follower

        releases = self.store.releases
        find = lru_cache(maxsize=64)(lambda release_id: still_there(releases.get(release_id)))  # they never change
        self._live = live_model(
            engine=engine,
            router=router(self.store.rollouts, releases, self.config.poll_seconds, keep=self.config.threads == "keep"),
            model_name=Path(engine.base_model).name,
            find_release=find,
            shadow=self._shadow,
        )
        if self._follower is not None:
            self._follower.stop()
        self._follower = Follower(
            engine,
            self._live.router,
            self.store.rollouts,
            find,
            releases.probes,
            self.config.poll_seconds,
            self.config.keep_warm,
            self._now,
        )
        self._follower.start()
        return self._live

    def _passed(self, release_id: str) -> tuple[Release, Scorecard]:
        """Return a release that may be put in service, with its scorecard; else raise IllegalMoveError."""
        release = still_there(self.store.releases.resolve(release_id))
        card = self.store.scorecards.of(release.release_id)
        self.rolling.check(release, card)
        if card is None:  # `check` refused it; this tells mypy
            raise IllegalMoveError(f"Release {release.release_id!r} was never examined: call loop.evaluate(release).")
        return release, card

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

    def _keep_probes(self, release: Release) -> None:
        """Keep what a release answers to a few prompts, for every process that is to serve it.

        A release without adapter has nothing that a server could mistake; an answer that is another one the next time
        proves nothing.
        """
        if release.adapter is None:
            return
        try:
            twice = [[self._answered(release, case) for _ in range(2)] for case in self.exams.telling(release)]
            probes = [first for first, again in twice if first.answer.alike(again.answer)]
        except EngineError as error:
            _log.warning("No probes are kept of %s: %s", release.release_id, error)
            return
        self.store.releases.keep_probes(release.release_id, probes)

    def _answered(self, release: Release, case: Case) -> Probe:
        sampling = Sampling(max_tokens=min(_PROBE_TOKENS, release.sampling.max_tokens))
        request = Generation(release_id=release.release_id, messages=case.messages, sampling=sampling)
        return Probe(request=request, answer=self.engine.generate(request).message)

    def _probe(self, release: Release) -> None:
        from langgraph_learnloop.serving.swap import agree

        agree(release.release_id, self.exams.probe(release))

    def _point(
        self,
        release_id: str,
        because: str,
        action: str = "serve",
        cycle_id: str | None = None,
        actor: str = "learnloop",
        instead_of: str | None = None,
        refused: str | None = None,
    ) -> None:
        decision = self.store.releases.point(
            release_id, because, actor, instead_of, action=action, cycle_id=cycle_id, refused=refused
        )
        if decision is not None:
            self._tell(decision)

    def _report(self, cycle_id: str, outcome: Any, because: str, **found: Any) -> CycleReport:
        report = CycleReport(cycle_id=cycle_id, outcome=outcome, because=because, **found)
        self.store.cycles.finish(report)
        return report
