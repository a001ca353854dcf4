"""Run a benchmark that has several parts: measure those that are asked for, print their tables, write the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console


class Part(NamedTuple):
    """One part of a benchmark."""

    measure: Callable[[bool], dict[str, Any]]
    """Takes whether it is a smoke run, returns the figures."""
    met: Callable[[dict[str, Any]], dict[str, bool]]
    """Returns which goals they reach."""
    show: Callable[[Console, dict[str, Any]], None]
    """Prints them."""


def run(about: str | None, parts: Mapping[str, Part]) -> None:
    """Do what the command line asks for; parts are known by the name that `--only` takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few of everything")
    parser.add_argument("--only", default=",".join(parts), help="which of them, with commas")
    args = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {}
    met: dict[str, bool] = {}
    for name in (name for name in parts if name in args.only.split(",")):
        figures[name] = parts[name].measure(args.quick)
        met |= parts[name].met(figures[name])
        parts[name].show(console, figures[name])
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "met": met}, indent=1) + "\n", encoding="utf-8")
