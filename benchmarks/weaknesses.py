"""Measure whether weaknesses are what went wrong: kinds of request that are known, beside k-means and HDBSCAN.

    python benchmarks/weaknesses.py [--json FILE] [--quick] [--data clinc150.jsonl]

A few kinds of request are drawn at random, some of them much commoner than others (Zipf), and all of their runs are
flagged. How well the groups that are found are those kinds is told by the adjusted Rand index (Hubert & Arabie 1985;
1 is the same, 0 is chance), the share of a group that is of one kind, and the number of groups. All sides get the same
vectors in the same order; k-means is told the true number of kinds, which nobody knows, HDBSCAN and ours are not.
Without data of people's own words (CLINC150, Larson et al. 2019: {"text", "tool"} a line) the requests that ship with
the demo are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.curation.texts import Vectors, hashed
from langgraph_learnloop.curation.weakness import Flagged, groups, weaknesses
from langgraph_learnloop.demo.worlds import sample_world
from langgraph_learnloop.records import Flag, Run

DATA = Path(__file__).parents[2] / "shared" / "data" / "clinc150.jsonl"
SIZES = ((60, 6), (300, 20), (1_000, 40))
"""Flagged runs, and kinds of request among them."""
SEEDS = 5
MOST = 10_000
"""Flagged runs whose grouping is timed."""
SECONDS = 30.0
CONFIG = LoopConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few of everything")
    parser.add_argument("--data", type=Path, default=DATA, help="JSON lines with a text and its kind as tool")
    args = parser.parse_args()
    kinds, where = _kinds(args.data)
    sizes, seeds = (((20, 3),), 1) if args.quick else (SIZES, SEEDS)
    figures = {f"{n} runs, {k} kinds": _compared(kinds, n, k, seeds) for n, k in sizes}
    timed = _timed(kinds, 200 if args.quick else MOST)
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores; requests of {where}")
    for name, sides in figures.items():
        console.print(_table(name, sides))
    console.print(f"{timed['runs']:,} flagged runs are grouped and named in {timed['seconds']:.1f} s.")
    if args.json:
        met = {
            **{
                f"{name}: no worse than k-means that is told the number": sides["ours"]["rand"]
                >= sides["k-means, told the number"]["rand"]
                for name, sides in figures.items()
            },
            f"{MOST:,} flagged runs in {SECONDS:.0f} s": timed["seconds"] <= SECONDS,
        }
        args.json.write_text(json.dumps({"figures": figures | {"time": timed}, "met": met}, indent=1) + "\n")


def _kinds(data: Path) -> tuple[dict[str, list[str]], str]:
    """Return requests by kind, and where they are from."""
    kinds: dict[str, list[str]] = defaultdict(list)
    if not data.exists():
        for request in sample_world().exam:
            kinds[request.call.name].append(request.text)
        return kinds, "the sample data"
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["tool"] != "none":
            kinds[row["tool"]].append(row["text"])
    return kinds, data.name


def _drawn(kinds: dict[str, list[str]], count: int, of: int, seed: int) -> tuple[list[str], list[int]]:
    """Return about so many requests of so many kinds, mixed, the first kind the commonest; and their kinds."""
    draw = random.Random(seed)
    chosen = draw.sample(sorted(kinds), of)
    shares = [1 / (rank + 1) for rank in range(of)]
    pairs = []
    for kind, (name, share) in enumerate(zip(chosen, shares, strict=True)):
        some = min(len(kinds[name]), max(2, round(count * share / sum(shares))))
        pairs += [(text, kind) for text in draw.sample(kinds[name], some)]
    draw.shuffle(pairs)
    return [text for text, _ in pairs], [kind for _, kind in pairs]


def _ours(rows: Vectors, kinds: int) -> Sequence[int]:
    labels = np.zeros(len(rows), dtype=int)
    for label, members in enumerate(groups([rows], CONFIG.alike)):
        labels[members] = label
    return [*map(int, labels)]


def _k_means(rows: Vectors, kinds: int) -> Sequence[int]:
    return [*map(int, KMeans(kinds, n_init=5, random_state=0).fit_predict(rows))]


def _hdbscan(rows: Vectors, kinds: int) -> Sequence[int]:
    # What it calls noise is a group of its own each: to lump that together would be held against it.
    found = [*map(int, HDBSCAN(min_cluster_size=2, cluster_selection_method="leaf", copy=True).fit_predict(rows))]
    return [label if label >= 0 else len(rows) + i for i, label in enumerate(found)]


SIDES: dict[str, Callable[[Vectors, int], Sequence[int]]] = {
    "ours": _ours,
    "k-means, told the number": _k_means,
    "HDBSCAN": _hdbscan,
}


def _compared(kinds: dict[str, list[str]], count: int, of: int, seeds: int) -> dict[str, dict[str, float]]:
    """Return each side's figures, medians over the draws."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(seeds):
        texts, true = _drawn(kinds, count, of, seed)
        rows = hashed(texts)
        for name, side in SIDES.items():
            began = time.perf_counter()
            labels = side(rows, of)
            took = time.perf_counter() - began
            found[name].append(
                {
                    "rand": float(adjusted_rand_score(true, labels)),
                    "of_one_kind": _of_one_kind(true, labels),
                    "groups": float(len(set(labels))),
                    "seconds": took,
                }
            )
    return {name: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for name, ones in found.items()}


def _of_one_kind(true: Sequence[int], labels: Sequence[int]) -> float:
    """Return the share of runs that are of the commonest kind of their group."""
    members: dict[int, Counter[int]] = defaultdict(Counter)
    for kind, label in zip(true, labels, strict=True):
        members[label][kind] += 1
    return sum(counts.most_common(1)[0][1] for counts in members.values()) / len(true)


def _timed(kinds: dict[str, list[str]], count: int) -> dict[str, Any]:
    draw = random.Random(0)
    texts = [draw.choice(kinds[draw.choice(sorted(kinds))]) for _ in range(count)]
    flagged = [
        Flagged(
            Run(run_id=f"r{i}", thread_id=f"t{i}", agent="a", outcome="finished", started_at=NOW, question=text),
            Flag(run_id=f"r{i}", agent="a", thread_id=f"t{i}", reasons=("bad",), severity=0.5, at=NOW),
            False,
        )
        for i, text in enumerate(texts)
    ]
    began = time.perf_counter()
    found = weaknesses(flagged, embed=hashed, alike=CONFIG.alike, enough=CONFIG.least_corrections)
    return {"runs": count, "weaknesses": len(found), "seconds": time.perf_counter() - began}


def _table(title: str, sides: dict[str, dict[str, float]]) -> Table:
    table = Table("", "adjusted Rand index", "of one kind", "groups", "seconds", title=title)
    for name, side in sides.items():
        figures = (f"{side['rand']:.2f}", f"{100 * side['of_one_kind']:.0f}%", f"{side['groups']:.0f}")
        table.add_row(name, *figures, f"{side['seconds']:.2f}")
    return table


if __name__ == "__main__":
    main()
