"""Bring finished runs into the store in batches; while it takes none, keep some in memory and the rest on disk."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.capture.messages import encode
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.messages import loads
from langgraph_learnloop.ports import RunSink
from langgraph_learnloop.records import Interned, Recorded, Run

try:
    import fcntl
except ImportError:  # Windows: files of other processes are then left to those
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_BATCH = 500
"""Runs in one transaction, at most."""
_PENDING_RUNS = 1_000
"""Runs that wait in memory, at most; beyond it they are spilled to disk."""
_PENDING_BYTES = 64_000_000
"""Bytes of messages that wait in memory, at most."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
"""Seconds between attempts on a store that does not take runs."""
_SUFFIX = ".spill"


class Entry(NamedTuple):
    """A run that waits for the store."""

    recorded: Recorded
    confirm: Callable[[], None]
    """Called when the run is stored."""
    size: int
    """Bytes of messages that it holds."""

    @classmethod
    def of(cls, recorded: Recorded, confirm: Callable[[], None]) -> Entry:
        """Return an entry with its size."""
        parts = (recorded.interned.bodies, recorded.interned.blobs)
        return cls(recorded, confirm, sum(len(data) for part in parts for data in part.values()))


class Spool:
    """Hold the runs between the writer and the store.

    A thread of its own commits them, so that a store that hangs holds nobody up. `folder` takes what does not fit into
    memory; it is brought in when the store answers again, by this process or by the next.
    """

    def __init__(
        self, sink: RunSink, dropped: Counter[str], folder: Path | None, on_runs: Callable[[Sequence[Run]], None] | None
    ) -> None:
        """Bring runs into a sink; `dropped` counts what is lost, by reason."""
        self._sink = sink
        self._dropped = dropped
        self._folder = folder
        self._on_runs = on_runs
        self._pending: deque[Entry] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ending = False
        self._hurry = False
        self._spill: _SpillFile | None = None
        self._bringing: _SpillFile | None = None
        self._orphans = folder is not None and any(folder.glob(f"*{_SUFFIX}"))
        self._retry_at = 0.0
        self._pause = _FIRST_PAUSE
        self._attempts = 0
        self._refused = 0
        """The last attempt that the store refused."""
        self._thread: threading.Thread | None = None
        self.recorded = 0
        self.spilled = 0
        self.failed_writes = 0
        self.problem: str | None = None
        if self._orphans:
            with self._changed:
                self._wake()

    @property
    def waiting(self) -> int:
        """Return how many runs the store has not taken yet."""
        return len(self._pending) + sum(file.runs for file in (self._spill, self._bringing) if file)

    def add(self, entry: Entry) -> None:
        """Take a run in; never waits for the store."""
        with self._changed:
            if len(self._pending) >= _PENDING_RUNS or self._bytes >= _PENDING_BYTES:
                self._spill_out(entry)
            else:
                self._pending.append(entry)
                self._bytes += entry.size
            self._wake()

    def flush(self, deadline: float) -> bool:
        """Wait until everything is stored; return False when the store refuses, or at `deadline` (time.monotonic())."""
        with self._changed:
            if self.waiting:
                self._hurry = True
                self._wake()
            before = self._attempts  # one that is under way may be refused for what is mended by now
            while self.waiting and self._refused <= before:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return not self.waiting

    def close(self, timeout: float) -> None:
        """Try once more for `timeout` seconds, then put what is left on disk and end the thread."""
        stored = self.flush(time.monotonic() + timeout)
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            if not stored:
                while self._pending:  # those of a transaction that hangs too: storing a run twice changes nothing
                    self._spill_out(self._pending.popleft())
                self._bytes = 0
            for file in (self._spill, self._bringing):
                if file is not None:
                    file.close()
        if self._thread is not None:
            self._thread.join(timeout if stored else 0.1)
        if not stored:
            _log.warning(
                "The recorder was closed while the store did not take %d runs: %s",
                self.waiting,
                self.problem or f"it took longer than {timeout:g} seconds",
            )

    def _wake(self) -> None:
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._work, name="learnloop-store", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ending and not self._is_due():
                    self._changed.wait(self._idle_seconds())
                if self._ending:
                    return
                self._hurry = False
                self._attempts += 1
                batch = list(islice(self._pending, _BATCH))
            if self._orphans:
                self._orphans = False
                self._bring_in_orphans()
            left = self._commit(batch)
            with self._changed:
                for _ in range(min(len(batch) - len(left), len(self._pending))):
                    self._bytes -= self._pending.popleft().size
                self._changed.notify_all()
            if not left and not self._ending and (self._spill or self._bringing):
                self._bring_in()

    def _is_due(self) -> bool:
        return (self.waiting > 0 or self._orphans) and (self._hurry or time.monotonic() >= self._retry_at)

    def _idle_seconds(self) -> float | None:
        return max(0.01, self._retry_at - time.monotonic()) if self.waiting else None

    def _commit(self, batch: list[Entry]) -> list[Entry]:
        """Store a batch; return what is to be tried again."""
        try:
            self._store(batch)
        except StoreError as error:
            self._back_off(error)
            return batch
        except Exception:  # noqa: BLE001 - logged below, with the run that is to blame
            return self._commit_one_by_one(batch)
        return []

    def _commit_one_by_one(self, batch: list[Entry]) -> list[Entry]:
        """Store what can be stored, so that one bad run does not hold up the others."""
        for number, entry in enumerate(batch):
            try:
                self._store([entry])
            except StoreError as error:
                self._back_off(error)
                return batch[number:]
            except Exception:  # noqa: BLE001 - logged and counted; what a sink may raise is not known here
                self._dropped["runs that could not be stored"] += 1
                _log.exception("The run %s could not be stored", entry.recorded.run.run_id)
        return []

    def _store(self, batch: Sequence[Entry]) -> None:
        if not batch:
            return
        self._sink.add_runs([entry.recorded for entry in batch])
        self._announce([entry.recorded.run for entry in batch])
        for entry in batch:
            entry.confirm()
        self.recorded += len(batch)
        self.problem, self._retry_at, self._pause = None, 0.0, _FIRST_PAUSE

    def _back_off(self, error: StoreError) -> None:
        if self.problem is None:
            _log.warning("The recorder keeps its runs and tries again: %s", error)
        with self._changed:
            self.failed_writes += 1
            self._refused = self._attempts
            self.problem = str(error)
            self._retry_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            self._changed.notify_all()

    def _announce(self, runs: list[Run]) -> None:
        if self._on_runs is None:
            return
        try:
            self._on_runs(runs)
        except StoreError:
            raise  # what was to be written of these runs is not: all of it is done again, and twice changes nothing
        except Exception:  # noqa: BLE001 - logged and counted; the caller's code must not end the thread
            self._dropped["calls of on_runs that failed"] += 1
            _log.exception("on_runs failed for %d recorded runs", len(runs))

    # -- on disk -------------------------------------------------------------------------------------------------------

    def _spill_out(self, entry: Entry) -> None:
        try:
            if self._folder is None:
                raise OSError("no folder was given for runs that the store does not take")
            if self._spill is None:
                self._spill = _SpillFile(self._folder)
            self._spill.add(entry.recorded)
            self.spilled += 1
        except OSError as error:
            if not self._dropped["runs that neither store nor disk took"]:
                _log.error("A run is lost: the store does not take it, and neither does the disk: %s", error)
            self._dropped["runs that neither store nor disk took"] += 1

    def _bring_in(self) -> None:
        """Store what this process spilled; what is spilled meanwhile goes into a new file."""
        with self._changed:
            if self._bringing is None:
                self._bringing, self._spill = self._spill, None
            file = self._bringing
        if file is not None and self._bring_in_file(file.path):
            with self._changed:
                file.close()
                self._bringing = None
                self._changed.notify_all()

    def _bring_in_orphans(self) -> None:
        """Store what processes left that are no more."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder is not None else ():
            with _locked(path) as mine:
                if mine:
                    self._bring_in_file(path)

    def _bring_in_file(self, path: Path) -> bool:
        try:
            each = _read(path, self._dropped)
            # Nothing is confirmed of them: what was spilled is stored again if it is needed again.
            while batch := [Entry.of(recorded, lambda: None) for recorded in islice(each, _BATCH)]:
                if self._commit(batch):
                    return False
            path.unlink(missing_ok=True)
        except FileNotFoundError:  # nothing is left to be tried again
            self._dropped["files of spilled runs that somebody removed"] += 1
            _log.error("The runs that were spilled into %s are lost: somebody removed the file", path)
        except OSError as error:
            self._back_off(
                StoreError(f"The spilled runs in {str(path)!r} cannot be read now: {error}. Make the file readable.")
            )
            return False
        return True


class _SpillFile:
    """A file of runs, one JSON object a line; locked as long as its process lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{uuid.uuid4().hex}{_SUFFIX}"
        self._stream: IO[bytes] = self.path.open("ab")
        self.runs = 0
        if fcntl is not None:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def add(self, recorded: Recorded) -> None:
        """Append a run; what was half written, as on a full disk, is cut off again."""
        end = self._stream.tell()
        try:
            self._stream.write(_line(recorded))
            self._stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._stream.truncate(end)
            raise
        self.runs += 1

    def close(self) -> None:
        """Let go of the file; a second time does nothing."""
        if self._stream.closed:
            return
        with contextlib.suppress(OSError):
            os.fsync(self._stream.fileno())
        with contextlib.suppress(OSError):
            self._stream.close()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Yield whether a file is there and nobody else holds it, and hold it meanwhile."""
    if fcntl is None:
        yield False
        return
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield path.exists()  # who held it until now may have brought it in, and removed it
    except FileNotFoundError:
        yield False


def _line(recorded: Recorded) -> bytes:
    bodies, lists, blobs = recorded.interned
    said = {"run": recorded.run.model_dump(mode="json"), "lists": dict(lists)}
    return encode({**said, "bodies": _texts(bodies.items()), "blobs": _texts(blobs.items())}) + b"\n"


def _texts(items: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    return {key: base64.b64encode(data).decode("ascii") for key, data in items}


def _read(path: Path, dropped: Counter[str]) -> Iterator[Recorded]:
    """Yield the runs of a spill file; a line that is not whole was never acknowledged, and is counted."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                said = loads(line)
                yield Recorded(
                    Run.model_validate(said["run"]),
                    Interned(
                        {key: base64.b64decode(data) for key, data in said["bodies"].items()},
                        {key: (parent, tuple(items)) for key, (parent, items) in said["lists"].items()},
                        {key: base64.b64decode(data) for key, data in said["blobs"].items()},
                    ),
                )
            except (ValueError, KeyError, TypeError, ValidationError):
                dropped["spilled runs that cannot be read"] += 1
