"""Read a dataset and draw what one job trains on, wherever that is done.

Light: a broken row is found before anything heavy is imported, and before anything is sent anywhere.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Example, Recipe, Split

_ONE_ANSWER = 0.8
"""Share of the corrections that may give one and the same answer."""


def read_examples(path: str | Path) -> list[Example]:
    """Return the training examples of a JSON-lines file; raise DataError with the line that is malformed."""
    return read_splits(path)["train"]


def read_splits(path: str | Path) -> dict[Split | None, list[Example]]:
    """Return the examples of a JSON-lines file by split; raise DataError with the line that is malformed.

    A file without training examples is refused as well.
    """
    examples = read_all(path)
    if not examples["train"]:
        raise DataError(f"The dataset {str(path)!r} has no examples whose split is 'train'; curate some first.")
    return examples


def read_all(path: str | Path) -> dict[Split | None, list[Example]]:
    """Return the examples of a JSON-lines file by split, whatever splits there are; raise DataError, naming a line."""
    examples: dict[Split | None, list[Example]] = defaultdict(list)
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            example = Example.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"Line {number} of the dataset {str(path)!r} is not an example: {where} {first['msg']}. "
                "Build the dataset again, or mend the line."
            ) from error
        examples[example.split].append(example)
    return examples


def draw(examples: Sequence[Example], recipe: Recipe) -> list[Example]:
    """Return the new examples, and replayed ones in the recipe's proportion, every category as evenly as possible."""
    new = [e for e in examples if e.origin != "replay" and (recipe.variations or e.origin != "variation")]
    wanted = round(recipe.replay * sum(e.origin != "variation" for e in new))
    pool: dict[str, list[Example]] = {}
    for example in examples:
        if example.origin == "replay":
            pool.setdefault(example.category, []).append(example)
    drawn = _evenly(pool, wanted, random.Random(recipe.seed))
    if not new and not drawn:
        raise DataError(
            "The dataset holds only replayed examples or variations, and the recipe takes none of them: curate some "
            "corrections, or set its replay or variations."
        )
    return new + drawn


def problems(examples: Sequence[Example], recipe: Recipe, least: int = 8) -> tuple[str, ...]:
    """Return why nothing good would come of learning from these by the recipe; a sentence each, none for good ones."""
    new = [e for e in examples if e.origin not in ("replay", "variation")]
    found: list[str] = []
    if len(new) < least:
        found.append(
            f"There are {len(new)} corrections to train on, and fewer than {least} teach little but themselves: "
            "collect more, or lower least_corrections."
        )
    answers = Counter(e.chosen.model_dump_json() for e in new)
    alone = not recipe.replay or all(e.origin != "replay" for e in examples)
    if alone and new and (most := max(answers.values())) > max(_ONE_ANSWER * len(new), 3):
        found.append(
            f"{most} of {len(new)} corrections give the very same answer, nothing is replayed beside them, and the "
            "model would learn to give it always: correct other requests too, or remember what it does well."
        )
    return tuple(found)


def _evenly(pool: dict[str, list[Example]], wanted: int, rng: random.Random) -> list[Example]:
    """Draw one of each category in turn until enough are drawn or the pool is empty."""
    piles = [rng.sample(pool[category], len(pool[category])) for category in sorted(pool)]
    rng.shuffle(piles)  # the last, incomplete turn favours no category by its name
    turns = max((len(pile) for pile in piles), default=0)
    return [pile[turn] for turn in range(turns) for pile in piles if turn < len(pile)][:wanted]
