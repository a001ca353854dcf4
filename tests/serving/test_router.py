"""A thread keeps the release it started with; new threads follow the champion's pointer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Routes
from langgraph_learnloop.serving.router import Router, is_chosen


class Pointer:
    """Routes that can be moved, and count how often they are read."""

    def __init__(self, release_id: str) -> None:
        self.now = release_id
        self.more: dict[str, Any] = {}
        self.reads = 0
        self.down = False

    def routes(self) -> Routes:
        self.reads += 1
        if self.down:
            raise StoreError("The store cannot be reached.")
        return Routes(self.now, **self.more)


class Pins:
    """Pins in memory, as a store would keep them for all processes."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.asked = 0
        self.down = False

    def pin(self, thread_id: str, release_id: str) -> str:
        self.asked += 1
        if self.down:
            raise StoreError("The store cannot be reached.")
        return self.known.setdefault(thread_id, release_id)

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        if self.known[thread_id] in refused:
            self.known[thread_id] = release_id
        return self.known[thread_id]


class Clock:
    """Time that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_thread_keeps_its_release():
    """A flip of the pointer moves new threads only."""
    pointer = Pointer("old")
    router = Router(pointer, Pins(), poll_seconds=0)
    assert router.release_for("t1") == "old"
    pointer.now = "new"
    assert (router.release_for("t1"), router.release_for("t2"), router.release_for(None)) == ("old", "new", "new")


def test_another_process_decided_first():
    """A pin in the store wins over this process's champion."""
    assert Router(Pointer("new"), Pins(t1="old")).release_for("t1") == "old"


def test_the_pointer_is_read_once_per_poll():
    """Requests inside poll_seconds do not touch the store; after that the flip is seen."""
    pointer, clock = Pointer("old"), Clock()
    router = Router(pointer, Pins(), poll_seconds=1.0, clock=clock)
    for _ in range(5):
        router.release_for(None)
    pointer.now, clock.now = "new", 0.9
    assert (router.release_for(None), pointer.reads) == ("old", 1)
    clock.now = 1.0
    assert (router.release_for(None), pointer.reads) == ("new", 2)


def test_refresh_sees_a_flip_at_once():
    """Whoever flips the pointer in this process need not wait for the poll."""
    pointer = Pointer("old")
    router = Router(pointer, Pins(), poll_seconds=1000)
    router.release_for(None)
    pointer.now = "new"
    assert router.refresh().champion == router.release_for(None) == "new"


def test_memory_is_bounded_and_forgetting_is_harmless():
    """A thread that fell out of memory is asked for again and keeps its release."""
    pointer, pins = Pointer("old"), Pins()
    router = Router(pointer, pins, poll_seconds=0, max_threads=2)
    for thread in ("t1", "t2", "t1", "t3"):  # t2 is the one not heard of for longest
        router.release_for(thread)
    pointer.now, pins.asked = "new", 0
    assert (router.release_for("t1"), pins.asked) == ("old", 0)
    assert (router.release_for("t2"), pins.asked) == ("old", 1)


def test_in_use_names_pinned_releases_and_the_champion():
    """What a remembered thread or a new one may ask for must stay loaded."""
    pointer = Pointer("old")
    router = Router(pointer, Pins(t9="older"), poll_seconds=0)
    assert router.in_use() == set()
    router.release_for("t9")
    pointer.now = "new"
    router.release_for(None)
    assert router.in_use() == {"older", "new"}


def test_a_rollout_takes_its_share_of_new_threads():
    """The share is that of the stage, those who have begun stay, and who was chosen stays so at the next stage."""
    pointer = Pointer("old")
    router = Router(pointer, Pins(before="old"), poll_seconds=0)
    pointer.more = {"candidate": "new", "percent": 5, "salt": "r1"}
    threads = [f"t{i}" for i in range(20_000)]
    got = {thread: router.release_for(thread) for thread in threads}
    share = sum(release == "new" for release in got.values()) / len(threads)
    assert 0.04 < share < 0.06
    assert router.release_for("before") == "old"
    assert router.release_for(None) == "old"
    pointer.more = {"candidate": "new", "percent": 50, "salt": "r1"}
    assert [router.release_for(thread) for thread in threads] == list(got.values())
    early = {thread for thread in threads if is_chosen(thread, "r1", 5)}
    assert early == {thread for thread, release in got.items() if release == "new"}
    assert all(is_chosen(thread, "r1", 50) for thread in early)
    assert not any(is_chosen(thread, "r1", 0) for thread in threads)
    assert all(is_chosen(thread, "r1", 100) for thread in threads)


def test_threads_of_a_release_that_was_rolled_back_get_the_champion():
    """In this process at once, and in the store for all the others."""
    pointer, pins = Pointer("old"), Pins()
    router = Router(pointer, pins, poll_seconds=0)
    pointer.more = {"candidate": "bad", "percent": 100, "salt": "r1"}
    assert router.release_for("t1") == "bad"
    pointer.more = {"refused": frozenset({"bad"})}
    assert (router.release_for("t1"), pins.known["t1"]) == ("old", "old")
    pins.known["t2"] = "bad"
    assert router.release_for("t2") == "old"
    assert "bad" not in router.in_use()


def test_what_was_live_is_served_while_the_store_is_away():
    """Old threads, new ones and the champion: nobody waits for the store."""
    pointer, pins, clock = Pointer("old"), Pins(), Clock()
    router = Router(pointer, pins, poll_seconds=1.0, clock=clock)
    router.release_for("t1")
    pointer.down = pins.down = True
    clock.now = 5.0
    assert [router.release_for(thread) for thread in ("t1", "t2", None)] == ["old"] * 3
    assert pointer.reads == 2
