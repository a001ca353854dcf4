"""The worker chooses its engine for a reason it can tell, and says in one sentence what is missing."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from langgraph_learnloop.errors import DataError, MissingExtraError
from langgraph_learnloop.improvement.lora import worker
from langgraph_learnloop.improvement.lora.adapters import bf16
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, make_job
from langgraph_learnloop.integrations.unsloth_trainer import load
from langgraph_learnloop.records import Progress, Recipe
from tests.improvement.tiny_base import weather_examples, write_dataset

HAS_UNSLOTH = importlib.util.find_spec("unsloth") is not None


@pytest.mark.parametrize(
    ("installed", "gpu", "engine", "because"),
    [
        (False, False, "peft", "Unsloth is not installed"),
        (False, True, "peft", "Unsloth is not installed"),
        (True, False, "peft", "there is no GPU"),
        (True, True, "unsloth", "there is a GPU and Unsloth is installed"),
    ],
)
def test_auto_takes_unsloth_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, installed: bool, gpu: bool, engine: str, because: str
):
    """Unsloth is chosen where it can work, and the reason is told either way."""
    spec = importlib.machinery.ModuleSpec("unsloth", None) if installed else None
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: gpu)))
    chosen, why = worker.choose_engine("auto")
    assert chosen == engine
    assert because in why


def test_a_gpu_without_bf16_trains_as_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch calls a T4 able of bf16, which it emulates; Unsloth loads float16 there, and trains nothing else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not bf16()


@pytest.mark.parametrize("engine", ["peft", "unsloth"])
def test_a_job_may_ask_for_an_engine(engine: str):
    """What the job asks for is taken."""
    assert worker.choose_engine(engine)[0] == engine


@pytest.mark.skipif(HAS_UNSLOTH, reason="Unsloth is installed here, so nothing is missing")
def test_without_unsloth_the_error_names_the_command(base: Path, tmp_path: Path):
    """Who asks for Unsloth and has not got it is told what to install."""
    dataset = write_dataset(tmp_path / "data.jsonl", weather_examples())
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[unsloth\]"'):
        load(make_job(base, dataset, Recipe(), tmp_path / "jobs", engine="unsloth"))


@pytest.mark.skipif(not HAS_UNSLOTH, reason="Unsloth is not installed; it is tried where its extra is")
def test_unsloth_trains_the_same_job(base: Path, tmp_path: Path):
    """With Unsloth the same job gives an adapter of the same form."""
    dataset = write_dataset(tmp_path / "data.jsonl", weather_examples())
    job = make_job(base, dataset, Recipe(steps=5, rank=8, replay=0, max_length=64), tmp_path / "jobs", engine="unsloth")
    result = LocalTrainer().train(job, lambda _: None)
    assert result.engine.startswith("unsloth")
    assert (Path(result.adapter) / "adapter_config.json").exists()


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    """Without torch the worker says which extra to install."""
    monkeypatch.setitem(sys.modules, worker.LOOP, None)
    with pytest.raises(MissingExtraError, match=r"langgraph-learnloop\[train\]"):
        worker._heavy(worker.LOOP)


def test_a_job_is_run_as_it_is_described(base: Path, tmp_path: Path):
    """The worker says which engine it takes and when it is ready, trains, and measures what was kept aside."""
    examples = weather_examples()
    aside = examples[7].model_copy(update={"split": "validation"})
    dataset = write_dataset(tmp_path / "data.jsonl", [*examples[:7], aside])
    job = make_job(base, dataset, Recipe(steps=3, rank=4, replay=0), tmp_path / "jobs", engine="peft")
    seen: list[Progress] = []
    worker.run(job, seen.append)
    assert [(p.stage, p.total) for p in seen[:3]] == [("start", 3), ("load", 3), ("train", 3)]
    assert seen[0].note == "Training with peft: the job asks for it."
    result = finished(job)
    assert result is not None
    assert (result.engine, result.examples, set(result.validation)) == ("peft: the job asks for it.", 7, {"new"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory for this job"),
        (OSError(28, "No space left on device"), "could not be read or written: [Errno 28] No space left on device"),
        (DataError("The row is broken."), "The row is broken."),
    ],
)
def test_a_failure_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception, reason: str
):
    """Whatever ends a job is one line on standard error and exit code 1; `--alone` watches no parent."""
    monkeypatch.setattr(worker, "_private_stdout", lambda: print)
    monkeypatch.setitem(sys.modules, "sklearn", sys.modules.get("sklearn"))  # which the worker shuts out
    job = make_job("hub/name", write_dataset(tmp_path / "d.jsonl", weather_examples()), Recipe(), tmp_path)
    (tmp_path / "job.json").write_text(job.model_dump_json())

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "read_splits", fails)
    assert worker.main(["worker", str(tmp_path / "job.json"), "--alone"]) == 1
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_job_file_that_is_none_is_refused(tmp_path: Path):
    """The reason is the last line of standard error, and standard output stays free of anything but progress."""
    (tmp_path / "job.json").write_text('{"job_id": 3}')
    read, write = os.pipe()  # an input that does not end: its end would mean that the parent is gone
    done = subprocess.run(
        [sys.executable, "-m", "langgraph_learnloop.improvement.lora.worker", str(tmp_path / "job.json")],
        stdin=read,
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    os.close(write)
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not describe a job" in done.stderr.strip().splitlines()[-1]
