"""A tree of conversations: the longest known beginning is found, nothing is held twice, the oldest goes first."""

from __future__ import annotations

import random

import torch

from langgraph_learnloop.serving.prefixes import NOTHING, Layers, Prefixes

TOKEN_BYTES = 2 * 2 * 3 * 4 * 4
"""Two layers of keys and values, three heads of four numbers of four bytes."""


def layers_of(tokens: list[int]) -> Layers:
    """Return keys and values that tell each token and its place."""
    numbers = torch.tensor([100.0 * at + token for at, token in enumerate(tokens)])
    keys = numbers[None, :, None].expand(3, -1, 4)
    return [(keys + layer, -keys - layer) for layer in (0.25, 0.5)]


def kept(prefixes: Prefixes, *conversations: list[int], release: str = "r") -> Prefixes:
    for tokens in conversations:
        prefixes.keep(release, tokens, layers_of(tokens))
    return prefixes


def known(prefixes: Prefixes, tokens: list[int], release: str = "r") -> int:
    """Return how much is known, after a look at whether it is right."""
    found = prefixes.find(release, tokens)
    pieces = found.layers(found.count)
    for layer, (keys, values) in enumerate(layers_of(tokens[: found.count]) if found.count else ()):
        assert torch.equal(torch.cat([piece[layer][0] for piece in pieces], 1), keys)
        assert torch.equal(torch.cat([piece[layer][1] for piece in pieces], 1), values)
    return found.count


def test_the_longest_beginning_of_any_conversation_is_found():
    """Whichever conversation it is of, and wherever the two part."""
    prefixes = kept(Prefixes(2**20, least=2), [1, 2, 3, 4, 5], [1, 2, 3, 9, 9, 9], [7, 7, 7])
    assert [
        known(prefixes, tokens) for tokens in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 1], [1, 2, 8, 8], [7, 7, 7, 7])
    ] == [
        5,
        5,
        2,
        3,
    ]


def test_the_last_token_is_always_read():
    """Of a prompt that is known in whole the last token is left, for it says what comes next."""
    prefixes = kept(Prefixes(2**20, least=2), [1, 2, 3, 4])
    assert known(prefixes, [1, 2, 3, 4]) == 3
    assert known(prefixes, [1, 2, 3]) == 2
    assert prefixes.find("r", [1]) is NOTHING


def test_little_is_nothing():
    """Fewer tokens than are worth it are neither found nor kept."""
    prefixes = kept(Prefixes(2**20, least=4), [1, 2, 3])
    assert prefixes.held_bytes == 0
    kept(prefixes, [1, 2, 3, 4, 5])
    assert [known(prefixes, tokens) for tokens in ([1, 2, 3, 9, 9], [1, 2, 3, 4, 9])] == [0, 4]


def test_what_conversations_share_is_held_once():
    """A hundred conversations with the same instructions cost them once; a next turn costs what is new of it."""
    same = list(range(50))
    prefixes = kept(Prefixes(2**20, least=2), *([*same, 1000 + number, 1] for number in range(100)))
    assert prefixes.held_bytes == (50 + 200) * TOKEN_BYTES
    kept(prefixes, [*same, 1000, 1, 2, 3], same[:20])
    assert prefixes.held_bytes == (50 + 202) * TOKEN_BYTES


def test_releases_know_nothing_of_each_other():
    """Another release's keys are never used, and go with it."""
    prefixes = kept(kept(Prefixes(2**20, least=2), [1, 2, 3, 4]), [1, 2, 5, 6], release="s")
    assert [known(prefixes, [1, 2, 3, 4, 5], release) for release in ("r", "s", "t")] == [4, 2, 0]
    prefixes.drop("r")
    prefixes.drop("r")
    assert [known(prefixes, [1, 2, 3, 4, 5], release) for release in ("r", "s")] == [0, 2]
    assert prefixes.held_bytes == 4 * TOKEN_BYTES


def test_what_was_not_used_for_longest_goes_first():
    """Room is made for the new; what is asked for stays, and its beginning with it."""
    prefixes = kept(Prefixes(10 * TOKEN_BYTES, least=2), [1, 1, 1, 1], [2, 2, 2, 2])
    assert known(prefixes, [1, 1, 1, 1, 1]) == 4
    kept(prefixes, [1, 1, 1, 1, 3, 3], [4, 4, 4, 4])
    assert [known(prefixes, [token] * 5) for token in (1, 2, 4)] == [4, 0, 4]
    assert prefixes.held_bytes <= 10 * TOKEN_BYTES


def test_what_is_larger_than_all_room_is_not_kept():
    """It would only drive out the rest; with no room at all nothing is kept."""
    prefixes = kept(Prefixes(5 * TOKEN_BYTES, least=2), [1, 1, 1], list(range(6)))
    assert (known(prefixes, [1, 1, 1, 1]), known(prefixes, list(range(6)))) == (3, 0)
    assert kept(Prefixes(0, least=2), [1, 2, 3]).held_bytes == 0


def test_a_long_thread_turn_by_turn():
    """More turns than Python may call itself, each a piece of its own, are found and dropped."""
    prefixes, tokens = Prefixes(2**30, least=2), list(range(1_100))
    layers = layers_of(tokens)
    for end in range(2, 1_100):
        prefixes.keep("r", tokens[:end], [(keys[:, :end], values[:, :end]) for keys, values in layers])
    assert known(prefixes, tokens) == 1_099
    prefixes.drop("r")
    assert prefixes.held_bytes == 0


def test_any_order_of_keeping_and_finding_is_right():
    """A thousand conversations that share and part at random: what is found is right, and the room suffices."""
    rng = random.Random(1)
    prefixes = Prefixes(60 * TOKEN_BYTES, least=2)
    for _ in range(1_000):
        tokens = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
        release = rng.choice("rst")
        if rng.random() < 0.5:
            kept(prefixes, tokens, release=release)
        else:
            assert known(prefixes, tokens, release) < len(tokens)
        if rng.random() < 0.01:
            prefixes.drop(release)
        assert 0 <= prefixes.held_bytes <= 60 * TOKEN_BYTES
    for release in "rst":
        prefixes.drop(release)
    assert prefixes.held_bytes == 0
