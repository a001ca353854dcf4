"""Show a scorecard to a person: plain sentences, a table, or a whole report for the terminal.

What was captured is not trusted: it goes through `visible` before it reaches a terminal.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import words
from langgraph_learnloop.records import Case, CaseResult, Gate, Message, Release, Remembered, Score, Scorecard

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from langgraph_learnloop.evaluation.limits import Limits

CHANGED = 0.1
"""A score that is a number has flipped when it moved by at least this; a judge that is asked twice moves by less."""
Side = Literal["champion", "candidate"]
SIDES: tuple[Side, Side] = ("champion", "candidate")
"""Who is held against whom, in the order in which they are shown."""
_TIE = 1e-9
"""0.9 - 0.8 is a little less than 0.1."""
_SHOWN = 5
"""Flipped cases that the terminal shows in each direction."""
_MISSING = 3
"""Gates that the verdict names of those that lack cases."""
_LONGEST = 60
"""Characters of a captured text in a cell of the terminal."""
_NO_RICH = 'A table needs rich: pip install "langgraph-learnloop[loop]".'
_ID = 12
"""Characters of an id that are enough to find it by."""
_RATIOS = frozenset({"latency", "cost"})
_COLUMNS: Mapping[str, Literal["left", "right"]] = {
    "gate": "left",
    "verdict": "left",
    "champion": "right",
    "candidate": "right",
    "points (95%)": "right",
    "cases": "right",
    "p": "right",
    "power": "right",
    "lacks": "right",
}
_COSTS: Mapping[str, Literal["left", "right"]] = {"sum": "left", "champion": "right", "candidate": "right"}
_LESSONS: Mapping[str, Literal["left", "right"]] = {
    "lesson": "left",
    "learned by": "left",
    "cases": "right",
    "then": "right",
    "now": "right",
}
_NARROW = frozenset({"verdict", "champion", "candidate", "p", "power", "lacks", "then", "now"})
"""Columns of figures and single words, which are never broken."""
_SELDOM = frozenset({"power", "lacks"})
"""Columns that are left out where no gate has anything in them."""


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


def margins(limits: Limits) -> dict[str, float]:
    """Return the changes that the gates ask for, in the form of `Report.margins`."""
    asked_for = {
        "target": limits.target_gain,
        "retention": -limits.retention_margin,
        "retention:": -limits.category_margin,
        "regression": -limits.retention_margin,
        "latency": limits.latency_ratio,
        "cost": limits.cost_ratio,
    }
    return {name: change for name, change in asked_for.items() if change is not None}


def flips(report: Report) -> Flips:
    """Return the cases won and lost: where the target's score changed, or else another that a gate compared."""
    found = [flip for case in _once(report.cases) if (flip := _flip(report, case)) is not None]
    found.sort(key=lambda flip: -abs(flip.change))
    return Flips(tuple(f for f in found if f.change > 0), tuple(f for f in found if f.change < 0))


def unjudged(report: Report) -> list[Unjudged]:
    """Return the cases that could not be judged, by side and by reason, the most frequent reason first."""
    found: dict[tuple[Side, str], list[Case]] = {}
    for side in SIDES:
        for case in _once(report.cases):
            if (because := _unknown(report, side, case)) is not None:
                found.setdefault((side, because), []).append(case)
    rows = [Unjudged(side, because, tuple(cases)) for (side, because), cases in found.items()]
    return sorted(rows, key=lambda row: (SIDES.index(row.side), -len(row.cases)))


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


def visible(text: str) -> str:
    """Return text with its control and direction characters spelled out, so that it can steer nothing."""
    lines = text.replace("\r\n", "\n")
    return lines if lines.isprintable() else "".join(c if _is_harmless(c) else f"\\u{ord(c):04x}" for c in lines)


def cut(text: str, longest: int) -> str:
    """Return a text, or its beginning with how much more there is."""
    return text if len(text) <= longest else f"{text[:longest]} [{len(text) - longest:,} more characters]"


def written(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Return arguments as JSON, or a note where they are none."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    except (RecursionError, TypeError, ValueError):
        return "(arguments that are no JSON)"


def question(case: Case) -> str:
    """Return what the user asked last."""
    asked = [message.content for message in case.messages if message.role == "user"]
    return asked[-1] if asked else ""


def score_words(score: Score) -> str:
    """Return a score as people say it; None is "not judged"."""
    if score is None:
        return "not judged"
    return ("yes" if score else "no") if isinstance(score, bool) else f"{score:.2f}"


def sentences(scorecard: Scorecard) -> list[str]:
    """Return the verdict, then each gate's reason, failed ones first, those that only inform last."""
    gates = [f"{mark(gate)} {gate.name}: {gate.because}{_facts(gate)}" for gate in ordered(scorecard.gates)]
    return [visible(line) for line in (headline(scorecard), *gates)]


def headline(scorecard: Scorecard) -> str:
    """Return the verdict as a sentence, with the number of gates that passed and what is missing."""
    candidate, champion = cut(scorecard.candidate, _LONGEST), cut(scorecard.champion, _LONGEST)
    start = f"{scorecard.verdict.capitalize()} {candidate!r} in place of {champion!r}"
    if scorecard.verdict == "need more cases":
        start = f"More cases are needed to tell whether {candidate!r} may take the place of {champion!r}"
    return f"{start}: {_count(scorecard)}"


def ordered(gates: Sequence[Gate]) -> list[Gate]:
    """Return the gates that failed, those that passed, and those that only inform."""
    return sorted(gates, key=lambda gate: (not gate.required, gate.passed and gate.required))


def mark(gate: Gate) -> str:
    """Return a gate's verdict in a word."""
    if not gate.required:
        return "info"
    if gate.passed:
        return "passed"
    return "undecided" if gate.needed else "FAILED"


def is_ratio(gate: Gate) -> bool:
    """Return whether the gate compares by dividing, as latency and cost do."""
    return gate.name.partition(":")[0] in _RATIOS


def figure(gate: Gate, side: Side) -> str:
    """Return what one side reached, in the figure's unit."""
    value = gate.champion if side == "champion" else gate.candidate
    if value is None:
        return "-"
    return words.amount(gate.metric, value) if is_ratio(gate) else words.percent(value)


def change(gate: Gate) -> str:
    """Return the change in points, or the ratio of what is no share, with its interval."""
    if gate.champion is None or gate.candidate is None:
        return "-"
    if is_ratio(gate):
        ratio = gate.candidate / gate.champion if gate.champion else None
        return words.times(ratio) + _ends(gate, lambda end: f"{end:.2f}")
    return words.points(gate.candidate - gate.champion) + _ends(gate, words.points)


def chance(gate: Gate) -> str:
    """Return the p-value, "" where there is none."""
    return "" if gate.p_value is None else words.p(gate.p_value).removeprefix("= ")


def whole_percent(share: float) -> str:
    """Return a chance without decimals."""
    return f"{100 * share:.0f}%"


def asked(gate: Gate) -> str:
    """Return how many cases were compared, of how many."""
    return f"{gate.cases} of {gate.cases + gate.left_out}" if gate.left_out else str(gate.cases)


def table(scorecard: Scorecard) -> Table:
    """Return a rich table, one row a gate; raise MissingExtraError when rich is not installed."""
    title = f"{_line(scorecard.candidate)} against {_line(scorecard.champion)}: {scorecard.verdict}"
    rows = [_row(gate) for gate in scorecard.gates]
    shown = [name for name in _COLUMNS if name not in _SELDOM or any(row[name] for row in rows)]
    styles = [None if gate.required else "dim" for gate in scorecard.gates]
    cells = [[row[name] for name in shown] for row in rows]
    return _table(title, {name: _COLUMNS[name] for name in shown}, cells, styles, _tests(scorecard))


def summary(report: Report) -> Group:
    """Return the whole report for the terminal; raise MissingExtraError when rich is not installed."""
    parts = [*_verdict(report), table(report.scorecard), *_flipped(report), *_open(report)]
    if report.remembered:
        parts.append(_ledger(report))
    parts.append(_table("What it cost", _COSTS, costs(report)))
    try:
        from rich.console import Group
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError(_NO_RICH) from error
    return Group(*(Text(visible(part)) if isinstance(part, str) else part for part in parts))


def _once(cases: Sequence[Case]) -> list[Case]:
    return list({(case.suite, case.case_id): case for case in cases}.values())


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


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs"


def _line(text: str) -> str:
    """Return a captured text in one short line."""
    beginning = " ".join(text[: 10 * _LONGEST].split())
    return beginning if len(beginning) <= _LONGEST else f"{beginning[: _LONGEST - 3]}..."


def _said(messages: Sequence[Message]) -> str:
    calls = (f"{call.name}({written(call.args)})" for message in messages for call in message.tool_calls)
    texts = (message.content for message in messages if message.role == "assistant" and message.content.strip())
    return _line("; ".join((*calls, *texts))) or "nothing"


def _ends(gate: Gate, said: Callable[[float], str]) -> str:
    """Return an interval in brackets, of which one end may be open; "" where there is none."""
    if gate.low is None:
        return "" if gate.high is None else f" (up to {said(gate.high)})"
    return f" (from {said(gate.low)})" if gate.high is None else f" ({said(gate.low)} to {said(gate.high)})"


def _count(scorecard: Scorecard) -> str:
    required = [gate for gate in scorecard.gates if gate.required]
    if not required:
        return "no required gate ran."
    said = f"{sum(gate.passed for gate in required)} of {len(required)} required gates passed"
    missing = [f"{gate.needed} for {gate.name}" for gate in required if gate.needed and not gate.passed]
    if not missing:
        return f"{said}."
    more = " and more" if len(missing) > _MISSING else ""
    return f"{said}; cases are missing: {', '.join(missing[:_MISSING])}{more}."


def _facts(gate: Gate) -> str:
    """Return how a gate decided, in brackets; "" where that is not known."""
    facts = (
        gate.test,
        None if gate.power is None else f"power {whole_percent(gate.power)}",
        f"{gate.needed} more cases needed" if gate.needed else None,
        f"{gate.left_out} left out" if gate.left_out else None,
    )
    said = "; ".join(fact for fact in facts if fact)
    return f" ({said})" if said else ""


def _tests(scorecard: Scorecard) -> str:
    """Return by which figure and which test each suite was decided, as lines below the table."""
    found: dict[str, list[str]] = {}
    for gate in scorecard.gates:
        how = ", ".join(part for part in (words.metric(gate.metric), gate.test) if part)
        found.setdefault(how, []).append(gate.name.partition(":")[0])
    return "\n".join(
        f"{_line(', '.join(dict.fromkeys(suites)))}: {cut(how, 4 * _LONGEST)}" for how, suites in found.items()
    )


def _row(gate: Gate) -> dict[str, str]:
    cells = (
        _line(gate.name),
        mark(gate),
        figure(gate, "champion"),
        figure(gate, "candidate"),
        change(gate),
        asked(gate),
        chance(gate),
        "" if gate.power is None else whole_percent(gate.power),
        str(gate.needed or ""),
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _table(
    title: str,
    columns: Mapping[str, Literal["left", "right"]],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str | None] = (),
    caption: str = "",
) -> Table:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError(_NO_RICH) from error
    made = Table(title=Text(visible(title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if caption:
        made.caption, made.caption_justify = Text(visible(caption)), "left"
    for column, justify in columns.items():
        made.add_column(column, justify=justify, overflow="fold", no_wrap=column in _NARROW)
    for number, row in enumerate(rows):
        cells = (Text(visible(cell)) for cell in row)
        made.add_row(*cells, style=styles[number] if styles else None)
    return made


def _verdict(report: Report) -> Iterator[str]:
    card = report.scorecard
    yield headline(card)
    if card.stopped_early:
        yield f"Stopped early: {cut(card.stopped_early, 4 * _LONGEST)}"


def _flipped(report: Report) -> Iterator[Table | str]:
    found = flips(report)
    yield f"{len(found.won)} {'case' if len(found.won) == 1 else 'cases'} won, {len(found.lost)} lost."
    for name, those in (("Lost", found.lost), ("Won", found.won)):
        if those:
            rest = f", the first {_SHOWN} of {len(those)}" if len(those) > _SHOWN else ""
            columns = ("slice", "question", "score", "champion said", "candidate said")
            rows = [_flip_row(flip) for flip in those[:_SHOWN]]
            yield _table(f"{name}{rest}", dict.fromkeys(columns, "left"), rows)


def _flip_row(flip: Flip) -> list[str]:
    before, after = (score_words(side.scores[flip.score]) for side in (flip.champion, flip.candidate))
    return [
        _line(f"{flip.case.suite}, {flip.case.category}"),
        _line(question(flip.case)),
        _line(f"{words.metric(flip.score)}: {before}, then {after}"),
        _said(flip.champion.got),
        _said(flip.candidate.got),
    ]


def _open(report: Report) -> Iterator[str]:
    for row in unjudged(report)[:_SHOWN]:
        yield f"The {row.side} left {len(row.cases)} unjudged: {cut(row.because, 4 * _LONGEST)}"


def _ledger(report: Report) -> Table:
    rows = [
        [report.name(r.dataset), report.name(r.learned_by), str(r.cases), words.percent(r.then), words.percent(r.now)]
        for r in report.remembered
    ]
    return _table("What it still knows of earlier lessons", _LESSONS, rows)
