"""Take a job through a provider, from wherever it stands there to its end, with what attempts at it left on this disk.

A part of `openai_finetuning`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.integrations.openai_line import Line, Stop, entries, said_by, sound
from langgraph_learnloop.integrations.openai_rows import Upload
from langgraph_learnloop.jobs import RESULT
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Progress, Record, TrainingResult
from langgraph_learnloop.texts import one_line

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

_TAG = "learnloop_job"
"""The key of a provider's job under which our job's id stands."""
_RECENT = 300
"""Jobs of the account that are looked through for an earlier attempt."""
_UPLOAD_SECONDS = 600.0
_GIVEN_UP = {"failed", "cancelled"}
_ENDED = {"succeeded", *_GIVEN_UP}
_STAGES = {"validating_files": "validate", "queued": "queue", "running": "train", "succeeded": "train"}
_STEP = re.compile(r"Step (\d+)/(\d+)(?:.*?training loss=(\d+(?:\.\d+)?))?")


class _Kept(Record):
    """What is written down of a job at the provider."""

    job: str | None = None
    """The provider's id of it."""
    files: tuple[str, ...] = ()
    """What was uploaded for it."""


@dataclass
class Attempt:
    """One walk with the provider's job, from wherever it stands to its end."""

    job: Job
    client: OpenAI
    line: Line
    tell: OnProgress
    upload: Upload
    """What a job that is not there yet is begun with."""
    method: Any
    """How the provider is to train, in its own words."""
    afford: Callable[[Job, Upload], str]
    """Returns what that will cost, in words; raises TrainingError where it is too much."""
    step: int = 0
    """Optimizer steps done, as far as the provider told."""
    total: int = field(init=False)
    """Optimizer steps in all."""
    loss: float | None = None
    """The last training loss that was told."""
    seen: set[str] = field(default_factory=set)
    """Events that were told of."""
    files: set[str] = field(init=False)
    """What was uploaded for the job, by earlier attempts as well."""

    def __post_init__(self) -> None:
        self.total = self.upload.steps
        self.files = set(_kept(self.job).files)

    def run(self) -> FineTuningJob:
        """Return the provider's job when it has succeeded; raise TrainingError when it has not."""
        import openai

        remote: FineTuningJob | None = None
        why = None
        try:
            remote = self.line.ask(self._known) or self._begun()
            self.line.since = remote.created_at or self.line.since
            self._remember(remote.training_file, remote.id)
            remote = self._followed(remote)
        except Stop as stop:
            why = str(stop)
            remote = self._stopped(remote)
        except openai.APIStatusError:
            if remote is None:  # refused: no job reads the file
                self._delete_files()
            raise
        if remote is None or remote.status in _ENDED:
            self._delete_files()
        if remote is not None and remote.status == "succeeded" and remote.fine_tuned_model:
            return remote
        raise TrainingError(_ending(self.job, remote, why))

    def _known(self) -> FineTuningJob | None:
        """Return the provider's job of an earlier attempt, unless it was given up."""
        import openai

        if (noted := _kept(self.job).job) is not None:
            with suppress(openai.NotFoundError):  # another account's, or deleted
                remote = self._look(noted)
                if remote.status not in _GIVEN_UP:
                    return remote
        tag = {_TAG: self.job.job_id}
        listed = entries(lambda: self.client.fine_tuning.jobs.list(limit=100, metadata=tag), _RECENT)
        ours = [remote for remote in listed if (remote.metadata or {}).get(_TAG) == self.job.job_id]
        return next((remote for remote in ours if remote.status not in _GIVEN_UP), None)

    def _look(self, remote_id: str) -> FineTuningJob:
        return sound(self.client.fine_tuning.jobs.retrieve(remote_id))

    def _begun(self) -> FineTuningJob:
        """Upload the rows and create the job; an answer that was lost is looked for before anything is created."""
        job, client = self.job, self.client
        cost = self.afford(job, self.upload)
        left_out = f" {self.upload.left_out} more are left out." if self.upload.left_out else ""
        self._note("upload", f"Sending what is to be learned: {cost}.{left_out}")
        file = (f"learnloop-{job.job_id}.jsonl", self.upload.body())
        upload = partial(client.files.create, file=file, purpose="fine-tune", timeout=_UPLOAD_SECONDS)
        file_id = self.line.ask(lambda: sound(upload())).id
        self._remember(file_id)
        create = partial(
            client.fine_tuning.jobs.create,
            model=job.base_model,
            training_file=file_id,
            method=self.method,
            seed=job.recipe.seed % 2**31,
            suffix=job.job_id[:18],  # as long as every server allows
            metadata={_TAG: job.job_id},
        )
        return self.line.ask(lambda: self._known() or sound(create()))

    def _followed(self, remote: FineTuningJob) -> FineTuningJob:
        """Return the job when it has ended, and tell how it goes until then."""
        wait = self.line.poll
        while True:
            wait = self.line.poll if self._news(remote) else min(1.5 * wait, 12 * self.line.poll)
            if remote.status in _ENDED:
                return remote
            self.line.pause(wait)
            remote = self.line.ask(partial(self._look, remote.id))

    def _stopped(self, remote: FineTuningJob | None) -> FineTuningJob | None:
        """Cancel the job at the provider, if there is one, and return how it ended; it may have been done already."""
        import openai

        line, jobs = self.line.for_the_end(), self.client.fine_tuning.jobs
        found = remote or line.ask(self._known)
        if found is None or found.status in _ENDED:
            return found
        try:
            return line.ask(lambda: sound(jobs.cancel(found.id)))
        except openai.APIStatusError:  # too late
            return line.ask(partial(self._look, found.id))

    def _news(self, remote: FineTuningJob) -> bool:
        """Tell of the events that are new, oldest first, and return whether there were any."""
        import openai

        jobs = self.client.fine_tuning.jobs
        try:
            events = self.line.ask(lambda: entries(lambda: jobs.list_events(remote.id, limit=100), 100))
        except openai.APIStatusError:  # not every server keeps events
            return False
        fresh = [event for event in reversed(events) if event.id not in self.seen]
        for event in sorted(fresh, key=lambda event: event.created_at or 0):
            self.seen.add(event.id)
            self._tell_of(event, _STAGES.get(remote.status, remote.status))
        return bool(fresh)

    def _tell_of(self, event: FineTuningJobEvent, stage: str) -> None:
        step, total, loss = _figures(event)
        if step is not None:
            self.step = max(self.step, step)
            self.loss = loss if loss is not None else self.loss
        self.total = max(total or self.total, self.step)
        note = event.message if step is None else None
        self.tell(Progress(stage=stage, done=self.step, total=self.total, loss=loss, note=note))

    def _remember(self, file: str, remote_id: str | None = None) -> None:
        self.files.add(file)
        _write(_kept_at(self.job), _Kept(job=remote_id, files=tuple(sorted(self.files))))

    def _delete_files(self) -> None:
        """Delete what was uploaded at the provider, or say what is still there."""
        import openai

        for file in sorted(self.files):
            try:
                self.client.files.delete(file)
            except openai.NotFoundError:
                continue
            except (openai.OpenAIError, json.JSONDecodeError) as error:
                said = said_by(error)
                self._note(
                    "delete", f"The uploaded file {file!r} could not be deleted ({said}): delete it at the provider."
                )

    def _note(self, stage: str, note: str) -> None:
        self.tell(Progress(stage=stage, done=self.step, total=self.total, note=note))


def finished(job: Job) -> TrainingResult | None:
    """Return the result of a job that has been done, else None."""
    try:
        result = TrainingResult.model_validate_json(Path(job.output, RESULT).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.model is not None else None


def finish(job: Job, result: TrainingResult) -> None:
    """Write down the result of a job, so that it is done once; raise TrainingError when the disk does not take it."""
    _write(Path(job.output, RESULT), result)


def _figures(event: FineTuningJobEvent) -> tuple[int | None, int | None, float | None]:
    """Return step, steps in all and training loss of an event; servers that send no figures say them in words."""
    data = event.data if isinstance(event.data, Mapping) else {}
    said = _STEP.search(event.message or "")
    in_words = said.groups() if said else (None, None, None)
    step, total, loss = (
        data.get(name) if data.get(name) is not None else word
        for name, word in zip(("step", "total_steps", "train_loss"), in_words, strict=True)
    )
    return (
        None if step is None else int(step),
        None if total is None else int(total),
        None if loss is None else float(loss),
    )


def _ending(job: Job, remote: FineTuningJob | None, why: str | None) -> str:
    """Return why a job ended without a model."""
    who = f"Job {job.job_id!r}"
    if remote is None:
        return f"{who} ended before the provider began it, for {why}. Run it again."
    if remote.status == "failed":
        said = remote.error and (remote.error.message or remote.error.code)
        reason = one_line(said) if said else "it gave no reason"
        return f"{who} failed at the provider ({remote.id}): {reason}. Mend that and run it again."
    if remote.status == "succeeded":
        return f"{who} succeeded at the provider ({remote.id}), which names no model: ask the provider."
    because = f"for {why}" if why else "and not by this process"
    return f"{who} was cancelled at the provider ({remote.id}), {because}. Run again, it begins anew."


def _kept(job: Job) -> _Kept:
    """Return what an attempt on this machine wrote down; nothing where none did."""
    try:
        return _Kept.model_validate_json(_kept_at(job).read_bytes())
    except (OSError, ValidationError):
        return _Kept()


def _kept_at(job: Job) -> Path:
    return Path(f"{job.output}.openai.json")


def _write(path: Path, record: Record) -> None:
    """Write a file, whole or not at all; raise TrainingError when the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(record.model_dump_json(indent=2), encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be written ({error}): mend that and run again; what the provider did is taken up."
        ) from error
