"""Show a scorecard to a person: plain sentences, or a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import words
from langgraph_learnloop.records import Gate, Scorecard

if TYPE_CHECKING:
    from rich.table import Table


def sentences(scorecard: Scorecard) -> list[str]:
    """Return the verdict, then each gate's reason, failed ones first, those that only inform last."""
    verdict = "Ship" if scorecard.passed else "Do not ship"
    required = [gate for gate in scorecard.gates if gate.required]
    passed = sum(gate.passed for gate in required)
    lines = [
        f"{verdict} {scorecard.candidate!r} in place of {scorecard.champion!r}: "
        f"{passed} of {len(required)} required gates passed."
    ]
    ordered = sorted(scorecard.gates, key=lambda gate: (not gate.required, gate.passed and gate.required))
    return lines + [f"{_mark(gate)} {gate.name}: {gate.because}" for gate in ordered]


def table(scorecard: Scorecard) -> Table:
    """Return a rich table, one row a gate; raise MissingExtraError when rich is not installed."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError('A table needs rich: pip install "langgraph-learnloop[loop]".') from error
    verdict = "ship" if scorecard.passed else "do not ship"
    made = Table(title=f"{scorecard.candidate} against {scorecard.champion}: {verdict}")
    for column in ("gate", "figure", "champion", "candidate", "difference, points (95%)", "cases", "p", "verdict"):
        made.add_column(column, justify="left" if column in ("gate", "figure", "verdict") else "right")
    for gate in scorecard.gates:
        made.add_row(*(Text(cell) for cell in _row(gate)), style=None if gate.required else "dim")
    return made


def _row(gate: Gate) -> list[str]:
    p = "" if gate.p_value is None else words.p(gate.p_value).removeprefix("= ")
    return [
        gate.name,
        gate.metric.replace("_", " "),
        _share(gate.champion),
        _share(gate.candidate),
        _difference(gate),
        str(gate.cases),
        p,
        _mark(gate),
    ]


def _mark(gate: Gate) -> str:
    if not gate.required:
        return "info"
    return "passed" if gate.passed else "FAILED"


def _share(share: float | None) -> str:
    return "-" if share is None else words.percent(share)


def _difference(gate: Gate) -> str:
    if gate.champion is None or gate.candidate is None:
        return "-"
    change = words.points(gate.candidate - gate.champion)
    if gate.low is None or gate.high is None:
        return change
    return f"{change} ({words.points(gate.low)} to {words.points(gate.high)})"
