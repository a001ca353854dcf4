"""Kappa is what is left of an agreement when chance is taken away, and its interval holds what it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.judges import kappa


def table(both: int, people: int, judge: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Return labels and verdicts with these counts: good for both, for people alone, for the judge alone, for none."""
    labels = [True] * (both + people) + [False] * (judge + neither)
    return labels, [True] * both + [False] * people + [True] * judge + [False] * neither


def test_a_textbook_table_has_its_kappa() -> None:
    """20 and 15 agreements, 5 and 10 disagreements: 70% agree, 50% would by chance, so 0.4 is left."""
    agreement = kappa(*table(20, 5, 10, 15))
    assert agreement.kappa == pytest.approx(0.4)
    assert agreement.share == pytest.approx(0.7)
    assert (agreement.cases, agreement.left_out) == (50, 0)
    assert not agreement.enough
    assert agreement.because.startswith("Agreement with people: kappa 0.40 (0.12 to 0.62) in 50 cases. Below 0.6")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_it_is_the_kappa_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    """And its interval goes around it."""
    labels, judged = [a for a, _ in pairs], [b for _, b in pairs]
    agreement = kappa(labels, judged)
    if len({*labels, *judged}) == 1:
        assert agreement.kappa is None
    else:
        assert agreement.kappa == pytest.approx(cohen_kappa_score(labels, judged))
        assert agreement.low is not None
        assert agreement.high is not None
        assert -1 <= agreement.low <= agreement.kappa <= agreement.high <= 1


def test_a_perfect_score_in_few_cases_is_no_certainty() -> None:
    """Ten right out of ten may be luck; a hundred say more."""
    few, many = kappa(*table(5, 0, 0, 5)), kappa(*table(50, 0, 0, 50))
    assert few.kappa == many.kappa == few.high == 1.0
    assert few.low is not None
    assert many.low is not None
    assert 0 < few.low < 0.6 < 0.9 < many.low < 1


@pytest.mark.parametrize("verdict", [True, False])
def test_one_verdict_for_everything_proves_nothing(verdict: bool) -> None:
    """Where both sides say one thing only, chance alone would agree always: kappa is not known."""
    agreement = kappa([verdict] * 30, [verdict] * 30)
    assert (agreement.kappa, agreement.share, agreement.enough) == (None, 1.0, False)
    assert "not known from 30 cases" in agreement.because


def test_a_judge_that_likes_everything_has_a_kappa_of_zero() -> None:
    """Although it agrees with people nine times in ten."""
    agreement = kappa([True] * 90 + [False] * 10, [True] * 100)
    assert (agreement.kappa, agreement.share) == (0.0, 0.9)


def test_what_was_not_judged_is_left_out_and_counted() -> None:
    """An abstention is neither agreement nor the contrary."""
    agreement = kappa([True, False, True, False], [True, False, None, None])
    assert (agreement.kappa, agreement.cases, agreement.left_out) == (1.0, 2, 2)
    nothing = kappa([True], [None])
    assert (nothing.kappa, nothing.share, nothing.cases, nothing.left_out) == (None, None, 0, 1)


def test_labels_without_verdicts_are_refused() -> None:
    """Two lists of different lengths are not about the same cases."""
    with pytest.raises(DataError, match="not 2 labels and 1 verdicts"):
        kappa([True, False], [True])


@pytest.mark.parametrize(("truth", "good"), [(0.6, 0.5), (0.8, 0.8), (0.9, 0.5)])
def test_the_interval_holds_the_true_kappa(truth: float, good: float) -> None:
    """In at least 91 of 100 samples of 30 cases; the usual large-sample interval has no width after a perfect score."""
    chance = good**2 + (1 - good) ** 2
    agreed = truth * (1 - chance) + chance
    both = (agreed - 1 + 2 * good) / 2
    cells = {(True, True): both, (True, False): good - both, (False, True): good - both}
    cells[False, False] = 1 - sum(cells.values())
    draw = random.Random(1)
    held = 0
    for _ in range(400):
        sample = draw.choices(list(cells), list(cells.values()), k=30)
        agreement = kappa([label for label, _ in sample], [verdict for _, verdict in sample])
        held += agreement.low is not None and agreement.low <= truth <= (agreement.high or 0)
    assert held >= 364
