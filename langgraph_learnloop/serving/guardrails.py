"""Bet against each way in which a candidate may be worse, and take it back where all the bets together have paid.

A rollback asks for a weighted mean of the e-values of all the guardrails: a mean of e-values is an e-value (Vovk and
Wang 2021, "E-values: calibration, combination and applications", Annals of Statistics 49), so that `alpha_rollback` is
the error rate of the whole family over the whole rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from langgraph_learnloop.errors import DataError, needing
from langgraph_learnloop.serving.bets import Bools, Floats, in_words, limit_wealth, rank_wealth, spread, wealth
from langgraph_learnloop.serving.rollouts import Limits, Seen, Verdict

with needing("A canary"):
    import numpy as np


class Columns(NamedTuple):
    """Threads as arrays, in the order in which they ended."""

    candidate: Bools
    """Was it the candidate's."""
    share: Floats
    """The chance with which it became the candidate's, 0 to 1."""
    bad: Floats
    """The primary metric, 0 to 1."""
    error: Floats
    """0 or 1."""
    seconds: Floats
    """Not a number where unknown."""
    usd: Floats
    """Not a number where unknown."""
    unsafe: Floats
    """0 or 1."""
    handed_over: Floats
    """0 or 1."""


class Guardrail(NamedTuple):
    """One way in which the candidate may be worse."""

    figure: str
    """The field of `Seen` and of `Columns` that it looks at."""
    limit: str | None
    """The field of `Limits` that says what is allowed; None where nothing is."""
    test: Callable[[Floats, Columns, float], Floats]
    """Given the figure, all columns and what is allowed, returns the e-value after each thread."""
    words: str
    """What it sees in a candidate that is worse."""
    weight: float = 0.1
    """What it counts for in a rollback; those that are switched off leave their part to the others."""

    def allowed(self, limits: Limits) -> float | None:
        """Return how much more the candidate may have, or how many times as much; None where nobody looks."""
        return 0.0 if self.limit is None else getattr(limits, self.limit)

    @property
    def of_amounts(self) -> bool:
        """Return whether it compares seconds or dollars, by a ratio; the others compare shares of threads."""
        return self.figure in ("seconds", "usd")

    def told(self, values: Floats) -> str:
        """Return the figures of one side in words: a share, or the median of amounts, for the tests compare ranks."""
        if not len(values):
            return "nothing"
        if not self.of_amounts:
            return f"{values.mean():.1%}"
        return f"${np.median(values):.4f}" if self.figure == "usd" else f"{np.median(values):.2f} s"


class Walk(NamedTuple):
    """How the evidence grew, thread by thread."""

    harm: Floats
    """The weighted mean of the guardrails' e-values after each thread."""
    by_test: dict[str, Floats]
    """Each guardrail's e-value after each thread."""
    not_worse: Floats
    """The e-value against "worse by the margin" after each thread."""


def _share(values: Floats, columns: Columns, allowed: float) -> Floats:
    return wealth(values, columns.candidate, columns.share, allowed)


def _ratio(values: Floats, columns: Columns, ratio: float) -> Floats:
    """Compare ranks: the candidate's figures, divided by the ratio, must not tend to be higher than the champion's."""
    return rank_wealth(np.where(columns.candidate, values / ratio, values), columns.candidate, columns.share)


def _of_its_own(values: Floats, columns: Columns, limit: float) -> Floats:
    """Look at the candidate's threads alone: their share must not be above the limit."""
    mine = columns.candidate
    return spread(limit_wealth(values[mine] > 0, limit), mine)


GUARDRAILS = {
    "bad": Guardrail("bad", None, _share, "more of its threads are bad", weight=0.5),
    "errors": Guardrail("error", "errors", _share, "more of its threads ended with an error"),
    "handed_over": Guardrail("handed_over", "handed_over", _share, "more of its threads were taken over by a person"),
    "latency": Guardrail("seconds", "latency_ratio", _ratio, "its model calls take"),
    "cost": Guardrail("usd", "cost_ratio", _ratio, "its threads cost"),
    "unsafe": Guardrail("unsafe", "unsafe", _of_its_own, "more of its threads were unsafe"),
}


def walked(columns: Columns, limits: Limits) -> Walk:
    """Return every test's e-value after each thread."""
    by_test = {
        name: one.test(getattr(columns, one.figure), columns, allowed)
        for name, one in GUARDRAILS.items()
        if (allowed := one.allowed(limits)) is not None
    }
    harm = np.zeros(len(columns.bad))
    for name, weight in weights(by_test).items():
        harm += weight * by_test[name]
    not_worse = wealth(columns.bad, columns.candidate, columns.share, limits.margin, against="worse")
    return Walk(harm, by_test, not_worse)


def weights(names: Iterable[str]) -> dict[str, float]:
    """Return what each of these guardrails counts for; together 1."""
    whole = sum(GUARDRAILS[name].weight for name in names)
    return {name: GUARDRAILS[name].weight / whole for name in names}


def taken_back(columns: Columns, walk: Walk, limits: Limits) -> Verdict | None:
    """Return the verdict where all guardrails together ever reached what is asked for, with the one that did most."""
    asked = 1 / limits.alpha_rollback
    reached = walk.harm >= asked
    if not reached.any():
        return None
    when = int(reached.argmax())
    parts = {name: weight * walk.by_test[name][when] for name, weight in weights(walk.by_test).items()}
    return "rollback", (
        f"Take the candidate back: {_harm(max(parts, key=parts.__getitem__), columns, limits)}. "
        f"After {when + 1:,} threads the e-value of all guardrails together was {in_words(walk.harm[when])} where "
        f"{asked:,.0f} is asked for."
    )


def _harm(name: str, columns: Columns, limits: Limits) -> str:
    """Return what a guardrail saw, with both sides' figures."""
    one, mine = GUARDRAILS[name], columns.candidate
    values = getattr(columns, one.figure)
    if name == "unsafe":
        allowed = f"{limits.unsafe:.2%} are allowed" if limits.unsafe else "none is allowed"
        return f"{int(values[mine].sum()):,} of its {np.count_nonzero(mine):,} threads were unsafe, and {allowed}"
    figures = " against ".join(one.told(values[side & np.isfinite(values)]) for side in (mine, ~mine))
    times = f" more than {one.allowed(limits):g} times the champion's" if one.of_amounts else ""
    return f"{one.words}{times}, {figures}"


def columns_of(threads: Sequence[Seen], percent: float) -> Columns:
    """Return threads as arrays, or raise DataError with the number of the first that cannot be."""
    fields: Iterable[Sequence[Any]] = zip(*threads, strict=True) if threads else [()] * len(Seen._fields)
    found = dict(zip(Seen._fields, fields, strict=True))
    floats = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    share = np.where(np.isnan(floats["percent"]), percent, floats["percent"]) / 100
    for name, values in (("bad", floats["bad"]), ("percent", share)):
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            number = int(wrong.argmax())
            until = "1" if name == "bad" else "100"
            raise DataError(f"Thread {number} has {name} {found[name][number]!r}; it must be from 0 to {until}.")
    return Columns(floats["candidate"] > 0, share, *(floats[name] for name in Columns._fields[2:]))
