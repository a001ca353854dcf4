"""Measure serving: answers a second beside transformers, swaps under load, and a canary's decisions by simulation.

    python benchmarks/serving.py [--json FILE] [--quick] [--only answers,swaps,vllm,canary]

"Answers" (serving_answers.py): eight people ask the in-process engine at the same time, one release or three adapters,
beside `generate` for one request after another; and how soon a thread's next turn begins. "Swaps" (serving_swaps.py):
sixteen people while the champion changes. "vLLM" (serving_vllm.py): the same on a real server. "Canary"
(serving_canary.py): thousands of rollouts of releases that are as good, and of such that are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import serving_answers
import serving_canary
import serving_swaps
import serving_vllm
from rich.console import Console


class Part(NamedTuple):
    """One part of the benchmark."""

    measure: Callable[[bool], dict[str, Any]]
    """Returns the figures; quickly, if asked."""
    met: Callable[[dict[str, Any]], dict[str, bool]]
    """Returns which goals they reach."""
    show: Callable[[Console, dict[str, Any]], None]
    """Prints them."""


PARTS = {
    "answers": Part(serving_answers.answers, serving_answers.met, serving_answers.show),
    "swaps": Part(serving_swaps.swaps, serving_swaps.met, serving_swaps.show),
    "vllm": Part(serving_vllm.swaps, serving_vllm.met, serving_vllm.show),
    "canary": Part(serving_canary.canary, serving_canary.met, serving_canary.show),
}
"""By the name that `--only` takes."""


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few requests and rollouts, one round")
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
