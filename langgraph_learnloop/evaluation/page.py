"""Show a report as one page of HTML, which needs no other file, no script and no network.

What was captured is not trusted: jinja2 escapes every value, and before that the same door cuts it and spells out its
control and direction characters. Nothing that was captured becomes a link, a style or an attribute's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import report as told
from langgraph_learnloop.evaluation import words
from langgraph_learnloop.evaluation.findings import Report, costs, flips, unjudged
from langgraph_learnloop.messages import question
from langgraph_learnloop.records import Gate, Recipe, Release
from langgraph_learnloop.texts import cut, visible

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST = 2_000
"""Characters of a captured text that the page shows."""
MOST_FLIPS = 50
"""Flipped cases that the page shows in each direction."""
_MOST_REASONS = 50
"""Reasons of unjudged cases that are shown."""
_MOST_MESSAGES = 12
"""Messages of one conversation that are shown."""
_MOST_CALLS = 12
"""Tool calls of one message that are shown."""
_MAIN = ("method", "rank", "alpha", "learning_rate", "steps", "batch", "replay", "seed")
"""What is said of every recipe; the rest is said where it is not what it usually is."""
_HASH = 16
"""Digits of a file's hash that are shown."""
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""How far apart the marks of an axis may be, in shares."""
_MOST_TICKS = 7
_LEAST_REACH = 0.05
"""An axis of changes reaches at least so far to both sides, so that nothing looks larger than it is."""
_RATIO_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TIE = 1e-9
_INSET = 3.0
"""Percent of a plot's width that stay free at both ends, for half a mark and its number."""


class Tick(NamedTuple):
    """A mark of an axis."""

    place: float
    """Where, in percent of the plot's width."""
    text: str
    """What is written there."""
    middle: bool
    """It stands for no change."""


class Axis(NamedTuple):
    """A scale from left to right."""

    low: float
    """The value at the left end."""
    high: float
    """The value at the right end."""
    ticks: tuple[Tick, ...] = ()
    """Its marks."""

    def place(self, value: float) -> float:
        """Return where a value lies, in percent of the plot's width; what lies outside is put at the end."""
        inside = min(max(value, self.low), self.high)
        return round(_INSET + (100 - 2 * _INSET) * (inside - self.low) / (self.high - self.low), 2)


class Bar(NamedTuple):
    """One gate's row of the plot; places are percent of the plot's width."""

    gate: Gate
    """Whose."""
    part: bool
    """It is a part of a suite."""
    low: float | None
    """Lower end of the interval; None where it is open."""
    high: float | None
    """Upper end of the interval; None where it is open."""
    point: float | None
    """What was seen."""
    margin: float | None
    """What the gate asks for."""


class Plot(NamedTuple):
    """Rows over one axis."""

    axis: Axis
    """Of the changes, or of the ratios."""
    bars: tuple[Bar, ...]
    """The rows."""


def html(report: Report) -> str:
    """Return the report as a page; raise MissingExtraError when jinja2 is not installed."""
    lost_and_won = flips(report)
    reasons = unjudged(report)
    return _template().render(
        report=report,
        card=report.scorecard,
        told=told,
        words=words,
        gates=told.ordered(report.scorecard.gates),
        changes=changes(report),
        shares=_ticked(Axis(0.0, 1.0), (0.0, 0.5, 1.0), told.whole_percent),
        ratios=ratios(report),
        releases=_releases(report),
        directions=(("Lost", "lost", lost_and_won.lost), ("Won", "won", lost_and_won.won)),
        most_flips=MOST_FLIPS,
        most_messages=_MOST_MESSAGES,
        most_calls=_MOST_CALLS,
        reasons=reasons[:_MOST_REASONS],
        more_reasons=len(reasons) - _MOST_REASONS,
        costs=costs(report),
        question=question,
        cut=cut,
    )


def changes(report: Report) -> Plot | None:
    """Return the changes of shares with their intervals, each suite before its parts; None where there are none."""
    shares = (gate for gate in report.scorecard.gates if not told.is_ratio(gate))
    gates = _by_suite(gate for gate in shares if _is_known(gate.champion, gate.candidate, gate.low, gate.high))
    return _plot(report, gates, _change, lambda value: value, _change_axis)


def ratios(report: Report) -> Plot | None:
    """Return latency and cost as ratios with their intervals, on a scale of doublings; None where there are none."""
    gates = [g for g in report.scorecard.gates if told.is_ratio(g) and _is_known(g.champion, g.candidate)]
    return _plot(report, gates, _ratio, _log, _ratio_axis)


def _plot(
    report: Report,
    gates: Sequence[Gate],
    seen: Callable[[Gate], float | None],
    scaled: Callable[[float | None], float | None],
    axis_of: Callable[[Sequence[float]], Axis],
) -> Plot | None:
    """Return gates over one axis that reaches as far as anything in them."""
    if not gates:
        return None
    rows = [[scaled(v) for v in (gate.low, gate.high, seen(gate), _margin(report, gate))] for gate in gates]
    axis = axis_of([value for row in rows for value in row if value is not None])
    places = ([None if value is None else axis.place(value) for value in row] for row in rows)
    return Plot(axis, tuple(Bar(gate, ":" in gate.name, *row) for gate, row in zip(gates, places, strict=True)))


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError('A page needs jinja2: pip install "langgraph-learnloop[loop]".') from error
    # There is no loader: the template can name no other file.
    made = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    return made.from_string(files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))


def _harmless(value: Any) -> Any:
    """Return what the template may write: all that it writes passes here, and is escaped after that."""
    if hasattr(value, "__html__"):  # what a macro of the template made of values that passed here
        return value
    return visible(cut(str(value), LONGEST))


def _is_known(*figures: float | None) -> bool:
    return all(figure is not None and not math.isnan(figure) for figure in figures)


def _by_suite(gates: Iterable[Gate]) -> list[Gate]:
    found: dict[str, list[Gate]] = {}
    for gate in gates:
        found.setdefault(gate.name.partition(":")[0], []).append(gate)
    return [gate for suite in found.values() for gate in sorted(suite, key=lambda g: ":" in g.name)]


def _margin(report: Report, gate: Gate) -> float | None:
    """Return what a gate asks for: what is named like it, or what is for all the required gates of its suite."""
    suite, colon, _ = gate.name.partition(":")
    exact = report.margins.get(gate.name)
    return exact if exact is not None or not (colon and gate.required) else report.margins.get(f"{suite}:")


def _change(gate: Gate) -> float | None:
    return None if gate.champion is None or gate.candidate is None else gate.candidate - gate.champion


def _ratio(gate: Gate) -> float | None:
    return gate.candidate / gate.champion if gate.champion and gate.candidate is not None else None


def _log(value: float | None) -> float | None:
    """Return the logarithm of a ratio; None where there is none to draw."""
    return math.log(value) if value is not None and 0 < value < math.inf else None


def _change_axis(values: Sequence[float]) -> Axis:
    low = max(-1.0, min([*values, -_LEAST_REACH]))
    high = min(1.0, max([*values, _LEAST_REACH]))
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS - 1), _STEPS[-1])
    first, last = math.floor(low / step + _TIE), math.ceil(high / step - _TIE)
    return _ticked(Axis(first * step, last * step), [n * step for n in range(first, last + 1)], _whole_points)


def _whole_points(change: float) -> str:
    return f"{round(100 * change):+d}" if round(100 * change) else "0"


def _ratio_axis(values: Sequence[float]) -> Axis:
    """Return an axis of logarithms."""
    limits = math.log(_RATIO_TICKS[0]), math.log(_RATIO_TICKS[-1])
    low, high = max(limits[0], min([*values, math.log(0.5)])), min(limits[1], max([*values, math.log(2)]))
    inside = [math.log(tick) for tick in _RATIO_TICKS if low - _TIE <= math.log(tick) <= high + _TIE]
    return _ticked(Axis(low, high), inside, lambda value: f"{math.exp(value):g}")


def _ticked(axis: Axis, values: Iterable[float], text: Callable[[float], str]) -> Axis:
    return axis._replace(ticks=tuple(Tick(axis.place(value), text(value), abs(value) < _TIE) for value in values))


def _releases(report: Report) -> list[tuple[str, str, str]]:
    """Return what is known of both releases: the fact's name, the champion's and the candidate's."""
    champion, candidate = _facts(report, report.champion), _facts(report, report.candidate)
    return [(name, champion[name], candidate[name]) for name in champion]


def _facts(report: Report, release: Release) -> dict[str, str]:
    return {
        "release": report.name(release.release_id),
        "made": f"{release.made_at:%Y-%m-%d %H:%M}",
        "base model": release.base_model,
        "adapter": release.adapter or ("none" if release.adapter_sha256 is None else "its folder is not known"),
        "its SHA-256": (release.adapter_sha256 or "none")[:_HASH],
        "made from": report.name(release.parent),
        "dataset": report.name(release.dataset),
        "recipe": "none" if release.recipe is None else _recipe(release.recipe),
        "instructions": release.instructions or "none",
        "sampling": f"temperature {release.sampling.temperature:g}, at most {release.sampling.max_tokens:,} tokens",
    }


def _recipe(recipe: Recipe) -> str:
    given = recipe.model_dump()
    unusual = [name for name in recipe.model_dump(exclude_defaults=True) if name not in _MAIN]
    return ", ".join(f"{name.replace('_', ' ')} {given[name]}" for name in (*_MAIN, *unusual))
