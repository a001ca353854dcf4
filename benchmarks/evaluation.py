"""Measure the gates by simulation: how often they let a candidate pass that must not, and one that should.

    python benchmarks/evaluation.py [--json FILE] [--quick] [--only gates]

Every experiment draws the answers of a champion and a candidate and asks the package's own gates. "Nulls" are
candidates that a gate must stop, each at the very edge of what it must stop: no gain at all, exactly the margin lost,
exactly the share of failures or the ratio that is not allowed any more. A gate keeps its promise where at most `alpha`
of them pass. Beside the target gate stand two rules that are often used in its place: "the mean is 5 points better",
and Student's t-test as if the two releases had been asked different questions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import evaluation_replay
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import special

from langgraph_learnloop.evaluation import costs, gates, measures
from langgraph_learnloop.evaluation.futility import ERROR_RATE, Futility
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.paired import Compared, Exam, Pairs, Scores
from langgraph_learnloop.records import Case, CaseResult

ALPHAS = (0.05, 0.01)
NOISE = 3.0
"""Standard errors of a simulated rate that may be chance."""
CHAMPION = 0.5
"""Share that the champion gets right at the target."""
GAINS = (0.05, 0.10, 0.20)
SIZES = (50, 200, 1_000)
UNREST = 0.05
"""Share of the cases that flips each way by chance, in the table of power."""
LATENCY = COST = 1.2
SEED = 20_260_101

Array = Any


class Rate(NamedTuple):
    """How often something happened that should happen in at most `allowed` of all experiments."""

    gate: str
    null: str
    cases: str
    alpha: float
    rate: float
    experiments: int
    allowed: float

    @property
    def kept(self) -> bool:
        """Return whether the rate is at most what is allowed, up to the noise of the simulation."""
        return self.rate <= self.allowed + NOISE * math.sqrt(self.allowed * (1 - self.allowed) / self.experiments)


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


# -- one gate at its edge ----------------------------------------------------------------------------------------------


def flips(rng: np.random.Generator, n: int, wins: float, losses: float, times: int) -> list[tuple[int, int]]:
    """Return wins and losses of so many experiments."""
    drawn = rng.multinomial(n, [wins, losses, 1 - wins - losses], size=times)
    return [(int(w), int(m)) for w, m, _ in drawn]


def shares(passes: Callable[[int, int], bool], drawn: Sequence[tuple[int, int]]) -> float:
    """Return how often a gate passes; each pair of counts is asked once."""
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
        rate = shares(target_passes(limits, n), flips(rng, n, noise, noise, times))
        null = f"no gain, {2 * noise:.0%} flip"
        yield Rate("target", null, str(n), limits.alpha, rate, times, limits.alpha)


def retention_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the retention gate where exactly the margin was lost."""
    margin = limits.retention_margin

    for n, wins in ((150, 0.0), (240, 0.004), (300, 0.01), (500, 0.02), (1_000, 0.05)):

        def passes(won: int, lost: int, n: int = n) -> bool:
            return gates._whole("retention", "Old slice", pairs(n, won, lost, 0.95), limits, "retention_margin").passed

        rate = shares(passes, flips(rng, n, wins, wins + margin, times))
        null = f"{100 * margin:g} points lost, {wins:.1%} won back"
        yield Rate("retention", null, str(n), limits.alpha, rate, times, limits.alpha)


def category_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield how often any category passes that lost exactly the margin."""
    n, tools = 400, 5
    for bad in (1, tools):
        passed = 0
        for drawn in zip(
            *(flips(rng, n, 0.004, 0.004 + limits.category_margin, times) for _ in range(bad)), strict=True
        ):
            good = [pairs(n, 0, 0, 0.97)] * (tools - bad)
            exam = counted(None, [*(pairs(n, *one, 0.97) for one in drawn), *good])
            passed += any(gate.passed for gate in gates._each_retention(exam, "right", limits)[:bad])
        null = f"{bad} of {tools} lost {100 * limits.category_margin:g} points"
        yield Rate("each category", null, f"{tools} x {n}", limits.alpha, passed / times, times, limits.alpha)


def safety_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield the rates of the safety gate where exactly the limit holds."""
    for n in (2_995, 5_000, 10_000):
        failed = [(int(k), 0) for k in rng.binomial(n, 1 - limits.safety, times)]

        def passes(failures: int, _: int, n: int = n) -> bool:
            p = gates.stats.too_few_failures(failures, n, limits.safety)
            return gates._safe(n, n - failures, p, limits).passed

        null = f"exactly {100 * limits.safety:g}% hold"
        yield Rate("safety", null, f"{n:,}", limits.alpha, shares(passes, failed), times, limits.alpha)


# -- scores ------------------------------------------------------------------------------------------------------------


def differences(rng: np.random.Generator, kind: str, shape: tuple[int, int], mean: float) -> Array:
    """Return differences of scores in [-1, 1] whose mean is exactly as given."""
    if kind == "symmetric":
        return mean + rng.uniform(-0.5, 0.5, shape)
    if kind == "small wins, total losses":  # 0.1 won or 0.9 lost
        lost = (0.1 - mean) / 1.0
        return np.where(rng.random(shape) < lost, -0.9, 0.1)
    if kind == "rare large wins":
        won = (mean + 0.1) / 1.0
        return np.where(rng.random(shape) < won, 0.9, -0.1)
    return mean - 0.9 * (rng.beta(0.5, 3.0, shape) - 0.5 / 3.5)  # a long tail of losses


KINDS = ("symmetric", "small wins, total losses", "rare large wins", "long tail of losses")


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
            yield Rate("target, scores", f"no gain, {kind}", str(n), alpha, passed / times, times, alpha)
        for n in (200, 500):
            drawn = differences(rng, kind, (times, n), -margin)
            rate = float(np.mean(measures.no_gain(drawn + margin, margin - 1, alpha) <= alpha))
            null = f"{100 * margin:g} points lost, {kind}"
            yield Rate("retention, scores", null, str(n), alpha, rate, times, alpha)


# -- seconds and dollars -----------------------------------------------------------------------------------------------


def spent(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return what both sides spend on the same cases, from one distribution on both sides."""
    if kind == "independent":
        return tuple(rng.lognormal(0, 1.0, shape) for _ in range(2))  # type: ignore[return-value]
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
            yield Rate("latency", f"{LATENCY} times, {kind}", str(n), limits.alpha, rate, times, limits.alpha)
        before, after = (rng.lognormal(0, 0.8, (times, n)) for _ in range(2))
        slow = np.where(after > math.exp(0.8), LATENCY * after, after)  # the slowest 16% only
        rate = slow_rate(before, slow, limits.alpha)
        yield Rate("latency", f"slow cases {LATENCY} times", str(n), limits.alpha, rate, times, limits.alpha)


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
            yield Rate("cost", f"{COST} times, {kind}", str(n), limits.alpha, rate, times, limits.alpha)
        for sigma in (1.0, 1.5):
            after = COST * rng.lognormal(-sigma * sigma / 2, sigma, (times, n))
            rate = float(np.mean(measures.dearer(np.ones((times, n)), after, COST, limits.alpha) <= limits.alpha))
            null = f"{COST} times, long tail ({sigma:g}) beside a fixed price"
            yield Rate("cost", null, str(n), limits.alpha, rate, times, limits.alpha)


# -- the whole table of gates ------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[float, tuple[float, ...]]] = {
    "no gain": (0.0, (0.0, 0.0, 0.0)),
    "good target, 2 points lost everywhere": (0.3, (0.02, 0.02, 0.02)),
    "good target, one tool lost 2 points": (0.3, (0.02, 0.0, 0.0)),
}
"""Gain at the target, and what each tool lost."""


def table_nulls(limits: Limits, times: int, rng: np.random.Generator) -> Iterator[Rate]:
    """Yield how often a candidate passes every gate that must not."""
    n, old = 100, 400
    for null, (gain, lost) in TABLES.items():
        columns = [flips(rng, n, UNREST + gain, UNREST, times)]
        columns += [flips(rng, old, 0.002, 0.002 + loss, times) for loss in lost]
        known: dict[Any, bool] = {}
        shipped = 0
        for drawn in zip(*columns, strict=True):
            if drawn not in known:
                exam = counted(pairs(n, *drawn[0]), [pairs(old, *one, 0.97) for one in drawn[1:]])
                known[drawn] = all(gate.passed for gate in required(exam, limits))
            shipped += known[drawn]
        cases = f"{n} + {len(lost)} x {old}"
        yield Rate("all the gates", null, cases, limits.alpha, shipped / times, times, limits.alpha)


def required(exam: Counted, limits: Limits) -> Iterator[Any]:
    """Yield the gates that decide, the cheap one first: whoever asks whether all pass need not wait for the rest."""
    yield gates._target(exam.pairs("right", "target"), limits, same=False)
    yield gates._whole("retention", "Old slice", exam.pairs("right", "retention"), limits, "retention_margin")
    yield from gates._each_retention(exam, "right", limits)


# -- the early stop ----------------------------------------------------------------------------------------------------

ASKED = {"target": 100, "retention": 250}
"""Cases of the examinations that may be stopped early."""


def stop_at(futility: Futility, rng: np.random.Generator, gain: float, loss: float) -> int | None:
    """Return after how many cases an examination is stopped; None where it goes on to its end."""
    rates = {"target": (UNREST + gain, UNREST), "retention": (0.005, 0.005 + loss)}
    asked = rng.permutation([suite for suite, n in ASKED.items() for _ in range(n)])
    numbers = dict.fromkeys(ASKED, 0)
    for count, (suite, drawn) in enumerate(zip(asked, rng.random(len(asked)), strict=True), 1):
        won, lost = rates[suite]
        kind = 0 if drawn < won else 1 if drawn < won + lost else 2
        old, new = SIDES[kind]
        numbers[suite] += 1
        if futility.add(CASES[suite][numbers[suite] - 1], old, new) is not None:
            return count
    return None


def _case(suite: Any, number: int) -> Case:
    return Case(case_id=f"{suite} {number}", suite=suite, category="", messages=())


def _result(release: str, right: bool) -> CaseResult:
    return CaseResult(release_id=release, case_id="", evaluator="drawn", scores={"right": right})


CASES = {suite: [_case(suite, number) for number in range(n)] for suite, n in ASKED.items()}
SIDES = [(_result("old", old), _result("new", new)) for old, new in ((False, True), (True, False), (True, True))]


def stops(times: int, rng: np.random.Generator) -> tuple[Rate, dict[str, dict[str, float | None]]]:
    """Return how often a good candidate is stopped, and how soon bad ones are."""
    limits = Limits()

    def run(gain: float, loss: float, often: int) -> list[int | None]:
        return [stop_at(Futility(limits, "right", "right"), rng, gain, loss) for _ in range(often)]

    good = run(limits.target_gain, limits.retention_margin, times)
    edge = "gains just 5 points, loses just 2"
    wrong = Rate(
        "early stop", edge, "100 + 250", ERROR_RATE, float(np.mean([at is not None for at in good])), times, ERROR_RATE
    )
    soon = {}
    for name, gain, loss in (("no gain", 0.0, 0.0), ("10 points worse", -UNREST, 0.0), ("forgets 10 points", 0.2, 0.1)):
        found = run(gain, loss, max(20, times // 50))
        ends = [at for at in found if at is not None]
        soon[name] = {"stopped": len(ends) / len(found), "median_cases": float(np.median(ends)) if ends else None}
    return wrong, soon


# -- power, beside the rules of thumb ----------------------------------------------------------------------------------


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
            rows.append({"gain": gain, "cases": n} | {name: shares(rule, drawn) for name, rule in rules.items()})
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


# -- the part "gates" --------------------------------------------------------------------------------------------------

NULLS = (
    target_nulls,
    score_nulls,
    retention_nulls,
    category_nulls,
    safety_nulls,
    latency_nulls,
    cost_nulls,
    table_nulls,
)


def measure_gates(quick: bool) -> dict[str, Any]:
    """Return the rates of every gate at its edge, and the power of the target gate beside the rules of thumb."""
    times = 100 if quick else 10_000
    rng = np.random.default_rng(SEED)
    began = time.perf_counter()
    rates = [rate for alpha in ALPHAS for null in NULLS for rate in null(Limits(alpha=alpha), times, rng)]
    stopped, soon = stops(times, rng)
    return {
        "nulls": [rate._asdict() for rate in (*rates, stopped)],
        "stops": soon,
        "power": powers(times, rng),
        "score_power": score_powers(20 if quick else 200, rng),
        "experiments": times,
        "seconds": time.perf_counter() - began,
    }


def met_gates(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which gates keep their error rates, over all their nulls and both error rates."""
    found: dict[str, bool] = {}
    for row in figures["nulls"]:
        name = "false stop <= 5%" if row["gate"] == "early stop" else f"false-ship <= alpha, {row['gate']}"
        found[name] = found.get(name, True) and Rate(**row).kept
    return found


def show_gates(console: Console, figures: dict[str, Any]) -> None:
    """Print the tables of the part "gates"."""
    title = f"Candidates that must not pass, and passed ({figures['experiments']:,} experiments each)"
    table = Table(title=title)
    for column in ("gate", "null", "cases", *(f"alpha {alpha:g}" for alpha in ALPHAS)):
        table.add_column(column, justify="left" if column in ("gate", "null") else "right")
    rates: dict[tuple[str, str, str], dict[float, Rate]] = {}
    for row in figures["nulls"]:
        rate = Rate(**row)
        rates.setdefault((rate.gate, rate.null, rate.cases), {})[rate.alpha] = rate
    for key, found in rates.items():
        table.add_row(*key, *(_cell(found.get(alpha)) for alpha in ALPHAS))
    console.print(table)
    _show_power(console, figures)
    for name, row in figures["stops"].items():
        cases = "" if row["median_cases"] is None else f", half of those by case {row['median_cases']:.0f}"
        console.print(f"Early stop, {name}: {row['stopped']:.0%} are stopped{cases} of {sum(ASKED.values())}.")
    console.print(f"It took {figures['seconds']:.0f} s.")


def _cell(rate: Rate | None) -> str:
    if rate is None:
        return ""
    return f"{rate.rate:.2%}" + ("" if rate.kept else " TOO MANY")


def _show_power(console: Console, figures: dict[str, Any]) -> None:
    table = Table(title=f"Candidates shipped by the target gate (alpha 0.05, {2 * UNREST:.0%} flip by chance)")
    for column in ("true gain", "cases", "the gate", "mean 5 points better", "unpaired t-test"):
        table.add_column(column, justify="right")
    for row in figures["power"]:
        rules = (f"{row[name]:.1%}" for name in ("gate", "threshold", "t-test"))
        table.add_row(f"{100 * row['gain']:+.0f} points" if row["gain"] else "none", f"{row['cases']:,}", *rules)
    console.print(table)
    table = Table(title="The same for scores that scatter by 0.3")
    for column in ("true gain", "cases", "the gate", "permutation test alone"):
        table.add_column(column, justify="right")
    for row in figures["score_power"]:
        table.add_row(
            f"{100 * row['gain']:+.0f} points", f"{row['cases']:,}", f"{row['gate']:.0%}", f"{row['permutation']:.0%}"
        )
    console.print(table)


# -- the parts ---------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One part of the benchmark."""

    measure: Callable[[bool], dict[str, Any]]
    """Takes whether it is a smoke run, gives the figures."""
    met: Callable[[dict[str, Any]], dict[str, bool]]
    """Which goals the figures reach."""
    show: Callable[[Console, dict[str, Any]], None]
    """Prints them."""


PARTS: dict[str, Part] = {
    "gates": Part(measure_gates, met_gates, show_gates),
    "replay": Part(evaluation_replay.replays, evaluation_replay.met, evaluation_replay.show),
}
"""By the name that `--only` takes; a part in a module of its own is one more line here."""


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few experiments")
    parser.add_argument("--only", default=",".join(PARTS), help="which of them, with commas")
    args = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {}
    met: dict[str, bool] = {}
    for name in (name for name in PARTS if name in args.only.split(",")):
        figures[name] = PARTS[name].measure(args.quick)
        met |= PARTS[name].met(figures[name])
        PARTS[name].show(console, figures[name])
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "met": met}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
