"""Variations change the values in request and call alike, and nothing else."""

from __future__ import annotations

import random
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.curation.variation import Values, vary
from langgraph_learnloop.records import Message
from tests.curation.builders import answer, call, example, user

POOL = Values(
    {
        ("play_music", "artist"): ("Queen", "Queen", "Queen", "Nina Simone", "Blur", "The Chet Baker Trio", "Ella"),
        ("play_music", "title"): ("Yesterday Once More", "Heroes", "All That Jazz"),
        ("book_table", "people"): ("2", "12"),
    }
)
ARTISTS = POOL.by_slot["play_music", "artist"]


def made(text: str, chosen: Message, n: int = 20, seed: int = 0, **given: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return requests and arguments of the variations."""
    found = vary(example(text, chosen, **given), POOL, n, seed)
    return [(e.messages[-1].content, e.chosen.tool_calls[0].args) for e in found]


def test_request_and_call_change_together() -> None:
    """The new value stands in both; the words around it stay."""
    found = made("Play Abba now", call("play_music", artist="Abba"))
    assert len(found) == 20
    assert all(text == f"Play {args['artist']} now" for text, args in found)
    assert "Abba" not in {args["artist"] for _, args in found}


def test_values_are_the_arguments_own_those_of_others_and_new_ones() -> None:
    """An open argument takes its own values, whole values of other open arguments, and words of the usual number."""
    artists = [args["artist"] for _, args in made("Play Abba", call("play_music", artist="Abba"), n=40)]
    assert set(ARTISTS) & set(artists)
    assert set(POOL.by_slot["play_music", "title"]) & set(artists)
    new = [a for a in artists if not any(a in values for values in POOL.by_slot.values())]
    assert len(new) > 10
    assert {len(a.split()) for a in new} == {1, 2, 4}


def test_new_values_are_as_rare_as_they_were() -> None:
    """An argument that mostly takes the same few values is given new ones as seldom as new ones came."""
    seen = ("cinema",) * 50 + ("theatre",) * 41 + tuple("abcdefghi")
    pool = Values({("play_music", "artist"): seen, ("play_music", "title"): ("Yesterday Once More", "Heroes")})
    rng = random.Random(0)
    drawn = [pool.another("cinema", ("play_music", "artist"), rng) for _ in range(1000)]
    strange = sum(value not in pool.by_slot["play_music", "artist"] for value in drawn)
    assert 20 < strange < 150


def test_capitals_are_kept() -> None:
    """A value in small letters stays small, one in capitals stays in capitals."""
    assert all(a["artist"].islower() for _, a in made("play abba", call("play_music", artist="abba")))
    assert all(a["artist"].isupper() for _, a in made("play ABBA", call("play_music", artist="ABBA")))
    assert all(a["artist"][0].isupper() for _, a in made("play Abba", call("play_music", artist="Abba")))


def test_numbers_become_numbers_that_the_tool_allows() -> None:
    """Whole numbers stay whole numbers within the schema's bounds; digits in text stay digits."""
    found = made("Book Luigi's for 4", call("book_table", restaurant="Luigi's", people=4))
    assert found
    assert all(isinstance(a["people"], int) and 1 <= a["people"] <= 30 for _, a in found)
    assert all(text == f"Book {a['restaurant']} for {a['people']}" for text, a in found)
    digits = made("Play 1999", call("play_music", artist="1999"), n=30)
    assert any(re.fullmatch(r"\d{4}", a["artist"]) for _, a in digits)


def test_values_in_lists_are_replaced() -> None:
    """Each item of a list is a value of its own."""
    found = made("Play Abba in kitchen and attic", call("play_music", artist="Abba", rooms=["kitchen", "attic"]))
    assert all(t == f"Play {a['artist']} in {a['rooms'][0]} and {a['rooms'][1]}" for t, a in found)


def test_different_values_of_a_list_stay_different() -> None:
    """A request that names two things does not become one that names one thing twice."""
    pool = Values({("play_music", "rooms"): ("kitchen", "attic", "hall") * 10})
    asked = example("Play it in kitchen and attic", call("play_music", artist="it", rooms=["kitchen", "attic"]))
    rooms = [e.chosen.tool_calls[0].args["rooms"] for e in vary(asked, pool, 40, seed=0)]
    assert ["attic", "hall"] in rooms
    assert all(one != other for one, other in rooms)


def test_unclear_values_are_left_alone() -> None:
    """A value that stands nowhere, twice, within a word, or inside another value is not replaced."""
    assert made("Play something", call("play_music", artist="Abba")) == []
    assert made("Play Abba by Abba", call("play_music", artist="Abba")) == []
    assert made("Play Abbatross", call("play_music", artist="Abba")) == []
    assert made("Add 2.5 of it", call("play_music", artist="2")) == []
    assert made("Play Rock Hits", call("play_music", artist="Rock Hits", rooms=["Rock"])) == []


def test_enumerated_values_are_left_alone() -> None:
    """A value that the schema lists would not fit after replacement, so such variations are not made."""
    found = made("Book Luigi's for lunch", call("book_table", restaurant="Luigi's", meal="lunch"))
    assert {a["meal"] for _, a in found} <= {"lunch"}


def test_an_argument_with_few_values_draws_only_those() -> None:
    """An argument that takes the same few values over and over is an enumeration: nothing is made up for it."""
    pool = Values({("play_music", "artist"): ("left",) * 30 + ("right",) * 30})
    found = vary(example("turn left", call("play_music", artist="left")), pool, 10, 0)
    assert {e.chosen.tool_calls[0].args["artist"] for e in found} == {"right"}


def test_a_variation_knows_its_parent() -> None:
    """Origin, lower confidence, and the parent's group, run, rater and split; what the agent said is gone."""
    parent = example(
        "Play Abba", call("play_music", artist="Abba"), group="g", run_id="r", split="train", confidence=0.9
    )
    for child in vary(parent, POOL, 3, 0):
        assert (child.origin, child.group, child.run_id, child.by, child.split) == (
            "variation",
            "g",
            "r",
            "ann",
            "train",
        )
        assert child.confidence < parent.confidence
        assert child.rejected is None


def test_variations_are_different_and_repeatable() -> None:
    """No variation comes twice or equals its parent; the seed decides which ones come."""
    parent = example("Play Abba", call("play_music", artist="Abba"))
    found = vary(parent, POOL, 30, 5)
    assert len({e.example_id for e in found} | {parent.example_id}) == len(found) + 1
    assert found == vary(parent, POOL, 30, 5)
    assert found != vary(parent, POOL, 30, 6)


def test_what_must_not_be_varied_is_not() -> None:
    """Held-out and validation examples, answers in words, and calls in the middle of a turn give no variations."""
    chosen = call("play_music", artist="Abba")
    assert made("Play Abba", chosen, split="heldout") == []
    assert made("Play Abba", chosen, split="validation") == []
    assert made("Say Abba", answer("Abba")) == []
    middle = example("Play Abba", chosen)
    middle = middle.model_copy(update={"messages": (user("Play Abba"), answer("Now?"))})
    assert vary(middle, POOL, 5, 0) == []


def test_the_pool_holds_values_as_often_as_they_came() -> None:
    """Values are collected by tool and argument, numbers as text, lists by item."""
    rooms = example("x", call("play_music", artist="Abba", rooms=["attic", "hall"]))
    tables = example("y", call("book_table", restaurant="Luigi's", people=4))
    assert Values.of([rooms, rooms, tables]).by_slot == {
        ("book_table", "people"): ("4",),
        ("book_table", "restaurant"): ("Luigi's",),
        ("play_music", "artist"): ("Abba", "Abba"),
        ("play_music", "rooms"): ("attic", "attic", "hall", "hall"),
    }


@given(
    words=st.lists(st.text(alphabet="abc 1.'$\\", min_size=1, max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 3),
)
def test_replaced_values_always_stand_in_the_new_request(words: list[str], seed: int) -> None:
    """Whatever the values are, each one that stood in the request stands in the variation's request."""
    text = " and ".join(["put on", *words])
    parent = example(text, call("play_music", artist=words[0], rooms=words[1:]))
    for child in vary(parent, Values({}), 3, random.Random(seed).randrange(9)):
        args = child.chosen.tool_calls[0].args
        assert all(str(value) in child.messages[-1].content for value in [args["artist"], *args["rooms"]])
