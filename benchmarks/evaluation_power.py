"""Measure what better candidates meet: how often they ship, and whether they are stopped. A part of `evaluation.py`.

Beside the target gate stand two rules that are often used in its place: "the mean is 5 points better", and Student's
t-test as if the two releases had been asked different questions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from evaluation_nulls import UNREST, Rate, flips, pairs, share, target_passes
from scipy import special

from langgraph_learnloop.evaluation import measures
from langgraph_learnloop.evaluation.futility import ERROR_RATE, Futility
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.records import Case, CaseResult

GAINS = (0.05, 0.10, 0.20)
SIZES = (50, 200, 1_000)
ASKED = {"target": 100, "retention": 250}
"""Cases of the examinations that may be stopped early."""


def threshold(n: int, wins: int, losses: int, limits: Limits) -> bool:
    """Return whether the mean is better by what is asked: no test at all."""
    return (wins - losses) / n >= limits.target_gain - 1e-12


def unpaired(n: int, wins: int, losses: int, limits: Limits) -> bool:
    """Return what Student's one-sided t-test says when it is not told that the cases are the same."""
    found = pairs(n, wins, losses)
    before, after = found.before or 0.0, found.after or 0.0
    variance = (before * (1 - before) + after * (1 - after)) / (n - 1)
    if variance <= 0:
        return after > before
    return (after - before) / math.sqrt(variance) >= special.stdtrit(2 * n - 2, 1 - limits.alpha)


def powers(times: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often each rule ships a candidate, by its true gain and by the number of cases."""
    limits, rows = Limits(), []
    for gain in (0.0, *GAINS):
        for n in SIZES:
            drawn = flips(rng, n, UNREST + gain, UNREST, times)
            rules = {
                "gate": target_passes(limits, n),
                "threshold": lambda w, m, n=n: threshold(n, w, m, limits),
                "t-test": lambda w, m, n=n: unpaired(n, w, m, limits),
            }
            rows.append({"gain": gain, "cases": n} | {name: share(rule, drawn) for name, rule in rules.items()})
    return rows


def score_powers(times: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return how often the target gate ships a candidate whose scores are better, beside the permutation test alone."""
    limits, rows = Limits(), []
    for gain in GAINS:
        for n in (50, 200):
            drawn = np.clip(rng.normal(gain, 0.3, (times, n)), -1, 1)
            large = drawn.mean(axis=-1) >= limits.target_gain
            bets = measures.no_gain(drawn, -1.0, limits.alpha) <= limits.alpha
            signs = np.array([measures.sign_flip(one) <= limits.alpha for one in drawn])
            rows.append(
                {
                    "gain": gain,
                    "cases": n,
                    "gate": float(np.mean(large & bets & signs)),
                    "permutation": float(np.mean(large & signs)),
                }
            )
    return rows


def stops(times: int, rng: np.random.Generator) -> tuple[Rate, dict[str, dict[str, float | None]]]:
    """Return how often a good candidate is stopped, and how soon bad ones are."""
    limits = Limits()

    def run(gain: float, loss: float, often: int) -> list[int | None]:
        return [stop_at(Futility(limits, "right", "right"), rng, gain, loss) for _ in range(often)]

    good = run(limits.target_gain, limits.retention_margin, times)
    edge = "gains just 5 points, loses just 2"
    stopped = float(np.mean([at is not None for at in good]))
    wrong = Rate("early stop", edge, "100 + 250", ERROR_RATE, stopped, times)
    soon = {}
    for name, gain, loss in (("no gain", 0.0, 0.0), ("10 points worse", -UNREST, 0.0), ("forgets 10 points", 0.2, 0.1)):
        found = run(gain, loss, max(20, times // 50))
        ends = [at for at in found if at is not None]
        soon[name] = {"stopped": len(ends) / len(found), "median_cases": float(np.median(ends)) if ends else None}
    return wrong, soon


def stop_at(futility: Futility, rng: np.random.Generator, gain: float, loss: float) -> int | None:
    """Return after how many cases an examination is stopped; None where it goes on to its end."""
    rates = {"target": (UNREST + gain, UNREST), "retention": (0.005, 0.005 + loss)}
    asked = rng.permutation([suite for suite, n in ASKED.items() for _ in range(n)])
    cases = {suite: iter(known) for suite, known in CASES.items()}
    for count, (suite, drawn) in enumerate(zip(asked, rng.random(len(asked)), strict=True), 1):
        won, lost = rates[suite]
        old, new = SIDES[0 if drawn < won else 1 if drawn < won + lost else 2]
        if futility.add(next(cases[suite]), old, new) is not None:
            return count
    return None


def _case(suite: Any, number: int) -> Case:
    return Case(case_id=f"{suite} {number}", suite=suite, category="", messages=())


def _result(release: str, right: bool) -> CaseResult:
    return CaseResult(release_id=release, case_id="", evaluator="drawn", scores={"right": right})


CASES = {suite: [_case(suite, number) for number in range(n)] for suite, n in ASKED.items()}
SIDES = [(_result("old", old), _result("new", new)) for old, new in ((False, True), (True, False), (True, True))]
