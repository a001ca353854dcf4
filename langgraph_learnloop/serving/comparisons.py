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
from collections.abc import Sequence

from langgraph_learnloop.errors import needing
from langgraph_learnloop.records import ShadowAnswer
from langgraph_learnloop.serving.bets import BOLDEST, CHANGES, TINY, Floats, highest, spread
from langgraph_learnloop.serving.guardrails import GUARDRAILS, Guardrail, columns_of, taken_back, walked
from langgraph_learnloop.serving.rollouts import Evidence, Limits, Seen, Verdict

with needing("A canary"):
    import numpy as np
    from scipy import stats

_EVEN = 50.0
"""Percent of the requests in the shadow of which the candidate's answer is looked at."""
_LONGER = {"latency": "its model calls take longer", "cost": "its threads cost more"}
"""What is seen of a candidate whose amounts are higher; by how many times is not what these bets ask."""


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
    e_values = {name: highest(path) for name, path in walk.by_test.items()}
    return Evidence(move, because, None, None, -1.0, 1.0, e_values, (len(first) - mine, mine), 1.0)


def _tossed(answer: ShadowAnswer) -> Seen:
    """Return one side of a request, by a coin that nobody can choose."""
    coin = hashlib.sha256(f"{answer.rollout_id}\n{answer.thread}".encode()).digest()[0] % 2 == 0
    return Seen(candidate=coin, bad=0.0, error=coin and answer.error is not None, percent=_EVEN)


def _out_of_the_shadow(answers: Sequence[ShadowAnswer], least: int, *, waited: bool) -> Verdict:
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
    tests = {name: path for name, one in GUARDRAILS.items() if (path := _path(one, before, after, limits)) is not None}
    harm = sum(tests.values(), np.zeros(len(after))) / max(1, len(tests))
    asked = 2 / limits.alpha_rollback
    move, because = _harmed(harm, tests, before, after, asked) or _kept(before, after, limits.least_threads, waited)
    shares = [float(np.mean([one.bad for one in side])) if side else None for side in (before, after)]
    e_values = {name: highest(path) for name, path in tests.items()} | {"asked": asked}
    return Evidence(move, because, shares[0], shares[1], -1.0, 1.0, e_values, (len(before), len(after)), 1.0)


def _harmed(
    harm: Floats, tests: dict[str, Floats], before: Sequence[Seen], after: Sequence[Seen], asked: float
) -> Verdict | None:
    """Return the verdict where all guardrails together ever reached what is asked, with the one that did most."""
    if not (harm >= asked).any():
        return None
    when = int((harm >= asked).argmax())
    worst = max(tests, key=lambda name: float(tests[name][when]))
    one = GUARDRAILS[worst]
    mine, theirs = (one.told(_values(one, side)) for side in (after, before))
    return "rollback", (
        f"Take the candidate back: {_LONGER.get(worst, one.words)} than those of the champion before the switch, "
        f"{mine} against {theirs}. After {when + 1:,} threads the e-value of all "
        f"guardrails together was {harm[when]:,.0f} where {asked:,.0f} is asked for."
    )


def _kept(before: Sequence[Seen], after: Sequence[Seen], least: int, waited: bool) -> Verdict:
    """Return the verdict where no alarm was raised."""
    if len(after) < least:
        return "hold", f"Hold: it has finished {len(after)} of the {least} threads asked for."
    if not waited:
        return "hold", "Hold: the switch was not long enough ago."
    if not before:
        return "hold", "Hold: the champion has no finished threads of before the switch, so a person must decide."
    return "advance", f"Keep the candidate: {len(after):,} threads after the switch raised no alarm."


def _values(one: Guardrail, threads: Sequence[Seen]) -> Floats:
    """Return a guardrail's figure of each thread of which it is known."""
    return np.array([value for thread in threads if (value := getattr(thread, one.figure)) is not None], np.float64)


def _path(one: Guardrail, before: Sequence[Seen], after: Sequence[Seen], limits: Limits) -> Floats | None:
    """Return a guardrail's e-value after each thread; None where nobody looks, or there is nothing to compare with."""
    allowed, theirs, mine = one.allowed(limits), _values(one, before), _values(one, after)
    if allowed is None or not len(theirs):
        return None
    alpha = limits.alpha_rollback / 2 / len(GUARDRAILS)  # the intervals share half of the error rate
    if not one.of_amounts:
        return _bets(mine, min(1.0, _highest_share(theirs, alpha) + allowed))
    known = np.array([getattr(thread, one.figure) is not None for thread in after], dtype=bool)
    low, high = (np.searchsorted(np.sort(theirs), mine / allowed, side=side) for side in ("left", "right"))
    slack = math.sqrt(math.log(1 / alpha) / (2 * len(theirs)))
    return spread(_bets((low + high) / (2 * len(theirs)), min(1.0, 0.5 + slack)), known)


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
    variance = max(most * (1 - most), TINY)
    bets = np.minimum(np.array([*CHANGES])[:, None] / variance, BOLDEST / max(most, TINY))
    with np.errstate(over="ignore"):
        return np.asarray(np.cumprod(1 + bets * (values - most), axis=1).mean(axis=0))
