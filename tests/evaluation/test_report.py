"""A scorecard reads the same in words and in a table."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import UTC, datetime

from rich.console import Console

from langgraph_learnloop.evaluation.report import sentences, table
from langgraph_learnloop.records import Gate, Scorecard

CARD = Scorecard(
    candidate="new",
    champion="old",
    at=datetime(2026, 1, 1, tzinfo=UTC),
    gates=(
        Gate(
            name="target",
            required=True,
            passed=True,
            metric="fully_right",
            champion=0.1,
            candidate=0.9,
            cases=50,
            low=0.6,
            high=0.9,
            p_value=0.0001,
            because="It learned.",
        ),
        Gate(
            name="target:[red]",
            required=False,
            passed=False,
            metric="fully_right",
            champion=None,
            candidate=None,
            cases=0,
            because="Nothing is known.",
        ),
        Gate(
            name="retention",
            required=True,
            passed=False,
            metric="right_tool",
            champion=0.98,
            candidate=0.9,
            cases=500,
            low=-0.11,
            high=-0.05,
            p_value=0.9,
            because="It forgot.",
        ),
    ),
)


def test_sentences_begin_with_the_verdict_and_the_failed_gates() -> None:
    """The reader learns first whether it ships, then what stopped it; what only informs comes last."""
    lines = sentences(CARD)
    assert lines[0] == "Do not ship 'new' in place of 'old': 1 of 2 required gates passed."
    assert lines[1:] == [
        "FAILED retention: It forgot.",
        "passed target: It learned.",
        "info target:[red]: Nothing is known.",
    ]


def test_the_table_shows_every_gate() -> None:
    """Each gate is a row with its figures; names are text and not markup."""
    out = io.StringIO()
    Console(file=out, width=160).print(table(CARD))
    shown = out.getvalue()
    assert "do not ship" in shown
    assert "+80.0 (+60.0 to +90.0)" in shown
    assert "-8.0 (-11.0 to -5.0)" in shown
    assert "target:[red]" in shown
    assert "< 0.001" in shown


def test_sentences_need_no_rich() -> None:
    """Importing the report and writing sentences works without rich and without scipy."""
    code = (
        "import sys; import langgraph_learnloop.evaluation.report as r; "
        "sys.exit('rich' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
