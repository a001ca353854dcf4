"""Every process follows the registry, loads what is to come, and says what it serves."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.errors import EngineError, StoreError
from langgraph_learnloop.records import (
    EngineHealth,
    Generated,
    Generation,
    Message,
    Probe,
    Release,
    Routes,
    Server,
)
from langgraph_learnloop.serving.follower import Follower
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.testing import MemoryEngine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Registry:
    """Routes, pins and reports, in memory."""

    def __init__(self) -> None:
        self.now = Routes("old")
        self.reports: list[Server] = []
        self.retired: list[str] = []
        self.others: tuple[Server, ...] = ()
        self.down = False

    def routes(self) -> Routes:
        if self.down:
            raise StoreError("The store cannot be reached.")
        return self.now

    def pin(self, thread_id: str, release_id: str) -> str:
        return release_id

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        return release_id

    def report(self, server: Server) -> None:
        self.reports.append(server)

    def retire(self, server_id: str) -> None:
        self.retired.append(server_id)

    def serving(self, now: datetime) -> tuple[Server, ...]:
        return self.others


class Memory:
    """An engine that only remembers what is loaded, and says its name."""

    base_model = "memory"

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.names: dict[str, str] = {}
        self.broken: set[str] = set()
        self.serves: dict[str, str] = {}
        """What it serves in place of a release that it was asked for."""
        self.trouble: str | None = None

    def load(self, release: Release) -> None:
        if release.base_model in self.broken:
            raise EngineError(f"The adapter of {release.base_model} is damaged.")
        self.loaded.add(release.base_model)
        self.names[release.release_id] = release.base_model

    def unload(self, release_id: str) -> None:
        self.loaded.discard(self.names.get(release_id, release_id))

    def generate(self, request: Generation) -> Generated:
        name = self.serves.get(request.release_id, request.release_id)
        return Generated(message=Message(role="assistant", content=name), input_tokens=1, output_tokens=1)

    def health(self) -> EngineHealth:
        return EngineHealth(trouble=self.trouble, loaded=tuple(sorted(self.loaded)))


@pytest.fixture
def parts() -> tuple[Follower, Registry, Memory, Router]:
    """Return a follower that is stepped by hand, and what it works on; releases are found by the name of their base."""
    registry, engine = Registry(), Memory()
    router = Router(registry, registry, poll_seconds=1000)

    def find(release_id: str) -> Release:
        return Release(base_model=release_id, made_at=NOW)

    def probes(release_id: str) -> tuple[Probe, ...]:
        asked = Generation(release_id=release_id, messages=(Message(role="user", content="Who are you?"),))
        return (Probe(request=asked, answer=Message(role="assistant", content=release_id)),)

    # The fake knows releases by the name of their base, and so does the registry.
    follower = Follower(engine, router, registry, find, probes, keep=2, now=lambda: NOW)
    return follower, registry, engine, router


def test_what_is_to_come_is_loaded_and_reported(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """The candidate is there before the first thread asks for it; a report is made when something changed."""
    follower, registry, engine, router = parts
    follower.step()
    follower.step()
    assert engine.loaded == {"old"}
    assert len(registry.reports) == 1
    registry.now = Routes("old", "new", 5, "r1")
    follower.step()
    assert engine.loaded == {"old", "new"}
    assert (registry.reports[-1].candidate, registry.reports[-1].loaded) == ("new", ("old", "new"))
    registry.now = Routes("new")
    follower.step()
    assert registry.reports[-1].champion == router.release_for("t1") == "new"


def test_what_is_over_is_unloaded(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """The last two stay warm for an instant way back, and what a thread uses; what is refused goes at once."""
    follower, registry, engine, router = parts
    follower.step()
    router.release_for("long talk")
    for name in ("a", "b", "c"):
        registry.now = Routes(name)
        follower.step()
    assert engine.loaded == {"old", "b", "c"}
    registry.now = Routes("c", "bad", 50, "r1")
    follower.step()
    assert "bad" in engine.loaded
    registry.now = Routes("c", refused=frozenset({"bad"}))
    follower.step()
    assert "bad" not in engine.loaded


def test_a_damaged_candidate_is_trouble_and_no_end(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """The process says so, goes on serving, and tries again."""
    follower, registry, engine, router = parts
    engine.broken.add("new")
    registry.now = Routes("old", "new", 5, "r1")
    follower.step()
    assert "damaged" in str(registry.reports[-1].trouble)
    assert router.release_for(None) == "old"
    engine.broken.clear()
    follower.step()
    assert registry.reports[-1].trouble is None


def test_who_serves_another_release_than_it_says_is_found_out(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """New threads keep what they got, the process says why, and as soon as the answers are right it follows."""
    follower, registry, engine, router = parts
    follower.step()
    engine.serves["new"] = "stale"
    registry.now = Routes("new", "newer", 50, "r1")
    follower.step()
    assert (router.release_for(None), registry.reports[-1].champion) == ("old", "old")
    assert {router.release_for(f"early {n}") for n in range(20)} == {"old", "newer"}
    assert "1 of 1 probes otherwise" in str(registry.reports[-1].trouble)
    assert "new" not in engine.loaded
    engine.serves.clear()
    follower.step()
    assert (registry.reports[-1].champion, registry.reports[-1].trouble) == ("new", None)
    assert {router.release_for(f"thread {n}") for n in range(20)} == {"new", "newer"}


def test_what_a_killed_process_left_is_cleared(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """What another process serves stays, and so does what new threads get."""
    follower, registry, engine, _ = parts
    engine.loaded |= {"orphan", "elsewhere"}
    registry.others = (Server(server_id="other", champion="old", loaded=("elsewhere",), at=NOW),)
    follower.start()
    follower.stop()
    assert engine.loaded == {"old", "elsewhere"}


def test_an_engine_in_trouble_is_reported(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """Whoever waits for this process learns why."""
    follower, registry, engine, _ = parts
    engine.trouble = "No replica answers."
    follower.step()
    assert registry.reports[-1].trouble == "No replica answers."


def test_a_registry_that_is_away_changes_nothing(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """What was live is served, and nothing is reported."""
    follower, registry, _, router = parts
    follower.step()
    registry.down = True
    follower.step()
    assert router.release_for(None) == "old"
    assert len(registry.reports) == 1


def test_a_process_signs_off(parts: tuple[Follower, Registry, Memory, Router]) -> None:
    """Who stops is not waited for any more."""
    follower, registry, _, _ = parts
    follower.start()
    follower.stop()
    assert registry.retired == [follower.server_id]


def _serve(store: str, ready: Any, stop: Any) -> None:
    with LearnLoop(store) as loop:
        loop.model(MemoryEngine())
        ready.set()
        stop.wait(60)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[str]:
    """Yield the store of three further processes that serve."""
    store = str(tmp_path / "l.db")
    with LearnLoop(store) as loop:
        loop.model(MemoryEngine())
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    ready = [context.Event() for _ in range(3)]
    workers = [context.Process(target=_serve, args=(store, one, stop), daemon=True) for one in ready]
    for worker in workers:
        worker.start()
    assert all(one.wait(60) for one in ready)
    yield store
    stop.set()
    for worker in workers:
        worker.join(30)
    with LearnLoop(store) as loop:
        assert loop.rolling.servers() == ()


@pytest.mark.slow
def test_four_processes_follow_within_seconds(processes: str) -> None:
    """A pointer that is moved in one process is followed by the others, and all of them say so."""
    with LearnLoop(processes) as loop:
        loop.model(MemoryEngine())
        new = Release(base_model="memory", instructions="Be kind.", made_at=NOW)
        loop.store.releases.add(new)
        loop.store.releases.point(new.release_id, "by hand", "test")
        assert loop.rolling.behind(new.release_id, 20.0) == ()
        assert len(loop.rolling.servers()) == 4
        assert loop.rolling.behind("nowhere", 0.0) != ()
