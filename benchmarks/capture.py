"""Measure what recording costs an agent, beside Langfuse's handler and LangSmith's tracer.

    python benchmarks/capture.py [--json FILE] [--quick] [--memory] [--postgres URL]

One run is an agent with six tool turns and 2 kB of random words in each result; the model is scripted. Every tracer
sends to a sink on this machine that answers at once; ours writes to SQLite, durably. Runs are interleaved, and what is
shown are medians of what a tracer adds to the same run without one. "Inline" is how much longer the caller waits;
"CPU" is the whole process's, background threads and the final flush included.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from capture_added import EARLY, growth, overhead
from capture_agent import TURNS
from capture_sides import sides, sink
from capture_stored import LENGTHS, ingest, memory, storage
from rich.console import Console
from rich.table import Table

from langgraph_learnloop import LearnLoop, LoopConfig

GOALS = {"inline": 1 / 20, "cpu": 1 / 5, "runs_per_second": 2_000, "growth": 1.5}


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few runs, one round")
    parser.add_argument("--postgres", metavar="URL", help="ingest into this database as well; it must be empty")
    parser.add_argument("--memory", action="store_true", help="100,000 runs, to see that memory stays flat (Linux)")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # the sink's answers are not what the tracers' services say
    os.environ.pop("LANGSMITH_TRACING", None)
    folder = Path(tempfile.mkdtemp())
    try:
        figures = measure(folder, args.quick, args.postgres)
        if args.memory:
            figures["memory"] = memory(folder, 1_000 if args.quick else 100_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console = Console()
    show(console, figures)
    if args.json:
        report = {"figures": figures, "met": met(figures)}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, quick: bool, postgres: str | None) -> dict[str, Any]:
    """Return every figure."""
    silent = LoopConfig(agent="bench", signals=())
    with (
        sink() as (url, _),
        LearnLoop(folder / "bench.db", config=LoopConfig(agent="bench")) as loop,
        LearnLoop(folder / "silent.db", config=silent) as other,
    ):
        added = overhead(sides(loop, other, url), 3 if quick else 200)
    figures: dict[str, Any] = {
        "added": added,
        "bytes": storage((1, 2) if quick else LENGTHS, folder),
        "growth": growth(folder, *((8, 1) if quick else (50, 9))),
        "ingest": {
            "sqlite": ingest(folder / "ingest.db", 1_000 if quick else 20_000),
            "sqlite, no signals": ingest(folder / "silent-ingest.db", 1_000 if quick else 20_000, signals=()),
        },
    }
    if postgres:
        figures["ingest"]["postgresql"] = ingest(postgres, 1_000 if quick else 20_000)
    return figures


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals are reached."""
    ours, theirs, stored = figures["added"]["learnloop"], figures["added"]["langfuse"], figures["bytes"]
    last = max(turns for turns in stored["learnloop"] if turns <= 50)
    allowed = 1.3 * stored["unique"][last] + 300 * stored["steps"][last]
    return {
        "inline": ours["inline"] <= GOALS["inline"] * theirs["inline"],
        "cpu": ours["cpu"] <= GOALS["cpu"] * theirs["cpu"],
        "bytes": stored["learnloop"][last] <= allowed,
        "growth": figures["growth"]["times"] <= GOALS["growth"],
        "ingest": figures["ingest"]["sqlite"]["per_cpu_second"] >= GOALS["runs_per_second"],
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the tables."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=f"Added to a run of {TURNS} tool turns, milliseconds ({machine})")
    for column in ("", "inline", "CPU, flush included"):
        table.add_column(column, justify="right" if column else "left")
    for name, cost in figures["added"].items():
        if name != "untraced":
            table.add_row(name, f"{cost['inline']:.2f}", f"{cost['cpu']:.2f}")
    console.print(table, f"Untraced, the run takes {figures['added']['untraced']['total_cpu']:.1f} ms of CPU.")
    stored = figures["bytes"]
    table = Table(title="Kilobytes stored or shipped for one thread, by turns")
    for column in ("", *map(str, stored["learnloop"])):
        table.add_column(column, justify="right" if column else "left")
    for name in ("learnloop", "langfuse", "langsmith", "unique"):
        label = "its messages, compressed one by one" if name == "unique" else name
        table.add_row(label, *(f"{size / 1000:,.0f}" for size in stored[name].values()))
    console.print(table)
    more = figures["growth"]
    console.print(f"CPU added to a turn: {more['early']:.2f} ms at turn {EARLY}, {more['late']:.2f} ms at the last.")
    for name, rate in figures["ingest"].items():
        console.print(f"Ingest into {name}: {rate['per_cpu_second']:,.0f} small runs per second of CPU.")
    for name, sizes in figures.get("memory", {}).items():
        console.print(f"Resident MB while {name}, after each tenth: {', '.join(f'{size:.0f}' for size in sizes)}.")


if __name__ == "__main__":
    main()
