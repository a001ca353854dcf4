"""Compare requests: normalised text for "the same", hashed character n-grams for "similar"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from langgraph_learnloop.errors import MissingExtraError, needing
from langgraph_learnloop.records import Example, Message

with needing("Comparing requests"):
    import numpy as np
    from numpy.typing import NDArray

Embed = Callable[[list[str]], Sequence[Sequence[float]]]
"""Turns texts into vectors, e.g. the `embed_documents` of a LangChain embedding."""
Vectors = NDArray[np.float32]

_WIDTH = 2048
_ROWS = 512
"""Rows compared at a time: 5,000 texts then need 10 MB for similarities, not 100."""


def request(example: Example) -> str:
    """Return the text of the last user message; empty when nobody asked anything."""
    return next((m.content for m in reversed(example.messages) if m.role == "user"), "")


def normal(text: str) -> str:
    """Return the text in lower case without punctuation and with single spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def context(example: Example) -> tuple[str, ...]:
    """Return what was said before the request, normalised; the agent's own instructions are left out."""
    said = [f"{m.role} {normal(m.content)} {[(c.name, c.args) for c in m.tool_calls]}" for m in example.messages]
    last = max((i for i, m in enumerate(example.messages) if m.role == "user"), default=-1)
    return tuple(text for i, text in enumerate(said) if i != last and example.messages[i].role != "system")


def answer_key(message: Message) -> str:
    """Return an answer in a form in which call ids, case and spacing make no difference."""
    if message.tool_calls:
        return repr([(call.name, _normal_value(call.args)) for call in message.tool_calls])
    return " ".join(message.content.casefold().split())


def vectors(texts: Sequence[str], embed: Embed | None = None) -> Vectors:
    """Return one L2-normalised row for each text: shape (len(texts), width).

    Without `embed`: hashed character n-grams of 3 to 5 within words, 2,048 wide, stateless and so comparable for ever.
    """
    if not texts:
        return np.zeros((0, _WIDTH), dtype=np.float32)
    raw = np.asarray(embed(list(texts)), dtype=np.float32) if embed else _hashed([normal(text) for text in texts])
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    return cast(Vectors, raw / np.where(length > 0, length, 1))


def similarities(left: Vectors, right: Vectors) -> Iterator[tuple[int, Vectors]]:
    """Yield (first row, block of cosines) with a block for every 512 rows of `left` against all of `right`."""
    for start in range(0, len(left), _ROWS):
        yield start, left[start : start + _ROWS] @ right.T


def similar_pairs(rows: Vectors, at_least: float) -> Iterator[tuple[int, int]]:
    """Yield the pairs i < j whose cosine is at least `at_least`."""
    for start, block in similarities(rows, rows):
        for i, j in np.argwhere(block >= at_least):
            if start + i < j:
                yield int(start + i), int(j)


def components(size: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """Return for each of `size` items the smallest item it is joined with through `pairs` (union-find)."""
    parent = list(range(size))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(item) for item in range(size)]


def _hashed(texts: list[str]) -> Vectors:
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise MissingExtraError(
            'Comparing requests needs scikit-learn: pip install "langgraph-learnloop[loop]".'
        ) from error
    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=_WIDTH, norm="l2", dtype=np.float32)
    return cast(Vectors, hashing.transform(texts).toarray())


def _normal_value(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return sorted((key, _normal_value(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_normal_value(item) for item in value]
    return value
