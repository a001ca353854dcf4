"""What is not dealt out by chance is compared by what the champion did with the same request, or did before."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from langgraph_learnloop.records import ShadowAnswer
from langgraph_learnloop.serving.comparisons import after_a_switch, in_the_shadow
from langgraph_learnloop.serving.rollouts import Limits, Seen

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def answers(count: int, failing: float = 0.0, seed: int = 0) -> list[ShadowAnswer]:
    """Return what a candidate did with the first requests of so many threads."""
    luck = random.Random(seed)
    return [
        ShadowAnswer(
            rollout_id="r1",
            thread=f"thread {number}",
            same=number % 4 > 0,
            error="It broke." if luck.random() < failing else None,
            seconds=0.3,
            champion_seconds=0.2,
            at=NOW,
        )
        for number in range(count)
    ]


def threads(count: int, bad: float, seed: int, seconds: float = 1.0, **more: float) -> list[Seen]:
    """Return finished threads, a share of them bad."""
    luck = random.Random(seed)
    return [
        Seen(
            candidate=True,
            bad=float(luck.random() < bad),
            error=luck.random() < more.get("error", 0.0),
            seconds=seconds * luck.lognormvariate(0, 0.3),
            usd=0.01,
        )
        for _ in range(count)
    ]


def test_out_of_the_shadow_with_figures():
    """Enough threads, long enough: it says what the answers were like."""
    said = in_the_shadow(answers(60), Limits(), 50, waited=True)
    assert said.move == "advance"
    assert "of 60 requests it answered 45 as the champion did and 0 not at all" in said.because
    assert sum(said.threads) == 60


def test_a_stage_in_the_shadow_lasts():
    """Too few threads, however often each was asked, and too little time."""
    few = answers(49)
    assert "by 49 of the 50 threads" in in_the_shadow([*few, *few], Limits(), 50, waited=True).because
    assert "long enough" in in_the_shadow(answers(60), Limits(), 50, waited=False).because


def test_a_candidate_that_breaks_never_gets_a_thread():
    """A tenth of its answers missing is noticed within some hundred requests."""
    said = in_the_shadow(answers(600, failing=0.1), Limits(), 50, waited=True)
    assert said.move == "rollback"
    assert "ended with an error" in said.because


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (threads(400, 0.30, 2), "threads are bad"),
        (threads(400, 0.10, 2, seconds=2.5), "model calls take longer"),
        (threads(400, 0.10, 2, error=0.2), "ended with an error"),
    ],
)
def test_what_got_worse_after_a_switch_is_taken_back(after: list[Seen], word: str):
    """More bad threads, slower calls, errors; both figures are told."""
    said = after_a_switch(threads(500, 0.10, 1), after, Limits(), waited=True)
    assert said.move == "rollback"
    assert word in said.because
    assert " against " in said.because


def test_what_is_as_good_is_kept():
    """With the champion's own threads as bad, and some luck either way, few of many are taken back."""
    moves = [
        after_a_switch(threads(200, 0.1, seed), threads(300, 0.1, seed + 1_000), Limits(), waited=True).move
        for seed in range(60)
    ]
    assert moves.count("rollback") <= 3
    assert moves.count("advance") >= 57


def test_a_score_of_ones_own_is_compared_as_well():
    """A metric between 0 and 1 gets a wider interval, and still shows what is much worse."""
    luck = random.Random(3)
    before = [Seen(False, luck.uniform(0.0, 0.3)) for _ in range(400)]
    after = [Seen(True, luck.uniform(0.4, 0.8)) for _ in range(300)]
    assert after_a_switch(before, after, Limits(), waited=True).move == "rollback"
    assert after_a_switch(before, before, Limits(), waited=True).move == "advance"


def test_without_a_past_a_person_decides():
    """Nothing to hold it against: it is never called good by itself."""
    said = after_a_switch([], threads(100, 0.1, 1), Limits(), waited=True)
    assert (said.move, said.champion_bad) == ("hold", None)
    assert "a person must decide" in said.because
    few = after_a_switch(threads(100, 0.1, 1), threads(5, 0.1, 1), Limits(), waited=True)
    assert "5 of the 20 threads" in few.because
    assert after_a_switch(threads(99, 0.1, 1), threads(99, 0.1, 1), Limits(), waited=False).move == "hold"
