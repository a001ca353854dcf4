"""The thread between the agent and the store: takes events, makes runs of them, commits them in batches."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from langgraph_learnloop.capture.assemble import assemble
from langgraph_learnloop.capture.events import Event
from langgraph_learnloop.capture.messages import Interner
from langgraph_learnloop.capture.trace import Tracker
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.ports import RunSink
from langgraph_learnloop.records import Record, Run

_log = logging.getLogger(__name__)

_LINGER = 0.02
"""Seconds that events may gather before they are worked on, so that a busy agent is not woken for each."""
_BATCH_EVENTS = 2_000
"""Events between two commits, at most."""
_PENDING_RUNS = 1_000
"""Runs that are kept while the store does not take them; beyond it the oldest are dropped, and counted."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds between attempts on a store that does not take runs."""
_LOST_EVENTS = 100_000
"""Events that are remembered as lost, so that their runs are dropped whole."""


class Health(Record):
    """How the writer fares, counted since it was made."""

    recorded: int
    """Runs that were committed."""
    queued: int
    """Events that wait in the queue."""
    open: int
    """Runs that have begun and not ended."""
    pending: int
    """Ended runs that the store has not taken yet."""
    failed_writes: int
    """Attempts that the store refused."""
    dropped: dict[str, int]
    """What was not recorded, by reason."""
    problem: str | None
    """What the store said last, while it refuses."""


class Writer:
    """Take events from any thread without making it wait, and hand runs to a sink.

    A run is recorded whole or not at all. The thread is started by the first event; it is a daemon, and what it holds
    is flushed when the interpreter exits.
    """

    def __init__(
        self, sink: RunSink, queue_size: int = 10_000, on_runs: Callable[[Sequence[Run]], None] | None = None
    ) -> None:
        """Write into a sink; `on_runs` is called in the writer's thread with runs that were just committed."""
        self._sink = sink
        self._size = queue_size
        self._on_runs = on_runs
        self._queue: SimpleQueue[Event | _Mark] = SimpleQueue()
        self._lost: deque[Event] = deque(maxlen=_LOST_EVENTS)
        self._overflowing = False
        self._hurry = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._interner = Interner()
        self._trackers: dict[str, Tracker] = {}
        self._pending: deque[tuple[Run, dict[str, bytes]]] = deque()
        self._retry_at = 0.0
        self._pause = _FIRST_PAUSE
        self._recorded = 0
        self._failed_writes = 0
        self._problem: str | None = None
        self._dropped: Counter[str] = Counter()

    def put(self, event: Event) -> None:
        """Queue an event and return at once; a full queue loses it, and its run is counted as dropped."""
        if self._thread is None and not self._closed:
            self._start()
        if self._closed:
            self._dropped["events after the recorder was closed"] += 1
        elif self._overflowing or self._queue.qsize() >= self._size:
            self._lose(event)
        else:
            self._queue.put(event)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until every run that has ended is committed; return False if that takes longer or the store refuses."""
        if self._thread is None or not self._thread.is_alive():
            return not self._pending
        mark = _Mark()
        self._queue.put(mark)
        self._hurry.set()
        return mark.done.wait(timeout) and mark.committed

    def close(self, timeout: float = 5.0) -> None:
        """Flush with a deadline and end the thread; later events are dropped."""
        with self._starting:
            thread, was_closed, self._closed = self._thread, self._closed, True
        if thread is None or was_closed:
            return
        atexit.unregister(self.close)
        mark = _Mark(last=True)
        self._queue.put(mark)
        self._hurry.set()
        thread.join(timeout)
        if self._pending or thread.is_alive():
            _log.warning(
                "The recorder was closed with %d runs that the store did not take: %s",
                len(self._pending),
                self._problem or f"it took longer than {timeout:g} seconds",
            )

    def health(self) -> Health:
        """Return the counters."""
        return Health(
            recorded=self._recorded,
            queued=self._queue.qsize(),
            open=sum(tracker.traces for tracker in list(self._trackers.values())),
            pending=len(self._pending),
            failed_writes=self._failed_writes,
            dropped=dict(self._dropped),
            problem=self._problem,
        )

    def _lose(self, event: Event) -> None:
        # From here until the writer has emptied the queue everything is lost: so the order of what is lost and what is
        # not stays known without a lock.
        wake = not self._overflowing
        self._overflowing = True
        self._lost.append(event._replace(payload=None))
        if wake:
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
            self._commit(at_once=mark is not None)
            if mark is not None:
                mark.committed = not self._pending
                mark.done.set()
                last = mark.last
        self._end_overflow()

    def _drain(self) -> _Mark | None:
        """Wait for events and work on them, as far as the next mark; return the mark."""
        item = self._wait()
        stragglers = len(self._lost)
        if not self._overflowing:
            self._mourn(stragglers)
        for _ in range(_BATCH_EVENTS):
            if item is None:
                self._end_overflow()
                return None
            if isinstance(item, _Mark):
                return item
            self._take(item)
            item = self._next()
        return self._take_last(item)

    def _take_last(self, item: Event | _Mark | None) -> _Mark | None:
        if isinstance(item, Event):
            self._take(item)
            return None
        return item

    def _wait(self) -> Event | _Mark | None:
        if self._overflowing:
            return self._next()
        timeout = max(0.0, self._retry_at - time.monotonic()) if self._pending else None
        try:
            item = self._queue.get(timeout=timeout)
        except Empty:
            return None
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
            self._mourn(len(self._lost))

    def _mourn(self, count: int) -> None:
        for _ in range(count):
            self._take(self._lost.popleft(), lost=True)

    def _take(self, event: Event, lost: bool = False) -> None:
        tracker = self._trackers.get(event.agent)
        if tracker is None:
            tracker = self._trackers[event.agent] = Tracker(self._dropped)
        try:
            trace = tracker.take(event, lost)
            if trace is not None:
                self._pending.append((assemble(trace, self._interner), self._interner.take()))
        except Exception:  # noqa: BLE001 - logged and counted; one strange run must not end the thread
            self._interner.take()
            self._count("runs that could not be told", "The run around %s could not be told", event.run_id)
        while self._problem and len(self._pending) > _PENDING_RUNS:
            self._pending.popleft()
            self._dropped["runs that the store did not take"] += 1

    def _commit(self, at_once: bool) -> None:
        if not self._pending or (not at_once and time.monotonic() < self._retry_at):
            return
        try:
            self._store(list(self._pending))
        except StoreError as error:
            self._back_off(error)
        except Exception:  # noqa: BLE001 - logged below, with the run that is to blame
            self._commit_one_by_one()

    def _store(self, batch: list[tuple[Run, dict[str, bytes]]]) -> None:
        runs = [run for run, _ in batch]
        messages = {key: body for _, bodies in batch for key, body in bodies.items()}
        self._sink.add_runs(runs, messages)
        for _ in batch:
            self._pending.popleft()
        self._recorded += len(runs)
        self._problem, self._retry_at, self._pause = None, 0.0, _FIRST_PAUSE
        self._announce(runs)

    def _commit_one_by_one(self) -> None:
        """Store what can be stored, so that one bad run does not hold up the others."""
        for entry in list(self._pending):
            try:
                self._store([entry])
            except StoreError as error:
                self._back_off(error)
                return
            except Exception:  # noqa: BLE001 - logged and counted; what a sink may raise is not known here
                self._pending.popleft()
                self._count("runs that could not be stored", "The run %s could not be stored", entry[0].run_id)

    def _back_off(self, error: StoreError) -> None:
        if self._problem is None:
            _log.warning("The recorder keeps its runs and tries again: %s", error)
        self._failed_writes += 1
        self._problem = str(error)
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _announce(self, runs: list[Run]) -> None:
        if self._on_runs is None:
            return
        try:
            self._on_runs(runs)
        except Exception:  # noqa: BLE001 - logged and counted; the caller's code must not end the thread
            self._count("calls of on_runs that failed", "on_runs failed for %d recorded runs", len(runs))

    def _count(self, reason: str, message: str, subject: object) -> None:
        self._dropped[reason] += 1
        _log.exception(message, subject)


class _Mark:
    """A mark in the queue: everything before it is to be committed."""

    def __init__(self, last: bool = False) -> None:
        self.last = last
        self.done = threading.Event()
        self.committed = False
