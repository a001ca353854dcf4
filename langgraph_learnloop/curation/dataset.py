"""Write a version of what is to be learned as JSON lines, with no held-out request in the training part."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

from pydantic import ValidationError

from langgraph_learnloop.curation.split import NEAR_DUPLICATE, assign
from langgraph_learnloop.curation.texts import normal, request, similarities, vectors
from langgraph_learnloop.curation.variation import Values, vary
from langgraph_learnloop.errors import DataError, StoreError, needing
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.records import Dataset, Example, content_hash

with needing("Curation"):
    import numpy as np

_MADE_HERE = ("variation", "replay")


def build(
    corrections: Sequence[Example],
    replay_pool: Sequence[Example],
    *,
    folder: str | Path,
    parent: Dataset | None = None,
    heldout: float = 0.25,
    variations: int = 8,
    replay_ratio: float = 3.0,
    retention: int = 30,
    seed: int = 0,
    now: datetime | None = None,
) -> tuple[Dataset, tuple[Example, ...]]:
    """Write a dataset version to `folder` and return it with its examples.

    It holds the corrections that review approved or edited (and the parent's, on the side they had), `variations` of
    each one in training, `replay_ratio` replayed examples for each of those, taken in turn from every category of the
    pool, and up to `retention` held-out cases a category of what must not get worse. Pool examples with a split keep
    it. What would leak is dropped and counted under "dropped": training examples with a held-out request, and
    retention cases with a corrected one. The version is a content hash, so the same input writes one file, once.
    Raises StoreError when the folder cannot be written.
    """
    earlier = read(parent.path) if parent is not None else ()
    learned = assign(_reviewed(corrections, earlier), heldout=heldout, seed=seed)
    trained = [e for e in learned if e.split == "train"]
    pool = _as_replay(replay_pool, earlier)
    guard = _Guard()

    kept = guard.apart(_retained(pool, retention, heldout, seed), trained)
    held = [*(e for e in learned if e.split != "train"), *kept]
    replays = guard.apart(_trainable(pool, held), held)
    drawn = _in_turn(replays, math.ceil(replay_ratio * len(trained)), seed)
    values = Values.of([*trained, *drawn])
    varied = guard.apart([v for e in trained for v in vary(e, values, variations, seed)], held)

    examples = _sorted_once([*learned, *kept, *drawn, *varied])
    return _stored(examples, folder, parent, now, guard.dropped), examples


def keep(examples: Sequence[Example], *, folder: str | Path, now: datetime | None = None) -> Dataset:
    """Write examples of what works as a dataset of its own: a pool for `build` to replay from.

    Examples marked "heldout" stay so; those without a split stay undecided until `build` decides. Raises StoreError
    when the folder cannot be written.
    """
    return _stored(_sorted_once(_as_replay(examples, ())), folder, None, now, Counter())


def keep_as_it_is(examples: Sequence[Example], *, folder: str | Path, now: datetime | None = None) -> Dataset:
    """Write examples, with the splits they have, as a dataset; raise StoreError when the folder cannot be written."""
    return _stored(_sorted_once(examples), folder, None, now, Counter())


def read(path: str | Path) -> tuple[Example, ...]:
    """Read the examples of a dataset file; raise DataError with the line number when one is not usable."""
    return tuple(_parsed(line, path, number) for number, line in _lines(path))


def heldout(path: str | Path) -> Iterator[Example]:
    """Yield the held-out examples of a dataset file one by one, without the cost of reading the others."""
    for number, line in _lines(path):
        if "heldout" in line and (example := _parsed(line, path, number)).split == "heldout":
            yield example


def _lines(path: str | Path) -> list[tuple[int, str]]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The dataset file {str(path)!r} cannot be read: {error}. Build the dataset again.") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(line: str, path: str | Path, number: int) -> Example:
    where = f"Line {number} of the dataset file {str(path)!r}"
    try:
        return Example.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where} is no example: {field}: {first['msg']}. Build the dataset again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}. Build the dataset again.") from error


def _reviewed(corrections: Iterable[Example], earlier: Iterable[Example]) -> list[Example]:
    new = [e for e in corrections if e.review in ("approved", "edited")]
    old = [e for e in earlier if e.origin not in _MADE_HERE]
    return list({e.example_id: e for e in (*new, *old)}.values())


def _as_replay(pool: Iterable[Example], earlier: Iterable[Example]) -> list[Example]:
    replayed = [e.model_copy(update={"origin": "replay", "rejected": None}) for e in pool]
    old = [e for e in earlier if e.origin == "replay"]
    return list({e.example_id: e for e in (*replayed, *old)}.values())


def _retained(pool: Sequence[Example], most: int, share: float, seed: int) -> list[Example]:
    """Choose the retention cases: those the pool marks, or a share of each category where it marks none."""
    chosen: list[Example] = []
    for members in _by_category(pool, seed).values():
        marked = [e for e in members if e.split == "heldout"]
        free = [e for e in members if e.split is None]
        take = marked or free[: math.floor(share * len(free))]
        chosen.extend(e.model_copy(update={"split": "heldout"}) for e in take[:most])
    return chosen


def _trainable(pool: Sequence[Example], held: Sequence[Example]) -> list[Example]:
    """Return the pool's training part; what shares a thread or run with a held-out example is not in it."""
    shut = {key for e in held for key in (e.group, e.run_id) if key is not None}
    ids = {e.example_id for e in held}
    free = (e for e in pool if e.split in (None, "train") and e.example_id not in ids)
    return [e.model_copy(update={"split": "train"}) for e in free if e.group not in shut and e.run_id not in shut]


def _in_turn(pool: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Draw one of each category in turn: a rare tool that is not replayed is forgotten while the average hides it."""
    by_category = _by_category(pool, seed)
    rounds = zip_longest(*by_category.values())
    return [e for turn in rounds for e in turn if e is not None][: max(count, len(by_category)) if count else 0]


def _by_category(examples: Iterable[Example], seed: int) -> dict[str, list[Example]]:
    """Group by category, each in an order that depends on the seed and not on the input."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda e: content_hash([seed, e.example_id])):
        groups[example.category].append(example)
    return dict(sorted(groups.items()))


class _Guard:
    """Drop the examples whose request is, or nearly is, one on the other side, and count them."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()

    def apart(self, examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
        """Return the examples that have no near-duplicate among `others`."""
        if not examples or not others:
            return list(examples)
        known = {normal(request(e)) for e in others}
        mine, theirs = (vectors([request(e) for e in side]) for side in (examples, others))
        close = np.concatenate([block.max(axis=1) >= NEAR_DUPLICATE for _, block in similarities(mine, theirs)])
        leaks = [bool(near) or normal(request(e)) in known for e, near in zip(examples, close, strict=True)]
        self.dropped.update(e.origin for e, leak in zip(examples, leaks, strict=True) if leak)
        return [e for e, leak in zip(examples, leaks, strict=True) if not leak]


def _sorted_once(examples: Sequence[Example]) -> tuple[Example, ...]:
    once: dict[str, Example] = {}
    for example in examples:
        once.setdefault(example.example_id, example)
    return tuple(example for _, example in sorted(once.items(), key=lambda item: (item[1].origin, item[0])))


def _stored(
    examples: Sequence[Example], folder: str | Path, parent: Dataset | None, now: datetime | None, dropped: Counter[str]
) -> Dataset:
    version = content_hash(sorted([e.example_id, str(e.split), e.origin] for e in examples))
    dataset = Dataset(
        version=version,
        parent=parent.version if parent is not None else None,
        counts=_counts(examples, dropped),
        path=str(Path(folder) / f"{version}.jsonl"),
        made_at=now or datetime.now(UTC),
    )
    _write(Path(dataset.path), examples)
    return dataset


def _counts(examples: Sequence[Example], dropped: Counter[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for example in examples:
        sides = counts[example.origin]
        side = example.split or "undecided"
        sides[side] = sides.get(side, 0) + 1
    for origin, count in dropped.items():
        counts[origin]["dropped"] = count
    return dict(counts)


def _write(path: Path, examples: Sequence[Example]) -> None:
    """Write the file whole or not at all; leave it alone when it is there already."""
    data = "".join(json.dumps(e.model_dump(mode="json"), ensure_ascii=False) + "\n" for e in examples).encode()
    try:
        if path.exists() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise StoreError(
            f"The dataset {path.name!r} cannot be written to {str(path.parent)!r}: {error.strerror or error}. "
            "Make room there or give the loop another folder."
        ) from error
