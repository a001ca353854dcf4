"""Two releases' results on the same cases, side by side: right and wrong, or scores.

`Pairs` and `Scores` answer the same questions, each with the tests that fit what it holds, so that a gate need not
know which of them it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from langgraph_learnloop.errors import DataError, needing
from langgraph_learnloop.evaluation import measures, stats
from langgraph_learnloop.evaluation.stats import Floats
from langgraph_learnloop.records import Case, CaseResult, Score, Suite, content_hash

with needing("An examination"):
    import numpy as np


@dataclass(frozen=True)
class Pairs:
    """How champion and candidate did on the same cases, counted in right and wrong."""

    metric: str
    """What was counted."""
    n: int
    """Cases that both answered and that could be judged."""
    champion: int
    """Cases the champion got right."""
    wins: int
    """Cases only the candidate got right."""
    losses: int
    """Cases only the champion got right."""
    left_out: int = 0
    """Cases that one side or the other left unjudged."""

    better_test = "exact one-sided McNemar test"
    unharmed_test = "exact paired non-inferiority test"

    @property
    def before(self) -> float | None:
        """Return the champion's share, None without cases."""
        return self.champion / self.n if self.n else None

    @property
    def after(self) -> float | None:
        """Return the candidate's share, None without cases."""
        return (self.champion + self.wins - self.losses) / self.n if self.n else None

    @property
    def change(self) -> float:
        """Return candidate minus champion, 0.0 without cases."""
        return (self.wins - self.losses) / self.n if self.n else 0.0

    @property
    def moved(self) -> str:
        """Return how many cases went which way, in words."""
        return f"{self.losses} cases lost, {self.wins} won"

    @property
    def _noise(self) -> float:
        """Return the share of cases that flipped against the change."""
        return min(self.wins, self.losses) / self.n if self.n else 0.0

    @property
    def _unrest(self) -> float:
        """Return the share of cases that flips each way, if nothing has changed but by chance."""
        return (self.wins + self.losses) / (2 * self.n) if self.n else 0.0

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of the change, None without cases."""
        return stats.difference_interval(self.wins, self.losses, self.n) if self.n else None

    def most(self, alpha: float) -> float:
        """Return the upper bound of the change with error rate alpha."""
        return stats.difference_interval(self.wins, self.losses, self.n, 1 - 2 * alpha)[1]

    def not_better(self, alpha: float) -> float:
        """Return the p-value of "the candidate is not better"."""
        return stats.mcnemar_greater(self.wins, self.losses)

    def not_worse(self, alpha: float) -> float:
        """Return the p-value of "the candidate is not worse": small where harm is sure."""
        return stats.mcnemar_greater(self.losses, self.wins)

    def worse_by(self, margin: float, alpha: float) -> float:
        """Return the p-value of "the candidate is worse by the margin or more"."""
        return stats.noninferiority(self.wins, self.losses, self.n, margin)

    def power_better(self, hoped: float, least: float, alpha: float) -> float:
        """Return the chance that a candidate that truly gains `hoped` is shown better, by `least` or more."""
        return stats.mcnemar_power(self.n, hoped, min(self._noise, (1 - hoped) / 2), alpha, least) if self.n else 0.0

    def power_unharmed(self, margin: float, alpha: float) -> float:
        """Return the chance that a loss of the margin is ruled out for a candidate that loses nothing."""
        return stats.noninferiority_power(self.n, self._unrest, margin, alpha)

    def cases_better(self, hoped: float, alpha: float) -> int:
        """Return about how many cases give `power_better` four chances out of five."""
        return stats.mcnemar_cases(hoped, min(self._noise, (1 - hoped) / 2), alpha)

    def cases_unharmed(self, margin: float, alpha: float) -> int:
        """Return about how many cases give `power_unharmed` four chances out of five."""
        return stats.noninferiority_cases(self._unrest, margin, alpha)

    def wins_missing(self, alpha: float) -> int:
        """Return how many cases in all it takes before any candidate could be shown better; 0 if these do."""
        needed, room = stats.wins_needed(alpha), self.n - self.champion
        if room >= needed:
            return 0
        return -(-needed * self.n // room) if self.n and room else needed + self.n

    def detectable(self, alpha: float) -> float | None:
        """Return the smallest change that such cases show four times out of five, None where there is none."""
        return stats.detectable(self.n, self._noise, alpha)


@dataclass(frozen=True)
class Scores:
    """How champion and candidate did on the same cases, in scores of 0 to 1."""

    metric: str
    """What was scored."""
    champion: tuple[float, ...]
    """The champion's scores, in an order that has nothing to do with them."""
    candidate: tuple[float, ...]
    """The candidate's scores of the same cases."""
    left_out: int = 0
    """Cases that one side or the other left unjudged."""

    better_test = "paired sign-flip permutation test, and a betting test of the mean"
    unharmed_test = "non-inferiority of the mean by a betting test"

    @property
    def n(self) -> int:
        """Return the number of cases that both answered and that could be judged."""
        return len(self.champion)

    @property
    def before(self) -> float | None:
        """Return the champion's mean, None without cases."""
        return float(np.mean(self.champion)) if self.n else None

    @property
    def after(self) -> float | None:
        """Return the candidate's mean, None without cases."""
        return float(np.mean(self.candidate)) if self.n else None

    @property
    def change(self) -> float:
        """Return candidate minus champion, 0.0 without cases."""
        return float(self._differences.mean()) if self.n else 0.0

    @property
    def moved(self) -> str:
        """Return how many cases went which way, in words."""
        d = self._differences
        return f"{int(np.sum(d < 0))} cases worse, {int(np.sum(d > 0))} better"

    @cached_property
    def _differences(self) -> Floats:
        return np.asarray(self.candidate, dtype=np.float64) - np.asarray(self.champion, dtype=np.float64)

    @property
    def _spread(self) -> float:
        return float(self._differences.std(ddof=1)) if self.n > 1 else 0.5

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% bootstrap interval of the change, None without cases."""
        if not self.n:
            return None
        low, high = measures.bootstrap(lambda drawn: drawn.mean(axis=-1), self._differences)
        return min(low, self.change), max(high, self.change)

    def most(self, alpha: float) -> float:
        """Return the upper bound of the change with error rate alpha, by normal approximation."""
        return self.change + stats.quantile(1 - alpha) * self._spread / math.sqrt(self.n) if self.n else 1.0

    def not_better(self, alpha: float) -> float:
        """Return the p-value of "the candidate is not better": neither by permutation nor in the mean."""
        return _not_better(self._differences, alpha)

    def not_worse(self, alpha: float) -> float:
        """Return the p-value of "the candidate is not worse": small where harm is sure."""
        return _not_better(-self._differences, alpha)

    def worse_by(self, margin: float, alpha: float) -> float:
        """Return the p-value of "the candidate is worse by the margin or more"."""
        return float(measures.no_gain(self._differences + margin, margin - 1, alpha))

    def power_better(self, hoped: float, least: float, alpha: float) -> float:
        """Return the chance that a candidate that truly gains `hoped` is shown better, by `least` or more."""
        return measures.bet_power(self._differences, hoped, -1.0, alpha, least)

    def power_unharmed(self, margin: float, alpha: float) -> float:
        """Return the chance that a loss of the margin is ruled out for a candidate that loses nothing."""
        return measures.bet_power(self._differences, margin, margin - 1, alpha)

    def cases_better(self, hoped: float, alpha: float) -> int:
        """Return about how many cases give `power_better` four chances out of five."""
        return measures.bet_cases(self._spread, hoped, -1.0, alpha)

    def cases_unharmed(self, margin: float, alpha: float) -> int:
        """Return about how many cases give `power_unharmed` four chances out of five."""
        return measures.bet_cases(self._spread, margin, margin - 1, alpha)

    def wins_missing(self, alpha: float) -> int:
        """Return how many cases in all it takes before any candidate could be shown better; 0 if these do."""
        needed = max(stats.wins_needed(alpha), measures.bet_cases(0.0, 1.0, -1.0, alpha))
        return needed if self.n < needed else 0

    def detectable(self, alpha: float) -> float | None:
        """Return about the smallest change that such cases show four times out of five, None where there is none."""
        return measures.least_effect(lambda change: self.cases_better(change, alpha) <= self.n, 1.0)


Compared = Pairs | Scores
"""Either kind."""


@dataclass(frozen=True)
class Exam:
    """All the cases with both sides' results."""

    cases: Sequence[Case]
    """The suites, each case once."""
    champion: Mapping[str, CaseResult]
    """Results by case id."""
    candidate: Mapping[str, CaseResult]
    """Results by case id."""

    def of(self, suite: Suite, category: str | None = None) -> list[Case]:
        """Return a suite's cases, or those of one of its categories."""
        return [case for case in self.cases if case.suite == suite and category in (None, case.category)]

    def pairs(self, metric: str, suite: Suite, category: str | None = None) -> Compared:
        """Return both sides' figures of a suite, or of one of its categories."""
        asked = self.of(suite, category)
        sides = self.champion, self.candidate
        old, new = ([score(side.get(case.case_id), metric) for case in asked] for side in sides)
        return compare(metric, list(zip(old, new, strict=True)))

    def categories(self, suite: Suite) -> list[str]:
        """Return a suite's categories in order of name."""
        return sorted({case.category for case in self.cases if case.suite == suite})


def compare(metric: str, rows: Sequence[tuple[Score, Score]]) -> Compared:
    """Return champion and candidate side by side; one number among them makes them all scores."""
    both = [(old, new) for old, new in rows if old is not None and new is not None]
    left_out = len(rows) - len(both)
    if not all(isinstance(one, bool) for row in both for one in row):
        return Scores(metric, tuple(float(old) for old, _ in both), tuple(float(new) for _, new in both), left_out)
    return Pairs(
        metric=metric,
        n=len(both),
        champion=sum(bool(old) for old, _ in both),
        wins=sum(bool(new and not old) for old, new in both),
        losses=sum(bool(old and not new) for old, new in both),
        left_out=left_out,
    )


def score(result: CaseResult | None, metric: str) -> Score:
    """Return a figure of a result; None where it is missing, or not a number. Raise DataError outside 0 to 1."""
    found = None if result is None else result.scores.get(metric)
    if result is None or found is None or math.isnan(found):
        return None
    if not 0 <= found <= 1:
        raise DataError(
            f"The evaluator {result.evaluator!r} gave {metric!r} the score {found!r} on case {result.case_id!r}, but a "
            "score is from 0 (bad) to 1 (good). Let the evaluator scale it, and examine again."
        )
    return found


def shuffled(cases: Sequence[Case]) -> list[Case]:
    """Return each case once, in an order that is always the same and has nothing to do with what the cases ask.

    Tests that look at the cases one after the other need such an order.
    """
    once = {(case.suite, case.case_id): case for case in cases}
    return sorted(once.values(), key=lambda case: content_hash([case.suite, case.case_id]))


def _not_better(differences: Floats, alpha: float) -> float:
    bet = float(measures.no_gain(differences, -1.0, alpha))
    return bet if bet >= 1 else max(bet, measures.sign_flip(differences))
