"""A release goes live only after it answered as it did when it was examined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Probe, Release, ToolCall
from langgraph_learnloop.serving.swap import agree, prove, swap

RELEASE = Release(base_model="base", made_at=datetime(2026, 1, 1, tzinfo=UTC))


class Shelf:
    """An engine that only notes what is loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def load(self, release: Release) -> None:
        self.loaded.append(release.release_id)

    def unload(self, release_id: str) -> None:
        self.loaded.remove(release_id)

    def generate(self, request: Generation) -> Generated:
        raise EngineError("A shelf does not answer.")


def call(city: str, call_id: str | None = None) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": city}, id=call_id),))


def refuse(error: Exception) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


def test_load_check_flip_in_this_order():
    """The pointer moves last, when the release is loaded and checked."""
    engine, events = Shelf(), []
    swap(engine, RELEASE, lambda: events.append(("check", *engine.loaded)), lambda: events.append(("flip",)))
    assert events == [("check", RELEASE.release_id), ("flip",)]


def test_a_release_that_fails_its_check_is_taken_out():
    """The pointer stays where it was, the reason is passed on, and the engine forgets the release."""
    engine, flipped = Shelf(), []
    with pytest.raises(EngineError, match="not the one that passed"):
        swap(engine, RELEASE, refuse(EngineError("not the one that passed")), lambda: flipped.append(1))
    assert (flipped, engine.loaded) == ([], [])


def test_a_pointer_that_cannot_be_flipped_leaves_nothing_behind():
    """An error of the store becomes an EngineError that names the release, which is unloaded."""
    engine = Shelf()
    with pytest.raises(EngineError, match=f"{RELEASE.release_id}.*disk full"):
        swap(engine, RELEASE, lambda: None, refuse(OSError("disk full")))
    assert engine.loaded == []


def test_answers_agree_when_few_differ():
    """A quarter may flip between batches; more may not, and ids of calls are not compared."""
    same, other = (call("Oslo", "1"), call("Oslo", "2")), (call("Oslo"), call("Rome"))
    agree("r", [same] * 6 + [other] * 2)
    with pytest.raises(EngineError, match="3 of 8"):
        agree("r", [same] * 5 + [other] * 3)


@pytest.mark.parametrize("now", [None, Message(role="assistant", content="weather"), call("oslo")])
def test_what_counts_as_another_answer(now: Message | None):
    """No answer, words in place of a call, and another argument all differ."""
    with pytest.raises(EngineError, match="1 of 1"):
        agree("r", [(call("Oslo"), now)])


def test_without_probes_nothing_can_differ():
    """A release whose cases were all left out may serve: no examined case is no failure."""
    engine, flipped = Shelf(), []
    swap(engine, RELEASE, lambda: agree("r", []), lambda: flipped.append(1))
    assert flipped == [1]


class Parrot(Shelf):
    """An engine that says the same to everybody."""

    def generate(self, request: Generation) -> Generated:
        return Generated(message=call("Oslo"), input_tokens=1, output_tokens=1)


def test_a_release_is_proved_by_what_it_says():
    """Half of its answers may have flipped; one that says something else is taken out of the engine again."""
    request = Generation(release_id=RELEASE.release_id, messages=(Message(role="user", content="hi"),))
    right, flipped = (Probe(request=request, answer=call(city)) for city in ("Oslo", "Rome"))
    prove(engine := Parrot(), RELEASE, [right, right, flipped, flipped])
    assert engine.loaded == [RELEASE.release_id]
    with pytest.raises(EngineError, match="2 of 3 probes"):
        prove(engine := Parrot(), RELEASE, [right, flipped, flipped])
    assert engine.loaded == []
    prove(engine, RELEASE, [])
    assert engine.loaded == [RELEASE.release_id]
