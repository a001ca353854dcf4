"""From the runs of a rollout's threads to what they say of its candidate.

A thread counts once, when it has been quiet for a while: only then what was wrong with it has been said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from langgraph_learnloop.config import LoopConfig, named
from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.records import Feedback, Rollout, Run
from langgraph_learnloop.serving.rollouts import Evidence, Limits, Seen
from langgraph_learnloop.store.opened import Store

Metric = Callable[[Run, Sequence[Feedback]], float | None]
"""Say how bad a run was, 0 (well) to 1; None where that cannot be said."""

UNSAFE = "unsafe"
"""The category of feedback, by whomever, that makes a thread an unsafe one."""
_POLLS = 3
"""Times that a process may miss a look at the registry before it is out of step."""
_BEFORE = 5_000
"""Runs of the champion that a candidate which got all the threads at once is held against."""
_NAMED: Mapping[str, Metric] = {
    "failed": lambda run, said: float(run.outcome == "failed"),
    "interrupted": lambda run, said: float(run.outcome == "interrupted"),
    "unhappy": lambda run, said: float(any(one.score is not None and one.score < 0 for one in said)),
}


def metric_of(name: str) -> Metric | None:
    """Return the metric of a name, "flagged" is None; raise ConfigError where there is none."""
    if name == "flagged" or name in _NAMED:
        return _NAMED.get(name)
    if ":" not in name:
        raise ConfigError(
            f"The setting rollout_metric cannot be {name!r}: name 'flagged', {', '.join(map(repr, _NAMED))}, or a "
            "function of your own as 'module:function'."
        )
    metric: Metric = named(name, "The setting rollout_metric")
    if not callable(metric):
        raise ConfigError(f"The setting rollout_metric {name!r} must name a function, not a {type(metric).__name__}.")
    return metric


class Threads:
    """Read what the threads of rollouts of one agent say, in its store."""

    def __init__(self, store: Store, config: LoopConfig, agent: str, metric: Metric | None = None) -> None:
        """Work on an open store; `metric` is used in place of the configured one."""
        self._store = store
        self._config = config
        self._agent = agent
        self._metric = metric

    def evidence(self, rollout: Rollout, now: datetime) -> Evidence | None:
        """Return what is known of a rollout's candidate; None before it was asked anything.

        In a pause those threads that had begun with it go on: they may still show that it must go.
        """
        if rollout.state == "shadow":
            return self._in_the_shadow(rollout, now)
        if rollout.mode == "blue_green":
            return self._after_a_switch(rollout, now)
        return self._dealt_out(rollout, now)

    def _in_the_shadow(self, rollout: Rollout, now: datetime) -> Evidence:
        from langgraph_learnloop.serving.comparisons import in_the_shadow

        answers = self._store.rollouts.shadows(rollout.rollout_id)
        waited = self._waited(rollout, now)
        return in_the_shadow(answers, self._limits(), max(1, self._config.rollout_shadow), waited=waited)

    def _after_a_switch(self, rollout: Rollout, now: datetime) -> Evidence:
        from langgraph_learnloop.serving.comparisons import after_a_switch

        began = [runs for runs in self._began(rollout) if runs[0].release == rollout.candidate]
        past = self._store.runs.before(rollout.started_at, self._agent, rollout.champion, _BEFORE)
        before = self._seen([*_by_thread(past).values()], now)
        waited = self._waited(rollout, now)
        return after_a_switch(before, self._seen(began, now, rollout), self._limits(), waited=waited)

    def _dealt_out(self, rollout: Rollout, now: datetime) -> Evidence | None:
        from langgraph_learnloop.serving.canary import evidence

        shares = [percent for _, percent in rollout.past if percent]
        percent = rollout.percent or (shares[-1] if shares else 0)
        if percent == 0:
            return None
        began = self._began(rollout)
        in_stage = [runs for runs in began if runs[0].started_at >= rollout.stage_at]
        to_candidate = sum(runs[0].release == rollout.candidate for runs in in_stage)
        return evidence(
            self._seen(began, now, rollout),
            self._limits(),
            (len(in_stage) - to_candidate, to_candidate) if rollout.percent else (0, 0),
            percent,
            waited=self._waited(rollout, now),
            last=rollout.next_percent in (None, 100),
        )

    def _waited(self, rollout: Rollout, now: datetime) -> bool:
        return now - rollout.stage_at >= timedelta(minutes=self._config.rollout_minutes)

    def _limits(self) -> Limits:
        return Limits(
            margin=self._config.rollout_margin,
            least_threads=self._config.rollout_threads,
            latency_ratio=self._config.rollout_latency_ratio,
            cost_ratio=self._config.rollout_cost_ratio,
        )

    def _began(self, rollout: Rollout) -> list[list[Run]]:
        """Return the runs of each thread that began since the rollout did, and was dealt to one side or the other."""
        runs = self._store.runs.since(rollout.started_at, self._agent)
        threads = _by_thread([run for run in runs if run.release in (rollout.candidate, rollout.champion)])
        older = self._store.runs.older_threads(list(threads), rollout.started_at)
        # Until every process has heard of a stage, some deal by the one before.
        unsure = timedelta(seconds=_POLLS * self._config.poll_seconds)
        sure = []
        for thread_id, runs_of_it in threads.items():
            stage = rollout.share_at(runs_of_it[0].started_at)
            if thread_id not in older and stage is not None and runs_of_it[0].started_at >= stage[0] + unsure:
                sure.append(runs_of_it)
        return sure

    def _seen(self, threads: Sequence[Sequence[Run]], now: datetime, rollout: Rollout | None = None) -> list[Seen]:
        """Return the threads that have been quiet for a while, in the order in which they became so."""
        quiet = now - timedelta(minutes=self._config.settle_minutes)
        ended = sorted(((_end(runs), runs) for runs in threads), key=lambda one: one[0])
        settled = [runs for end, runs in ended if end <= quiet]
        ids = [run.run_id for runs in settled for run in runs]
        flagged, said = self._store.flags.among(ids), self._store.feedback.among(ids)
        found = []
        for runs in settled:
            stage = rollout.share_at(runs[0].started_at) if rollout is not None else None
            if rollout is not None and (stage is None or not stage[1]):  # nobody was dealt to the candidate then
                continue
            bad = self._bad(runs, flagged, said)
            if bad is not None:
                candidate = rollout is not None and runs[0].release == rollout.candidate
                found.append(_one(runs, said, bad, candidate, float(stage[1]) if stage is not None else None))
        return found

    def _bad(
        self, runs: Sequence[Run], flagged: frozenset[str], said: Mapping[str, Sequence[Feedback]]
    ) -> float | None:
        """Return how bad the worst run of a thread was; None where the metric cannot say it of any."""
        metric = self._metric or metric_of(self._config.rollout_metric)
        if metric is None:
            return float(any(run.run_id in flagged for run in runs))
        known = [bad for run in runs if (bad := _asked(metric, run, said.get(run.run_id, ()))) is not None]
        return max(known) if known else None


def _by_thread(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return runs by their thread; those without one are left out."""
    threads: dict[str, list[Run]] = {}
    for run in runs:
        if run.thread_id is not None:
            threads.setdefault(run.thread_id, []).append(run)
    return threads


def _asked(metric: Metric, run: Run, said: Sequence[Feedback]) -> float | None:
    bad = metric(run, said)
    if bad is not None and not 0 <= bad <= 1:
        raise DataError(
            f"The rollout's metric says {bad!r} of the run {run.run_id!r}: it must be from 0 to 1, or None."
        )
    return None if bad is None else float(bad)


def _end(runs: Sequence[Run]) -> datetime:
    return max(run.started_at + timedelta(seconds=run.seconds or 0.0) for run in runs)


def _one(
    runs: Sequence[Run], said: Mapping[str, Sequence[Feedback]], bad: float, candidate: bool, percent: float | None
) -> Seen:
    """Return a thread as the tests see it."""
    steps = [step.seconds for run in runs for step in run.steps if step.kind == "model" and step.seconds]
    costs = [run.usd for run in runs if run.usd is not None]
    return Seen(
        candidate=candidate,
        bad=bad,
        error=any(run.outcome == "failed" for run in runs),
        seconds=sum(steps) / len(steps) if steps else None,
        usd=sum(costs) if costs else None,
        unsafe=any(UNSAFE in one.categories for run in runs for one in said.get(run.run_id, ())),
        handed_over=any(run.outcome == "interrupted" for run in runs),
        percent=percent,
    )
