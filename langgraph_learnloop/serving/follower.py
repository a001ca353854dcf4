"""Follow the registry in every process that serves: load and prove what is to come, report, unload what is over.

A promotion is complete when every process has reported that it gives the release to new threads.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.ports import Engine, Registry
from langgraph_learnloop.records import EngineHealth, Probe, Release, Routes, Server
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.swap import prove

HEARTBEAT_SECONDS = 5.0
"""How often a process reports itself while nothing changes."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Follower:
    """Keep one engine and router in step with the registry, in a thread of its own.

    What new threads may be given is loaded, and asked its `probes`, before they ask for it; until then they get what
    they got before, and the report says so. A release that was loaded here and that no thread is remembered to use is
    unloaded after `keep` newer ones; what a process left behind that was killed goes when this one starts.
    """

    engine: Engine
    router: Router
    registry: Registry
    find: Callable[[str], Release]
    probes: Callable[[str], Sequence[Probe]] = lambda release_id: ()
    poll_seconds: float = 1.0
    keep: int = 3
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _loaded: list[str] = field(default_factory=list, init=False)
    _said: Server | None = field(default=None, init=False)
    _said_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Give this process a name."""
        self.server_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._step_lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="learnloop-follower", daemon=True)

    def start(self) -> None:
        """Report this process, and follow from now on."""
        self.step()
        self._clear()
        self._thread.start()

    def stop(self) -> None:
        """Stop following, and say that this process no longer serves."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        try:
            self.registry.retire(self.server_id)
        except LearnLoopError as error:
            _log.warning("The process %s could not sign off: %s", self.server_id, error)

    def step(self) -> None:
        """Look at the registry once; what goes wrong is logged, and what was live goes on being served."""
        with self._step_lock:
            try:
                routes = self.router.refresh()
                health = self.engine.health()
                trouble = self._load(routes, health)
                followed = self.router.only(self._loaded)
                self._unload(routes)
                self._report(followed, trouble or health.trouble)
            except LearnLoopError as error:
                _log.warning("The registry could not be followed, what was live is served: %s", error)

    def _follow(self) -> None:
        while not self._stopped.wait(self.poll_seconds):
            try:
                self.step()
            except Exception:  # noqa: BLE001 - a process that no longer follows would serve what was taken back
                _log.exception("The registry could not be followed; it is tried again.")

    def _load(self, routes: Routes, health: EngineHealth) -> str | None:
        """Load and prove what threads may be given; return why that failed."""
        troubles = []
        for release_id in filter(None, (routes.champion, routes.candidate)):
            newest = [release_id]
            try:
                if release_id not in self._loaded or release_id not in health.loaded:
                    prove(self.engine, self.find(release_id), self.probes(release_id))
            except LearnLoopError as error:
                _log.warning("The release %s cannot be served here: %s", release_id, error)
                troubles.append(str(error))
                newest = []
            self._loaded = [one for one in self._loaded if one != release_id] + newest
        return " ".join(troubles) or None

    def _clear(self) -> None:
        """Unload what nobody serves: a process that was killed in a swap leaves it in a server's memory."""
        try:
            elsewhere = {one for server in self.registry.serving(self.now()) for one in server.loaded}
            for release_id in set(self.engine.health().loaded) - elsewhere - self.router.in_use():
                self.engine.unload(release_id)
        except LearnLoopError as error:
            _log.warning("What may be left of a killed process stays in memory: %s", error)

    def _unload(self, routes: Routes) -> None:
        needed = self.router.in_use() | {routes.champion}
        over = [one for one in self._loaded[: -self.keep or None] if one not in needed]
        over += [one for one in self._loaded if one in routes.refused and one not in over]
        for release_id in over:
            self.engine.unload(release_id)
            self._loaded.remove(release_id)

    def _report(self, routes: Routes, trouble: str | None) -> None:
        server = Server(
            server_id=self.server_id,
            champion=routes.champion,
            candidate=routes.candidate,
            loaded=tuple(self._loaded),
            trouble=trouble,
            at=self.now(),
        )
        changed = self._said is None or server.model_copy(update={"at": self._said.at}) != self._said
        if changed or time.monotonic() - self._said_at >= HEARTBEAT_SECONDS:
            self.registry.report(server)
            self._said, self._said_at = server, time.monotonic()
