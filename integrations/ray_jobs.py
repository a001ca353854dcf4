"""Train on a Ray cluster: the worker of a local training job runs on one of its nodes, and only the adapter comes back.

    loop = LearnLoop("learnloop.db", agent="support", trainer=RayTrainer("ray://head:10001", num_gpus=1))

Bytes, texts and hashes travel, no objects of this package. A Ray cluster runs code wherever it is told to, and what its
nodes send is unpickled here by Ray itself: connect to no cluster that you would not run your own code on.

In an agent's process connect by "ray://": with any other address Ray ends the whole process once the cluster's head has
been gone for a minute.
"""

from __future__ import annotations

import io
import math
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from pydantic import ValidationError

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.integrations.ray_connection import CONNECTION, first_line, last_line, library, lines_of
from langgraph_learnloop.integrations.ray_files import Goods, adapter_config, goods_of, order_for, plain, take_home
from langgraph_learnloop.integrations.ray_node import PART, Bench
from langgraph_learnloop.jobs import CONFIG, TAIL, ending, result_in
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Progress, TrainingResult

_LOOK_SECONDS = 0.5
"""How often a wait looks whether the job was cancelled."""
_CLOSE_SECONDS = 20.0
"""How long a node may take to end the worker and to remove its folder."""


class _CancelledError(Exception):
    """Say that another thread cancelled the job."""


class _TooLongError(Exception):
    """Say that an answer did not come in time."""


class _Place(NamedTuple):
    """What a job asks of the node it runs on."""

    num_cpus: float
    """Processors."""
    num_gpus: float | None
    """GPUs; None is 1 for a job that asks for one, else 0."""
    python: str | None
    """The worker's interpreter there; None is the one of Ray."""
    base: str | None
    """Where the base model lies there; None sends it, or leaves a hub's name to the node."""
    storage: str | None
    """The folder that all nodes see; None is a folder of the node's own."""
    runtime_env: Mapping[str, Any] | None
    """What Ray prepares there."""
    wait_seconds: float
    """How long a node may take to be ready."""

    def wanted(self, job: Job) -> dict[str, float]:
        """Return the resources for a job, by Ray's names."""
        return {"CPU": self.num_cpus, "GPU": float(job.gpu) if self.num_gpus is None else self.num_gpus}


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
        self._place = _Place(num_cpus, num_gpus, python, base_on_node, storage, runtime_env, wait_seconds)
        self._retries = retries
        self._largest_base = largest_base
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End the job that is under way, from any thread; `train` raises TrainingError there. Without one, nothing."""
        self._cancelled.set()

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Train, or return what the same job left earlier; raise TrainingError with the reason.

        The end of the worker's log is a note of the error.
        """
        self._cancelled.clear()
        if (done := result_in(Path(job.output))) is not None:
            return done
        ray = library("Training")
        try:
            goods = goods_of(job, self._place.base, self._largest_base)
            with CONNECTION.open(ray, self._address, TrainingError):
                return self._insist(ray, job, goods, on_progress)
        except _CancelledError:
            goes_on = "goes on from its last checkpoint, if there is one" if self._place.storage else "begins anew"
            raise TrainingError(f"Job {job.job_id!r} was cancelled. Run again, it {goes_on}.") from None

    def _insist(self, ray: Any, job: Job, goods: list[Goods], tell: OnProgress) -> TrainingResult:
        """Run the job, and again when its node is lost; raise TrainingError when there is no more to try."""
        left = self._retries
        while True:
            try:
                return _Errand(ray, job, self._place, tell, self._cancelled).run(goods)
            except ray.exceptions.RayActorError as error:
                if left == 0:
                    raise _lost(job, error) from error
            left -= 1
            note = "The node was lost: the job is begun again on one that is there."
            tell(Progress(stage="queue", done=0, total=job.recipe.steps, note=note))


class _Errand:
    """Take one job to a node and its adapter back, waiting in such a way that it can be cancelled."""

    def __init__(self, ray: Any, job: Job, place: _Place, tell: OnProgress, cancelled: threading.Event) -> None:
        self._ray = ray
        self._job = job
        self._place = place
        self._tell = tell
        self._cancelled = cancelled
        self._bench: Any = None
        self._opened = False

    def run(self, goods: list[Goods]) -> TrainingResult:
        """Wait for the node, send, train and take home; leave nothing running there, however it ends."""
        keep = self._place.storage is not None
        try:
            node, folder = self._wait()
            order = order_for(self._job, folder, self._place.base)
            self._send(goods, node)
            if self._job.parent_adapter is not None:  # it names the base, and Unsloth takes the base from it
                config = adapter_config(self._job.parent_adapter, order.base_model)
                self._write(f"parent/{CONFIG}", io.BytesIO(config))
            result = self._work(order, node)
            keep = False
        finally:
            self._close(keep)
        return result

    def _wait(self) -> tuple[str, str]:
        """Wait for a node; return its name and the job's folder there."""
        wanted = _resources(self._place.wanted(self._job))
        actor = self._actor()
        self._note("queue", f"Waiting for a node with {wanted}.")
        with self._in_sentences():
            self._bench = actor.remote()
        try:
            storage, job_id = self._place.storage, plain(self._job.job_id)
            node, folder = self._ask("open", storage, job_id, seconds=self._place.wait_seconds)
        except _TooLongError:
            raise self._no_node(wanted) from None
        self._opened = True
        return node, folder

    def _actor(self) -> Any:
        """Say what the cluster is asked for; raise TrainingError when Ray does not take that."""
        wanted, env = self._place.wanted(self._job), self._place.runtime_env
        try:
            return self._ray.remote(Bench).options(
                num_cpus=wanted["CPU"],
                num_gpus=wanted["GPU"],
                max_concurrency=2,  # the worker must be ended while another call waits for its next line
                runtime_env=None if env is None else dict(env),
            )
        except (ValueError, TypeError) as error:
            raise TrainingError(
                f"Ray takes no such request for job {self._job.job_id!r}: {first_line(error)} "
                "Mend RayTrainer's arguments."
            ) from error

    def _no_node(self, wanted: str) -> TrainingError:
        with self._in_sentences():
            there = sorted({_resources(node["Resources"]) for node in self._ray.nodes() if node["Alive"]})
        seconds = self._place.wait_seconds
        return TrainingError(
            f"No node of the Ray cluster has {wanted} free for job {self._job.job_id!r} after {seconds:g} "
            f"seconds; its nodes have {'; '.join(there) or 'nothing'}. Ask for less, or add a node that has it."
        )

    def _send(self, goods: list[Goods], node: str) -> None:
        """Send what the node does not have, and check that it arrived."""
        size = sum(one.path.stat().st_size for one in goods if not one.is_there) / 1e6
        self._note("send", f"Sending {size:,.1f} MB to node {node!r}, less what it has.")
        for one in goods:
            if self._ask("holds", one.place, one.sha256):
                continue
            if one.is_there:
                raise TrainingError(
                    f"The base model on node {node!r} is not the one of job {self._job.job_id!r}: {one.place!r} is "
                    f"missing there, or differs from {str(one.path)!r}. Copy it again, or mend base_on_node."
                )
            with one.path.open("rb") as stream:
                self._write(one.place, stream)
            if not self._ask("holds", one.place, one.sha256):
                raise TrainingError(
                    f"{str(one.path)!r} did not reach node {node!r} as it was: its SHA-256 differs. Run job "
                    f"{self._job.job_id!r} again while nobody writes that file."
                )

    def _write(self, place: str, stream: IO[bytes]) -> None:
        self._ask("write", place, "wb", stream.read(PART))
        while part := stream.read(PART):
            self._ask("write", place, "ab", part)

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
        return take_home(self._job, partial(self._ask, "read"), node)

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

    def _note(self, stage: Literal["queue", "send"], note: str) -> None:
        self._tell(Progress(stage=stage, done=0, total=self._job.recipe.steps, note=note))

    def _close(self, keep: bool) -> None:
        """End whatever runs on the node, and give its resources back; on a node that is gone nothing runs."""
        if self._bench is None:
            return
        with suppress(Exception):  # how the job itself ended is what counts
            if self._opened:  # else it would have to be placed first, to be closed
                self._ray.get(self._bench.close.remote(keep), timeout=_CLOSE_SECONDS)
        with suppress(Exception):
            self._ray.kill(self._bench)


def _resources(found: Mapping[str, float]) -> str:
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else ", no GPU")


def _failed(job: Job, node: str, code: int, tail: list[str]) -> TrainingError:
    """Return the worker's own reason, with the end of its log as a note."""
    reason = tail[-1] if tail else "it said nothing: see the worker's log on that node."
    error = TrainingError(f"Job {job.job_id!r} ended without an adapter on node {node!r} ({ending(code)}): {reason}")
    error.add_note("The end of its log:\n" + "\n".join(tail))
    return error


def _lost(job: Job, error: BaseException) -> TrainingError:
    """Return why there is no process for the job any more, in Ray's words."""
    lines = lines_of(error)
    telling = [line for line in lines if "is dead because" in line or "ModuleNotFoundError" in line]
    because = textwrap.shorten((telling or lines)[-1].split(" Some common causes")[0], 300, placeholder=" ...")
    failure = TrainingError(
        f"Job {job.job_id!r} lost its node or its process on the Ray cluster: {because} "
        "See that the nodes have this package and memory enough, and run it again."
    )
    failure.add_note("What Ray said:\n" + "\n".join(lines[-TAIL:]))
    return failure
