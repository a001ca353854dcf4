"""Say before an examination what its cases can show, and how many it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from langgraph_learnloop.errors import needing
from langgraph_learnloop.evaluation import costs, measures, stats, words
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.measures import FINEST
from langgraph_learnloop.evaluation.paired import Compared, Exam, Pairs, Scores, shuffled
from langgraph_learnloop.records import Case, CaseResult, Suite

with needing("An examination"):
    import numpy as np

_SHARES: dict[Suite, float] = {"target": 0.5, "retention": 0.9, "regression": 0.9}
"""What the champion is supposed to get right where nobody knows."""
_UNREST = 0.1
"""Two releases that are alike are supposed to disagree this often, each way, beside what two strangers would."""


class GatePlan(NamedTuple):
    """What one gate can do with the cases there are."""

    name: str
    """The gate's name."""
    cases: int
    """Cases it will have."""
    test: str
    """The test that will decide."""
    detectable: float | None
    """The effect that so many cases show four times of five: a gain, or a loss that can be ruled out; in shares, and
    for latency and cost the ratio. None where there is none, or nobody can know yet."""
    needed: int | None
    """Cases that are missing for what the limits ask; None where there are enough, or nobody can know yet."""
    because: str
    """It all as a sentence."""


class _Side(NamedTuple):
    """What is known, or supposed, of the champion on one gate's cases."""

    n: int
    share: float
    spread: float | None
    """Standard deviation of the differences; None where cases are right or wrong."""

    @property
    def kind(self) -> type[Compared]:
        """Return how such cases are compared."""
        return Pairs if self.spread is None else Scores

    @property
    def noise(self) -> float:
        """Return the share of cases that flips each way between two releases that are alike."""
        return _UNREST * self.share * (1 - self.share)

    def better(self, gain: float, alpha: float) -> int:
        """Return about how many cases show a gain."""
        if self.spread is None:
            return stats.mcnemar_cases(gain, min(self.noise, (1 - gain) / 2), alpha)
        return measures.bet_cases(self.spread, gain, -1.0, alpha)

    def unharmed(self, margin: float, alpha: float) -> int:
        """Return about how many cases rule a loss out."""
        if self.spread is None:
            return stats.noninferiority_cases(self.noise, margin, alpha)
        return measures.bet_cases(self.spread, margin, margin - 1, alpha)


def plan(
    cases: Sequence[Case],
    limits: Limits | None = None,
    *,
    target: str = "fully_right",
    guard: str = "right_tool",
    champion: Sequence[CaseResult] | None = None,
) -> tuple[GatePlan, ...]:
    """Return what each required gate can show on these cases, with a power of four in five.

    With the champion's results its own share and scatter are counted on; without them half of the target and nine in
    ten of the old cases are supposed right. Two releases that are alike are supposed to disagree on few cases. Latency
    and cost can only be planned with results.
    """
    limits, known = limits or Limits(), {result.case_id: result for result in champion or ()}
    exam = Exam(shuffled(cases), known, known)
    names = exam.categories("retention")
    plans = [
        _target(_side(exam, target, "target"), limits),
        _unharmed("retention", _side(exam, guard, "retention"), limits.retention_margin, limits.alpha),
    ]
    for name in names:
        side, each = _side(exam, guard, "retention", name), limits.alpha / len(names)
        plans.append(_unharmed(f"retention:{name}", side, limits.category_margin, each))
    if exam.of("regression"):
        plans.append(_unharmed("regression", _side(exam, target, "regression"), limits.category_margin, limits.alpha))
    if safety := exam.of("safety"):
        plans.append(_safety(len(safety), limits))
    return (*plans, *_ratios(exam, limits))


def _side(exam: Exam, metric: str, suite: Suite, category: str | None = None) -> _Side:
    cases, compared = len(exam.of(suite, category)), exam.pairs(metric, suite, category)
    if compared.before is None:
        return _Side(cases, _SHARES[suite], None)
    if isinstance(compared, Pairs):
        return _Side(cases, compared.before, None)
    # The differences of two like releases scatter the less, the rarer they disagree.
    return _Side(cases, compared.before, float(np.std(compared.champion)) * math.sqrt(2 * _UNREST))


def _target(side: _Side, limits: Limits) -> GatePlan:
    room = 1 - side.share
    seen = measures.least_effect(lambda gain: side.better(gain, limits.alpha) <= side.n, room - FINEST)
    hoped = min(limits.hoped or room, room)
    missing = None
    if hoped > FINEST and hoped >= limits.target_gain:
        missing = max(0, side.better(hoped, limits.alpha) - side.n) or None
    said = "no gain" if seen is None else f"a gain of {words.size(seen)} points or more"
    said += " can be shown"
    if room < max(limits.target_gain, FINEST):
        said += f"; the champion leaves no room for {words.size(limits.target_gain)} points"
    elif missing:
        said += f"; {missing} more cases are needed to show {words.size(hoped)} points"
    return GatePlan("target", side.n, side.kind.better_test, seen, missing, f"target: on {side.n} cases {said}.")


def _unharmed(name: str, side: _Side, margin: float, alpha: float) -> GatePlan:
    seen = measures.least_effect(lambda loss: side.unharmed(loss, alpha) <= side.n, 1.0 - FINEST)
    missing = max(0, side.unharmed(margin, alpha) - side.n) or None
    said = "no loss" if seen is None else f"a loss of {words.size(seen)} points or more"
    said += " can be ruled out"
    if missing:
        said += f"; {missing} more cases are needed to rule out {words.size(margin)} points"
    return GatePlan(name, side.n, side.kind.unharmed_test, seen, missing, f"{name}: on {side.n} cases {said}.")


def _safety(n: int, limits: Limits) -> GatePlan:
    needed = stats.safe_cases(0, limits.safety, limits.alpha)
    low = stats.share_bounds(n, n, limits.alpha)[0]
    said = f"safety: {n} cases show {100 * low:.2f}% where none of them fails"
    if missing := max(0, needed - n) or None:
        said += f"; {missing} more are needed for {100 * limits.safety:g}%"
    return GatePlan("safety", n, stats.SAFETY_TEST, low, missing, f"{said}.")


def _ratios(exam: Exam, limits: Limits) -> list[GatePlan]:
    """Plan latency and cost as far as the champion's own figures tell."""
    plans = []
    n, alpha = len({case.case_id for case in exam.cases}), limits.alpha
    if limits.latency_ratio is not None:
        missing = max(0, measures.quantile_cases(costs.SLOWEST, alpha) - n) or None
        seconds = costs.seconds_of(exam).before
        bound = measures.quantile_ratio_bound(seconds, seconds, costs.SLOWEST, alpha)
        plans.append(_ratio("latency", n, costs.LATENCY_TEST, bound, limits.latency_ratio, missing))
    if limits.cost_ratio is not None:
        usd = costs.cost_of(exam).before
        bound = measures.least_ratio(lambda limit: measures.dearer(usd, usd, limit, alpha) <= alpha, 1.0)
        plans.append(_ratio("cost", n, costs.COST_TEST, bound, limits.cost_ratio, None))
    return plans


def _ratio(name: str, n: int, test: str, bound: float, limit: float, missing: int | None) -> GatePlan:
    seen = bound if math.isfinite(bound) else None
    said = f"{name}: on {n} cases "
    if missing:
        said += f"no ratio can be bounded; {missing} more cases are needed"
    elif seen is None:
        said += "nobody knows yet what can be shown"
    else:
        said += (
            f"a candidate like the champion is shown to be below {words.times(seen)}, {words.times(limit)} are asked"
        )
    return GatePlan(name, n, test, seen, missing, f"{said}.")
