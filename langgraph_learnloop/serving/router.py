"""Say which release a thread gets: the one it began with; a new one the champion, or the candidate of a rollout."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from langgraph_learnloop.errors import NotFoundError, StoreError
from langgraph_learnloop.ports import Routing, ThreadPins
from langgraph_learnloop.records import Routes

_PARTS = 10_000
"""Parts of a hundred percent that threads are dealt out in."""
_log = logging.getLogger(__name__)


def is_chosen(thread_id: str, salt: str, percent: float) -> bool:
    """Return whether a thread is among the given percent; who is stays so when the percent grows."""
    digest = hashlib.sha256(f"{salt}\n{thread_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) % _PARTS < percent * _PARTS / 100


class Router:
    """Send each thread to one release for as long as it lives, unless that release is rolled back.

    The routes are read at most every `poll_seconds` of `clock`. Pins are remembered for the last `max_threads` threads;
    an older thread's pin is asked for again. While the store cannot be reached, what was live goes on being served.
    With `keep` False a thread goes on with its release only while that is the champion or the candidate.

    Once `only` was called, new threads get what is named there and nothing else: a new champion that this process could
    not load and prove yet leaves them to the one before it.
    """

    # No dataclass, as the shadow's is none: pydantic 2.10 would look into the fields for `LiveModel`.
    def __init__(
        self,
        source: Routing,
        pins: ThreadPins,
        poll_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        max_threads: int = 100_000,
        keep: bool = True,
    ) -> None:
        self.source, self.pins = source, pins
        self.poll_seconds, self.clock = poll_seconds, clock
        self.max_threads, self.keep = max_threads, keep
        self._proven: frozenset[str] | None = None
        self._before: str | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[str, str] = OrderedDict()
        self._routes: Routes | None = None
        self._read_at = 0.0

    def release_for(self, thread_id: str | None) -> str:
        """Return the release id that serves a thread; None (no thread) gets the champion."""
        routes = self._current()
        if thread_id is None:
            return routes.champion
        with self._lock:
            known = self._known.get(thread_id)
            if known is not None and not self._left(known, routes):
                self._known.move_to_end(thread_id)
                return known
        pinned = self._pinned(thread_id, routes)
        with self._lock:
            self._known[thread_id] = pinned
            if len(self._known) > self.max_threads:
                self._known.popitem(last=False)
        return pinned

    def refresh(self) -> Routes:
        """Read the routes now and return them, as they are in the registry."""
        routes = self.source.routes()
        with self._lock:
            self._routes, self._read_at = routes, self.clock()
        return routes

    def only(self, proven: Collection[str]) -> Routes:
        """Give new threads only releases that are named here; return the routes as they are followed then."""
        with self._lock:
            self._proven = frozenset(proven)
            if self._routes is None:
                raise NotFoundError("The routes were never read: call refresh() first.")
            if self._routes.champion in self._proven:
                self._before = self._routes.champion
            return self._followed(self._routes)

    def unseen(self) -> Routes | None:
        """Return the routes while a candidate is asked in the shadow, and this process can ask it."""
        with self._lock:
            routes = self._routes
            return routes if routes is not None and routes.shadow and routes.candidate in (self._proven or ()) else None

    def in_use(self) -> set[str]:
        """Return the releases that the remembered threads and the routes name."""
        with self._lock:
            routes = self._routes
            named = {routes.champion, routes.candidate} - {None} if routes is not None else set[str]()
            refused = routes.refused if routes is not None else frozenset()
            return {release for release in (*self._known.values(), *named) if release and release not in refused}

    def _pinned(self, thread_id: str, routes: Routes) -> str:
        """Return the release that a thread is pinned to, for every process; the first who asks decides."""
        chosen = routes.champion
        if routes.candidate is not None and is_chosen(thread_id, routes.salt, routes.percent):
            chosen = routes.candidate
        try:
            pinned = self.pins.pin(thread_id, chosen)
            if self._left(pinned, routes):
                pinned = self.pins.repin(thread_id, {pinned}, routes.champion)
        except StoreError as error:
            _log.warning("A new thread gets %r without its being kept in the store: %s", chosen, error)
            return chosen
        return pinned

    def _left(self, release_id: str, routes: Routes) -> bool:
        """Return whether threads that have begun with a release go on with another."""
        if release_id in routes.refused:
            return True
        return not self.keep and release_id not in (routes.champion, routes.candidate)

    def _followed(self, routes: Routes) -> Routes:
        """Return the routes without what this process cannot serve."""
        if self._proven is None:
            return routes
        if routes.champion not in self._proven and self._before is not None:
            routes = routes._replace(champion=self._before)
        return routes if routes.candidate in self._proven else routes._replace(candidate=None, percent=0)

    def _current(self) -> Routes:
        with self._lock:
            known = self._routes
            if known is not None and self.clock() - self._read_at < self.poll_seconds:
                return self._followed(known)
        try:
            return self._followed(self.refresh())
        except (StoreError, NotFoundError) as error:
            if known is None:
                raise
            _log.warning("What was live goes on being served: %s", error)
            with self._lock:
                self._read_at = self.clock()  # not to wait for the store at every request
            return self._followed(known)
