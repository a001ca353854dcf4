"""Measure finding similar runs: the index in a folder, beside qdrant-client's own local mode and NumPy.

    python benchmarks/similar.py [--json FILE] [--quick] [--only 512,2048]

Requests of people (CLINC150 where it is in ../shared/data, else made-up ones) become vectors as the package makes them,
512 numbers (others' embeddings have 2,048 and more) of length 1; where there are more points than requests, they come
again with a little noise. Each side is a process of its own, which adds 1,000 points at a time, a tenth
of them under another agent, looks for the ten nearest of one agent, opens what it wrote again, and says what it took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from langgraph_learnloop.curation.texts import vectors
from langgraph_learnloop.records import Near, RunPoint

TEXTS = Path(__file__).parent.parent.parent / "shared" / "data" / "clinc150.jsonl"
GOALS = {"search_p95_ms": 20.0, "recall": 0.95}
"""At the largest number of points, of the longest vectors."""
AGENT, OTHER = "support", "sales"
SEARCHES, BATCH = 200, 1_000
WAYS = ("index", "local", "numpy")
MOST = {"local": 2_000}
"""Points at most: its local mode writes some 60 a second, and compares in Python."""
SPACE = "bench"


class Brute:
    """Compare all vectors, and keep nothing on the disk."""

    def __init__(self, length: int) -> None:
        self.rows = np.zeros((0, length), dtype=np.float32)
        self.ids: list[str] = []
        self.mine = np.zeros(0, dtype=bool)

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        """Keep them, at the end."""
        self.rows = np.vstack([self.rows, np.array([one.vector for one in points], dtype=np.float32)])
        self.ids += [one.run_id for one in points]
        self.mine = np.append(self.mine, [one.agent == AGENT for one in points])

    def near(self, space: str, vector: Sequence[float], limit: int, agent: str) -> tuple[Near, ...]:
        """Return the nearest."""
        cosines = np.where(self.mine, self.rows @ np.array(vector, dtype=np.float32), -2)
        best = np.argpartition(-cosines, limit)[:limit]
        return tuple(Near(self.ids[i], float(cosines[i])) for i in best[np.argsort(-cosines[best])])

    def close(self) -> None:
        """Do nothing."""


def opened(way: str, folder: Path, length: int) -> Any:
    """Return a side."""
    if way == "numpy":
        return Brute(length)
    if way == "index":
        from langgraph_learnloop.store.run_index import EdgeIndex

        return EdgeIndex(folder)
    from qdrant_client import QdrantClient

    from langgraph_learnloop.integrations.qdrant_server import QdrantServer

    client = QdrantClient(path=str(folder))
    index: Any = QdrantServer.of(client)
    index.close = client.close  # of() leaves it to us
    return index


@cache
def made(count: int, length: int) -> np.ndarray[Any, Any]:
    """Return vectors, one a row."""
    rng = np.random.default_rng(7)
    if TEXTS.exists():
        texts = [json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    else:
        words = ["".join(rng.choice(list("aeioubdgklmnprst"), 6)) for _ in range(3_000)]
        texts = [" ".join(rng.choice(words, 8)) for _ in range(10_000)]
    rows = vectors(texts[:count], length)
    rows = rows[np.arange(count) % len(rows)]
    rows[len(texts) :] += rng.normal(size=rows[len(texts) :].shape).astype(np.float32) * 0.3 / length**0.5 * _size(rows)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _size(rows: np.ndarray[Any, Any]) -> float:
    return float(np.median(np.linalg.norm(rows, axis=1)))


def _memory_mb() -> float:
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024 if status.exists() else float("nan")


def _timed(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def one_side(way: str, count: int, length: int) -> dict[str, float]:
    """Return the figures of a side: seconds, milliseconds, megabytes, and how many of the ten nearest it found."""
    rows = made(count, length)
    asked = rows[np.random.default_rng(8).integers(0, count, SEARCHES if count > 1_000 else 10)]
    asked = asked + np.random.default_rng(9).normal(size=asked.shape).astype(np.float32) * 0.2 / length**0.5
    with TemporaryDirectory() as name:
        folder = Path(name) / "index"
        before, index = _memory_mb(), opened(way, folder, length)
        adding = [_timed(lambda start=start: index.add(SPACE, points(rows, start, 1))) for start in range(3)]
        adding = [
            _timed(lambda start=start: index.add(SPACE, points(rows, start, BATCH))) for start in range(0, count, BATCH)
        ]
        built = _timed(lambda: index.add(SPACE, points(rows, 0, 1_000))) if way == "index" else 0.0
        cosines = np.where(np.arange(count) % 10 != 0, asked @ rows.T, -2)
        worst = np.sort(cosines, axis=1)[:, -10] - 1e-3 * np.linalg.norm(asked, axis=1)
        index.near(SPACE, asked[0].tolist(), 10, AGENT)
        searching, right = [], 0
        for vector, cosine, least in zip(asked.tolist(), cosines, worst, strict=True):
            began = time.perf_counter()
            found = index.near(SPACE, vector, 10, AGENT)
            searching.append(1000 * (time.perf_counter() - began))
            right += sum(bool(cosine[int(one.run_id)] >= least) for one in found)
        memory = _memory_mb() - before
        small = statistics.median(_timed(lambda i=i: index.add(SPACE, points(rows, i, 1))) for i in range(20))
        index.close()
        reopened = _timed(lambda: opened(way, folder, length).near(SPACE, asked[0].tolist(), 10, AGENT))
        size = sum(one.lstat().st_blocks * 512 for one in folder.rglob("*") if one.is_file()) if folder.exists() else 0
    return {
        "add_1000_s": sum(adding) / count * 1000,
        "add_one_ms": 1000 * small,
        "build_s": built,
        "search_p50_ms": float(np.quantile(searching, 0.5)),
        "search_p95_ms": float(np.quantile(searching, 0.95)),
        "recall": right / (10 * len(asked)),
        "reopen_s": reopened if way != "numpy" else float("nan"),
        "memory_mb": memory,
        "disk_mb": size / 1e6,
    }


def points(rows: np.ndarray[Any, Any], start: int, count: int) -> list[RunPoint]:
    """Return some of the points, every tenth of the other agent."""
    some = enumerate(rows[start : start + count].tolist(), start)
    return [RunPoint(str(i), AGENT if i % 10 else OTHER, tuple(row)) for i, row in some]


def measured(way: str, count: int, length: int) -> dict[str, Any]:
    """Return the figures of a side in a process of its own."""
    points = min(count, MOST.get(way, count))
    command = [sys.executable, __file__, "--side", json.dumps([way, points, length])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"way": way, "asked": count, "numbers": length, "points": points, **json.loads(done.stdout.splitlines()[-1])}


def show(console: Console, found: list[dict[str, Any]]) -> None:
    """Print what was measured: a table for each number of points and of numbers, a column for each side."""
    for points, numbers in dict.fromkeys((one["asked"], one["numbers"]) for one in found):
        sides = [one for one in found if (one["asked"], one["numbers"]) == (points, numbers)]
        table = Table("", *(one["way"] for one in sides), title=f"{points:,} points of {numbers:,} numbers")
        for name in [name for name in sides[0] if name not in ("way", "asked", "numbers")]:
            table.add_row(name.replace("_", " "), *(f"{one[name]:,.3f}".rstrip("0").rstrip(".") for one in sides))
        console.print(table)


def main() -> None:
    """Measure, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few points")
    parser.add_argument("--only", default="512,2048", help="how many numbers a vector has, with commas")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(one_side(*json.loads(args.side))))
        return
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    found = []
    for count in (500,) if args.quick else (10_000, 50_000):
        for length in [512] if args.quick else map(int, args.only.split(",")):
            ways = [way for way in WAYS if way != "local" or count == 10_000 or args.quick]
            found += [measured(way, count, length) for way in ways]
    show(console, found)
    ours = max((one for one in found if one["way"] == "index"), key=lambda one: (one["numbers"], one["points"]))
    met = {
        "search_p95": ours["search_p95_ms"] <= GOALS["search_p95_ms"],
        "recall": ours["recall"] >= GOALS["recall"],
    }
    if args.json:
        args.json.write_text(json.dumps({"figures": {"sides": found}, "met": met}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
