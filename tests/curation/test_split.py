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
@given(examples=EXAMPLES, seed=st.integers(0, 5))
def test_no_group_is_on_two_sides(examples: list[Example], seed: int) -> None:
    """Neither a group, a thread, a run, a request nor a near-duplicate ever appears on two sides."""
    out = assign(examples, seed=seed)
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


def members(out: list[Example], side: str) -> list[str | None]:
    return sorted(str(e.run_id) for e in out if e.split == side)


@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_met(seed: int) -> None:
    """What is held out gets its share, and the rest is for training; by default a quarter is held out."""
    out = assign(distinct(20), heldout=0.2, seed=seed)
    assert [len(members(out, side)) for side in ("train", "heldout")] == [16, 4]
    assert [len(members(assign(distinct(20)), side)) for side in ("train", "heldout")] == [15, 5]
    assert assign(distinct(20)) == assign(distinct(20), seed=0, heldout=0.25)


@pytest.mark.parametrize(
    ("count", "heldout", "held"), [(1, 0.9, 0), (2, 0.25, 1), (2, 0.9, 1), (3, 1.0, 2), (4, 0.0, 0), (6, 1.0, 5)]
)
def test_one_group_stays_for_training(count: int, heldout: float, held: int) -> None:
    """However large the share, a category is never held out whole; and nothing is where nothing is asked for."""
    assert len(members(assign(distinct(count), heldout=heldout), "heldout")) == held


@pytest.mark.parametrize(("count", "held"), [(2, 0), (3, 0), (4, 1), (8, 1)])
def test_a_small_share_takes_one_of_four_groups(count: int, held: int) -> None:
    """Where the share is less than half an example, four groups give one, and fewer give none."""
    assert len(members(assign(distinct(count), heldout=0.01), "heldout")) == held


def groups(sizes: list[int]) -> list[Example]:
    return [e.model_copy(update={"group": f"g{i}"}) for i, n in enumerate(sizes) for e in distinct(n, f"tool{i}")]


def as_one_tool(examples: list[Example]) -> list[Example]:
    return [e.model_copy(update={"chosen": examples[0].chosen}) for e in examples]


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_give_way_to_the_smallest(seed: int) -> None:
    """Where every group is larger than the share, the smallest is held out."""
    out = assign(as_one_tool(groups([9, 8, 3, 9, 9])), heldout=0.05, seed=seed)
    assert sum(e.split == "heldout" for e in out) == 3
    fits = assign(as_one_tool(groups([9, 8, 3, 9, 9])), heldout=0.3, seed=seed)
    assert 3 <= sum(e.split == "heldout" for e in fits) <= 12


@pytest.mark.parametrize(("given", "side"), [("train", "heldout"), ("validation", "train")])
def test_the_last_free_group_is_held_out_only_where_others_train(given: Split, side: str) -> None:
    """Where the share is too small for any, one of four is held out, but never the only one to learn from."""
    set_already = [e.model_copy(update={"split": given}) for e in distinct(4)[:3]]
    assert assign([*set_already, distinct(4)[3]], heldout=0.01)[3].split == side


def test_what_is_set_counts_for_the_share() -> None:
    """Held-out examples of an earlier dataset fill the share before new ones do."""
    known = [e.model_copy(update={"split": "heldout"}) for e in distinct(12)[:3]]
    out = assign([*known, *distinct(12)[3:]])
    assert len(members(out, "heldout")) == 3
    assert members(out, "heldout") == sorted(str(e.run_id) for e in known)


@pytest.mark.parametrize(
    ("given", "side"),
    [
        (["heldout", "validation"], "heldout"),
        (["validation", "train", "heldout"], "train"),
        ([None, "validation"], "validation"),
        (["validation", "train"], "train"),
    ],
)
def test_a_group_of_several_sides_goes_to_the_first(given: list[Split | None], side: str) -> None:
    """Training wins, then what is held out."""
    joined = [
        e.model_copy(update={"group": "g", "split": one}) for e, one in zip(distinct(len(given)), given, strict=True)
    ]
    assert {e.split for e in assign([*joined, *distinct(9, "other")]) if e.run_id in {j.run_id for j in joined}} == {
        side
    }


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ({"group": "g"}, {"group": "g"}, True),
        ({"run_id": "r"}, {"run_id": "r"}, True),
        ({"group": "x"}, {"run_id": "x"}, False),
        ({"group": None, "run_id": None}, {"group": None, "run_id": None}, False),
        ({"group": ""}, {"group": ""}, False),
    ],
)
def test_what_makes_a_group(one: dict[str, str], other: dict[str, str], together: bool) -> None:
    """A thread or a run in common; a thread that is named like a run is not that run, and none is no name."""
    first, second = (e.model_copy(update=more) for e, more in zip(distinct(2), (one, other), strict=True))
    assert len({e.group for e in assign([first, second])}) == 2 - together


def test_requests_that_say_the_same_are_a_group() -> None:
    """But for case and marks; those of marks alone are told apart, and those that say nothing at all are one each."""
    texts = ["Play Abba!", "play abba", "?!", "...", "?!"]
    out = assign([example(text, call("lamp", x=n), run_id=str(n)) for n, text in enumerate(texts)])
    assert out[0].group == out[1].group
    assert out[2].group == out[4].group
    assert len({e.group for e in out}) == 3
    assert (
        len({e.group for e in assign([example(text, call("lamp"), run_id=str(n)) for n, text in enumerate("aa")])}) == 1
    )
    same = example("one", call("lamp", x=1), run_id="a")
    assert len({e.group for e in assign([same, same.model_copy(update={"run_id": "b"})])}) == 1


def test_a_group_keeps_its_name_in_a_later_dataset() -> None:
    """New examples of other groups do not rename it, nor does the order."""
    old = assign(distinct(5))
    new = assign([*reversed(distinct(5)), *distinct(3, "other")])
    assert {e.run_id: e.group for e in old}.items() <= {e.run_id: e.group for e in new}.items()
    again = assign([*old, *distinct(3, "other")])
    assert [e.split for e in again[:5]] == [e.split for e in old]
