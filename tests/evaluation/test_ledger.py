"""What is still known of earlier lessons."""

from __future__ import annotations

from langgraph_learnloop.evaluation.ledger import Lesson, ledger
from langgraph_learnloop.records import CaseResult, Message


def _result(release: str, case: str, right: bool | None) -> CaseResult:
    return CaseResult(
        release_id=release,
        case_id=case,
        evaluator="e",
        scores={"fully_right": right},
        got=(Message(role="assistant"),),
        seconds=0.1,
    )


def _asked(release: str, **right: bool | None) -> dict[str, CaseResult]:
    return {case: _result(release, case, verdict) for case, verdict in right.items()}


def test_each_lesson_has_a_line() -> None:
    """Shares are over the cases that both were asked and that could be judged."""
    lessons = [Lesson("d1", "r1", ["a", "b", "c", "d"]), Lesson("d2", "r2", ["e"]), Lesson("d3", "r3", ["f"])]
    results = {
        "r1": _asked("r1", a=True, b=True, c=True, d=None),
        "r2": _asked("r2", a=True, b=False, d=True, e=True),
        "r3": _asked("r3", f=True),
    }
    one, two, three = ledger(lessons, results, "r2", "fully_right")
    assert (one.dataset, one.learned_by, one.cases, one.then, one.now) == ("d1", "r1", 2, 1.0, 0.5)
    assert (two.cases, two.then, two.now) == (1, 1.0, 1.0)
    assert (three.cases, three.then, three.now) == (0, None, None)


def test_a_release_that_was_never_asked_has_no_shares() -> None:
    """Unknown is None, never 0."""
    (row,) = ledger([Lesson("d", "r", ["a"])], {"r": _asked("r", a=True)}, "other", "fully_right")
    assert (row.cases, row.then, row.now) == (0, None, None)
