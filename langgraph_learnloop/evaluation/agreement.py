"""Say how far a judge agrees with people, beyond what chance would do."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Record

ENOUGH = 0.6
"""Kappa under which a judge is no ground for a decision (McHugh 2012, Biochemia Medica 22, table 3)."""


class Agreement(Record):
    """How a judge's verdicts agree with people's labels."""

    kappa: float | None
    """Cohen's kappa: 1 is always, 0 is as often as by chance; None where both always say the same one thing."""
    low: float | None
    """Lower end of its 95% interval."""
    high: float | None
    """Upper end."""
    share: float | None
    """Share of the cases in which both say the same; None without cases."""
    cases: int
    """Cases that both judged."""
    left_out: int
    """Cases that the judge left unjudged."""

    @property
    def enough(self) -> bool:
        """Return whether kappa is at least 0.6; an unknown kappa is not."""
        return self.kappa is not None and self.kappa >= ENOUGH

    @property
    def because(self) -> str:
        """Return the agreement as a sentence."""
        if self.kappa is None or self.low is None or self.high is None:
            return f"Agreement with people is not known from {self.cases} cases: both sides always say one thing."
        doubt = "" if self.enough else f" Below {ENOUGH:g} it is no ground for a decision."
        return (
            f"Agreement with people: kappa {self.kappa:.2f} ({self.low:.2f} to {self.high:.2f}) "
            f"in {self.cases} cases.{doubt}"
        )


def kappa(labels: Sequence[bool], judged: Sequence[bool | None]) -> Agreement:
    """Return Cohen's kappa of two raters (Cohen 1960, Educational and Psychological Measurement 20), with an interval.

    The interval takes chance agreement as known, as Cohen's standard error does, and puts Wilson's interval of the
    share (Wilson 1927) where that has a normal one: 91% to 100% of such intervals hold the true kappa from 20 cases
    on. Of those by the large-sample variance of Fleiss, Cohen and Everitt (1969, Psychological Bulletin 72), no wider
    than a point after a perfect score, it is down to 26%. Raises DataError when there are not as many of one as of
    the other.
    """
    # Imported here: a judge without labels needs no scipy.
    from langgraph_learnloop.evaluation.stats import wilson

    if len(labels) != len(judged):
        raise DataError(
            f"Kappa compares pairs, not {len(labels)} labels and {len(judged)} verdicts: give one of each a case."
        )
    pairs = [(label, verdict) for label, verdict in zip(labels, judged, strict=True) if verdict is not None]
    cases, left_out = len(pairs), len(labels) - len(pairs)
    if not cases:
        return Agreement(kappa=None, low=None, high=None, share=None, cases=0, left_out=left_out)
    agreed = sum(label == verdict for label, verdict in pairs)
    share, chance = agreed / cases, _by_chance(pairs)
    if chance == 1:
        return Agreement(kappa=None, low=None, high=None, share=share, cases=cases, left_out=left_out)
    beyond, low, high = ((p - chance) / (1 - chance) for p in (share, *wilson(agreed, cases)))
    return Agreement(kappa=beyond, low=max(-1.0, low), high=high, share=share, cases=cases, left_out=left_out)


def _by_chance(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Return how often two raters with these habits agree if neither looks at the case."""
    people = sum(label for label, _ in pairs) / len(pairs)
    judge = sum(verdict for _, verdict in pairs) / len(pairs)
    return people * judge + (1 - people) * (1 - judge)
