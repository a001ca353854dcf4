"""The loop's second half, until there is a candidate: what there is to learn, and who trains it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_learnloop.capture.attach import watch
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.config import LoopConfig, named_or
from langgraph_learnloop.errors import ConfigError, NotFoundError
from langgraph_learnloop.evidence import Metric
from langgraph_learnloop.examples import problems, read_examples
from langgraph_learnloop.exams import Exams, Watched
from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job
from langgraph_learnloop.improvement.lora.search import search
from langgraph_learnloop.improvement.replay import replay_ratio
from langgraph_learnloop.lessons import Lessons
from langgraph_learnloop.ports import Evaluator, OnProgress, Operator, Planner, Replayer, Reviewer, RunIndex, Trainer
from langgraph_learnloop.recording import Recording, ignore
from langgraph_learnloop.records import (
    Case,
    Dataset,
    Decision,
    Example,
    FlagState,
    Job,
    Message,
    Plan,
    Proposal,
    Recipe,
    Release,
    Sampling,
    Scorecard,
    Similar,
    TrainingResult,
    Trial,
    Verdict,
    Weakness,
)
from langgraph_learnloop.releases import drafted
from langgraph_learnloop.rolling import Rolling
from langgraph_learnloop.serving.follower import Follower
from langgraph_learnloop.similar import Embedding, SimilarRuns, index_of
from langgraph_learnloop.tidying import Tidied, Tidying

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langgraph.graph.state import CompiledStateGraph


_log = logging.getLogger(__name__)

Graph = TypeVar("Graph", bound="CompiledStateGraph[Any, Any, Any, Any]")


class Learning(Recording):
    """Learn from what was recorded: curate it, and make candidates of it."""

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
        index: RunIndex | None = None,
        embeddings: Embeddings | None = None,
        rollout_metric: Metric | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Open the store, making it if need be; raise StoreError or ConfigError with the way out."""
        super().__init__(store, agent, config, policy, now)
        self._new_id = new_id
        self.trainer: Trainer = trainer or LocalTrainer(self.config.train_python)
        """Whoever trains."""
        self._reviewer = reviewer
        self._operator: Operator | None = operator or named_or(self.config.operator, "The operator", "tell")
        self._index, self._embeddings = index, embeddings
        self._follower: Follower | None = None
        self.lessons = Lessons(self.store, self.config, self.agent, now)
        self.exams = Exams(self.store, self.config, self.policy, self.lessons, evaluator, replayer)
        self.rolling = Rolling(self.store, self.config, self.agent, now, self._tell, rollout_metric)
        self.tidying = Tidying(self.store, self.rolling.servers, now, self._decide)

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
        self._begin_mirror()
        self.exams.watch(Watched(graph, stop_before, pure, context))
        return watch(graph, self.recorder)

    def weaknesses(self, state: FlagState | None = "open") -> tuple[Weakness, ...]:
        """Return what flagged runs have in common, what spoiled most conversations first; each run is in one of them.

        None takes flags in every state. Raise DataError when the embeddings of the settings cannot be used.
        """
        self.flush()
        return self.lessons.weaknesses(state, self.embedding, self.agent)

    def similar(self, run: str, limit: int = 10, on_progress: Callable[[int], object] = ignore) -> tuple[Similar, ...]:
        """Return the agent's runs whose question is nearest to that of a run, the nearest first, flagged or not.

        Runs that the index does not have yet are brought in first; `on_progress` is told how many are left. Raise
        DataError for a run without a question, and StoreError when the index cannot be used.
        """
        self.flush()
        about = self.store.runs.resolve(run)
        index = self._index or named_or(self.config.index, "The index", "near")
        return SimilarRuns(self.store, index_of(index, self.store), self.embedding).near(about, limit, on_progress)

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
            result = self.trainer.train(job, on_progress or ignore)
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
        self._decide("draft", candidate.release_id, why, actor)
        return candidate

    def plan(self, dataset: Dataset, recipe: Recipe | None = None) -> Plan:
        """Say what training would take, after trying a few steps; TrainingError or DataError say why it cannot be."""
        trainer = self.trainer
        if not isinstance(trainer, Planner):
            raise ConfigError(f"{type(trainer).__name__} does not plan its jobs: train without a plan.")
        plan = trainer.plan(self._job(dataset, recipe))
        return plan.model_copy(update={"problems": self._problems(dataset, recipe)})

    def search(
        self,
        dataset: Dataset,
        *,
        trials: int = 10,
        minutes: float | None = None,
        on_trial: Callable[[Trial], object] = ignore,
    ) -> tuple[Trial, ...]:
        """Try recipes near the configured one on a part of a dataset; return them, best first. Nothing else changes.

        A tenth of the training examples is kept aside to measure them; the held-out cases of the gate are not touched.
        """
        part = self.lessons.with_validation(dataset)

        def train(recipe: Recipe) -> TrainingResult:
            job = self._job(part, recipe)
            with self.tidying.under_way(job):
                return self.trainer.train(job, ignore)

        return search(self.config.recipe, train, trials=trials, minutes=minutes, on_trial=on_trial)

    @property
    def recipe(self) -> Recipe:
        """Return how the next cycle trains: as configured, with more replay after candidates that forgot."""
        configured = self.config.recipe
        # Of cycles that have ended: a killed one must come to the same job when it is taken up again.
        cards = [report.scorecard for report in self.store.cycles.all() if report.scorecard is not None]
        ratio = replay_ratio(configured.replay, cards, self.config.retention_margin)
        return configured.model_copy(update={"replay": ratio})

    @property
    def embedding(self) -> Embedding:
        """Return what makes vectors of requests."""
        return Embedding(self._embeddings or named_or(self.config.embeddings, "The embeddings", "embed_documents"))

    @property
    def evaluator(self) -> Evaluator:
        """Return whoever judges answers."""
        return self.exams.evaluator

    @property
    def champion(self) -> Release:
        """Return the release that new threads get; raise NotFoundError before there is one."""
        return self.store.releases.get(self.store.releases.champion())

    def log(self, limit: int | None = None) -> tuple[Decision, ...]:
        """Return what was decided, oldest first."""
        return self.store.decisions.all(limit)

    def follow(self) -> None:
        """Have this process follow the registry now; every process does so each `poll_seconds` by itself."""
        if self._follower is not None:
            self._follower.step()

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

    def _asked(self, card: Scorecard) -> tuple[Case, ...]:
        return self.exams.asked(card)

    def _job(self, dataset: Dataset, recipe: Recipe | None) -> Job:
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
        learned = {
            "base_model": result.model or champion.base_model,
            "adapter": result.adapter,
            "adapter_sha256": result.adapter_sha256,
            "dataset": dataset.version,
            "parent": champion.release_id,
            "recipe": job.recipe,
            "made_at": self._now(),
        }
        candidate = champion.model_copy(update=learned)
        with suppress(NotFoundError):
            return self.store.releases.get(candidate.release_id)  # made by a walk that was interrupted
        self.store.releases.add(candidate)
        why = f"{result.examples} examples, {result.steps} steps, {result.seconds:.0f} s with {result.engine}."
        self._decide("train", candidate.release_id, why, cycle_id=cycle_id)
        return candidate

    def _problems(self, dataset: Dataset, recipe: Recipe | None = None) -> tuple[str, ...]:
        examples = read_examples(dataset.path)
        return problems(examples, recipe or self.config.recipe, self.config.least_corrections)

    def _decide(
        self, action: str, subject: str, because: str, actor: str = "learnloop", *, cycle_id: str | None = None
    ) -> None:
        self._tell(
            self.store.decisions.append(
                action=action, subject=subject, because=because, actor=actor, cycle_id=cycle_id, now=self._now()
            )
        )

    def _tell(self, decision: Decision | None) -> None:
        """Follow what was decided, then tell the operator; None is what changed nothing."""
        if decision is None:
            return
        self.follow()
        if self._operator is None:
            return
        try:
            self._operator.tell(decision)
        except Exception:  # noqa: BLE001 - the boundary of the user's code: what was decided holds all the same
            _log.exception("The operator could not be told of %s %s.", decision.action, decision.subject)
