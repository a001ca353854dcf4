"""A run is flagged for what speaks against it, and for nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from langgraph_learnloop.curation.flag import flag
from langgraph_learnloop.records import Feedback, Flag, Run, Step
from tests.curation.builders import answer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(**given: Any) -> Run:
    """Return a finished run."""
    return Run(**{"run_id": "r", "agent": "a", "outcome": "finished", "started_at": NOW, **given})


def said(number: int = 0, **given: Any) -> Feedback:
    """Return feedback on the run."""
    return Feedback(**{"feedback_id": f"f{number}", "run_id": "r", "at": NOW, **given})


def tool(error: str | None) -> Step:
    """Return a tool step that ended with an error, or without."""
    return Step(step_id="t", parent_id=None, kind="tool", name="lookup", started_at=NOW, error=error)


def severity(raised: Flag | None) -> float:
    """Return how bad a flag is; no flag is not bad at all."""
    return 0.0 if raised is None else raised.severity


def test_a_good_run_is_not_flagged() -> None:
    """A finished run without feedback, or with a good score, raises no flag."""
    assert flag(run(), []) is None
    assert flag(run(), [said(score=1)]) is None


def test_a_mean_below_the_threshold_flags() -> None:
    """The mean of the judged scores decides; a bad score outweighed by good ones does not flag."""
    assert flag(run(), [said(1, score=-1), said(2, score=1)]) is None
    raised = flag(run(), [said(1, score=-1), said(2, score=0.5)], now=NOW)
    assert raised is not None
    assert "mean of 2 scores is -0.25, below +0.00" in raised.reasons[0]
    assert raised.at == NOW


def test_feedback_without_a_score_is_not_zero() -> None:
    """A comment without a score is not counted in the mean: one -1 stays -1, and no score stays no judgement."""
    assert flag(run(), [said(text="hm")], below=0.5) is None
    raised = flag(run(), [said(1, text="hm"), said(2, score=-1)])
    assert raised is not None
    assert "one score is -1.00" in raised.reasons[0]


@pytest.mark.parametrize(("outcome", "flagged"), [("failed", True), ("interrupted", False), ("finished", False)])
def test_a_failed_run_is_flagged_and_a_paused_one_is_not(outcome: str, flagged: bool) -> None:
    """A pause for a human is not a failure."""
    assert (flag(run(outcome=outcome, error="ValueError: x"), []) is not None) is flagged


@pytest.mark.parametrize(
    ("error", "flagged"), [("KeyError: 'x'", True), (None, False), ("GraphInterrupt: (Interrupt(...),)", False)]
)
def test_a_failed_tool_flags_and_an_interrupt_in_a_tool_does_not(error: str | None, flagged: bool) -> None:
    """An error that left a tool is a reason, unless it is LangGraph's own way to pause."""
    assert (flag(run(steps=(tool(error),)), []) is not None) is flagged


def test_a_correction_flags_even_with_a_good_score() -> None:
    """Whoever corrects a run says that it was wrong."""
    raised = flag(run(), [said(score=1, correction=answer("Canberra"), by="ann")])
    assert raised is not None
    assert raised.reasons == ("It was corrected by ann.",)


def test_more_reasons_are_worse() -> None:
    """Severity grows with each reason and stays within 0 and 1."""
    one = flag(run(), [said(score=-0.5)])
    two = flag(run(steps=(tool("KeyError: x"),)), [said(score=-0.5)])
    three = flag(run(outcome="failed", steps=(tool("KeyError: x"),)), [said(score=-1)])
    assert 0 < severity(one) < severity(two) < severity(three) <= 1


def test_feedback_on_another_run_is_passed_over() -> None:
    """Only feedback on this run counts."""
    assert flag(run(), [said(score=-1, run_id="other")]) is None
