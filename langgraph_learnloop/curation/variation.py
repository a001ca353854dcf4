"""Make more of a correction: the same request about another person, place or number.

A model that has seen "play music by Anna Weber" in forty variations learns to copy whatever stands there, instead of
learning Anna Weber by heart.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langgraph_learnloop.calls import leaves, misfit
from langgraph_learnloop.records import Example, Message, ToolCall

CONFIDENCE = 0.8
"""A variation is as sure as its parent times this."""
CLOSED = 0.05
"""An argument whose next value is less likely than this to be new is an enumeration: only its own values fit."""
_OPEN = 0.5
"""An argument whose next value is at least as likely as this to be new takes any text: titles, names, places."""
_MADE_UP = 0.1
"""Share of made-up words among those that replace a value's words."""
_ONSETS = [*"bcdfghjklmnprstvwyz", "br", "ch", "cl", "dr", "gr", "pl", "qu", "sh", "st", "th", "tr"]
_VOWELS = [*"aeiou", "ai", "ea", "ia", "oo"]
_CODAS = ["", "", "", "", *"bdklmnprstx", "ft", "ll", "nd", "ng", "rn", "ss"]

_Slot = tuple[str, str]
_Span = tuple[int, int]


class Values:
    """The values that each argument of each tool took, to draw others from."""

    def __init__(self, by_slot: Mapping[_Slot, Sequence[str]]) -> None:
        """Take values by tool and argument, as often as they were seen."""
        self.by_slot = by_slot
        self._looked_up: dict[tuple[_Slot, bool], tuple[list[str], float]] = {}
        is_open = [slot for slot, values in by_slot.items() if values and chance_of_new(values) >= _OPEN]
        self._phrases = sorted({value for slot in is_open for value in by_slot[slot] if not value.isdecimal()})
        everything = {word for values in by_slot.values() for value in values for word in value.split()}
        self._words = sorted(word for word in everything if word.isalpha())

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Values:
        """Collect the text and whole-number values in the calls of examples; give training examples only."""
        found: dict[_Slot, list[str]] = defaultdict(list)
        for example in examples:
            for slot, value in _values(example.chosen):
                found[slot].append(str(value))
        return cls({slot: tuple(sorted(values)) for slot, values in sorted(found.items())})

    def another(self, value: str, slot: _Slot, rng: random.Random) -> str:
        """Return a value for the argument to take instead of `value`, in its capitals; itself if nothing else fits.

        As often as the argument's next value would be one not seen before, it is a new one: the value of some other
        argument that takes any text, words of the usual number, or another number. Else it is one of its own.
        """
        number = value.isdecimal()
        known, new = self._known(slot, number)
        others = [other for other in known if other != value]
        closed = new < CLOSED
        if others and (closed or rng.random() >= new):
            return _styled(rng.choice(others), value)
        if closed:
            return value
        if number:
            return _digits(value, rng)
        if self._phrases and rng.random() < 0.5:
            return _styled(rng.choice(self._phrases), value)
        length = len(rng.choice(known or [value]).split())
        return _styled(" ".join(self._word(rng) for _ in range(length)), value)

    def _known(self, slot: _Slot, number: bool) -> tuple[list[str], float]:
        """Return the values an argument took (numbers, if a number is asked for) and how likely the next is new."""
        if (slot, number) not in self._looked_up:
            known = [value for value in self.by_slot.get(slot, ()) if value.isdecimal() or not number]
            self._looked_up[slot, number] = known, chance_of_new(known) if known else 1.0
        return self._looked_up[slot, number]

    def _word(self, rng: random.Random) -> str:
        """Return a word of some value: real ones are easier to learn to copy than made-up ones."""
        return _made_up(rng) if not self._words or rng.random() < _MADE_UP else rng.choice(self._words)


def vary(example: Example, values: Values, n: int, seed: int) -> list[Example]:
    """Return up to `n` different variations of a training example; fewer, or none, when there is little to replace.

    Each value that stands exactly once in the last user message, on word boundaries and apart from the others, is
    replaced there and in the call by `values.another`. Held-out and validation examples, and those whose last message
    is not the user's, give none.
    """
    if example.split in ("heldout", "validation") or not example.messages or example.messages[-1].role != "user":
        return []
    spans = _spans(example)
    if not spans:
        return []
    rng = random.Random(f"{seed}:{example.example_id}")  # variety, no secret
    original = _bare(example).example_id
    seen: dict[str, Example] = {}
    for _ in range(4 * n):
        if len(seen) == n:
            break
        new = {value: values.another(value, slot, rng) for value, (_, slot) in spans.items()}
        if len({(slot, new[value].casefold()) for value, (_, slot) in spans.items()}) < len(new):
            continue  # two things of a list became one: "compare A and A"
        made = _replaced(example, spans, new)
        made_id = made.example_id
        if made_id != original and misfit(made.chosen, made.tools) is None:
            seen.setdefault(made_id, made)
    return list(seen.values())


def _values(message: Message) -> Iterator[tuple[_Slot, str | int]]:
    for call in message.tool_calls:
        for name, value in call.args.items():
            for leaf in leaves(value):
                if isinstance(leaf, str) or (isinstance(leaf, int) and leaf >= 0):
                    yield (call.name, name), leaf


def _spans(example: Example) -> dict[str, tuple[_Span, _Slot]]:
    """Return where each clear value stands in the request, and which argument it fills."""
    text = example.messages[-1].content
    slots: dict[str, _Slot] = {}
    for slot, value in _values(example.chosen):
        slots.setdefault(str(value), slot)
    places = {value: _places(value, text) for value in slots}
    # A value inside another's mention would lose its ground when that one is replaced: both are left alone.
    taken = [span for found in places.values() for span in found]
    return {
        value: (found[0], slots[value])
        for value, found in places.items()
        if len(found) == 1
        and sum(overlap(found[0], other) for other in taken) == 1
        and value not in example.chosen.content
    }


def _places(value: str, text: str) -> list[_Span]:
    if not value.strip():
        return []
    # On word boundaries; "2" does not stand in "2.5" or "12:2".
    return [m.span() for m in re.finditer(rf"(?<!\w)(?<!\d[.,:]){re.escape(value)}(?!\w|[.,:]\d)", text)]


def overlap(one: _Span, other: _Span) -> bool:
    """Return whether two places in a text share a character."""
    return one[0] < other[1] and other[0] < one[1]


def _replaced(example: Example, spans: Mapping[str, tuple[_Span, Any]], new: Mapping[str, str]) -> Example:
    text = example.messages[-1].content
    for value, ((start, end), _) in sorted(spans.items(), key=lambda item: item[1][0], reverse=True):
        text = text[:start] + new[value] + text[end:]
    calls = tuple(
        ToolCall(name=call.name, args={name: _swap(value, new) for name, value in call.args.items()}, id=call.id)
        for call in example.chosen.tool_calls
    )
    return _bare(example).model_copy(
        update={
            "messages": (*example.messages[:-1], example.messages[-1].model_copy(update={"content": text})),
            "chosen": example.chosen.model_copy(update={"tool_calls": calls}),
            "origin": "variation",
            "confidence": example.confidence * CONFIDENCE,
        }
    )


def _bare(example: Example) -> Example:
    # What the agent said was about the old values.
    return example.model_copy(update={"rejected": None})


def _swap(value: Any, new: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _swap(item, new) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_swap(item, new) for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int) or str(value) not in new:
        return value
    made = new[str(value)]
    return made if isinstance(value, str) else int(made)


def _made_up(rng: random.Random) -> str:
    """Return a pronounceable word of one to three syllables that need not exist."""
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
    return "".join([*syllables, rng.choice(_CODAS)])


def _digits(value: str, rng: random.Random) -> str:
    first = value[0] if value[0] == "0" else rng.choice("123456789")
    return first + "".join(rng.choice("0123456789") for _ in value[1:])


def chance_of_new(values: Sequence[str]) -> float:
    """Estimate how likely the next value is one not seen yet: the share of values seen once (Good 1953)."""
    return sum(count == 1 for count in Counter(values).values()) / len(values)


def _styled(new: str, old: str) -> str:
    """Return `new` in the capitals of `old`: all, the first of each word, none, or as it is."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    if old.islower():
        return new.lower()
    if all(word[:1].isupper() for word in old.split() if word[:1].isalpha()) and not old.isdigit():
        return " ".join(word[:1].upper() + word[1:] for word in new.split(" "))
    return new
