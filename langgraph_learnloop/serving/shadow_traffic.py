"""Ask a candidate what the champion has just been asked; nobody sees what it says, and nobody waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.records import Generated, Message, ShadowAnswer, content_hash

_REMEMBERED = 50_000
"""Threads that are remembered as asked."""
_log = logging.getLogger(__name__)

Ask = Callable[[], Generated]
"""Has the candidate answer a request."""


class ShadowTraffic:
    """Put the first request of a thread to a candidate, one at a time, in a thread of its own."""

    def __init__(
        self,
        keep: Callable[[ShadowAnswer], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        waiting: int = 8,
    ) -> None:
        """Hand each answer's figures to `keep`, and no texts; so many requests wait at most, more are not put to it."""
        self.keep, self.now = keep, now
        self._asked: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)

    def offer(self, rollout_id: str, thread_id: str, ask: Ask, answer: Message, seconds: float) -> bool:
        """Put a request to the candidate when there is room, and return whether there was; it never waits."""
        key = (rollout_id, content_hash(thread_id))
        with self._lock:
            if key in self._asked:
                return False
            try:
                self._queue.put_nowait(lambda: self._compare(key, ask, answer, seconds))
            except queue.Full:
                return False
            self._asked[key] = None
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="learnloop-shadow", daemon=True)
                self._worker.start()
        return True

    def wait(self) -> None:
        """Wait until the candidate has answered all that was put to it."""
        self._queue.join()

    def stop(self) -> None:
        """End the thread; what waits is not asked any more."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is None:
            return
        while True:
            try:
                self._queue.get_nowait()
                self._queue.task_done()
            except queue.Empty:
                break
        self._queue.put(None)
        worker.join()

    def _work(self) -> None:
        while True:
            work = self._queue.get()
            try:
                if work is None:
                    return
                work()
            except Exception:  # noqa: BLE001 - a candidate that breaks must not end the comparison
                _log.exception("An answer in the shadow could not be kept.")
            finally:
                self._queue.task_done()

    def _compare(self, key: tuple[str, str], ask: Ask, answer: Message, seconds: float) -> None:
        began = time.perf_counter()
        error, said = None, None
        try:
            said = ask().message
        except LearnLoopError as failed:
            error = str(failed)
        took = time.perf_counter() - began
        self.keep(
            ShadowAnswer(
                rollout_id=key[0],
                thread=key[1],
                same=said is not None and said.alike(answer),
                error=error,
                seconds=took,
                champion_seconds=seconds,
                at=self.now(),
            )
        )
