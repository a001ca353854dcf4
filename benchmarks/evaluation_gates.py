"""Measure the gates by simulation: what must not pass, and what should. A part of `evaluation.py`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from evaluation_measures import cost_nulls, latency_nulls, score_nulls
from evaluation_nulls import UNREST, Rate, category_nulls, retention_nulls, safety_nulls, table_nulls, target_nulls
from evaluation_power import ASKED, powers, score_powers, stops
from rich.console import Console
from rich.table import Table

from langgraph_learnloop.evaluation.limits import Limits

ALPHAS = (0.05, 0.01)
SEED = 20_260_101
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


def simulations(quick: bool) -> dict[str, Any]:
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


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which gates keep their error rates, over all their nulls and both error rates."""
    found: dict[str, bool] = {}
    for row in figures["nulls"]:
        name = "false stop <= 5%" if row["gate"] == "early stop" else f"false-ship <= alpha, {row['gate']}"
        found[name] = found.get(name, True) and Rate(**row).kept
    return found


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the tables."""
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
