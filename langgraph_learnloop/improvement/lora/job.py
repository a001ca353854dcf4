"""Describe a training job and run it in a process of its own.

The worker must be a process: Unsloth wants to be imported first, and a crash or a lack of memory there is a failed job
with a reason, never a dead agent.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import WEIGHTS, WORKER, end, ending, environment, last_words, result_in
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Plan, Progress, Recipe, TrainingResult, content_hash

MERGER = "langgraph_learnloop.improvement.lora.merge"

_BASE_FILES = ("*.safetensors", "*.json", "*.jinja")


def make_job(
    base_model: str | Path,
    dataset_path: str | Path,
    recipe: Recipe,
    folder: str | Path,
    parent_adapter: str | Path | None = None,
    engine: Literal["auto", "unsloth", "peft"] = "auto",
    *,
    gpu: bool = False,
    minutes: float | None = None,
) -> Job:
    """Return the job whose id is the content hash of base, dataset, recipe and parent adapter.

    The adapter will lie in `folder`/<job_id>. Raise TrainingError when one of the files cannot be read.
    """
    job = Job(
        job_id="",
        base_model=str(base_model),
        parent_adapter=None if parent_adapter is None else str(parent_adapter),
        dataset=str(dataset_path),
        recipe=recipe,
        output="",
        engine=engine,
        gpu=gpu,
        minutes=minutes,
    )
    try:
        identity = hashes(job) | {"recipe": recipe.model_dump(mode="json")}
    except OSError as error:
        raise TrainingError(
            f"The job cannot be made: {error.filename!r} cannot be read ({error.strerror}). Make it readable, or name "
            "another base or parent."
        ) from error
    job_id = content_hash(identity)[:16]
    return job.model_copy(update={"job_id": job_id, "output": str(Path(folder) / job_id)})


def hashes(job: Job) -> dict[str, str]:
    """Return the content hashes of what a job learns from: base, dataset and, if there is one, parent adapter."""
    found = {"base": _base_hash(job.base_model), "dataset": file_sha256(job.dataset)}
    if job.parent_adapter is not None:
        found["parent"] = file_sha256(Path(job.parent_adapter) / WEIGHTS)
    return found


def workplace(job: Job) -> Path:
    """Return the folder of a job's checkpoints, beside its output; it is there only while the job is not done."""
    return Path(f"{job.output}.checkpoints")


def finished(job: Job) -> TrainingResult | None:
    """Return what the job left behind, or None when it is not done or its weights are not the ones it wrote."""
    return result_in(Path(job.output))


def merged(
    base_model: str, adapter: str, folder: str | Path, python: str | None = None, gguf: str | None = None
) -> Path:
    """Write one model of a base and an adapter into a new folder and return it; raise TrainingError with the reason.

    With `gguf`, a way of quantising such as "q4_k_m", Unsloth writes a file for llama.cpp instead; it must be installed
    where `python` (default: this interpreter) runs.
    """
    target = Path(folder)
    if target.exists():
        raise TrainingError(f"The folder {str(target)!r} is there already: name a new one.")
    words = [base_model, adapter, str(target.absolute()), *([gguf] if gguf else [])]
    try:
        done = subprocess.run(
            [python or sys.executable, "-m", MERGER, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except OSError as error:
        raise TrainingError(
            f"The merge could not be started with {python!r}: {error}. Name an interpreter as train_python."
        ) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        silent = f"The merge ended ({ending(done.returncode)}): see that memory and disk have room for the model."
        raise TrainingError(lines[-1] if lines else silent)
    return target


class LocalTrainer:
    """Train on this machine, in a subprocess that ends when its parent does.

    `python` is the interpreter of the worker (an environment with Unsloth may be another one than the agent's).
    Beside the output folder lie `<job_id>.json`, the job, and `<job_id>.log`, all that the worker's libraries said.
    """

    def __init__(self, python: str | None = None) -> None:
        self._python = python or sys.executable
        self._worker: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the job that is under way, from any thread; `train` raises TrainingError there. Without one, nothing."""
        worker = self._worker
        if worker is not None:
            self._cancelled = True
            end(worker)

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Train, or return what the same job left earlier; raise TrainingError with the reason.

        A job that was cut off goes on from its checkpoint. The end of the worker's log is a note of the error.
        """
        self._cancelled = False
        if (done := finished(job)) is not None:
            return done
        log = Path(f"{job.output}.log")

        def tell(line: bytes) -> None:
            with suppress(ValidationError):
                on_progress(Progress.model_validate_json(line))

        code = self._started(job, log, tell)
        if code == 0 and (done := finished(job)) is not None:
            return done
        if self._cancelled:
            raise TrainingError(
                f"Job {job.job_id!r} was cancelled. Run again, it goes on from its last checkpoint, if there is one."
            )
        raise _failure(job, code, log)

    def plan(self, job: Job) -> Plan:
        """Try a few steps, of which nothing is kept, and say what the whole job would take; raise TrainingError."""
        lines: list[bytes] = []
        log = Path(f"{job.output}.plan.log")
        code = self._started(job, log, lines.append, "--plan")
        for line in reversed(lines):
            with suppress(ValidationError):
                return Plan.model_validate_json(line)
        raise _failure(job, code, log)

    def _started(self, job: Job, log: Path, on_line: Callable[[bytes], object], *flags: str) -> int:
        try:
            return self._run(job, log, on_line, flags)
        except OSError as error:
            raise TrainingError(
                f"Job {job.job_id!r} could not be started with {self._python!r}: {error}. "
                "Check that the interpreter exists and that the job's folder can be written."
            ) from error

    def _run(self, job: Job, log: Path, on_line: Callable[[bytes], object], flags: Sequence[str]) -> int:
        described = Path(f"{job.output}.json")
        described.parent.mkdir(parents=True, exist_ok=True)
        described.write_text(job.model_dump_json(indent=2), encoding="utf-8")
        with log.open("wb") as errors:
            worker = subprocess.Popen(
                [self._python, "-m", WORKER, str(described), *flags],
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that the parent is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # ctrl-C reaches the parent alone, which then ends the worker below
                env=environment(offline=Path(job.base_model).is_dir()),
            )
            self._worker = worker
            with worker:
                try:
                    for line in worker.stdout or ():
                        on_line(line)
                    return worker.wait()
                finally:
                    end(worker)
                    self._worker = None


def _base_hash(base_model: str | Path) -> str:
    """Return the content hash of a model's folder; the name of a hub model stands for itself."""
    folder = Path(base_model)
    if not folder.is_dir():
        return str(base_model)
    files = sorted(file for pattern in _BASE_FILES for file in folder.glob(pattern))
    return content_hash({file.name: file_sha256(file) for file in files})


def _failure(job: Job, code: int, log: Path) -> TrainingError:
    """Return the error of a worker that ended without a result, with the end of its log as a note."""
    tail = last_words(log)
    reason = tail[-1] if tail else "it said nothing."
    failure = TrainingError(f"Job {job.job_id!r} ended without an adapter ({ending(code)}): {reason} See {str(log)!r}.")
    failure.add_note("The end of its log:\n" + "\n".join(tail))
    return failure
