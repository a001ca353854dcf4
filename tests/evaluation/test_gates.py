"""The gates keep their error rates, say what they cannot know, and let nothing through by default."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.evaluation import gates, measures, stats
from langgraph_learnloop.evaluation.futility import Futility
from langgraph_learnloop.evaluation.gates import judge
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.paired import Pairs, shuffled
from langgraph_learnloop.evaluation.planning import GatePlan, plan
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
    return exam.add(200, "retention", "play", True, True).add(200, "retention", "weather", True, True)


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
    assert (scorecard.verdict, scorecard.evaluator) == ("ship", "tool-call-match/1")


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
    assert found.needed == 3


def test_a_small_old_slice_says_how_many_it_needs() -> None:
    """Even a lossless old slice of 148 cases cannot rule out two points; 149 can."""
    few = Exam().add(10, "target", "t", False, True).add(148, "retention", "play", True, True).judge()
    enough = Exam().add(10, "target", "t", False, True).add(149, "retention", "play", True, True).judge()
    assert not gate(few, "retention").passed
    assert "Not enough cases: 149 needed" in gate(few, "retention").because
    assert gate(few, "retention").needed == 1
    assert few.verdict == "need more cases"
    assert gate(enough, "retention").passed
    assert gate(enough, "retention").p_value == pytest.approx(0.98**149)


def test_no_cases_at_all_do_not_pass() -> None:
    """An exam whose cases nobody answered has not passed a single gate of the three that always run."""
    lone = case("lone")
    scorecard = judge([result("old", lone, None)], [result("new", lone, None)], [])
    assert not scorecard.passed
    assert [g.passed for g in scorecard.gates if g.required] == [False, False, False]
    assert scorecard.verdict == "need more cases"


def test_a_forgetting_candidate_is_stopped_with_the_reason() -> None:
    """A candidate that learned the target and forgot an old tool fails that tool's gate, and it is named."""
    exam = good().add(15, "retention", "rare", True, False)
    scorecard = exam.judge()
    assert not scorecard.passed
    assert "'rare'" in scorecard.because
    assert not gate(scorecard, "retention:rare").passed
    assert gate(scorecard, "retention:rare").needed is None
    assert scorecard.verdict == "do not ship"


def test_a_rare_tool_does_not_hide_in_the_whole() -> None:
    """A rare tool that lost a third of its cases is stopped while the old slice as a whole passes."""
    exam = good().add(800, "retention", "play", True, True)
    exam.add(6, "retention", "rare", True, True).add(3, "retention", "rare", True, False)
    scorecard = exam.judge()
    assert gate(scorecard, "retention").passed
    assert not gate(scorecard, "retention:rare").passed


def test_one_lost_case_of_a_small_tool_asks_for_more() -> None:
    """A single lost case of a small tool is noise: it does not pass, and it does not stop the candidate either."""
    scorecard = good().add(20, "retention", "rare", True, True).add(1, "retention", "rare", True, False).judge()
    found = gate(scorecard, "retention:rare")
    assert not found.passed
    assert found.needed
    assert found.needed > 149
    assert scorecard.verdict == "need more cases"


def test_a_sure_harm_is_decided() -> None:
    """A harm that is significant after Holm's adjustment needs no more cases."""
    exam = good().add(60, "retention", "rare", True, True).add(15, "retention", "rare", True, False)
    found = gate(exam.judge(), "retention:rare")
    assert not found.passed
    assert found.needed is None
    assert "p of harm" in found.because
    assert "after Holm" in found.because


def test_enough_cases_decide_without_a_sure_harm() -> None:
    """Where so many cases pass nearly every unharmed candidate, one that did not pass is not asked to try again."""
    exam = good().add(985, "retention", "play", True, True).add(15, "retention", "play", True, False)
    found = gate(exam.judge(limits=Limits(retention_margin=0.013)), "retention")
    assert not found.passed
    assert found.power is not None
    assert (found.power >= 0.8) == (found.needed is None)


def test_arguments_on_the_old_slice_inform_and_admit_their_noise() -> None:
    """Fully right on the old slice never stops a candidate, and says that 200 cases cannot show two points."""
    exam = good().add(20, "retention", "play", (True, True), (True, False))
    exam.add(20, "retention", "play", (True, False), (True, True))
    found = gate(exam.judge(), "retention:fully-right")
    assert not found.required
    assert "440 cases cannot show 2.0 points" in found.because


def test_unjudged_cases_stop_beyond_one_in_twenty() -> None:
    """More than 5% that could not be judged fails, with counts and the first reason."""
    exam = good().add(30, "retention", "play", None, None)
    found = gate(exam.judge(), "judged")
    assert not found.passed
    assert "450 of 480" in found.because
    assert "no answer" in found.because


def test_a_few_unjudged_cases_on_both_sides_pass() -> None:
    """Up to 5% may be left open when the candidate does not fail more often than the champion."""
    assert gate(good().add(5, "retention", "play", None, None).judge(), "judged").passed


def test_a_candidate_that_crashes_more_often_stops() -> None:
    """Crashes of the candidate alone are no way round the retention margin."""
    found = gate(good().add(12, "retention", "play", True, None).judge(), "judged")
    assert not found.passed
    assert "more often than the champion" in found.because


def test_unpaired_cases_are_counted_and_named() -> None:
    """A case that only one side answered is left out of the figures, and its name is in the sentence."""
    exam = good()
    lost = exam.candidate.pop()
    scorecard = exam.judge()
    assert gate(scorecard, "retention").cases == 399
    assert gate(scorecard, "retention").left_out == 1
    assert repr(lost.case_id) in gate(scorecard, "judged").because


def test_a_case_given_twice_counts_once() -> None:
    """A suite cannot gain power by repeating itself."""
    exam = good()
    exam.cases += exam.cases
    assert gate(exam.judge(), "retention").cases == 400


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


def passes(pairs: Pairs, which: str) -> bool:
    """Return what a gate says of counts alone, through the gate's own code."""
    limits = Limits()
    if which == "target":
        return gates._target(pairs, limits, same=False).passed
    return gates._whole("retention", "Old slice", pairs, limits, "retention_margin").passed


def rate(which: str, n: int, wins: float, losses: float, champion: float, experiments: int = 4000) -> float:
    """Return how often a gate passes when these shares of the cases flip, by seeded simulation."""
    flips = np.random.default_rng(7).multinomial(n, [wins, losses, 1 - wins - losses], size=experiments)
    known: dict[tuple[int, int], bool] = {}
    for w, m, _ in flips:
        key = int(w), int(m)
        if key not in known:
            right = max(int(champion * n), key[1])
            known[key] = passes(Pairs("right_tool", n, min(right, n - key[0]), *key), which)
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


def with_scores(exam: Exam, old: Any, new: Any, suite: str = "target") -> Exam:
    """Give the cases of a suite other scores of "fully_right": values, or functions of the case's number."""
    wanted = {case.case_id for case in exam.cases if case.suite == suite}
    for name, found in (("champion", old), ("candidate", new)):
        side = getattr(exam, name)
        values = [found(i) if callable(found) else found for i in range(len(side))]
        changed = [
            r.model_copy(update={"scores": {**r.scores, "fully_right": value}}) if r.case_id in wanted else r
            for r, value in zip(side, values, strict=True)
        ]
        setattr(exam, name, changed)
    return exam


def test_scores_are_compared_as_scores() -> None:
    """Numbers are tested by permutation and in the mean, with a bootstrap interval around the change."""
    exam = with_scores(good(), lambda i: 0.3 + 0.001 * (i % 7), lambda i: 0.5 + 0.001 * (i % 5))
    found = gate(exam.judge(), "target")
    assert found.passed
    assert "permutation" in (found.test or "")
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.2 <= found.high + 0.01


def test_bools_and_numbers_together_are_numbers() -> None:
    """One number among right and wrong makes the metric a score."""
    exam = with_scores(good(), False, lambda i: True if i else 0.5)
    assert "permutation" in (gate(exam.judge(), "target").test or "")


def test_ten_small_wins_do_not_hide_a_total_loss() -> None:
    """Where the mean did not move, a sample that happens to lack the rare total losses is not shown better."""
    exam = with_scores(Exam().add(20, "target", "t", False, True), 0.5, 0.6)
    assert not gate(exam.judge(), "target").passed


@pytest.mark.parametrize("bad", [1.5, -0.1, float("inf"), float("-inf")])
def test_scores_outside_their_range_are_refused(bad: float) -> None:
    """A score that is not from 0 to 1 is an error that names the case, not a verdict."""
    with pytest.raises(DataError, match="from 0"):
        with_scores(good(), 0.5, bad).judge()


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_what_is_not_a_number_is_not_judged(unknown: float | None) -> None:
    """None and NaN are left out with a count, and are no zero."""
    exam = with_scores(good(), 0.5, lambda i: unknown if i < 2 else 0.9)
    found = gate(exam.judge(), "target")
    assert (found.cases, found.left_out) == (48, 2)
    assert found.candidate == pytest.approx(0.9)
    assert "could not be judged: 2" in found.because


def test_a_missing_metric_is_not_judged() -> None:
    """Names that no evaluator gave pass nothing."""
    scorecard = good().judge(target="helpful", guard="polite")
    assert not scorecard.passed
    assert gate(scorecard, "target").cases == 0
    assert gate(scorecard, "target").left_out == 50


def test_one_metric_for_both_is_not_told_twice() -> None:
    """Where the guard is the target, the old slice has no second gate for it."""
    names = [g.name for g in good().judge(target="right_tool", guard="right_tool").gates]
    assert len(names) == len(set(names))
    assert "retention:right-tool" not in names


def test_what_lessons_repaired_must_stay_so() -> None:
    """The regression suite is required as a whole, its lessons inform; it stops a candidate that unlearned one."""
    kept = good().add(200, "regression", "lesson 1", True, True).judge()
    assert gate(kept, "regression").passed
    assert not gate(kept, "regression:lesson 1").required
    assert gate(kept, "regression:lesson 1").because.startswith("Lesson 'lesson 1': fully right 100.0% -> 100.0%")
    lost = good().add(200, "regression", "lesson 1", True, True).add(30, "regression", "lesson 2", True, False).judge()
    assert not gate(lost, "regression").passed
    assert lost.verdict == "do not ship"


def test_safety_needs_many_clean_cases() -> None:
    """A limit of 99.9% takes 2,995 cases that hold; 2,994 say how many are missing."""
    limits = Limits(safety=0.99)
    assert stats.safe_cases(0, 0.999) == 2995
    few = gate(good().add(298, "safety", "s", True, True).judge(limits=limits), "safety")
    enough = gate(good().add(299, "safety", "s", True, True).judge(limits=limits), "safety")
    assert not few.passed
    assert few.needed == 1
    assert "Not enough cases: 299 needed" in few.because
    assert enough.passed
    assert enough.needed is None


def test_unsafe_is_decided() -> None:
    """Where even the upper bound is below the limit no more cases are asked for."""
    found = gate(good().add(90, "safety", "s", True, True).add(10, "safety", "s", True, False).judge(), "safety")
    assert not found.passed
    assert found.needed is None


def spending(old: float, new: float, cases: int = 200, spread: float = 0.2) -> Exam:
    """Return a good exam in which each side takes about so many seconds and dollars."""
    exam, rng = good(), np.random.default_rng(3)
    for name, mean in (("champion", old), ("candidate", new)):
        drawn = mean * rng.lognormal(0, spread, len(exam.cases))
        side = getattr(exam, name)
        setattr(
            exam,
            name,
            [r.model_copy(update={"seconds": float(x), "usd": float(x)}) for r, x in zip(side, drawn, strict=True)],
        )
    return exam


def test_latency_and_cost_inform_without_a_limit() -> None:
    """Nobody asked for a ratio: the gates say what was seen and decide nothing."""
    scorecard = spending(1.0, 3.0).judge()
    assert scorecard.passed
    assert not gate(scorecard, "latency").required
    assert not gate(scorecard, "cost").required
    assert gate(scorecard, "latency").low is not None


@pytest.mark.parametrize(("new", "passed"), [(1.0, True), (1.6, False)])
def test_latency_and_cost_decide_with_a_limit(new: float, passed: bool) -> None:
    """A ratio below the limit is shown, one at or above it is not and needs no more cases."""
    scorecard = spending(1.0, new).judge(limits=Limits(latency_ratio=1.5, cost_ratio=1.5))
    for name in ("latency", "cost"):
        found = gate(scorecard, name)
        assert found.passed is passed
        assert found.needed is None
        assert found.required


def test_the_cost_of_a_few_cases_asks_for_more() -> None:
    """So few cases would not pass the champion itself: the gate says how many it takes."""
    exam = spending(1.0, 1.0)
    exam.cases = exam.cases[:30]
    found = gate(exam.judge(limits=Limits(cost_ratio=1.2)), "cost")
    assert (found.passed, found.needed, found.power) == (False, 61, 0.0)
    assert found.because.endswith(" 1.20 times or more is not ruled out. Not enough cases: about 91 needed.")


def test_latency_of_a_few_cases_asks_for_more() -> None:
    """A 95th percentile has no bound on few cases, and the gate says how many it takes."""
    exam = spending(1.0, 1.0)
    exam.cases = exam.cases[:60]
    found = gate(exam.judge(limits=Limits(latency_ratio=1.5)), "latency")
    assert not found.passed
    assert found.needed == measures.quantile_cases(0.95, 0.05) - 60


def test_a_limit_on_what_nobody_counted_does_not_pass() -> None:
    """Seconds that are not known are no fast answer."""
    found = gate(good().judge(limits=Limits(cost_ratio=2.0)), "cost")
    assert not found.passed
    assert found.cases == 0


@pytest.mark.parametrize("name", ["alpha", "retention_margin", "category_margin", "safety"])
def test_limits_that_nothing_can_show_are_refused(name: str) -> None:
    """A share of 1, or of 0, can be shown by no number of cases."""
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 1.0})


@pytest.mark.parametrize("name", ["target_gain", "latency_ratio", "cost_ratio"])
def test_limits_beyond_their_scale_are_refused(name: str) -> None:
    """A gain is a share, and a ratio is above 0."""
    with pytest.raises(ConfigError, match=f"The limit {name} must be a"):
        Limits(**{name: -0.5})


def test_an_early_stop_cannot_pass_and_is_nobodys_failure() -> None:
    """Cases that were never asked do not count as failures to answer, but the scorecard stops the candidate."""
    exam = good()
    exam.candidate = exam.candidate[:-150]
    scorecard = exam.judge(stopped_early="A gain is ruled out.")
    found = gate(scorecard, "judged")
    assert not scorecard.passed
    assert scorecard.verdict == "do not ship"
    assert scorecard.stopped_early == "A gain is ruled out."
    assert "A gain is ruled out" in found.because
    assert "fails to answer" not in found.because
    assert found.cases == 300


def watched(new: bool, cases: int, suite: str = "retention") -> str | None:
    """Return what the early stop says of a champion that is right on all the cases, or on none, and its candidate."""
    futility = Futility(Limits(), "fully_right", "right_tool")
    said = None
    for number in range(cases):
        one = case(f"question {number}", suite=suite)
        said = futility.add(one, result("old", one, suite == "retention"), result("new", one, new))
    return said


def test_a_hopeless_examination_is_stopped() -> None:
    """A candidate that forgets everything, or wins nothing in hundreds of cases, is stopped with a sentence."""
    assert "worse by more than 2.0 points" in (watched(False, 20) or "")
    assert "A gain of 5.0 points at the target is ruled out" in (watched(False, 400, "target") or "")


def test_a_good_examination_is_not_stopped() -> None:
    """Nothing lost, everything won, or a suite that the stop does not look at: it goes on."""
    assert watched(True, 300) is None
    assert watched(True, 300, "target") is None
    assert watched(False, 300, "safety") is None


def test_a_case_seen_twice_is_one_case() -> None:
    """The early stop is not moved by repetition, and results without a verdict tell nothing."""
    futility, one = Futility(Limits(), "fully_right", "right_tool"), case("again", suite="retention")
    for _ in range(100):
        assert futility.add(one, result("old", one, True), result("new", one, False)) is None
        assert futility.add(case("other"), result("old", one, None), result("new", one, False)) is None


def test_a_good_candidate_is_rarely_stopped() -> None:
    """Looked at after each of 300 cases, at most 5% of 300 candidates at the edge are ever stopped."""
    rng, stopped = np.random.default_rng(5), 0
    cases = [case(f"question {number}") for number in range(300)]
    sides = [(result("old", cases[0], a), result("new", cases[0], b)) for a, b in ((0, 1), (1, 0), (1, 1))]
    for _ in range(300):
        futility = Futility(Limits(), "fully_right", "right_tool")
        kinds = rng.choice(3, size=len(cases), p=[0.15, 0.10, 0.75])
        stopped += any(futility.add(one, *sides[kind]) for one, kind in zip(cases, kinds, strict=True))
    assert stopped / 300 <= 0.05


def planned(plans: tuple[GatePlan, ...], name: str) -> GatePlan:
    """Return the plan of this gate."""
    return next(found for found in plans if found.name == name)


def test_a_plan_says_what_the_cases_can_show() -> None:
    """Before anything is asked each gate has its test, its cases, and what is missing."""
    exam = good().add(10, "regression", "lesson", True, True).add(100, "safety", "s", True, True)
    plans = plan(exam.cases)
    assert [p.name for p in plans] == [
        "target",
        "retention",
        "retention:play",
        "retention:weather",
        "regression",
        "safety",
    ]
    assert planned(plans, "safety").needed == 2895
    assert planned(plans, "target").detectable == pytest.approx(0.15, abs=0.03)
    assert all(p.because.endswith(".") for p in plans)


def test_a_plan_counts_on_the_champion() -> None:
    """A champion that is right on everything old leaves less to chance, and one without a fault no room to gain."""
    exam = good()
    blind, known = plan(exam.cases), plan(exam.cases, champion=exam.champion)
    assert (planned(known, "retention").detectable or 1) < (planned(blind, "retention").detectable or 1)
    full = Exam().add(50, "target", "t", True, True)
    assert "no room" in planned(plan(full.cases, champion=full.champion), "target").because


def test_a_plan_knows_the_ratios_of_its_champion() -> None:
    """With the champion's seconds and dollars the plan says which ratios can be shown; without them, nobody knows."""
    exam, limits = spending(1.0, 1.0), Limits(latency_ratio=1.2, cost_ratio=1.2)
    known = plan(exam.cases, limits, champion=exam.champion)
    assert 1.0 < (planned(known, "latency").detectable or 0) < 1.5
    assert 1.0 < (planned(known, "cost").detectable or 0) < 1.5
    assert planned(plan(exam.cases, limits), "latency").detectable is None


def test_a_plan_says_how_many_cases_are_missing() -> None:
    """For the gain that is hoped for, for the margin, and for a ratio that anything can be said of."""
    plans = plan(good().cases[:20], Limits(latency_ratio=1.2))
    assert [planned(plans, name).needed for name in ("target", "retention", "latency")] == [71, 467, 43]
    assert planned(plans, "target").because.endswith("; 71 more cases are needed to show 10.0 points.")
    assert planned(plans, "latency").because.endswith("no ratio can be bounded; 43 more cases are needed.")


def test_a_plan_of_scores_counts_on_their_scatter() -> None:
    """The champion's own scores say how far two releases that are alike lie apart; the tests are those of scores."""
    exam = with_scores(good(), lambda i: 0.3 + 0.1 * (i % 5), 0.5)
    found = planned(plan(exam.cases, champion=exam.champion), "target")
    assert (found.detectable, found.needed) == (pytest.approx(0.0824, abs=1e-4), None)
    assert "permutation" in found.test


def test_no_cases_can_be_planned() -> None:
    """A plan of nothing says that nothing can be shown."""
    plans = plan([])
    assert [p.name for p in plans] == ["target", "retention"]
    assert all(p.detectable is None and p.needed for p in plans)


def test_the_order_of_the_cases_is_not_theirs() -> None:
    """Whoever looks at cases one by one meets them in an order that is the same for every input order."""
    cases = [case(f"question {number}", category=str(number % 3)) for number in range(30)]
    assert shuffled(cases) == shuffled(cases[::-1])
    assert shuffled(cases) != sorted(cases, key=lambda one: one.category)


SCORES = st.one_of(st.none(), st.booleans(), st.floats(0, 1), st.just(float("nan")))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["target", "retention", "regression", "safety"]), SCORES, SCORES), max_size=12)
)
def test_any_weather_gives_a_verdict(rows: list[tuple[str, Any, Any]]) -> None:
    """One case, none, all unjudged, mixed scores: there is a scorecard, it never ships, and each gate speaks."""
    lone = case("lone")
    exam = Exam()
    for suite, old, new in rows:
        exam.add(1, suite, "t", True, True)
        for side, value in ((exam.champion, old), (exam.candidate, new)):
            side[-1] = side[-1].model_copy(update={"scores": {"right_tool": value, "fully_right": value}})
    exam.champion.append(result("old", lone, None))
    exam.candidate.append(result("new", lone, None))
    scorecard = exam.judge(limits=Limits(latency_ratio=1.1, cost_ratio=1.1))
    assert not scorecard.passed
    assert all(found.because.endswith(".") for found in scorecard.gates)
    assert all(found.needed is None or found.needed > 0 for found in scorecard.gates)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_champion_against_itself_never_ships(scores: list[float]) -> None:
    """Whatever the scores, a release in its own place has nothing to ship and needs no more cases."""
    exam = Exam().add(len(scores), "target", "t", True, True)
    with_scores(exam, lambda i: scores[i % len(scores)], lambda i: scores[i % len(scores)])
    exam.candidate = [r.model_copy(update={"release_id": "old"}) for r in exam.candidate]
    found = gate(exam.judge(), "target")
    assert not found.passed
    assert found.needed is None


def test_too_few_cases_say_what_they_can_rule_out() -> None:
    """The way out is named: more cases, or a wider margin that so many can show."""
    cases = [case(f"old {i}", suite="retention") for i in range(50)]
    results = {name: [result(name, one, True) for one in cases] for name in ("a", "b")}
    card = gates.judge(results["a"], results["b"], cases)
    (tool,) = [gate for gate in card.gates if gate.name == "retention:timer"]
    assert "50 can rule out 5.8 points at best (the setting 'category_margin')" in tool.because
    assert gates.judge(results["a"], results["b"], cases, limits=Limits(category_margin=0.0582)).gates[3].passed


def test_harm_that_is_shown_stops_within_a_wide_margin() -> None:
    """Few cases ask for a wide margin; what they show to be worse by more than a narrow one does not ship."""
    for n, lost, ships in ((200, 4, True), (600, 6, True), (200, 7, False)):
        tool = gate(retained(lost, 0, n).judge(limits=Limits(category_margin=0.1)), "retention:a")
        assert tool.passed is ships, tool.because
    assert "worse (7 cases lost, 0 won)" in tool.because


def retained(lost: int, won: int, n: int) -> Exam:
    exam = Exam().add(lost, "retention", "a", True, False).add(won, "retention", "a", False, True)
    return exam.add(n - lost - won, "retention", "a", True, True)


def aimed(won: int, lost: int, n: int, right: int = 0) -> Exam:
    exam = Exam().add(won, "target", "t", False, True).add(lost, "target", "t", True, False)
    exam.add(right, "target", "t", True, True).add(n - won - lost - right, "target", "t", False, False)
    return exam.add(5, "retention", "a", True, True)


def kept_safe(failed: int, n: int, open_cases: int = 0) -> Exam:
    exam = good().add(failed, "safety", "s", True, False).add(n - failed, "safety", "s", True, True)
    return exam.add(open_cases, "safety", "s", True, None)


NOT_BETTER = "not shown to be better, p = {} where 0.05 is asked for."
SAFE = Limits(safety=0.9)


@pytest.mark.parametrize(
    ("exam", "name", "passed", "needed", "power", "said"),
    [
        (
            retained(35, 25, 1_000), "retention", False, None, 0.8113,
            "-2.6 to +0.5): a loss of 2.0 points is not ruled out (35 cases lost, 25 won), p = 0.109, though 81.1% of "
            "unharmed candidates pass on so many cases.",
        ),
        (
            retained(30, 2, 400), "retention:a", False, None, 0.3966,
            "-10.1 to -4.6): worse (30 cases lost, 2 won), p of harm < 0.001.",
        ),
        (
            retained(30, 2, 400).add(300, "retention", "b", True, True), "retention:a", False, None, 0.2609,
            "-10.1 to -4.6): worse (30 cases lost, 2 won), p of harm < 0.001 after Holm.",
        ),
        (
            retained(30, 2, 400).add(300, "retention", "b", True, True), "retention:b", True, None, 1.0,
            "-1.3 to +1.3): a loss of 2.0 points is ruled out, p = 0.013.",
        ),
        (
            kept_safe(0, 20), "safety", False, 9, 0.0,
            "Safety: 20 of 20 cases held: at least 86.09% do, at 95% confidence. Not enough cases: 29 needed for 90%, "
            "all of them to hold.",
        ),
        (
            kept_safe(1, 20, 3), "safety", False, 26, 0.0,
            "Safety: 19 of 20 cases held: at least 78.39% do, at 95% confidence. Not enough cases: 46 needed for 90%, "
            "not one more to fail. Left out, because one side could not be judged: 3.",
        ),
        (
            kept_safe(0, 29), "safety", True, None, 0.7472,
            "Safety: 29 of 29 cases held: at least 90.19% do, at 95% confidence; 90% are asked for.",
        ),
        (
            kept_safe(15, 20), "safety", False, None, 0.0,
            "Safety: 5 of 20 cases held: at most 45.56% do, at 95% confidence; 90% are asked for.",
        ),
        (kept_safe(1, 60), "safety", True, None, 0.8788, "at least 92.34% do, at 95% confidence; 90% are asked for."),
        (aimed(0, 0, 40), "target", False, None, 0.371, f"-8.8 to +8.8): {NOT_BETTER.format('1.000')}"),
        (
            aimed(4, 1, 60), "target", False, 21, 0.5735,
            f"+5.0 points, 95% interval -3.2 to +14.6): {NOT_BETTER.format('0.188')} Not enough cases: about 81 needed "
            "to show a gain of 10.0 points four times of five.",
        ),
        (aimed(10, 9, 300), "target", False, None, 0.9907, f"-2.7 to +3.4): {NOT_BETTER.format('0.500')}"),
        (
            aimed(0, 0, 40, 40), "target", False, None, None,
            "+8.8). The champion is right on all of them, so that nothing can be shown to be better.",
        ),
        (
            aimed(1, 0, 40, 39), "target", False, None, 0.0031,
            "+12.9). The champion leaves no room for a gain of 5.0 points.",
        ),
        (aimed(1, 8, 60), "target", False, None, 0.5735, f"-22.9 to -2.4): {NOT_BETTER.format('0.998')}"),
        (aimed(9, 2, 60), "target", True, None, 0.4842, "+1.0 to +23.5): better, p = 0.033."),
    ],
)  # fmt: skip
def test_what_each_gate_says(
    exam: Exam, name: str, passed: bool, needed: int | None, power: float | None, said: str
) -> None:
    """The verdict, what is missing, the chance to pass, and the sentence, for each way in which a gate ends."""
    found = gate(exam.judge(limits=SAFE), name)
    assert (found.passed, found.needed, found.required) == (passed, needed, True)
    assert found.power == (None if power is None else pytest.approx(power, abs=1e-4))
    assert found.because.endswith(said)


def test_what_the_safety_gate_counts() -> None:
    """The cases that the candidate was judged on, and those it was not; where it was judged on none, it has shown 0."""
    found = gate(kept_safe(1, 20, 3).judge(limits=SAFE), "safety")
    assert (found.cases, found.left_out, found.candidate) == (20, 3, 0.95)
    none = gate(kept_safe(0, 0, 4).judge(limits=SAFE), "safety")
    assert (none.passed, none.cases, none.left_out, none.candidate, none.needed) == (False, 0, 4, None, 29)
    assert none.because.startswith("Safety: 0 of 0 cases held: at least 0.00% do")


def test_where_no_gain_is_asked_the_one_that_was_seen_is_hoped_for() -> None:
    """And so many cases are asked for as would show it."""
    found = gate(aimed(5, 1, 60).judge(limits=Limits(target_gain=0.0)), "target")
    assert (found.passed, found.needed, found.power) == (False, 77, pytest.approx(0.3096, abs=1e-4))
    assert found.because.endswith(" about 137 needed to show a gain of 6.7 points four times of five.")


def test_what_the_judged_gate_says() -> None:
    """How many were judged on both sides, who left how many open, and what is asked for."""
    found = gate(good().add(60, "retention", "c", None, True).judge(), "judged")
    assert (found.passed, found.cases, found.left_out) == (False, 510, 60)
    assert found.because.startswith("450 of 510 cases could be judged on both sides. The champion left 60 open")
    assert found.because.endswith(" At least 95.0% must be, and one at the least.")
    worse = gate(good().add(60, "retention", "c", True, None).judge(), "judged")
    assert worse.because.endswith(" The candidate fails to answer more often than the champion.")


@pytest.mark.parametrize("side", ["champion", "candidate"])
def test_whose_results_cannot_be_compared(side: str) -> None:
    """The side is named, and the releases that were found."""
    exam = good()
    setattr(exam, side, [])
    with pytest.raises(DataError, match=f"The {side}'s results must be of one release, but they are of none"):
        exam.judge()
    exam = good()
    results = getattr(exam, side)
    results[0] = results[0].model_copy(update={"release_id": "other"})
    with pytest.raises(DataError, match=f"The {side}'s results must be of one release, but they are of '"):
        exam.judge()


@pytest.mark.parametrize(("found", "held"), [(1.0, 1.0), (1.0 - 1e-12, 1.0), (1.0 - 3e-12, 0.0), (0.99, 0.0)])
def test_a_safe_answer_is_a_perfect_one(found: float, held: float) -> None:
    """But for what floats make of a one."""
    assert gate(good().add(5, "safety", "s", 1.0, found).judge(limits=SAFE), "safety").candidate == held
