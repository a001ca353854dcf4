"""The statistics agree with published numbers and keep their error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from langgraph_learnloop.evaluation import stats


def test_mcnemar_agrees_with_the_published_example() -> None:
    """The exact test gives P = 0.052479 on 6 and 16 flips (Cavo et al. 2012, in Fagerland et al. 2017, chapter 8)."""
    assert stats.mcnemar(6, 16) == pytest.approx(0.052479, abs=5e-7)
    assert stats.mcnemar(16, 6) == stats.mcnemar(6, 16)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 4), (5, 0), (7, 7), (30, 12)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    """Both exact tests are binomial tests of one half; without a flip nothing is shown."""
    if wins + losses == 0:
        assert stats.mcnemar_greater(wins, losses) == stats.mcnemar(wins, losses) == 1.0
        return
    one_sided = binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue
    assert stats.mcnemar_greater(wins, losses) == pytest.approx(one_sided)
    assert stats.mcnemar(wins, losses) == pytest.approx(binomtest(wins, wins + losses, 0.5).pvalue)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(right: int, n: int, low: float, high: float) -> None:
    """The intervals are those of Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    assert stats.wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_cases_knows_nothing() -> None:
    """No case leaves every share possible."""
    assert stats.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "low", "high"),
    [
        (6, 16, 161, -0.1240, -0.0054),
        (1, 7, 21, -0.5172, -0.0260),
    ],
)
def test_tango_agrees_with_the_published_examples(wins: int, losses: int, n: int, low: float, high: float) -> None:
    """The score intervals are those of Fagerland et al. 2017, table 8 (Cavo et al. 2012, Bentur et al. 2009)."""
    assert stats.difference_interval(wins, losses, n) == pytest.approx((low, high), abs=5e-5)


def test_tango_turns_with_the_sides() -> None:
    """Who is called champion changes the sign of the interval and nothing else."""
    low, high = stats.difference_interval(12, 3, 90)
    assert stats.difference_interval(3, 12, 90) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("wins", "losses", "n"), [(0, 0, 1), (0, 0, 500), (5, 0, 5), (0, 5, 5), (0, 0, 0)])
def test_tango_bears_the_edges(wins: int, losses: int, n: int) -> None:
    """No flips, only flips, one case or none: the interval holds the seen change and stays within -1 and 1."""
    low, high = stats.difference_interval(wins, losses, n)
    assert -1.0 <= low <= (wins - losses) / max(n, 1) + 1e-9
    assert (wins - losses) / max(n, 1) - 1e-9 <= high <= 1.0


def test_tango_covers() -> None:
    """In 4,000 seeded experiments the 95% interval holds the true change in at least 94% of them."""
    flips = np.random.default_rng(1).multinomial(200, [0.08, 0.04, 0.88], size=4000)
    intervals = {(w, m): stats.difference_interval(w, m, 200) for w, m in {(int(w), int(m)) for w, m, _ in flips}}
    held = [low <= 0.04 <= high for low, high in (intervals[int(w), int(m)] for w, m, _ in flips)]
    assert np.mean(held) >= 0.94


def test_noninferiority_without_a_flip_has_a_closed_form() -> None:
    """Without a flip the p-value is (1 - margin) ** n, so that 149 cases are the fewest for two points."""
    assert stats.noninferiority(0, 0, 149, 0.02) == pytest.approx(0.98**149)
    assert stats.cases_needed(0.02) == 149
    assert stats.noninferiority(0, 0, 149, 0.02) <= 0.05 < stats.noninferiority(0, 0, 148, 0.02)


def test_noninferiority_is_near_the_score_test_where_that_is_good() -> None:
    """With flips on both sides the exact p-value is close to the asymptotic one (Tango 1998)."""
    assert stats.noninferiority(5, 5, 500, 0.02) == pytest.approx(0.0061, abs=5e-4)
    assert stats.noninferiority(0, 0, 0, 0.02) == 1.0


def test_noninferiority_is_monotone() -> None:
    """One more loss never helps, one more win never harms."""
    p = [[stats.noninferiority(w, m, 120, 0.05) for m in range(6)] for w in range(6)]
    assert all(p[w][m] <= p[w][m + 1] + 1e-9 for w in range(6) for m in range(5))
    assert all(p[w + 1][m] <= p[w][m] + 1e-9 for w in range(5) for m in range(6))


@pytest.mark.parametrize("n", [60, 160, 240])
def test_noninferiority_keeps_its_error_rate(n: int) -> None:
    """At the margin the exact chance of passing is at most alpha, whatever the share of cases that flip.

    Summed over all outcomes with scipy's own binomials, at rates that the implementation's grid does not hold.
    """
    margin, alpha = 0.05, 0.05
    most: list[int] = []
    for wins in range(n // 3):
        losses = most[-1] if most else -1
        while wins + losses < n and stats.noninferiority(wins, losses + 1, n, margin) <= alpha:
            losses += 1
        most.append(losses)
    for rate in np.linspace(0.0, 0.12, 61):
        won = np.arange(len(most))
        chance = binom.pmf(won, n, rate) * binom.cdf(most, n - won, (rate + margin) / (1 - rate))
        assert chance.sum() <= alpha


def test_holm_agrees_with_the_textbook() -> None:
    """The smallest is multiplied by their number, the next by one less, and none falls below an earlier one."""
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert stats.holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx((0.04, 0.06, 0.06, 0.06))
    assert stats.holm([]) == ()


def test_wins_needed_is_the_fewest() -> None:
    """Five wins without a loss reach 0.05, four do not."""
    for alpha in (0.05, 0.01, 0.125):
        needed = stats.wins_needed(alpha)
        assert stats.mcnemar_greater(needed, 0) <= alpha < stats.mcnemar_greater(needed - 1, 0)


def test_power_agrees_with_simulation() -> None:
    """The summed power is what 20,000 seeded experiments show, within two points."""
    flips = np.random.default_rng(0).multinomial(100, [0.12, 0.02, 0.86], size=20_000)
    table = {(w, m): stats.mcnemar_greater(w, m) <= 0.05 for w, m in {(int(w), int(m)) for w, m, _ in flips}}
    seen = np.mean([table[int(w), int(m)] for w, m, _ in flips])
    assert stats.mcnemar_power(100, 0.10, noise=0.02) == pytest.approx(seen, abs=0.02)


def test_power_at_no_change_is_the_error_rate() -> None:
    """Where nothing changed, the chance to find a change is at most alpha."""
    for noise in (0.0, 0.01, 0.1, 0.4):
        assert stats.mcnemar_power(300, 0.0, noise) <= 0.05


def test_detectable_is_where_the_power_is_reached() -> None:
    """The smallest visible change has the power asked for; four cases can never show any."""
    change = stats.detectable(500, noise=0.01)
    assert change is not None
    assert stats.mcnemar_power(500, change, 0.01) == pytest.approx(0.8, abs=1e-6)
    assert stats.detectable(4) is None
    assert stats.detectable(0) is None
