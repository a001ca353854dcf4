"""Measure by simulation how often rollouts take an equal release back or promote a worse one. A part of `serving.py`.

Every rollout sends 1, 5, 25 and 50 percent of the threads to the candidate and is looked at after each thread, with all
guardrails on. The candidate is equal in everything but its bad share, so that a worse one is caught by that alone.
Beside the package's own evidence stands the usual rule: "the mean of the candidate's last 100 threads is worse than the
champion's by more than 3 points", looked at as often, in the same rollouts.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from langgraph_learnloop.serving.canary import routing_p
from langgraph_learnloop.serving.guardrails import Columns, walked
from langgraph_learnloop.serving.rollouts import Limits

ROLLOUTS = 5_000
QUICK = 20
STAGES = (0.01, 0.05, 0.25, 0.5)
"""Shares of the threads that the candidate gets, stage by stage."""
BASES = (0.05, 0.10, 0.20)
"""The champion's bad shares."""
RESTLESS = "5-20%"
"""A bad share of both that goes up and down, once in so many threads:"""
DAY = 1_000
LOOKS = (3_000, 4_500, 8_000, 20_000)
"""A rollout is drawn so far, and further where nothing was decided; the last is its end."""
ERRORS, HANDED_OVER, UNSAFE, SPREAD = 0.01, 0.03, 0.000_2, 0.6
"""Shares of threads of both sides, and the standard deviation of the logarithm of seconds and dollars."""
WINDOW, TOLERATED = 100, 0.03
"""The usual rule."""
FALSE_ROLLBACK, FALSE_PROMOTION = 0.05, 0.01
WORSE, BAD = 0.05, 0.10
"""How much worse the two worse releases are."""
SEED = 20_260_102

Array = Any
Ending = Literal["rollback", "promote", "open"]


class Ended(NamedTuple):
    """How one rollout ended."""

    how: Ending
    threads: int
    """Threads in all, when it ended."""
    of_candidate: int
    """Of them, the candidate's."""
    usual: int | None
    """Threads in all when the usual rule took the candidate back; None where it did not, as far as was drawn."""


class Drawn:
    """A rollout's threads, drawn as far as they are asked for; all but the last stage end with the least threads."""

    def __init__(self, rng: np.random.Generator, base: float | None, worse: float, limits: Limits) -> None:
        """Say how bad the champion's threads are, and by how much the candidate's are more so; None: restless."""
        self._rng, self._base, self._worse = rng, base, worse
        self._early = [_stage(rng, share, limits.least_threads) for share in STAGES[:-1]]
        self._drawn: list[Columns] = []
        self.last = sum(len(arms) for arms in self._early)
        """The first thread of the last stage."""

    def until(self, count: int) -> Columns:
        """Return the first so many threads."""
        begin = sum(len(part.bad) for part in self._drawn)
        self._drawn.append(self._threads(begin, count))
        return Columns(*(np.concatenate(column)[:count] for column in zip(*self._drawn, strict=True)))

    def _threads(self, begin: int, end: int) -> Columns:
        rng, mine, share = self._rng, *self._arms(begin, end)
        n = len(mine)
        base = self._base if self._base is not None else _restless(np.arange(begin, begin + n))
        flags = (rng.random(n) < chance for chance in (base + self._worse * mine, ERRORS, UNSAFE, HANDED_OVER))
        bad, errors, unsafe, handed_over = (flag.astype(float) for flag in flags)
        seconds, usd = rng.lognormal(0.0, SPREAD, n), rng.lognormal(0.0, SPREAD, n)
        return Columns(mine, share, bad, errors, seconds, usd, unsafe, handed_over)

    def _arms(self, begin: int, end: int) -> tuple[Array, Array]:
        early = self._early if begin == 0 else []
        late = max(end - max(begin, self.last), 0)
        arms = [*early, self._rng.random(late) < STAGES[-1]]
        shares = [*STAGES[: len(early)], STAGES[-1]]
        return np.concatenate(arms), np.repeat(shares, [len(part) for part in arms])


def canary(quick: bool = False) -> dict[str, Any]:
    """Run the rollouts of every release beside every champion."""
    times, limits = QUICK if quick else ROLLOUTS, Limits()
    releases = [("equal", 0.0, base) for base in (*BASES, None)]
    releases += [(f"{100 * worse:.0f} points worse", worse, base) for worse in (WORSE, BAD) for base in BASES]
    found = []
    for number, (release, worse, base) in enumerate(releases):
        rng = np.random.default_rng([SEED, number])
        ended = [_rollout(Drawn(rng, base, worse, limits), limits) for _ in range(times)]
        name = RESTLESS if base is None else f"{base:.0%}"
        found.append({"release": release, "worse": worse, "champion": name, **_summary(ended)})
    return {"rollouts": times, "stages": STAGES, "least_threads": limits.least_threads, "releases": found}


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals were reached."""
    equal, worse, bad = (_of(figures, by) for by in (0.0, WORSE, BAD))
    promoted = {row["champion"]: row["threads_to_promotion"] for row in equal}
    return {
        "an equal release is taken back <= 5%": all(row["rolled_back"] <= FALSE_ROLLBACK for row in equal),
        "one 5 points worse is promoted <= 1%": all(row["promoted"] <= FALSE_PROMOTION for row in worse),
        "one 10 points worse is caught sooner than an equal one is promoted": all(
            (row["threads_to_rollback"] or math.inf) < (promoted[row["champion"]] or 0) for row in bad
        ),
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    title = f"Rollouts: {figures['rollouts']:,} each, looked at after every thread"
    table = Table("release", "champion bad", "taken back", "promoted", "open", title=title)
    for name in ("threads to rollback", "the candidate's", "threads to promotion", "usual rule", "its threads"):
        table.add_column(name, justify="right")
    for row in figures["releases"]:
        rates = (f"{row[name]:.1%}" for name in ("rolled_back", "promoted", "open"))
        counts = (_count(row[name]) for name in ("threads_to_rollback", "of_candidate", "threads_to_promotion"))
        usual = f"{row['usual_rolled_back']:.1%}", _count(row["usual_threads"])
        table.add_row(row["release"], row["champion"], *rates, *counts, *usual)
    console.print(table)
    console.print(
        f'The usual rule: "the last {WINDOW} threads are worse by more than {100 * TOLERATED:.0f} points"; its share '
        "counts where it takes the candidate back before the rollout has ended. Threads are medians."
    )


def _rollout(drawn: Drawn, limits: Limits) -> Ended:
    """Draw threads until the evidence decides, or to the end."""
    for count in LOOKS:
        columns = drawn.until(count)
        walk = walked(columns, limits)
        back = _first(walk.harm >= 1 / limits.alpha_rollback)
        onward = _promoted(drawn, columns, walk.not_worse, limits)
        if back is not None or onward is not None:
            break
    how: Ending = "open"
    end = count
    if back is not None and (onward is None or back <= onward):
        how, end = "rollback", back + 1
    elif onward is not None:
        how, end = "promote", onward + 1
    return Ended(how, end, int(columns.candidate[:end].sum()), _usual(columns))


def _promoted(drawn: Drawn, columns: Columns, not_worse: Array, limits: Limits) -> int | None:
    """Return the thread after which the candidate may get everything."""
    mine = np.cumsum(columns.candidate[drawn.last :])
    shown = np.maximum.accumulate(not_worse)[drawn.last :] >= 1 / limits.alpha_promote
    for i in np.flatnonzero(shown & (mine >= limits.least_threads)):
        if routing_p(i + 1 - mine[i], mine[i], STAGES[-1]) > limits.alpha_routing:
            return int(drawn.last + i)
    return None


def _usual(columns: Columns) -> int | None:
    """Return the threads after which the usual rule takes the candidate back."""
    mine = columns.candidate
    at = np.flatnonzero(mine)[WINDOW - 1 :]
    if not len(at):
        return None
    sums = np.concatenate([[0.0], np.cumsum(columns.bad[mine])])
    recent = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    champion = np.cumsum(columns.bad * ~mine)[at] / np.maximum(np.cumsum(~mine)[at], 1)
    found = _first(recent - champion > TOLERATED)
    return None if found is None else int(at[found]) + 1


def _summary(ended: list[Ended]) -> dict[str, Any]:
    back, onward = ([one for one in ended if one.how == how] for how in ("rollback", "promote"))
    usual = [one.usual for one in ended if one.usual is not None and one.usual <= one.threads]
    return {
        "rolled_back": len(back) / len(ended),
        "promoted": len(onward) / len(ended),
        "open": 1 - (len(back) + len(onward)) / len(ended),
        "threads_to_rollback": _median([one.threads for one in back]),
        "of_candidate": _median([one.of_candidate for one in back]),
        "threads_to_promotion": _median([one.threads for one in onward]),
        "usual_rolled_back": len(usual) / len(ended),
        "usual_threads": _median([one.usual for one in ended if one.usual is not None]),
    }


def _stage(rng: np.random.Generator, share: float, least: int) -> Array:
    """Return who got the threads of a stage that ends with the candidate's last one of the least."""
    at = np.cumsum(rng.geometric(share, size=least)) - 1
    arms = np.zeros(at[-1] + 1, dtype=bool)
    arms[at] = True
    return arms


def _restless(number: Array) -> Array:
    low, high = BASES[0], BASES[-1]
    return (low + high) / 2 + (high - low) / 2 * np.sin(2 * math.pi * number / DAY)


def _of(figures: dict[str, Any], worse: float) -> list[dict[str, Any]]:
    return [row for row in figures["releases"] if row["worse"] == worse]


def _first(true: Array) -> int | None:
    return int(true.argmax()) if true.any() else None


def _median(counts: Any) -> float | None:
    return float(np.median(counts)) if len(counts) else None


def _count(threads: float | None) -> str:
    return "-" if threads is None else f"{threads:,.0f}"
