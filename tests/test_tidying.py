"""The disk is kept from filling up, and nothing goes that is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import jobs
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.jobs import is_under_way, under_way
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.records import Gate, Release, Rollout, Scorecard
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer
from langgraph_learnloop.tidying import size_of
from tests.shop import Shop

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MB = 1_000_000


class Stock:
    """A store with releases whose adapters are files of a megabyte; the clock stands still."""

    def __init__(self, folder: Path) -> None:
        self.loop = LearnLoop(folder / "l.db", trainer=TinyTrainer(), now=lambda: NOW)
        self.jobs = folder / "l.db.files" / "jobs"
        self.jobs.mkdir(parents=True)
        self.made = 0

    def folder(self, name: str | None = None, content: str = "[]") -> Path:
        """Lay down a job's folder of a megabyte."""
        self.made += 1
        place = self.jobs / (name or f"{self.made:016x}")
        place.mkdir()
        (place / "memory.json").write_text(content.ljust(MB))
        return place

    def release(self, adapter: Path | str | None = None, **fields: Any) -> Release:
        """Store a release, each newer than the one before."""
        place = adapter or self.folder()
        made = Release(
            base_model="memory",
            adapter=str(place),
            adapter_sha256=f"{self.made:064x}",
            made_at=NOW + timedelta(minutes=self.made),
            **fields,
        )
        self.loop.store.releases.add(made)
        return made

    def champion(self) -> Release:
        """Store a release and put it in service."""
        made = self.release()
        self.loop.store.releases.point(made.release_id, "test", "test")
        return made

    def stopped(self) -> Release:
        """Store a candidate that did not pass."""
        made = self.release()
        self.card(made, passed=False)
        return made

    def card(self, release: Release, passed: bool) -> None:
        gate = Gate(
            name="target", required=True, passed=passed, metric="m", champion=0.0, candidate=0.0, cases=1, because="So."
        )
        champion = self.loop.champion.release_id
        self.loop.store.scorecards.add(
            Scorecard(candidate=release.release_id, champion=champion, gates=(gate,), at=NOW)
        )

    def tidied(self, gb: float = 0.0, **given: Any) -> list[str]:
        return [Path(one.folder).name for one in self.loop.tidy(gb, **given)]


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """Give a stock."""
    made = Stock(tmp_path)
    yield made
    made.loop.close()


def _there(release: Release) -> bool:
    return Path(str(release.adapter)).is_dir()


def test_the_least_needed_goes_first(stock: Stock) -> None:
    """What no release names, then stopped candidates, then former champions; each time the oldest."""
    champions = [stock.champion() for _ in range(6)]
    stopped = [stock.stopped() for _ in range(2)]
    trials = [stock.folder() for _ in range(2)]
    for number, trial in enumerate(trials):
        os.utime(trial, (number, number))
    order = [*(trial.name for trial in trials), *(Path(str(r.adapter)).name for r in (*stopped, *champions[:3]))]
    for gb, count in ((1.0, 0), (0.0095, 1), (0.0065, 4), (0.0, 7)):
        assert stock.tidied(gb, dry_run=True) == order[:count]
    assert all(map(_there, champions))
    assert stock.tidied(0.0065) == order[:4]
    assert stock.tidied(0.0065) == []
    assert stock.tidied() == order[4:]
    assert [_there(one) for one in champions] == [False] * 3 + [True] * 3


def test_what_may_serve_again_stays(stock: Stock) -> None:
    """The way back, both sides of a rollout, what waits for its examination, and what recent threads began with."""
    champions = [stock.champion() for _ in range(7)]
    loop, pinned, waiting, candidate = stock.loop, champions[0], stock.release(), stock.release()
    loop.store.releases.pin("old", champions[1].release_id)
    loop.store.releases.pin("young", pinned.release_id)
    loop.store.runs.add_runs([_run("old", NOW - timedelta(days=31)), _run("young", NOW - timedelta(days=29))])
    loop.store.releases.point(champions[3].release_id, "back", "test")  # now a rollback goes to the one before it
    ids = {"candidate": candidate.release_id, "champion": champions[3].release_id}
    loop.store.rollouts.start(Rollout(rollout_id="r", **ids, percent=5, state="canary", started_at=NOW, stage_at=NOW))
    gone = [champions[1], champions[4]]
    assert stock.tidied() == [Path(str(one.adapter)).name for one in gone]
    assert all(map(_there, [pinned, champions[2], champions[3], *champions[5:], waiting, candidate]))
    assert stock.loop.store.releases.pin("old", "nobody") == champions[3].release_id


def test_a_draft_and_its_champion_share_an_adapter(stock: Stock) -> None:
    """A folder stays as long as one of its releases needs it."""
    old = stock.champion()
    for _ in range(4):
        stock.champion()
    shared = stock.release(old.adapter, instructions="Be kind.")
    assert old.adapter not in {one.folder for one in stock.loop.tidy(0, dry_run=True)}
    stock.card(shared, passed=False)
    assert old.adapter in {one.folder for one in stock.loop.tidy(0, dry_run=True)}


def test_only_folders_of_jobs_are_touched(stock: Stock, tmp_path: Path) -> None:
    """Links, files, other folders, and whatever a hostile row points at stay; links inside are not followed."""
    stock.champion()
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("x" * 100)
    for path in (outside, stock.jobs, stock.jobs / ".." / "..", "/", "..", "\x00", stock.jobs / "ff" / ".." / ".."):
        stock.card(stock.release(path, instructions=str(path)), passed=False)
    (stock.jobs / f"{99:016x}").symlink_to(outside, target_is_directory=True)
    (stock.jobs / "notes").mkdir()
    (stock.jobs / f"{98:016x}.log").write_text("said")
    inner = stock.folder()
    (inner / "link").symlink_to(outside, target_is_directory=True)
    assert stock.tidied() == [inner.name]
    assert (outside / "file").exists()
    assert {one.name for one in stock.jobs.iterdir()} >= {"notes", f"{98:016x}.log", f"{99:016x}"}


def test_a_jobs_folder_that_is_a_link_is_refused(stock: Stock, tmp_path: Path) -> None:
    """The sentence says what to do, and nothing is removed."""
    place = stock.folder()
    shutil.move(stock.jobs, tmp_path / "elsewhere")
    stock.jobs.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ConfigError, match="is a link"):
        stock.tidied()
    assert place.exists()


def test_a_job_that_is_under_way_is_left_alone(stock: Stock) -> None:
    """Its adapter, its checkpoints and what it is writing stay until the process that works on it is done."""
    job = f"{77:016x}"
    for name in (job, f"{job}.checkpoints", f".{job}-0123abcd.tmp"):
        stock.folder(name)
    stock.champion()
    with under_way(stock.jobs / job, stock.loop.tidying._owner):
        assert stock.tidied(dry_run=True) == stock.tidied() == []
    assert set(stock.tidied()) == {job, f"{job}.checkpoints", f".{job}-0123abcd.tmp"}


def test_a_mark_goes_with_its_process(stock: Stock) -> None:
    """A worker that was killed holds nothing up; one that lives does, from another process as well."""
    stock.champion()
    place = stock.folder()
    code = (
        "import sys; from langgraph_learnloop.jobs import under_way\n"
        "with under_way(sys.argv[1], ''): print('on', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"on\n"
        assert stock.tidied() == []
        other.kill()
        other.wait()
        assert stock.tidied() == [place.name]


def test_a_lock_that_is_a_link_is_not_followed(stock: Stock, tmp_path: Path) -> None:
    """Whose job it is cannot be told, so it stays; and nothing is written where the link leads."""
    stock.champion()
    place = stock.folder()
    Path(f"{place}.lock").symlink_to(tmp_path / "elsewhere")
    assert stock.tidied(dry_run=True) == stock.tidied() == []
    assert not (tmp_path / "elsewhere").exists()


def test_a_job_of_another_store_is_left_alone(stock: Stock, tmp_path: Path) -> None:
    """Two stores may keep their files in one folder; neither knows the other's releases."""
    stock.champion()
    place = stock.folder()
    with under_way(place, "another store"):
        pass
    assert stock.tidied() == []


def test_a_cycle_that_is_open_may_go_on(stock: Stock) -> None:
    """What was written since it began is what it will look for."""
    stock.champion()
    old, new = stock.folder(), stock.folder()
    for path, age in ((old, -1), (old / "memory.json", -1), (new, 1), (new / "memory.json", 1)):
        at = NOW.timestamp() + age
        os.utime(path, (at, at))
    stock.loop.store.cycles.start("c", NOW)
    assert stock.tidied() == [old.name]


def test_a_providers_receipt_stays(stock: Stock) -> None:
    """A model that a provider keeps was paid for; its record takes no room."""
    stock.champion()
    place = stock.jobs / f"{55:016x}"
    place.mkdir()
    facts = '"model": "ft:1", "engine": "e", "examples": 1, "steps": 1, "loss": 0, "tokens": 1, "seconds": 1'
    (place / "result.json").write_text(f'{{"adapter": null, "adapter_sha256": null, {facts}}}')
    assert stock.tidied() == []


def test_what_was_cut_off_goes_on_next_time(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between renaming and removing, the adapter is not taken for whole, and the rest goes first."""
    stock.champion()
    release = stock.stopped()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            stock.tidied()
    assert not _there(release)
    with pytest.raises(EngineError, match=r"is not on the disk any more: .* Train it again"):
        stock.loop.promote(release.release_id)
    trial = stock.folder()
    first, second = stock.tidied()
    assert first.startswith(f".{Path(str(release.adapter)).name}-")
    assert second == trial.name
    assert next(entry.subject for entry in stock.loop.log() if entry.action == "tidy") == release.release_id


def test_a_removed_release_says_so(tmp_path: Path) -> None:
    """It stays in the store; loading, examining, promoting and going back to it refuse with what removed it."""
    with (shop := Shop(tmp_path / "l.db")).loop as loop:
        shop.remember()
        shop.bad_day()
        dataset = loop.curate()
        assert dataset is not None
        candidate = loop.train(dataset)
        loop.store.scorecards.add(
            Scorecard(candidate=candidate.release_id, champion=loop.champion.release_id, gates=(), at=NOW)
        )
        (tidied,) = loop.tidy(0, actor="ann")
        assert tidied.releases == (candidate.release_id,)
        sentence = rf"The adapter of the release '{candidate.release_id}' .*ann removed it .*stopped"
        loop.engine.unload(candidate.release_id)
        for use in (
            lambda: loop.evaluate(candidate, dataset),
            lambda: loop.promote(candidate.release_id),
            lambda: loop.rollout(candidate.release_id),
            lambda: loop.examine(candidate.release_id, []),
            lambda: loop.live.invoke("hi", {"metadata": {"learnloop_release": candidate.release_id}}),
        ):
            with pytest.raises(EngineError, match=sentence):
                use()
        assert loop.store.releases.get(candidate.release_id) == candidate
        again = loop.train(dataset)  # the way out: the same job makes the same release
        assert again == candidate
        loop.engine.load(again)


def test_a_way_back_that_was_removed_is_refused(stock: Stock) -> None:
    """Going back step by step ends where the disk does, and the champion serves on."""
    champions = [stock.champion() for _ in range(4)]
    assert len(stock.tidied()) == 1
    stock.loop.rollback()
    stock.loop.rollback()
    with pytest.raises(EngineError, match="a former champion"):
        stock.loop.rollback()
    assert stock.loop.champion == champions[1]


def test_a_promotion_ends_with_a_tidy(tmp_path: Path) -> None:
    """With a budget in the settings, trials and stopped candidates go as others come."""
    with (shop := Shop(tmp_path / "l.db", {"adapters_gb": 0.0})).loop as loop:
        trial = tmp_path / "l.db.files" / "jobs" / f"{1:016x}"
        trial.mkdir(parents=True)
        (trial / "weights").write_text("x")
        os.utime(trial / "weights", (1, 1))
        os.utime(trial, (1, 1))
        shop.remember()
        shop.bad_day()
        assert loop.cycle().outcome == "promoted"
        assert not trial.exists()
        assert loop.champion.adapter is not None
        assert Path(loop.champion.adapter).is_dir()


def test_a_tidy_that_fails_does_not_undo_a_promotion(tmp_path: Path) -> None:
    """The release serves, and the log says why no room was made."""
    with (shop := Shop(tmp_path / "l.db", {"adapters_gb": 1.0})).loop as loop:
        shop.remember()
        shop.bad_day()
        jobs = tmp_path / "l.db.files" / "jobs"
        (tmp_path / "elsewhere").mkdir()
        jobs.parent.mkdir(exist_ok=True)
        jobs.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        assert loop.cycle().outcome == "promoted"
        assert "is a link" in next(entry.because for entry in loop.log() if entry.action == "tidy:failed")


@pytest.mark.parametrize("gb", [None, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_said(stock: Stock, gb: float | None) -> None:
    """Without one, nothing is removed."""
    place = stock.folder()
    with pytest.raises(ConfigError):
        stock.loop.tidy(gb)
    assert place.exists()


def test_two_who_tidy_at_once_do_not_meet(stock: Stock) -> None:
    """A folder that somebody else holds, or that went meanwhile, is passed over."""
    stock.champion()
    place = stock.folder()
    (held,) = [one for one in stock.loop.tidying.held() if one.kept is None]
    shutil.rmtree(place)
    assert not stock.loop.tidying._remove(held, "So.", "ann")
    assert [entry for entry in stock.loop.log() if entry.action == "tidy"] == []


def test_an_engine_that_cannot_load_it_is_explained(tmp_path: Path) -> None:
    """A release that this process knew when its adapter went: the model's own error gives way to the reason."""
    with LearnLoop(tmp_path / "l.db") as loop:
        model = loop.model(MemoryEngine())
        place = tmp_path / f"{5:016x}"
        release = Release(base_model="memory", adapter=str(place), adapter_sha256="0", made_at=NOW)
        loop.store.releases.add(release)
        with pytest.raises(FileNotFoundError):
            model.invoke("hi", {"metadata": {"learnloop_release": release.release_id}})
        Path(f"{place}.removed").write_text("ann removed it.")
        with pytest.raises(EngineError, match="ann removed it"):
            model.invoke("hi", {"metadata": {"learnloop_release": release.release_id}})


def _run(thread_id: str, at: datetime) -> Any:
    from langgraph_learnloop.records import Interned, Recorded, Run

    run = Run(run_id=thread_id, thread_id=thread_id, agent="agent", outcome="finished", started_at=at)
    return Recorded(run, Interned())


def test_a_release_says_where_it_stands_and_what_it_takes(stock: Stock) -> None:
    """What serves, the way back, what was examined and what was not; and its adapter, wherever that is."""
    first, second, third = (stock.champion() for _ in range(3))
    stopped, fresh = stock.stopped(), stock.release()
    stock.made += 1  # an adapter that lies elsewhere is one of its own, too
    passed = stock.release("elsewhere/adapter")
    stock.card(passed, passed=True)
    releases = [third, second, first, stopped, fresh, passed]
    states = ["serves", "way back", "served before", "stopped", "not examined", "passed"]
    assert stock.loop.tidying.states(releases) == states
    assert stock.tidied() == [Path(str(stopped.adapter)).name]
    held = stock.loop.tidying.held()
    sizes = {one.release_id: size_of(one, held) for one in (third, stopped, passed)}
    assert list(sizes.values()) == ["1.0 MB", "removed", "elsewhere"]
    assert size_of(third.model_copy(update={"adapter": None, "adapter_sha256": None}), held) == "-"


def test_where_no_locks_are_nothing_goes(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told whether a job is at work, it works, and every job may be."""
    place = stock.folder()
    monkeypatch.setattr(jobs, "fcntl", None)
    with under_way(place, "owner"):
        assert is_under_way(place)
    assert stock.tidied() == []
    assert place.exists()
