"""Decide whether a candidate may ship: paired tests on the same cases, each with its interval and its power.

The metrics are fixed beforehand: the target is the share of cases fully right, the old slice the share of cases with
the right tool. Errors at the old slice are rare, so that a small loss can be seen there; "fully right" is too noisy for
that on a few hundred cases, and informs only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation import stats, words
from langgraph_learnloop.records import Case, CaseResult, Gate, Scorecard

Metric = Literal["right_tool", "fully_right"]
_WORDS: dict[Metric, str] = {"right_tool": "right tool", "fully_right": "fully right"}
_JUDGED = 0.95
"""Share of the cases that both sides must have answered."""
_TIE = 1e-12
"""Shares closer than this are equal: 5 of 100 is not less than 0.05."""


@dataclass(frozen=True)
class Pairs:
    """How champion and candidate did on the same cases, counted."""

    metric: Metric
    """What was counted."""
    n: int
    """Cases that both answered and that could be judged."""
    champion: int
    """Cases the champion got right."""
    wins: int
    """Cases only the candidate got right."""
    losses: int
    """Cases only the champion got right."""

    @property
    def before(self) -> float | None:
        """Return the champion's share, None without cases."""
        return self.champion / self.n if self.n else None

    @property
    def after(self) -> float | None:
        """Return the candidate's share, None without cases."""
        return (self.champion + self.wins - self.losses) / self.n if self.n else None

    @property
    def change(self) -> float:
        """Return candidate minus champion, 0.0 without cases."""
        return (self.wins - self.losses) / self.n if self.n else 0.0

    def gate(self, name: str, because: str, *, required: bool, passed: bool, p_value: float | None = None) -> Gate:
        """Return a gate with these figures and the 95% interval of the change."""
        low, high = stats.difference_interval(self.wins, self.losses, self.n) if self.n else (None, None)
        return Gate(
            name=name,
            required=required,
            passed=passed,
            metric=self.metric,
            champion=self.before,
            candidate=self.after,
            cases=self.n,
            low=low,
            high=high,
            p_value=p_value,
            because=because,
        )

    def figures(self, what: str) -> str:
        """Return the two shares with the change and its interval, as the beginning of a sentence."""
        if not self.n:
            return f"{what}: no case could be judged on both sides"
        low, high = stats.difference_interval(self.wins, self.losses, self.n)
        shares = f"{_WORDS[self.metric]} {words.percent(self.before)} -> {words.percent(self.after)}"
        return (
            f"{what}: {shares} on {self.n} cases "
            f"({words.points(self.change)} points, 95% interval {words.points(low)} to {words.points(high)})"
        )


@dataclass(frozen=True)
class Limits:
    """What the gates ask for, in shares."""

    alpha: float
    """Error rate of a test, one-sided."""
    target_gain: float
    """The target must get better by at least this."""
    retention_margin: float
    """The old slice must not be worse by this."""
    category_margin: float
    """No category may be worse by more than this."""


@dataclass(frozen=True)
class Exam:
    """All the cases with both sides' results."""

    cases: Sequence[Case]
    """The suites."""
    champion: dict[str, CaseResult]
    """Results by case id."""
    candidate: dict[str, CaseResult]
    """Results by case id."""

    def pairs(self, metric: Metric, suite: str, category: str | None = None) -> Pairs:
        """Return the counts of a suite, or of one of its categories."""
        asked = [case for case in self.cases if case.suite == suite and category in (None, case.category)]
        rows = [(_verdict(self.champion, case, metric), _verdict(self.candidate, case, metric)) for case in asked]
        both = [(old, new) for old, new in rows if old is not None and new is not None]
        return Pairs(
            metric=metric,
            n=len(both),
            champion=sum(old for old, _ in both),
            wins=sum(new and not old for old, new in both),
            losses=sum(old and not new for old, new in both),
        )

    def categories(self, suite: str) -> list[str]:
        """Return a suite's categories in order of name."""
        return sorted({case.category for case in self.cases if case.suite == suite})


def judge(
    champion: Sequence[CaseResult],
    candidate: Sequence[CaseResult],
    cases: Sequence[Case],
    *,
    alpha: float = 0.05,
    target_gain: float = 0.05,
    retention_margin: float = 0.02,
    category_margin: float = 0.05,
    now: datetime | None = None,
) -> Scorecard:
    """Return the scorecard of a candidate; "not enough cases" never passes.

    Raises DataError when the results cannot be compared: none at all, of several releases, or judged in two ways.
    """
    names = _releases(champion, "champion"), _releases(candidate, "candidate")
    _same_evaluator(champion, candidate)
    limits = Limits(alpha, target_gain, retention_margin, category_margin)
    once = list({(case.suite, case.case_id): case for case in cases}.values())
    exam = Exam(once, {r.case_id: r for r in champion}, {r.case_id: r for r in candidate})
    gates = (
        _judged(exam, limits),
        _target(exam, limits, same=names[0] == names[1]),
        _retention(exam, limits),
        *_each_retention(exam, limits),
        _retention_fully(exam, limits),
        *_each_target(exam),
    )
    return Scorecard(champion=names[0], candidate=names[1], gates=gates, at=now or datetime.now(UTC))


def _target(exam: Exam, limits: Limits, *, same: bool) -> Gate:
    """Superiority: the exact one-sided McNemar test, and a gain that is worth it."""
    pairs = exam.pairs("fully_right", "target")
    p = stats.mcnemar_greater(pairs.wins, pairs.losses)
    start = pairs.figures("Target")
    if same:
        return pairs.gate(
            "target",
            f"{start}. The candidate is the champion itself: there is nothing to ship.",
            required=True,
            passed=False,
            p_value=p,
        )
    if (missing := _cannot_win(pairs, limits.alpha)) is not None:
        return pairs.gate("target", f"{start}. {missing}", required=True, passed=False, p_value=p)
    sure, enough = p <= limits.alpha, pairs.change >= limits.target_gain - _TIE
    if not sure:
        verdict = f"not shown to be better, p {words.p(p)} where {limits.alpha:g} is asked for"
    elif not enough:
        verdict = f"better (p {words.p(p)}), but by less than the {words.size(limits.target_gain)} points asked for"
    else:
        verdict = f"better, p {words.p(p)}"
    return pairs.gate("target", f"{start}: {verdict}.", required=True, passed=sure and enough, p_value=p)


def _cannot_win(pairs: Pairs, alpha: float) -> str | None:
    """Return the sentence that says how many cases are missing, when no candidate could pass on these."""
    needed, room = stats.wins_needed(alpha), pairs.n - pairs.champion
    if room >= needed:
        return None
    if pairs.n and not room:
        return "The champion is right on all of them, so that nothing can be shown to be better."
    total = needed if not pairs.n else -(-needed * pairs.n // room)
    return (
        f"Not enough cases: {total} needed, so that the champion leaves {needed} to win; it leaves {room} of {pairs.n}."
    )


def _retention(exam: Exam, limits: Limits) -> Gate:
    """Non-inferiority of the old slice as a whole: the exact test at the margin."""
    pairs, margin = exam.pairs("right_tool", "retention"), limits.retention_margin
    start = pairs.figures("Old slice")
    needed = stats.cases_needed(margin, limits.alpha)
    if pairs.n < needed:
        because = (
            f"{start}. Not enough cases: {needed} needed to rule out a loss of {words.size(margin)} points, "
            "even without a single loss."
        )
        return pairs.gate("retention", because, required=True, passed=False)
    p = stats.noninferiority(pairs.wins, pairs.losses, pairs.n, margin)
    passed = p <= limits.alpha
    verdict = "is ruled out" if passed else f"is not ruled out ({pairs.losses} cases lost, {pairs.wins} won)"
    return pairs.gate(
        "retention",
        f"{start}: a loss of {words.size(margin)} points {verdict}, p {words.p(p)}.",
        required=True,
        passed=passed,
        p_value=p,
    )


def _each_retention(exam: Exam, limits: Limits) -> list[Gate]:
    """Look at the tools one by one, because a whole hides a small part; Holm keeps the error rate of them all."""
    names = exam.categories("retention")
    found = [exam.pairs("right_tool", "retention", name) for name in names]
    harm = stats.holm([stats.mcnemar_greater(pairs.losses, pairs.wins) for pairs in found])
    return [_category(name, pairs, p, limits) for name, pairs, p in zip(names, found, harm, strict=True)]


def _category(name: str, pairs: Pairs, harm: float, limits: Limits) -> Gate:
    dropped = -pairs.change > limits.category_margin + _TIE and pairs.losses - pairs.wins >= 2
    passed = bool(pairs.n) and not dropped and harm > limits.alpha
    start = pairs.figures(f"Old tool {name!r}")
    if not pairs.n:
        verdict = "the gate cannot pass"
    elif passed:
        verdict = f"no harm found. {_power(pairs, limits.alpha)}"
    elif dropped:
        verdict = (
            f"worse by more than {words.size(limits.category_margin)} points ({pairs.losses} cases lost, "
            f"{pairs.wins} won; p of harm {words.p(harm)} after Holm)."
        )
    else:
        verdict = f"worse, p of harm {words.p(harm)} after Holm."
    return pairs.gate(
        f"retention:{name}", f"{start}: {verdict}".rstrip(".") + ".", required=True, passed=passed, p_value=harm
    )


def _retention_fully(exam: Exam, limits: Limits) -> Gate:
    """Say how the arguments fared at the old slice; it informs, because it is noisy."""
    pairs = exam.pairs("fully_right", "retention")
    p = stats.mcnemar_greater(pairs.losses, pairs.wins)
    start = pairs.figures("Old slice, arguments too")
    found = "worse" if p <= limits.alpha else "no harm found"
    noise = stats.detectable(pairs.n, min(pairs.wins, pairs.losses) / pairs.n if pairs.n else 0.0, limits.alpha)
    hint = ""
    if noise is None or noise > limits.retention_margin:
        hint = (
            f" {pairs.n} cases cannot show {words.size(limits.retention_margin)} points here. "
            f"{_power(pairs, limits.alpha)}"
        )
    return pairs.gate(
        "retention:fully-right",
        f"{start}: {found}, p of harm {words.p(p)}.{hint}",
        required=False,
        passed=p > limits.alpha,
        p_value=p,
    )


def _each_target(exam: Exam) -> list[Gate]:
    gates = []
    for name in exam.categories("target"):
        pairs = exam.pairs("fully_right", "target", name)
        p = stats.mcnemar_greater(pairs.wins, pairs.losses)
        because = f"{pairs.figures(f'Target tool {name!r}')}, p of no gain {words.p(p)}."
        passed = pairs.wins >= pairs.losses
        gates.append(pairs.gate(f"target:{name}", because, required=False, passed=passed, p_value=p))
    return gates


def _judged(exam: Exam, limits: Limits) -> Gate:
    """Ask that nearly all the cases were answered on both sides, and that the candidate does not fail more often."""
    sides = {"champion": exam.champion, "candidate": exam.candidate}
    open_cases = {side: [c for c in exam.cases if _unjudged(found.get(c.case_id))] for side, found in sides.items()}
    left_out = {case.case_id for cases in open_cases.values() for case in cases}
    total, both = len(exam.cases), len(exam.cases) - len(left_out)
    more = len(open_cases["candidate"]) - len(open_cases["champion"])
    fails_more = more >= 2 and more > limits.retention_margin * total
    passed = bool(total) and both >= _JUDGED * total and not fails_more
    because = f"{both} of {total} cases could be judged on both sides."
    if left_out:
        because += " " + " ".join(_why(side, open_cases[side], sides[side]) for side in sides if open_cases[side])
    if fails_more:
        because += " The candidate fails to answer more often than the champion."
    elif not passed:
        because += f" At least {words.percent(_JUDGED)} must be, and one at the least."
    share = {side: (total - len(cases)) / total if total else None for side, cases in open_cases.items()}
    return Gate(
        name="judged",
        required=True,
        passed=passed,
        metric="judged",
        champion=share["champion"],
        candidate=share["candidate"],
        cases=total,
        because=because,
    )


def _verdict(results: dict[str, CaseResult], case: Case, metric: Metric) -> bool | None:
    result = results.get(case.case_id)
    if result is None:
        return None
    return result.right_tool if metric == "right_tool" else result.fully_right


def _unjudged(result: CaseResult | None) -> bool:
    return result is None or result.right_tool is None or result.fully_right is None


def _why(side: str, cases: Sequence[Case], results: dict[str, CaseResult]) -> str:
    """Return how many cases one side left open, with the first reason, and the names of those it never saw."""
    missing = [case.case_id for case in cases if case.case_id not in results]
    reasons = [r.error for case in cases if (r := results.get(case.case_id)) is not None and r.error]
    said = [f"The {side} left {len(cases)} open"]
    if reasons:
        said.append(f"the first because: {reasons[0].rstrip('.')}")
    if missing:
        named = ", ".join(repr(case_id) for case_id in missing[:3]) + (" and more" if len(missing) > 3 else "")
        said.append(f"{len(missing)} have no result ({named})")
    return "; ".join(said) + "."


def _power(pairs: Pairs, alpha: float) -> str:
    """Return what drop this number of cases would have shown four times out of five."""
    least = stats.detectable(pairs.n, min(pairs.wins, pairs.losses) / pairs.n if pairs.n else 0.0, alpha)
    if least is None:
        return f"No drop at all could be shown on {pairs.n} cases."
    return f"A drop below {words.size(least)} points is inside the noise of {pairs.n} cases."


def _releases(results: Sequence[CaseResult], side: str) -> str:
    names = sorted({result.release_id for result in results})
    if len(names) != 1:
        found = "none" if not names else ", ".join(repr(name) for name in names)
        raise DataError(
            f"The {side}'s results must be of one release, but they are of {found}. "
            "Examine one release at a time, on at least one case."
        )
    if len({result.case_id for result in results}) != len(results):
        raise DataError(f"The {side} {names[0]!r} has two results for one case; give each case once.")
    return names[0]


def _same_evaluator(champion: Sequence[CaseResult], candidate: Sequence[CaseResult]) -> None:
    names = sorted({result.evaluator for result in (*champion, *candidate)})
    if len(names) != 1:
        raise DataError(
            f"The results were judged in different ways ({', '.join(names)}) and cannot be compared. "
            "Examine both releases again with one evaluator."
        )
