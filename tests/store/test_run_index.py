"""The index of runs in a folder: what is kept there survives, one process has it at a time, damage has a way out.

What it shares with the other indexes is in tests/test_run_indexes.py.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langgraph_learnloop.errors import DataError, MissingExtraError, StoreError
from langgraph_learnloop.records import RunPoint
from langgraph_learnloop.store import run_index
from langgraph_learnloop.store.run_index import EdgeIndex

ROOT = Path(__file__).parent.parent.parent
S, A = "texts", "support"


class Clock:
    """A clock that moves when somebody sleeps, and then does something."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.now = 0.0
        self.then = then

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "similar"


@pytest.fixture
def index(folder: Path) -> Iterator[EdgeIndex]:
    made = EdgeIndex(folder)
    yield made
    made.close()


def point(run_id: str, *vector: float) -> RunPoint:
    return RunPoint(run_id, A, vector or (1.0, 0.0))


def place(folder: Path) -> Path:
    """Return the folder of the only space."""
    (found,) = (one for one in folder.iterdir() if one.is_dir())
    return found


def waiting(folder: Path, clock: Clock, patience: float = 10.0) -> EdgeIndex:
    return EdgeIndex(folder, patience, clock=clock, sleep=clock.sleep)


def in_a_process(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start a process that does something with `index`."""
    begin = (
        "import os, signal, sys; from langgraph_learnloop.records import RunPoint;"
        "from langgraph_learnloop.store.run_index import EdgeIndex; index = EdgeIndex(sys.argv[1]);"
    )
    command = [sys.executable, "-c", begin + code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_what_was_added_survives_a_kill(folder: Path, index: EdgeIndex) -> None:
    """A process that is killed right after `add` returned has lost nothing, and blocks nobody."""
    killed = in_a_process(
        folder,
        "index.add('texts', [RunPoint('r', 'support', (1.0, 0.0))]);"
        "index.add('texts', [RunPoint('s', 'support', (0.0, 1.0))]); os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert killed.wait(60) == -signal.SIGKILL
    assert index.size(S, A) == 2
    assert [one.run_id for one in index.near(S, [0, 1], 2, A)] == ["s", "r"]


def test_another_process_is_waited_for_and_then_named(folder: Path) -> None:
    """One process at a time: the second one waits, and says what to do when its patience ends."""
    code = "index.add('texts', [RunPoint('r', 'support', (1.0, 0.0))]); print('there', flush=True); sys.stdin.read()"
    with in_a_process(folder, code) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "there\n"
        clock = Clock()
        with pytest.raises(StoreError, match=r"in use for 3 seconds: close it in the other process"):
            waiting(folder, clock, patience=3.0).size(S, A)
        assert clock.now == pytest.approx(3.0, abs=0.1)
        other.communicate()  # it ends
    late = waiting(folder, Clock())
    assert late.size(S, A) == 1
    late.close()


def test_it_goes_on_as_soon_as_the_other_lets_go(folder: Path, index: EdgeIndex) -> None:
    """Within its patience, the second one only waits."""
    index.add(S, [point("r")])
    clock = Clock(then=index.close)
    second = waiting(folder, clock)
    assert second.size(S, A) == 1
    assert 0 < clock.now < 1
    with pytest.raises(StoreError, match="in use"):
        waiting(folder, Clock()).add(S, [point("s")])
    second.close()
    index.add(S, [point("s")])
    assert index.size(S, A) == 2


def test_what_was_not_made_to_the_end_is_made_anew(folder: Path, index: EdgeIndex) -> None:
    """A space whose making was cut off holds nothing, and is no obstacle."""
    index.add(S, [point("r")])
    index.close()
    (place(folder) / "space.json").unlink()
    assert index.near(S, [1, 0], 1, A) == ()
    index.add(S, [point("s")])
    assert [one.run_id for one in index.near(S, [1, 0], 9, A)] == ["s"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "what it says is cut": lambda there: _cut(there / "space.json"),
    "what it says is another thing": lambda there: (there / "space.json").write_text("[]"),
    "the shard is gone": lambda there: shutil.rmtree(there / "shard"),
    "settings are cut": lambda there: _cut(there / "shard" / "edge_config.json"),
    "a segment is no segment": lambda there: _cut(next(there.rglob("segment.json"))),
    "the log is noise": lambda there: next(there.rglob("open-1")).write_bytes(b"\xff" * 4096),
    "a status is cut, and the engine panics": lambda there: _cut(next(there.rglob("deleted/status.dat"))),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_damage_has_a_way_out(folder: Path, index: EdgeIndex, harm: Callable[[Path], object]) -> None:
    """Every call says which folder can be removed; once it is, everything works, without a restart."""
    index.add(S, [point("r")])
    index.close()
    there = place(folder)
    harm(there)
    for attempt in (lambda: index.near(S, [1, 0], 1, A), lambda: index.size(S, A), lambda: index.add(S, [point("s")])):
        with pytest.raises(StoreError, match="remove it: what it holds is in the store") as refused:
            attempt()
        assert str(there) in str(refused.value)
    shutil.rmtree(there)
    assert index.size(S, A) == 0
    index.add(S, [point("s")])
    assert index.size(S, A) == 1


def test_a_folder_that_is_removed_under_it_is_no_error(folder: Path, index: EdgeIndex) -> None:
    """Somebody else may follow the advice while this process has it open."""
    index.add(S, [point("r")])
    shutil.rmtree(place(folder))
    assert index.size(S, A) == 0
    index.add(S, [point("s")])
    assert [one.run_id for one in index.near(S, [1, 0], 9, A)] == ["s"]


def test_the_length_of_a_space_outlives_its_process(folder: Path, index: EdgeIndex) -> None:
    """It stands beside the shard, with the space's name; the folder's name is safe whatever that is."""
    space = "../../etc/passwd\0 \u00fc" + "x" * 500
    index.add(space, [point("r")])
    index.close()
    assert json.loads((place(folder) / "space.json").read_text()) == {"space": space, "length": 2}
    with pytest.raises(DataError, match=r"has 3 numbers, and those of the space .* have 2: name another space"):
        EdgeIndex(folder).add(space, [point("s", 1, 2, 3)])


def test_a_small_disk_is_an_error_and_not_the_end_of_the_process(small_disk: Path) -> None:
    """The engine would be ended by the system: what it needs must be free before it is asked."""
    with pytest.raises(StoreError, match=r"needs 256 MB on its disk, which has \d MB left: make room there"):
        EdgeIndex(small_disk / "deep" / "down").add(S, [point("r")])
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_is_an_error(folder: Path, index: EdgeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each piece of work, for what is there as for what is new; afterwards all is as it was."""
    index.add(S, [point("r")])
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 9 * 10**8, 10**8))
        with pytest.raises(StoreError, match="make room"):
            index.add(S, [point("s")])
        index.close()
        with pytest.raises(StoreError, match="make room"):
            index.size(S, A)
    assert index.size(S, A) == 1


def test_a_folder_keeps_its_name_where_it_is_moved(folder: Path, tmp_path: Path) -> None:
    """What the store noted for it holds on another machine, too; one that was removed and made anew is another."""
    name = EdgeIndex(folder).place
    assert EdgeIndex(folder).place == name
    moved = folder.rename(tmp_path / "elsewhere")
    assert EdgeIndex(moved).place == name
    assert EdgeIndex(folder).place != name


def test_a_folder_that_may_not_be_named_is_an_error(tmp_path: Path) -> None:
    """As one that cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/similar' cannot be used: .*choose another one"):
        EdgeIndex(tmp_path / "file" / "similar").place


def test_a_folder_that_may_not_be_written_is_an_error(plain_user_folder: Path) -> None:
    """It says which, and what to see to."""
    for mode in (0o555, 0o000):
        plain_user_folder.chmod(mode)
        with pytest.raises(StoreError, match="See that the folder may be written"):
            EdgeIndex(plain_user_folder / "similar").add(S, [point("r")])
    with pytest.raises(StoreError, match="See that the folder may be written"):
        EdgeIndex(plain_user_folder / "similar").size(S, "support")


def test_without_the_library_the_line_of_pip_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install does not have it."""
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    with pytest.raises(MissingExtraError, match=r'needs .*: pip install "langgraph-learnloop\[loop\]"'):
        EdgeIndex(folder).add(S, [point("r")])


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[RunPoint]:
    """Return points around some centres, more than are compared one by one."""
    monkeypatch.setattr(run_index, "_SCANNED", 40_000)
    monkeypatch.setattr(run_index, "_MANY", 500)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(20, 32))[rng.integers(0, 20, 2000)] + rng.normal(size=(2000, 32)) * 0.3
    return [RunPoint(str(i), A, tuple(row)) for i, row in enumerate(rows.tolist())]


def _recall(index: EdgeIndex, points: list[RunPoint]) -> float:
    rows = np.array([one.vector for one in points])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    hits = 0
    for number in range(0, 500, 25):
        nearest = {str(i) for i in np.argsort(-(rows @ rows[number]))[:10]}
        hits += len(nearest & {one.run_id for one in index.near(S, rows[number].tolist(), 10, A)})
    return hits / 200


def test_many_points_get_a_graph_and_few_do_not(folder: Path, index: EdgeIndex, many: list[RunPoint]) -> None:
    """It is built by a call that adds many; nothing is lost by it, and nearly all is found."""
    index.add(S, many[:400])
    assert _graph(index) == 0
    index.add(S, many[400:])
    assert _graph(index) == 2000
    assert index.size(S, A) == 2000
    assert _recall(index, many) > 0.9
    index.add(S, [point("late", *many[0].vector)])
    assert "late" in {one.run_id for one in index.near(S, many[0].vector, 2, A)}
    index.close()
    assert index.size(S, A) == 2001
    assert _graph(index) == 2000


def _graph(index: EdgeIndex) -> int:
    """Return how many points the graph has."""
    return int(index._open[S].engine.info().indexed_vectors_count)


def test_the_process_goes_on_while_a_graph_is_built(
    index: EdgeIndex, many: list[RunPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would stop every thread: it is another process that builds, under the same claim."""
    began, over = threading.Event(), threading.Event()
    real = run_index.optimized

    def slow(*given: Any) -> str | None:
        began.set()
        assert over.wait(60)
        return real(*given)

    monkeypatch.setattr(run_index, "optimized", slow)
    adding = threading.Thread(target=index.add, args=(S, many))
    adding.start()
    assert began.wait(60)
    with pytest.raises(StoreError, match="in use"):
        waiting(index._folder, Clock()).size(S, A)
    over.set()
    adding.join()
    assert index.size(S, A) == 2000


def test_a_graph_that_cannot_be_built_costs_only_time(
    index: EdgeIndex, many: list[RunPoint], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was added is there and found; the log says why it takes longer."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with caplog.at_level(logging.WARNING):
        index.add(S, many)
    assert "take longer to find: it ended with 1" in caplog.text
    assert _graph(index) == 0
    assert (index.size(S, A), _recall(index, many)) == (2000, 1.0)


def test_a_large_add_lets_other_threads_run(index: EdgeIndex) -> None:
    """Points are handed to the engine some at a time: each call of it stops the whole process."""
    index.add(S, [point("first", *[1.0] * 2048)])
    real, calls = index._open[S].engine, []

    class Counted:
        def update(self, operation: Any) -> None:
            calls.append(time.monotonic())
            real.update(operation)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    index._open[S].engine = Counted()
    index.add(S, [point(str(i), *[1.0] * 2048) for i in range(200)])
    assert len(calls) == 4
    index._open[S].engine = real
