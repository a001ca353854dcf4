"""A process that is killed at any step of a swap leaves exactly one champion, and a log that says why it is that."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from langgraph_learnloop.store.opened import open_store
from tests.shop import Shop

pytestmark = pytest.mark.slow

SETTINGS = {"rollout_shadow": 0, "rollout_stages": (20, 100), "poll_seconds": 600.0, "autonomy": "automatic"}
CASES = {
    "promote": ("loaded", "probed", "half stored", "stored", "followed", "waited for"),
    "rollout": ("half stored", "stored"),
    "live": ("half stored", "stored"),
    "back": ("half stored", "stored"),
}
"""Steps at which each verb is killed, in their order."""
MOVED = ("stored", "followed", "waited for")
"""Steps at which it is in the store."""

CHILD = """
    import os, signal, sys, traceback
    from pathlib import Path
    from tests.shop import Shop
    from tests.test_killed import SETTINGS
    import langgraph_learnloop.store.releases as releases, langgraph_learnloop.store.rollouts as rollouts
    import langgraph_learnloop.loop as corridor
    from langgraph_learnloop.serving.follower import Follower
    from langgraph_learnloop.testing import MemoryEngine
    from langgraph_learnloop.rolling import Rolling

    def die(*args, **more):
        os.kill(os.getpid(), signal.SIGKILL)

    def before(owner, name):
        setattr(owner, name, die)

    def after(owner, name):
        true = getattr(owner, name)
        def both(*args, **more):
            true(*args, **more)
            die()
        setattr(owner, name, both)

    STEPS = {
        "loaded": lambda: after(MemoryEngine, "load"),
        "probed": lambda: after(corridor, "agree"),
        "half stored": lambda: (before(releases, "write"), before(rollouts, "write")),
        "stored": lambda: (after(releases.Releases, "point"), after(rollouts.Rollouts, "start"),
                           after(rollouts.Rollouts, "move")),
        "followed": lambda: after(Follower, "step"),
        "waited for": lambda: before(Rolling, "behind"),
    }

    def work(store, verb, step):
        loop = Shop(Path(store), settings=SETTINGS).loop
        if verb in ("live", "back"):
            loop.rollout(candidate)
        STEPS[step]()
        if verb == "promote":
            loop.promote(candidate)
        elif verb == "rollout":
            loop.rollout(candidate)
        elif verb == "live":
            loop.rolling.set_stage(100, "ann")
        else:
            loop.rollback("It lies.", "ann")

    candidate, folder, *cases = sys.argv[1:]
    for case in cases:  # children of one process, which has imported everything and begun nothing
        if (pid := os.fork()) == 0:
            try:
                work(f"{folder}/{case}.db", *case.split("-"))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        print(case, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sep="=", flush=True)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return a store with a candidate that passed, its id and the champion's."""
    path = tmp_path_factory.mktemp("killed") / "l.db"
    with (shop := Shop(path, settings=SETTINGS)).loop as loop:
        shop.remember()
        shop.bad_day()
        dataset = loop.curate()
        assert dataset is not None
        candidate = loop.train(dataset)
        assert loop.evaluate(candidate, dataset).passed
        return path, candidate.release_id, loop.champion.release_id


def copied(original: Path, store: Path) -> None:
    """Copy a store; the adapters stay where they are."""
    with closing(sqlite3.connect(original)) as source, closing(sqlite3.connect(store)) as target:
        source.backup(target)


@pytest.fixture(scope="module")
def killed(prepared: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each case, left behind by a process that was killed there."""
    original, new, _ = prepared
    folder = tmp_path_factory.mktemp("stores")
    cases = [f"{verb}-{step}" for verb, steps in CASES.items() for step in steps]
    for case in cases:
        copied(original, folder / f"{case}.db")
    child = [sys.executable, "-c", textwrap.dedent(CHILD), new, str(folder), *cases]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    expected = [f"{case}={-signal.SIGKILL}" for case in cases]
    assert done.stdout.split("\n")[:-1] == expected, done.stderr[-2_000:]
    return folder


@pytest.mark.parametrize(("verb", "step"), [(verb, step) for verb, steps in CASES.items() for step in steps])
def test_killed_in_a_swap(prepared: tuple[Path, str, str], killed: Path, verb: str, step: str) -> None:
    """Before the commit nothing has happened, after it all of it has; the next process can go on with either."""
    _, new, old = prepared
    store, moved = killed / f"{verb}-{step}.db", step in MOVED
    with open_store(store) as found:
        champion, rollout = found.releases.champion(), found.rollouts.open()
        found.decisions.verify()
        actions = [entry.action for entry in found.decisions.all()]
        assert len(found.releases.history()) == (2 if champion == new else 1)
    told = {"promote": "promote", "rollout": "rollout:20%", "live": "rollout:live", "back": "rollout:rolled_back"}
    assert (told[verb] in actions) == moved
    assert champion == (new if moved and verb in ("promote", "live") else old)
    assert (rollout is not None) == ((verb == "rollout") == moved and verb != "promote")

    with Shop(store, settings=SETTINGS).loop as loop:  # a new process: one champion, and it can go on
        assert set(loop.engine.health().loaded) == {champion, *([new] if rollout is not None else [])}
        if rollout is not None:
            loop.rollback("It was killed.")
        if verb == "promote":
            loop.promote(new)
            assert loop.champion.release_id == new


def test_a_cycle_that_was_killed_after_its_promotion_is_finished(
    prepared: tuple[Path, str, str], tmp_path: Path
) -> None:
    """What was promoted is reported, and neither trained nor examined against itself."""
    original, new, _ = prepared
    copied(original, store := tmp_path / "l.db")
    with Shop(store, settings=SETTINGS).loop as loop:
        loop.store.cycles.start("c1", loop._now())
        loop.promote(new, "c1")
    with Shop(store, settings=SETTINGS).loop as loop:
        report = loop.cycle()
        assert (report.cycle_id, report.outcome, report.candidate) == ("c1", "promoted", new)
        assert loop.store.cycles.open() is None
        assert loop.champion.release_id == new
