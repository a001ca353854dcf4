"""Measure how long a cold start takes: the import, the callback and `--help`, beside LangChain's callbacks.

    python benchmarks/start.py [--json FILE] [--quick]

Each is a new interpreter, in turn; medians of the wall time are shown, with the bare interpreter in all of them.
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
from pathlib import Path

from rich.console import Console
from rich.table import Table

STARTS = {
    "the bare interpreter": ["-c", "pass"],
    "import langchain_core.callbacks": ["-c", "import langchain_core.callbacks"],
    "import langgraph_learnloop": ["-c", "import langgraph_learnloop"],
    "from langgraph_learnloop import LearnLoop": ["-c", "from langgraph_learnloop import LearnLoop"],
    "learnloop --help": ["-m", "langgraph_learnloop", "--help"],
}
GOALS = {"import langgraph_learnloop": 0.150, "learnloop --help": 0.400}
"""Seconds."""


def main() -> None:
    """Measure, print the table, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one round")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(1 if args.quick else 21):
        for name, words in STARTS.items():
            seconds[name].append(_timed(words))
    figures = {name: statistics.median(found) for name, found in seconds.items()}
    table = Table("a new interpreter", "ms", title=f"{platform.machine()}, {os.cpu_count()} cores")
    for name, median in figures.items():
        table.add_row(name, f"{1000 * median:.0f}")
    Console().print(table)
    if args.json:
        met = {name: figures[name] <= most for name, most in GOALS.items()}
        args.json.write_text(json.dumps({"figures": figures, "met": met}, indent=1) + "\n", encoding="utf-8")


def _timed(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
