"""Say which release a thread gets: the one it started with, or the champion for a new thread."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from langgraph_learnloop.ports import Champion, ThreadPins


class Router:
    """Send each thread to one release for as long as it lives.

    The champion's pointer is read at most every `poll_seconds` of `clock`. Pins are remembered for the last
    `max_threads` threads; an older thread's pin is asked for again.
    """

    def __init__(
        self,
        champion: Champion,
        pins: ThreadPins,
        poll_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        max_threads: int = 100_000,
    ) -> None:
        self._source = champion
        self._pins = pins
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._max_threads = max_threads
        self._lock = threading.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()
        self._champion: str | None = None
        self._read_at = 0.0

    def release_for(self, thread_id: str | None) -> str:
        """Return the release id that serves a thread; None (no thread) gets the champion."""
        if thread_id is None:
            return self._current()
        with self._lock:
            known = self._known.get(thread_id)
            if known is not None:
                self._known.move_to_end(thread_id)
                return known
        return self._remember(thread_id, self._pins.pin(thread_id, self._current()))

    def refresh(self) -> str:
        """Read the champion's pointer now and return it."""
        champion = self._source.champion()
        with self._lock:
            self._champion, self._read_at = champion, self._clock()
        return champion

    def in_use(self) -> set[str]:
        """Return the releases that the remembered threads and the champion's pointer name."""
        with self._lock:
            return set(self._known.values()) | ({self._champion} if self._champion is not None else set())

    def _current(self) -> str:
        with self._lock:
            if self._champion is not None and self._clock() - self._read_at < self._poll_seconds:
                return self._champion
        return self.refresh()

    def _remember(self, thread_id: str, release_id: str) -> str:
        with self._lock:
            self._known[thread_id] = release_id
            if len(self._known) > self._max_threads:
                self._known.popitem(last=False)
        return release_id
