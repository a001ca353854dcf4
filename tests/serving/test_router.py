"""A thread keeps the release it started with; new threads follow the champion's pointer."""

from __future__ import annotations

from langgraph_learnloop.serving.router import Router


class Pointer:
    """A champion that can be moved, and counts how often it is read."""

    def __init__(self, release_id: str) -> None:
        self.now = release_id
        self.reads = 0

    def champion(self) -> str:
        self.reads += 1
        return self.now


class Pins:
    """Pins in memory, as a store would keep them for all processes."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.asked = 0

    def pin(self, thread_id: str, release_id: str) -> str:
        self.asked += 1
        return self.known.setdefault(thread_id, release_id)


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
    assert router.refresh() == router.release_for(None) == "new"


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
