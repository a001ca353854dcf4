"""Draw scores, seconds and dollars of candidates that a gate must stop, and ask the gate. A part of `evaluation.py`.

Each candidate is at the very edge of what the gate must stop: no gain on average, exactly the margin lost, exactly the
ratio that is not allowed any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from evaluation_nulls import Rate

from langgraph_learnloop.evaluation import costs, measures
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.paired import Scores

LATENCY = COST = 1.2
"""Times the champion's that a candidate may take."""
KINDS = ("symmetric", "small wins, total losses", "rare large wins", "long tail of losses")

Array = Any


def differences(rng: np.random.Generator, kind: str, shape: tuple[int, int], mean: float) -> Array:
    """Return differences of scores in [-1, 1] whose mean is exactly as given."""
    if kind == "symmetric":
        return mean + rng.uniform(-0.5, 0.5, shape)
    if kind == "small wins, total losses":  # 0.1 won or 0.9 lost
        return np.where(rng.random(shape) < 0.1 - mean, -0.9, 0.1)
    if kind == "rare large wins":
        return np.where(rng.random(shape) < mean + 0.1, 0.9, -0.1)
    return mean - 0.9 * (rng.beta(0.5, 3.0, shape) - 0.5 / 3.5)  # a long tail of losses


def scored(found: Array) -> Scores:
    """Return scores with these differences."""
    return Scores("score", tuple(np.maximum(-found, 0.0).tolist()), tuple(np.maximum(found, 0.0).tolist()))


def score_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the target and the retention gate where the figures are scores.

    The gates' own p-values are asked; the target's two tests must both agree, so that the slow permutation test is
    run where the other one lets a candidate through.
    """
    alpha, margin = limits.alpha, limits.retention_margin
    for kind in KINDS:
        for n in (20, 50, 200):
            drawn = differences(rng, kind, (times, n), 0.0)
            likely = drawn[measures.no_gain(drawn, -1.0, alpha) <= alpha]
            passed = sum(scored(one).not_better(alpha) <= alpha for one in likely)
            yield Rate("target, scores", f"no gain, {kind}", str(n), alpha, passed / times, times)
        for n in (200, 500):
            drawn = differences(rng, kind, (times, n), -margin)
            rate = float(np.mean(measures.no_gain(drawn + margin, margin - 1, alpha) <= alpha))
            null = f"{100 * margin:g} points lost, {kind}"
            yield Rate("retention, scores", null, str(n), alpha, rate, times)


def spent(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return what both sides spend on the same cases, from one distribution on both sides."""
    if kind == "independent":
        return rng.lognormal(0, 1.0, shape), rng.lognormal(0, 1.0, shape)
    if kind == "two kinds of cases":
        kinds = np.where(rng.random(shape) < 0.1, 8.0, 1.0)
        return kinds * rng.lognormal(0, 0.2, shape), kinds * rng.lognormal(0, 0.2, shape)
    common = rng.lognormal(0, 0.8, shape)
    return common * rng.lognormal(0, 0.3, shape), common * rng.lognormal(0, 0.3, shape)


def latency_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the latency gate where a ratio is exactly at the limit."""
    for n in (100, 200, 400):
        for kind in ("same cases", "independent", "two kinds of cases"):
            before, after = spent(rng, kind, (times, n))
            rate = slow_rate(before, LATENCY * after, limits.alpha)
            yield Rate("latency", f"{LATENCY} times, {kind}", str(n), limits.alpha, rate, times)
        before, after = (rng.lognormal(0, 0.8, (times, n)) for _ in range(2))
        slow = np.where(after > math.exp(0.8), LATENCY * after, after)  # the slowest 16% only
        rate = slow_rate(before, slow, limits.alpha)
        yield Rate("latency", f"slow cases {LATENCY} times", str(n), limits.alpha, rate, times)


def slow_rate(before: Array, after: Array, alpha: float) -> float:
    """Return how often the latency gate passes; the 95th percentile is asked where the median has let one through."""
    fast = measures.slower(before, after, 0.5, LATENCY, alpha) <= alpha
    return float(np.sum(costs.slow_p(before[fast], after[fast], LATENCY, alpha) <= alpha) / len(before))


def cost_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the cost gate where the ratio of the means is exactly at the limit."""
    for n in (30, 100, 400):
        for kind in ("same cases", "independent", "two kinds of cases"):
            before, after = spent(rng, kind, (times, n))
            rate = float(np.mean(measures.dearer(before, COST * after, COST, limits.alpha) <= limits.alpha))
            yield Rate("cost", f"{COST} times, {kind}", str(n), limits.alpha, rate, times)
        for sigma in (1.0, 1.5):
            after = COST * rng.lognormal(-sigma * sigma / 2, sigma, (times, n))
            rate = float(np.mean(measures.dearer(np.ones((times, n)), after, COST, limits.alpha) <= limits.alpha))
            null = f"{COST} times, long tail ({sigma:g}) beside a fixed price"
            yield Rate("cost", null, str(n), limits.alpha, rate, times)
