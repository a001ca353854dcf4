"""The corridor: the verbs of the loop in order, and what comes next. How each is done is in the rooms.

    watch -> feedback -> flagged -> curate -> train -> evaluate -> promote -> rollback

`cycle` walks it from `curate` to `promote`. Every stage is named by what went in (a dataset by its examples, a job by
base, data and recipe, a result by release and case), so a cycle that was killed is simply walked again: what was done
is found, not repeated. Every choice is an entry of `log()`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langgraph_learnloop.capture.attach import Everywhere, watch
from langgraph_learnloop.capture.policy import Policy, policy_of
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Health, Writer
from langgraph_learnloop.config import LoopConfig, load_config, made, named
from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    EngineError,
    IllegalMoveError,
    LearnLoopError,
    NotFoundError,
)
from langgraph_learnloop.exams import Exams, Watched
from langgraph_learnloop.hearing import Hearing
from langgraph_learnloop.jobs import still_there
from langgraph_learnloop.lessons import Lessons
from langgraph_learnloop.mirrors import Witness
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    CycleOutcome,
    CycleReport,
    Dataset,
    Decision,
    Example,
    Feedback,
    Flag,
    FlagState,
    Generation,
    Job,
    Message,
    NodeCredit,
    Plan,
    Probe,
    Proposal,
    Recipe,
    Release,
    Remembered,
    Rollout,
    RolloutMode,
    Run,
    Sampling,
    Scorecard,
    TrainingResult,
    Trial,
    Verdict,
)
from langgraph_learnloop.releases import ReleaseDiff, diff, drafted
from langgraph_learnloop.rolling import Rolling, behind_in_words, tending
from langgraph_learnloop.serving.shadow import Shadow
from langgraph_learnloop.store.opened import open_store
from langgraph_learnloop.tidying import Tidied, Tidying

if TYPE_CHECKING:
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool
    from langgraph.graph.state import CompiledStateGraph

    from langgraph_learnloop.evaluation.findings import Report
    from langgraph_learnloop.evaluation.planning import GatePlan
    from langgraph_learnloop.evidence import Metric
    from langgraph_learnloop.importing import Heard, Imported, Importing
    from langgraph_learnloop.mirror_process import MirrorProcess
    from langgraph_learnloop.mirroring import Mirroring
    from langgraph_learnloop.mirrors import History, Mirror
    from langgraph_learnloop.ports import Engine, Evaluator, OnProgress, Operator, Replayer, Reviewer, Trainer
    from langgraph_learnloop.serving.canary import Evidence
    from langgraph_learnloop.serving.follower import Follower
    from langgraph_learnloop.serving.live_model import LiveModel

_PROBE_TOKENS = 32
"""Tokens of a probe's answer: enough to tell releases apart."""
_log = logging.getLogger(__name__)

Graph = TypeVar("Graph", bound="CompiledStateGraph[Any, Any, Any, Any]")


def _ignore(progress: object) -> None:
    """Take progress that nobody asked for."""


def _operator(name: str | None) -> Operator | None:
    """Return the operator of the settings, if there is one."""
    if name is None:
        return None
    operator: Operator = made(named(name, "The operator"), "tell")
    return operator


class LearnLoop:
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
        self.config = config or load_config(agent=agent)
        self.agent = agent or self.config.agent
        self.store = open_store(store, self.config.folder)
        self._trainer = trainer
        self._reviewer = reviewer
        self._evaluator = evaluator
        self._operator = operator or _operator(self.config.operator)
        self._now = now
        self._new_id = new_id
        self.policy = policy or policy_of(self.config)
        self._hearing = Hearing(self.store, self.policy, self.config.flag_below, now)
        self._writer = Writer(
            self.store.runs,
            self.config.queue_size,
            self._flag_new,
            policy=self.policy,
            spill=self.store.folder / "spill",
        )
        self.recorder = Recorder(self._writer, self.agent)
        self._everywhere: Everywhere | None = None
        self._on_demand: Recorder | None = None
        self.lessons = Lessons(self.store, self.config, self.agent, now)
        self.rolling = Rolling(self.store, self.config, self.agent, now, self._tell, rollout_metric)
        self._shadow = Shadow(self.store.rollouts.add_shadow, now)
        self.tidying = Tidying(self.store, self.rolling.servers, now, self._log_tidy)
        self._follower: Follower | None = None
        self.exams = Exams(self.store, self.config, self.policy, self.lessons, lambda: self.evaluator, replayer)
        self._engine: Engine | None = None
        self._live: LiveModel | None = None
        self._tenders: list[Callable[[], None]] = []
        self._mirrors: list[Mirroring] = []
        self._beside: MirrorProcess | None = None

    # -- watch ---------------------------------------------------------------------------------------------------------

    def watch(
        self,
        graph: Graph,
        *,
        stop_before: Sequence[str] | None = None,
        pure: Collection[str] = (),
        context: Any = None,
    ) -> Graph:
        """Return the graph, watched; it is the one that candidates are examined with.

        No replay acts: tools answer from the recording, and nodes named in `stop_before` end it. Tools named in `pure`
        act on nothing outside of the graph, so that a replay may run them. `context` is the runtime context that nodes
        get in a replay.
        """
        self._show()
        self.exams.watched = Watched(graph, stop_before, pure, context)
        self.exams.__dict__.pop("here", None)
        return watch(graph, self.recorder)

    def recordable(
        self, tools: Sequence[BaseTool | Callable[..., Any]], *, pure: Collection[str] = ()
    ) -> list[BaseTool]:
        """Return tools that answer from the recording in a replay and work as ever elsewhere.

        It is for tools that nodes run by hand: those of a `ToolNode`, and so of `create_agent`, need it not. Tools
        named in `pure` act on nothing outside of the graph, and run in replays too.
        """
        from langgraph_learnloop.evaluation.recording import recordable

        return recordable(tools, pure=pure)

    def recorded_answer(self, call: Mapping[str, Any], tool: BaseTool | None = None) -> ToolMessage | None:
        """Return a tool call's recorded answer when the caller is part of a replay; None when the tool is to run."""
        from langgraph_learnloop.evaluation.replaying import REPLAYING

        replaying = REPLAYING.get()
        return None if replaying is None else replaying.recorded(call, tool)

    def capture_all(self) -> Everywhere:
        """Record every LangGraph and LangChain run of this process; call `off()` on what is returned to stop."""
        self._show()
        if self._everywhere is None:
            self._everywhere = Everywhere(self.recorder)
        self._everywhere.on()
        return self._everywhere

    def want(self) -> Callable[[], None]:
        """Return a function that, called inside a run of any graph, has that run recorded; others are not.

        It is how a node or a middleware records the graph it is part of, from the graph's first event on.
        """
        if self._on_demand is None:
            self._on_demand = Recorder(self._writer, self.agent, only_wanted=True)
            self._on_demand.witness = self.recorder.witness
            Everywhere(self._on_demand)
        return self._on_demand.want

    def mirror(self, mirror: Mirror, *, everything: bool = False) -> Mirroring:
        """Show what is stored in another place too, from now on and with `everything` all of it, in the background.

        Nothing waits for that, and nothing is lost while the other place is away. A thread of this process tells it;
        with the setting `mirror` in place of this, a process of its own does, which takes nothing from the agent's.
        """
        mirroring = self.mirroring(mirror, everything=everything)
        self._mirrors.append(mirroring)
        self._ask(mirror)
        mirroring.start()
        return mirroring

    def mirroring(
        self, mirror: Mirror | None = None, *, everything: bool = False, holder: str | None = None
    ) -> Mirroring:
        """Return what tells a mirror (default: that of the settings) what is stored; `step` does it once, here."""
        from langgraph_learnloop.mirroring import Mirroring

        told = mirror or self._configured_mirror
        return Mirroring(self.store, told, self.agent, self.exams.asked, everything=everything, holder=holder)

    def trace_url(self, run: Run | str) -> str:
        """Return the address at which a mirror shows a run; raise ConfigError when there is no mirror."""
        mirror = self._mirrors[0].mirror if self._mirrors else self._configured_mirror
        return mirror.where(self.store.runs.resolve(run) if isinstance(run, str) else run)

    def current_run(self) -> str | None:
        """Return the id of the run that the calling node or tool belongs to; None outside of a recorded run."""
        found = next((run_id for recorder in self._recorders if (run_id := recorder.current_run())), None)
        return None if found is None else str(found)

    def flag(self, reason: str) -> None:
        """Say inside a node or tool that the run it belongs to went wrong, with the reason in words."""
        for recorder in self._recorders:
            recorder.flag(reason)

    def is_flagged(self) -> bool:
        """Return whether the run that the calling node belongs to was flagged by `flag`."""
        return any(recorder.is_flagged() for recorder in self._recorders)

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

    def feedback(
        self,
        run: str | None = None,
        thread: str | None = None,
        *,
        score: float | None = None,
        text: str | None = None,
        categories: Sequence[str] = (),
        correction: object = None,
        by: str | None = None,
        step: str | None = None,
        feedback_id: str | None = None,
    ) -> Feedback:
        """Say what somebody thought of a run, or of a thread's last run; it is stored when this returns.

        `correction` is the right answer as text, or the right tool call as {"tool": name, "args": {...}} (or a list).
        Raise DataError when it cannot be used and NotFoundError when there is no such run.
        """
        about = self._run(run, thread)
        said = self._hearing.make(
            about,
            score=score,
            text=text,
            categories=categories,
            correction=correction,
            by=by,
            step_id=step,
            feedback_id=feedback_id,
        )
        self._hearing.keep(about, said)
        return said

    def import_runs(
        self,
        history: History,
        since: datetime,
        until: datetime | None = None,
        on_progress: Callable[[Imported | Heard], object] = _ignore,
    ) -> Imported:
        """Store the runs that another tracer saw, from a time on, as if they had been recorded; none of them twice."""
        return self._importing.runs(history, since, until or self._now(), on_progress)

    def import_remarks(
        self, history: History, since: datetime, on_progress: Callable[[Imported | Heard], object] = _ignore
    ) -> Heard:
        """Store what people said of runs in another place since a time, as feedback; nothing twice."""
        return self._importing.remarks(history, since, on_progress)

    def flagged(self, state: FlagState | None = "open") -> tuple[Flag, ...]:
        """Return what went wrong, worst first."""
        self.flush()
        return self.store.flags.list(state, self.agent)

    def follow(self) -> None:
        """Have this process follow the registry now; every process does so each `poll_seconds` by itself."""
        if self._follower is not None:
            self._follower.step()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every ended run is stored; return False if that takes longer than `timeout` seconds."""
        return self._writer.flush(timeout)

    def health(self) -> Health:
        """Return the recorder's counters."""
        return self._writer.health()

    # -- learn ---------------------------------------------------------------------------------------------------------

    def remember(self, examples: Sequence[Example]) -> Dataset:
        """Store what the model could do before, to be replayed in training and kept by the gate.

        They are what a past dataset, or your own list of good conversations, holds; a part of them that is marked
        split "heldout" is asked by the gate, and never trained on.
        """
        return self.lessons.remember(examples)

    def curate(self, reviewer: Reviewer | None = None, cycle_id: str | None = None) -> Dataset | None:
        """Turn flagged runs into a new dataset version; None when review is still open or nothing was approved.

        The curation is durable: a killed process goes on where it was when this is called with the same `cycle_id`.
        """
        from langgraph_learnloop.curation.review import ApproveChecked

        thread = cycle_id or self._new_id()
        self.flush()
        waiting = self.lessons.start(thread)
        if waiting:
            waiting = self.review((reviewer or self._reviewer or ApproveChecked()).review(waiting), thread)
        return None if waiting else self.lessons.dataset(thread, self.recipe.replay)

    def pending(self, cycle_id: str | None = None) -> tuple[Proposal, ...]:
        """Return the proposals that wait for review in a cycle (default: the open one)."""
        thread = cycle_id or self.store.cycles.open()
        return self.lessons.pending(thread) if thread else ()

    def review(self, verdicts: Sequence[Verdict], cycle_id: str | None = None) -> tuple[Proposal, ...]:
        """Decide on proposals and return those that still wait; a bad verdict is a DataError and decides nothing."""
        thread = cycle_id or self.store.cycles.open()
        if thread is None:
            raise NotFoundError("No cycle is open, so nothing waits for review; start one with `learnloop cycle`.")
        return self.lessons.review(verdicts, thread)

    def train(
        self,
        dataset: Dataset,
        recipe: Recipe | None = None,
        on_progress: OnProgress | None = None,
        cycle_id: str | None = None,
    ) -> Release:
        """Train a LoRA adapter in a process of its own and return the candidate; TrainingError holds the reason."""
        champion, job = self.champion, self._job(dataset, recipe)
        with self.tidying.under_way(job):
            result = self.trainer.train(job, on_progress or _ignore)
            return self._candidate(champion, dataset, job, result, cycle_id)

    def draft(
        self,
        *,
        instructions: str | None = None,
        shots: Sequence[Message] | None = None,
        knowledge: Sequence[str] | None = None,
        model: str | None = None,
        sampling: Sampling | None = None,
        dataset: Dataset | None = None,
        because: str = "",
        actor: str = "learnloop",
    ) -> Release:
        """Return a candidate that is the champion with other words, sampling or, at a provider, another model.

        What is not given stays as the champion has it; empty takes it away. `dataset` is what the words came from, if
        they did. Nothing serves before it passed: `evaluate(candidate, dataset)`, then `promote` or `rollout`. Raise
        DataError, with the way out, for words that cannot be used.
        """
        words = {"instructions": instructions, "shots": shots, "knowledge": knowledge}
        other = {"model": model, "sampling": sampling, "dataset": dataset}
        candidate = drafted(self.champion, **words, **other, now=self._now())  # type: ignore[arg-type]
        with suppress(NotFoundError):
            return self.store.releases.get(candidate.release_id)
        self.store.releases.add(candidate)
        given = ", ".join(name for name, value in {**words, **other}.items() if value is not None)
        why = because or f"The champion {candidate.parent!r} with other {given}."
        self._decide("draft", candidate.release_id, why, actor=actor)
        return candidate

    def plan(self, dataset: Dataset, recipe: Recipe | None = None) -> Plan:
        """Say what training would take, after trying a few steps; TrainingError or DataError say why it cannot be."""
        trainer = self.trainer
        if not hasattr(trainer, "plan"):
            raise ConfigError(f"{type(trainer).__name__} does not plan its jobs: train without a plan.")
        plan: Plan = trainer.plan(self._job(dataset, recipe))
        return plan.model_copy(update={"problems": self._problems(dataset, recipe)})

    def search(
        self,
        dataset: Dataset,
        *,
        trials: int = 10,
        minutes: float | None = None,
        on_trial: Callable[[Trial], object] = _ignore,
    ) -> tuple[Trial, ...]:
        """Try recipes near the configured one on a part of a dataset; return them, best first. Nothing else changes.

        A tenth of the training examples is kept aside to measure them; the held-out cases of the gate are not touched.
        """
        from langgraph_learnloop.improvement.lora.search import search

        part = self.lessons.with_validation(dataset)

        def train(recipe: Recipe) -> TrainingResult:
            job = self._job(part, recipe)
            with self.tidying.under_way(job):
                return self.trainer.train(job, _ignore)

        return search(self.config.recipe, train, trials=trials, minutes=minutes, on_trial=on_trial)

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

    def report(self, release_id: str) -> Report:
        """Return all there is to show of a release's latest examination; NotFoundError when there was none."""
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

    def tidy(
        self, gb: float | None = None, dry_run: bool = False, *, days: float = 30.0, actor: str = "learnloop"
    ) -> tuple[Tidied, ...]:
        """Remove adapters that nobody needs until all of them take at most `gb` gigabytes; return what was removed.

        The least needed goes first: what no release names, then stopped candidates, then former champions, each time
        the oldest. What serves, may serve again soon, or is asked for by a thread with a run in the last `days` stays,
        whatever it takes. `gb` is 10^9 bytes (default: `adapters_gb` of the settings).
        """
        self.flush()
        return self.tidying.tidy(self.config.adapters_gb if gb is None else gb, days, dry_run, actor)

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
            return self._report(cycle_id, "nothing", "No correction was approved, so there is nothing to learn.")
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

    # -- look ----------------------------------------------------------------------------------------------------------

    @property
    def champion(self) -> Release:
        """Return the release that new threads get; raise NotFoundError before there is one."""
        return self.store.releases.get(self.store.releases.champion())

    def diff(self, one: str | None, other: str) -> ReleaseDiff:
        """Return how a release differs from another (default: the champion); NotFoundError says which is not there.

        Ids may be their beginnings.
        """
        first = self.store.releases.resolve(one) if one is not None else self.champion
        return diff(self.store, self.lessons, first, self.store.releases.resolve(other))

    @property
    def recipe(self) -> Recipe:
        """Return how the next cycle trains: as configured, with more replay after candidates that forgot."""
        from langgraph_learnloop.improvement.replay import replay_ratio

        configured = self.config.recipe
        # Of cycles that have ended: a killed one must come to the same job when it is taken up again.
        cards = [report.scorecard for report in self.store.cycles.all() if report.scorecard is not None]
        ratio = replay_ratio(configured.replay, cards, self.config.retention_margin)
        return configured.model_copy(update={"replay": ratio})

    def remembered(self, release_id: str | None = None) -> tuple[Remembered, ...]:
        """Return how a release (default: the champion) does on each lesson that was shipped before it, oldest first."""
        release = self.store.releases.get(release_id) if release_id else self.champion
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

    @cached_property
    def trainer(self) -> Trainer:
        """Return whoever trains."""
        from langgraph_learnloop.improvement.lora.job import LocalTrainer

        return self._trainer or LocalTrainer(self.config.train_python)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Return whoever judges answers."""
        from langgraph_learnloop.evaluation.evaluators import ToolCallMatch

        return self._evaluator or ToolCallMatch()

    def runs(self, limit: int = 50) -> tuple[Run, ...]:
        """Return the latest runs, newest first."""
        self.flush()
        return self.store.runs.recent(limit, self.agent)

    def log(self, limit: int | None = None) -> tuple[Decision, ...]:
        """Return what was decided, oldest first."""
        return self.store.decisions.all(limit)

    def close(self) -> None:
        """Store what is recorded and let go of the files."""
        for stop in self._tenders:
            stop()
        self._shadow.stop()
        if self._follower is not None:
            self._follower.stop()
        self._writer.close()
        for mirroring in self._mirrors:
            mirroring.stop()
        if self._beside is not None:
            self._beside.stop()
        self.store.close()

    def __enter__(self) -> Self:
        """Return the loop."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loop."""
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Begin to tell the mirror of the settings, if there is one: in processes that run the agent."""
        if self.config.mirror is None or self._beside is not None:
            return
        from langgraph_learnloop.mirror_process import MirrorProcess

        self._ask(self._configured_mirror)
        self._beside = MirrorProcess(self.store, self._configured_mirror, self.config.mirror, self.agent)

    def _ask(self, mirror: Mirror) -> None:
        """Have the recorders ask a mirror which runs another tracer keeps a trace of, if it knows."""
        if isinstance(mirror, Witness):
            for recorder in self._recorders:
                recorder.witness = mirror

    @cached_property
    def _configured_mirror(self) -> Mirror:
        name = self.config.mirror
        if name is None:
            raise ConfigError("There is no mirror: call loop.mirror(...), or name one as `mirror` in learnloop.toml.")
        found: Mirror = made(named(name, "The mirror"), "send")
        return found

    @property
    def _recorders(self) -> list[Recorder]:
        return [self.recorder, *([self._on_demand] if self._on_demand is not None else [])]

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

    def _flag_new(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._hearing.flag(run)  # nobody can have said anything of it before it was stored

    @cached_property
    def _importing(self) -> Importing:
        from langgraph_learnloop.importing import Importing

        return Importing(self.store, self.policy, self.agent, self._hearing)

    def _run(self, run_id: str | None, thread_id: str | None) -> Run:
        if (run_id is None) == (thread_id is None):
            raise ConfigError("Feedback needs a run id or a thread id, and not both: pass run= or thread=.")
        find: Callable[[], Run] = (
            (lambda: self.store.runs.run(run_id)) if run_id is not None
            else (lambda: self.store.runs.last_of_thread(str(thread_id)))
        )  # fmt: skip
        if thread_id is None:
            with suppress(NotFoundError):
                return find()
        self._writer.rescue(run_id, thread_id)
        self.flush()  # the run may have ended a moment ago
        return find()

    def _job(self, dataset: Dataset, recipe: Recipe | None) -> Job:
        from langgraph_learnloop.improvement.lora.job import make_job

        champion, config = self.champion, self.config
        return make_job(
            champion.base_model,
            dataset.path,
            recipe or config.recipe,
            self.lessons.folder("jobs"),
            champion.adapter if config.continue_adapter else None,
            minutes=config.train_minutes,
        )

    def _candidate(
        self, champion: Release, dataset: Dataset, job: Job, result: TrainingResult, cycle_id: str | None
    ) -> Release:
        """Return the release of a finished job, stored and logged."""
        candidate = Release(
            base_model=result.model or champion.base_model,
            adapter=result.adapter,
            adapter_sha256=result.adapter_sha256,
            instructions=champion.instructions,
            shots=champion.shots,
            knowledge=champion.knowledge,
            sampling=champion.sampling,
            dataset=dataset.version,
            parent=champion.release_id,
            recipe=job.recipe,
            made_at=self._now(),
        )
        with suppress(NotFoundError):
            return self.store.releases.get(candidate.release_id)  # made by a walk that was interrupted
        self.store.releases.add(candidate)
        why = f"{result.examples} examples, {result.steps} steps, {result.seconds:.0f} s with {result.engine}."
        self._decide("train", candidate.release_id, why, cycle_id)
        return candidate

    def _problems(self, dataset: Dataset, recipe: Recipe | None = None) -> tuple[str, ...]:
        from langgraph_learnloop.examples import problems, read_examples

        examples = read_examples(dataset.path)
        return problems(examples, recipe or self.config.recipe, self.config.least_corrections)

    def _passed(self, release_id: str) -> tuple[Release, Scorecard]:
        """Return a release that may be put in service, with its scorecard; else raise IllegalMoveError."""
        release = still_there(self.store.releases.resolve(release_id))
        card = self.store.scorecards.of(release.release_id)
        self.rolling.check(release, card)
        if card is None:  # `check` refused it; this tells mypy
            raise IllegalMoveError(f"Release {release.release_id!r} was never examined: call loop.evaluate(release).")
        return release, card

    def _log_tidy(self, action: str, subject: str, because: str, actor: str) -> None:
        self._decide(action, subject, because, actor=actor)

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

    def _tell(self, decision: Decision) -> None:
        """Follow what was decided, then tell the operator."""
        self.follow()
        if self._operator is None:
            return
        try:
            self._operator.tell(decision)
        except Exception:  # noqa: BLE001 - the boundary of the user's code: what was decided holds all the same
            _log.exception("The operator could not be told of %s %s.", decision.action, decision.subject)

    def _decide(
        self, action: str, subject: str, because: str, cycle_id: str | None = None, actor: str = "learnloop"
    ) -> None:
        self._tell(
            self.store.decisions.append(
                action=action, subject=subject, because=because, actor=actor, cycle_id=cycle_id, now=self._now()
            )
        )

    def _report(self, cycle_id: str, outcome: Any, because: str, **found: Any) -> CycleReport:
        report = CycleReport(cycle_id=cycle_id, outcome=outcome, because=because, **found)
        self.store.cycles.finish(report)
        return report
