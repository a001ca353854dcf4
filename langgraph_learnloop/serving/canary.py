"""Watch a canary: say after every finished thread whether the candidate may get more traffic, or none at all.

What the tests lean on is in bets.py; what takes a candidate back in guardrails.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from langgraph_learnloop.errors import ConfigError, needing
from langgraph_learnloop.serving.bets import Floats, highest, in_words, wealth
from langgraph_learnloop.serving.guardrails import Columns, columns_of, taken_back, walked
from langgraph_learnloop.serving.rollouts import Evidence, Limits, Seen, Verdict

with needing("A canary"):
    import numpy as np
    from scipy import special

_CONCENTRATIONS = (20.0, 1000.0)
"""How near to the promised percent a wrong routing is looked for: far away, and close by."""
_STEPS = 12
"""Halvings in the search of the interval's ends: to less than a tenth of a point."""


def evidence(
    threads: Sequence[Seen],
    limits: Limits,
    assigned: tuple[int, int],
    percent: float,
    *,
    waited: bool = True,
    last: bool = False,
) -> Evidence:
    """Return what all the threads of a rollout say, in the order in which they ended.

    `assigned` counts the new threads that this stage gave to the champion and to the candidate, finished or not;
    `percent` is what the candidate should get of them. `waited` says that the stage has lasted long enough, `last` that
    the next step gives the candidate everything. Raises DataError for a thread that cannot be, ConfigError for a
    percent that cannot be.
    """
    if not 0 < percent <= 100:
        raise ConfigError(f"A stage must send above 0 and up to 100 percent to the candidate, not {percent!r}.")
    columns = columns_of(threads, percent)
    mine, walk = columns.candidate, walked(columns, limits)
    counts = int(np.count_nonzero(~mine)), int(np.count_nonzero(mine))
    in_stage = int(np.count_nonzero(mine & (columns.share == percent / 100)))
    e_values = {name: highest(path) for name, path in {**walk.by_test, "not_worse": walk.not_worse}.items()}
    routing = float(routing_p(*assigned, percent / 100))
    interval = difference(columns, limits)
    move, because = (
        taken_back(columns, walk, limits)
        or _misrouted(routing, assigned, percent, limits)
        or _too_early(in_stage, percent, limits, waited=waited)
        or (_promoted(e_values["not_worse"], interval, percent, limits) if last else None)
        or ("advance", f"Advance from {percent:g} percent: {in_stage} threads of the candidate raised no alarm.")
    )
    shares = _mean(columns.bad[~mine]), _mean(columns.bad[mine])
    return Evidence(move, because, *shares, *interval, e_values, counts, routing)


def difference(columns: Columns, limits: Limits) -> tuple[float, float]:
    """Return the differences of the bad shares, candidate minus champion, that the bets have not ruled out.

    It is the confidence sequence that belongs to the tests (Waudby-Smith and Ramdas 2024, section 4): at the default
    limits, low is above 0 where the bad share alone asks for a rollback, and high below the margin where "not worse"
    was shown. Where the difference changes, low is below its greatest value and high above its least.
    """
    enough = 2 / limits.alpha_rollback

    def ruled_out(change: float, against: Literal["better", "worse"]) -> bool:
        path = wealth(columns.bad, columns.candidate, columns.share, change, against=against)
        return highest(path) >= enough

    return (
        -_least(lambda change: ruled_out(-change, "better")),
        _least(lambda change: ruled_out(change, "worse")),
    )


def routing_p(champion: Any, candidate: Any, share: float) -> Any:
    """Return the p-value of "each new thread went to the candidate with this chance", for counts or arrays of counts.

    It is safe to look at any time: the inverse of a mixture of likelihood ratios (Lindon and Malek 2022, "Anytime-valid
    inference for multinomial count data", NeurIPS 35), here of two beta mixtures around the promised share.
    """
    if share >= 1:
        return np.where(np.asarray(champion) > 0, 0.0, 1.0)
    odds = 0.0
    for concentration in _CONCENTRATIONS:
        a, b = concentration * share, concentration * (1 - share)
        mixed = special.betaln(a + candidate, b + champion) - special.betaln(a, b)
        with np.errstate(over="ignore"):
            odds = odds + np.exp(mixed - candidate * math.log(share) - champion * math.log1p(-share))
    return np.minimum(1.0, len(_CONCENTRATIONS) / odds)


def _least(ruled_out: Callable[[float], bool]) -> float:
    """Return the least change that is ruled out, from -1 to 1; 1.0 where not even that is."""
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(middle) else (middle, high)
    return high


def _misrouted(p: float, assigned: tuple[int, int], percent: float, limits: Limits) -> Verdict | None:
    if p > limits.alpha_routing:
        return None
    champion, candidate = assigned
    return "hold", (
        f"Hold: the candidate got {candidate:,} of {champion + candidate:,} new threads where {percent:g} percent were "
        f"promised (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}). Something routes wrongly: find it before the next "
        "step, for a comparison of threads that chose their release says nothing."
    )


def _too_early(in_stage: int, percent: float, limits: Limits, *, waited: bool) -> Verdict | None:
    if in_stage < limits.least_threads:
        return "hold", (
            f"Hold at {percent:g} percent: the candidate has finished {in_stage} of the {limits.least_threads} threads "
            "that a stage takes."
        )
    return None if waited else ("hold", f"Hold at {percent:g} percent: the stage has not lasted long enough.")


def _promoted(e_value: float, interval: tuple[float, float], percent: float, limits: Limits) -> Verdict:
    asked = 1 / limits.alpha_promote
    low, high = (f"{100 * end:+.1f}" for end in interval)
    margin = f"{100 * limits.margin:g}"
    found = f"(interval {low} to {high} points; e-value {in_words(e_value)} where {asked:,.0f} is asked for)."
    if e_value >= asked:
        return "advance", f"Promote the candidate: if it is worse at all, then by less than {margin} points {found}"
    return "hold", (
        f"Hold at {percent:g} percent: the candidate is not yet shown to be worse by less than {margin} points, if at "
        f"all {found}"
    )


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
