"""Say how much of each room the tests run, lines and branches: `make coverage` measures, and calls this.

    python scripts/rooms.py coverage.json

Exit code 1 if a room is below the bound in either. A room is a folder of the package, or integrations/; the files
beside the folders are the corridor.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

LEAST = 90.0


class Run(NamedTuple):
    """How many there are and how many of them ran."""

    lines: int
    lines_run: int
    branches: int
    branches_run: int


def room(path: str) -> str:
    """Return the room that a file belongs to."""
    first, *rest = Path(path).parts
    return first if first == "integrations" else rest[0] if len(rest) > 1 else "corridor"


def percent(run: int, of: int) -> float:
    """Return how many in a hundred, a hundred where there is none."""
    return 100 * run / of if of else 100.0


def main() -> int:
    """Print a line for each room."""
    files = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["files"]
    counted: dict[str, list[Run]] = defaultdict(list)
    for path, found in files.items():
        one = found["summary"]
        lines, branches = one["num_statements"], one["num_branches"]
        counted[room(path)].append(Run(lines, one["covered_lines"], branches, one["covered_branches"]))
    low = False
    for name, runs in sorted(counted.items()):
        whole = Run(*(sum(column) for column in zip(*runs, strict=True)))
        line, branch = percent(whole.lines_run, whole.lines), percent(whole.branches_run, whole.branches)
        low |= min(line, branch) < LEAST
        mark = "ok   " if min(line, branch) >= LEAST else "BELOW"
        print(
            f"{mark} {name:26} {line:5.1f}% of {whole.lines:5,} lines, {branch:5.1f}% of {whole.branches:5,} branches"
        )
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
