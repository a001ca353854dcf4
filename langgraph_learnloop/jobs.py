"""Know the files of a training job and the process that works on it, wherever it runs."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.records import TrainingResult

WORKER = "langgraph_learnloop.improvement.lora.worker"
"""The module that a worker runs."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RESULT = "result.json"
"""The record of a job that is done, beside its weights."""
TAIL = 20
"""Lines of a failed job's log that go with its error."""


def result_in(output: Path) -> TrainingResult | None:
    """Return what a job left behind, or None when it is not done or its weights are not the ones it wrote."""
    try:
        result = TrainingResult.model_validate_json((output / RESULT).read_bytes())
        return result if file_sha256(output / WEIGHTS) == result.adapter_sha256 else None
    except (OSError, ValidationError):
        return None


def environment(*, offline: bool) -> dict[str, str]:
    """Return a worker's environment: threads that wait must not spin, for others need the cores as well."""
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}  # nobody is told that you train
    return {"OMP_WAIT_POLICY": "PASSIVE", **quiet, **os.environ, **({"HF_HUB_OFFLINE": "1"} if offline else {})}


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it started, if it still runs; it must have been given a group of its own."""
    if worker.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL) if hasattr(os, "killpg") else worker.kill()


def ending(code: int) -> str:
    """Return a worker's exit code in words."""
    if code == -signal.SIGKILL:
        return "killed from outside, often for lack of memory"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def last_words(log: Path) -> list[str]:
    """Return the last lines of a log that say something, none without a log: a worker ends with its reason."""
    if not log.exists():
        return []
    lines = (line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines())
    return [line for line in lines if line][-TAIL:]
