"""Jobs that are killed, run out of memory or of time, and go on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora import loop
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, workplace
from langgraph_learnloop.improvement.lora.trainers import CpuLoss
from langgraph_learnloop.jobs import WORKER
from langgraph_learnloop.records import Job, Progress, TrainingResult
from tests.disk import fill
from tests.improvement.jobs import RECIPE, in_process, job_of
from tests.improvement.tiny_base import weather_examples

LONG = RECIPE.model_copy(update={"steps": 80})
"""Losses are told every second step, and a checkpoint is kept every eighth."""


class Stopped(BaseException):
    """What a killed process never gets to raise."""


def stopping_at(step: int) -> Any:
    def tell(progress: Progress) -> None:
        if progress.done >= step:
            raise Stopped

    return tell


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Do the job once without a break."""
    return in_process(job_of(base, tmp_path_factory.mktemp("whole"), weather_examples(), LONG))


def again(job: Job) -> tuple[TrainingResult, list[Progress]]:
    seen: list[Progress] = []
    return in_process(job, seen.append), seen


@pytest.mark.parametrize("step", [20, 50, 78])
def test_a_job_that_was_cut_off_ends_as_if_it_were_not(
    base: Path, tmp_path: Path, whole: TrainingResult, step: int
) -> None:
    """It goes on from its newest checkpoint, says so, and comes to the same weights; the checkpoints are gone then."""
    job = job_of(base, tmp_path, weather_examples(), LONG)
    with pytest.raises(Stopped):
        in_process(job, stopping_at(step))
    assert finished(job) is None
    result, seen = again(job)
    assert result.resumed_at is not None
    assert 0 <= step - result.resumed_at <= 8
    assert any(p.note == f"Going on from step {result.resumed_at}." for p in seen)
    assert next(p.done for p in seen if p.loss is not None) == result.resumed_at + 2
    assert result.loss == pytest.approx(whole.loss, abs=1e-5)
    assert result.adapter_sha256 == whole.adapter_sha256
    assert (result.tokens, result.steps) == (whole.tokens, whole.steps)
    assert not workplace(job).exists()


@pytest.mark.parametrize("damage", ["trainer_state.json", "adapter_model.safetensors"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(base: Path, tmp_path: Path, damage: str) -> None:
    """One that was being written when the power went is removed; the one before it serves."""
    job = job_of(base, tmp_path, weather_examples(), LONG)
    with pytest.raises(Stopped):
        in_process(job, stopping_at(36))
    newest = max(workplace(job).glob("checkpoint-*"), key=loop._step_of)
    (newest / damage).write_bytes((newest / damage).read_bytes()[:100])
    result, _ = again(job)
    assert result.resumed_at == loop._step_of(newest) - 8


def test_an_adapter_that_could_not_be_written_needs_no_second_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of the last step is there: the next run only writes."""
    job = job_of(base, tmp_path, weather_examples(), LONG)
    real = loop._write
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            in_process(job)
    assert loop._write is real
    result = in_process(job)
    assert result.resumed_at == 80
    assert result.loss is not None
    assert result.tokens > 0


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_loses_no_step(base: Path, small_disk: Path, whole: TrainingResult) -> None:
    """The disk fills up while a job trains: the reason is said, and with room the job goes on to the same end."""
    job = job_of(base, small_disk, weather_examples(), LONG)
    ballast: list[Path] = []

    def fill_up(progress: Progress) -> None:
        if progress.done > 15 and not ballast:
            ballast.append(fill(small_disk))

    with pytest.raises(TrainingError, match=r"Job .* ended without an adapter .*[Nn]o space left"):
        LocalTrainer().train(job, fill_up)
    assert not Path(job.output).exists()
    with pytest.raises(TrainingError, match="No space left"):  # not even the job can be described now
        LocalTrainer().train(job.model_copy(update={"output": f"{job.output}-other"}), lambda _: None)
    ballast[0].unlink()
    result = LocalTrainer().train(job, lambda _: None)
    assert result.adapter_sha256 == whole.adapter_sha256
    assert result.resumed_at is not None


@pytest.mark.slow
def test_a_killed_worker_goes_on(base: Path, tmp_path: Path, whole: TrainingResult) -> None:
    """`kill -9` at whatever moment: the next run of the same job comes to the same end."""
    job = job_of(base, tmp_path, weather_examples(), LONG)
    described = Path(f"{job.output}.json")
    described.parent.mkdir(exist_ok=True)
    described.write_text(job.model_dump_json())
    worker = subprocess.Popen([sys.executable, "-m", WORKER, str(described)], stdin=-1, stdout=-1, stderr=-3)
    deadline = time.monotonic() + 120
    while not list(workplace(job).glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.kill()
    with worker:
        worker.wait()
    assert finished(job) is None
    result = in_process(job)
    assert result.resumed_at is not None
    assert result.adapter_sha256 == whole.adapter_sha256


@pytest.mark.slow
def test_a_job_can_be_cancelled(base: Path, tmp_path: Path) -> None:
    """Another thread ends it at once; what was learned so far is kept for the next run."""
    job = job_of(base, tmp_path, weather_examples(), RECIPE.model_copy(update={"steps": 5000}))
    trainer, begun = LocalTrainer(), threading.Event()

    def watch(progress: Progress) -> None:
        if progress.loss is not None:
            begun.set()

    def cancel() -> None:
        begun.wait(120)
        trainer.cancel()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(TrainingError, match=f"Job '{job.job_id}' was cancelled.*goes on"):
        trainer.train(job, watch)


def test_time_that_is_up_ends_a_job_cleanly(base: Path, tmp_path: Path, whole: TrainingResult) -> None:
    """The step is finished and kept; with more minutes the same job goes on to the same end."""
    job = job_of(base, tmp_path, weather_examples(), LONG, minutes=1e-9)
    with pytest.raises(TrainingError, match=r"stopped at step 1 of 80.*over.*Run it again with more minutes"):
        in_process(job)
    result = in_process(job.model_copy(update={"minutes": 5.0}))
    assert result.resumed_at == 1
    assert result.adapter_sha256 == whole.adapter_sha256


# -- memory ------------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, first_at: int = 0) -> None:
    """Let the loss of more than `most` rows at once fail, from the call `first_at` on."""
    real, calls = CpuLoss.compute_loss, [0]

    def compute(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > first_at and len(inputs["labels"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(CpuLoss, "compute_loss", compute)


@pytest.mark.parametrize("first_at", [0, 100])
def test_smaller_parts_of_a_batch_learn_the_same(
    base: Path, tmp_path: Path, whole: TrainingResult, monkeypatch: pytest.MonkeyPatch, first_at: int
) -> None:
    """Out of memory at the first step or later: halves, then quarters, go on, and it is said."""
    short_of_memory(monkeypatch, most=1, first_at=first_at)  # a lane holds half of a part
    result, seen = again(job_of(base, tmp_path, weather_examples(), LONG))
    notes = [p.note for p in seen if p.note and "Memory" in p.note]
    assert notes == [f"Memory ran out: going on with {n} of a batch's 8 examples at a time." for n in (4, 2)]
    assert result.loss == pytest.approx(whole.loss, abs=2e-3)  # it began at 8; sums in another order round differently


def test_no_memory_for_one_example_is_an_error(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to halving."""
    short_of_memory(monkeypatch, most=0)
    with pytest.raises(TrainingError, match="not enough memory for a single example"):
        in_process(job_of(base, tmp_path, weather_examples(), LONG))
