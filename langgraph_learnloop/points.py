"""Check where runs lie before an index takes them, and name each point after its run."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Sequence

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import RunPoint
from langgraph_learnloop.texts import quoted

_NAMES = uuid.UUID("5d0a3a5e-6f0c-5d5f-9a55-3b1f2c7d8e90")
"""What the ids of points are made in; another one would add every run a second time."""


def point_id(agent: str, run_id: str) -> str:
    """Return a point's id as a UUID: always the same for a run of an agent, so that adding twice replaces."""
    return str(uuid.uuid5(_NAMES, f"{len(agent)}:{agent}{run_id}"))


def space_id(space: str) -> str:
    """Return a name for a space that every file system and every server takes: 16 hexadecimal digits."""
    return hashlib.sha256(space.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def unit(vector: Sequence[float], whose: str) -> list[float]:
    """Return a vector with the length 1; raise DataError, which says whose it is, where it has no direction."""
    try:
        numbers = [float(number) for number in vector]
    except (TypeError, ValueError) as error:
        raise DataError(f"The vector of {whose} does not hold numbers alone ({error}): leave that run out.") from None
    length = math.hypot(*numbers)
    if not 0 < length < math.inf:
        raise DataError(
            f"The vector of {whose} has no direction: one that is empty, all zeros, infinite or not a number is like "
            "nothing. Leave that run out, or use other embeddings."
        )
    if length < 1e-300:  # the smallest numbers that a float has divide badly
        return unit([number * 1e300 for number in numbers], whose)
    return numbers if abs(length - 1) < 1e-9 else [number / length for number in numbers]


def units(space: str, points: Sequence[RunPoint]) -> list[list[float]]:
    """Return the vectors of some points with the length 1, all of one size; raise DataError before anything is kept."""
    rows = []
    for point in points:
        for text in (point.run_id, point.agent):
            if not text.isprintable() and not _is_text(text):
                raise DataError(f"The id {quoted(text)} holds half a character: give the run another one.")
        rows.append(unit(point.vector, f"the run {quoted(point.run_id)}"))
    for point, row in zip(points, rows, strict=True):
        same_length(space, len(rows[0]), len(row), f"the run {quoted(point.run_id)}")
    return rows


def same_length(space: str, length: int, got: int, whose: str) -> None:
    """Raise DataError for a vector of another length than those of its space."""
    if got != length:
        raise DataError(
            f"The vector of {whose} has {got:,} numbers, and those of the space {quoted(space)} have {length:,}: name "
            "another space for other embeddings."
        )


def at_least_one(limit: int) -> None:
    """Raise DataError for a number of points that is none."""
    if limit < 1:
        raise DataError(f"{limit} nearest runs cannot be looked for: ask for at least 1.")


def within(cosine: float) -> float:
    """Return a cosine that rounding has not carried beyond -1 or 1."""
    return max(-1.0, min(1.0, cosine))


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
