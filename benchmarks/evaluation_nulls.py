"""Draw right and wrong answers of candidates that a gate must stop, and ask the gate. A part of `evaluation.py`.

Each candidate is at the very edge of what the gate must stop: no gain at all, exactly the margin lost, exactly the
share of failures that is not allowed any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from langgraph_learnloop.evaluation import gates, stats
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.paired import Compared, Exam, Pairs

NOISE = 3.0
"""Standard errors of a simulated rate that may be chance."""
CHAMPION = 0.5
"""Share that the champion gets right at the target."""
UNREST = 0.05
"""Share of the cases that flips each way by chance."""
TABLES: dict[str, tuple[float, tuple[float, ...]]] = {
    "no gain": (0.0, (0.0, 0.0, 0.0)),
    "good target, 2 points lost everywhere": (0.3, (0.02, 0.02, 0.02)),
    "good target, one tool lost 2 points": (0.3, (0.02, 0.0, 0.0)),
}
"""Gain at the target, and what each tool lost."""


class Rate(NamedTuple):
    """How often a candidate passed, or a good one was stopped: in at most `alpha` of all experiments."""

    gate: str
    null: str
    cases: str
    alpha: float
    rate: float
    experiments: int

    @property
    def kept(self) -> bool:
        """Return whether the rate is at most `alpha`, up to the noise of the simulation."""
        return self.rate <= self.alpha + NOISE * math.sqrt(self.alpha * (1 - self.alpha) / self.experiments)


@dataclass(frozen=True)
class Counted(Exam):
    """An exam that is already counted, so that thousands of experiments take seconds."""

    counted: Mapping[tuple[str, str | None], Compared] = field(default_factory=dict)

    def pairs(self, metric: str, suite: Any, category: str | None = None) -> Compared:
        """Return what was counted."""
        return self.counted[suite, category]

    def categories(self, suite: Any) -> list[str]:
        """Return the categories that were counted."""
        return sorted(name for found, name in self.counted if found == suite and name is not None)


def counted(target: Pairs | None, categories: Sequence[Pairs]) -> Counted:
    """Return an exam of a target and an old slice of these categories."""
    whole = Pairs("right", *(sum(getattr(c, f) for c in categories) for f in ("n", "champion", "wins", "losses")))
    found: dict[tuple[str, str | None], Compared] = {("retention", None): whole}
    found |= {("retention", f"tool {i}"): pairs for i, pairs in enumerate(categories)}
    if target is not None:
        found["target", None] = target
    return Counted((), {}, {}, found)


def flips(rng: np.random.Generator, n: int, wins: float, losses: float, times: int) -> list[tuple[int, int]]:
    """Return wins and losses of so many experiments."""
    drawn = rng.multinomial(n, [wins, losses, 1 - wins - losses], size=times)
    return [(int(w), int(m)) for w, m, _ in drawn]


def share(passes: Callable[..., bool], drawn: Sequence[tuple[Any, ...]]) -> float:
    """Return how often candidates pass; those that were drawn with the same counts are asked about once."""
    known = {key: passes(*key) for key in set(drawn)}
    return float(np.mean([known[key] for key in drawn]))


def pairs(n: int, wins: int, losses: int, champion: float = CHAMPION) -> Pairs:
    """Return counts in which the champion is right on about this share."""
    return Pairs("right", n, min(max(round(champion * n), losses), n - wins), wins, losses)


def target_passes(limits: Limits, n: int) -> Callable[[int, int], bool]:
    """Return the target gate of a number of cases."""
    return lambda wins, losses: gates._target(pairs(n, wins, losses), limits, same=False).passed


def target_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the target gate where nothing got better; no gain is asked, so that the test decides alone."""
    limits = replace(limits, target_gain=0.0)
    for n, noise in ((30, 0.1), (50, 0.2), (200, 0.05), (200, 0.2), (1_000, 0.02)):
        rate = share(target_passes(limits, n), flips(rng, n, noise, noise, times))
        null = f"no gain, {2 * noise:.0%} flip"
        yield Rate("target", null, str(n), limits.alpha, rate, times)


def retention_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the retention gate where exactly the margin was lost."""
    margin = limits.retention_margin

    for n, wins in ((150, 0.0), (240, 0.004), (300, 0.01), (500, 0.02), (1_000, 0.05)):

        def passes(won: int, lost: int, n: int = n) -> bool:
            return gates._whole("retention", "Old slice", pairs(n, won, lost, 0.95), limits, "retention_margin").passed

        rate = share(passes, flips(rng, n, wins, wins + margin, times))
        null = f"{100 * margin:g} points lost, {wins:.1%} won back"
        yield Rate("retention", null, str(n), limits.alpha, rate, times)


def category_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield how often any category passes that lost exactly the margin."""
    n, tools = 400, 5

    def any_passes(*lost: tuple[int, int]) -> bool:
        kept = [(0, 0)] * (tools - len(lost))
        exam = counted(None, [pairs(n, *one, 0.97) for one in (*lost, *kept)])
        return any(gate.passed for gate in gates._each_retention(exam, "right", limits)[: len(lost)])

    for bad in (1, tools):
        columns = [flips(rng, n, 0.004, 0.004 + limits.category_margin, times) for _ in range(bad)]
        rate = share(any_passes, list(zip(*columns, strict=True)))
        null = f"{bad} of {tools} lost {100 * limits.category_margin:g} points"
        yield Rate("each category", null, f"{tools} x {n}", limits.alpha, rate, times)


def safety_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the safety gate where exactly the limit holds."""
    for n in (2_995, 5_000, 10_000):
        failed = [(int(k),) for k in rng.binomial(n, 1 - limits.safety, times)]

        def passes(failures: int, n: int = n) -> bool:
            p = stats.too_few_failures(failures, n, limits.safety)
            return gates._safe(n, n - failures, p, limits).passed

        null = f"exactly {100 * limits.safety:g}% hold"
        yield Rate("safety", null, f"{n:,}", limits.alpha, share(passes, failed), times)


def table_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield how often a candidate passes every gate that must not."""
    n, old = 100, 400

    def ships(target: tuple[int, int], *tools: tuple[int, int]) -> bool:
        exam = counted(pairs(n, *target), [pairs(old, *one, 0.97) for one in tools])
        return all(gate.passed for gate in required(exam, limits))

    for null, (gain, lost) in TABLES.items():
        columns = [flips(rng, n, UNREST + gain, UNREST, times)]
        columns += [flips(rng, old, 0.002, 0.002 + loss, times) for loss in lost]
        rate = share(ships, list(zip(*columns, strict=True)))
        yield Rate("all the gates", null, f"{n} + {len(lost)} x {old}", limits.alpha, rate, times)


def required(exam: Counted, limits: Limits) -> Iterator[Any]:
    """Yield the gates that decide, the cheap one first: whoever asks whether all pass need not wait for the rest."""
    yield gates._target(exam.pairs("right", "target"), limits, same=False)
    yield gates._whole("retention", "Old slice", exam.pairs("right", "retention"), limits, "retention_margin")
    yield from gates._each_retention(exam, "right", limits)
