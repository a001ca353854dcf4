"""The thread behind the recorder: takes events and makes runs of them, which the spool brings to the store."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from langgraph_learnloop.capture.assemble import assemble
from langgraph_learnloop.capture.events import Event
from langgraph_learnloop.capture.interning import Interner
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.capture.spool import Entry, Spool
from langgraph_learnloop.capture.trace import Trace, Tracker
from langgraph_learnloop.ports import RunSink
from langgraph_learnloop.records import Record, Recorded, Run

_log = logging.getLogger(__name__)

_LINGER = 0.25
"""Seconds that events may gather before they are worked on: the agent that makes them needs the interpreter now."""
_LOST_EVENTS = 100_000
"""Events that are remembered as lost, so that their runs are dropped whole."""
_HELD_RUNS = 1_000
"""Ordinary runs that sampling left out and that are kept in memory a while, should somebody say something of them."""
_TOLD = 10_000
"""Ids of runs that are remembered as told."""
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


class Health(Record):
    """How the writer fares, counted since it was made."""

    recorded: int
    """Runs that were committed."""
    queued: int
    """Events that wait in the queue."""
    open: int
    """Runs that have begun and not ended."""
    pending: int
    """Ended runs that the store has not taken yet, in memory and on disk."""
    spilled: int
    """Runs that were put on disk because the store did not take them."""
    sampled_out: int
    """Ordinary runs that sampling left out."""
    failed_writes: int
    """Attempts that the store refused."""
    dropped: dict[str, int]
    """What was lost, by reason."""
    problem: str | None
    """What the store said last, while it refuses."""


class Writer:
    """Take events from any thread without making it wait, and hand runs to a sink.

    A run is recorded whole or not at all. The threads are started by the first event; they are daemons, and what they
    hold is flushed when the interpreter exits. A forked child begins anew; what was open stays the parent's.
    """

    def __init__(
        self,
        sink: RunSink,
        queue_size: int = 10_000,
        on_runs: Callable[[Sequence[Run]], None] | None = None,
        *,
        policy: Policy | None = None,
        spill: Path | None = None,
    ) -> None:
        """Write into a sink; `on_runs` is called in a thread of the recorder with runs that were just committed.

        `policy` says what is kept of a run; `spill` is a folder for runs that the store does not take.
        """
        self._sink = sink
        self._size = queue_size
        self._on_runs = on_runs
        self._policy = policy or Policy()
        self._spill = spill
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._queue: SimpleQueue[Event | _Mark] = SimpleQueue()
        self._lost: deque[Event] = deque(maxlen=_LOST_EVENTS)
        self._overflowing = False
        self._hurry = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        policy = self._policy
        self._interner = Interner(policy.redaction, policy.longest_text, policy.largest_blob)
        self._trackers: dict[object, Tracker] = {}
        self._told: OrderedDict[str, None] = OrderedDict()
        self._held: OrderedDict[str, Entry] = OrderedDict()
        self._holding = threading.Lock()
        self._sampled_out = 0
        self._dropped: Counter[str] = Counter()
        self._spool = Spool(self._sink, self._dropped, self._spill, self._on_runs)

    def put(self, event: Event) -> None:
        """Queue an event and return at once; a full queue loses it, and its run is counted as dropped."""
        if self._thread is None and not self._closed:
            self._start()
        waiting = self._queue.qsize()
        if self._closed:
            self._dropped["events after the recorder was closed"] += 1
        elif self._overflowing or waiting >= self._size:
            self._lose(event)
        else:
            self._queue.put(event)
            if waiting > self._size // 4:
                self._hurry.set()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every run that has ended is committed; return False if that takes longer or the store refuses."""
        deadline = time.monotonic() + timeout
        if self._thread is not None and self._thread.is_alive():
            mark = _Mark()
            self._queue.put(mark)
            self._hurry.set()
            if not mark.done.wait(timeout):
                return False
        return self._spool.flush(deadline)

    def rescue(self, run_id: str | None, thread_id: str | None) -> None:
        """Keep a run after all that sampling left out a moment ago: by its id, or the last one of a thread."""
        if self._policy.rate >= 1:
            return
        self.flush()
        with self._holding:
            for found, entry in reversed(self._held.items()):
                if found == run_id or (thread_id is not None and entry.recorded.run.thread_id == thread_id):
                    del self._held[found]
                    self._spool.add(entry)
                    return

    def close(self, timeout: float = 5.0) -> None:
        """Flush with a deadline and end the threads; later events are dropped."""
        with self._starting:
            thread, was_closed, self._closed = self._thread, self._closed, True
        if was_closed:
            return
        if thread is not None:
            atexit.unregister(self.close)
            self._queue.put(_Mark(last=True))
            self._hurry.set()
            thread.join(timeout)
        self._spool.close(timeout)

    def health(self) -> Health:
        """Return the counters."""
        spool = self._spool
        return Health(
            recorded=spool.recorded,
            queued=self._queue.qsize(),
            open=sum(tracker.traces for tracker in list(self._trackers.values())),
            pending=spool.waiting,
            spilled=spool.spilled,
            sampled_out=self._sampled_out,
            failed_writes=spool.failed_writes,
            dropped=dict(self._dropped),
            problem=spool.problem,
        )

    def _lose(self, event: Event) -> None:
        # From here until the writer has emptied the queue everything is lost: so the order of what is lost and what is
        # not stays known without a lock. A writer that slept by then would sleep on: nothing else comes.
        self._lost.append(event._replace(payload=None))
        self._overflowing = True
        if self._queue.empty():
            self._queue.put(_Mark())

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="learnloop-writer", daemon=True)
                thread.start()
                atexit.register(self.close)
                self._thread = thread

    def _work(self) -> None:
        last = False
        while not last:
            mark = self._drain()
            if mark is not None:
                mark.done.set()
                last = mark.last
        self._end_overflow()

    def _drain(self) -> _Mark | None:
        """Wait for events and work on them, as far as the next mark; return the mark, or None when all is done."""
        item = self._wait()
        while isinstance(item, Event):
            self._take(item)
            item = self._next()
        if item is None:
            self._end_overflow()
        return item

    def _wait(self) -> Event | _Mark | None:
        if self._overflowing:
            return self._next()
        item = self._queue.get()
        self._hurry.wait(_LINGER)
        self._hurry.clear()
        return item

    def _next(self) -> Event | _Mark | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _end_overflow(self) -> None:
        if self._overflowing:
            self._overflowing = False
            for _ in range(len(self._lost)):  # what is lost from now on is accounted for the next time
                self._take(self._lost.popleft(), lost=True)

    def _take(self, event: Event, lost: bool = False) -> None:
        source = event.source or event.agent
        tracker = self._trackers.get(source)
        if tracker is None:
            tracker = self._trackers[source] = Tracker(self._dropped)
        try:
            trace = tracker.take(event, lost)
            if trace is not None:
                self._hand_over(trace)
        except Exception:  # noqa: BLE001 - logged and counted; one strange run must not end the thread
            self._interner.take()
            self._dropped["runs that could not be told"] += 1
            _log.exception("The run around %s could not be told", event.run_id)

    def _hand_over(self, trace: Trace) -> None:
        run_id = str(trace.root.start.run_id)
        if run_id in self._told:
            return  # two recorders saw it
        self._told[run_id] = None
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
        run = assemble(trace, self._interner, self._policy)
        interned, confirm = self._interner.take()
        entry = Entry.of(Recorded(run, interned), confirm)
        if self._policy.is_sampled(run):
            self._spool.add(entry)
            return
        self._sampled_out += 1
        with self._holding:
            self._held[run.run_id] = entry
            if len(self._held) > _HELD_RUNS:
                self._held.popitem(last=False)


class _Mark:
    """A mark in the queue: whoever put it there is told when everything before it is a run."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.done = threading.Event()


def _begin_in_child() -> None:
    for writer in list(_writers):
        if not writer._closed:
            writer._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
