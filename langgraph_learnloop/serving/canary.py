"""Watch a canary: say after every finished thread whether the candidate may get more traffic, or none at all.

The unit is a thread. New threads go to the candidate with a known chance, `percent`; that draw is all the tests lean
on. For any figure x of a thread from 0 to 1, any guess m made before it ended, and p the candidate's chance,

    (x - m) * (1[candidate] - p)    has the mean    p * (1 - p) * (candidate's share - champion's share),

whatever the hour, the traffic or the stage: this is inverse probability weighting with a guess to calm it, scaled by
p * (1 - p) so that one percent of traffic does not blow it up (Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro
2024, "Anytime-valid off-policy inference for contextual bandits"). Each test bets on it, thread by thread, against its
own hypothesis; while that is true no bet pays on average, so that the wealth, begun at 1, ever reaches 1 / alpha with
the chance alpha at most (Ville 1939; Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting", JRSS B 86). One may therefore look after every thread and stop on what one sees. The wealth is the e-value.

A hypothesis speaks of every thread: the candidate is never worse, or always worse by the margin. A release that is
worse by night and better by day fits neither, and ends where the threads are. What must hold is the draw: which
threads are asked about, and when, may depend on anything but on who got them. A candidate that is merely slower to end
its threads is forgiven, for the guess m is what the champion's mean has been.

A rollback asks for a weighted mean of the e-values of all the guardrails: a mean of e-values is an e-value (Vovk and
Wang 2021, "E-values: calibration, combination and applications", Annals of Statistics 49), so that `alpha_rollback` is
the error rate of the whole family over the whole rollout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from langgraph_learnloop.errors import ConfigError, DataError, MissingExtraError

try:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import special
except ImportError as error:  # pragma: no cover - the test environment has it
    raise MissingExtraError('A canary needs scipy: pip install "langgraph-learnloop[loop]".') from error

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Move = Literal["advance", "hold", "rollback"]

_WEIGHTS = {"bad": 0.5, "errors": 0.1, "handed_over": 0.1, "latency": 0.1, "cost": 0.1, "unsafe": 0.1}
"""What each test counts for in a rollback; those that are switched off leave their part to the others."""
_CHANGES = {0.01: 0.1, 0.04: 0.4, 0.12: 0.4, 0.4: 0.1}
"""True differences that the bets are best at, and the part of the wealth that is put on each."""
_LEAST_MARGIN = 0.01
"""The smallest difference that the bets can rule out in a rollout that ends."""
_UNSAFE = (0.01, 0.1, 0.5)
"""Shares of unsafe threads that the bets are best at, where the limit is below them."""
_BOLDEST = 0.5
"""Share of the wealth that one thread may cost at most."""
_GUESS = 10.0
"""Threads that the first guess of the champion's share is worth."""
_RARE = 0.1
"""The first guess of a share."""
_MIDDLE = 0.5
"""The first guess of a rank."""
_FIRST_RANKS, _RANKED = 16, 256
"""Threads before there is anything to be ranked among, and the most among which one is ranked."""
_CONCENTRATIONS = (20.0, 1000.0)
"""How near to the promised percent a wrong routing is looked for: far away, and close by."""
_STEPS = 12
"""Halvings in the search of the interval's ends: to less than a tenth of a point."""
_TINY = 1e-3
"""A bet never supposes less to lose, or to vary, than this."""
_HUGE = 1e6
"""An e-value above this is not written out."""


class Seen(NamedTuple):
    """A finished thread of a rollout."""

    candidate: bool
    """Was it the candidate's; else it was the champion's."""
    bad: float
    """The primary metric, 0 to 1: whether any run of it was flagged, or a score of one's own; less is better."""
    error: bool = False
    """Did any run of it end with an error."""
    seconds: float | None = None
    """Mean time of its model calls."""
    usd: float | None = None
    """What it cost."""
    unsafe: bool = False
    """Was any answer of it unsafe."""
    handed_over: bool = False
    """Did a person take it over."""
    percent: float | None = None
    """Percent of new threads that went to the candidate when this one began; None for the percent of now."""


@dataclass(frozen=True)
class Limits:
    """What a rollout asks of the candidate; raise ConfigError for what no rollout could show."""

    alpha_rollback: float = 0.05
    """The chance that a release that is no worse is ever taken back, over the whole rollout and all its tests."""
    alpha_promote: float = 0.01
    """The chance that a release that is worse by `margin` is ever called not worse."""
    alpha_routing: float = 0.001
    """The chance that a right routing is ever called wrong, in one stage."""
    margin: float = 0.05
    """To be promoted, the candidate must be shown to be worse by less than this; a difference of bad shares."""
    least_threads: int = 20
    """Threads that the candidate must have finished in a stage."""
    errors: float | None = 0.0
    """Its share of threads with an error may be higher by this; None does not look."""
    handed_over: float | None = 0.0
    """Its share of threads that a person took over may be higher by this; None does not look."""
    latency_ratio: float | None = 1.25
    """Its seconds may be so many times the champion's; None does not look."""
    cost_ratio: float | None = 1.25
    """Its dollars may be so many times the champion's; None does not look."""
    unsafe: float | None = 0.001
    """Its share of unsafe threads may be so high, whatever the champion's is; 0.0 allows none, None does not look."""

    def __post_init__(self) -> None:
        """Check each limit."""
        for name in ("alpha_rollback", "alpha_promote", "alpha_routing", "margin"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"The limit {name} must be above 0 and below 1, not {getattr(self, name)!r}.")
        if self.margin < _LEAST_MARGIN:
            raise ConfigError(
                f"The limit margin must be at least {_LEAST_MARGIN}, not {self.margin!r}: no rollout ends."
            )
        for name in ("errors", "handed_over", "unsafe"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise ConfigError(f"The limit {name} must be a share from 0 to below 1, or None, not {share!r}.")
        for name in ("latency_ratio", "cost_ratio"):
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio < math.inf:
                raise ConfigError(f"The limit {name} must be a ratio above 0, or None, not {ratio!r}.")
        if self.least_threads < 1:
            raise ConfigError(f"The limit least_threads must be at least 1, not {self.least_threads!r}.")


@dataclass(frozen=True)
class Evidence:
    """What the threads of a rollout say so far."""

    move: Move
    """To the next percent, nowhere, or back to the champion."""
    because: str
    """Why, as a sentence."""
    champion_bad: float | None
    """The champion's mean of `bad` over all its threads; None without any."""
    candidate_bad: float | None
    """The candidate's."""
    low: float
    """Lower end of the difference, candidate minus champion, that holds however often one looks."""
    high: float
    """Upper end; both miss the truth with the chance `alpha_rollback` at most."""
    e_values: Mapping[str, float]
    """The highest e-value of each test so far: what a bet against its hypothesis made of 1; and of "not_worse"."""
    threads: tuple[int, int]
    """Finished threads of the champion and of the candidate."""
    routing_p: float
    """The p-value, safe to look at any time, of "the stage's threads were shared out as its percent says"."""


class Columns(NamedTuple):
    """Threads as arrays, in the order in which they ended."""

    candidate: Bools
    """Was it the candidate's."""
    share: Floats
    """The chance with which it became the candidate's, 0 to 1."""
    bad: Floats
    """The primary metric, 0 to 1."""
    errors: Floats
    """0 or 1."""
    seconds: Floats
    """Not a number where unknown."""
    usd: Floats
    """Not a number where unknown."""
    unsafe: Floats
    """0 or 1."""
    handed_over: Floats
    """0 or 1."""


class Walk(NamedTuple):
    """How the evidence grew, thread by thread."""

    harm: Floats
    """The weighted mean of the guardrails' e-values after each thread."""
    by_test: dict[str, Floats]
    """Each guardrail's e-value after each thread."""
    not_worse: Floats
    """The e-value against "worse by the margin" after each thread."""


def evidence(
    threads: Sequence[Seen],
    limits: Limits,
    assigned: tuple[int, int],
    percent: float,
    *,
    waited: bool = True,
    last: bool = False,
) -> Evidence:
    """Return what all the threads of a rollout say, in the order in which they ended.

    `assigned` counts the new threads that this stage gave to the champion and to the candidate, finished or not;
    `percent` is what the candidate should get of them. `waited` says that the stage has lasted long enough, `last` that
    the next step gives the candidate everything. Raises DataError for a thread that cannot be, ConfigError for a
    percent that cannot be.
    """
    if not 0 < percent <= 100:
        raise ConfigError(f"A stage must send above 0 and up to 100 percent to the candidate, not {percent!r}.")
    columns = columns_of(threads, percent)
    mine, walk = columns.candidate, walked(columns, limits)
    counts = int(np.count_nonzero(~mine)), int(np.count_nonzero(mine))
    in_stage = int(np.count_nonzero(mine & (columns.share == percent / 100)))
    e_values = {name: _highest(path) for name, path in {**walk.by_test, "not_worse": walk.not_worse}.items()}
    routing = float(routing_p(*assigned, percent / 100))
    interval = difference(columns, limits)
    move, because = (
        taken_back(columns, walk, limits)
        or _misrouted(routing, assigned, percent, limits)
        or _too_early(in_stage, percent, limits, waited=waited)
        or (_promoted(e_values["not_worse"], interval, percent, limits) if last else _advanced(in_stage, percent))
    )
    shares = _mean(columns.bad[~mine]), _mean(columns.bad[mine])
    return Evidence(move, because, *shares, *interval, e_values, counts, routing)


def walked(columns: Columns, limits: Limits) -> Walk:
    """Return every test's e-value after each thread."""
    by_test = {name: test(columns, limits) for name, test in _TESTS.items() if _looked_at(name, limits)}
    weights = _weights(by_test)
    harm = np.zeros(len(columns.bad))
    for name, path in by_test.items():
        harm += weights[name] * path
    not_worse = _wealth(columns.bad, columns.candidate, columns.share, limits.margin, against="worse")
    return Walk(harm, by_test, not_worse)


def difference(columns: Columns, limits: Limits) -> tuple[float, float]:
    """Return the differences of the bad shares, candidate minus champion, that the bets have not ruled out.

    It is the confidence sequence that belongs to the tests (Waudby-Smith and Ramdas 2024, section 4): at the default
    limits, low is above 0 where the bad share alone asks for a rollback, and high below the margin where "not worse"
    was shown. Where the difference changes, low is below its greatest value and high above its least.
    """
    enough = 2 / limits.alpha_rollback

    def ruled_out(change: float, against: Literal["better", "worse"]) -> bool:
        path = _wealth(columns.bad, columns.candidate, columns.share, change, against=against)
        return _highest(path) >= enough

    return (
        -_least(lambda change: ruled_out(-change, "better")),
        _least(lambda change: ruled_out(change, "worse")),
    )


def routing_p(champion: Any, candidate: Any, share: float) -> Any:
    """Return the p-value of "each new thread went to the candidate with this chance", for counts or arrays of counts.

    It is safe to look at any time: the inverse of a mixture of likelihood ratios (Lindon and Malek 2022, "Anytime-valid
    inference for multinomial count data", NeurIPS 35), here of two beta mixtures around the promised share.
    """
    if share >= 1:
        return np.where(np.asarray(champion) > 0, 0.0, 1.0)
    odds = 0.0
    for concentration in _CONCENTRATIONS:
        a, b = concentration * share, concentration * (1 - share)
        mixed = special.betaln(a + candidate, b + champion) - special.betaln(a, b)
        with np.errstate(over="ignore"):
            odds = odds + np.exp(mixed - candidate * math.log(share) - champion * math.log1p(-share))
    return np.minimum(1.0, len(_CONCENTRATIONS) / odds)


# -- the bets ----------------------------------------------------------------------------------------------------------


def _wealth(
    values: Floats,
    candidate: Bools,
    share: Floats,
    change: float,
    *,
    against: Literal["better", "worse"] = "better",
    guess: float = _RARE,
) -> Floats:
    """Return the wealth, after each thread, of bets against "the candidate's mean is higher by `change` at most".

    Against "worse" it is "higher by `change` at least". The bets are shared out between true differences; against each,
    a bet of difference / variance grows fastest, to the second order.
    """
    mean, variance = _expected(values, ~candidate, guess)
    drawn = share * (1 - share)
    # A thread that could only go one way tells nothing of the other one.
    gain = np.where(drawn > 0, (values - mean) * (candidate - share) - change * drawn, 0.0)
    if against == "better":
        risk = np.maximum((1 - mean) * share, mean * (1 - share)) + change * drawn
    else:
        gain = -gain
        risk = np.maximum((1 - mean) * (1 - share), mean * share) - change * drawn
    most = _BOLDEST / np.maximum(risk, _TINY)
    factors = np.array([*_CHANGES])[:, None] * (1 / variance)  # bets by threads; by and by the wealth
    np.minimum(factors, most, out=factors)
    factors *= gain
    factors += 1
    with np.errstate(over="ignore"):  # what is beyond all doubt is infinite
        np.cumprod(factors, axis=1, out=factors)
        return np.array([*_CHANGES.values()]) @ factors


def _expected(values: Floats, champion: Bools, guess: float) -> tuple[Floats, Floats]:
    """Return what was known before each thread of the champion's mean and variance."""
    threads = _GUESS + _before(champion.astype(float))
    mean = (_GUESS * guess + _before(np.where(champion, values, 0.0))) / threads
    square = (_GUESS * guess + _before(np.where(champion, values * values, 0.0))) / threads
    return mean, np.maximum(square - mean * mean, _TINY)


def _before(values: Floats) -> Floats:
    """Return the sum of all values before each."""
    return np.cumsum(values) - values


def _share_test(name: str, limit: str | None) -> Callable[[Columns, Limits], Floats]:
    def test(columns: Columns, limits: Limits) -> Floats:
        allowed = getattr(limits, limit) if limit else 0.0
        return _wealth(getattr(columns, name), columns.candidate, columns.share, allowed)

    return test


def _ratio_test(name: str, limit: str) -> Callable[[Columns, Limits], Floats]:
    """Compare ranks: the candidate's figures, divided by the ratio, must not tend to be higher than the champion's."""

    def test(columns: Columns, limits: Limits) -> Floats:
        values, ratio = getattr(columns, name), getattr(limits, limit)
        known = np.isfinite(values)
        mine = columns.candidate[known]
        ranks = _ranks(np.where(mine, values[known] / ratio, values[known]))
        return _spread(_wealth(ranks, mine, columns.share[known], 0.0, guess=_MIDDLE), known)

    return test


def _ranks(values: Floats) -> Floats:
    """Return for each value the share of lower ones among some before it: the newest at the last power of two."""
    ranks = np.full(len(values), _MIDDLE)
    begin = _FIRST_RANKS
    while begin < len(values):
        earlier = np.sort(values[:begin][-_RANKED:])
        ranks[begin : 2 * begin] = np.searchsorted(earlier, values[begin : 2 * begin]) / len(earlier)
        begin *= 2
    return ranks


def _unsafe_test(columns: Columns, limits: Limits) -> Floats:
    """Bet against "the candidate's share of unsafe threads is at most the limit", on its threads alone."""
    limit = limits.unsafe or 0.0
    mine = columns.candidate
    unsafe = columns.unsafe[mine] > 0
    shares = [share for share in _UNSAFE if share > limit] or [(1 + limit) / 2]
    wealth = np.zeros(len(unsafe))
    for share in shares:
        with np.errstate(divide="ignore", over="ignore"):
            wealth += np.cumprod(np.where(unsafe, np.divide(share, limit), (1 - share) / (1 - limit)))
    return _spread(wealth / len(shares), mine)


def _spread(path: Floats, known: Bools) -> Floats:
    """Return a path for all the threads from one for those where something was known; it begins at 1."""
    return np.concatenate([[1.0], path])[np.cumsum(known)]


_TESTS: dict[str, Callable[[Columns, Limits], Floats]] = {
    "bad": _share_test("bad", None),
    "errors": _share_test("errors", "errors"),
    "handed_over": _share_test("handed_over", "handed_over"),
    "latency": _ratio_test("seconds", "latency_ratio"),
    "cost": _ratio_test("usd", "cost_ratio"),
    "unsafe": _unsafe_test,
}
_LIMITS = {"latency": "latency_ratio", "cost": "cost_ratio"}


def _looked_at(name: str, limits: Limits) -> bool:
    return name == "bad" or getattr(limits, _LIMITS.get(name, name)) is not None


def _weights(names: Iterable[str]) -> dict[str, float]:
    """Return what each of these tests counts for; together 1."""
    whole = sum(_WEIGHTS[name] for name in names)
    return {name: _WEIGHTS[name] / whole for name in names}


def _highest(path: Floats) -> float:
    return float(path.max()) if len(path) else 1.0


def _least(ruled_out: Callable[[float], bool]) -> float:
    """Return the least change that is ruled out, from -1 to 1; 1.0 where not even that is."""
    low, high = -1.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if ruled_out(middle) else (middle, high)
    return high


# -- the verdict -------------------------------------------------------------------------------------------------------


Verdict = tuple[Move, str]


def taken_back(columns: Columns, walk: Walk, limits: Limits) -> Verdict | None:
    """Return the verdict where all guardrails together ever reached what is asked for, with the one that did most."""
    asked = 1 / limits.alpha_rollback
    reached = walk.harm >= asked
    if not reached.any():
        return None
    when = int(reached.argmax())
    weights = _weights(walk.by_test)
    first = max(weights, key=lambda name: weights[name] * walk.by_test[name][when])
    return "rollback", (
        f"Take the candidate back: {_harm(first, columns, limits)}. After {when + 1:,} threads the e-value of all "
        f"guardrails together was {_e(walk.harm[when])} where {asked:,.0f} is asked for."
    )


def _harm(name: str, columns: Columns, limits: Limits) -> str:
    """Return what a guardrail saw, with both sides' figures."""
    mine = columns.candidate
    if name == "unsafe":
        seen = int(columns.unsafe[mine].sum())
        allowed = f"{limits.unsafe:.2%} are allowed" if limits.unsafe else "none is allowed"
        return f"{seen:,} of its {np.count_nonzero(mine):,} threads were unsafe, and {allowed}"
    if name in _LIMITS:
        values = columns.seconds if name == "latency" else columns.usd
        figures = [_amount(name, values[side & np.isfinite(values)]) for side in (mine, ~mine)]
        what = f"{_WORDS[name]} more than {getattr(limits, _LIMITS[name]):g} times the champion's"
    else:
        figures = [_percent(getattr(columns, name)[side]) for side in (mine, ~mine)]
        what = f"more of its threads {_WORDS[name]}"
    return f"{what}, {figures[0]} against {figures[1]}"


_WORDS = {
    "bad": "are bad",
    "errors": "ended with an error",
    "handed_over": "were taken over by a person",
    "latency": "its model calls take",
    "cost": "its threads cost",
}


def _misrouted(p: float, assigned: tuple[int, int], percent: float, limits: Limits) -> Verdict | None:
    if p > limits.alpha_routing:
        return None
    champion, candidate = assigned
    return "hold", (
        f"Hold: the candidate got {candidate:,} of {champion + candidate:,} new threads where {percent:g} percent were "
        f"promised (p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}). Something routes wrongly: find it before the next "
        "step, for a comparison of threads that chose their release says nothing."
    )


def _too_early(in_stage: int, percent: float, limits: Limits, *, waited: bool) -> Verdict | None:
    if in_stage < limits.least_threads:
        return "hold", (
            f"Hold at {percent:g} percent: the candidate has finished {in_stage} of the {limits.least_threads} threads "
            "that a stage takes."
        )
    return None if waited else ("hold", f"Hold at {percent:g} percent: the stage has not lasted long enough.")


def _promoted(e_value: float, interval: tuple[float, float], percent: float, limits: Limits) -> Verdict:
    asked = 1 / limits.alpha_promote
    low, high = (f"{100 * end:+.1f}" for end in interval)
    margin = f"{100 * limits.margin:g}"
    found = f"(interval {low} to {high} points; e-value {_e(e_value)} where {asked:,.0f} is asked for)."
    if e_value >= asked:
        return "advance", f"Promote the candidate: if it is worse at all, then by less than {margin} points {found}"
    return "hold", (
        f"Hold at {percent:g} percent: the candidate is not yet shown to be worse by less than {margin} points, if at "
        f"all {found}"
    )


def _advanced(in_stage: int, percent: float) -> Verdict:
    return "advance", f"Advance from {percent:g} percent: {in_stage} threads of the candidate raised no alarm."


def columns_of(threads: Sequence[Seen], percent: float) -> Columns:
    """Return threads as arrays, or raise DataError with the number of the first that cannot be."""
    fields: Iterable[Sequence[Any]] = zip(*threads, strict=True) if threads else [()] * len(Seen._fields)
    found = dict(zip(Seen._fields, fields, strict=True))
    floats = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    share = np.where(np.isnan(floats["percent"]), percent, floats["percent"]) / 100
    for name, values in (("bad", floats["bad"]), ("percent", share)):
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            number = int(wrong.argmax())
            until = "1" if name == "bad" else "100"
            raise DataError(f"Thread {number} has {name} {found[name][number]!r}; it must be from 0 to {until}.")
    others = (floats[name] for name in ("bad", "error", "seconds", "usd", "unsafe", "handed_over"))
    return Columns(floats["candidate"] > 0, share, *others)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _percent(values: Floats) -> str:
    mean = _mean(values)
    return "nothing" if mean is None else f"{mean:.1%}"


def _amount(name: str, values: Floats) -> str:
    """Return the median with its unit; the tests compare ranks."""
    if not len(values):
        return "nothing"
    median = float(np.median(values))
    return f"${median:.4f}" if name == "cost" else f"{median:.2f} s"


def _e(value: float) -> str:
    return f"above {_HUGE:,.0f}" if value > _HUGE else f"{value:,.0f}"
