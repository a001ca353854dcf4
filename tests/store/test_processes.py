"""Several processes on one file."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from langgraph_learnloop.records import Flag
from langgraph_learnloop.store.opened import Store, open_store

PROCESSES = 4
_start: Barrier
"""Where a process waits for the others."""


def _arrive(start: Barrier) -> None:
    global _start
    _start = start


def _do(act: Callable[[Store, str], Any], path: Path, number: int) -> Any:
    with open_store(path) as store:
        _start.wait(60)
        return act(store, str(number))


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Yield processes of their own, which have imported all that they need."""
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    if "forkserver" in ways:
        context.set_forkserver_preload([__name__, "alembic.command"])
    start = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, initializer=_arrive, initargs=(start,)) as pool:
        yield pool


def _at_once(pool: ProcessPoolExecutor, work: Callable[..., Any], *given: object) -> list[Any]:
    """Let each process do some work, all from the same moment on, and return what each answers."""
    jobs = [pool.submit(work, *given, number) for number in range(PROCESSES)]
    return [job.result(60) for job in jobs]


def _open(path: Path, number: int) -> int:
    _start.wait(60)
    with open_store(path) as store:
        return store.runs.count()


def test_processes_that_open_a_new_store_at_once_all_succeed(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """The first open migrates, the others wait for it: nobody fails, and the tables are made once."""
    assert _at_once(processes, _open, tmp_path / "learnloop.db") == [0] * PROCESSES


def _pin(store: Store, number: str) -> list[str]:
    return [store.releases.pin(f"t{i}", number) for i in range(50)]


def test_one_process_decides_a_threads_release(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Whatever each process proposes for a thread, all are given the same release, for every thread."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    answers = _at_once(processes, _do, _pin, path)
    assert all(answer == answers[0] for answer in answers)
    with open_store(path) as store:
        assert _pin(store, "late") == answers[0]


def _log(store: Store, number: str) -> None:
    for _ in range(25):
        store.decisions.append(action="a", subject=number, because="b")


def test_the_audit_chain_holds_with_several_writers(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Entries of processes that write at once form one chain, and none is lost."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    _at_once(processes, _do, _log, path)
    with open_store(path) as store:
        store.decisions.verify()
        assert Counter(entry.subject for entry in store.decisions.all()) == dict.fromkeys("0123", 25)


def _flag(store: Store, number: str) -> None:
    for i in range(10):
        reasons = (f"{number}-{i}",)
        store.flags.add(Flag(run_id="r", agent="a", reasons=reasons, severity=0.5, at=datetime.now(UTC)))


def test_flags_of_one_run_are_merged_across_processes(processes: ProcessPoolExecutor, tmp_path: Path) -> None:
    """Reading, merging and writing a flag is one act: no process overwrites another's reason."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    _at_once(processes, _do, _flag, path)
    with open_store(path) as store:
        (flag,) = store.flags.list()
        assert len(flag.reasons) == 10 * PROCESSES
