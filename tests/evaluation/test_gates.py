"""The gates keep their error rates, say what they cannot know, and let nothing through by default."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation import gates, stats
from langgraph_learnloop.evaluation.gates import judge
from langgraph_learnloop.records import Case, CaseResult, Gate, Scorecard
from tests.evaluation.scripted import case, result

Side = list[CaseResult]


class Exam:
    """Collect cases with both sides' results."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.champion: Side = []
        self.candidate: Side = []

    def add(self, n: int, suite: str, category: str, old: Any, new: Any) -> Exam:
        """Add n cases; old and new are what each side's result says (a bool, or right tool and fully right)."""
        for _ in range(n):
            made = case(f"question {len(self.cases)}", suite=suite, category=category)
            self.cases.append(made)
            for side, release, found in ((self.champion, "old", old), (self.candidate, "new", new)):
                side.append(result(release, made, *(found if isinstance(found, tuple) else (found,))))
        return self

    def judge(self, **settings: Any) -> Scorecard:
        """Return the scorecard."""
        return judge(self.champion, self.candidate, self.cases, **settings)


def gate(scorecard: Scorecard, name: str) -> Gate:
    """Return the gate of this name."""
    return next(found for found in scorecard.gates if found.name == name)


def good() -> Exam:
    """Return an exam that passes: the target is learned and nothing is lost."""
    exam = Exam().add(40, "target", "set_timer", False, True).add(10, "target", "set_timer", False, False)
    return exam.add(100, "retention", "play", True, True).add(100, "retention", "weather", True, True)


def test_a_good_candidate_ships() -> None:
    """A learned target and an unharmed old slice pass all the required gates, at the time that was given."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    scorecard = good().judge(now=at)
    assert scorecard.passed
    assert scorecard.at == at
    assert (scorecard.champion, scorecard.candidate) == ("old", "new")
    assert {g.name for g in scorecard.gates if g.required} == {
        "judged",
        "target",
        "retention",
        "retention:play",
        "retention:weather",
    }
    assert gate(scorecard, "target").candidate == pytest.approx(0.8)


def test_the_champion_against_itself_stops() -> None:
    """A candidate that is the champion never ships, even where chance made it look better."""
    exam = good()
    exam.candidate = [r.model_copy(update={"release_id": "old"}) for r in exam.candidate]
    scorecard = exam.judge()
    assert not scorecard.passed
    assert "nothing to ship" in gate(scorecard, "target").because


def test_an_equal_candidate_stops() -> None:
    """A candidate that answers like the champion has not shown a gain."""
    exam = Exam().add(50, "target", "set_timer", False, False).add(200, "retention", "play", True, True)
    scorecard = exam.judge()
    assert not scorecard.passed
    assert [g.name for g in scorecard.gates if g.required and not g.passed] == ["target"]


def test_a_sure_but_small_gain_stops() -> None:
    """A gain below the one that was asked for does not ship, however sure it is."""
    exam = Exam().add(8, "target", "set_timer", False, True).add(192, "target", "set_timer", False, False)
    exam.add(200, "retention", "play", True, True)
    found = gate(exam.judge(), "target")
    assert found.p_value is not None
    assert found.p_value <= 0.05
    assert not found.passed
    assert "less than the 5.0 points" in found.because


def test_a_target_of_too_few_failures_says_how_many_it_needs() -> None:
    """Where the champion leaves fewer than five cases to win, the gate asks for more instead of passing."""
    exam = Exam().add(4, "target", "set_timer", False, True).add(6, "target", "set_timer", True, True)
    found = gate(exam.add(200, "retention", "play", True, True).judge(), "target")
    assert not found.passed
    assert "Not enough cases: 13 needed" in found.because


def test_a_small_old_slice_says_how_many_it_needs() -> None:
    """Even a lossless old slice of 148 cases cannot rule out two points; 149 can."""
    few = Exam().add(10, "target", "t", False, True).add(148, "retention", "play", True, True).judge()
    enough = Exam().add(10, "target", "t", False, True).add(149, "retention", "play", True, True).judge()
    assert not gate(few, "retention").passed
    assert "Not enough cases: 149 needed" in gate(few, "retention").because
    assert gate(enough, "retention").passed
    assert gate(enough, "retention").p_value == pytest.approx(0.98**149)


def test_no_cases_at_all_do_not_pass() -> None:
    """An exam whose cases nobody answered has not passed a single gate of the three that always run."""
    lone = case("lone")
    scorecard = judge([result("old", lone, None)], [result("new", lone, None)], [])
    assert not scorecard.passed
    assert [g.passed for g in scorecard.gates if g.required] == [False, False, False]


def test_a_forgetting_candidate_is_stopped_with_the_reason() -> None:
    """A candidate that learned the target and forgot an old tool fails that tool's gate, and it is named."""
    exam = good().add(15, "retention", "rare", True, False)
    scorecard = exam.judge()
    assert not scorecard.passed
    assert "'rare'" in scorecard.because
    assert not gate(scorecard, "retention:rare").passed
    assert gate(scorecard, "retention:play").passed


def test_a_rare_tool_does_not_hide_in_the_whole() -> None:
    """A rare tool that lost a third of its cases is stopped while the old slice as a whole passes."""
    exam = good().add(800, "retention", "play", True, True)
    exam.add(6, "retention", "rare", True, True).add(3, "retention", "rare", True, False)
    scorecard = exam.judge()
    assert gate(scorecard, "retention").passed
    assert not gate(scorecard, "retention:rare").passed


def test_one_lost_case_is_not_a_lost_tool() -> None:
    """A single lost case of a small tool is noise, and the gate says what it could have seen."""
    exam = good().add(9, "retention", "rare", True, True).add(1, "retention", "rare", True, False)
    found = gate(exam.judge(), "retention:rare")
    assert found.passed
    assert "inside the noise of 10 cases" in found.because


def test_a_small_sure_harm_is_stopped() -> None:
    """A drop below the category's margin is stopped when it is significant after Holm's adjustment."""
    exam = Exam().add(10, "target", "t", False, True).add(580, "retention", "play", True, True)
    exam.add(20, "retention", "play", True, False)
    found = gate(exam.judge(), "retention:play")
    assert -0.05 < (found.candidate or 0) - (found.champion or 0) < 0
    assert not found.passed
    assert "after Holm" in found.because


def test_arguments_on_the_old_slice_inform_and_admit_their_noise() -> None:
    """Fully right on the old slice never stops a candidate, and says that 200 cases cannot show two points."""
    exam = good().add(20, "retention", "play", (True, True), (True, False))
    exam.add(20, "retention", "play", (True, False), (True, True))
    found = gate(exam.judge(), "retention:fully-right")
    assert not found.required
    assert "240 cases cannot show 2.0 points" in found.because


def test_unjudged_cases_stop_beyond_one_in_twenty() -> None:
    """More than 5% that could not be judged fails, with counts and the first reason."""
    exam = good().add(20, "retention", "play", None, None)
    found = gate(exam.judge(), "judged")
    assert not found.passed
    assert "250 of 270" in found.because
    assert "no answer" in found.because


def test_a_few_unjudged_cases_on_both_sides_pass() -> None:
    """Up to 5% may be left open when the candidate does not fail more often than the champion."""
    assert gate(good().add(5, "retention", "play", None, None).judge(), "judged").passed


def test_a_candidate_that_crashes_more_often_stops() -> None:
    """Crashes of the candidate alone are no way round the retention margin."""
    found = gate(good().add(8, "retention", "play", True, None).judge(), "judged")
    assert not found.passed
    assert "more often than the champion" in found.because


def test_unpaired_cases_are_counted_and_named() -> None:
    """A case that only one side answered is left out of the figures, and its name is in the sentence."""
    exam = good()
    lost = exam.candidate.pop()
    scorecard = exam.judge()
    assert gate(scorecard, "retention").cases == 199
    assert repr(lost.case_id) in gate(scorecard, "judged").because


def test_a_case_given_twice_counts_once() -> None:
    """A suite cannot gain power by repeating itself."""
    exam = good()
    exam.cases += exam.cases
    assert gate(exam.judge(), "retention").cases == 200


@pytest.mark.parametrize("fault", ["none", "two releases", "two evaluators", "twice"])
def test_results_that_cannot_be_compared_are_refused(fault: str) -> None:
    """No results, mixed releases, mixed evaluators and repeated results are errors, not verdicts."""
    exam = good()
    if fault == "none":
        exam.candidate = []
    elif fault == "two releases":
        exam.candidate[0] = exam.candidate[0].model_copy(update={"release_id": "third"})
    elif fault == "two evaluators":
        exam.candidate = [r.model_copy(update={"evaluator": "other/1"}) for r in exam.candidate]
    else:
        exam.candidate.append(exam.candidate[0])
    with pytest.raises(DataError, match=r"release|different ways|two results"):
        exam.judge()


def test_every_gate_speaks() -> None:
    """Each gate ends its sentence, and carries its figures, its interval and its cases."""
    for found in good().judge().gates:
        assert found.because.endswith(".")
        assert found.cases > 0
        if found.name != "judged":
            assert found.low is not None
            assert found.high is not None
            assert found.low <= (found.candidate or 0) - (found.champion or 0) <= found.high


def passes(pairs: gates.Pairs, which: str) -> bool:
    """Return what a gate says of counts alone, through the gate's own code."""
    limits = gates.Limits(0.05, 0.05, 0.02, 0.05)
    exam = Counted((), {}, {}, pairs)
    return (gates._target(exam, limits, same=False) if which == "target" else gates._retention(exam, limits)).passed


@dataclass(frozen=True)
class Counted(gates.Exam):
    """An exam that is already counted, so that thousands of experiments take seconds."""

    counted: gates.Pairs

    def pairs(self, metric: Any, suite: str, category: str | None = None) -> gates.Pairs:
        return self.counted


def rate(which: str, n: int, wins: float, losses: float, champion: float, experiments: int = 4000) -> float:
    """Return how often a gate passes when these shares of the cases flip, by seeded simulation."""
    flips = np.random.default_rng(7).multinomial(n, [wins, losses, 1 - wins - losses], size=experiments)
    known: dict[tuple[int, int], bool] = {}
    for w, m, _ in flips:
        key = int(w), int(m)
        if key not in known:
            right = max(int(champion * n), key[1])
            known[key] = passes(gates.Pairs("right_tool", n, min(right, n - key[0]), *key), which)
    return float(np.mean([known[int(w), int(m)] for w, m, _ in flips]))


@pytest.mark.parametrize(("n", "flips"), [(30, 0.2), (100, 0.1), (100, 0.4), (400, 0.05)])
def test_the_target_gate_keeps_its_error_rate(n: int, flips: float) -> None:
    """When nothing got better, at most 5% of 4,000 candidates pass the target gate."""
    assert rate("target", n, flips / 2, flips / 2, champion=0.5) <= 0.05


@pytest.mark.parametrize(("n", "wins"), [(149, 0.0), (150, 0.004), (300, 0.01), (500, 0.02)])
def test_the_retention_gate_keeps_its_error_rate(n: int, wins: float) -> None:
    """When the old slice is worse by just the margin, at most 5% of 4,000 candidates pass (plus simulation noise)."""
    noise = 2 * (0.05 * 0.95 / 4000) ** 0.5
    assert rate("retention", n, wins, wins + 0.02, champion=0.97) <= 0.05 + noise


def test_the_retention_gate_has_power() -> None:
    """A candidate that loses nothing on 500 cases passes, also when 1% flip either way by chance."""
    assert rate("retention", 500, 0.005, 0.005, champion=0.98) >= 0.9


def test_the_target_gate_has_power() -> None:
    """A gain of 20 points on 100 cases is found nearly always."""
    assert rate("target", 100, 0.22, 0.02, champion=0.3) >= 0.9
    assert stats.mcnemar_power(100, 0.2, 0.02) >= 0.9
