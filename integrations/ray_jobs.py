"""Train on a Ray cluster: the worker of a local training job runs on one of its nodes, and only the adapter comes back.

    loop = LearnLoop("learnloop.db", agent="support", trainer=RayTrainer("ray://head:10001", num_gpus=1))

Bytes, texts and hashes travel, no objects of this package. A Ray cluster runs code wherever it is told to, and what its
nodes send is unpickled here by Ray itself: connect to no cluster that you would not run your own code on.

In an agent's process connect by "ray://": with any other address Ray ends the whole process once the cluster's head has
been gone for a minute.
"""

from __future__ import annotations

import io
import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256, whole_folder
from langgraph_learnloop.integrations.ray_connection import CONNECTION, first_line, last_line, library
from langgraph_learnloop.jobs import (
    CONFIG,
    RESULT,
    TAIL,
    WEIGHTS,
    WORKER,
    end,
    ending,
    environment,
    last_words,
    result_in,
)
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Progress, TrainingResult

BASE_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What a model's folder is loaded from; weights as pickles stay here."""

_PART = 16 * 1024 * 1024
"""Bytes of a file that travel at once."""
_LOOK_SECONDS = 0.5
"""How often a wait looks whether the job was cancelled."""
_CLOSE_SECONDS = 20.0
"""How long a node may take to end the worker and to remove its folder."""

Read = Callable[[str, int], bytes]
"""Return the bytes of a file of the adapter from an offset on; none at its end."""


class RayTrainer:
    """Train on a node of a Ray cluster, in a folder that goes with the job; the adapter is written into its output.

    `address` is "auto", "host:port" or "ray://host:port"; None is a Ray on this machine, for the time of the job. A
    process that is connected to Ray already stays so. The nodes need this package and its "train" extra, which a
    `runtime_env` can bring; `python` is the worker's interpreter there (default: the one of Ray). `num_gpus` left open
    is 1 for a job that asks for a GPU, else 0. A job fails when no node is ready for it after `wait_seconds`.

    A local base of up to `largest_base` bytes is sent along; a larger one belongs where the nodes see it, and
    `base_on_node` says where: it must be the same, file for file.

    A job whose node is lost is begun again, `retries` times at most and from its start: its checkpoints are lost with
    the node. With `storage`, a folder that all nodes see, it runs in that folder and goes on from its checkpoint on any
    node; what lies there is removed once the adapter is here.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        python: str | None = None,
        base_on_node: str | None = None,
        storage: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        wait_seconds: float = 600,
        retries: int = 1,
        largest_base: int = 2_000_000_000,
    ) -> None:
        self._address = address
        self._num_cpus = num_cpus
        self._num_gpus = num_gpus
        self._python = python
        self._base_on_node = base_on_node
        self._storage = storage
        self._runtime_env = runtime_env
        self._wait_seconds = wait_seconds
        self._retries = retries
        self._largest_base = largest_base
        self._under_way = False
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the job that is under way, from any thread; `train` raises TrainingError there. Without one, nothing."""
        if self._under_way:
            self._cancelled.set()

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Train, or return what the same job left earlier; raise TrainingError with the reason.

        The end of the worker's log is a note of the error.
        """
        if (done := result_in(Path(job.output))) is not None:
            return done
        ray = library("Training")
        self._cancelled.clear()
        self._under_way = True
        try:
            goods = self._goods(job)
            with CONNECTION.open(ray, self._address, TrainingError):
                return self._insist(ray, job, goods, on_progress)
        except _CancelledError:
            goes_on = "goes on from its last checkpoint, if there is one" if self._storage else "begins anew"
            raise TrainingError(f"Job {job.job_id!r} was cancelled. Run again, it {goes_on}.") from None
        finally:
            self._under_way = False

    def _goods(self, job: Job) -> list[_Goods]:
        """Return the files that the node must have, hashed; raise TrainingError when one is missing or too large."""
        try:
            found = [_goods("data.jsonl", Path(job.dataset))]
            if job.parent_adapter is not None:
                found += [_goods(f"parent/{name}", Path(job.parent_adapter) / name) for name in (WEIGHTS, CONFIG)]
                _with_base((Path(job.parent_adapter) / CONFIG).read_bytes(), job.base_model)
            return found + self._base(job)
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

    def _base(self, job: Job) -> list[_Goods]:
        """Return the files of a base that lies here; a name is left to the node."""
        folder = Path(job.base_model)
        if not folder.is_dir():
            return []
        files = sorted({file for pattern in BASE_FILES for file in folder.glob(pattern) if file.is_file()})
        size = sum(file.stat().st_size for file in files)
        if self._base_on_node is None and size > self._largest_base:
            raise TrainingError(
                f"The base model {job.base_model!r} has {size:,} bytes, more than the {self._largest_base:,} that are "
                "sent with a job: put it on storage that the nodes see, and name it there as base_on_node."
            )
        if self._base_on_node is not None:
            return [_goods(f"{self._base_on_node}/{file.name}", file, is_there=True) for file in files]
        return [_goods(f"base/{file.name}", file) for file in files]

    def _insist(self, ray: Any, job: Job, goods: list[_Goods], tell: OnProgress) -> TrainingResult:
        """Run the job, and again when its node is lost; raise TrainingError when there is no more to try."""
        left = self._retries
        while True:
            try:
                return self._errand(ray, job, tell).run(goods, self._wait_seconds)
            except ray.exceptions.RayActorError as error:
                if left == 0:
                    raise _lost(job, error) from error
            left -= 1
            tell(_note(job, "queue", "The node was lost: the job is begun again on one that is there."))

    def _errand(self, ray: Any, job: Job, tell: OnProgress) -> _Errand:
        """Say what the cluster is asked for; raise TrainingError when Ray does not take that."""
        wanted = {"CPU": self._num_cpus, "GPU": float(job.gpu) if self._num_gpus is None else self._num_gpus}
        env = {} if self._runtime_env is None else {"runtime_env": dict(self._runtime_env)}
        try:
            actor = ray.remote(_Bench).options(
                num_cpus=wanted["CPU"],
                num_gpus=wanted["GPU"],
                max_concurrency=2,  # the worker must be ended while another call waits for its next line
                **env,
            )
        except (ValueError, TypeError) as error:
            raise TrainingError(
                f"Ray takes no such request for job {job.job_id!r}: {first_line(error)} Mend RayTrainer's arguments."
            ) from error
        place = _Place(_resources(wanted), self._python, self._base_on_node, self._storage)
        return _Errand(ray, actor, job, place, tell, self._cancelled)


class _Place(NamedTuple):
    """What a job asks of the node it runs on."""

    wanted: str
    """The resources, in words."""
    python: str | None
    """The worker's interpreter there; None is the one of Ray."""
    base: str | None
    """Where the base model lies there; None sends it, or leaves a hub's name to the node."""
    storage: str | None
    """The folder that all nodes see; None is a folder of the node's own."""


class _Errand:
    """Take one job to a node and its adapter back, waiting in such a way that it can be cancelled."""

    def __init__(
        self, ray: Any, actor: Any, job: Job, place: _Place, tell: OnProgress, cancelled: threading.Event
    ) -> None:
        self._ray = ray
        self._actor = actor
        self._bench: Any = None
        self._job = job
        self._place = place
        self._tell = tell
        self._cancelled = cancelled
        self._opened = False

    def run(self, goods: list[_Goods], wait_seconds: float) -> TrainingResult:
        """Wait for the node, send, train and take home; leave nothing running there, however it ends."""
        keep = self._place.storage is not None
        try:
            node, folder = self._wait(wait_seconds)
            self._send(goods, node)
            result = self._work(self._order(folder), node)
            keep = False
        finally:
            self._close(keep)
        return result

    def _wait(self, seconds: float) -> tuple[str, str]:
        """Wait for a node; return its name and the job's folder there."""
        job = self._job
        self._tell(_note(job, "queue", f"Waiting for a node with {self._place.wanted}."))
        with self._in_sentences():
            self._bench = self._actor.remote()
        try:
            node, folder = self._ask("open", self._place.storage, _plain(job.job_id), seconds=seconds)
        except _TooLongError:
            raise self._no_node(seconds) from None
        self._opened = True
        return node, folder

    def _no_node(self, seconds: float) -> TrainingError:
        with self._in_sentences():
            there = sorted({_resources(node["Resources"]) for node in self._ray.nodes() if node["Alive"]})
        return TrainingError(
            f"No node of the Ray cluster has {self._place.wanted} free for job {self._job.job_id!r} after {seconds:g} "
            f"seconds; its nodes have {'; '.join(there) or 'nothing'}. Ask for less, or add a node that has it."
        )

    def _send(self, goods: list[_Goods], node: str) -> None:
        """Send what the node does not have, and check that it arrived."""
        size = sum(one.path.stat().st_size for one in goods if not one.is_there) / 1e6
        self._tell(_note(self._job, "send", f"Sending {size:,.1f} MB to node {node!r}, less what it has."))
        for one in goods:
            if self._holds(one):
                continue
            if one.is_there:
                raise TrainingError(
                    f"The base model on node {node!r} is not the one of job {self._job.job_id!r}: {one.place!r} is "
                    f"missing there, or differs from {str(one.path)!r}. Copy it again, or mend base_on_node."
                )
            with one.path.open("rb") as stream:
                self._write(one.place, stream)
            if not self._holds(one):
                raise TrainingError(
                    f"{str(one.path)!r} did not reach node {node!r} as it was: its SHA-256 differs. Run job "
                    f"{self._job.job_id!r} again while nobody writes that file."
                )

    def _holds(self, one: _Goods) -> bool:
        return bool(self._ask("holds", one.place, one.sha256))

    def _write(self, place: str, stream: IO[bytes]) -> None:
        self._ask("write", place, "wb", stream.read(_PART))
        while part := stream.read(_PART):
            self._ask("write", place, "ab", part)

    def _order(self, folder: str) -> Job:
        """Return the job as the node sees it."""
        job = self._job
        base = self._place.base or (f"{folder}/base" if Path(job.base_model).is_dir() else job.base_model)
        moved = {"base_model": base, "dataset": f"{folder}/data.jsonl", "output": f"{folder}/adapter"}
        if job.parent_adapter is not None:
            moved["parent_adapter"] = f"{folder}/parent"
            config = (Path(job.parent_adapter) / CONFIG).read_bytes()
            self._write(f"parent/{CONFIG}", io.BytesIO(_with_base(config, base)))  # Unsloth takes the base from here
        return job.model_copy(update=moved)

    def _work(self, order: Job, node: str) -> TrainingResult:
        """Run the worker, pass its progress on and take the adapter home."""
        offline = Path(self._job.base_model).is_dir() or self._place.base is not None
        self._ask("begin", self._place.python, order.model_dump_json(indent=2), offline)
        while line := self._ask("line"):
            with suppress(ValidationError):
                self._tell(Progress.model_validate_json(line))
        code, done, tail = self._ask("end")
        if code != 0 or not done:
            raise _failed(self._job, node, code, tail)
        return _take_home(self._job, lambda name, offset: self._ask("read", name, offset), node)

    def _ask(self, what: str, *given: Any, seconds: float | None = None) -> Any:
        """Return what the bench answers; raise when it takes too long, the job is cancelled or the node cannot."""
        with self._in_sentences():
            answer = getattr(self._bench, what).remote(*given)
            self._ready(answer, seconds)
            return self._ray.get(answer)

    @contextmanager
    def _in_sentences(self) -> Iterator[None]:
        """Turn Ray's errors into TrainingError; that the node is lost stays its own, for the job may be run again."""
        errors, job_id = self._ray.exceptions, self._job.job_id
        try:
            yield
        except (errors.RayActorError, _CancelledError, _TooLongError):
            raise
        except errors.RayTaskError as error:
            raise TrainingError(
                f"The node could not do its part in job {job_id!r}: {first_line(error.cause)} Check that the "
                f"interpreter ({self._place.python or 'the one of Ray'}) is there and that the disk has room."
            ) from error
        except errors.RuntimeEnvSetupError as error:
            raise TrainingError(
                f"The runtime_env of job {job_id!r} cannot be set up on the node: {last_line(error)} "
                "Mend the runtime_env of RayTrainer."
            ) from error
        except Exception as error:  # a client whose cluster is gone raises errors of no kind of its own
            raise TrainingError(
                f"The connection to the Ray cluster was lost during job {job_id!r}: {first_line(error)} "
                "See that the cluster is up, and run the job again."
            ) from error

    def _ready(self, answer: Any, seconds: float | None) -> None:
        until = math.inf if seconds is None else time.monotonic() + seconds
        while not self._cancelled.is_set():
            if self._ray.wait([answer], timeout=max(min(_LOOK_SECONDS, until - time.monotonic()), 0.0))[0]:
                return
            if time.monotonic() >= until:
                raise _TooLongError
        raise _CancelledError

    def _close(self, keep: bool) -> None:
        """End whatever runs on the node, and give its resources back; on a node that is gone nothing runs."""
        if self._bench is None:
            return
        with suppress(Exception):  # how the job itself ended is what counts
            if self._opened:  # else it would have to be placed first, to be closed
                self._ray.get(self._bench.close.remote(keep), timeout=_CLOSE_SECONDS)
        with suppress(Exception):
            self._ray.kill(self._bench)


class _Bench:
    """Hold one job on a node: its folder and its worker. The worker ends with this process."""

    def __init__(self) -> None:
        self._folder = Path()
        self._worker: subprocess.Popen[bytes] | None = None

    def open(self, storage: str | None, job_id: str) -> tuple[str, str]:
        """Make the job's folder, or find the one that an earlier node left; return the node's name and the folder."""
        if storage is None:
            self._folder = Path(tempfile.mkdtemp(prefix="learnloop-"))
        else:
            self._folder = Path(storage) / job_id
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return platform.node(), str(self._folder)

    def holds(self, place: str, sha256: str) -> bool:
        """Return whether a file lies here with that content; `place` may lie outside the job's folder."""
        try:
            return file_sha256(self._folder / place) == sha256
        except OSError:
            return False

    def write(self, place: str, mode: Literal["wb", "ab"], part: bytes) -> None:
        """Begin a file of the job's folder with a part, or add a part to it."""
        path = self._folder / place
        path.parent.mkdir(exist_ok=True)
        with path.open(mode) as stream:
            stream.write(part)

    def begin(self, python: str | None, job: str, offline: bool) -> None:
        """Start the worker, unless the adapter is there: an earlier node may have been lost after the last step."""
        if result_in(self._folder / "adapter") is not None:
            return
        described = self._folder / "job.json"
        described.write_text(job, encoding="utf-8")
        with (self._folder / "worker.log").open("wb") as errors:
            self._worker = subprocess.Popen(
                [python or sys.executable, "-m", WORKER, str(described)],
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that this process is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a group of its own, to be ended as a whole
                env=environment(offline=offline),
            )

    def line(self) -> bytes:
        """Return what the worker says next; nothing when it has ended."""
        worker = self._worker
        return worker.stdout.readline() if worker is not None and worker.stdout is not None else b""

    def end(self) -> tuple[int, bool, list[str]]:
        """Return the worker's exit code, whether an adapter is there, and the last lines of its log."""
        code = 0 if self._worker is None else self._worker.wait()
        there = result_in(self._folder / "adapter") is not None
        return code, there, last_words(self._folder / "worker.log")

    def read(self, name: str, offset: int) -> bytes:
        """Return a part of one of the adapter's files; nothing at its end."""
        with (self._folder / "adapter" / name).open("rb") as stream:
            stream.seek(offset)
            return stream.read(_PART)

    def close(self, keep: bool) -> None:
        """End the worker and whatever it started; remove the folder unless it is to be gone on from."""
        worker = self._worker
        if worker is not None and worker.poll() is None:
            end(worker)
            worker.wait()
        if not keep and self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)


class _Goods(NamedTuple):
    """A file on its way to a node."""

    place: str
    """Its path there, in the job's folder or absolute."""
    path: Path
    """Its path here."""
    sha256: str
    """Hash of its content."""
    is_there: bool
    """It is to be found there, rather than sent."""


class _CancelledError(Exception):
    """Say that another thread cancelled the job."""


class _TooLongError(Exception):
    """Say that an answer did not come in time."""


def _take_home(job: Job, read: Read, node: str) -> TrainingResult:
    """Write the adapter into the job's output, whole or not at all; raise TrainingError when it is not what it says.

    The node is asked for three files by name, and for nothing else.
    """
    try:
        with whole_folder(Path(job.output)) as scratch:  # what lies there already did not match its own hash
            for name in (WEIGHTS, CONFIG, RESULT):
                _receive(scratch / name, read)
            return _as_at_home(job, scratch, node)
    except OSError as error:
        raise TrainingError(
            f"The adapter of job {job.job_id!r} cannot be written to {job.output!r}: {error}. Make room, or mend the "
            "folder's permissions, and run it again."
        ) from error


def _receive(path: Path, read: Read) -> None:
    with path.open("wb") as stream:
        while part := read(path.name, stream.tell()):
            stream.write(part)


def _as_at_home(job: Job, scratch: Path, node: str) -> TrainingResult:
    """Check what came from a node and name the folders of this machine in it."""
    try:
        result = TrainingResult.model_validate_json((scratch / RESULT).read_bytes())
        config = _with_base((scratch / CONFIG).read_bytes(), job.base_model)
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


def _with_base(config: bytes, base_model: str) -> bytes:
    """Return an adapter's configuration with another name for its base; raise ValueError when it is none."""
    found = json.loads(config)
    if not isinstance(found, dict):
        raise ValueError(f"{CONFIG} does not hold an object.")
    return json.dumps(found | {"base_model_name_or_path": base_model}, indent=2, sort_keys=True).encode()


def _goods(place: str, path: Path, is_there: bool = False) -> _Goods:
    return _Goods(place, path, file_sha256(path), is_there)


def _plain(job_id: str) -> str:
    """Return a job's id if it can name a folder; raise TrainingError if not."""
    if job_id in ("", ".", "..") or Path(job_id).name != job_id:
        raise TrainingError(f"The job's id {job_id!r} cannot name a folder on a node: make the job with make_job.")
    return job_id


def _resources(found: Mapping[str, float]) -> str:
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else ", no GPU")


def _note(job: Job, stage: Literal["queue", "send"], note: str) -> Progress:
    return Progress(stage=stage, done=0, total=job.recipe.steps, note=note)


def _failed(job: Job, node: str, code: int, tail: list[str]) -> TrainingError:
    """Return the worker's own reason, with the end of its log as a note."""
    reason = tail[-1] if tail else "it said nothing: see the worker's log on that node."
    error = TrainingError(f"Job {job.job_id!r} ended without an adapter on node {node!r} ({ending(code)}): {reason}")
    error.add_note("The end of its log:\n" + "\n".join(tail))
    return error


def _lost(job: Job, error: BaseException) -> TrainingError:
    """Return why there is no process for the job any more, in Ray's words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    telling = [line for line in lines if "is dead because" in line or "ModuleNotFoundError" in line]
    because = textwrap.shorten((telling or lines)[-1].split(" Some common causes")[0], 300, placeholder=" ...")
    lost = TrainingError(
        f"Job {job.job_id!r} lost its node or its process on the Ray cluster: {because} "
        "See that the nodes have this package and memory enough, and run it again."
    )
    lost.add_note("What Ray said:\n" + "\n".join(lines[-TAIL:]))
    return lost


def _flaw(error: ValueError) -> str:
    """Return what is wrong with a file, in a line."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])!r}: {first['msg']}."
