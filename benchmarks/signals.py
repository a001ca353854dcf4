"""Measure what implicit signals find, and what they take for a complaint wrongly.

    python benchmarks/signals.py [--json FILE] [--quick] [--data FOLDER]

Asked again: two requests of SNIPS (Coucke et al. 2018) with the same tool and the same arguments are one request in
other words; with one argument changed they are the next question, and of other tools something else. The tool calls
are those that people annotated, as an agent that understood would make them, or none at all. Beside it, the ratio of
Python's difflib at the threshold where it finds as many as ours does by words alone. Our own two thresholds were chosen
by looking at such pairs of the same data, and may flatter it a little.

Objections and giving up: turns and answers in five languages that were written for this, as varied as could be, by
somebody who had not seen the phrases (`signals_turns.jsonl`); and all requests of CLINC150 (Larson et al. 2019) but
its "yes" and "no", none of which objects to anything. Without the data of others only our own turns are measured.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import platform
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from langgraph_learnloop.records import Run, Step, ToolCall
from langgraph_learnloop.signals.implicit import Turn, asked_again, gave_up, objected

DATA = Path(__file__).parents[2] / "shared" / "data"
TURNS = Path(__file__).with_name("signals_turns.jsonl")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOST = 3_000
"""Pairs of a kind."""
GOALS = {"found": 0.5, "next question": 0.05, "something else": 0.001, "ordinary": 0.001, "precise": 0.8}


class Request(NamedTuple):
    """What somebody asked for, as it was annotated."""

    text: str
    tool: str
    args: dict[str, Any]


Pair = tuple[Request, Request]


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few of everything")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with snips.jsonl and clinc150.jsonl")
    args = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {"turns": _turns(_read(TURNS))}
    console.print(_turns_table(figures["turns"]))
    if (args.data / "snips.jsonl").exists():
        figures["again"] = _again(_read(args.data / "snips.jsonl"), 100 if args.quick else MOST)
        console.print(_again_table(figures["again"]))
    if (args.data / "clinc150.jsonl").exists():
        figures["ordinary"] = _ordinary(_read(args.data / "clinc150.jsonl"))
        console.print(
            "Of {requests:,} ordinary requests {wrongly} are taken for an objection.".format(**figures["ordinary"])
        )
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "met": met(figures)}, indent=1) + "\n", encoding="utf-8")


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals were reached, of those that could be measured."""
    found = {
        f"{signal}: precise": sum(one["right"] for one in rows.values())
        >= GOALS["precise"] * sum(one["right"] + one["wrong"] for one in rows.values())
        for signal, rows in figures["turns"].items()
    }
    if "again" in figures:
        for name in ("with tool calls", "words alone"):
            side = figures["again"][name]
            found[f"{name}: found"] = side["the same in other words"] >= GOALS["found"]
            found[f"{name}: something else"] = side["something else"] <= GOALS["something else"]
        found["the next question"] = figures["again"]["with tool calls"]["the next question"] <= GOALS["next question"]
    if "ordinary" in figures:
        found["ordinary"] = figures["ordinary"]["wrongly"] <= GOALS["ordinary"] * figures["ordinary"]["requests"]
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- asked again -------------------------------------------------------------------------------------------------------


def _again(rows: Sequence[dict[str, Any]], most: int) -> dict[str, dict[str, float]]:
    """Return the shares of each kind of pair that each side takes for one request asked twice."""
    requests = [Request(row["text"], row["tool"], row["args"]) for row in rows if row["args"]]
    draw = random.Random(0)
    pairs = {
        "the same in other words": _restated(requests, draw),
        "the next question": _next(requests, draw),
        "something else": _else(requests, draw, most),
    }
    pairs = {kind: draw.sample(some, min(most, len(some))) for kind, some in pairs.items()}
    same = pairs["the same in other words"]
    words = _shares(pairs, lambda one, other: _noticed(one, other, calls=False))
    ratios = sorted((_ratio(*pair) for pair in same), reverse=True)
    least = ratios[max(0, round(words["the same in other words"] * len(same)) - 1)]
    return {
        "with tool calls": _shares(pairs, lambda one, other: _noticed(one, other, calls=True)),
        "words alone": words,
        "difflib": _shares(pairs, lambda one, other: _ratio(one, other) >= least),
        "pairs": {kind: float(len(some)) for kind, some in pairs.items()},
    }


def _restated(requests: Sequence[Request], draw: random.Random) -> list[Pair]:
    """Return pairs with the same tool and the same arguments, in other words: one of each such request."""
    return [(some[0], some[1]) for some in _drawn(requests, lambda one: _key(one.tool, one.args), draw)]


def _next(requests: Sequence[Request], draw: random.Random) -> list[Pair]:
    """Return pairs with the same tool and all arguments but one."""
    found = []
    for name in sorted({name for one in requests for name in one.args}):
        having = [one for one in requests if name in one.args and len(one.args) > 1]
        for some in _drawn(having, lambda one, name=name: _key(one.tool, {**one.args, name: None}), draw):
            other = next((one for one in some[1:] if _key("", one.args) != _key("", some[0].args)), None)
            if other is not None:
                found.append((some[0], other))
    return found


def _else(requests: Sequence[Request], draw: random.Random, most: int) -> list[Pair]:
    pairs = [(draw.choice(requests), draw.choice(requests)) for _ in range(2 * most)]
    return [(one, other) for one, other in pairs if one.tool != other.tool]


def _drawn(requests: Iterable[Request], key: Callable[[Request], str], draw: random.Random) -> list[list[Request]]:
    """Return requests that share a key, two or more of each, mixed, each text once."""
    groups: dict[str, dict[str, Request]] = defaultdict(dict)
    for one in requests:
        groups[key(one)].setdefault(one.text.strip().casefold(), one)
    return [draw.sample([*some.values()], len(some)) for some in groups.values() if len(some) > 1]


def _key(tool: str, args: dict[str, Any]) -> str:
    return json.dumps([tool, args], sort_keys=True).casefold()


def _shares(pairs: dict[str, list[Pair]], judge: Callable[[Request, Request], bool]) -> dict[str, float]:
    return {kind: sum(judge(*pair) for pair in some) / max(1, len(some)) for kind, some in pairs.items()}


def _noticed(one: Request, other: Request, *, calls: bool) -> bool:
    later = _run(other.text, "Done.", "r2", other if calls else None)
    return asked_again(Turn(later, _run(one.text, "Done.", "r1", one if calls else None))) is not None


def _ratio(one: Request, other: Request) -> float:
    return difflib.SequenceMatcher(None, one.text.casefold(), other.text.casefold(), autojunk=False).ratio()


def _run(question: str, answer: str, run_id: str, asked: Request | None = None) -> Run:
    at = NOW + timedelta(minutes=run_id == "r2")
    called = () if asked is None else (ToolCall(name=asked.tool, args=asked.args),)
    step = Step(step_id=f"{run_id}-1", parent_id=run_id, kind="model", name="m", tool_calls=called, started_at=at)
    facts: dict[str, Any] = {"agent": "a", "outcome": "finished", "started_at": at, "steps": (step,)}
    return Run(run_id=run_id, question=question, answer=answer, **facts)


# -- objections and giving up ------------------------------------------------------------------------------------------


def _turns(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return by signal and language how many complaints were found, missed, and taken for one wrongly."""
    found: dict[str, dict[str, dict[str, int]]] = {"objected": {}, "gave_up": {}}
    for row in rows:
        is_turn = row["part"] == "turn"
        counts = found["objected" if is_turn else "gave_up"].setdefault(
            row["language"], dict.fromkeys(("right", "missed", "wrong", "left alone"), 0)
        )
        noticed = _objected(row["text"], row["answer"]) if is_turn else _gave_up(row["text"])
        is_one = row["label"] != "other"
        counts[("right" if noticed else "missed") if is_one else ("wrong" if noticed else "left alone")] += 1
    return found


def _objected(text: str, answer: str) -> bool:
    return objected(Turn(_run(text, "So.", "r2"), _run("Q", answer, "r1"))) is not None


def _gave_up(text: str) -> bool:
    return gave_up(Turn(_run("Q", text, "r1"))) is not None


def _ordinary(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    texts = [row["text"] for row in rows if row["tool"] not in ("yes", "no")]
    return {"requests": len(texts), "wrongly": sum(_objected(text, "Done.") for text in texts)}


# -- what is printed ---------------------------------------------------------------------------------------------------


def _again_table(sides: dict[str, dict[str, float]]) -> Table:
    kinds = [*sides["pairs"]]
    table = Table(
        "", *(f"{kind} ({sides['pairs'][kind]:,.0f})" for kind in kinds), title="Taken for one request asked twice"
    )
    for name, side in sides.items():
        if name != "pairs":
            table.add_row(name, *(f"{100 * side[kind]:.1f}%" for kind in kinds))
    return table


def _turns_table(signals: dict[str, dict[str, dict[str, int]]]) -> Table:
    table = Table("", "language", "found", "taken for one wrongly", title="What was said")
    for signal, rows in signals.items():
        whole = {key: sum(counts[key] for counts in rows.values()) for key in next(iter(rows.values()))}
        for language, counts in {**rows, "all": whole}.items():
            complaints, others = counts["right"] + counts["missed"], counts["wrong"] + counts["left alone"]
            table.add_row(signal, language, f"{counts['right']} of {complaints}", f"{counts['wrong']} of {others}")
    return table


if __name__ == "__main__":
    main()
