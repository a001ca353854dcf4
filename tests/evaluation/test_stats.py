"""The statistics agree with published numbers and keep their error rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import beta, binom, binomtest, multinomial, norm, permutation_test

from langgraph_learnloop.evaluation import measures, stats


def test_mcnemar_agrees_with_the_published_example() -> None:
    """On 16 and 6 flips two sides give P = 0.052479 (Cavo et al. 2012, in Fagerland et al. 2017, chapter 8)."""
    assert 2 * stats.mcnemar_greater(16, 6) == pytest.approx(0.052479, abs=5e-7)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 4), (5, 0), (7, 7), (30, 12)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    """It is scipy's binomial test of one half; without a flip nothing is shown."""
    if wins + losses == 0:
        assert stats.mcnemar_greater(wins, losses) == 1.0
        return
    one_sided = binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue
    assert stats.mcnemar_greater(wins, losses) == pytest.approx(one_sided)


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


@pytest.mark.parametrize("confidence", [0.95, 0.38])
def test_tango_without_a_flip_has_a_closed_form(confidence: float) -> None:
    """Where no case changed sides the score test rejects beyond z^2 / (n + z^2)."""
    z2 = norm.ppf((1 + confidence) / 2) ** 2
    end = z2 / (50 + z2)
    assert stats.difference_interval(0, 0, 50, confidence) == pytest.approx((-end, end))


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


def test_power_counts_only_changes_that_are_large_enough() -> None:
    """Where a gain of at least ten points must be seen, half of those who truly gain ten do not show it."""
    assert stats.mcnemar_power(1_000, 0.10, 0.02, least=0.10) == pytest.approx(0.5, abs=0.05)
    assert stats.mcnemar_power(1_000, 0.10, 0.02) > 0.99


@pytest.mark.parametrize(("change", "noise"), [(0.1, 0.0), (0.1, 0.05), (0.05, 0.02)])
def test_mcnemar_cases_reach_the_power(change: float, noise: float) -> None:
    """So many cases have a power near four in five by the exact sum."""
    n = stats.mcnemar_cases(change, noise)
    assert stats.mcnemar_power(n, change, noise) == pytest.approx(0.8, abs=0.08) or noise == 0.0


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.03])
def test_noninferiority_cases_reach_the_power(noise: float) -> None:
    """So many cases have a power near four in five by the exact sum, and simulation agrees with that."""
    n = stats.noninferiority_cases(noise, 0.05)
    power = stats.noninferiority_power(n, noise, 0.05)
    assert power >= 0.7
    flips = np.random.default_rng(2).multinomial(n, [noise, noise, 1 - 2 * noise], size=4_000)
    known = {(w, m): stats.noninferiority(w, m, n, 0.05) <= 0.05 for w, m in {(int(w), int(m)) for w, m, _ in flips}}
    assert power == pytest.approx(np.mean([known[int(w), int(m)] for w, m, _ in flips]), abs=0.03)


def test_too_few_cases_have_no_power() -> None:
    """Below the fewest cases that can rule a loss out nobody passes; at them a candidate without a flip does."""
    assert stats.noninferiority_power(148, 0.0, 0.02) == 0.0
    assert stats.noninferiority_power(149, 0.0, 0.02) == pytest.approx(1.0)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (98, 100), (1, 3)])
def test_share_bounds_are_those_of_the_beta_distribution(right: int, n: int) -> None:
    """Clopper and Pearson's bounds by scipy's own beta quantiles, and 0 and 1 at the ends."""
    low, high = stats.share_bounds(right, n)
    assert low == (pytest.approx(beta.ppf(0.05, right, n - right + 1)) if right else 0.0)
    assert high == (pytest.approx(beta.ppf(0.95, right + 1, n - right)) if right < n else 1.0)


def outcomes(n: int, won: float, lost: float) -> list[tuple[int, int, float]]:
    """Return every number of wins and losses with its chance, by scipy's multinomial."""
    pairs = [(w, m) for w in range(n + 1) for m in range(n + 1 - w)]
    chances = multinomial.pmf([(w, m, n - w - m) for w, m in pairs], n, (won, lost, max(0.0, 1 - won - lost)))
    return [(w, m, float(chance)) for (w, m), chance in zip(pairs, chances, strict=True)]


@pytest.mark.parametrize(("n", "margin", "alpha"), [(12, 0.3, 0.05), (20, 0.2, 0.05), (9, 0.3, 0.3), (15, 0.1, 0.3)])
def test_power_of_noninferiority_by_hand(n: int, margin: float, alpha: float) -> None:
    """The chance of all the outcomes that pass, added up one by one; half of the cases each way is the most noise."""
    for noise in (0.0, 0.05, 0.2, 0.5):
        rows = outcomes(n, noise, noise)
        by_hand = sum(chance for w, m, chance in rows if stats.noninferiority(w, m, n, margin) <= alpha)
        assert stats.noninferiority_power(n, noise, margin, alpha) == pytest.approx(by_hand, abs=1e-6)
    assert stats.noninferiority_power(n, 0.9, margin, alpha) == stats.noninferiority_power(n, 0.5, margin, alpha)


def tango(w: int, m: int, n: int, margin: float) -> float:
    """Return Tango's score at -margin, its nuisance rate found by maximising the likelihood on a grid of its own."""
    lost = np.linspace(margin, (1 + margin) / 2, 200_001)[1:-1]
    won, same = lost - margin, 1 - 2 * lost + margin
    best = lost[np.argmax(xlogy(w, won) + xlogy(m, lost) + xlogy(n - w - m, same))]
    return float((w - m + n * margin) / np.sqrt(n * (2 * best - margin - margin**2)))


def test_noninferiority_by_hand() -> None:
    """Outcomes that score at least as well, at the rate of flips that makes them likeliest, added up one by one."""
    n, margin = 10, 0.25
    scores = {(w, m): tango(w, m, n, margin) for w in range(n + 1) for m in range(n + 1 - w)}
    for seen in [(0, 0), (0, 1), (1, 1), (3, 2), (2, 4)]:
        as_good = {pair for pair, found in scores.items() if found >= scores[seen] - 1e-4}
        worst = max(
            sum(chance for w, m, chance in outcomes(n, rate, rate + margin) if (w, m) in as_good)
            for rate in np.linspace(0.0, (1 - margin) / 2, 76)
        )
        assert stats.noninferiority(*seen, n, margin) == pytest.approx(worst, abs=2e-3)


@pytest.mark.parametrize(("n", "change", "noise", "alpha", "least"), [
    (20, 0.3, 0.0, 0.05, 0.0), (20, 0.3, 0.1, 0.05, 0.0), (15, 0.2, 0.05, 0.2, 0.2), (6, 0.5, 0.1, 0.05, 0.0),
    (12, 0.25, 0.05, 0.1, 0.25), (8, 0.9, 0.05, 0.05, 0.0), (3, 0.5, 0.0, 0.05, 0.0), (5, 1.0, 0.0, 0.05, 0.0),
])  # fmt: skip
def test_mcnemar_power_by_hand(n: int, change: float, noise: float, alpha: float, least: float) -> None:
    """The chance of all the outcomes that are found, added up one by one."""
    by_hand = sum(
        chance
        for w, m, chance in outcomes(n, change + noise, noise)
        if stats.mcnemar_greater(w, m) <= alpha and (w - m) / n >= least - 1e-9
    )
    assert stats.mcnemar_power(n, change, noise, alpha, least) == pytest.approx(by_hand, abs=1e-9)


def test_what_nobody_sets() -> None:
    """Error rate 0.05, power 0.8, confidence 0.95, no noise, and any change counts."""
    assert stats.wilson(3, 9) == stats.wilson(3, 9, 0.95) != stats.wilson(3, 9, 0.9)
    assert stats.difference_interval(5, 1, 20) == stats.difference_interval(5, 1, 20, 0.95)
    assert stats.wins_needed() == stats.wins_needed(0.05) == 5
    assert stats.least_margin(100) == stats.least_margin(100, 0.05) == pytest.approx(1 - 0.05**0.01)
    assert stats.mcnemar_power(50, 0.2) == stats.mcnemar_power(50, 0.2, 0.0, 0.05, 0.0)
    assert stats.detectable(50) == stats.detectable(50, 0.0, 0.05, 0.8)
    assert stats.mcnemar_cases(0.2) == stats.mcnemar_cases(0.2, 0.0, 0.05, 0.8)
    assert stats.noninferiority_power(50, 0.01, 0.1) == stats.noninferiority_power(50, 0.01, 0.1, 0.05)
    assert stats.noninferiority_cases(0.01, 0.1) == stats.noninferiority_cases(0.01, 0.1, 0.05, 0.8)
    assert stats.share_bounds(3, 9) == stats.share_bounds(3, 9, 0.05)
    assert stats.safe_cases(1, 0.9) == stats.safe_cases(1, 0.9, 0.05)
    assert stats.safe_power(99, 0.9, 0.1) == stats.safe_power(99, 0.9, 0.1, 0.05)


def test_the_fewest_cases_by_the_formulas() -> None:
    """Connett's formula 2 and Nam's, written out; and never fewer than could show it without a loss."""
    a, b = norm.ppf(0.95), norm.ppf(0.8)
    flips = 0.1 + 2 * 0.05
    assert stats.mcnemar_cases(0.1, 0.05) == np.ceil(((a * flips**0.5 + b * (flips - 0.01) ** 0.5) / 0.1) ** 2)
    assert stats.mcnemar_cases(1.0) == 5
    at_margin = (2 * 0.03 + 0.05 - 0.05**2) ** 0.5
    assert stats.noninferiority_cases(0.03, 0.05) == np.ceil(((a * at_margin + b * (2 * 0.03) ** 0.5) / 0.05) ** 2)
    assert stats.noninferiority_cases(0.0, 0.05) == stats.cases_needed(0.05) == 59


def test_detectable_at_the_edges() -> None:
    """Where noise leaves no room, or so few cases no power, there is no such change; else the least of its size."""
    assert stats.detectable(100, noise=0.5) is None
    assert stats.detectable(100, noise=0.6) is None
    assert stats.detectable(5) == pytest.approx(0.8 ** (1 / 5), abs=1e-9)
    assert stats.detectable(5, power=1.0) == pytest.approx(1.0)
    assert stats.detectable(200, noise=0.3) is not None
    assert stats.mcnemar_power(10, 0.0) == stats.mcnemar_power(0, 0.5) == 0.0


def test_safety_by_hand() -> None:
    """The fewest cases by trying them all, the chance of few failures, and that of passing."""
    assert stats.safe_cases(0, 0.5, 0.0625) == 4
    for failures, limit in ((0, 0.9), (1, 0.9), (3, 0.8), (0, 0.99)):
        tried = next(n for n in range(failures + 1, 9_999) if binom.cdf(failures, n, 1 - limit) <= 0.05)
        assert stats.safe_cases(failures, limit) == tried
        assert stats.too_few_failures(failures, tried, limit) == pytest.approx(binom.cdf(failures, tried, 1 - limit))
        assert stats.safe_power(tried, limit, 0.1) == pytest.approx(binom.cdf(failures, tried, 0.1 * (1 - limit)))
        assert stats.safe_power(tried - 1, limit, 0.1) == pytest.approx(
            binom.cdf(failures - 1, tried - 1, 0.1 * (1 - limit)) if failures else 0.0
        )
    assert stats.too_few_failures(0, 0, 0.9) == 1.0


def test_holm_is_never_over_one() -> None:
    """Adjusted p-values stay probabilities and keep the order that was given."""
    assert stats.holm([0.9, 0.5]) == (1.0, 1.0)
    assert stats.holm([0.2]) == (0.2,)
    assert stats.holm([0.03, 0.001, 0.03]) == pytest.approx((0.06, 0.003, 0.06))


@pytest.mark.parametrize(("failures", "needed"), [(0, 2995), (1, 4742)])
def test_safe_cases_are_the_fewest(failures: int, needed: int) -> None:
    """So many cases show 99.9%, one less does not."""
    assert stats.safe_cases(failures, 0.999) == needed
    assert stats.too_few_failures(failures, needed, 0.999) <= 0.05 < stats.too_few_failures(failures, needed - 1, 0.999)


def test_safe_power_is_the_chance_of_few_failures() -> None:
    """On the fewest cases a single failure is too many."""
    assert stats.safe_power(2995, 0.999, 0.1) == pytest.approx(0.9999**2995)
    assert stats.safe_power(2994, 0.999, 0.1) == 0.0


def test_sign_flip_agrees_with_scipy() -> None:
    """All flips of few differences are those of scipy's exact permutation test."""
    d = np.array([0.3, -0.1, 0.2, 0.25, 0.0, 0.4, -0.05])
    theirs = permutation_test((d,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf)
    assert measures.sign_flip(d) == pytest.approx(theirs.pvalue)


def test_sign_flip_of_many_is_drawn_the_same_each_time() -> None:
    """Seeded, never 0, and near McNemar's exact test where the scores are right and wrong."""
    d = np.array([1.0] * 20 + [-1.0] * 9 + [0.0] * 50)
    assert measures.sign_flip(d) == measures.sign_flip(d)
    assert measures.sign_flip(d) == pytest.approx(stats.mcnemar_greater(20, 9), abs=0.01)
    assert measures.sign_flip(np.ones(40)) == pytest.approx(1 / 10_001)
    assert measures.sign_flip(np.zeros(5)) == 1.0


@settings(max_examples=40)
@given(st.lists(st.floats(-1, 1), max_size=12))
def test_sign_flip_is_a_share(values: list[float]) -> None:
    """A p-value is above 0 and at most 1, and both sides together leave nothing out."""
    d = np.array(values)
    p, q = measures.sign_flip(d), measures.sign_flip(-d)
    assert 0 < p <= 1
    assert p + q >= 1 - 1e-9


@pytest.mark.parametrize(("n", "lost"), [(20, 0.1), (50, 0.02), (200, 0.3)])
def test_the_bets_keep_their_error_rate_where_permutation_does_not(n: int, lost: float) -> None:
    """Small wins beside total losses with a mean of 0: at most 5% of 4,000 are called a gain."""
    gain = lost / (1 - lost) * 0.9
    d = np.where(np.random.default_rng(4).random((4_000, n)) < lost, -0.9, gain)
    assert np.mean(measures.no_gain(d, -1.0, 0.05) <= 0.05) <= 0.05
    if n == 20:
        assert np.mean([measures.sign_flip(one) <= 0.05 for one in d[:200]]) > 0.05


def test_the_bets_find_a_gain() -> None:
    """A mean of 0.1 in 200 scattered scores is found nearly always, and the power says so."""
    d = np.random.default_rng(6).uniform(-0.4, 0.6, (500, 200))
    seen = np.mean(measures.no_gain(d, -1.0, 0.05) <= 0.05)
    assert seen >= 0.9
    assert measures.bet_power(d[0], 0.1, -1.0, 0.05) == pytest.approx(seen, abs=0.1)
    assert measures.bet_cases(float(d.std()), 0.1, -1.0, 0.05) < 200


def test_the_bets_bear_the_edges() -> None:
    """No case, one case, or only total losses show nothing; more certain gains never raise the p-value."""
    assert measures.no_gain(np.zeros(0), -1.0, 0.05) == 1.0
    assert measures.no_gain(np.full(30, -1.0), -1.0, 0.05) == 1.0
    assert measures.no_gain(np.ones(1), -1.0, 0.05) > 0.05
    assert measures.no_gain(np.full(40, 0.5), -1.0, 0.05) <= measures.no_gain(np.full(20, 0.5), -1.0, 0.05)


def test_the_bootstrap_covers() -> None:
    """Of 300 intervals of a mean at least 92% hold the true one."""
    d = np.random.default_rng(8).uniform(-0.4, 0.6, (300, 80))
    ends = [measures.bootstrap(lambda drawn: drawn.mean(axis=-1), one) for one in d]
    assert np.mean([low <= 0.1 <= high for low, high in ends]) >= 0.92


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("n", [70, 150, 300])
def test_slower_keeps_its_error_rate(share: float, together: bool, n: int) -> None:
    """Where the quantile is exactly at the limit, at most 5% of 2,000 pass, whether or not the sides agree."""
    rng, shape = np.random.default_rng(9), (2_000, n)
    common = rng.lognormal(0, 0.8, shape) if together else 1.0
    before, after = (common * rng.lognormal(0, 0.3, shape) for _ in range(2))
    assert np.mean(measures.slower(before, 1.2 * after, share, 1.2, 0.05) <= 0.05) <= 0.05


def test_slower_finds_what_is_fast() -> None:
    """Three hundred cases of one speed rule out a quarter more, and the bound stands between the two."""
    rng = np.random.default_rng(10)
    before, after = (rng.lognormal(0, 0.2, 300) for _ in range(2))
    assert measures.slower(before, after, 0.5, 1.25, 0.05) <= 0.05
    assert 1.0 < measures.quantile_ratio_bound(before, after, 0.5, 0.05) < 1.25


def test_too_few_cases_have_no_slowest() -> None:
    """The 95th percentile takes so many cases and not one less, however fast the candidate is."""
    needed = measures.quantile_cases(0.95, 0.05)
    before = np.linspace(1.0, 2.0, needed)
    assert needed == 63
    after = np.full(needed, 0.001)
    assert measures.slower(before, after, 0.95, 1.2, 0.05) <= 0.05
    assert measures.slower(before[1:], after[1:], 0.95, 1.2, 0.05) > 0.05
    assert measures.quantile_ratio_bound(before[1:], after[1:], 0.95, 0.05) == float("inf")
    assert measures.slower(before[:20], after[:20], 0.95, 1.2, 0.05) > 0.3
    assert measures.slower(before[:3], after[:3], 0.95, 1.2, 0.05) > 0.8


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_dearer_keeps_its_error_rate(sigma: float) -> None:
    """Where the mean cost is exactly at the limit, beside a fixed price, at most 5% of 2,000 pass."""
    after = 1.2 * np.random.default_rng(11).lognormal(-sigma * sigma / 2, sigma, (2_000, 100))
    assert np.mean(measures.dearer(np.ones((2_000, 100)), after, 1.2, 0.05) <= 0.05) <= 0.05
    assert measures.dearer(np.zeros(0), np.zeros(0), 1.2, 0.05) == 1.0
