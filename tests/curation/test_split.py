"""A split keeps together what belongs together, and gives every category its share."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_learnloop.curation.split import NEAR_DUPLICATE, assign
from langgraph_learnloop.curation.texts import normal, request, similar_pairs, vectors
from langgraph_learnloop.records import Example, Split
from tests.curation.builders import answer, call, example

CITIES = "Oslo Rome Cairo Lima Quito Dakar Accra Minsk Kyiv Tunis Hanoi Seoul Delhi Tokyo Paris Berne".split()  # noqa: SIM905


def distinct(count: int, tool: str = "play_music") -> list[Example]:
    """Return examples that have nothing in common."""
    rng = random.Random(tool)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(3 * count)]
    texts = [" ".join(words[3 * i : 3 * i + 3]) for i in range(count)]
    return [example(text, call(tool, artist=text), run_id=f"{tool}{i}") for i, text in enumerate(texts)]


def sides(examples: list[Example], key: Callable[[Example], str | None]) -> dict[str, set[str | None]]:
    """Return the splits in which each key appears."""
    found: dict[str, set[str | None]] = defaultdict(set)
    for e in examples:
        if (name := key(e)) is not None:
            found[name].add(e.split)
    return found


LONG = "would you be so kind as to put on some music by Abba for"
TEXTS = st.sampled_from(
    [f"{LONG} me", f"{LONG} us", f"{LONG} me now"]
    + [f"please tell me the weather in {c} today" for c in CITIES]
    + [*CITIES, "Oslo!", "", "?"]
)
EXAMPLES = st.lists(
    st.builds(
        lambda text, tool, thread, run, split: example(text, call(tool), group=thread, run_id=run, split=split),
        TEXTS,
        st.sampled_from(["weather", "music", "lamp"]),
        st.none() | st.sampled_from("uvwxyz"),
        st.none() | st.sampled_from("ABCDEFGH"),
        st.sampled_from([None, None, None, "train", "heldout"]),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(examples=EXAMPLES, seed=st.integers(0, 5), validation=st.sampled_from([0.0, 0.2]))
def test_no_group_is_on_two_sides(examples: list[Example], seed: int, validation: float) -> None:
    """Neither a group, a thread, a run, a request nor a near-duplicate ever appears on two sides."""
    out = assign(examples, seed=seed, validation=validation)
    assert [e.example_id for e in out] == [e.example_id for e in examples]
    assert all(e.split is not None and e.group is not None for e in out)
    threads = [e.model_copy(update={"split": o.split}) for e, o in zip(examples, out, strict=True)]
    for found in (
        sides(out, lambda e: e.group),
        sides(threads, lambda e: e.group),
        sides(out, lambda e: e.run_id),
        sides(out, lambda e: normal(request(e)) or request(e) or None),
    ):
        assert all(len(where) == 1 for where in found.values())
    for i, j in similar_pairs(vectors([request(e) for e in out]), NEAR_DUPLICATE):
        assert out[i].split == out[j].split


@settings(max_examples=30)
@given(examples=EXAMPLES, order=st.randoms(use_true_random=False))
def test_the_order_makes_no_difference(examples: list[Example], order: random.Random) -> None:
    """The same examples in another order get the same splits."""
    first = {(e.example_id, e.run_id): e.split for e in assign(examples)}
    shuffled = list(examples)
    order.shuffle(shuffled)
    assert {(e.example_id, e.run_id): e.split for e in assign(shuffled)} == first


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_each_category_gets_its_share(share: float) -> None:
    """The held-out share is met in every category, to within one example."""
    out = assign([*distinct(40, "play_music"), *distinct(12, "book_table")], heldout=share)
    for tool, count in (("play_music", 40), ("book_table", 12)):
        held = sum(e.split == "heldout" for e in out if e.category == tool)
        assert abs(held - share * count) <= 1


def test_a_category_with_four_groups_is_examined() -> None:
    """However small the share, four groups of a category mean that one is held out; never all of them."""
    out = assign([*distinct(100, "play_music"), *distinct(4, "book_table")], heldout=0.05)
    rare = [e.split for e in out if e.category == "book_table"]
    assert rare.count("heldout") == 1
    lone = assign(distinct(1), heldout=0.9)
    assert [e.split for e in lone] == ["train"]


def test_answers_in_words_are_a_category() -> None:
    """Examples without a tool are split like any other."""
    texts = [request(e) for e in distinct(20)]
    out = assign([example(text, answer("yes")) for text in texts])
    assert sum(e.split == "heldout" for e in out) == 5


def test_what_was_trained_is_never_examined_later() -> None:
    """A split that is set stays; a new example that joins two sides pulls its group to training."""
    first, second, third = distinct(3)
    old: list[tuple[Example, Split]] = [(first, "train"), (second, "heldout")]
    known = [e.model_copy(update={"split": side, "group": side}) for e, side in old]
    assert [e.split for e in assign(known)] == ["train", "heldout"]
    bridge = third.model_copy(update={"group": "train", "run_id": second.run_id})
    assert [e.split for e in assign([*known, bridge])] == ["train", "train", "train"]


def test_near_duplicates_stay_together() -> None:
    """Requests that differ in a word's ending are one group, whoever sent them; other requests are not."""
    twins = [f"would you be so kind as to put on some music by Abba for {who}" for who in ("me", "me now", "us")]
    out = assign([*(example(t, call("lamp"), run_id=t) for t in twins), *distinct(8)])
    assert len({e.group for e in out[:3]}) == 1
    assert len({e.group for e in out}) == 9


def test_the_seed_decides() -> None:
    """Another seed holds out other examples."""
    examples = distinct(40)
    assert [e.split for e in assign(examples, seed=1)] != [e.split for e in assign(examples, seed=2)]


def test_no_examples_no_split() -> None:
    """Nothing in, nothing out."""
    assert assign([]) == []
