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
from types import SimpleNamespace
from typing import Any

import pytest

from langgraph_learnloop.capture import spool as module
from langgraph_learnloop.capture.spool import Entry, Spool, _locked, _SpillFile
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Interned, Recorded, Run, Step, ToolCall

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


def test_a_file_belongs_to_who_writes_it(tmp_path: Path) -> None:
    """Nobody else gets it before it is closed; who gets it keeps others away meanwhile; one that is gone has none."""
    file = _SpillFile(tmp_path / "deep" / "spill")
    file.add(entry("1").recorded)
    with _locked(file.path) as mine:
        assert not mine
    file.close()
    file.close()
    with _locked(file.path) as mine, _locked(file.path) as others:
        assert (mine, others) == (True, False)
    assert len(file.path.read_bytes().splitlines()) == file.runs == 1
    with _locked(tmp_path / "gone.spill") as mine:
        assert not mine


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path: Path) -> None:
    """What was half written is cut off again, so that what follows can be read."""
    file = _SpillFile(tmp_path)
    file.add(entry("1").recorded)
    real, whole = file._stream, file.path.read_bytes()

    class Full:
        """Take ten bytes, and no more."""

        def write(self, data: bytes) -> None:
            real.write(data[:10])
            real.flush()
            raise OSError("No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    file._stream = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        file.add(entry("2").recorded)
    file._stream = real
    assert (file.runs, file.path.read_bytes()) == (1, whole)
    file.add(entry("3").recorded)
    file.close()
    dropped: Counter[str] = Counter()
    assert [one.run.run_id for one in module._read(file.path, dropped)] == ["1", "3"]
    assert dropped == {}


def test_a_spilled_run_comes_back_whole(tmp_path: Path) -> None:
    """What is read from the disk is what was put there: run, bodies, lists with and without a parent, blobs."""
    one = entry("1").recorded
    lists = {**one.interned.lists, "l-2": ("l-1", ("b-1", "b-1"))}
    one = Recorded(one.run, one.interned._replace(lists=lists))
    file = _SpillFile(tmp_path)
    file.add(one)
    file.close()
    assert list(module._read(file.path, Counter())) == [one]
    assert Entry.of(one, lambda: None).size == 10 + len(b"image")


def test_numbers_beyond_64_bits_are_spilled_too(tmp_path: Path) -> None:
    """A tool's argument of any size costs no run on its way over the disk, and comes back to the last digit."""
    step = Step(
        step_id="s", parent_id=None, kind="model", name="m", started_at=datetime(2026, 1, 1, tzinfo=UTC),
        tool_calls=(ToolCall(name="f", args={"big": 10**30, "least": -(2**63) - 1}),),
    )  # fmt: skip
    one = entry("1").recorded
    one = Recorded(one.run.model_copy(update={"steps": (step,)}), one.interned)
    file = _SpillFile(tmp_path)
    file.add(one)
    file.close()
    (read,) = module._read(file.path, Counter())
    assert read == one
    assert repr(read.run.steps[0].tool_calls[0].args["big"]) == repr(10**30)


@pytest.mark.parametrize("when", ["before it is read", "while it is stored"])
def test_a_file_that_somebody_removes_holds_nobody_up(make: Make, sink: Any, tmp_path: Path, when: str) -> None:
    """Its runs are lost if they were not read yet, and counted; those in memory and those to come are stored."""
    sink.failure = StoreError("gone")
    dropped: Counter[str] = Counter()
    spool = make(dropped=dropped)
    for number in range(5):
        spool.add(entry(str(number)))
    real = sink.add_runs

    def remove(recorded: Any) -> None:
        real(recorded)
        if when == "before it is read" or recorded[0].run.run_id == "2":
            for path in (tmp_path / "spill").glob("*.spill"):
                path.unlink()

    sink.failure, sink.add_runs = None, remove
    assert flush(spool)
    spool.add(entry("new"))
    assert flush(spool)
    assert spool.problem is None
    spool.close(5)
    if when == "before it is read":
        assert (set(sink.runs), dropped) == ({"0", "1", "new"}, {"files of spilled runs that somebody removed": 1})
    else:
        assert (set(sink.runs), dropped) == ({"0", "1", "2", "3", "4", "new"}, {})


def test_flush_does_not_wait_for_the_pause(make: Make, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks has it tried at once, however long the pause that a refusal began; nothing is counted as held."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 1_000.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 1_000.0)
    sink.failure = StoreError("gone")
    spool = make()
    spool.add(entry("1", 50))
    assert not spool.flush(time.monotonic() + 30)
    sink.failure = None
    assert flush(spool, 30)
    assert (spool._bytes, spool.waiting, list(sink.runs)) == (0, 0, ["1"])
    spool.close(5)


def test_a_file_that_cannot_be_read_now_is_read_later(
    make: Make, sink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the disk refuses is told and tried again, and no run of it is given up."""
    sink.failure = StoreError("gone")
    spool = make()
    for number in range(5):
        spool.add(entry(str(number)))
    faults, real = [PermissionError("not now")], module._read

    def read(path: Path, dropped: Counter[str]) -> Any:
        if faults:
            raise faults.pop()
        return real(path, dropped)

    monkeypatch.setattr(module, "_read", read)
    sink.failure = None
    assert flush(spool)
    assert not faults
    assert len(sink.runs) == 5
    assert "cannot be read now: not now. Make the file readable." in caplog.text
    spool.close(5)


def test_a_spill_file_is_on_the_disk_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked to write it out, so that a power cut after that costs no run."""
    asked: list[int] = []
    monkeypatch.setattr(module.os, "fsync", asked.append)
    file = _SpillFile(tmp_path)
    file.add(entry("1").recorded)
    number = file._stream.fileno()
    file.close()
    assert asked == [number]


def test_flush_waits_as_long_as_it_may(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second before the deadline it is still waited; at the deadline it is not."""
    gate, real_add = threading.Event(), sink.add_runs

    def hang(recorded: Any) -> None:
        assert gate.wait(30)
        real_add(recorded)

    sink.add_runs = hang
    spool = Spool(sink, Counter(), None, None)
    spool.add(entry("1"))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    assert not spool.flush(100.0)
    real_wait, main = spool._changed.wait, threading.current_thread()

    def wait(seconds: float | None = None) -> bool:
        if threading.current_thread() is main:
            gate.set()
            return real_wait(30)
        return real_wait(seconds)

    monkeypatch.setattr(spool._changed, "wait", wait)
    assert spool.flush(100.5)
    spool.close(5)
    assert list(sink.runs) == ["1"]


def test_pauses_grow_to_a_bound(make: Make, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal doubles the pause up to the longest; a success begins anew."""
    monkeypatch.setattr(module, "_FIRST_PAUSE", 1.0)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 5.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    monkeypatch.setattr(Spool, "_wake", lambda self: None)
    spool = make()
    spool._pause, tries = 1.0, []
    for _ in range(5):
        spool._back_off(StoreError("gone"))
        tries.append(spool._retry_at)
    assert tries == [101.0, 102.0, 104.0, 105.0, 105.0]
    assert (spool.failed_writes, spool.problem) == (5, "gone")
    assert spool._idle_seconds() is None
    spool.add(entry("1"))
    assert (spool._idle_seconds(), spool._is_due()) == (5.0, False)
    spool._hurry = True
    assert spool._is_due()
    spool._store([entry("2")])
    assert (spool._retry_at, spool._pause, spool.problem, spool.recorded) == (0.0, 1.0, None, 1)
    assert (spool._idle_seconds(), spool._is_due()) == (0.01, True)


def test_a_file_that_its_last_holder_brought_in_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of a file and its lock, who held it may have stored its runs and removed it: none is lost."""
    if module.fcntl is None:
        pytest.skip("files are not locked here")
    path = tmp_path / "left.spill"
    path.write_bytes(b"{}\n")
    lock = module.fcntl.flock

    def too_late(stream: Any, how: int) -> None:
        path.unlink()
        lock(stream, how)

    monkeypatch.setattr(module.fcntl, "flock", too_late)
    with _locked(path) as mine:
        assert not mine
