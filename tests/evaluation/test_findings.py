"""What is found in the results of an examination: flips, cases without a verdict, sums, and what the gates ask for."""

from __future__ import annotations

import pytest

from langgraph_learnloop.evaluation.findings import Lesson, costs, flips, ledger, margins, unjudged
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.messages import question
from langgraph_learnloop.records import CaseResult, Score
from tests.evaluation.scripted import case
from tests.evaluation.test_report import CARD, answer, gate, report, scored


@pytest.mark.parametrize(
    ("old", "new", "won", "lost"),
    [
        (False, True, 1, 0),
        (True, False, 0, 1),
        (True, True, 0, 0),
        (0.8, 0.9, 1, 0),
        (0.9, 0.81, 0, 0),
        (0.4, True, 1, 0),
        (None, True, 0, 0),
        (float("nan"), 1.0, 0, 0),
    ],
)
def test_a_case_flips_when_its_score_changes(old: Score, new: Score, won: int, lost: int) -> None:
    """A verdict flips, a number must move by a tenth, and what was not judged has not changed."""
    found = flips(report([scored(case("a"), old, new)]))
    assert (len(found.won), len(found.lost)) == (won, lost)


def test_a_wrong_tool_is_a_loss_even_where_the_answer_was_wrong_before() -> None:
    """Where the target's score is the same, the other scores that gates compare are looked at."""
    of = case("a", suite="retention")
    old = answer(of, fully_right=False, right_tool=True)
    new = answer(of, release="new", fully_right=False, right_tool=False)
    (lost,) = flips(report([(of, old, new)])).lost
    assert (lost.score, lost.change) == ("right_tool", -1.0)


def test_the_largest_change_comes_first() -> None:
    """What a reader looks at first is what changed most; of equals, what was asked first."""
    found = flips(report([scored(case("a"), 0.2, 0.4), scored(case("b"), 0.0, 1.0), scored(case("c"), 0.2, 0.4)]))
    assert [question(flip.case.messages) for flip in found.won] == ["b", "a", "c"]


def test_a_score_that_no_gate_compared_is_not_looked_at() -> None:
    """Only scores that decide make a flip."""
    card = CARD.model_copy(update={"gates": (gate(metric="right_tool"),)})
    assert flips(report([scored(case("a"), False, True)], card)) == ((), ())


def test_cases_that_could_not_be_judged_are_told_by_side_and_reason() -> None:
    """A case nobody asked, one that failed and one whose judge could not tell each say why."""
    fine, late, vague, unasked = case("a"), case("b"), case("c"), case("d")
    found = unjudged(
        report(
            [
                scored(fine, True, True),
                (late, answer(late, fully_right=True, right_tool=True), answer(late, error="No answer.")),
                (vague, answer(vague, fully_right=None, right_tool=True), answer(vague, error="No answer.")),
                (unasked, answer(unasked, fully_right=True, right_tool=True), None),
            ]
        )
    )
    assert [(row.side, row.because, len(row.cases)) for row in found] == [
        ("champion", "It has no fully right.", 1),
        ("candidate", "No answer.", 2),
        ("candidate", "It was not asked.", 1),
    ]


def test_what_is_not_known_is_not_summed_as_nothing() -> None:
    """A sum says of how many cases it is, and of none it is unknown."""
    one, two = case("a"), case("b")
    pairs = [
        (one, answer(one, seconds=1.5, tokens=1000, usd=0.25), answer(one, tokens=10)),
        (two, answer(two, seconds=2.0, tokens=500), answer(two, tokens=10)),
    ]
    assert {name: (old, new) for name, old, new in costs(report(pairs))} == {
        "time, all cases added up": ("3.5 s", "unknown"),
        "of that, the models": ("unknown", "unknown"),
        "tokens": ("1,500", "20"),
        "US dollars": ("$0.2500 (1 of 2 cases)", "unknown"),
    }


def test_the_margins_are_those_of_the_limits() -> None:
    """A report draws what the gates asked for; a limit that is not set asks for nothing."""
    found = margins(Limits(target_gain=0.1, retention_margin=0.03, category_margin=0.04, cost_ratio=1.2))
    assert found == {"target": 0.1, "retention": -0.03, "retention:": -0.04, "regression": -0.04, "cost": 1.2}


def _asked(release: str, **right: bool | None) -> dict[str, CaseResult]:
    return {
        case_id: CaseResult(release_id=release, case_id=case_id, evaluator="e", scores={"fully_right": verdict})
        for case_id, verdict in right.items()
    }


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
