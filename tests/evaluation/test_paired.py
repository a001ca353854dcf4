"""Two releases side by side: what is counted, in which direction, and by which test."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation import measures, stats
from langgraph_learnloop.evaluation.paired import Exam, Pairs, Scores, compare, score, shuffled
from langgraph_learnloop.records import Case, CaseResult
from tests.evaluation.scripted import case, result

ALPHA = 0.05
OLD = (0.1, 0.5, 0.9, 0.3, 0.4, 0.2)
NEW = (0.6, 0.4, 1.0, 0.8, 0.4, 0.9)


def pairs(n: int = 100, champion: int = 60, wins: int = 12, losses: int = 3) -> Pairs:
    return Pairs("m", n, champion, wins, losses)


def test_the_figures_of_right_and_wrong() -> None:
    """Shares before and after, the change, and the flips in words."""
    p = pairs()
    assert (p.before, p.after, p.left_out) == (0.6, 0.69, 0)
    assert p.change == pytest.approx(0.09)
    assert p.moved == "3 cases lost, 12 won"
    assert p.interval() == stats.difference_interval(12, 3, 100, 0.95)
    assert p.most(ALPHA) == stats.difference_interval(12, 3, 100, 0.9)[1]


def test_the_tests_of_right_and_wrong() -> None:
    """McNemar for better and for harm, each in its direction, and the exact test of non-inferiority."""
    p = pairs()
    assert p.not_better(ALPHA) == stats.mcnemar_greater(12, 3)
    assert p.not_worse(ALPHA) == stats.mcnemar_greater(3, 12)
    assert p.worse_by(0.02, ALPHA) == stats.noninferiority(12, 3, 100, 0.02)
    assert p.better_test == "exact one-sided McNemar test"
    assert p.unharmed_test == "exact paired non-inferiority test"


@pytest.mark.parametrize(("wins", "losses"), [(12, 3), (3, 12)])
def test_the_power_of_right_and_wrong(wins: int, losses: int) -> None:
    """The fewer flips are the noise of a gain, half of them all the unrest of a candidate that loses nothing."""
    p = pairs(wins=wins, losses=losses)
    assert p.power_better(0.1, 0.02, ALPHA) == stats.mcnemar_power(100, 0.1, 0.03, ALPHA, 0.02)
    assert p.cases_better(0.1, ALPHA) == stats.mcnemar_cases(0.1, 0.03, ALPHA)
    assert p.power_better(0.98, 0.02, ALPHA) == stats.mcnemar_power(100, 0.98, (1 - 0.98) / 2, ALPHA, 0.02)
    assert p.cases_better(0.98, ALPHA) == stats.mcnemar_cases(0.98, (1 - 0.98) / 2, ALPHA)
    noisy = pairs(wins=31, losses=30)
    assert noisy.cases_better(0.8, ALPHA) == stats.mcnemar_cases(0.8, 0.1, ALPHA) == 8
    assert p.power_unharmed(0.1, ALPHA) == stats.noninferiority_power(100, 0.075, 0.1, ALPHA)
    assert p.cases_unharmed(0.1, ALPHA) == stats.noninferiority_cases(0.075, 0.1, ALPHA)
    assert p.detectable(ALPHA) == stats.detectable(100, 0.03, ALPHA)


def test_no_case_says_nothing_of_right_and_wrong() -> None:
    """No share, no interval, no change, no power; and what is missing is all of it."""
    p = pairs(0, 0, 0, 0)
    assert (p.before, p.after, p.interval(), p.change) == (None, None, None, 0.0)
    assert p.power_better(0.1, 0.0, ALPHA) == 0.0
    assert (p.cases_better(0.1, ALPHA), p.cases_unharmed(0.1, ALPHA)) == (
        stats.mcnemar_cases(0.1, 0.0, ALPHA),
        stats.noninferiority_cases(0.0, 0.1, ALPHA),
    )
    assert p.detectable(ALPHA) is None


@pytest.mark.parametrize(
    ("n", "champion", "missing"),
    [(100, 95, 0), (100, 96, 125), (7, 4, 12), (10, 10, 15), (0, 0, 5), (5, 0, 0), (4, 0, 5)],
)
def test_how_many_cases_leave_room_to_win(n: int, champion: int, missing: int) -> None:
    """Five must be left to win; where fewer are, so many cases as would leave five."""
    assert pairs(n, champion, 0, 0).wins_missing(ALPHA) == missing


def test_the_figures_of_scores() -> None:
    """Means, the change of the mean, and how many got better and worse."""
    s = Scores("m", OLD, NEW)
    d = np.subtract(NEW, OLD)
    assert (s.n, s.left_out) == (6, 0)
    assert (s.before, s.after, s.change) == pytest.approx((0.4, 41 / 60, 17 / 60))
    assert s.moved == "1 cases worse, 4 better"
    low, high = measures.bootstrap(lambda drawn: drawn.mean(axis=-1), d)
    assert s.interval() == (min(low, s.change), max(high, s.change))
    assert low < s.change < high
    assert s.most(ALPHA) == pytest.approx(s.change + stats.quantile(0.95) * d.std(ddof=1) / math.sqrt(6))
    assert "sign-flip" in s.better_test
    assert "non-inferiority" in s.unharmed_test


def test_the_tests_of_scores() -> None:
    """Better only by permutation and in the mean; harm is the same the other way round."""
    s, turned = Scores("m", OLD * 9, NEW * 9), Scores("m", NEW * 9, OLD * 9)
    d = np.subtract(NEW * 9, OLD * 9)
    bet, flip = float(measures.no_gain(d, -1.0, ALPHA)), measures.sign_flip(d)
    assert s.not_better(ALPHA) == max(bet, flip) < 1
    assert s.not_worse(ALPHA) == turned.not_better(ALPHA) == 1.0
    assert turned.not_worse(ALPHA) == s.not_better(ALPHA)
    assert s.worse_by(0.1, ALPHA) == float(measures.no_gain(d + 0.1, -0.9, ALPHA))
    few = Scores("m", (0.5,) * 3, (0.6,) * 3)
    bet = float(measures.no_gain(np.full(3, 0.1), -1.0, ALPHA))
    assert few.not_better(ALPHA) == pytest.approx(max(bet, 0.125), rel=1e-12)


def test_the_power_of_scores() -> None:
    """By the bets on such scattered scores."""
    s = Scores("m", OLD * 9, NEW * 9)
    d = np.subtract(NEW * 9, OLD * 9)
    spread = float(d.std(ddof=1))
    assert s.power_better(0.2, 0.1, ALPHA) == measures.bet_power(d, 0.2, -1.0, ALPHA, 0.1)
    assert s.power_unharmed(0.2, ALPHA) == measures.bet_power(d, 0.2, -0.8, ALPHA)
    assert s.cases_better(0.2, ALPHA) == measures.bet_cases(spread, 0.2, -1.0, ALPHA)
    assert s.cases_unharmed(0.2, ALPHA) == measures.bet_cases(spread, 0.2, -0.8, ALPHA)
    found = s.detectable(ALPHA)
    assert found is not None
    assert s.cases_better(found, ALPHA) <= s.n < s.cases_better(found - 2e-4, ALPHA)
    assert Scores("m", (0.1, 0.9) * 2, (0.9, 0.1) * 2).detectable(ALPHA) is None
    needed = max(stats.wins_needed(ALPHA), measures.bet_cases(0.0, 1.0, -1.0, ALPHA))
    assert Scores("m", (0.1,) * needed, (0.1,) * needed).wins_missing(ALPHA) == 0
    assert Scores("m", (0.1,) * (needed - 1), (0.1,) * (needed - 1)).wins_missing(ALPHA) == needed


def test_no_case_and_one_case_of_scores() -> None:
    """No case says nothing; of one case the spread is not known, and taken to be a half."""
    none, one = Scores("m", (), ()), Scores("m", (0.2,), (0.3,))
    assert (none.before, none.after, none.interval(), none.change, none.most(ALPHA)) == (None, None, None, 0.0, 1.0)
    assert (none.detectable(ALPHA), one.detectable(ALPHA)) == (None, None)
    assert none.cases_better(0.2, ALPHA) == one.cases_better(0.2, ALPHA) == measures.bet_cases(0.5, 0.2, -1.0, ALPHA)
    assert one.most(ALPHA) == pytest.approx(0.1 + stats.quantile(0.95) * 0.5)
    two = Scores("m", (0.2, 0.4), (0.3, 0.9))
    assert two.cases_better(0.2, ALPHA) == measures.bet_cases(math.sqrt(0.08), 0.2, -1.0, ALPHA)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (
            [(True, True), (True, False), (False, True), (False, True), (False, False), (None, True), (True, None)],
            Pairs("m", 5, 2, 2, 1, 2),
        ),
        ([(None, None)], Pairs("m", 0, 0, 0, 0, 1)),
        ([], Pairs("m", 0, 0, 0, 0)),
        ([(True, 0.5), (False, None)], Scores("m", (1.0,), (0.5,), 1)),
        ([(True, True), (0.0, 1.0)], Scores("m", (1.0, 0.0), (1.0, 1.0))),
    ],
)
def test_what_is_compared(rows: Any, found: Pairs | Scores) -> None:
    """Only what both sides answered; right and wrong, unless one number is among them."""
    assert compare("m", rows) == found


def judged(found: Any, one: Case) -> CaseResult:
    return result("r", one, True).model_copy(update={"scores": {"m": found}})


@pytest.mark.parametrize("found", [True, False, 0, 1, 0.0, 1.0, 0.5])
def test_a_score_is_taken_as_it_is(found: Any) -> None:
    """From 0 to 1, both ends included."""
    assert score(judged(found, case("q")), "m") is found


def test_a_score_that_is_none() -> None:
    """No result, no such metric, not judged, and not a number: all of them unknown."""
    assert score(None, "m") is None
    assert score(judged(True, case("q")), "other") is None
    assert score(judged(None, case("q")), "m") is None
    assert score(judged(math.nan, case("q")), "m") is None


@pytest.mark.parametrize("found", [-0.01, 1.01, 2, -1])
def test_a_score_out_of_range_is_refused(found: Any) -> None:
    """Nothing is compared that another scale measured."""
    with pytest.raises(DataError, match=f"'m' the score {found!r}"):
        score(judged(found, case("q")), "m")


def test_an_exam_by_suite_and_category() -> None:
    """A suite's cases, those of one category, and each side's scores of them in the cases' order."""
    cases = [case(f"q{n}", suite=suite, category=c) for n, (suite, c) in enumerate(
        [("target", "b"), ("target", "a"), ("retention", "a"), ("target", "b")])]  # fmt: skip
    olds, news = (True, False, True, True), (False, True, True, True)
    sides = [{one.case_id: judged(found, one) for one, found in zip(cases, side, strict=True)} for side in (olds, news)]
    exam = Exam(cases, *sides)
    assert exam.of("target") == [cases[0], cases[1], cases[3]]
    assert exam.of("target", "b") == [cases[0], cases[3]]
    assert exam.of("safety") == []
    assert exam.categories("target") == ["a", "b"]
    assert exam.categories("retention") == ["a"]
    assert exam.pairs("m", "target") == Pairs("m", 3, 2, 1, 1)
    assert exam.pairs("m", "target", "b") == Pairs("m", 2, 2, 0, 1)
    del exam.candidate[cases[1].case_id]  # type: ignore[attr-defined]
    assert exam.pairs("m", "target") == Pairs("m", 2, 2, 0, 1, 1)


def test_the_order_of_an_exam() -> None:
    """Each case of a suite once, the same whatever the order was; a suite's copy of a case is another."""
    cases = [case(f"q{n}", suite=suite) for n in range(20) for suite in ("target", "retention")]
    order = shuffled(cases)
    assert order == shuffled(cases[::-1]) == shuffled(cases * 2)
    assert len(order) == 40
    assert order != cases
    assert order != sorted(cases, key=lambda one: one.suite)
