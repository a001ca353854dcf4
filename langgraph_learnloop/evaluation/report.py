"""Show a scorecard to a person: its verdict in a sentence, a table, or a whole report for the terminal.

What was captured is not trusted: it goes through `visible` before it reaches a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import words
from langgraph_learnloop.evaluation.findings import Flip, Report, Side, costs, flips, unjudged
from langgraph_learnloop.messages import question
from langgraph_learnloop.records import Gate, Message, Score, Scorecard
from langgraph_learnloop.texts import cut, visible

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_SHOWN = 5
"""Flipped cases that the terminal shows in each direction."""
_MISSING = 3
"""Gates that the verdict names of those that lack cases."""
_LONGEST = 60
"""Characters of a captured text in a cell of the terminal."""
_RATIOS = frozenset({"latency", "cost"})
_COLUMNS = ("gate", "verdict", "champion", "candidate", "points (95%)", "cases", "p", "power", "lacks")
_FLIP = ("slice", "question", "score", "champion said", "candidate said")
_WORDS = frozenset({"gate", "verdict", "sum", "lesson", "learned by", *_FLIP})
"""Columns of words, which are set to the left; figures are set to the right."""
_NARROW = frozenset({"verdict", "champion", "candidate", "p", "power", "lacks", "then", "now"})
"""Columns of figures and single words, which are never broken."""
_SELDOM = frozenset({"power", "lacks"})
"""Columns that are left out where no gate has anything in them."""


def written(value: Mapping[str, Any], indent: int | None = None) -> str:
    """Return arguments as JSON, or a note where they are none."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    except (RecursionError, TypeError, ValueError):
        return "(arguments that are no JSON)"


def score_words(score: Score) -> str:
    """Return a score as people say it; None is "not judged"."""
    if score is None:
        return "not judged"
    return ("yes" if score else "no") if isinstance(score, bool) else f"{score:.2f}"


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
    return _table(title, shown, cells, styles, _tests(scorecard))


def summary(report: Report) -> Group:
    """Return the whole report for the terminal; raise MissingExtraError when rich is not installed."""
    parts = [*_verdict(report), table(report.scorecard), *_flipped(report), *_open(report)]
    if report.remembered:
        parts.append(_ledger(report))
    parts.append(_table("What it cost", ("sum", "champion", "candidate"), costs(report)))
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(visible(part)) if isinstance(part, str) else part for part in parts))


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
    if not missing or scorecard.stopped_early:
        return f"{said}."
    more = " and more" if len(missing) > _MISSING else ""
    return f"{said}; cases are missing: {', '.join(missing[:_MISSING])}{more}."


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
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    styles: Sequence[str | None] = (),
    caption: str = "",
) -> Table:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError('A table needs rich: pip install "langgraph-learnloop[loop]".') from error
    made = Table(title=Text(visible(title)), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if caption:
        made.caption, made.caption_justify = Text(visible(caption)), "left"
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in _WORDS else "right"
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
        return
    failed = [gate for gate in card.gates if gate.required and not gate.passed]
    yield from (f"{gate.name}: {cut(gate.because, 10 * _LONGEST)}" for gate in failed)


def _flipped(report: Report) -> Iterator[Table | str]:
    found = flips(report)
    yield f"{len(found.won)} {'case' if len(found.won) == 1 else 'cases'} won, {len(found.lost)} lost."
    for name, those in (("Lost", found.lost), ("Won", found.won)):
        if those:
            rest = f", the first {_SHOWN} of {len(those)}" if len(those) > _SHOWN else ""
            yield _table(f"{name}{rest}", _FLIP, [_flip_row(flip) for flip in those[:_SHOWN]])


def _flip_row(flip: Flip) -> list[str]:
    before, after = (score_words(side.scores[flip.score]) for side in (flip.champion, flip.candidate))
    return [
        _line(f"{flip.case.suite}, {flip.case.category}"),
        _line(question(flip.case.messages)),
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
    return _table("What it still knows of earlier lessons", ("lesson", "learned by", "cases", "then", "now"), rows)
