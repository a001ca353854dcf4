"""A dataset version holds what review let through, and never a held-out request in its training part."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import files
from langgraph_learnloop.curation.dataset import build, heldout, keep, read
from langgraph_learnloop.curation.split import NEAR_DUPLICATE
from langgraph_learnloop.curation.texts import normal, request, similarities, vectors
from langgraph_learnloop.errors import DataError, StoreError
from langgraph_learnloop.records import Dataset, Example
from tests.curation.builders import call, example

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def words(seed: object, count: int = 2) -> str:
    """Return made-up words that depend on the seed alone."""
    rng = random.Random(repr(seed))
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(count))


def corrections(count: int = 12, review: str = "approved") -> list[Example]:
    """Return reviewed corrections on requests that have little in common."""
    return [
        example(
            f"{words(i)} play {words(-i - 1)}", call("play_music", artist=words(-i - 1)), review=review, run_id=f"r{i}"
        )
        for i in range(count)
    ]


def pool(**counts: int) -> list[Example]:
    """Return approved examples: so many of each tool."""
    return [
        example(words((tool, i), 4), call(tool), origin="approved", rejected=None, tools=(), run_id=f"{tool}-{i}")
        for tool, count in counts.items()
        for i in range(count)
    ]


def made(tmp_path: Path, *args: Any, **given: Any) -> tuple[Dataset, tuple[Example, ...]]:
    """Build a dataset in the test's folder."""
    return build(*args, **{"folder": tmp_path, "now": NOW, "variations": 2, **given})


def ids(examples: Any, **wanted: Any) -> list[str]:
    """Return the ids of examples with the wanted fields."""
    return sorted(e.example_id for e in examples if all(getattr(e, k) == v for k, v in wanted.items()))


def test_only_what_review_let_through_is_learned(tmp_path: Path) -> None:
    """Approved and edited corrections are in; pending and rejected ones are not."""
    good, edited, *_ = corrections(2)
    others = [
        e.model_copy(update={"review": r}) for e, r in zip(corrections(4)[2:], ("pending", "rejected"), strict=True)
    ]
    _, examples = made(tmp_path, [good, edited.model_copy(update={"review": "edited"}), *others], [])
    assert ids(examples, origin="correction") == sorted([good.example_id, edited.example_id])


def test_the_file_holds_what_was_returned(tmp_path: Path) -> None:
    """Reading the file gives the same examples; its name is the version, its counts are true."""
    dataset, examples = made(tmp_path, corrections(), pool(lamp=20))
    assert Path(dataset.path) == tmp_path / f"{dataset.version}.jsonl"
    assert read(dataset.path) == examples
    assert dataset.counts["correction"] == {
        "train": len(ids(examples, origin="correction", split="train")),
        "heldout": len(ids(examples, origin="correction", split="heldout")),
    }
    assert dataset.made_at == NOW


def test_the_same_input_writes_one_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Input in another order is the same version, and the file is not written again."""
    new, old = corrections(), pool(lamp=20, timer=9)
    first, _ = made(tmp_path, new, old)
    monkeypatch.setattr(files.os, "replace", lambda *_: pytest.fail("the file was written again"))
    random.Random(1).shuffle(new)
    second, _ = made(tmp_path, new, old[::-1])
    assert second == first
    assert [p.name for p in tmp_path.iterdir()] == [f"{first.version}.jsonl"]


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    """A file under the right name with other content does not stay."""
    dataset, examples = made(tmp_path, corrections(), [])
    Path(dataset.path).write_text("{}\n")
    made(tmp_path, corrections(), [])
    assert read(dataset.path) == examples


def test_the_held_out_part_is_read_alone(tmp_path: Path) -> None:
    """What is held out comes one by one, and a request that merely speaks of "heldout" is not among it."""
    new = [
        *corrections(),
        example("is heldout a word", call("dictionary", word="heldout"), split="train", review="approved"),
    ]
    dataset, examples = made(tmp_path, new, [])
    assert tuple(heldout(dataset.path)) == tuple(e for e in examples if e.split == "heldout")
    assert any(e.split == "train" and "heldout" in e.messages[-1].content for e in examples)
    with pytest.raises(DataError, match="cannot be read"):
        next(heldout(tmp_path / "missing.jsonl"))


def test_a_split_is_part_of_the_version(tmp_path: Path) -> None:
    """The same examples with another split are another version."""
    assert made(tmp_path, corrections(), [], seed=1)[0].version != made(tmp_path, corrections(), [], seed=2)[0].version


def test_variations_come_from_the_training_part_only(tmp_path: Path) -> None:
    """No variation shares its run with a held-out correction, and variations=0 makes none."""
    _, examples = made(tmp_path, corrections(), [])
    held = {e.run_id for e in examples if e.split == "heldout"}
    varied = [e for e in examples if e.origin == "variation"]
    assert varied
    assert held.isdisjoint(e.run_id for e in varied)
    assert not ids(made(tmp_path, corrections(), [], variations=0)[1], origin="variation")


def test_replay_covers_every_category_evenly(tmp_path: Path) -> None:
    """A rare tool is replayed whole before a common one gets more than its turn."""
    new = corrections(12)
    _, examples = made(tmp_path, new, pool(lamp=200, timer=8, mail=60), replay_ratio=3.0, heldout=0.25)
    train = [e.category for e in examples if e.origin == "replay" and e.split == "train"]
    assert len(train) == 3 * len(ids(examples, origin="correction", split="train"))
    assert train.count("timer") == 6
    assert abs(train.count("lamp") - train.count("mail")) <= 1


def test_a_small_ratio_still_covers_every_category(tmp_path: Path) -> None:
    """However little is replayed, no tool is left out; a ratio of 0 replays nothing."""
    _, examples = made(tmp_path, corrections(), pool(lamp=30, timer=30, mail=30), replay_ratio=0.01)
    assert {e.category for e in examples if e.origin == "replay" and e.split == "train"} == {"lamp", "timer", "mail"}
    _, without = made(tmp_path, corrections(), pool(lamp=30), replay_ratio=0.0)
    assert not ids(without, origin="replay", split="train")
    assert ids(without, origin="replay", split="heldout")


def test_retention_cases_are_those_the_pool_marks(tmp_path: Path) -> None:
    """Marked pool examples are the retention cases, at most so many a category; they are never trained."""
    marked = [e.model_copy(update={"split": "heldout"}) for e in pool(lamp=15)]
    _, examples = made(tmp_path, corrections(), [*marked, *pool(timer=40)], retention=10)
    held = [e for e in examples if e.origin == "replay" and e.split == "heldout"]
    assert [e.category for e in held].count("lamp") == 10
    assert [e.category for e in held].count("timer") == 10
    assert not [e for e in examples if e.category == "lamp" and e.split == "train"]


def test_no_held_out_request_is_trained(tmp_path: Path) -> None:
    """Nothing in training is, or nearly is, a held-out request; what was dropped for that is counted."""
    new, old = corrections(16), pool(lamp=40)
    twins = [e.model_copy(update={"messages": n.messages}) for e, n in zip(pool(mail=16), new, strict=True)]
    dataset, examples = made(tmp_path, new, [*old, *twins], retention=10)
    train = [e for e in examples if e.split == "train"]
    held = [e for e in examples if e.split == "heldout"]
    assert {normal(request(e)) for e in train}.isdisjoint(normal(request(e)) for e in held)
    blocks = similarities(vectors([request(e) for e in train]), vectors([request(e) for e in held]))
    assert all((block < NEAR_DUPLICATE).all() for _, block in blocks)
    assert dataset.counts["replay"]["dropped"] > 0


def test_a_near_duplicate_of_a_held_out_request_is_not_replayed(tmp_path: Path) -> None:
    """A pool example that says a held-out request in nearly the same words is dropped."""
    asked = "would you be so kind as to put on some music by Abba for"
    case, twin, other = (
        example(t, call("lamp"), origin="approved", rejected=None) for t in (f"{asked} me", f"{asked} us", "lights off")
    )
    old = [case.model_copy(update={"split": "heldout"}), twin, other]
    dataset, examples = made(tmp_path, corrections(), old)
    assert ids(examples, origin="replay", split="train") == [other.example_id]
    assert dataset.counts["replay"]["dropped"] == 1


def test_a_thread_with_a_held_out_case_is_not_replayed(tmp_path: Path) -> None:
    """A pool example that shares a run with a held-out one is not trained."""
    old = [e.model_copy(update={"run_id": "same"}) for e in pool(lamp=8)]
    _, examples = made(tmp_path, corrections(), old)
    assert {e.split for e in examples if e.category == "lamp"} == {"heldout"}


def test_a_child_keeps_its_parents_sides(tmp_path: Path) -> None:
    """What the parent trained stays in training and what it held out stays held out, under any seed."""
    parent, before = made(tmp_path, corrections(12), pool(lamp=30))
    child, after = made(tmp_path, corrections(24)[12:], pool(lamp=60), parent=parent, seed=9)
    assert child.parent == parent.version
    for origin in ("correction", "replay"):
        for side in ("train", "heldout"):
            other = "heldout" if side == "train" else "train"
            assert set(ids(before, origin=origin, split=side)).isdisjoint(ids(after, origin=origin, split=other))
    assert set(ids(before, origin="correction")) <= set(ids(after, origin="correction"))


def test_building_on_itself_changes_nothing(tmp_path: Path) -> None:
    """A killed cycle that builds again on top of what it built gets the same version."""
    parent, _ = made(tmp_path, corrections(), pool(lamp=30))
    assert made(tmp_path, corrections(), pool(lamp=30), parent=parent)[0].version == parent.version


def test_nothing_to_learn_is_an_empty_dataset(tmp_path: Path) -> None:
    """No corrections and no pool make a file without lines."""
    dataset, examples = made(tmp_path, [], [])
    assert (examples, dataset.counts, read(dataset.path)) == ((), {}, ())


def test_kept_examples_become_a_pool(tmp_path: Path) -> None:
    """Examples of what works are stored for replay with the sides they were given, and build takes them."""
    marked, free = pool(lamp=10), pool(timer=10)
    memory = keep([*(e.model_copy(update={"split": "heldout"}) for e in marked), *free], folder=tmp_path, now=NOW)
    assert memory.counts == {"replay": {"heldout": 10, "undecided": 10}}
    _, examples = made(tmp_path, corrections(), read(memory.path))
    assert ids(examples, origin="replay", category="lamp", split="heldout") == ids(marked)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "Line 2 .* is no JSON"),
        ("[" * 100_000, "Line 2 .* is no JSON"),
        ("5", "Line 2 .* is no example"),
        ('{"messages": []}', "Line 2 .* is no example: chosen: Field required"),
        ('{"unknown": 1}', "Line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    """Each line is checked; a bad one is a DataError with its number."""
    good = json.dumps(corrections(1)[0].model_dump(mode="json"))
    path = tmp_path / "d.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=sentence):
        read(path)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """A missing file and one that is no text are DataErrors that name it."""
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        read(tmp_path / "nowhere.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"bytes\.jsonl"):
        read(tmp_path / "bytes.jsonl")


def test_odd_characters_survive(tmp_path: Path) -> None:
    """Line separators, quotes and other scripts inside texts come back as they were."""
    text = 'Zeile\u2028eins\x85 "zwei"\n\t\x1b[31m 你好 🙂'
    _, examples = made(tmp_path, [example(text, call("play_music", artist=text), review="approved")], [], variations=0)
    [path] = tmp_path.iterdir()
    assert read(path) == examples
    assert request(examples[0]) == text


def test_no_disk_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full nothing half-written stays, and the error says what to do."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device\. Make room"):
        made(tmp_path, corrections(), [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    """A folder that cannot be made is a StoreError that names it."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match="taken"):
        made(tmp_path, corrections(), [], folder=tmp_path / "taken")
