"""Compare two models on the same cases where the figures are numbers: scores, seconds, tokens, dollars.

Arrays have the cases on their last axis, in an order that has nothing to do with the figures. A difference is
candidate minus champion, a ratio is candidate by champion. Random draws are seeded: the same figures give the same
answer. What keeps its error rate on every bounded score is `no_gain`; a permutation test does so only where the
differences are symmetric, which ten small wins beside a total loss are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from langgraph_learnloop.errors import needing
from langgraph_learnloop.evaluation.stats import Floats, wins_needed

with needing("An examination"):
    import numpy as np
    from scipy import special

_EXACT_PAIRS = 16
"""Up to so many differences all the flips of signs are counted."""
_FLIPS = 10_000
"""Flips drawn where there are more."""
_RESAMPLES = 2_000
"""Bootstrap samples of an interval."""
_AT_ONCE = 4_000_000
"""Numbers drawn at the same time, so that a long suite needs no more memory than a short one."""
_BOLDEST = 0.75
"""Share of the wealth that a bet may lose at most."""
_PRIOR = 0.25
"""Variance supposed before the first case, in units of the largest loss squared."""
_MISSED = 0.2
"""Part of the error rate that is spent on not knowing the quantile before."""
_WIDEST = 1_000.0
"""Ratios are sought up to this."""
FINEST = 1e-4
"""Ratios and effects are sought no finer than this."""
_TIE = 1e-12


def sign_flip(differences: Floats, seed: int = 0) -> float:
    """Return the one-sided p-value of "each difference could as well have the other sign" (Fisher 1935, section 21).

    All flips are counted where at most 16 differences are not 0; else 10,000 are drawn, and the p-value is
    (b + 1) / (10,001) for b that reach what was seen (Phipson and Smyth 2010).
    """
    moved = differences[np.abs(differences) > _TIE]
    seen = float(moved.sum()) - _TIE * max(1, moved.size)
    if moved.size <= _EXACT_PAIRS:
        sums = np.zeros(1)
        for one in moved:
            sums = np.concatenate([sums + one, sums - one])
        return float(np.mean(sums >= seen))
    rng, reached = np.random.default_rng(seed), 0
    for count in _portions(_FLIPS, moved.size):
        signs = rng.integers(0, 2, (count, moved.size), dtype=np.int8) * 2 - 1
        reached += int(np.sum(signs @ moved >= seen))
    return (reached + 1) / (_FLIPS + 1)


def no_gain(gains: Floats, lowest: float, alpha: float) -> Any:
    """Return the p-value of "the mean of these gains is 0 or less", along the last axis; 1.0 without cases.

    No gain may be below `lowest` (< 0). A gambler bets on each gain with what the gains before it taught; if the mean
    is not above 0 the wealth is a supermartingale, so that its maximum reaches 1 / p with probability p at most
    (Ville 1939). The bets are the predictable plug-in ones of Waudby-Smith and Ramdas 2024 ("Estimating means of
    bounded random variables by betting", JRSS B 86, section 4), for a known number of cases and `alpha`; with another
    `alpha` they stay valid and lose power.
    """
    n = gains.shape[-1]
    if n == 0:
        return np.ones(gains.shape[:-1])[()]
    seen = np.arange(1, n + 1)
    errors = np.cumsum((gains - np.cumsum(gains, axis=-1) / seen) ** 2, axis=-1)
    before = np.concatenate([np.zeros((*gains.shape[:-1], 1)), errors[..., :-1]], axis=-1)
    variance = (_PRIOR * lowest * lowest + before) / seen
    bets = np.minimum(np.sqrt(-2 * math.log(alpha) / (n * variance)), _BOLDEST / -lowest)
    wealth = np.cumsum(np.log1p(bets * gains), axis=-1)
    return np.exp(-np.maximum(wealth.max(axis=-1), 0.0))


def bet_power(gains: Floats, hoped: float, lowest: float, alpha: float, least: float = -1.0, seed: int = 0) -> float:
    """Return the chance that `no_gain` finds a mean of `hoped` in gains that scatter like these, by 400 resamples.

    What is seen must also be a mean of at least `least`.
    """
    n = gains.size
    if n == 0:
        return 0.0
    rng = np.random.default_rng(seed)
    rows = max(20, min(400, _AT_ONCE // n))
    drawn = np.maximum(rng.choice(gains - gains.mean() + hoped, (rows, n)), lowest)
    return float(np.mean((no_gain(drawn, lowest, alpha) <= alpha) & (drawn.mean(axis=-1) >= least - _TIE)))


def bet_cases(spread: float, hoped: float, lowest: float, alpha: float, power: float = 0.8) -> int:
    """Return about how many cases let `no_gain` find a mean of `hoped` with this power, given a standard deviation.

    With the best bet the logarithm of the wealth is normal for small gains; no bet is above the boldest one.
    """
    reach = math.sqrt(-2 * math.log(alpha)) + float(special.ndtri(power))
    surest = -math.log(alpha) / math.log1p(_BOLDEST / -lowest * hoped)
    return math.ceil(max((reach * spread / hoped) ** 2, surest))


def bootstrap(
    figure: Callable[[Floats], Any], figures: Floats, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a figure of cases (Efron and Tibshirani 1993, section 13.3).

    `figures` has the cases on its last axis, and whatever belongs to one case before it; `figure` takes that axis away.
    """
    n = figures.shape[-1]
    rng = np.random.default_rng(seed)
    found = [figure(figures[..., rng.integers(0, n, (count, n))]) for count in _portions(_RESAMPLES, figures.size)]
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def slower(before: Floats, after: Floats, share: float, limit: float, alpha: float) -> Any:
    """Return the p-value of "this quantile after is `limit` times the one before, or more", along the last axis.

    The true quantile before, t, is not known, so that the worst t counts in an interval that misses it in a fifth of
    `alpha` at most, and that fifth is added to the p-value (Berger and Boos 1994, JASA 89). The interval's ends are
    order statistics (David and Nagaraja 2003, section 7.1). Nothing is asked of the distributions.
    """
    missed = _MISSED * alpha
    one = _slower_paired if before.shape[-1] >= _paired_cases(share, alpha) else _slower_alone
    return np.minimum(one(before, after, share, limit, missed) + missed, 1.0)


def _slower_paired(before: Floats, after: Floats, share: float, limit: float, missed: float) -> Floats:
    """Ask whether more cases are below limit * t after than below t before: an exact McNemar test for each t.

    It is worst where t is one of the figures before; ties among them count against the candidate.
    """
    ranks = _ranks(before.shape[-1], share, missed) or (0, -1)
    ordered, worst = np.sort(before, axis=-1), np.zeros(before.shape[:-1])
    for rank in range(ranks[0], ranks[1] + 1):
        edge = ordered[..., rank, None]
        old, new = before <= edge, after < limit * edge
        both = np.sum(old & new, axis=-1)
        wins, losses = np.sum(new, axis=-1) - both, np.sum(old, axis=-1) - both
        p = np.where(wins > 0, special.bdtrc(np.maximum(wins - 1, 0), np.maximum(wins + losses, 1), 0.5), 1.0)
        worst = np.maximum(worst, p)
    return worst


def _slower_alone(before: Floats, after: Floats, share: float, limit: float, missed: float) -> Floats:
    """Ask, where there are too few cases for pairs, whether more than the share are below limit * the smallest t."""
    n = before.shape[-1]
    low = int(np.sum(special.bdtr(np.arange(n), n, share) <= missed))
    if low == 0:
        return np.ones(before.shape[:-1])
    edge = np.sort(before, axis=-1)[..., low - 1, None]
    below = np.sum(after < limit * edge, axis=-1)
    return np.where(below > 0, special.bdtrc(np.maximum(below - 1, 0), n, share), 1.0)


def _ranks(n: int, share: float, error_rate: float) -> tuple[int, int] | None:
    """Return the ranks, from 0, of the order statistics that hold a quantile; None where there are too few cases."""
    below = special.bdtr(np.arange(n), n, share)
    low, high = int(np.sum(below <= error_rate / 2)) - 1, int(np.sum(1 - below > error_rate / 2))
    return (low, high) if low >= 0 and high < n else None


def quantile_ratio_bound(before: Floats, after: Floats, share: float, alpha: float) -> float:
    """Return an upper bound, with error rate alpha, of the ratio of a quantile after to before: `slower` inverted."""
    return least_ratio(lambda limit: slower(before, after, share, limit, alpha) <= alpha, 1 / _WIDEST)


def least_ratio(passes: Callable[[float], Any], low: float) -> float:
    """Return the smallest ratio above `low` that passes, by bisection; infinite where none does."""
    high = _WIDEST
    if not passes(high):
        return math.inf
    while high / low > 1 + FINEST:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def least_effect(shown: Callable[[float], bool], largest: float) -> float | None:
    """Return the smallest effect that is shown, by bisection; None where not even the largest is."""
    low, high = 0.0, largest
    if high <= 0 or not shown(high):
        return None
    while high - low > FINEST:
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def quantile_cases(share: float, alpha: float) -> int:
    """Return the fewest cases with which `slower` can reach alpha, for a share of one half or more."""
    return math.ceil(math.log((1 - _MISSED) * alpha) / math.log(share) - _TIE)


@lru_cache(maxsize=256)
def _paired_cases(share: float, alpha: float) -> int:
    """Return the fewest cases for pairs: above the largest t enough must be left for the McNemar test to win."""
    missed = _MISSED * alpha
    wins = wins_needed(alpha - missed)
    n = wins
    while (ranks := _ranks(n, share, missed)) is None or n - 1 - ranks[1] < wins:
        n += 1
    return n


def dearer(before: Floats, after: Floats, limit: float, alpha: float) -> Any:
    """Return the p-value of "the mean after is `limit` times the mean before, or more", along the last axis.

    It is `no_gain` of what each case saves under the limit. That has no lowest value by nature: none is supposed to be
    below twice the largest of all the figures seen, so that the error rate is a matter of simulation, not of proof.
    """
    largest = 2 * np.maximum(after.max(axis=-1), limit * before.max(axis=-1)) if before.shape[-1] else np.ones(())
    scale = np.where(largest > 0, largest, 1.0)[..., None]
    return no_gain((limit * before - after) / scale, -1.0, alpha)


def _portions(total: int, width: int) -> list[int]:
    """Return how many rows of this width to draw at a time."""
    most = max(1, min(total, _AT_ONCE // max(width, 1)))
    return [most] * (total // most) + ([total % most] if total % most else [])
