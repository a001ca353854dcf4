"""Find in results what a person wants to know: which cases flipped, which were not judged, what is still known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from langgraph_learnloop.cases import each_once
from langgraph_learnloop.records import Case, CaseResult, Release, Remembered, Scorecard

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.limits import Limits

CHANGED = 0.1
"""A score that is a number has flipped when it moved by at least this; a judge that is asked twice moves by less."""
Side = Literal["champion", "candidate"]
SIDES: tuple[Side, Side] = ("champion", "candidate")
"""Who is held against whom, in the order in which they are shown."""
_TIE = 1e-9
"""0.9 - 0.8 is a little less than 0.1."""
_ID = 12
"""Characters of an id that are enough to find it by."""


@dataclass(frozen=True)
class Report:
    """A scorecard with what it rests on: all that is shown to whoever wants to know why."""

    scorecard: Scorecard
    """What the gates said."""
    champion: Release
    """What serves."""
    candidate: Release
    """What may take its place."""
    cases: Sequence[Case]
    """What both were asked."""
    champion_results: Mapping[str, CaseResult]
    """How the champion did, by case id."""
    candidate_results: Mapping[str, CaseResult]
    """How the candidate did, by case id."""
    remembered: Sequence[Remembered] = ()
    """What the candidate still knows of earlier lessons."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Names that people know, by the id of a release or a dataset."""
    margins: Mapping[str, float] = field(default_factory=dict)
    """The change that a gate asks for, by the gate's name; a name that ends in a colon is for all that begin so."""

    def results(self, side: Side) -> Mapping[str, CaseResult]:
        """Return one side's results."""
        return self.champion_results if side == "champion" else self.candidate_results

    @property
    def scores(self) -> tuple[str, ...]:
        """Return the scores that the required gates compared, the target's first."""
        seen = {name for side in SIDES for result in self.results(side).values() for name in result.scores}
        gates = sorted((g for g in self.scorecard.gates if g.required), key=lambda gate: gate.name != "target")
        return tuple(dict.fromkeys(gate.metric for gate in gates if gate.metric in seen))

    def name(self, of: str | None) -> str:
        """Return what to call a release or a dataset: its title, if it has one, and the beginning of its id."""
        if of is None:
            return "none"
        return f"{self.titles[of]} ({of[:_ID]})" if of in self.titles else of[:_ID]


class Flip(NamedTuple):
    """A case that one side got right, or better, and the other did not."""

    case: Case
    """What was asked."""
    score: str
    """The score that changed."""
    change: float
    """The candidate's score less the champion's; right is 1 and wrong is 0."""
    champion: CaseResult
    """What the champion did."""
    candidate: CaseResult
    """What the candidate did."""


class Flips(NamedTuple):
    """All the cases that changed, the largest change first."""

    won: tuple[Flip, ...]
    """The candidate is better."""
    lost: tuple[Flip, ...]
    """The candidate is worse."""


class Unjudged(NamedTuple):
    """Cases that one side left unjudged for one reason."""

    side: Side
    """Whose."""
    because: str
    """The reason."""
    cases: tuple[Case, ...]
    """Which."""


class Lesson(NamedTuple):
    """A lesson that was learned and shipped."""

    dataset: str
    """Version of the dataset that taught it."""
    release: str
    """The release that learned it."""
    cases: Sequence[str]
    """Ids of the held-out cases that were new with it."""


def margins(limits: Limits) -> dict[str, float]:
    """Return the changes that the gates ask for, in the form of `Report.margins`."""
    asked_for = {
        "target": limits.target_gain,
        "retention": -limits.retention_margin,
        "retention:": -limits.category_margin,
        "regression": -limits.category_margin,
        "latency": limits.latency_ratio,
        "cost": limits.cost_ratio,
    }
    return {name: change for name, change in asked_for.items() if change is not None}


def flips(report: Report) -> Flips:
    """Return the cases won and lost: where the target's score changed, or else another that a gate compared."""
    found = [flip for case in each_once(report.cases) if (flip := _flip(report, case)) is not None]
    found.sort(key=lambda flip: -abs(flip.change))
    return Flips(tuple(f for f in found if f.change > 0), tuple(f for f in found if f.change < 0))


def unjudged(report: Report) -> list[Unjudged]:
    """Return the cases that could not be judged, by side and by reason, the most frequent reason first."""
    found: dict[tuple[Side, str], list[Case]] = {}
    for side in SIDES:
        for case in each_once(report.cases):
            if (because := _unknown(report, side, case)) is not None:
                found.setdefault((side, because), []).append(case)
    rows = [Unjudged(side, because, tuple(cases)) for (side, because), cases in found.items()]
    return sorted(rows, key=lambda row: (SIDES.index(row.side), -len(row.cases)))


def ledger(
    lessons: Sequence[Lesson], results: Mapping[str, Mapping[str, CaseResult]], release_id: str, score: str
) -> tuple[Remembered, ...]:
    """Return how a release does on the cases of each lesson, beside the release that learned it.

    `results` holds what each release was asked, by release and case. Only cases that both were asked and that could be
    judged by the score of that name are counted; with none of them the shares are None.
    """
    now = results.get(release_id, {})
    rows = []
    for lesson in lessons:
        then = results.get(lesson.release, {})
        pairs = [(then[c].scores.get(score), now[c].scores.get(score)) for c in lesson.cases if c in then and c in now]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        rows.append(
            Remembered(
                dataset=lesson.dataset,
                learned_by=lesson.release,
                cases=len(both),
                then=sum(a for a, _ in both) / len(both) if both else None,
                now=sum(b for _, b in both) / len(both) if both else None,
            )
        )
    return tuple(rows)


def costs(report: Report) -> list[tuple[str, str, str]]:
    """Return what the examination cost: the name of each sum, and the champion's and the candidate's."""
    return [
        (name, _total(report, "champion", figure), _total(report, "candidate", figure))
        for figure, name in (
            ("seconds", "time, all cases added up"),
            ("model_seconds", "of that, the models"),
            ("tokens", "tokens"),
            ("usd", "US dollars"),
        )
    ]


def _flip(report: Report, case: Case) -> Flip | None:
    champion, candidate = (report.results(side).get(case.case_id) for side in SIDES)
    if champion is None or candidate is None:
        return None
    for score in report.scores:
        before, after = champion.scores.get(score), candidate.scores.get(score)
        if before is not None and after is not None and abs(after - before) >= CHANGED - _TIE:
            return Flip(case, score, float(after - before), champion, candidate)
    return None


def _unknown(report: Report, side: Side, case: Case) -> str | None:
    """Return why a case was not judged, None where it was."""
    result = report.results(side).get(case.case_id)
    if result is None:
        return "It was not asked."
    missing = [name for name in report.scores if result.scores.get(name) is None]
    if result.scores and not missing:
        return None
    return result.error or ("It has no " + " and no ".join(missing or ["score"]).replace("_", " ") + ".")


def _total(report: Report, side: Side, of: str) -> str:
    """Return a sum in words, with how many cases it is known of; "unknown" where it is known of none."""
    ids = {case.case_id for case in report.cases}
    answered = [result for case_id, result in report.results(side).items() if case_id in ids]
    known = [value for result in answered if (value := getattr(result, of)) is not None]
    if not known:
        return "unknown"
    value = {"tokens": f"{sum(known):,.0f}", "usd": f"${sum(known):,.4f}"}.get(of, f"{sum(known):,.1f} s")
    return value if len(known) == len(answered) else f"{value} ({len(known)} of {len(answered)} cases)"
