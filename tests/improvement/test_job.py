"""A job is named by what goes in, done once, and its failures are sentences."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, make_job
from langgraph_learnloop.records import Job, Progress, Recipe, TrainingResult
from tests.improvement.tiny_base import weather_examples, write_dataset


def job_in(folder: Path, **changes: object) -> Job:
    """Describe a job on files that need not be a real model."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    dataset = write_dataset(folder / "data.jsonl", weather_examples())
    return make_job(base, dataset, Recipe(**changes), folder / "jobs")


def fake_python(folder: Path, body: str) -> str:
    """Write an interpreter that ignores its arguments and runs `body` in place of the worker."""
    script = folder / "python"
    code = (
        f"#!{sys.executable}\nimport json, os, sys, pathlib\njob = json.loads(pathlib.Path(sys.argv[3]).read_text())\n"
    )
    script.write_text(code + textwrap.dedent(body))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def leave_result(job: Job) -> TrainingResult:
    """Write what a finished job leaves behind."""
    output = Path(job.output)
    output.mkdir(parents=True)
    (output / "adapter_model.safetensors").write_bytes(b"adapter")
    result = TrainingResult(
        adapter=job.output,
        adapter_sha256=file_sha256(output / "adapter_model.safetensors"),
        engine="peft: it was asked for.",
        examples=8,
        steps=1,
        loss=1.0,
        tokens=10,
        seconds=1.0,
    )
    (output / "result.json").write_text(result.model_dump_json())
    return result


def test_the_same_job_has_the_same_id(tmp_path: Path):
    """Where the dataset lies and what it is called does not matter, what it says does."""
    job = job_in(tmp_path)
    moved = (tmp_path / "data.jsonl").rename(tmp_path / "moved.jsonl")
    assert make_job(tmp_path / "base", moved, job.recipe, tmp_path / "jobs").job_id == job.job_id
    moved.write_text(moved.read_text() + "\n")
    assert make_job(tmp_path / "base", moved, job.recipe, tmp_path / "jobs").job_id != job.job_id


def test_every_ingredient_changes_the_id(tmp_path: Path):
    """Base weights, base config, recipe and parent adapter are all part of a job's identity."""
    seen = {job_in(tmp_path).job_id, job_in(tmp_path, seed=1).job_id, job_in(tmp_path, rank=4).job_id}
    dataset, base = tmp_path / "data.jsonl", tmp_path / "base"
    (tmp_path / "adapter_model.safetensors").write_bytes(b"parent")
    seen.add(make_job(base, dataset, Recipe(), tmp_path / "jobs", parent_adapter=tmp_path).job_id)
    for name in ("model.safetensors", "config.json"):
        (base / name).write_bytes(b"changed")
        seen.add(make_job(base, dataset, Recipe(), tmp_path / "jobs").job_id)
    assert len(seen) == 6


def test_a_missing_file_is_named(tmp_path: Path):
    """A dataset that is not there is a sentence with its path."""
    with pytest.raises(TrainingError, match=r"nowhere\.jsonl.*cannot be read"):
        make_job("hub/name", tmp_path / "nowhere.jsonl", Recipe(), tmp_path)


def test_a_finished_job_is_not_done_again(tmp_path: Path):
    """What lies there, with the right hash, is returned without starting anything."""
    job = job_in(tmp_path)
    result = leave_result(job)
    assert LocalTrainer(python="/no/such/python").train(job, lambda _: None) == result


def test_changed_weights_are_no_result(tmp_path: Path):
    """An adapter that is not the one the result names counts as not done."""
    job = job_in(tmp_path)
    leave_result(job)
    assert finished(job) is not None
    (Path(job.output) / "adapter_model.safetensors").write_bytes(b"changed")
    assert finished(job) is None


def test_progress_is_passed_on_and_chatter_is_not(tmp_path: Path):
    """Lines that are progress arrive in order; anything else on standard output is passed over."""
    python = fake_python(
        tmp_path,
        """
        print(json.dumps({"stage": "train", "done": 1, "total": 2}), flush=True)
        print("a library says hello", flush=True)
        print(json.dumps({"stage": "train", "done": 2, "total": 2, "loss": 0.5}), flush=True)
        sys.exit(1)
        """,
    )
    seen: list[Progress] = []
    with pytest.raises(TrainingError):
        LocalTrainer(python).train(job_in(tmp_path), seen.append)
    assert seen == [Progress(stage="train", done=1, total=2), Progress(stage="train", done=2, total=2, loss=0.5)]


def test_a_plan_is_read_from_the_workers_last_line(tmp_path: Path):
    """The worker is asked to plan, and what its libraries say before the plan is passed over."""
    python = fake_python(
        tmp_path,
        """
        assert sys.argv[4:] == ["--plan"]
        print("a library says hello", flush=True)
        plan = {"examples": {"correction": 8}, "categories": {}, "left_out": 0, "steps": 5, "passes": 1.0, "tokens": 9}
        print(json.dumps(plan | {"job_id": job["job_id"], "engine": "peft: a test."}), flush=True)
        """,
    )
    job = job_in(tmp_path)
    plan = LocalTrainer(python).plan(job)
    assert (plan.job_id, plan.steps, plan.tokens) == (job.job_id, 5, 9)


def test_a_failure_has_reason_code_and_log(tmp_path: Path):
    """The error holds the last thing the worker said, its exit code, and where the rest is."""
    python = fake_python(tmp_path, "sys.stderr.write('noise\\nThe base model is broken.\\n\\n'); sys.exit(3)")
    job = job_in(tmp_path)
    with pytest.raises(
        TrainingError, match=rf"{job.job_id}.*exit code 3.*The base model is broken\..*{job.job_id}\.log"
    ):
        LocalTrainer(python).train(job, lambda _: None)
    assert "noise" in Path(f"{job.output}.log").read_text()


def test_a_worker_that_was_killed(tmp_path: Path):
    """A kill from outside is told apart from a failure."""
    python = fake_python(tmp_path, f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(TrainingError, match=r"killed from outside, often for lack of memory.*it said nothing"):
        LocalTrainer(python).train(job_in(tmp_path), lambda _: None)


def test_success_without_a_result_is_a_failure(tmp_path: Path):
    """Exit code 0 alone proves nothing."""
    with pytest.raises(TrainingError, match="without an adapter"):
        LocalTrainer(fake_python(tmp_path, "")).train(job_in(tmp_path), lambda _: None)


def test_an_interpreter_that_is_not_there(tmp_path: Path):
    """The error names the interpreter."""
    with pytest.raises(TrainingError, match="could not be started with '/no/such/python'"):
        LocalTrainer("/no/such/python").train(job_in(tmp_path), lambda _: None)


def test_an_interrupted_parent_ends_the_worker(tmp_path: Path):
    """Ctrl-C (here: an exception in the callback) leaves no worker behind."""
    python = fake_python(
        tmp_path,
        """
        pathlib.Path(job["output"] + ".pid").write_text(str(os.getpid()))
        print(json.dumps({"stage": "train", "done": 1, "total": 2}), flush=True)
        import time; time.sleep(600)
        """,
    )
    job = job_in(tmp_path)

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalTrainer(python).train(job, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path(f"{job.output}.pid").read_text()), 0)


def test_a_parent_killed_hard_ends_the_real_worker(tmp_path: Path, base: Path):
    """Nobody is left to train for when the parent dies by SIGKILL in the middle of a job."""
    write_dataset(tmp_path / "data.jsonl", weather_examples())
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job
                from langgraph_learnloop.records import Recipe
                job = make_job({str(base)!r}, {str(tmp_path / "data.jsonl")!r}, Recipe(steps=100000), {str(tmp_path)!r})
                LocalTrainer().train(job, lambda p: print(p.stage, flush=True))
                """
            ),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "start\n"
    workers = _children(parent.pid)
    assert len(workers) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _gone(workers[0], seconds=20)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _gone(pid: int, seconds: float) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    ended, _, _ = select.select([handle], [], [], seconds)
    os.close(handle)
    return bool(ended)
