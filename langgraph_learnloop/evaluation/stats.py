"""Compare two models on the same cases: paired statistics of right and wrong.

Everywhere `wins` counts the cases that only the candidate got right, `losses` those that only the champion got right,
`n` all the cases that both answered; a difference is candidate minus champion, in shares (0.02 is two points).
The tests are exact: their error rate is at most what they say, however few the cases are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from langgraph_learnloop.errors import needing

with needing("An examination"):
    import numpy as np
    from numpy.typing import NDArray
    from scipy import special

Floats = NDArray[np.float64]
_TIE = 1e-9
"""Scores closer than this are the same score."""
SAFETY_TEST = "exact binomial test (Clopper-Pearson bound)"
_KEPT = 16_384
"""Answers that are kept of each slow function: the same few counts come again and again."""


def mcnemar_greater(wins: int, losses: int) -> float:
    """Return the one-sided exact p-value of "not better" (McNemar 1947): P(X >= wins), X binomial(all flips, 1/2)."""
    if wins == 0:
        return 1.0
    return float(special.bdtrc(wins - 1, wins + losses, 0.5))


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927; Newcombe 1998a, method 3); (0, 1) without cases."""
    if n == 0:
        return 0.0, 1.0
    z = quantile((1 + confidence) / 2)
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)


@lru_cache(_KEPT)
def difference_interval(wins: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Tango's score interval of a paired difference (Tango 1998, Statistics in Medicine 17, section 3).

    It holds the differences that the score test does not reject; (-1, 1) without cases.
    """
    if n == 0:
        return -1.0, 1.0
    z = quantile((1 + confidence) / 2)
    seen = (wins - losses) / n
    low = _crossing(lambda d: _tango(wins, losses, n, d) - z, -1.0, seen)
    high = _crossing(lambda d: _tango(wins, losses, n, d) + z, seen, 1.0)
    return low, high


@lru_cache(_KEPT)
def noninferiority(wins: int, losses: int, n: int, margin: float) -> float:
    """Return the exact p-value of "worse by `margin` or more"; 1.0 without cases.

    Outcomes are ordered by Tango's score (Tango 1998), and their probability is taken at the worst nuisance rate
    (Hsueh, Liu and Chen 2001, Biometrics 57: the unconditional exact test). The asymptotic score test would pass
    133 cases without a loss at two points, where chance does so in 6.8% of all trials; this one asks for 149.
    """
    if n == 0:
        return 1.0
    seen = float(_tango(wins, losses, n, -margin))
    reach = _most_losses(seen, n, margin)
    rates = np.concatenate([[0.0], np.geomspace(0.02 / n, (1 - margin) / 2, 64)])
    chances = _chance(reach, n, rates, margin)
    best = int(chances.argmax())
    near = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)], 33)
    return float(min(1.0, max(chances[best], _chance(reach, n, near, margin).max())))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return the p-values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6), same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return tuple(adjusted)


def wins_needed(alpha: float = 0.05) -> int:
    """Return how many wins without a loss make the one-sided McNemar test reach alpha: 0.5 ** wins <= alpha."""
    return math.ceil(math.log(alpha) / math.log(0.5) - _TIE)


def cases_needed(margin: float, alpha: float = 0.05) -> int:
    """Return the fewest cases that can prove non-inferiority, when not one is lost: (1 - margin) ** n <= alpha."""
    return math.ceil(math.log(alpha) / math.log1p(-margin) - _TIE)


@lru_cache(_KEPT)
def least_margin(n: int, alpha: float = 0.05) -> float:
    """Return the smallest margin that n cases can prove non-inferiority at, when not one is lost."""
    return float(1 - alpha ** (1 / n))


def mcnemar_power(n: int, change: float, noise: float = 0.0, alpha: float = 0.05, least: float = 0.0) -> float:
    """Return the chance that the one-sided exact test finds a change of this size on n cases.

    `noise` is the share of cases that flip the other way; the number of flips is summed over exactly
    (Connett et al. 1987, Statistics in Medicine 6). What is seen must also be a change of at least `least`.
    """
    flips = np.arange(n + 1)
    rate = min(1.0, change + 2 * noise)
    if rate <= 0:
        return 0.0
    weights = _binomial(flips, n, rate)
    needed = np.maximum(_flips_to_reach(n, alpha), np.ceil((flips + least * n) / 2 - _TIE).astype(np.int64))
    one_way = (change + noise) / (change + 2 * noise)
    hit = np.where(needed > flips, 0.0, special.bdtrc(np.maximum(needed - 1, 0), np.maximum(flips, 1), one_way))
    hit = np.where((needed == 1) & (flips == 0), 0.0, hit)
    return float(min(1.0, np.sum(weights * hit)))


def detectable(n: int, noise: float = 0.0, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Return the smallest change that n cases show with this power; None when no change is large enough."""
    largest = 1.0 - 2 * noise
    if n == 0 or largest <= 0 or mcnemar_power(n, largest, noise, alpha) < power:
        return None
    low, high = 0.0, largest
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(n, middle, noise, alpha) >= power else (middle, high)
    return high


def mcnemar_cases(change: float, noise: float = 0.0, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return about how many cases show a change with this power (Connett et al. 1987, formula 2)."""
    flips = change + 2 * noise
    spread = quantile(1 - alpha) * math.sqrt(flips) + quantile(power) * math.sqrt(max(flips - change * change, 0.0))
    return max(math.ceil((spread / change) ** 2), math.ceil(wins_needed(alpha) / change))


@lru_cache(_KEPT)
def noninferiority_power(n: int, noise: float, margin: float, alpha: float = 0.05) -> float:
    """Return the chance that `noninferiority` is at most alpha on n cases, when nothing got worse or better.

    `noise` is the share of cases that flip each way by chance; their numbers are summed over exactly.
    """
    if n < cases_needed(margin, alpha):
        return 0.0
    reach = _most_losses(_critical_score(n, margin, alpha), n, margin)
    return float(min(1.0, _chance(reach, n, np.array([min(noise, 0.5)]), 0.0)[0]))


def noninferiority_cases(noise: float, margin: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return about how many cases rule a loss of `margin` out with this power, when nothing got worse or better.

    By the score test with the flips expected at the margin (Nam 1997, Biometrics 53), and never fewer than
    `cases_needed`.
    """
    at_margin = math.sqrt(2 * noise + margin - margin * margin)
    spread = quantile(1 - alpha) * at_margin + quantile(power) * math.sqrt(2 * noise)
    return max(math.ceil((spread / margin) ** 2), cases_needed(margin, alpha))


def share_bounds(right: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact lower and upper bound of a share, each one-sided at 1 - alpha (Clopper and Pearson 1934)."""
    low = float(special.betaincinv(right, n - right + 1, alpha)) if right else 0.0
    high = float(special.betaincinv(right + 1, n - right, 1 - alpha)) if right < n else 1.0
    return low, high


def too_few_failures(failures: int, n: int, limit: float) -> float:
    """Return the exact p-value of "the share of right cases is at most `limit`": so few failures by chance."""
    return float(special.bdtr(failures, n, 1 - limit)) if n else 1.0


@lru_cache(_KEPT)
def safe_cases(failures: int, limit: float, alpha: float = 0.05) -> int:
    """Return the fewest cases that show a share above `limit` when so many of them fail."""
    low, high = failures, failures + cases_needed(1 - limit, alpha)
    while too_few_failures(failures, high, limit) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_few_failures(failures, middle, limit) <= alpha else (middle, high)
    return high


def safe_power(n: int, limit: float, part: float, alpha: float = 0.05) -> float:
    """Return the chance that n cases show a share above `limit`, if only this part of the allowed failures happens."""
    allowed = -1
    while n >= safe_cases(allowed + 1, limit, alpha):
        allowed += 1
    return float(special.bdtr(allowed, n, part * (1 - limit))) if allowed >= 0 else 0.0


def quantile(share: float) -> float:
    """Return the standard normal distribution's quantile."""
    return float(special.ndtri(share))


def _tango(wins: Any, losses: Any, n: int, difference: float) -> Any:
    """Return Tango's score of a supposed difference; works on numbers and on arrays."""
    d = difference
    b = wins + losses + d * (wins - losses - 2 * n)
    loss_rate = (b + np.sqrt(np.maximum(b * b + 8 * n * losses * d * (1 - d), 0.0))) / (4 * n)
    variance = n * np.maximum(2 * loss_rate + d * (1 - d), 0.0)
    distance = wins - losses - n * d
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(distance) < _TIE, 0.0, distance / np.sqrt(variance))


def _crossing(falling: Any, low: float, high: float) -> float:
    """Return where a falling function crosses zero, by bisection; the end that is nearer when it does not."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _most_losses(score: float, n: int, margin: float) -> NDArray[np.int64]:
    """Return, for each number of wins 0..n, the most losses that score at least as well; -1 where none does."""
    wins = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - wins
    while np.any(low < high):
        middle = (low + high + 1) // 2
        good = _tango(wins, middle, n, -margin) >= score - _TIE
        low, high = np.where(good, middle, low), np.where(good, high, middle - 1)
    return low


@lru_cache(_KEPT)
def _critical_score(n: int, margin: float, alpha: float) -> float:
    """Return the smallest of Tango's scores that `noninferiority` calls significant, by bisection."""
    rates = np.concatenate([[0.0], np.geomspace(0.02 / n, (1 - margin) / 2, 32)])
    low, high = 0.0, float(_tango(0, 0, n, -margin))
    for _ in range(20):
        middle = (low + high) / 2
        size = _chance(_most_losses(middle, n, margin), n, rates, margin).max()
        low, high = (low, middle) if size <= alpha else (middle, high)
    return high


def _chance(reach: NDArray[np.int64], n: int, win_rates: Floats, margin: float) -> Floats:
    """Return, for each rate of wins, the probability of the region below `reach` when losses are likelier by margin."""
    wins = np.arange(n + 1)
    rate = win_rates[:, None]
    share = np.minimum((rate + margin) / (1 - rate), 1.0)
    below = np.where(reach >= n - wins, 1.0, special.bdtr(np.maximum(reach, 0), np.maximum(n - wins, 1), share))
    return np.asarray(np.sum(_binomial(wins, n, rate) * np.where(reach < 0, 0.0, below), axis=1))


def _binomial(k: Any, n: int, rate: Any) -> Floats:
    """Return binomial probabilities, through logarithms so that large n does not overflow."""
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.asarray(np.exp(ways + special.xlogy(k, rate) + special.xlog1py(n - k, -rate)))


def _flips_to_reach(n: int, alpha: float) -> NDArray[np.int64]:
    """Return, for each number of flips 0..n, how many one way make the one-sided exact test reach alpha."""
    flips = np.arange(n + 1)
    low, high = np.zeros(n + 1, dtype=np.int64), flips + 1
    while np.any(low < high):
        middle = (low + high) // 2
        tail = np.where(middle <= 0, 1.0, special.bdtrc(np.maximum(middle - 1, 0), np.maximum(flips, 1), 0.5))
        good = (tail <= alpha) | (middle > flips)
        low, high = np.where(good, low, middle + 1), np.where(good, middle, high)
    return low
