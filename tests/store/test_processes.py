"""Several processes on one file."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from langgraph_learnloop.store.opened import open_store

_OPEN = "import sys; from langgraph_learnloop.store.opened import open_store; store = open_store(sys.argv[1]); "
_READY = "print('ready', flush=True); sys.stdin.readline(); "


def _at_once(code: str, path: Path, processes: int) -> list[str]:
    """Start processes, let them go at the same moment, and return what each printed last."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = []
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        answers.append(process.communicate(timeout=60)[0].strip())
        assert process.returncode == 0
    return answers


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path: Path) -> None:
    """The first open migrates, the others wait for it: nobody fails, and the tables are made once."""
    code = "import sys; import langgraph_learnloop.store.opened as o; import alembic.command; " + _READY
    code += "print(o.open_store(sys.argv[1]).runs.count())"
    assert _at_once(code, tmp_path / "learnloop.db", 4) == ["0"] * 4


def test_one_process_decides_a_threads_release(tmp_path: Path) -> None:
    """Whatever each process proposes for a thread, all are given the same release, for every thread."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    code = _OPEN + _READY
    code += "import json; print(json.dumps([store.releases.pin(f't{i}', sys.argv[2]) for i in range(50)]))"
    answers = [json.loads(answer) for answer in _at_once(code, path, 4)]
    assert all(answer == answers[0] for answer in answers)
    with open_store(path) as store:
        assert [store.releases.pin(f"t{i}", "late") for i in range(50)] == answers[0]


def test_the_audit_chain_holds_with_several_writers(tmp_path: Path) -> None:
    """Entries of processes that write at once form one chain, and none is lost."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    code = _OPEN + _READY
    code += "[store.decisions.append(action='a', subject=sys.argv[2], because='b') for _ in range(25)]"
    _at_once(code, path, 4)
    with open_store(path) as store:
        store.decisions.verify()
        assert Counter(entry.subject for entry in store.decisions.all()) == dict.fromkeys("0123", 25)


def test_flags_of_one_run_are_merged_across_processes(tmp_path: Path) -> None:
    """Reading, merging and writing a flag is one act: no process overwrites another's reason."""
    path = tmp_path / "learnloop.db"
    open_store(path).close()
    code = _OPEN + "from langgraph_learnloop.records import Flag; from datetime import datetime, UTC; " + _READY
    code += (
        "[store.flags.add(Flag(run_id='r', agent='a', reasons=(f'{sys.argv[2]}-{i}',), severity=0.5, "
        "at=datetime.now(UTC))) for i in range(10)]"
    )
    _at_once(code, path, 4)
    with open_store(path) as store:
        (flag,) = store.flags.list()
        assert len(flag.reasons) == 40
