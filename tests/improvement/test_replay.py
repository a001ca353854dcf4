"""How much is replayed after candidates that forgot."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from langgraph_learnloop.improvement.replay import replay_ratio
from langgraph_learnloop.records import Gate, Scorecard


def card(lost: float | None) -> Scorecard:
    """Return a scorecard of a candidate that lost so much of the old slice; None was never asked."""
    gate = Gate(
        name="retention",
        required=True,
        passed=True,
        metric="right tool",
        champion=None if lost is None else 0.9,
        candidate=None if lost is None else 0.9 - lost,
        cases=100,
        because="A test.",
    )
    return Scorecard(candidate="a", champion="b", gates=(gate,), at=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("lost", "ratio"),
    [
        ([], 2.0),
        ([0.005], 2.0),
        ([0.02], 4.0),
        ([0.02, 0.02], 8.0),
        ([0.02, 0.005], 4.0),
        ([0.02, 0.0], 4 / 1.5),
        ([0.02, -0.01, 0.0], 2.0),
        ([0.5] * 9, 16.0),
        ([None, 0.02], 4.0),
    ],
)
def test_the_ratio_follows_what_was_forgotten(lost: list[float | None], ratio: float) -> None:
    """It doubles after a loss, up to eight times, and comes back when nothing is lost."""
    assert replay_ratio(2.0, [card(one) for one in lost], margin=0.02) == pytest.approx(ratio)


def test_no_replay_stays_none() -> None:
    """Somebody who wants none gets none."""
    assert replay_ratio(0.0, [card(0.5)], margin=0.02) == 0
