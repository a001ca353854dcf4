"""A rollout's evidence keeps its error rates however often one looks, and says in words what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom

from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.serving import canary
from langgraph_learnloop.serving.bets import CHANGES, wealth
from langgraph_learnloop.serving.canary import difference, evidence, routing_p
from langgraph_learnloop.serving.guardrails import Columns, walked, weights
from langgraph_learnloop.serving.rollouts import Evidence, Limits, Seen

LIMITS = Limits()


def columns(
    rng: np.random.Generator, n: int, *, share: Any = 0.5, champion: Any = 0.1, candidate: Any = 0.1, **changed: Any
) -> Columns:
    """Draw threads in which each side is bad with its chance, and nothing else differs."""
    shares = np.broadcast_to(np.asarray(share, dtype=float), (n,))
    mine = rng.random(n) < shares
    bad = (rng.random(n) < np.where(mine, candidate, champion)).astype(float)
    zeros, ones = np.zeros(n), np.ones(n)
    return Columns(mine, shares, bad, zeros, ones, ones, zeros, zeros)._replace(**changed)


def seen(n: int, *, percent: float = 50, seed: int = 1, **of_candidate: Callable[[Any], object]) -> list[Seen]:
    """Return threads of which one in ten is bad; the candidate's figures are made by the functions that are given."""
    rng = np.random.default_rng(seed)
    threads = []
    for _ in range(n):
        mine = bool(rng.random() < percent / 100)
        plain = Seen(mine, bool(rng.random() < 0.1), seconds=rng.lognormal(0, 0.5), usd=rng.lognormal(-3, 0.5))
        made = {name: make(rng) for name, make in of_candidate.items()}
        threads.append(plain._replace(**made) if mine else plain)
    return threads


def asked(threads: list[Seen], limits: Limits = LIMITS, percent: float = 50, **how: bool) -> Evidence:
    """Ask for the evidence of threads that are all of one stage."""
    mine = sum(thread.candidate for thread in threads)
    return evidence(threads, limits, (len(threads) - mine, mine), percent, **how)


def ever(paths: Callable[[np.random.Generator], Any], level: float, times: int = 400) -> float:
    """Return how often a path ever reaches a level."""
    rng = np.random.default_rng(7)
    return float(np.mean([paths(rng).max() >= level for _ in range(times)]))


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
@pytest.mark.parametrize("bad", [0.02, 0.1, 0.5])
def test_bets_against_an_equal_candidate_do_not_pay(share: float, bad: float) -> None:
    """The wealth's mean stays 1 where both are equal, at any percent: the very thing the promise rests on."""
    rng = np.random.default_rng(3)
    ends = []
    for _ in range(4_000):
        drawn = columns(rng, 60, share=share, champion=bad, candidate=bad)
        ends.append(wealth(drawn.bad, drawn.candidate, drawn.share, 0.0)[-1])
    assert abs(np.mean(ends) - 1) < 4 * np.std(ends) / np.sqrt(len(ends))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_bets_against_the_margin_do_not_pay_at_the_margin(share: float) -> None:
    """The same holds of "worse by the margin" where it is worse by just that."""
    rng = np.random.default_rng(4)
    ends = []
    for _ in range(4_000):
        drawn = columns(rng, 60, share=share, champion=0.1, candidate=0.15)
        ends.append(wealth(drawn.bad, drawn.candidate, drawn.share, 0.05, against="worse")[-1])
    assert abs(np.mean(ends) - 1) < 4 * np.std(ends) / np.sqrt(len(ends))


def test_one_thread_at_a_time_multiplies_as_the_formula_says() -> None:
    """After one bad thread of the candidate, each bet has gained its size by the distance from the guess."""
    path = wealth(np.ones(1), np.ones(1, dtype=bool), np.full(1, 0.5), 0.0)
    gains = {size: min(size / 0.09, 0.5 / 0.45) for size in CHANGES}
    assert path[0] == pytest.approx(sum(part * (1 + gains[size] * 0.45) for size, part in CHANGES.items()))


def test_no_bet_loses_everything() -> None:
    """The wealth stays above 0 through the worst that can come, so that it can always recover."""
    for against in ("better", "worse"):
        for mine in (True, False):
            for bad in (0.0, 1.0):
                arms, values = np.full(50, mine), np.full(50, bad)
                path = wealth(values, arms, np.full(50, 0.01), 0.05, against=against)
                assert (path > 0).all()


def test_an_equal_release_is_seldom_taken_back() -> None:
    """Looking after every thread of all four stages, at most one equal release in twenty."""
    share = np.repeat([0.01, 0.05, 0.25, 0.5], [1_000, 400, 200, 1_400])
    rate = ever(lambda rng: walked(columns(rng, 3_000, share=share), LIMITS).harm, 20)
    assert rate <= 0.05


def test_a_restless_day_and_a_change_of_percent_are_not_harm() -> None:
    """Where nights are bad and the percent is raised at night, the pooled shares differ and the tests do not mind."""
    share = np.repeat([0.05, 0.5], 1_000)
    night = np.repeat([0.05, 0.4], 1_000)
    rng = np.random.default_rng(2)
    drawn = columns(rng, 2_000, share=share, champion=night, candidate=night)
    pooled = drawn.bad[drawn.candidate].mean() - drawn.bad[~drawn.candidate].mean()
    low, high = difference(drawn, LIMITS)
    assert pooled > 0.15
    assert low < 0 < high < pooled
    assert (
        ever(
            lambda rng: walked(columns(rng, 2_000, share=share, champion=night, candidate=night), LIMITS).harm,
            20,
        )
        <= 0.05
    )


def test_a_release_worse_by_the_margin_is_seldom_called_not_worse() -> None:
    """At exactly the margin, at most one in a hundred, up to the noise of four hundred rollouts."""
    rate = ever(lambda rng: walked(columns(rng, 2_000, candidate=0.15), LIMITS).not_worse, 100)
    assert rate <= 0.025


def test_harm_and_its_absence_are_found() -> None:
    """Twenty points are caught, and an equal release is shown to be so, within four thousand threads."""
    assert ever(lambda rng: walked(columns(rng, 2_000, candidate=0.3), LIMITS).harm, 20, 50) == 1.0
    assert ever(lambda rng: walked(columns(rng, 4_000), LIMITS).not_worse, 100, 50) >= 0.9


def test_a_broken_candidate_is_caught_at_one_percent_after_a_few_of_its_threads() -> None:
    """Where every thread of it is bad, ten are enough, whatever the champion's hundredfold."""
    rng = np.random.default_rng(5)
    drawn = columns(rng, 3_000, share=0.01, candidate=1.0)
    when = int((walked(drawn, LIMITS).harm >= 20).argmax())
    assert 0 < drawn.candidate[: when + 1].sum() <= 10


def test_the_interval_holds_the_true_difference_at_every_look() -> None:
    """It misses the truth in at most one rollout of twenty, and gets narrower with more threads."""
    rng = np.random.default_rng(6)
    found = [difference(columns(rng, 600, candidate=0.2), LIMITS) for _ in range(100)]
    assert sum(low <= 0.1 <= high for low, high in found) >= 95
    wide = difference(columns(rng, 300), LIMITS)
    narrow = difference(columns(rng, 20_000), LIMITS)
    assert narrow[1] - narrow[0] < 0.05 < wide[1] - wide[0]


def test_the_interval_agrees_with_the_tests() -> None:
    """Below the margin where "not worse" was shown; above zero where the bad share alone asks for a rollback."""
    rng = np.random.default_rng(8)
    for candidate in (0.05, 0.1, 0.15, 0.2):
        drawn = columns(rng, 1_500, candidate=candidate)
        walk, (low, high) = walked(drawn, LIMITS), difference(drawn, LIMITS)
        assert (low > -0.001) >= (walk.by_test["bad"].max() >= 40)
        assert (high < LIMITS.margin + 0.001) >= (walk.not_worse.max() >= 100)


def test_without_threads_nothing_is_known() -> None:
    """The rollout holds, shares are unknown, every difference is possible."""
    found = evidence([], LIMITS, (0, 0), 1)
    assert found.move == "hold"
    assert (found.champion_bad, found.candidate_bad, found.low, found.high) == (None, None, -1.0, 1.0)
    assert (found.threads, found.routing_p) == ((0, 0), 1.0)
    assert set(found.e_values.values()) == {1.0}


def test_a_stage_ends_after_its_least_threads_and_its_time() -> None:
    """Too few threads of the candidate hold, too little time holds, then it advances."""
    threads = seen(200)
    few = asked(threads[:20])
    assert (few.move, "of the 20 threads" in few.because) == ("hold", True)
    early = asked(threads, waited=False)
    assert (early.move, early.because) == ("hold", "Hold at 50 percent: the stage has not lasted long enough.")
    assert asked(threads).move == "advance"


def test_only_threads_of_this_stage_count_for_its_end() -> None:
    """The candidate's threads that began at another percent are evidence, but not this stage's."""
    threads = [thread._replace(percent=25.0) for thread in seen(400, percent=25)]
    found = evidence(threads, LIMITS, (0, 0), 50)
    assert found.threads[1] > 20
    assert found.because == "Hold at 50 percent: the candidate has finished 0 of the 20 threads that a stage takes."


def test_the_last_step_asks_for_proof() -> None:
    """What is enough for a middle stage is not enough for everything; more threads of an equal candidate are."""
    few, many = asked(seen(150), last=True), asked(seen(3_000), last=True)
    assert asked(seen(150)).move == "advance"
    assert (few.move, few.e_values["not_worse"] < 100) == ("hold", True)
    assert "not yet shown to be worse by less than 5 points" in few.because
    assert (many.move, many.e_values["not_worse"] >= 100) == ("advance", True)
    assert many.because.startswith("Promote the candidate")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"bad": lambda rng: float(rng.random() < 0.4)}, "more of its threads are bad, "),
        ({"error": lambda rng: rng.random() < 0.2}, "more of its threads ended with an error, "),
        ({"handed_over": lambda rng: rng.random() < 0.2}, "more of its threads were taken over by a person, "),
        ({"seconds": lambda rng: rng.lognormal(1, 0.5)}, "its model calls take more than 1.25 times the champion's, "),
        ({"usd": lambda rng: rng.lognormal(-2, 0.5)}, "its threads cost more than 1.25 times the champion's, $"),
        ({"unsafe": lambda rng: rng.random() < 0.1}, "threads were unsafe, and 0.10% are allowed"),
    ],
)
def test_each_guardrail_takes_the_candidate_back_and_says_why(harm: dict[str, Any], words: str) -> None:
    """One figure gets worse and all others stay: the verdict names that figure, even where time and threads lack."""
    found = asked(seen(1_200, **harm), waited=False)
    assert found.move == "rollback"
    assert words in found.because
    assert "where 20 is asked for" in found.because


def test_a_rollback_stays() -> None:
    """What was reached once stays reached, as if somebody had looked just then."""
    bad, good = seen(300, bad=lambda rng: float(rng.random() < 0.5)), seen(3_000, seed=2, bad=lambda rng: 0.0)
    assert asked(bad).move == asked(bad + good).move == "rollback"


def test_a_guardrail_can_be_left_out() -> None:
    """Without the limit, no unsafe thread takes the candidate back, and the others count for more."""
    threads = seen(600, unsafe=lambda rng: rng.random() < 0.2)
    found = asked(threads, replace(LIMITS, unsafe=None))
    assert (asked(threads).move, found.move) == ("rollback", "advance")
    assert "unsafe" not in found.e_values
    assert sum(weights(["bad", "errors"]).values()) == pytest.approx(1.0)


def test_where_no_unsafe_thread_is_allowed_the_first_one_decides() -> None:
    """A limit of nothing is broken beyond doubt by one."""
    threads = seen(200)
    first = next(i for i, thread in enumerate(threads) if thread.candidate)
    threads[first] = threads[first]._replace(unsafe=True)
    found = asked(threads, replace(LIMITS, unsafe=0.0))
    assert (found.move, "none is allowed" in found.because) == ("rollback", True)


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
def test_as_slow_as_allowed_is_no_harm(ratio: float) -> None:
    """A candidate at the limit is taken back in few rollouts, for seconds and dollars have any spread."""

    def path(rng: np.random.Generator) -> Any:
        drawn = columns(rng, 1_000)
        seconds = rng.lognormal(0, 1, 1_000) * np.where(drawn.candidate, ratio, 1.0)
        return walked(drawn._replace(seconds=seconds), LIMITS).by_test["latency"]

    assert ever(path, 20, 200) <= 0.05


def test_unknown_seconds_are_left_out() -> None:
    """Threads without seconds change neither the latency's evidence nor its figures; none at all leaves it at 1."""
    slow = seen(400, seconds=lambda rng: rng.lognormal(1, 0.5))
    gaps = [part for thread in slow for part in (thread, thread._replace(seconds=None))]
    assert asked(gaps).e_values["latency"] == pytest.approx(asked(slow).e_values["latency"])
    assert asked([thread._replace(seconds=None) for thread in slow]).e_values["latency"] == 1.0


def test_threads_that_had_no_choice_say_nothing() -> None:
    """What began at no percent or at all of them has no other side to be held against."""
    threads = [Seen(True, 1.0, percent=100.0)] * 200 + [Seen(True, 1.0, percent=0.0)] * 200
    found = asked(threads)
    assert (found.e_values["bad"], found.e_values["not_worse"]) == (1.0, 1.0)


def test_scores_between_0_and_1_are_compared_too() -> None:
    """A metric of one's own need not be a flag."""
    worse = asked(seen(800, bad=lambda rng: rng.uniform(0.2, 0.6)))
    assert (worse.move, worse.low > 0) == ("rollback", True)


def test_the_routing_check_is_the_mixture_of_beta_binomials() -> None:
    """Its likelihood ratio is that of scipy's beta-binomial distributions against the promised binomial."""
    odds = 0.0
    for concentration in canary._CONCENTRATIONS:
        mixed = betabinom(500, concentration * 0.25, concentration * 0.75).pmf(160)
        odds += mixed / (betabinom(500, 0.25e9, 0.75e9).pmf(160)) / 2
    assert routing_p(340, 160, 0.25) == pytest.approx(1 / odds, rel=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_right_routing_is_seldom_called_wrong(share: float) -> None:
    """Looked at after each of 3,000 assignments, the p-value is below 0.05 in at most one stage of twenty."""

    def odds(rng: np.random.Generator) -> Any:
        candidate = np.cumsum(rng.random(3_000) < share)
        return 1 / routing_p(np.arange(1, 3_001) - candidate, candidate, share)

    assert ever(odds, 20) <= 0.05


@pytest.mark.parametrize(("assigned", "percent"), [((900, 100), 1), ((700, 300), 50), ((5_000, 0), 1), ((3, 90), 100)])
def test_a_wrong_routing_holds(assigned: tuple[int, int], percent: float) -> None:
    """Too many, too few, none, or any champion where there should be none: it never advances."""
    found = evidence(seen(2_000, percent=50), LIMITS, assigned, percent, last=True)
    assert found.move == "hold"
    assert "Something routes wrongly" in found.because


def test_harm_goes_before_a_wrong_routing() -> None:
    """A candidate that breaks things is taken back, however it came by its threads."""
    assert evidence(seen(600, bad=lambda rng: 1.0), LIMITS, (900, 100), 50).move == "rollback"


def test_thousands_of_threads_beyond_doubt_make_no_warning() -> None:
    """E-values beyond what a number holds are infinite, quietly."""
    rng = np.random.default_rng(9)
    drawn = columns(rng, 40_000, candidate=0.9)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert routing_p(0, 100_000, 0.01) == 0.0
        walk = walked(drawn, LIMITS)
    assert np.isinf(walk.harm[-1])
    assert walk.not_worse[-1] < 1e-300


@pytest.mark.parametrize(
    ("thread", "words"),
    [
        (Seen(True, 1.5), "Thread 1 has bad 1.5; it must be from 0 to 1"),
        (Seen(True, float("nan")), "Thread 1 has bad nan; it must be from 0 to 1"),
        (Seen(True, 0.0, percent=101.0), r"Thread 1 has percent 101.0; it must be from 0 to 100"),
    ],
)
def test_a_thread_that_cannot_be_is_refused(thread: Seen, words: str) -> None:
    """The error names the thread by its number."""
    with pytest.raises(DataError, match=words):
        asked([Seen(False, 0.0), thread])


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_a_percent_that_cannot_be_is_refused(percent: float) -> None:
    """A stage sends something, and not more than everything."""
    with pytest.raises(ConfigError, match="up to 100 percent"):
        evidence([], LIMITS, (0, 0), percent)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_rollback": 0.0},
        {"alpha_promote": 1.0},
        {"margin": 0.001},
        {"margin": 0.0},
        {"errors": -0.1},
        {"unsafe": 1.0},
        {"latency_ratio": 0.0},
        {"cost_ratio": float("inf")},
        {"least_threads": 0},
    ],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    """Each limit is checked when it is set, and the error names it."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)
