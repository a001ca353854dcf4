"""What a job trains on is read row by row, and drawn from it by the recipe."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.examples import draw, problems, read_examples, read_splits
from langgraph_learnloop.records import Example, Message, Recipe, ToolCall


def example(question: str, answer: str = "Yes.", tool: str | None = None, **facts: Any) -> Example:
    """Return an example by a question and what is right: a text, or a call of a tool."""
    right = {"content": answer} if tool is None else {"tool_calls": (ToolCall(name=tool),)}
    chosen = Message(role="assistant", **right)  # type: ignore[arg-type]
    return Example(messages=(Message(role="user", content=question),), chosen=chosen, **facts)


def rows(path: Path, *examples: Example) -> Path:
    """Write examples as JSON lines."""
    path.write_text("".join(f"{one.model_dump_json()}\n\n" for one in examples), encoding="utf-8")
    return path


def test_rows_are_read_by_split(tmp_path: Path) -> None:
    """Blank lines do not count."""
    train, held = (example(split, origin="correction", split=split) for split in ("train", "heldout"))
    path = rows(tmp_path / "rows.jsonl", train, held)
    assert read_examples(path) == [train]
    assert read_splits(path)["heldout"] == [held]


def test_rows_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    """A broken line is named with its field; so is a dataset that only examines."""
    path = rows(tmp_path / "rows.jsonl", example("a", origin="correction", split="heldout"))
    with pytest.raises(DataError, match="no examples whose split is 'train'"):
        read_examples(path)
    path.write_text('\n{"origin": "correction"}\n')
    with pytest.raises(DataError, match=r"Line 2 of the dataset .* is not an example: messages Field required"):
        read_examples(path)


def test_every_category_is_replayed_alike() -> None:
    """In the recipe's proportion to what is new, variations left out of account; the same seed draws the same."""
    new = [example(f"new {number}", origin="correction") for number in range(4)]
    varied = [example(f"varied {number}", origin="variation") for number in range(8)]
    pool = [
        example(f"{tool} {n}", tool=tool, origin="replay")
        for tool in ("a", "b", "rare")
        for n in range(2 if tool == "rare" else 20)
    ]
    drawn = draw([*new, *varied, *pool], recipe := Recipe(replay=2.0))
    assert drawn[:12] == [*new, *varied]
    assert Counter(one.category for one in drawn[12:]) == {"a": 3, "b": 3, "rare": 2}
    assert draw([*new, *varied, *pool], recipe) == drawn
    assert draw([*new, *varied, *pool], Recipe(replay=0.0, variations=False)) == new


def test_a_recipe_that_takes_nothing_is_refused() -> None:
    """The sentence says what to change."""
    with pytest.raises(DataError, match="set its replay or variations"):
        draw([example("a", origin="replay"), example("b", origin="variation")], Recipe(replay=0.0, variations=False))


def test_what_teaches_nothing_good_is_said() -> None:
    """Too few corrections, or one answer to everything with nothing beside it; neither where both are well."""
    same = [example(str(number), origin="correction") for number in range(8)]
    assert "always" in problems(same, Recipe())[0]
    assert problems([*same, example("old", "No.", origin="replay")], Recipe()) == ()
    assert problems([example(str(number), str(number), origin="correction") for number in range(8)], Recipe()) == ()
    (few,) = problems(same[:3], Recipe(), least=8)
    assert few.startswith("There are 3 corrections")
