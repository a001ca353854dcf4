"""Build the small model's tokenizer, and the token sequences it is trained on.

Heavy: imports tokenizers and transformers at the top. Only the base model's training and tests import it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from langgraph_learnloop.curation.variation import CLOSED, chance_of_new, overlap
from langgraph_learnloop.demo import chat, words

Rows = Sequence[Mapping[str, Any]]
Results = Callable[[Mapping[str, Any]], str]
"""Says what a row's tool would answer."""
Part = tuple[str, bool]
"""A piece of a sequence, and whether the model has to say it."""

SPLIT = r" ?[\p{L}\p{M}_]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}_]+|\s+"
"""Cuts text before BPE: a word carries its space, and a tool's or argument's name may become one token."""

_ERRORS = (
    "Error: {tool} is not a valid tool, try one of [{other}].",
    "Error: {other}",
    "Error invoking tool '{tool}' with error: {other}",
    "Error invoking tool '{tool}' with kwargs {args} with error: Field required",
)


@dataclass(frozen=True)
class Mixture:
    """How training sequences are made from rows."""

    varied: float = 0.7
    """Share of the rows whose values are replaced."""
    made_up: float = 0.5
    """Share of the replaced values that are invented words."""
    drills: float = 0.4
    """Share of copy drills at the start."""
    drill_steps: float = 0.5
    """Share of the run in which the drills fade to none."""
    commands: float = 0.15
    """Share of spelled-out commands: an invented tool with invented arguments, all named in the request."""
    noise: float = 0.1
    """Share of the requests with some unrelated words before or after them."""
    answers: float = 0.15
    """Share of the rows of which not the request is shown but the tool's result, to be repeated."""


@dataclass(frozen=True)
class TokenSequence:
    """One training sequence: token ids, and which of them the model has to say."""

    ids: list[int]
    said: list[bool]


def build_tokenizer(rows: Rows, vocabulary: int, language: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocabulary` tokens on rows and words, with the chat's tokens and template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(chat.SPECIAL) - len(chat.GLUE),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(rows, language), trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in chat.SPECIAL])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in chat.GLUE])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=chat.PAD,
        eos_token=chat.END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.chat_template = chat.TEMPLATE
    return tokenizer


def _corpus(rows: Rows, language: Sequence[str]) -> Iterator[str]:
    for row in rows:
        yield " " + row["text"]
        yield row["tool"]
        yield from row["args"]
    for word in language:  # often enough to become one token, as a word and inside a name
        yield from [f" {word}"] * 50 + [word] * 10


class Mentions:
    """The values each argument took in some rows, to draw other values from."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], language: Sequence[str] = ()) -> None:
        """Collect the values of `rows` by tool and argument; new values may also be made of words of `language`."""
        self._values: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in rows:
            for name, value in row["args"].items():
                self._values[row["tool"], name].extend(_as_texts(value))
        self._closed = {slot for slot, values in self._values.items() if chance_of_new(values) < CLOSED}
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


def _as_texts(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value])]


def _spans(text: str, args: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Find where each single value stands in the text, in order, leaving out those that are not clear."""
    found: dict[str, tuple[int, int]] = {}
    for name, value in args.items():
        places = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)]
        if len(places) == 1 and not isinstance(value, list):
            found[name] = places[0]
    return sorted((*span, name) for name, span in found.items() if sum(overlap(span, o) for o in found.values()) == 1)


class SequenceMaker:
    """Draws training sequences from rows: requests with their calls, copy drills, results with their answers."""

    def __init__(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerFast,
        mixture: Mixture,
        seed: int,
        results: Results | None = None,
        language: Sequence[str] = (),
    ) -> None:
        """Collect the values of `rows`; `results` says what a tool answers (default: any words)."""
        self._rows, self._tokenizer, self._mixture, self._results = rows, tokenizer, mixture, results
        self._mentions = Mentions(rows, language)
        own = sorted({word for row in rows for word in str(row["text"]).split()})
        self._plain = [word for word in language or own if word.isalpha() and word.islower()]
        self._words = [pool for pool in (own, language) if pool]
        self._rng = words.seeded(f"sequences {seed}")
        self._order: list[int] = []

    def draw(self, n: int, done: float) -> list[TokenSequence]:
        """Draw `n` sequences for the moment when the share `done` (0..1) of the training is over."""
        return encode([self._parts(done) for _ in range(n)], self._tokenizer)

    def _parts(self, done: float) -> list[Part]:
        drills = self._mixture.drills * max(0.0, 1 - done / self._mixture.drill_steps)
        if self._rng.random() < drills:
            return answer_parts(self._phrase())
        if self._rng.random() < self._mixture.commands:
            return call_parts(self._command())
        row = self._next_row()
        return self._answer(row) if self._rng.random() < self._mixture.answers else call_parts(self._noisy(row))

    def _next_row(self) -> Mapping[str, Any]:
        """Take the next row of a shuffled pass over all of them, mostly with other values."""
        if not self._order:
            self._order = list(range(len(self._rows)))
            self._rng.shuffle(self._order)
        row = self._rows[self._order.pop()]
        varied = self._rng.random() < self._mixture.varied
        return self._mentions.vary(row, self._rng, self._mixture.made_up) if varied else row

    def _command(self) -> Mapping[str, Any]:
        """Invent a request that names its tool and arguments: it teaches to say any name and to copy any value."""
        names = [self._name() for _ in range(self._rng.randint(2, 4))]
        args = {name: self._value() for name in names[1:]}
        asked = " and ".join(f"({name}) {value}" for name, value in args.items())
        return {"text": f"use ({names[0]}) with {asked}", "tool": names[0], "args": args}

    def _name(self) -> str:
        return "_".join(self._rng.choice(self._plain) for _ in range(self._rng.choice((1, 2))))

    def _value(self) -> str | int:
        if self._rng.random() < 0.3:
            return self._rng.randint(0, 120)
        return " ".join(self._word() for _ in range(self._rng.choice((1, 1, 2, 3))))

    def _noisy(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say, now and then, some words before or after a request that have nothing to do with it."""
        if self._rng.random() >= self._mixture.noise:
            return row
        aside = " ".join(self._rng.choice(self._plain) for _ in range(self._rng.randint(1, 3)))
        return {**row, "text": f"{aside}, {row['text']}" if self._rng.random() < 0.5 else f"{row['text']}, {aside}"}

    def _answer(self, row: Mapping[str, Any]) -> list[Part]:
        if self._rng.random() < 0.1:
            error = self._rng.choice(_ERRORS).format(tool=row["tool"], args=row["args"], other=self._phrase())
            return answer_parts(error, chat.APOLOGY)
        return answer_parts(self._results(row) if self._results and self._rng.random() < 0.5 else self._phrase())

    def _phrase(self) -> str:
        """Compose something to repeat: the text of a row, or words in no order."""
        if self._rng.random() < 0.3:
            return str(self._rng.choice(self._rows)["text"]).strip()
        return " ".join(self._word() for _ in range(self._rng.randint(2, 7)))

    def _word(self) -> str:
        kind = self._rng.random()
        if kind < 0.3:
            return words.made_up(self._rng)
        if kind < 0.4:
            return str(self._rng.randint(1, 10 ** self._rng.randint(1, 4)))
        return self._rng.choice(self._rng.choice(self._words))


def call_parts(row: Mapping[str, Any]) -> list[Part]:
    """Write a request and its call."""
    call = chat.render_call(row["tool"], row["args"])
    return [(f"{chat.USER} {row['text']}{chat.END}{chat.ASSISTANT}", False), (f"{call}{chat.END}", True)]


def answer_parts(result: str, answer: str | None = None) -> list[Part]:
    """Write a tool's result and the answer to the user, which is the same sentence if none is given."""
    said = f" {result if answer is None else answer}{chat.END}"
    return [(f"{chat.TOOL} {result}{chat.END}{chat.ASSISTANT}", False), (said, True)]


def encode(sequences: Sequence[Sequence[Part]], tokenizer: PreTrainedTokenizerFast) -> list[TokenSequence]:
    """Turn parts into token ids; cutting between parts changes no token, since a special token stands there."""
    texts = [text for parts in sequences for text, _ in parts]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    made = []
    for parts in sequences:
        pieces = [(next(ids), said) for _, said in parts]
        made.append(
            TokenSequence([i for piece, _ in pieces for i in piece], [said for piece, said in pieces for _ in piece])
        )
    return made
