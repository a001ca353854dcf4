"""Pack the files that a job needs on a node, and unpack the adapter that comes back. A part of `ray_jobs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256, whole_folder
from langgraph_learnloop.integrations.ray_connection import first_line
from langgraph_learnloop.jobs import CONFIG, RESULT, WEIGHTS
from langgraph_learnloop.records import Job, TrainingResult

BASE_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What a model's folder is loaded from; weights as pickles stay here."""

Read = Callable[[str, int], bytes]
"""Return the bytes of a file of the adapter from an offset on; none at its end."""


class Goods(NamedTuple):
    """A file on its way to a node."""

    place: str
    """Its path there, in the job's folder or absolute."""
    path: Path
    """Its path here."""
    sha256: str
    """Hash of its content."""
    is_there: bool
    """It is to be found there, rather than sent."""


def goods_of(job: Job, base_on_node: str | None, largest_base: int) -> list[Goods]:
    """Return the files that the node must have, hashed; raise TrainingError when one is missing or too large.

    The configuration of a parent adapter is not among them: it names a base, and the node's may lie elsewhere.
    """
    try:
        found = [_goods("data.jsonl", Path(job.dataset))]
        if job.parent_adapter is not None:
            found.append(_goods(f"parent/{WEIGHTS}", Path(job.parent_adapter) / WEIGHTS))
            adapter_config(job.parent_adapter, job.base_model)
        return found + _base(job, base_on_node, largest_base)
    except OSError as error:
        raise TrainingError(
            f"Job {job.job_id!r} cannot be sent to Ray: {error.filename!r} cannot be read ({error.strerror}). "
            "Make it readable, or train with what is there."
        ) from error
    except ValueError as error:
        raise TrainingError(
            f"Job {job.job_id!r} cannot be sent to Ray: {CONFIG} of its parent {job.parent_adapter!r} is broken: "
            f"{first_line(error)} Copy that adapter again from where it was trained."
        ) from error


def _base(job: Job, base_on_node: str | None, largest: int) -> list[Goods]:
    """Return the files of a base that lies here; a name is left to the node."""
    folder = Path(job.base_model)
    if not folder.is_dir():
        return []
    files = sorted({file for pattern in BASE_FILES for file in folder.glob(pattern) if file.is_file()})
    if base_on_node is not None:
        return [_goods(f"{base_on_node}/{file.name}", file, is_there=True) for file in files]
    size = sum(file.stat().st_size for file in files)
    if size > largest:
        raise TrainingError(
            f"The base model {job.base_model!r} has {size:,} bytes, more than the {largest:,} that are "
            "sent with a job: put it on storage that the nodes see, and name it there as base_on_node."
        )
    return [_goods(f"base/{file.name}", file) for file in files]


def order_for(job: Job, folder: str, base_on_node: str | None) -> Job:
    """Return the job as the node sees it, whose files lie in its folder there."""
    base = base_on_node or (f"{folder}/base" if Path(job.base_model).is_dir() else job.base_model)
    moved = {"base_model": base, "dataset": f"{folder}/data.jsonl", "output": f"{folder}/adapter"}
    if job.parent_adapter is not None:
        moved["parent_adapter"] = f"{folder}/parent"
    return job.model_copy(update=moved)


def take_home(job: Job, read: Read, node: str) -> TrainingResult:
    """Write the adapter into the job's output, whole or not at all; raise TrainingError when it is not what it says.

    The node is asked for three files by name, and for nothing else.
    """
    try:
        with whole_folder(Path(job.output)) as scratch:  # what lies there already did not match its own hash
            for name in (WEIGHTS, CONFIG, RESULT):
                with (scratch / name).open("wb") as stream:
                    while part := read(name, stream.tell()):
                        stream.write(part)
            return _as_at_home(job, scratch, node)
    except OSError as error:
        raise TrainingError(
            f"The adapter of job {job.job_id!r} cannot be written to {job.output!r}: {error}. Make room, or mend the "
            "folder's permissions, and run it again."
        ) from error


def _as_at_home(job: Job, scratch: Path, node: str) -> TrainingResult:
    """Check what came from a node and name the folders of this machine in it."""
    try:
        result = TrainingResult.model_validate_json((scratch / RESULT).read_bytes())
        config = adapter_config(scratch, job.base_model)
    except ValueError as error:
        raise TrainingError(
            f"What node {node!r} sent for job {job.job_id!r} is no adapter: {_flaw(error)} See that this package has "
            "the same version there, and run it again."
        ) from error
    if file_sha256(scratch / WEIGHTS) != result.adapter_sha256:
        raise TrainingError(
            f"The weights that node {node!r} sent for job {job.job_id!r} are not the ones it trained: their SHA-256 "
            f"is not {result.adapter_sha256!r}. Nothing was written; run it again."
        )
    result = result.model_copy(update={"adapter": job.output})
    (scratch / CONFIG).write_bytes(config)
    (scratch / RESULT).write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


def adapter_config(adapter: str | Path, base_model: str) -> bytes:
    """Return an adapter's configuration with another name for its base; raise OSError or ValueError without one."""
    found = json.loads((Path(adapter) / CONFIG).read_bytes())
    if not isinstance(found, dict):
        raise ValueError(f"{CONFIG} does not hold an object.")
    return json.dumps(found | {"base_model_name_or_path": base_model}, indent=2, sort_keys=True).encode()


def _goods(place: str, path: Path, is_there: bool = False) -> Goods:
    return Goods(place, path, file_sha256(path), is_there)


def plain(job_id: str) -> str:
    """Return a job's id if it can name a folder; raise TrainingError if not."""
    if job_id in ("", ".", "..") or Path(job_id).name != job_id:
        raise TrainingError(f"The job's id {job_id!r} cannot name a folder on a node: make the job with make_job.")
    return job_id


def _flaw(error: ValueError) -> str:
    """Return what is wrong with a file, in a line."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}."
