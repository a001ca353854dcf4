"""Compare a candidate with the champion where new threads are not dealt out between them.

In the shadow both answer the same request. Looking at one of the two answers, by the toss of a coin, makes of each
request a thread that was dealt out with the chance 1/2, and the canary's own tests hold for them.

After a switch (blue/green) all new threads are the candidate's, and what it is held against is the champion's threads
of before. Of these, the highest share u that fits what was seen is taken: the upper end of an exact interval (Clopper
and Pearson 1934), or of Hoeffding's (1963) where the metric is no yes or no. Thread by thread the candidate's wealth
then grows by 1 + bet * (x - u), which does not pay on average while its share is u at most (Waudby-Smith and Ramdas
2024, JRSS B 86, section 4). Half of the error rate goes to the intervals, half to the bets. Times and costs are
compared by their rank among those of before, with the slack of Dvoretzky, Kiefer and Wolfowitz (Massart 1990). It leans
on one thing more than a canary does: that what people ask is no harder than before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from langgraph_learnloop.errors import needing
from langgraph_learnloop.records import ShadowAnswer
from langgraph_learnloop.serving.canary import Evidence, Floats, Limits, Move, Seen, columns_of, taken_back, walked

with needing("A canary"):
    import numpy as np
    from scipy import stats

_EVEN = 50.0
"""Percent of the requests in the shadow of which the candidate's answer is looked at."""
_CHANGES = (0.01, 0.04, 0.12, 0.4)
"""True differences that the bets are best at."""
_BOLDEST = 0.5
"""Share of the wealth that one thread may cost at most."""
_WORDS = {
    "bad": "more of its threads are bad",
    "errors": "more of its threads ended with an error",
    "handed_over": "more of its threads were taken over by a person",
    "unsafe": "more of its threads were unsafe",
    "seconds": "its model calls take longer",
    "usd": "its threads cost more",
}


def in_the_shadow(answers: Sequence[ShadowAnswer], limits: Limits, least: int, *, waited: bool) -> Evidence:
    """Return what a candidate's unseen answers say; a thread counts with its first request.

    Errors decide; how long it took only informs, for the candidate is asked when there is time.
    """
    first = list({answer.thread: answer for answer in reversed(answers)}.values())[::-1]
    looked_at = [_tossed(answer) for answer in first]
    limits = Limits(
        alpha_rollback=limits.alpha_rollback, handed_over=None, latency_ratio=None, cost_ratio=None, unsafe=None
    )
    columns = columns_of(looked_at, _EVEN)
    walk = walked(columns, limits)
    mine = sum(one.candidate for one in looked_at)
    move, because = taken_back(columns, walk, limits) or _out_of_the_shadow(first, least, waited=waited)
    e_values = {name: float(path.max(initial=1.0)) for name, path in walk.by_test.items()}
    return Evidence(move, because, None, None, -1.0, 1.0, e_values, (len(first) - mine, mine), 1.0)


def _tossed(answer: ShadowAnswer) -> Seen:
    """Return one side of a request, by a coin that nobody can choose."""
    coin = hashlib.sha256(f"{answer.rollout_id}\n{answer.thread}".encode()).digest()[0] % 2 == 0
    return Seen(candidate=coin, bad=0.0, error=coin and answer.error is not None, percent=_EVEN)


def _out_of_the_shadow(answers: Sequence[ShadowAnswer], least: int, *, waited: bool) -> tuple[Move, str]:
    if len(answers) < least:
        return "hold", f"Hold in the shadow: it was asked by {len(answers)} of the {least} threads that this takes."
    if not waited:
        return "hold", "Hold in the shadow: the stage has not lasted long enough."
    return "advance", f"Out of the shadow: {_told(answers)}."


def _told(answers: Sequence[ShadowAnswer]) -> str:
    """Return what the answers were like, in figures."""
    same, failed = sum(one.same for one in answers), sum(one.error is not None for one in answers)
    mine, theirs = (
        float(np.median([getattr(one, name) for one in answers])) for name in ("seconds", "champion_seconds")
    )
    return (
        f"of {len(answers)} requests it answered {same} as the champion did and {failed} not at all, "
        f"in {mine:.2f} s where the champion took {theirs:.2f} s (medians)"
    )


def after_a_switch(before: Sequence[Seen], after: Sequence[Seen], limits: Limits, *, waited: bool) -> Evidence:
    """Return what the candidate's threads say beside the champion's of before the switch."""
    tests = {name: path for name, test in _TESTS.items() if (path := test(before, after, limits)) is not None}
    harm = sum(tests.values(), np.zeros(len(after))) / max(1, len(tests))
    asked = 2 / limits.alpha_rollback
    move, because = _verdict(harm, tests, before, after, limits, waited=waited)
    shares = [float(np.mean([one.bad for one in side])) if side else None for side in (before, after)]
    e_values = {name: float(path.max(initial=1.0)) for name, path in tests.items()} | {"asked": asked}
    return Evidence(move, because, shares[0], shares[1], -1.0, 1.0, e_values, (len(before), len(after)), 1.0)


def _verdict(
    harm: Floats,
    tests: dict[str, Floats],
    before: Sequence[Seen],
    after: Sequence[Seen],
    limits: Limits,
    *,
    waited: bool,
) -> tuple[Move, str]:
    asked = 2 / limits.alpha_rollback
    if (harm >= asked).any():
        when = int((harm >= asked).argmax())
        worst = max(tests, key=lambda name: float(tests[name][when]))
        return "rollback", (
            f"Take the candidate back: {_WORDS[worst]} than those of the champion before the switch, "
            f"{_figure(worst, after)} against {_figure(worst, before)}. After {when + 1:,} threads the e-value of all "
            f"guardrails together was {harm[when]:,.0f} where {asked:,.0f} is asked for."
        )
    if len(after) < limits.least_threads:
        return "hold", f"Hold: it has finished {len(after)} of the {limits.least_threads} threads asked for."
    if not waited:
        return "hold", "Hold: the switch was not long enough ago."
    if not before:
        return "hold", "Hold: the champion has no finished threads of before the switch, so a person must decide."
    return "advance", f"Keep the candidate: {len(after):,} threads after the switch raised no alarm."


def _figure(name: str, threads: Sequence[Seen]) -> str:
    values = _values(name, threads)
    if not len(values):
        return "nothing"
    if name == "seconds":
        return f"{np.median(values):.2f} s"
    return f"${np.median(values):.4f}" if name == "usd" else f"{values.mean():.1%}"


def _values(name: str, threads: Sequence[Seen]) -> Floats:
    """Return a figure of each thread of which it is known."""
    known = (getattr(one, "error" if name == "errors" else name) for one in threads)
    return np.array([value for value in known if value is not None], dtype=np.float64)


def _share(name: str, limit: str | None) -> Callable[..., Floats | None]:
    def test(before: Sequence[Seen], after: Sequence[Seen], limits: Limits) -> Floats | None:
        allowed = getattr(limits, limit) if limit else 0.0
        if allowed is None or not before:
            return None
        most = min(1.0, _highest_share(_values(name, before), _part(limits)) + allowed)
        return _bets(_values(name, after), most)

    return test


def _ratio(name: str, limit: str) -> Callable[..., Floats | None]:
    def test(before: Sequence[Seen], after: Sequence[Seen], limits: Limits) -> Floats | None:
        ratio, theirs = getattr(limits, limit), np.sort(_values(name, before))
        if ratio is None or not len(theirs):
            return None
        known = np.array([getattr(one, name) is not None for one in after], dtype=bool)
        mine = _values(name, after) / ratio
        low, high = (np.searchsorted(theirs, mine, side=side) for side in ("left", "right"))
        slack = math.sqrt(math.log(1 / _part(limits)) / (2 * len(theirs)))
        path = _bets((low + high) / (2 * len(theirs)), min(1.0, 0.5 + slack))
        return np.asarray(np.concatenate([[1.0], path])[np.cumsum(known)])

    return test


_TESTS: dict[str, Callable[[Sequence[Seen], Sequence[Seen], Limits], Floats | None]] = {
    "bad": _share("bad", None),
    "errors": _share("errors", "errors"),
    "handed_over": _share("handed_over", "handed_over"),
    "unsafe": _share("unsafe", "unsafe"),
    "seconds": _ratio("seconds", "latency_ratio"),
    "usd": _ratio("usd", "cost_ratio"),
}


def _part(limits: Limits) -> float:
    """Return the error rate of one interval: they share half of the whole one."""
    return limits.alpha_rollback / 2 / len(_TESTS)


def _highest_share(values: Floats, alpha: float) -> float:
    """Return the highest mean, 0 to 1, that fits values from 0 to 1; a higher one would show less with 1 - alpha."""
    count, total = len(values), float(values.sum())
    if np.isin(values, (0.0, 1.0)).all():
        return 1.0 if total >= count else float(stats.beta.ppf(1 - alpha, total + 1, count - total))
    return min(1.0, total / count + math.sqrt(math.log(1 / alpha) / (2 * count)))


def _bets(values: Floats, most: float) -> Floats:
    """Return the wealth after each value of bets against "their mean is `most` at most"."""
    if most >= 1:
        return np.ones(len(values))
    spread = max(most * (1 - most), 1e-3)
    bets = np.minimum(np.array(_CHANGES)[:, None] / spread, _BOLDEST / max(most, 1e-3))
    with np.errstate(over="ignore"):
        return np.asarray(np.cumprod(1 + bets * (values - most), axis=1).mean(axis=0))
