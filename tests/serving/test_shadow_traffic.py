"""A candidate is asked what the champion was asked; nobody sees it, and nobody waits."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Message, ShadowAnswer
from langgraph_learnloop.serving.shadow_traffic import ShadowTraffic

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HELLO = Message(role="assistant", content="Hello.")


def says(text: str) -> Generated:
    """Return an answer."""
    return Generated(message=Message(role="assistant", content=text), input_tokens=1, output_tokens=1)


@pytest.fixture
def kept() -> list[ShadowAnswer]:
    return []


@pytest.fixture
def shadow(kept: list[ShadowAnswer]) -> ShadowTraffic:
    return ShadowTraffic(kept.append, lambda: NOW, waiting=2)


def test_answers_are_compared_and_no_text_is_kept(shadow: ShadowTraffic, kept: list[ShadowAnswer]) -> None:
    """The same, another one, and none that can be used; threads are known by their hash."""

    def fail() -> Generated:
        raise EngineError("The adapter is damaged.")

    for thread, ask in (("ann", lambda: says(" Hello. ")), ("bob", lambda: says("Go away.")), ("eve", fail)):
        assert shadow.offer("r1", thread, ask, HELLO, 0.5)
        shadow.wait()
    shadow.stop()
    assert [(one.same, one.error) for one in kept] == [
        (True, None),
        (False, None),
        (False, "The adapter is damaged."),
    ]
    assert {(one.rollout_id, one.champion_seconds, one.at) for one in kept} == {("r1", 0.5, NOW)}
    assert not any("ann" in one.model_dump_json() or "Hello" in one.model_dump_json() for one in kept)


def test_a_thread_counts_once_a_rollout(shadow: ShadowTraffic, kept: list[ShadowAnswer]) -> None:
    """Its further requests depend on the first."""
    asked = []
    for rollout in ("r1", "r1", "r2"):
        asked.append(shadow.offer(rollout, "ann", lambda: says("Hello."), HELLO, 0.1))
        shadow.wait()
    shadow.stop()
    assert (asked, len(kept)) == ([True, False, True], 2)


def test_who_offers_never_waits(shadow: ShadowTraffic, kept: list[ShadowAnswer]) -> None:
    """While the candidate writes two more may wait; those that come then are let go, and may be offered again."""
    begun, go = threading.Event(), threading.Event()

    def slow() -> Generated:
        begun.set()
        assert go.wait(60)
        return says("Hello.")

    assert shadow.offer("r1", "first", slow, HELLO, 0.1)
    assert begun.wait(60)
    offered = [shadow.offer("r1", f"{n}", lambda: says("Hello."), HELLO, 0.1) for n in range(4)]
    assert offered == [True, True, False, False]
    go.set()
    shadow.wait()
    assert shadow.offer("r1", "3", lambda: says("Hello."), HELLO, 0.1)
    shadow.wait()
    shadow.stop()
    assert len(kept) == 4


def test_what_breaks_ends_nothing(kept: list[ShadowAnswer]) -> None:
    """Neither a bug in an engine nor a store that is away ends the thread of the shadow."""
    full = threading.Event()

    def keep(answer: ShadowAnswer) -> None:
        if not full.is_set():
            full.set()
            raise OSError("The disk is full.")
        kept.append(answer)

    def bug() -> Generated:
        raise ZeroDivisionError

    shadow = ShadowTraffic(keep, lambda: NOW)
    for number, ask in enumerate((bug, lambda: says("Hello."), lambda: says("Hello."))):
        shadow.offer("r1", str(number), ask, HELLO, 0.1)
    shadow.wait()
    shadow.stop()
    shadow.stop()
    assert [one.same for one in kept] == [True]
