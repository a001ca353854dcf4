"""How candidates are examined: which cases are asked, through which graph, and what the answers say.

`LearnLoop` holds one `Exams`; its verbs `evaluate`, `examine`, `replay`, `credit` and `report` end here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import ConfigError, EngineError, NotFoundError
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.evaluation.findings import Report, margins
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.suites import as_regression, read_suite, refuse_leaks
from langgraph_learnloop.lessons import Lessons
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    Dataset,
    Generation,
    Message,
    NodeCredit,
    Probe,
    Release,
    Sampling,
    Scorecard,
)
from langgraph_learnloop.serving.swap import same
from langgraph_learnloop.store.opened import Store

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.planning import GatePlan
    from langgraph_learnloop.evaluation.replay import GraphReplay
    from langgraph_learnloop.ports import Engine, Evaluator, OnProgress, Replayer

PROBES = 8
"""Cases that a release must answer as it did in its examination, before it serves."""
ASKED_AGAIN = 5
"""Known cases that a release is asked again, to see that the agent around it is still the one that was examined."""
_PROBE_TOKENS = 32
"""Tokens of a probe's answer: enough to tell releases apart."""
UNJUDGED = 50
"""Results without a verdict that a scorecard keeps, on each side."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watched:
    """The agent that candidates are examined with."""

    graph: Any
    """The compiled graph."""
    stop_before: Sequence[str] | None
    """Nodes that act on the world, at which a replay ends."""
    pure: Collection[str]
    """Tools that act on nothing, so that a replay may run them."""
    context: Any
    """Runtime context of the graph's nodes in a replay."""


class Exams:
    """Examine releases of one agent, in its store."""

    def __init__(
        self,
        store: Store,
        config: LoopConfig,
        policy: Policy,
        lessons: Lessons,
        evaluator: Evaluator | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        """Work on an open store; without an evaluator tool calls are compared, without a replayer this process asks."""
        self._store = store
        self._config = config
        self._policy = policy
        self._lessons = lessons
        self.evaluator = evaluator or ToolCallMatch()
        """Whoever judges answers."""
        self._elsewhere = replayer
        self.watched: Watched | None = None
        """The agent; None before it is watched."""

    def watch(self, agent: Watched) -> None:
        """Examine with this agent from now on."""
        self.watched = agent
        self.__dict__.pop("here", None)

    def cases(self, dataset: Dataset, more: Sequence[Case] = ()) -> tuple[Case, ...]:
        """Return what candidates are asked: the dataset's held-out cases, the ratchet, and the user's own suites.

        What an earlier lesson repaired is no target any more but a regression suite, for good. Raise DataError when a
        training example leaked into the cases.
        """
        its_own = {case.case_id: case for case in self._lessons.cases(dataset)}
        lessons = self._lessons.shipped(dataset)
        repaired = {case.case_id: case for one in lessons for case in as_regression(one.new, one.version)}
        added = [case for case_id, case in repaired.items() if case_id not in its_own]
        # A request can be in several suites: the same case counts in each.
        added += [*(case for path in self._config.suites for case in read_suite(path)), *more]
        if added:  # the dataset's own cases were held against its examples when they were read
            refuse_leaks(added, self._lessons.examples(dataset))
        return (*(repaired.get(case_id, case) for case_id, case in its_own.items()), *added)

    def results(
        self,
        release: Release,
        cases: Sequence[Case],
        on_progress: OnProgress | None = None,
        enough: Callable[[CaseResult], object] | None = None,
        *,
        afresh: bool = False,
    ) -> tuple[CaseResult, ...]:
        """Return how a release does on cases; what is known from before is not asked again, if it still holds.

        Asked afresh, everything is: what a call takes is only to be compared with what another takes on the same day.
        """
        from langgraph_learnloop.evaluation.paired import shuffled

        order = shuffled(cases)
        if afresh:
            self._store.scorecards.forget_results(release.release_id, self.evaluator.name)
        known = self._known(release.release_id)
        self._check(release, [case for case in order if case.case_id in known], known)
        return self.replayer.run(release.release_id, order, self._store.scorecards, on_progress, enough)

    def plan(self, dataset: Dataset, champion: Release | None) -> tuple[GatePlan, ...]:
        """Return what each gate could show on a dataset's cases, by what is known of the champion."""
        from langgraph_learnloop.evaluation.planning import plan

        evaluator, cases = self.evaluator, self.cases(dataset)
        known = self._known(champion.release_id) if champion else {}
        results = [known[case.case_id] for case in cases if case.case_id in known]
        target, guard = evaluator.target, evaluator.guard
        return plan(cases, self.limits, target=target, guard=guard, champion=results or None)

    def card(
        self,
        champion: Release,
        candidate: Release,
        dataset: Dataset,
        now: datetime,
        on_progress: OnProgress | None = None,
        more: Sequence[Case] = (),
    ) -> Scorecard:
        """Return the scorecard of a candidate, all of whose verdicts are in the store then."""
        from langgraph_learnloop.evaluation.futility import Futility
        from langgraph_learnloop.evaluation.gates import judge
        from langgraph_learnloop.evaluation.paired import shuffled

        evaluator, cases = self.evaluator, self.cases(dataset, more)
        before = self.results(champion, cases, on_progress, afresh=self._config.latency_ratio is not None)
        known = {result.case_id: result for result in before}
        order, arrived = iter(shuffled(cases)), dict[str, CaseResult]()
        futility = Futility(self.limits, evaluator.target, evaluator.guard)
        case, stopped = next(order, None), list[str]()

        def hopeless(result: CaseResult) -> bool:
            nonlocal case
            arrived[result.case_id] = result
            # In their order, not as they come: what is hard may take longer.
            while case is not None and case.case_id in arrived and not stopped:
                why = futility.add(case, known[case.case_id], arrived[case.case_id])
                stopped.extend([why] if why is not None else [])
                case = next(order, None)
            return bool(stopped)

        after = self.results(candidate, cases, on_progress, hopeless if self._config.early_stop else None)
        card = judge(
            before,
            after,
            cases,
            target=evaluator.target,
            guard=evaluator.guard,
            limits=self.limits,
            dataset=dataset.version,
            stopped_early=stopped[0] if stopped else None,
            now=now,
        )
        left = [[result for result in side if result.error is not None][:UNJUDGED] for side in (before, after)]
        return card.model_copy(update={"unjudged": (*left[0], *left[1])})

    def keep_probes(self, release: Release, engine: Engine) -> None:
        """Keep what a release answers to a few prompts, for every process that is to serve it.

        A release without adapter has nothing that a server could mistake; an answer that is another one the next time
        proves nothing.
        """
        if release.adapter is None:
            return
        try:
            twice = [[_answered(engine, release, case) for _ in range(2)] for case in self._telling(release)]
        except EngineError as error:
            _log.warning("No probes are kept of %s: %s", release.release_id, error)
            return
        probes = [first for first, again in twice if first.answer.alike(again.answer)]
        self._store.releases.keep_probes(release.release_id, probes)

    def probe(self, release: Release) -> list[tuple[Message | None, Message | None]]:
        """Return what a release answered to a few cases when it was examined, and what it answers now."""
        known, card = self._known(release.release_id), self._store.scorecards.of(release.release_id)
        examined = card.dataset if card is not None and card.dataset else release.dataset  # a draft learned from none
        cases = self._lessons.cases_one_by_one(self._store.datasets.get(str(examined)))
        probes = islice((case for case in cases if case.case_id in known), PROBES)
        now = self.replayer.run(release.release_id, list(probes))
        return [(_first(known[result.case_id]), _first(result)) for result in now]

    def replay(self, run_id: str, release: Release, step_id: str | None = None) -> tuple[Case, CaseResult]:
        """Run a recorded run again with a release, whole, from one of its model calls (default: its first).

        The case holds what happened then as its reference; the score "same" says whether it happened again.
        """
        from langgraph_learnloop.evaluation.fidelity import SameTrajectory, case_of

        run = self._store.runs.resolve(run_id)
        case = case_of(run, self._store.runs, step_id)
        (result,) = self._replay_by(SameTrajectory(self._mask)).run(release.release_id, [case])
        return case, result

    def credit(self, candidate: Release, champion: Release, cases: Sequence[Case]) -> tuple[NodeCredit, ...]:
        """Return which nodes mend the cases when the candidate answers in them alone."""
        from langgraph_learnloop.evaluation.ablation import credit

        replay = partial(self._replay_by, judge_diverged=True)
        return credit(replay, self.evaluator, candidate.release_id, champion.release_id, cases, self._store.runs)

    def report(self, release_id: str | None) -> Report:
        """Return all there is to show of a release's latest examination; NotFoundError when there was none."""
        candidate = self._store.releases.resolve(release_id or self._examined_last())
        card = self._store.scorecards.of(candidate.release_id)
        if card is None:
            raise NotFoundError(
                f"The release {candidate.release_id!r} was never examined: call loop.evaluate(release)."
            )
        champion = self._store.releases.get(card.champion)
        evaluator = card.evaluator or self.evaluator.name
        sides = [self._store.scorecards.results(one.release_id, evaluator) for one in (champion, candidate)]
        for result in card.unjudged:
            sides[result.release_id == candidate.release_id].setdefault(result.case_id, result)
        return Report(
            scorecard=card,
            candidate=candidate,
            champion=champion,
            cases=self.asked(card),
            champion_results=sides[0],
            candidate_results=sides[1],
            remembered=self._lessons.remembered(candidate, self.evaluator),
            margins=margins(self.limits),
        )

    def asked(self, card: Scorecard) -> tuple[Case, ...]:
        """Return the cases of an examination, as far as its dataset and the settings hold them."""
        return self.cases(self._store.datasets.get(str(card.dataset))) if card.dataset else ()

    def _examined_last(self) -> str:
        cards = self._store.scorecards.all()
        if not cards:
            raise NotFoundError("No release was examined yet: loop.evaluate(release) does, and so does loop.cycle().")
        return cards[-1].candidate

    @property
    def limits(self) -> Limits:
        """Return what the gates ask for."""
        return Limits(**{limit.name: getattr(self._config, limit.name) for limit in fields(Limits)})

    @property
    def replayer(self) -> Replayer:
        """Return whoever asks the watched agent."""
        return self._elsewhere or self.here

    @cached_property
    def here(self) -> GraphReplay:
        """Return whoever asks it in this process."""
        return self._replay_by(self.evaluator)

    @property
    def _mask(self) -> Callable[[Any], Any] | None:
        return self._policy.fit if self._policy.redaction is not None else None

    def _replay_by(self, evaluator: Evaluator, *, judge_diverged: bool = False) -> GraphReplay:
        from langgraph_learnloop.evaluation.replay import GraphReplay

        if self.watched is None:
            raise ConfigError("No agent is watched yet: call loop.watch(graph) first.")
        return GraphReplay(
            self.watched.graph,
            evaluator,
            threads=self._config.eval_threads,
            timeout_seconds=self._config.eval_seconds,
            stop_before=self.watched.stop_before,
            pure=self.watched.pure,
            context=self.watched.context,
            runs=self._store.runs,
            mask=self._mask,
            price=self._policy.usd,
            judge_diverged=judge_diverged,
        )

    def _known(self, release_id: str) -> dict[str, CaseResult]:
        """Return what a release did on the cases that it was asked, by their ids."""
        return self._store.scorecards.results(release_id, self.evaluator.name)

    def _telling(self, release: Release) -> list[Case]:
        """Return a few held-out cases of a release's dataset, first those that the champion answered otherwise."""
        mine, theirs = self._known(release.release_id), self._known(self._store.releases.champion())
        card = self._store.scorecards.of(release.release_id)
        cases = self._lessons.cases(self._store.datasets.get(card.dataset)) if card and card.dataset else ()
        both = [case for case in cases if case.case_id in mine and case.case_id in theirs]
        both.sort(key=lambda case: _alike(mine[case.case_id], theirs[case.case_id]))
        return both[:PROBES]

    def _check(self, release: Release, known: Sequence[Case], results: dict[str, CaseResult]) -> None:
        """Throw away what is known of a release if it answers otherwise now: then the agent around it has changed."""
        if release.sampling.temperature > 0 or not known:
            return
        again = self.replayer.run(release.release_id, known[:ASKED_AGAIN])
        if not all(_alike(result, results[result.case_id]) for result in again if result.error is None):
            self._store.scorecards.forget_results(release.release_id, self.evaluator.name)


def _first(result: CaseResult) -> Message | None:
    return result.got[0] if result.got else None


def _alike(one: CaseResult, other: CaseResult) -> bool:
    return same(_first(one), _first(other))


def _answered(engine: Engine, release: Release, case: Case) -> Probe:
    sampling = Sampling(max_tokens=min(_PROBE_TOKENS, release.sampling.max_tokens))
    request = Generation(release_id=release.release_id, messages=case.messages, sampling=sampling)
    return Probe(request=request, answer=engine.generate(request).message)
