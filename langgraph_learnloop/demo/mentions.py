"""Vary rows by replacing the values that are mentioned: the same request about another person, place or number.

A model that has seen "play music by Anna Weber" in forty variations learns to copy whatever stands there.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langgraph_learnloop.demo import words

Span = tuple[int, int, str]
_CLOSED = 0.05
"""An argument whose next value is less likely than this to be new is an enumeration: only its own values fit."""


class Mentions:
    """The values each argument took in some rows, to draw other values from."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], language: Sequence[str] = ()) -> None:
        """Collect the values of `rows` by tool and argument; new values may also be made of words of `language`."""
        self._values: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in rows:
            for name, value in row["args"].items():
                self._values[row["tool"], name].extend(_as_texts(value))
        self._closed = {slot for slot, values in self._values.items() if _chance_of_new(values) < _CLOSED}
        own = sorted({w for values in self._values.values() for value in values for w in value.split()})
        self._words = [pool for pool in (own, language) if pool]

    def vary(self, row: Mapping[str, Any], rng: random.Random, made_up: float = 0.5) -> dict[str, Any]:
        """Copy `row` with new values for all its arguments; an open argument gets invented words with chance `made_up`.

        A value that does not stand exactly once in the text, or overlaps another, is kept.
        """
        args = dict(row["args"])
        text = row["text"]
        for start, end, name in reversed(_spans(text, args)):
            old = args[name]
            new = self._draw((row["tool"], name), str(old), rng, made_up)
            args[name] = int(new) if isinstance(old, int) else new
            text = text[:start] + new + text[end:]
        return {**row, "text": text, "args": args}

    def _draw(self, slot: tuple[str, str], old: str, rng: random.Random, made_up: float) -> str:
        if old.isdecimal():
            return self._number(slot, old, rng)
        pool = self._values.get(slot)
        if pool and (slot in self._closed or rng.random() >= made_up):
            return rng.choice(pool)
        return " ".join(self._word(rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))

    def _number(self, slot: tuple[str, str], old: str, rng: random.Random) -> str:
        numbers = [int(value) for value in self._values.get(slot, ()) if value.isdecimal()] or [int(old)]
        return str(rng.randint(min(numbers), max(numbers)))

    def _word(self, rng: random.Random) -> str:
        if not self._words or rng.random() < 0.4:
            return words.made_up(rng)
        return rng.choice(rng.choice(self._words))


def _chance_of_new(values: list[str]) -> float:
    """Estimate how likely the next value is one not seen yet (Good and Turing: the share of values seen once)."""
    return sum(count == 1 for count in Counter(values).values()) / len(values)


def _as_texts(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _spans(text: str, args: Mapping[str, Any]) -> list[Span]:
    """Find where each single value stands in the text, in order, leaving out those that are not clear."""
    found: list[Span] = []
    for name, value in args.items():
        if isinstance(value, list):
            continue
        places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)]
        if len(places) == 1:
            found.append((*places[0], name))
    return sorted(span for span in found if not any(span is not other and _overlap(span, other) for other in found))


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
