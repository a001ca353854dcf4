"""Read the user's own requests from a JSONL file, and split them: what the base model may see, what is to be learned.

One row is one line: `{"text", "tool", "args", "split"}`, with an optional `"domain"`. Argument values are words or
whole numbers taken from the text, or lists of words.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import content_hash

ArgValue = str | int | list[str]

FORMAT = '{"text": str, "tool": str, "args": {name: str, int or list of str}, "split": str}'
SPLITS = ("train", "dev", "test")
HELD_OUT = frozenset({"rate_book", "search_screening_event"})
"""Held out when a file has both and nothing else is asked for: the two tools of SNIPS that need the most arguments."""

FRESH = 1 / 7
"""Share of each base tool's rows that is kept from the base."""

_REQUIRED = ("text", "tool", "args", "split")
_ALLOWED = frozenset({*_REQUIRED, "domain"})


class Row(TypedDict):
    """One request of a data file and the call it asks for."""

    text: str
    tool: str
    args: dict[str, ArgValue]
    split: str
    domain: NotRequired[str]


@dataclass(frozen=True)
class ToolSplit:
    """Rows by who may see them: of the base model's tools and of the held-out ones, each for training and testing."""

    base_train: Sequence[Row]
    base_fresh: Sequence[Row]
    """Training rows of the base's tools that the base does not see: people's requests, and cases for the gate."""
    base_test: Sequence[Row]
    target_train: Sequence[Row]
    target_test: Sequence[Row]
    held_out: Sequence[str]
    """Names of the held-out tools, sorted."""


def read_rows(path: str | Path) -> list[Row]:
    """Read and check every row of a JSONL file; raise `DataError` with the file, the line and the reason."""
    file = Path(path)
    rows = [_parse(line, file, number) for number, line in enumerate(_text(file).split("\n"), 1) if line.strip()]
    if not rows:
        raise DataError(f"{str(file)!r} holds no rows: each line must be {FORMAT}.")
    return rows


def split_tools(rows: Iterable[Row], hold_out: Collection[str] | None = None) -> ToolSplit:
    """Split rows into base tools and held-out tools, each into train and test; "dev" rows count as training."""
    rows = list(rows)
    names = {row["tool"] for row in rows}
    held = _held_out(names, hold_out)

    def part(target: bool, test: bool) -> list[Row]:
        return [r for r in rows if (r["tool"] in held) == target and (r["split"] == "test") == test]

    known, fresh = _set_aside(part(False, False))
    parts = (known, fresh, part(False, True), part(True, False), part(True, True))
    for name, share in zip(
        ("base_train", "base_fresh", "base_test", "target_train", "target_test"), parts, strict=True
    ):
        if not share:
            raise DataError(
                f"No rows are left for {name!r} when {sorted(held)} are held out: add rows or hold out others."
            )
    return ToolSplit(*parts, held_out=sorted(held))


def _set_aside(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return rows for the base to learn, and a share of each tool's that it never sees, whatever the file's order."""
    by_tool: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: content_hash(row["text"])):
        by_tool[row["tool"]].append(row)
    cut = {tool: math.ceil(len(some) * FRESH) if len(some) > 1 else 0 for tool, some in by_tool.items()}
    return (
        [row for tool, some in sorted(by_tool.items()) for row in some[cut[tool] :]],
        [row for tool, some in sorted(by_tool.items()) for row in some[: cut[tool]]],
    )


def _held_out(names: set[str], hold_out: Collection[str] | None) -> frozenset[str]:
    if hold_out is None:
        if not names >= HELD_OUT:
            raise DataError(f"Say which tools the base model must not see (hold_out); the file has {sorted(names)}.")
        return HELD_OUT
    if missing := set(hold_out) - names:
        raise DataError(f"Cannot hold out {sorted(missing)}: name some of the file's tools, {sorted(names)}.")
    return frozenset(hold_out)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(
            f"{str(file)!r} line {line} is not UTF-8: save the file as UTF-8, one {FORMAT} a line."
        ) from error
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise DataError(f"Cannot read {str(file)!r} ({why}): give a JSONL file, one {FORMAT} a line.") from error


def _parse(line: str, file: Path, number: int) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise _fault(file, number, f"is not JSON ({error})") from error
    if reason := _reason(value):
        raise _fault(file, number, reason)
    return cast(Row, value)


def _fault(file: Path, number: int, reason: str) -> DataError:
    return DataError(f"{str(file)!r} line {number} {reason}: each line must be {FORMAT}.")


def _reason(row: Any) -> str | None:
    """Say what is wrong with one parsed row, or None."""
    if not isinstance(row, dict):
        return f"is a {type(row).__name__}, not an object"
    if unknown := sorted(set(row) - _ALLOWED):
        return f"has the unknown column {unknown[0]!r}"
    if missing := [name for name in _REQUIRED if name not in row]:
        return f"lacks {missing[0]!r}"
    for name in ("text", "tool", "split", "domain"):
        if name in row and not (isinstance(row[name], str) and row[name].strip()):
            return f"has {name!r} {row[name]!r} where a non-empty string belongs"
    if row["split"] not in SPLITS:
        return f"has the split {row['split']!r}, not one of {', '.join(SPLITS)}"
    return _args_reason(row["args"])


def _args_reason(args: Any) -> str | None:
    if not isinstance(args, dict):
        return f"has 'args' {args!r} where an object belongs"
    for name, value in args.items():
        if not name or not _is_value(value):
            return f"has the argument {name!r} with the value {value!r}, not a non-empty str, an int or a list of str"
    return None


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) and item.strip() for item in value)
    return (isinstance(value, str) and bool(value.strip())) or type(value) is int
