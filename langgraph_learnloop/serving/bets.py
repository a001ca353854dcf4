"""Bet on a candidate's threads, one by one, against what a release that is no worse would do.

The unit is a thread. New threads go to the candidate with a known chance, `percent`; that draw is all the tests lean
on. For any figure x of a thread from 0 to 1, any guess m made before it ended, and p the candidate's chance,

    (x - m) * (1[candidate] - p)    has the mean    p * (1 - p) * (candidate's share - champion's share),

whatever the hour, the traffic or the stage: this is inverse probability weighting with a guess to calm it, scaled by
p * (1 - p) so that one percent of traffic does not blow it up (Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro
2024, "Anytime-valid off-policy inference for contextual bandits"). Each test bets on it, thread by thread, against its
own hypothesis; while that is true no bet pays on average, so that the wealth, begun at 1, ever reaches 1 / alpha with
the chance alpha at most (Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting", JRSS B 86). One may therefore look after every thread and stop on what one sees. The wealth is the e-value.

A hypothesis speaks of every thread: the candidate is never worse, or always worse by the margin. A release that is
worse by night and better by day fits neither, and ends where the threads are. What must hold is the draw: which
threads are asked about, and when, may depend on anything but on who got them. A candidate that is merely slower to end
its threads is forgiven, for the guess m is what the champion's mean has been.
"""

from __future__ import annotations

from typing import Literal

from langgraph_learnloop.errors import needing

with needing("A canary"):
    import numpy as np
    from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHANGES = {0.01: 0.1, 0.04: 0.4, 0.12: 0.4, 0.4: 0.1}
"""True differences that the bets are best at, and the part of the wealth that is put on each."""
BOLDEST = 0.5
"""Share of the wealth that one thread may cost at most."""
_GUESS = 10.0
"""Threads that the first guess of the champion's share is worth."""
_RARE = 0.1
"""The first guess of a share."""
_MIDDLE = 0.5
"""The first guess of a rank."""
_FIRST_RANKS, _RANKED = 16, 256
"""Threads before there is anything to be ranked among, and the most among which one is ranked."""
_SHARES = (0.01, 0.1, 0.5)
"""Shares that the bets against a limit are best at, where the limit is below them."""
TINY = 1e-3
"""A bet never supposes less to lose, or to vary, than this."""
_HUGE = 1e6
"""An e-value above this is not written out."""


def wealth(
    values: Floats,
    candidate: Bools,
    share: Floats,
    change: float,
    *,
    against: Literal["better", "worse"] = "better",
    guess: float = _RARE,
) -> Floats:
    """Return the wealth, after each thread, of bets against "the candidate's mean is higher by `change` at most".

    Against "worse" it is "higher by `change` at least". The bets are shared out between true differences; against each,
    a bet of difference / variance grows fastest, to the second order.
    """
    mean, variance = _expected(values, ~candidate, guess)
    drawn = share * (1 - share)
    # A thread that could only go one way tells nothing of the other one.
    gain = np.where(drawn > 0, (values - mean) * (candidate - share) - change * drawn, 0.0)
    if against == "better":
        risk = np.maximum((1 - mean) * share, mean * (1 - share)) + change * drawn
    else:
        gain = -gain
        risk = np.maximum((1 - mean) * (1 - share), mean * share) - change * drawn
    most = BOLDEST / np.maximum(risk, TINY)
    factors = np.array([*CHANGES])[:, None] * (1 / variance)  # bets by threads; by and by the wealth
    np.minimum(factors, most, out=factors)
    factors *= gain
    factors += 1
    with np.errstate(over="ignore"):  # what is beyond all doubt is infinite
        np.cumprod(factors, axis=1, out=factors)
        return np.array([*CHANGES.values()]) @ factors


def _expected(values: Floats, champion: Bools, guess: float) -> tuple[Floats, Floats]:
    """Return what was known before each thread of the champion's mean and variance."""
    threads = _GUESS + _before(champion.astype(float))
    mean = (_GUESS * guess + _before(np.where(champion, values, 0.0))) / threads
    square = (_GUESS * guess + _before(np.where(champion, values * values, 0.0))) / threads
    return mean, np.maximum(square - mean * mean, TINY)


def _before(values: Floats) -> Floats:
    """Return the sum of all values before each."""
    return np.cumsum(values) - values


def rank_wealth(values: Floats, candidate: Bools, share: Floats) -> Floats:
    """Return the wealth, after each thread, of bets against "the candidate's values do not tend to be higher".

    Values that are no number are left out.
    """
    known = np.isfinite(values)
    return spread(wealth(_ranks(values[known]), candidate[known], share[known], 0.0, guess=_MIDDLE), known)


def _ranks(values: Floats) -> Floats:
    """Return for each value the share of lower ones among some before it: the newest at the last power of two."""
    ranks = np.full(len(values), _MIDDLE)
    begin = _FIRST_RANKS
    while begin < len(values):
        earlier = np.sort(values[:begin][-_RANKED:])
        ranks[begin : 2 * begin] = np.searchsorted(earlier, values[begin : 2 * begin]) / len(earlier)
        begin *= 2
    return ranks


def limit_wealth(hits: Bools, limit: float) -> Floats:
    """Return the wealth, after each, of bets against "their share is at most the limit", whatever others do."""
    shares = [share for share in _SHARES if share > limit] or [(1 + limit) / 2]
    paths = np.zeros(len(hits))
    for share in shares:
        with np.errstate(divide="ignore", over="ignore"):
            paths += np.cumprod(np.where(hits, np.divide(share, limit), (1 - share) / (1 - limit)))
    return paths / len(shares)


def spread(path: Floats, known: Bools) -> Floats:
    """Return a path for all the threads from one for those where something was known; it begins at 1."""
    return np.concatenate([[1.0], path])[np.cumsum(known)]


def highest(path: Floats) -> float:
    """Return the most that the wealth was so far; it begins at 1."""
    return float(path.max(initial=1.0))


def in_words(e_value: float) -> str:
    """Return an e-value as people read it."""
    return f"above {_HUGE:,.0f}" if e_value > _HUGE else f"{e_value:,.0f}"
