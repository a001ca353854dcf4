"""Serve releases by vLLM: each server holds the base once, and beside it the adapters it is given while it runs.

    engine = VllmEngine(["http://gpu-1:8000", "http://gpu-2:8000"], "Qwen/Qwen3-8B", key=os.environ["VLLM_API_KEY"])
    agent = create_agent(loop.model(engine), tools)

Needs `pip install "langgraph-learnloop[openai]"`, and servers started as `integrations/vllm/README.md` says. An adapter
is loaded under a name that is made of its release's id and never given to other weights. The files beside this one are
its parts: `vllm_replica` speaks with one server, `vllm_answer` puts its answers together, `vllm_adapter` looks at what
is to be loaded.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from langgraph_learnloop.errors import ConfigError, EngineError, not_loaded
from langgraph_learnloop.files import same_model
from langgraph_learnloop.integrations.vllm_adapter import check_adapter
from langgraph_learnloop.integrations.vllm_answer import Parse
from langgraph_learnloop.integrations.vllm_replica import (
    PREFIX,
    Base,
    Replica,
    ReplicaError,
    ReplicaHealth,
    Served,
    api,
    clients,
)
from langgraph_learnloop.records import EngineHealth, Generated, Generation, Release

T = TypeVar("T")
_Ask = Callable[[Replica, Served, Generation], Iterator[str | Generated]]
_log = logging.getLogger(__name__)


class VllmEngine:
    """Serve releases of one base model from one or more vLLM servers ("replicas"), all of which hold every release.

    `replicas` are their addresses, `served_name` is the base's name there. Where the servers themselves load it from
    another place than `base_model` names, such as a folder in a container or a quantised copy, `served_root` says so.
    Adapters are read by the servers from the folder that the release names; where they see it elsewhere,
    `adapters_root` is the folder in which they find it under its last name.

    Servers that take tool calls apart need nothing more. For others `parse` does that, in the form of Hermes and Qwen
    `langgraph_learnloop.serving.toolcalls.parse_answer`.

    A request goes to the replica with the fewest of this process's requests. One that does not answer, or not within
    `seconds` (in a stream: that falls silent for so long), is spared for `rest_seconds`, and the request is tried once
    more, elsewhere if there is another. A replica that was started anew gets its adapters when it is asked for them.
    An adapter may take `load_seconds`, and each of the three requests that tell how a replica is `look_seconds`.
    Several processes can share the replicas; what one of them unloads, another loads again when it needs it. So what a
    process that ended left there can be unloaded by any other.
    """

    def __init__(
        self,
        replicas: Sequence[str],
        base_model: str | Path,
        served_name: str = "base",
        key: str | None = None,
        adapters_root: str | Path | None = None,
        *,
        served_root: str | None = None,
        parse: Parse | None = None,
        seconds: float = 120.0,
        load_seconds: float = 60.0,
        look_seconds: float = 3.0,
        rest_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        urls = list(dict.fromkeys(api(url) for url in replicas))
        if not urls:
            raise ConfigError(
                "VllmEngine needs the address of one vLLM server at least, such as http://localhost:8000."
            )
        self.base_model = str(base_model)
        self._adapters_root = None if adapters_root is None else str(adapters_root).rstrip("/")
        self._rest_seconds, self._clock = rest_seconds, clock
        base = Base(self.base_model, served_name, served_root)
        self._replicas = [
            Replica(url, base, parse, clients(url, key, seconds, load_seconds, look_seconds)) for url in urls
        ]
        self._served_name = served_name
        self._served: dict[str, Served] = {}
        self._loading, self._choosing = threading.Lock(), threading.Lock()

    def load(self, release: Release) -> None:
        """Make every replica hold a release, or none of them, and raise EngineError with what went wrong."""
        release_id = release.release_id
        if release_id in self._served:  # asked before every answer
            return
        with self._loading:
            if release_id in self._served:
                return
            served = self._checked(release)
            outcomes = _at_once(lambda replica: replica.hold(served), self._replicas)
            if failed := [outcome for outcome in outcomes if isinstance(outcome, EngineError)]:
                fresh = [replica for replica, took in zip(self._replicas, outcomes, strict=True) if took is True]
                _at_once(lambda replica: replica.drop(served.name), fresh)
                raise EngineError(f"Release {release_id!r} is not loaded. {' '.join(map(str, failed))}")
            self._served[release_id] = served

    def unload(self, release_id: str) -> None:
        """Forget a release, here and on the replicas, whichever process loaded it there.

        Unknown ids are ignored, and so are replicas out of reach.
        """
        with self._loading:
            served = self._served.pop(release_id, None)
            if served is None or served.path is not None:
                _at_once(lambda replica: replica.drop(PREFIX + release_id), self._replicas)

    def generate(self, request: Generation) -> Generated:
        """Answer with exactly the release that was asked for, or raise EngineError."""
        (answer,) = (said for said in self._answers(request, Replica.whole) if isinstance(said, Generated))
        return answer

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield texts as they are written, in order, and at last the whole answer; raise EngineError at any time.

        With `parse`, what follows the first mark such as "<tool_call>" is held back until it can be taken apart.
        """
        return self._answers(request, Replica.pieces)

    def health(self) -> EngineHealth:
        """Return whether anybody answers, and what every replica that is ready holds, whichever process loaded it.

        As long as one replica is ready there is no trouble: whoever asks goes there. What is wrong with the others
        `replicas` says, and so does the log, once.
        """
        seen = self.replicas()
        ready = [one for one in seen if one.ready]
        waiting = [one.waiting for one in ready if one.waiting is not None]
        bare = {release_id for release_id, served in self._served.copy().items() if served.path is None}
        held = set.intersection(*(set(one.releases) for one in ready)) | bare if ready else set()
        return EngineHealth(
            trouble=None if ready else f"No replica is ready. {' '.join(str(one.error) for one in seen)}",
            loaded=tuple(sorted(held)),
            waiting=sum(waiting) if waiting and len(waiting) == len(ready) else None,
        )

    def replicas(self) -> tuple[ReplicaHealth, ...]:
        """Return how each replica is, in the order they were given; within seconds, as long as the slowest takes."""
        looks = _at_once(Replica.look, self._replicas)
        return tuple(self._seen(replica, look) for replica, look in zip(self._replicas, looks, strict=True))

    def close(self) -> None:
        """Close the connections; the servers keep what they hold."""
        for replica in self._replicas:
            replica.clients.answers.close()

    def _seen(self, replica: Replica, look: ReplicaHealth | EngineError) -> ReplicaHealth:
        """Return how a replica is; log it when that has changed, and spare one that is not ready."""
        error = str(look) if isinstance(look, EngineError) else None
        if (error is None) != (replica.trouble is None):
            _log.warning("vLLM: %s", error or f"The replica {replica.url!r} is ready again.")
        replica.trouble = error
        if not isinstance(look, EngineError):
            return look
        self._spare(replica)
        return ReplicaHealth(replica.url, False, (), replica.answering, None, error)

    def _spare(self, replica: Replica) -> None:
        replica.rests_until = self._clock() + self._rest_seconds

    def _checked(self, release: Release) -> Served:
        """Return what a release is on the servers, once it is the one it says it is."""
        if not same_model(release.base_model, self.base_model):
            raise EngineError(
                f"Release {release.release_id!r} belongs to the base model {release.base_model!r}, "
                f"but this engine's servers hold {self.base_model!r}: make an engine for that base."
            )
        if release.adapter is None:
            return Served(release, self._served_name, None)
        folder = check_adapter(release, Path(self.base_model))
        path = str(folder) if self._adapters_root is None else f"{self._adapters_root}/{folder.name}"
        return Served(release, PREFIX + release.release_id, path)

    def _answers(self, request: Generation, ask: _Ask) -> Iterator[str | Generated]:
        """Yield what a replica says; one that fails before it has said anything is not the last one."""
        failed: dict[str, ReplicaError] = {}
        while True:
            begun = False
            with self._chosen(failed) as replica:
                try:
                    for said in self._asked(replica, request, ask):
                        begun = True
                        yield said
                    replica.rests_until = -math.inf
                    return
                except ReplicaError as error:
                    if error.rests:
                        self._spare(replica)
                    others = len(self._replicas) > 1
                    if begun or failed or not (error.elsewhere if others else error.here):
                        said_nothing = f"Release {request.release_id!r} did not answer."
                        first = [f"{one} Tried again:" for one in failed.values()]
                        raise EngineError(" ".join([said_nothing, *first, str(error)])) from error
                    failed[replica.url] = error

    def _asked(self, replica: Replica, request: Generation, ask: _Ask) -> Iterator[str | Generated]:
        """Ask a replica; one that has lost the release, as after a restart, is given it again."""
        served = self._known(request.release_id)
        try:
            yield from ask(replica, served, request)
        except ReplicaError as error:
            if error.status != 404:
                raise
            with replica.lock:  # who unloads it meanwhile comes after, and has the last word
                replica.hold(self._known(request.release_id), again=True)
            yield from ask(replica, self._known(request.release_id), request)

    def _known(self, release_id: str) -> Served:
        if (served := self._served.get(release_id)) is None:
            raise not_loaded(release_id, self._served)
        return served

    @contextmanager
    def _chosen(self, failed: dict[str, ReplicaError]) -> Iterator[Replica]:
        """Give the least busy replica that has not failed this request; of equals the one that waited longest."""
        with self._choosing:
            now = self._clock()
            left = [replica for replica in self._replicas if replica.url not in failed] or self._replicas
            replica = min(left, key=lambda one: (one.rests_until > now, one.answering, one.asked))
            replica.answering += 1
            replica.asked = 1 + max(one.asked for one in self._replicas)
        try:
            yield replica
        finally:
            with self._choosing:
                replica.answering -= 1


def _at_once(work: Callable[[Replica], T], replicas: Sequence[Replica]) -> list[T | EngineError]:
    """Do work with several replicas at the same time; return for each what came of it."""

    def outcome(replica: Replica) -> T | EngineError:
        try:
            return work(replica)
        except EngineError as error:
            return error

    with ThreadPoolExecutor(max(1, len(replicas)), "learnloop-vllm") as pool:
        return list(pool.map(outcome, replicas))
