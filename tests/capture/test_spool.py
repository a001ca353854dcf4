"""Between the writer and a store that is slow, gone, full, or back again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.capture import spool as module
from langgraph_learnloop.capture.spool import Entry, Spool
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Interned, Recorded, Run

Make = Callable[..., Spool]


def entry(name: str, size: int = 10) -> Entry:
    """Return a run with a body and a list."""
    run = Run(run_id=name, agent="a", outcome="finished", started_at=datetime(2026, 1, 1, tzinfo=UTC))
    interned = Interned({f"b-{name}": bytes(size)}, {f"l-{name}": (None, (f"b-{name}",))}, {f"f-{name}": b"image"})
    return Entry.of(Recorded(run, interned), lambda: None)


@pytest.fixture
def make(sink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of spools into the sink that keep two runs in memory and try again at once."""
    monkeypatch.setattr(module, "_PENDING_RUNS", 2)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.02)
    return lambda folder=tmp_path / "spill", **more: Spool(sink, more.get("dropped", Counter()), folder, None)


def flush(spool: Spool, seconds: float = 20) -> bool:
    """Flush, as often as the store refuses within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if spool.flush(deadline):
            return True
    return False


def test_what_does_not_fit_into_memory_waits_on_disk(make: Make, sink: Any, tmp_path: Path) -> None:
    """While the store refuses, two runs are in memory and the rest on disk; when it answers, all are stored whole."""
    sink.failure = StoreError("gone")
    dropped: Counter[str] = Counter()
    spool = make(dropped=dropped)
    for number in range(50):
        spool.add(entry(str(number)))
    assert (spool.spilled, spool.waiting) == (48, 50)
    assert len(list((tmp_path / "spill").glob("*.spill"))) == 1
    sink.failure = None
    assert flush(spool)
    assert set(sink.runs) == {str(number) for number in range(50)}
    assert set(sink.bodies) == {f"b-{number}" for number in range(50)}
    assert sink.lists["l-49"] == (None, ("b-49",))
    assert sink.blobs["f-49"] == b"image"
    assert list((tmp_path / "spill").iterdir()) == []
    assert dropped == {}
    spool.close(5)


def test_a_large_run_waits_on_disk_too(make: Make, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded in bytes as well."""
    monkeypatch.setattr(module, "_PENDING_RUNS", 1_000)
    monkeypatch.setattr(module, "_PENDING_BYTES", 1_000_000)
    sink.failure = StoreError("gone")
    spool = make()
    for number in range(5):
        spool.add(entry(str(number), 600_000))
    assert spool.spilled == 3
    sink.failure = None
    assert flush(spool)
    assert len(sink.runs) == 5
    spool.close(5)


def test_what_a_dead_process_left_is_brought_in_by_the_next(make: Make, sink: Any, tmp_path: Path) -> None:
    """A process that ended while the store was gone leaves a file; whoever starts next stores it."""
    sink.failure = StoreError("gone")
    spool = make()
    for number in range(5):
        spool.add(entry(str(number)))
    spool.close(0.05)
    assert sink.runs == {}
    sink.failure = None
    arrived = threading.Event()
    following = Spool(sink, Counter(), tmp_path / "spill", lambda runs: arrived.set())
    assert arrived.wait(20)
    following.close(5)
    assert set(sink.runs) == {"0", "1", "2", "3", "4"}
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_living_process_keeps_its_file(make: Make, sink: Any, tmp_path: Path) -> None:
    """A file that its process still holds is not brought in by another."""
    folder = tmp_path / "spill"
    code = (
        "import sys\nfrom collections import Counter\nfrom pathlib import Path\n"
        "from langgraph_learnloop.capture.spool import _SpillFile\n"
        "from tests.capture.test_spool import entry\n"
        "file = _SpillFile(Path(sys.argv[1])); file.add(entry('theirs').recorded); print('ready', flush=True)\n"
        "sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    spool = make()
    spool.add(entry("mine"))
    assert flush(spool)
    assert set(sink.runs) == {"mine"}
    process.communicate("\n", timeout=30)
    spool.close(5)
    later = make()
    later.add(entry("later"))
    assert flush(later)
    later.close(5)
    assert set(sink.runs) == {"mine", "theirs", "later"}


def test_a_torn_line_is_counted_and_the_rest_is_stored(make: Make, sink: Any, tmp_path: Path) -> None:
    """What a power cut left by halves was never acknowledged; what stands before it is not lost."""
    sink.failure = StoreError("gone")
    spool = make()
    for number in range(5):
        spool.add(entry(str(number)))
    spool.close(0.05)
    (file,) = (tmp_path / "spill").iterdir()
    file.write_bytes(file.read_bytes()[:-40] + b"\n[]\n{}\n")
    sink.failure = None
    dropped: Counter[str] = Counter()
    following = make(dropped=dropped)
    following.add(entry("new"))
    assert flush(following)
    following.close(5)
    assert len(sink.runs) == 5
    assert dropped == {"spilled runs that cannot be read": 3}


def test_without_store_and_disk_the_loss_is_counted(make: Make, sink: Any, tmp_path: Path) -> None:
    """When the disk takes nothing either, what is lost is counted, and the agent goes on."""
    (tmp_path / "file").write_text("in the way")
    sink.failure = StoreError("gone")
    dropped: Counter[str] = Counter()
    spool = make(tmp_path / "file", dropped=dropped)
    for number in range(5):
        spool.add(entry(str(number)))
    assert dropped == {"runs that neither store nor disk took": 3}
    sink.failure = None
    assert flush(spool)
    assert len(sink.runs) == 2
    spool.close(5)


def test_a_store_that_hangs_holds_nobody_up(sink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go to the disk while a transaction hangs; closing waits no longer than it is told, and loses nothing."""
    monkeypatch.setattr(module, "_PENDING_RUNS", 2)
    gate, real = threading.Event(), sink.add_runs
    entered = threading.Event()

    def hang(recorded: Any) -> None:
        entered.set()
        gate.wait(30)
        real(recorded)

    sink.add_runs = hang
    spool = Spool(sink, Counter(), tmp_path / "spill", None)
    spool.add(entry("0"))
    assert entered.wait(10)
    for number in range(1, 10):
        spool.add(entry(str(number)))
    spool.close(0.05)
    assert sum(len(file.read_bytes().splitlines()) for file in (tmp_path / "spill").iterdir()) == 10
    gate.set()
