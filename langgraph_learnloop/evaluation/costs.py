"""Hold the candidate's seconds and its cost against the champion's, on the cases that both answered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph_learnloop.errors import needing
from langgraph_learnloop.evaluation import measures, words
from langgraph_learnloop.evaluation.limits import POWER, Limits
from langgraph_learnloop.evaluation.paired import Exam
from langgraph_learnloop.evaluation.stats import Floats
from langgraph_learnloop.records import CaseResult, Gate

with needing("An examination"):
    import numpy as np

_QUANTILES = {0.5: "median", 0.95: "95th percentile"}
SLOWEST = 0.95
"""The quantile that takes the most cases."""
_RESAMPLES = 200
"""Examinations drawn to find the power."""
LATENCY_TEST = "exact paired test of quantiles, median and 95th percentile"
COST_TEST = "betting test of the mean saved under the limit"


@dataclass(frozen=True)
class Spent:
    """What each side spent on the same cases."""

    metric: str
    """What was spent: "model_seconds", "seconds", "usd" or "tokens"."""
    before: Floats
    """By the champion, in an order of the cases that has nothing to do with what was spent."""
    after: Floats
    """By the candidate, on the same cases."""
    left_out: int
    """Cases that one side did not answer, or where nobody counted."""

    @property
    def n(self) -> int:
        """Return the number of cases."""
        return len(self.before)

    def power(self, passes: Callable[[Floats, Floats], Any]) -> float:
        """Return how often an examination of so many cases passes, if both sides spend alike.

        Cases are drawn again, and of each it is random which side is whose.
        """
        rng = np.random.default_rng(0)
        drawn, swap = rng.integers(0, self.n, (_RESAMPLES, self.n)), rng.random((_RESAMPLES, self.n)) < 0.5
        one, other = self.before[drawn], self.after[drawn]
        return float(np.mean(passes(np.where(swap, other, one), np.where(swap, one, other))))


def gates(exam: Exam, limits: Limits) -> list[Gate]:
    """Return the gates of latency and cost; one that only informs is left out where nobody counted."""
    made = []
    for name, spent, limit, gate in (
        ("latency", seconds_of(exam), limits.latency_ratio, _latency),
        ("cost", cost_of(exam), limits.cost_ratio, _cost),
    ):
        if spent.n:
            made.append(gate(spent, limit, limits.alpha))
        elif limit is not None:
            counted = f"no case has its {words.metric(spent.metric)} on both sides"
            because = f"{name.capitalize()}: {counted}, so that the gate cannot pass"
            made.append(_told(name, spent, because).model_copy(update={"required": True, "passed": False}))
    return made


def seconds_of(exam: Exam) -> Spent:
    """Return what the cases took: the time of the model calls, or where that is known of fewer cases the wall time."""
    return _spent(exam, "model_seconds", "seconds")


def cost_of(exam: Exam) -> Spent:
    """Return what the cases cost: dollars, or where those are known of fewer cases tokens."""
    return _spent(exam, "usd", "tokens")


def _spent(exam: Exam, *metrics: str) -> Spent:
    """Return the first of these figures that both sides have on the most cases, and the champion is above 0 in."""
    return max((_of(exam, metric) for metric in metrics), key=lambda spent: spent.n)


def _of(exam: Exam, metric: str) -> Spent:
    ids = list(dict.fromkeys(case.case_id for case in exam.cases))
    rows = [(_figure(exam.champion.get(i), metric), _figure(exam.candidate.get(i), metric)) for i in ids]
    both = [(old, new) for old, new in rows if old is not None and new is not None]
    if not any(old > 0 for old, _ in both):
        both = []
    before, after = (np.asarray([row[side] for row in both], dtype=np.float64) for side in (0, 1))
    return Spent(metric, before, after, len(rows) - len(both))


def _figure(result: CaseResult | None, metric: str) -> float | None:
    """Return what one side spent on a case it answered; None where that is unknown."""
    if result is None or result.error is not None:
        return None
    found = getattr(result, metric)
    return float(found) if found is not None and math.isfinite(found) and found >= 0 else None


def _latency(spent: Spent, limit: float | None, alpha: float) -> Gate:
    """Bound the ratios of the medians and of the 95th percentiles, whatever the distribution of seconds."""
    before, after = spent.before, spent.after
    seen = {q: _ratio(np.quantile(after, q), np.quantile(before, q)) for q in _QUANTILES}
    bounds = {q: measures.quantile_ratio_bound(before, after, q, alpha) for q in _QUANTILES}
    because = f"Latency: {' and '.join(_said(q, spent, seen[q], bounds[q]) for q in _QUANTILES)}"
    figures = float(np.median(before)), float(np.median(after))
    gate = _told("latency", spent, because, LATENCY_TEST, figures, _median_interval(before, after))
    if limit is None:
        return gate
    return _decided(
        gate,
        spent,
        limit,
        alpha,
        lambda old, new: slow_p(old, new, limit, alpha),
        lambda: _more_for_quantiles(spent.n, seen, bounds, limit, alpha),
    )


def slow_p(before: Floats, after: Floats, limit: float, alpha: float) -> Floats:
    """Return the p-value of "the median or the 95th percentile is slower by the limit", along the last axis.

    Both must be ruled out, so that the larger of the two counts and needs no correction.
    """
    return np.asarray(np.maximum(*(measures.slower(before, after, q, limit, alpha) for q in _QUANTILES)))


def _median_interval(before: Floats, after: Floats) -> tuple[float | None, float | None]:
    """Return the 95% interval of the ratio of the medians; None for an end that so few cases do not have."""
    tail = (1 - 0.95) / 2
    low, high = (measures.quantile_ratio_bound(*sides, 0.5, tail) for sides in ((after, before), (before, after)))
    return (1 / low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _said(q: float, spent: Spent, ratio: float, bound: float) -> str:
    old, new = (words.amount(spent.metric, float(np.quantile(side, q))) for side in (spent.before, spent.after))
    surely = f"at most {words.times(bound)}" if math.isfinite(bound) else "without an upper bound"
    return f"{_QUANTILES[q]} {old} -> {new} ({words.times(ratio)}, {surely})"


def _more_for_quantiles(
    n: int, seen: dict[float, float], bounds: dict[float, float], limit: float, alpha: float
) -> int | None:
    """Return about how many cases are missing until the bounds, which close in with the root of n, reach the limit."""
    if any(ratio >= limit for ratio in seen.values()):
        return None
    totals = [measures.quantile_cases(SLOWEST, alpha)]
    for q, ratio in seen.items():
        if math.isfinite(bounds[q]) and ratio > 0:
            totals.append(math.ceil(n * (math.log(bounds[q] / ratio) / math.log(limit / ratio)) ** 2))
    return max(*totals, n + 1) - n


def _cost(spent: Spent, limit: float | None, alpha: float) -> Gate:
    """Test the mean cost against the limit, with the bootstrap interval of the ratio for the reader."""
    champion, candidate = float(spent.before.mean()), float(spent.after.mean())
    low, high = measures.bootstrap(_mean_ratio, np.stack([spent.before, spent.after]))
    ratio = _ratio(candidate, champion)
    old, new = words.amount(spent.metric, champion), words.amount(spent.metric, candidate)
    because = (
        f"Cost: mean {old} -> {new} on {spent.n} cases ({words.times(ratio)}, 95% interval {low:.2f} to {high:.2f})"
    )
    interval = min(low, ratio), max(high, ratio)
    gate = _told("cost", spent, because, COST_TEST, (champion, candidate), interval)
    if limit is None:
        return gate
    return _decided(
        gate,
        spent,
        limit,
        alpha,
        lambda old, new: measures.dearer(old, new, limit, alpha),
        lambda: None if ratio >= limit else _more_for_mean(spent, limit, alpha),
    )


def _mean_ratio(figures: Floats) -> Floats:
    """Return mean after by mean before of resamples, shape (2, resamples, cases)."""
    before, after = figures.mean(axis=-1)
    return np.asarray(after / np.where(before > 0, before, np.nan))


def _more_for_mean(spent: Spent, limit: float, alpha: float) -> int:
    saved = limit * spent.before - spent.after
    largest = 2 * max(float(spent.after.max()), limit * float(spent.before.max()))
    total = measures.bet_cases(float(saved.std()) / largest, float(saved.mean()) / largest, -1.0, alpha)
    return max(total, spent.n + 1) - spent.n


def _ratio(after: float, before: float) -> float:
    return float(after / before) if before > 0 else math.inf if after > 0 else 1.0


def _told(
    name: str,
    spent: Spent,
    said: str,
    test: str | None = None,
    figures: tuple[float | None, float | None] = (None, None),
    interval: tuple[float | None, float | None] = (None, None),
) -> Gate:
    """Return a gate that only informs."""
    return Gate(
        name=name,
        required=False,
        passed=True,
        metric=spent.metric,
        test=test,
        champion=figures[0],
        candidate=figures[1],
        cases=spent.n,
        left_out=spent.left_out,
        low=interval[0],
        high=interval[1],
        because=f"{said}.",
    )


def _decided(
    gate: Gate,
    spent: Spent,
    limit: float,
    alpha: float,
    p_value: Callable[[Floats, Floats], Any],
    missing: Callable[[], int | None],
) -> Gate:
    """Return a gate with its verdict; where so few cases would not pass the champion itself, say how many it takes."""
    p = float(p_value(spent.before, spent.after))
    power = spent.power(lambda old, new: p_value(old, new) <= alpha)
    passed = p <= alpha
    needed = missing() if not passed and power < POWER else None
    said = f"{words.times(limit)} or more is {'' if passed else 'not '}ruled out."
    if needed is not None:
        said += f" Not enough cases: about {spent.n + needed} needed."
    verdict = {"required": True, "passed": passed, "p_value": p, "power": power, "needed": needed}
    return gate.model_copy(update={**verdict, "because": f"{gate.because.removesuffix('.')}; {said}"})
