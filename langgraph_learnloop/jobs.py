"""Know the files of a training job and the process that works on it, wherever it runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from langgraph_learnloop.errors import EngineError, TrainingError
from langgraph_learnloop.files import file_sha256, whole_file
from langgraph_learnloop.records import Job, Release, TrainingResult

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WORKER = "langgraph_learnloop.improvement.lora.worker"
"""The module that a worker runs."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RESULT = "result.json"
"""The record of a job that is done, beside its weights."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
TAIL = 20
"""Lines of a failed job's log that go with its error."""


def result_in(output: Path) -> TrainingResult | None:
    """Return what a job left behind, or None when it is not done or its weights are not the ones it wrote."""
    try:
        result = TrainingResult.model_validate_json((output / RESULT).read_bytes())
        return result if file_sha256(output / WEIGHTS) == result.adapter_sha256 else None
    except (OSError, ValidationError):
        return None


@contextmanager
def under_way(output: str | Path, owner: str) -> Iterator[None]:
    """Mark a job as under way for as long as the block, or the process, lasts; `owner` is the store that it is of."""
    if fcntl is None:
        yield
        return
    with _lock_file(output) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # shared: nobody may remove it, and two may work on it
        if not os.fstat(lock).st_size:
            os.write(lock, owner.encode())
        yield


@contextmanager
def idle(output: str | Path) -> Iterator[bool]:
    """Give whether nobody works on a job; nobody begins to while the block lasts."""
    free = False
    with ExitStack() as until_the_end:
        if fcntl is not None:
            with suppress(OSError):
                lock = until_the_end.enter_context(_lock_file(output))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
        yield free


def is_under_way(output: str | Path) -> bool:
    """Return whether somebody works on a job; where that cannot be told, somebody does."""
    if fcntl is not None and not os.path.lexists(f"{output}.lock"):
        return False
    with idle(output) as free:
        return not free


def owner_of(output: str | Path) -> str | None:
    """Return the store that a job is of; None where that is not known."""
    with suppress(OSError, UnicodeDecodeError):
        return Path(f"{output}.lock").read_text(encoding="utf-8") or None
    return None


def mark_removed(adapter: Path, because: str) -> None:
    """Write down beside an adapter's folder why it goes."""
    with whole_file(Path(f"{adapter}.removed")) as beside:
        beside.write_text(because, encoding="utf-8")


def why_removed(release: Release) -> str | None:
    """Return why a release's adapter is not there any more, as a sentence with the way out; None while it is there."""
    if release.adapter is None or os.path.isdir(release.adapter):
        return None
    try:
        because = Path(f"{release.adapter}.removed").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return (
        f"The adapter of the release {release.release_id!r} is not on the disk any more: {because} Train it again with "
        "loop.train() on its dataset, or take another release."
    )


def unreadable(job: Job, error: Exception) -> TrainingError:
    """Return the error of a job whose base cannot be loaded, whatever form the damage takes in four libraries."""
    if lacks_memory(error):
        return TrainingError(
            f"There is not enough memory to load the base model {job.base_model!r}: take a smaller one, or four_bit."
        )
    said = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return TrainingError(
        f"The base model {job.base_model!r} (or its parent adapter) cannot be loaded: {said}. It must be a folder with "
        "config.json, a tokenizer and weights in safetensors."
    )


def lacks_memory(error: Exception) -> bool:
    """Return whether memory ran out, as Python, PyTorch for processor or GPU, or the system behind them says it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)


def still_there(release: Release) -> Release:
    """Return a release, or raise EngineError when its adapter was removed to make room."""
    if (why := why_removed(release)) is not None:
        raise EngineError(why)
    return release


@contextmanager
def _lock_file(output: str | Path) -> Iterator[int]:
    # It stays: who waits for a lock on a file that was removed would hold nothing.
    lock = os.open(f"{output}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


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
