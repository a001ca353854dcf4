"""A job is known by its files, and its worker by how it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import RESULT, TAIL, WEIGHTS, end, ending, environment, last_words, result_in
from langgraph_learnloop.records import TrainingResult


def test_a_result_counts_while_its_weights_are_the_ones_it_names(tmp_path: Path) -> None:
    """Nothing, half a record and other weights are no result."""
    assert result_in(tmp_path) is None
    (tmp_path / WEIGHTS).write_bytes(b"adapter")
    facts = {"engine": "peft: a test.", "examples": 8, "steps": 1, "loss": 1.0, "tokens": 9, "seconds": 0.5}
    digest = file_sha256(tmp_path / WEIGHTS)
    result = TrainingResult.model_validate({"adapter": str(tmp_path), "adapter_sha256": digest, **facts})
    (tmp_path / RESULT).write_text(result.model_dump_json())
    assert result_in(tmp_path) == result
    (tmp_path / WEIGHTS).write_bytes(b"adaptex")
    assert result_in(tmp_path) is None
    (tmp_path / RESULT).write_text("{")
    assert result_in(tmp_path) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (-signal.SIGKILL, "killed from outside, often for lack of memory"), (-11, "signal 11")],
)
def test_an_exit_code_is_said_in_words(code: int, words: str) -> None:
    """A worker that was killed has usually taken too much memory."""
    assert ending(code) == words


def test_the_last_words_of_a_log(tmp_path: Path) -> None:
    """Blank lines do not count, bytes that are no text do not break it, and no log says nothing."""
    log = tmp_path / "worker.log"
    assert last_words(log) == []
    log.write_bytes(b"\n".join([b"early"] * 50 + [b"", b"  bad \xff byte ", b""]))
    assert last_words(log) == ["early"] * (TAIL - 1) + ["bad \ufffd byte"]


def test_a_worker_looks_at_no_hub_where_it_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user set counts more than our defaults."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment(offline=True)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(offline=False)
    assert environment(offline=False)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_worker_is_ended() -> None:
    """One that has ended already is left alone."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, start_new_session=True) as worker:
        end(worker)
        assert worker.wait() == -signal.SIGKILL
        end(worker)
