"""Compare requests: normalised text for "the same", hashed character n-grams for "similar"."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from langgraph_learnloop.errors import DataError, needing
from langgraph_learnloop.records import Example, Message

with needing("Comparing requests"):
    import numpy as np
    from numpy.typing import NDArray

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


def vectors(texts: Sequence[str], width: int = _WIDTH) -> Vectors:
    """Return one L2-normalised row for each text: shape (len(texts), width).

    Hashed character n-grams of 3 to 5 within words, stateless and so comparable for ever. A text without a word has a
    row of zeros.
    """
    if not texts:
        return np.zeros((0, width), dtype=np.float32)
    with needing("Comparing requests"):
        from sklearn.feature_extraction.text import HashingVectorizer
    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=width, norm="l2", dtype=np.float32)
    return cast(Vectors, hashing.transform([normal(text) for text in texts]).toarray())


def hashed(texts: Sequence[str]) -> Vectors:
    """Return rows that find what is alike as well as wider ones do, in a quarter of the space: (len(texts), 512)."""
    return vectors(texts, 512)


def of_length_one(embed: Callable[[list[str]], Sequence[Sequence[float]]], texts: Sequence[str]) -> Vectors:
    """Return what somebody's embeddings make of texts, in rows of length 1; DataError where that cannot be used.

    What has no direction, because there was nothing to embed or they made zeros of it, is a row of zeros.
    """
    asked = [i for i, text in enumerate(texts) if text.strip()]
    if not asked:
        return np.zeros((len(texts), 1), dtype=np.float32)
    found = _numbers(embed([texts[i] for i in asked]), len(asked))
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    rows = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    rows[asked] = found / np.where(lengths == 0, 1, lengths)
    return rows


def _numbers(made: object, count: int) -> Vectors:
    try:
        found = np.asarray(made, dtype=np.float32)
    except (TypeError, ValueError):  # lists of different lengths, or no numbers
        found = np.zeros(0, dtype=np.float32)
    if found.ndim != 2 or len(found) != count or not np.isfinite(found).all():
        raise DataError(
            f"The embeddings cannot be used: for {count} texts they gave something else than {count} lists of finite "
            "numbers, each as long as the others. Take embeddings whose embed_documents() does."
        )
    return found


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


def components(size: int, pairs: Iterator[tuple[int, int]]) -> list[list[int]]:
    """Return `size` items as the groups that are joined through `pairs`, each group and all of them in order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = np.array([*pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(size, size))
    groups: dict[int, list[int]] = defaultdict(list)
    for item, label in enumerate(connected_components(graph, directed=False)[1]):
        groups[label].append(item)
    return list(groups.values())


def _normal_value(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return sorted((key, _normal_value(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_normal_value(item) for item in value]
    return value
