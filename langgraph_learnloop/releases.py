"""What a release is made of: another one drafted from it, and how two of them differ.

`LearnLoop`'s verbs `draft` and `diff` end here.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.errors import DataError, NotFoundError
from langgraph_learnloop.lessons import Lessons
from langgraph_learnloop.records import Dataset, Example, Gate, Message, Release, Rollout, Sampling
from langgraph_learnloop.store.opened import Store

_MADE_OF = ("base_model", "adapter_sha256", "dataset", "parent")


class Change(NamedTuple):
    """One field in which two releases differ."""

    field: str
    """Its name, with a dot where it is part of another: "sampling.temperature"."""
    one: str
    """What the one has."""
    other: str
    """What the other has."""


class Served(NamedTuple):
    """A time in which a release served."""

    at: datetime
    """When it began."""
    until: datetime | None
    """When it ended; None while it goes on."""
    percent: int
    """The share of the new threads that it got, the largest of a rollout's."""
    because: str
    """Why it came to that; of a rollout, why it stands where it does."""


class ReleaseDiff(NamedTuple):
    """How one release differs from another."""

    one: Release
    other: Release
    changed: tuple[Change, ...]
    """Fields that differ; words, shots and knowledge are below."""
    instructions: str
    """A unified diff of the instructions; "" where they are the same."""
    shots_added: tuple[Message, ...]
    shots_removed: tuple[Message, ...]
    knowledge_added: tuple[str, ...]
    knowledge_removed: tuple[str, ...]
    examples_added: dict[str, int] | None
    """Examples that only the other learned from, by origin; None where a dataset is not in the store any more."""
    examples_removed: dict[str, int] | None
    """Examples that only the one learned from."""
    gates: tuple[tuple[str, Gate | None, Gate | None], ...]
    """The gates of both scorecards by name; None where a side was not asked that."""
    served: tuple[tuple[Served, ...], tuple[Served, ...]]
    """When each served, oldest first."""


def drafted(
    champion: Release,
    *,
    instructions: str | None = None,
    shots: Sequence[Message] | None = None,
    knowledge: Sequence[str] | None = None,
    model: str | None = None,
    sampling: Sampling | None = None,
    dataset: Dataset | None = None,
    now: datetime,
) -> Release:
    """Return a candidate with other words than the champion; None keeps what the champion has, empty takes it away.

    Raise DataError with the way out when it cannot be made, or would be the champion over again.
    """
    given = {"instructions": instructions, "shots": shots, "knowledge": knowledge, "sampling": sampling}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if instructions is not None:
        changed["instructions"] = instructions.strip() or None
    if model is not None and model != champion.base_model:  # an adapter fits the model that it was trained on
        changed |= {"base_model": model, "adapter": None, "adapter_sha256": None, "recipe": None, "dataset": None}
    if dataset is not None:
        changed["dataset"] = dataset.version
    before = {name: getattr(champion, name) for name in Release.model_fields}
    made = _made({**before, **changed, "parent": champion.release_id, "made_at": now})
    if made.model_copy(update={"parent": champion.parent, "dataset": champion.dataset}) == champion.model_copy(
        update={"made_at": now}
    ):
        raise DataError(
            f"The draft is the champion {champion.release_id!r} over again: give other instructions, shots, knowledge, "
            "sampling or another model."
        )
    return made


def _made(fields: dict[str, Any]) -> Release:
    try:
        return Release.model_validate(fields)
    except ValidationError as error:
        said = error.errors()[0]
        where, msg = "".join(f"{part}: " for part in said["loc"][:1]), said["msg"].removeprefix("Value error, ")
        raise DataError(f"The draft cannot be made: {where}{msg}. Mend that argument.") from error


def diff(store: Store, lessons: Lessons, one: Release, other: Release) -> ReleaseDiff:
    """Return how a release differs from another one, in what it is, was taught, showed and did."""
    learned = _learned(store, lessons, one), _learned(store, lessons, other)
    known = None not in learned
    return ReleaseDiff(
        one=one,
        other=other,
        changed=tuple(_changes(one, other)),
        instructions=_text_diff(one, other),
        shots_added=_without(other.shots, one.shots),
        shots_removed=_without(one.shots, other.shots),
        knowledge_added=_without(other.knowledge, one.knowledge),
        knowledge_removed=_without(one.knowledge, other.knowledge),
        examples_added=_only(learned[1] or {}, learned[0] or {}) if known else None,
        examples_removed=_only(learned[0] or {}, learned[1] or {}) if known else None,
        gates=_side_by_side(store, one, other),
        served=(_served(store, one), _served(store, other)),
    )


def _changes(one: Release, other: Release) -> Iterator[Change]:
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in _MADE_OF]
    for part in ("sampling", "recipe"):
        left, right = ({} if (it := getattr(side, part)) is None else it.model_dump() for side in (one, other))
        pairs += [(f"{part}.{name}", left.get(name), right.get(name)) for name in left | right]
    yield from (Change(name, _told(left), _told(right)) for name, left, right in pairs if left != right)


def _told(value: Any) -> str:
    return "none" if value is None else str(value)


def _text_diff(one: Release, other: Release) -> str:
    before, after = ((release.instructions or "").splitlines() for release in (one, other))
    return "\n".join(difflib.unified_diff(before, after, one.release_id, other.release_id, lineterm=""))


def _without(these: Iterable[Any], those: Iterable[Any]) -> tuple[Any, ...]:
    there = list(those)  # messages hold arguments, which have no hash
    return tuple(one for one in these if one not in there)


def _learned(store: Store, lessons: Lessons, release: Release) -> dict[str, Example] | None:
    """Return what a release learned from, by id; None when that is not known any more."""
    if release.dataset is None:
        return {}
    try:
        examples = lessons.examples(store.datasets.get(release.dataset))
    except (NotFoundError, DataError, OSError):
        return None
    return {example.example_id: example for example in examples}


def _only(these: dict[str, Example], those: dict[str, Example]) -> dict[str, int]:
    return dict(Counter(example.origin for example_id, example in these.items() if example_id not in those))


def _side_by_side(store: Store, one: Release, other: Release) -> tuple[tuple[str, Gate | None, Gate | None], ...]:
    cards = [store.scorecards.of(release.release_id) for release in (one, other)]
    sides = [{gate.name: gate for gate in (card.gates if card is not None else ())} for card in cards]
    return tuple((name, sides[0].get(name), sides[1].get(name)) for name in sides[0] | sides[1])


def _served(store: Store, release: Release) -> tuple[Served, ...]:
    """Return when a release served: as the champion, and to some of the threads in its rollouts."""
    history = store.releases.history()
    ends = [entry.at for entry in history[1:]] + [None]
    alone = [
        Served(entry.at, end, 100, entry.because)
        for entry, end in zip(history, ends, strict=True)
        if entry.release_id == release.release_id
    ]
    rollouts = (one for one in store.rollouts.all() if one.candidate == release.release_id)
    some = [
        Served(one.started_at, None if one.open else one.stage_at, share, one.because)
        for one in rollouts
        if (share := _largest(one))
    ]
    return tuple(sorted((*alone, *some), key=lambda served: served.at))


def _largest(rollout: Rollout) -> int:
    """Return the largest share that a rollout's candidate had; all of them is the champion's own entry."""
    shares = [percent for _, percent in rollout.past]
    return max((*shares, 0 if rollout.state == "live" else rollout.percent), default=0)
