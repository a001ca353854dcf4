"""A scorecard reads the same in words, in a table and in a whole report."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import report as told
from langgraph_learnloop.evaluation.findings import Report
from langgraph_learnloop.evaluation.report import headline, mark, ordered, summary, table
from langgraph_learnloop.records import Case, CaseResult, Gate, Message, Release, Remembered, Score, Scorecard, ToolCall
from tests.evaluation.scripted import case

AT = datetime(2026, 1, 1, tzinfo=UTC)
OLD = Release(base_model="small", made_at=AT)
NEW = Release(base_model="small", adapter="adapters/1", adapter_sha256="ab" * 32, parent=OLD.release_id, made_at=AT)
CARD = Scorecard(
    candidate="new",
    champion="old",
    at=AT,
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


def gate(name: str = "target", metric: str = "fully_right", *, passed: bool = True, **more: Any) -> Gate:
    """Return a required gate that compared nothing unless told otherwise."""
    given = {"required": True, "champion": None, "candidate": None, "cases": 0, "because": "So it is.", **more}
    return Gate(name=name, metric=metric, passed=passed, **given)


def answer(of: Case, *, release: str = "old", **more: Any) -> CaseResult:
    """Return a result with its scores named as fields."""
    scores = {name: more.pop(name) for name in ("fully_right", "right_tool") if name in more}
    return CaseResult(release_id=release, case_id=of.case_id, evaluator="judge/1", scores=scores, **more)


def report(
    pairs: Sequence[tuple[Case, CaseResult | None, CaseResult | None]] = (), card: Scorecard = CARD, **more: Any
) -> Report:
    """Return a report of cases with what the champion and the candidate did on them."""
    return Report(
        scorecard=card,
        champion=OLD,
        candidate=NEW,
        cases=[of for of, _, _ in pairs],
        champion_results={of.case_id: old for of, old, _ in pairs if old is not None},
        candidate_results={of.case_id: new for of, _, new in pairs if new is not None},
        **more,
    )


def scored(of: Case, old: Score, new: Score) -> tuple[Case, CaseResult, CaseResult]:
    """Return a case on which the two sides have these scores, the right tool on both."""
    return (
        of,
        answer(of, fully_right=old, right_tool=True),
        answer(of, release="new", fully_right=new, right_tool=True),
    )


def printed(what: RenderableType, width: int = 160) -> str:
    """Return what a terminal of this width shows."""
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


def test_failed_gates_come_first() -> None:
    """The reader learns first what stopped it; what only informs comes last."""
    gates = [(mark(gate), gate.name) for gate in ordered(CARD.gates)]
    assert gates == [("FAILED", "retention"), ("passed", "target"), ("info", "target:[red]")]


@pytest.mark.parametrize(
    ("gates", "first"),
    [
        ((gate(),), "Ship 'new' in place of 'old': 1 of 1 required gates passed."),
        ((gate(passed=False),), "Do not ship 'new' in place of 'old': 0 of 1 required gates passed."),
        ((), "Do not ship 'new' in place of 'old': no required gate ran."),
        (
            (gate(passed=False, needed=12), gate("safety")),
            "More cases are needed to tell whether 'new' may take the place of 'old': 1 of 2 required gates passed; "
            "cases are missing: 12 for target.",
        ),
        (
            tuple(gate(f"retention:{i}", passed=False, needed=i + 1) for i in range(12)),
            "More cases are needed to tell whether 'new' may take the place of 'old': 0 of 12 required gates passed; "
            "cases are missing: 1 for retention:0, 2 for retention:1, 3 for retention:2 and more.",
        ),
    ],
)
def test_the_verdict_has_three_values(gates: tuple[Gate, ...], first: str) -> None:
    """Too few cases is neither yes nor no, and says how many are missing."""
    assert headline(CARD.model_copy(update={"gates": gates})) == first


def test_the_table_shows_every_gate() -> None:
    """Each gate is a row with its figures; names are text and not markup."""
    shown = printed(table(CARD))
    assert "do not ship" in shown
    assert "+80.0 (+60.0 to +90.0)" in shown
    assert "-8.0 (-11.0 to -5.0)" in shown
    assert "target:[red]" in shown
    assert "< 0.001" in shown
    assert "power" not in shown


def test_the_table_shows_power_tests_and_missing_cases_where_they_are_known() -> None:
    """Columns that would be empty are left out, and tests stand below."""
    unsure = gate(passed=False, test="exact [red] test", power=0.314, needed=40, cases=7, left_out=3)
    shown = printed(table(CARD.model_copy(update={"gates": (unsure,)})))
    for text in ("need more cases", "undecided", "31%", "40", "7 of 10", "target: fully right, exact [red] test"):
        assert text in shown


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.1, 1.4, "1.25 times (1.10 to 1.40)"),
        (1.1, None, "1.25 times (from 1.10)"),
        (None, 1.4, "1.25 times (up to 1.40)"),
        (None, None, "1.25 times"),
    ],
)
def test_latency_is_a_ratio(low: float | None, high: float | None, said: str) -> None:
    """Seconds are no shares, and an interval may be open at an end."""
    slow = gate("latency", "model_seconds", champion=1.0, candidate=1.25, low=low, high=high)
    assert told.change(slow) == said
    assert told.figure(slow, "candidate") == "1.25 s"


def test_a_ratio_to_nothing_is_unknown() -> None:
    """A champion that cost nothing has no multiple."""
    assert told.change(gate("cost", "usd", champion=0.0, candidate=0.1)) == "unknown"


def test_the_summary_tells_all_of_it() -> None:
    """Verdict, gates, flips, what could not be judged, what it remembers and what it cost are on one screen."""
    asked, late = case("Wake me in five minutes"), case("b")
    call = ToolCall(name="set_timer", args={"minutes": 5})
    won = answer(asked, release="new", fully_right=True, got=(Message(role="assistant", tool_calls=(call,)),))
    pairs = [
        (asked, answer(asked, fully_right=False, got=(Message(role="assistant", content="Why?"),)), won),
        (late, answer(late, error="No answer."), answer(late, error="No answer.")),
    ]
    lesson = Remembered(dataset="d" * 32, learned_by="0123456789abcdef", cases=20, then=0.95, now=None)
    card = CARD.model_copy(update={"stopped_early": "It was hopeless."})
    shown = printed(summary(report(pairs, card, remembered=[lesson], titles={"d" * 32: "Timers"})))
    for text in (
        "Do not ship 'new' in place of 'old'",
        "Stopped early: It was hopeless.",
        "1 case won, 0 lost.",
        "Wake me in five minutes",
        "fully right: no, then yes",
        "Why?",
        'set_timer({"minutes": 5})',
        "The champion left 1 unjudged: No answer.",
        "Timers (dddddddddddd)",
        "95.0%",
        "US dollars",
    ):
        assert text in shown
    assert "abcdef" not in shown.replace("0123456789ab", "")


def test_the_summary_shows_a_few_flips_and_says_how_many_there_are() -> None:
    """A long list does not push the rest off the screen."""
    shown = printed(summary(report([scored(case(f"question {i}"), True, False) for i in range(30)])))
    assert "Lost, the first 5 of 30" in shown
    assert "question 4" in shown
    assert "question 5" not in shown


@pytest.mark.parametrize("nasty", ["\x1b[31mred", "a\x07b", "\u202eevil", "\ud800", "[bold]x[/bold]", "x" * 1_000_000])
def test_captured_text_cannot_steer_the_terminal(nasty: str) -> None:
    """Escape sequences, direction marks and lone surrogates are spelled out, markup is text, and all is short."""
    of = case(nasty, category=nasty)
    call = ToolCall(name=nasty, args={nasty: nasty})
    got = (Message(role="assistant", content=nasty, tool_calls=(call,)),)
    new = answer(of, release="new", fully_right=True, got=got, comment=nasty)
    late = case("late")
    pairs = [(of, answer(of, fully_right=False, got=got), new), (late, answer(late, error=nasty), None)]
    card = CARD.model_copy(
        update={"gates": (*CARD.gates, gate(f"target:{nasty}", test=nasty)), "stopped_early": nasty[:100]}
    )
    shown = printed(summary(report(pairs, card)), width=200)
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert len(shown) < 50_000
    if nasty.startswith("[bold]"):
        assert nasty in shown


def test_arguments_that_are_no_json_do_not_break_a_report() -> None:
    """Nesting without an end is said, not followed."""
    deep: dict[str, Any] = {}
    deep["again"] = deep
    assert told.written(deep) == "(arguments that are no JSON)"


def test_a_verdict_needs_no_rich() -> None:
    """Importing the report works without rich, without jinja2 and without scipy."""
    code = (
        "import sys; import langgraph_learnloop.evaluation.report as r; "
        "sys.exit(any(name in sys.modules for name in ('rich', 'scipy', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_rich_a_table_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command."""
    monkeypatch.setitem(sys.modules, "rich.table", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[loop\]"'):
        table(CARD)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[loop\]"'):
        summary(report())
