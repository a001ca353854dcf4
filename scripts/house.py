"""Measure the house: how long its functions and files are, and whether its imports run in a circle.

    python scripts/house.py     prints the figures, and what is beyond them; exit code 1 if anything is

The bounds are those of well-kept libraries, whose functions have a median of 7 to 10 lines, and a 90th percentile of
28 to 35.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ROOMS = ("langgraph_learnloop", "integrations", "benchmarks", "examples", "scripts")
PACKAGE = ROOT / "langgraph_learnloop"
MEDIAN, NINETIETH, LONGEST, FILE = 10, 35, 60, 450


class Measured(NamedTuple):
    """How long something is, and where it stands."""

    lines: int
    """From its first line to its last."""
    where: str
    """Its file, and the line where it begins."""


def sources() -> list[Path]:
    """Return the product's Python files, each once: the package's links lead to files that are here anyway."""
    found = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return [path for path in found if not any(part.is_symlink() for part in path.parents)]


def functions(path: Path) -> Iterator[Measured]:
    """Yield each function of a file, with its decorators and docstring, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            yield Measured((node.end_lineno or first) - first + 1, f"{path.relative_to(ROOT)}:{first} {node.name}")


def circle() -> list[str]:
    """Return a circle among the package's imports, those that are only for type checkers left out; [] without one."""
    import grimp

    graph = grimp.build_graph("langgraph_learnloop", exclude_type_checking_imports=True)
    try:
        TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def main() -> int:
    """Print the figures; return 1 if one is beyond its bound."""
    files = [
        Measured(len(path.read_text(encoding="utf-8").splitlines()), str(path.relative_to(ROOT))) for path in sources()
    ]
    found = [one for path in sources() for one in functions(path)]
    lengths = sorted(one.lines for one in found)
    ninetieth = lengths[int(len(lengths) * 0.9)]
    found_circle = circle()
    own = sum(one.lines for one in files if one.where.startswith(("langgraph_learnloop", "integrations")))
    print(f"{len(files)} files, {sum(one.lines for one in files):,} lines; the package and its integrations: {own:,}")
    figures = {
        f"functions: median of {len(found):,} (at most {MEDIAN} lines)": statistics.median(lengths) <= MEDIAN,
        f"functions: 90th percentile (at most {NINETIETH})": ninetieth <= NINETIETH,
        f"functions: none over {LONGEST}": lengths[-1] <= LONGEST,
        f"files: none over {FILE} lines": max(files).lines <= FILE,
        "imports: no circle": not found_circle,
    }
    values = (statistics.median(lengths), ninetieth, lengths[-1], max(files).lines, len(found_circle))
    for (name, met), value in zip(figures.items(), values, strict=True):
        print(f"{'ok  ' if met else 'OVER'}  {name}: {value:g}")
    beyond = [one for one in found if one.lines > LONGEST] + [one for one in files if one.lines > FILE]
    for one in sorted(beyond, reverse=True):
        print(f"      {one.lines:5}  {one.where}")
    if found_circle:
        print("      " + " <- ".join(found_circle))
    return 0 if all(figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
