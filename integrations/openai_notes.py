"""Know what attempts at a hosted job left on this disk: its ids, and its result. A part of `openai_finetuning`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.jobs import RESULT
from langgraph_learnloop.records import Job, Record, TrainingResult


class Kept(Record):
    """What is written down of a job at the provider."""

    job: str | None = None
    """The provider's id of it."""
    files: tuple[str, ...] = ()
    """What was uploaded for it."""


def kept(job: Job) -> Kept:
    """Return what an attempt on this machine wrote down; nothing where none did."""
    try:
        return Kept.model_validate_json(_note(job).read_bytes())
    except (OSError, ValidationError):
        return Kept()


def keep(job: Job, what: Kept) -> None:
    """Write it down for the next attempt; raise TrainingError when the disk does not take it."""
    _write(_note(job), what)


def finished(job: Job) -> TrainingResult | None:
    """Return the result of a job that has been done, else None."""
    try:
        result = TrainingResult.model_validate_json(_result(job).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.model is not None else None


def finish(job: Job, result: TrainingResult) -> None:
    """Write down the result of a job, so that it is done once; raise TrainingError when the disk does not take it."""
    _write(_result(job), result)


def _note(job: Job) -> Path:
    return Path(f"{job.output}.openai.json")


def _result(job: Job) -> Path:
    return Path(job.output, RESULT)


def _write(path: Path, record: Record) -> None:
    """Write a file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(record.model_dump_json(indent=2), encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be written ({error}): mend that and run again; what the provider did is taken up."
        ) from error
