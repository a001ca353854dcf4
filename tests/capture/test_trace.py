"""Joining events to traces, where the order of events is strange."""

from collections import Counter
from uuid import UUID

import pytest

from langgraph_learnloop.capture import trace as module
from langgraph_learnloop.capture.events import Event, Kind
from langgraph_learnloop.capture.trace import Tracker


def _event(kind: Kind, run: int, parent: int | None = None) -> Event:
    return Event("a", kind, UUID(int=run), UUID(int=parent) if parent else None, 0.0, 0.0, None, {})


def test_what_begins_after_its_run_ended_is_counted_and_begins_no_run() -> None:
    """A forgotten background step is not taken for an agent of its own, nor is what happens in it."""
    dropped: Counter[str] = Counter()
    tracker = Tracker(dropped)
    tracker.take(_event("chain", 1))
    assert tracker.take(_event("end", 1)) is not None
    for late in (_event("model", 2, 1), _event("tool", 3, 2), _event("end", 3, 2), _event("end", 2, 1)):
        assert tracker.take(late) is None
    assert tracker.traces == 0
    assert dropped == {"steps that began after their run had ended": 2}


def test_an_event_that_comes_twice_counts_once() -> None:
    """Two recorders on one graph, or one passed twice, make one trace."""
    tracker = Tracker(Counter())
    for event in (_event("chain", 1), _event("chain", 1), _event("tool", 2, 1), _event("tool", 2, 1)):
        tracker.take(event)
    tracker.take(_event("end", 2, 1))
    trace = tracker.take(_event("end", 1))
    assert trace is not None
    assert [work.start.kind for work in trace.works] == ["chain", "tool"]
    assert tracker.take(_event("end", 1)) is None


def test_runs_that_never_end_are_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open runs are bounded: the oldest goes, is counted, and what it does later is not taken for a run."""
    monkeypatch.setattr(module, "_OPEN_TRACES", 2)
    dropped: Counter[str] = Counter()
    tracker = Tracker(dropped)
    for number in (1, 2, 3):
        tracker.take(_event("chain", number))
    assert tracker.traces == 2
    assert dropped["runs that never ended"] == 1
    assert tracker.take(_event("tool", 9, 1)) is None
    assert tracker.take(_event("end", 1)) is None
    assert tracker.take(_event("end", 3)) is not None


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_whatever_event_was_lost_the_run_is_dropped_whole(lost: int) -> None:
    """A start, an end, of the root or of a step: no run is told without it, and none stays open."""
    events = [_event("chain", 1), _event("tool", 2, 1), _event("end", 2, 1), _event("end", 1)]
    dropped: Counter[str] = Counter()
    tracker = Tracker(dropped)
    assert all(tracker.take(event, lost=number == lost) is None for number, event in enumerate(events))
    assert tracker.traces == 0
    assert dropped == {"runs that lost an event to a full queue": 1}


def test_what_is_remembered_of_ended_runs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ended work, and of runs that wait for somebody, the oldest are forgotten; a resume finds the latest."""
    monkeypatch.setattr(module, "_OPEN_TRACES", 2)
    monkeypatch.setattr(module, "_ENDED_IDS", 2)
    tracker = Tracker(Counter())

    def run(number: int, thread: str, *inner: Kind) -> UUID | None:
        tracker.take(_event("chain", number)._replace(details={"metadata": {"thread_id": thread}}))
        for kind in inner:
            tracker.take(_event(kind, number))
        ended = tracker.take(_event("end", number))
        assert ended is not None
        return ended.resumes

    for number, thread in enumerate(("a", "b", "b", "c"), start=1):
        run(number, thread, "interrupt")
    assert len(tracker._ended) == 2
    assert run(5, "a", "resume") is None
    assert run(6, "b", "resume") == UUID(int=3)
    assert run(7, "c", "resume") == UUID(int=4)
