"""Train on a Ray cluster: the worker of a local training job runs on one of its nodes, and only the adapter comes back.

    loop = LearnLoop("learnloop.db", agent="support", trainer=RayTrainer("ray://head:10001", num_gpus=1))

Bytes, texts and hashes travel, no objects of this package. A Ray cluster runs code wherever it is told to, and what its
nodes send is unpickled here by Ray itself: connect to no cluster that you would not run your own code on.

In an agent's process connect by "ray://": with any other address Ray ends the whole process once the cluster's head has
been gone for a minute.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.integrations.ray_connection import CONNECTION, library
from langgraph_learnloop.integrations.ray_errand import CancelledError, Errand, Place, lost
from langgraph_learnloop.integrations.ray_files import Goods, goods_of
from langgraph_learnloop.jobs import result_in
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Progress, TrainingResult


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
        self._place = Place(num_cpus, num_gpus, python, base_on_node, storage, runtime_env, wait_seconds)
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
        except CancelledError:
            goes_on = "goes on from its last checkpoint, if there is one" if self._place.storage else "begins anew"
            raise TrainingError(f"Job {job.job_id!r} was cancelled. Run again, it {goes_on}.") from None

    def _insist(self, ray: Any, job: Job, goods: list[Goods], tell: OnProgress) -> TrainingResult:
        """Run the job, and again when its node is lost; raise TrainingError when there is no more to try."""
        left = self._retries
        while True:
            try:
                return Errand(ray, job, self._place, tell, self._cancelled).run(goods)
            except ray.exceptions.RayActorError as error:
                if left == 0:
                    raise lost(job, error) from error
            left -= 1
            note = "The node was lost: the job is begun again on one that is there."
            tell(Progress(stage="queue", done=0, total=job.recipe.steps, note=note))
