"""What mirrors are to be told is stored with what it is about: all of it, or none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from langgraph_learnloop.mirrors import KINDS
from langgraph_learnloop.records import Dataset, Feedback, Flag, Interned, Recorded, Release, Run, Scorecard
from langgraph_learnloop.store.opened import Store, open_store

_NUMBERS = count()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MakeRun = Callable[..., Run]


@pytest.fixture(params=["sqlite", "postgres"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Yield a store with a mirror: a file, or a database of a real server."""
    where: str | Path = tmp_path / "l.db"
    if request.param == "postgres":
        where = request.getfixturevalue("postgres").database(f"outbox_{next(_NUMBERS)}")
    with open_store(where, tmp_path / "files") as opened:
        opened.outbox.register("m", KINDS)
        yield opened


def stored(store: Store, *runs: Run) -> None:
    """Store runs without messages."""
    store.runs.add_runs([Recorded(run, Interned()) for run in runs])


def subjects(store: Store, kind: str = "run", before: float = 0.0, mirror: str = "m") -> list[str]:
    """Return what waits for the mirror."""
    return [one.subject for one in store.outbox.waiting(mirror, kind, 100, before)]  # type: ignore[arg-type]


def test_each_thing_waits_once(store: Store, make_run: MakeRun) -> None:
    """A run or feedback that is stored a second time is not told a second time."""
    stored(store, make_run("r1"), make_run("r2"))
    stored(store, make_run("r2"), make_run("r3"), make_run("r3"))
    assert subjects(store) == ["r1", "r2", "r3"]
    said = Feedback(feedback_id="f1", run_id="r1", score=1, at=NOW)
    assert store.feedback.add(said)
    assert not store.feedback.add(said)
    assert subjects(store, "feedback") == ["f1"]


def test_flags_wait_at_each_move_and_champions_at_each_change(store: Store, make_run: MakeRun) -> None:
    """The latest state is what counts in the end, and it comes last."""
    stored(store, make_run("r1"))
    store.flags.add(Flag(run_id="r1", agent="a", reasons=("It failed.",), severity=1, at=NOW))
    store.flags.move(["r1"], "dismissed")
    waiting = store.outbox.waiting("m", "label", 10, 0.0)
    assert [one.subject for one in waiting] == ["r1:flag", "r1:flag"]
    assert '"dismissed"' in (waiting[-1].body or "")
    one = Release(base_model="one", made_at=NOW)
    store.releases.add(one)
    store.releases.point(one.release_id, "It is better.", "ann")
    assert [(w.subject, w.body) for w in store.outbox.waiting("m", "champion", 10, 0.0)] == [
        (one.release_id, "It is better.")
    ]


def test_nobody_to_tell_costs_nothing(tmp_path: Path, make_run: MakeRun) -> None:
    """Without a mirror nothing waits, and nothing is kept for one that wants something else."""
    with open_store(tmp_path / "l.db") as store:
        stored(store, make_run("r1"))
        store.outbox.register("m", ["feedback"])
        stored(store, make_run("r2"))
        assert store.outbox.backlog("m") == (0, 0, None)


def test_what_was_there_comes_first(store: Store, make_run: MakeRun) -> None:
    """A mirror that wants everything is told what was stored before it, oldest first."""
    stored(store, make_run("late", 5), make_run("early", 1))
    assert store.outbox.register("n", ["run"], everything=True)
    assert not store.outbox.register("n", ["run"], everything=True)
    stored(store, make_run("now", 9))
    assert subjects(store, mirror="n") == ["early", "late", "now"]
    store.outbox.forget("n")
    assert subjects(store, mirror="n") == []
    assert subjects(store) == ["late", "early", "now"]


def test_all_kinds_of_things_that_were_there_are_told(store: Store, make_run: MakeRun) -> None:
    """Of flags, and of who serves, what stands now; a mirror is told only of the kinds that it wants."""
    stored(store, make_run("r1"))
    store.feedback.add(Feedback(feedback_id="f1", run_id="r1", score=1, at=NOW))
    store.flags.add(Flag(run_id="r1", agent="a", reasons=("It failed.",), severity=1, at=NOW))
    store.flags.move(["r1"], "dismissed")
    store.datasets.add(Dataset(version="d1", kind="sft", counts={}, path="p", made_at=NOW))
    store.scorecards.add(Scorecard(candidate="c", champion="b", gates=(), at=NOW))
    for name in ("one", "two"):
        release = Release(base_model=name, made_at=NOW)
        store.releases.add(release)
        store.releases.point(release.release_id, "It is better.", "ann")
    store.outbox.register("n", KINDS, everything=True)
    told = {kind: subjects(store, kind, mirror="n") for kind in KINDS}
    serving = [release.release_id]
    assert told == {
        "run": ["r1"],
        "feedback": ["f1"],
        "label": ["r1:flag"],
        "dataset": ["d1"],
        "examination": ["1"],
        "champion": serving,
    }
    assert store.scorecards.numbered("1").candidate == "c"
    assert store.outbox.names() == ("m", "n")


def test_what_was_told_without_an_answer_waits_longer(store: Store, make_run: MakeRun) -> None:
    """A mark keeps it back until a time; taking it back lets it go at once; what is refused is kept with the reason."""
    stored(store, make_run("r1"), make_run("r2"), make_run("r3"))
    seqs = [one.seq for one in store.outbox.waiting("m", "run", 10, 0.0)]
    store.outbox.telling(seqs, 100.0)
    assert subjects(store, before=99.0) == []
    assert subjects(store, before=100.0) == ["r1", "r2", "r3"]
    store.outbox.telling(seqs[:1], None)
    assert subjects(store, before=99.0) == ["r1"]
    store.outbox.refuse(seqs[:1], "It is too long.")
    assert store.outbox.backlog("m") == (2, 1, "It is too long.")
    assert subjects(store, before=99.0) == []
    assert store.outbox.retry("m") == 1
    assert subjects(store, before=99.0) == ["r1"]
    store.outbox.told(seqs)
    assert store.outbox.backlog("m") == (0, 0, None)


def test_one_holds_a_mirror(store: Store) -> None:
    """Others get it when its time is over, or when it is let go."""
    box = store.outbox
    assert box.hold("m", "a", now=0.0, seconds=10.0)
    assert not box.hold("m", "b", now=5.0, seconds=10.0)
    assert box.hold("m", "a", now=5.0, seconds=10.0)
    assert not box.hold("m", "b", now=14.0, seconds=10.0)
    assert box.hold("m", "b", now=15.1, seconds=10.0)
    box.let_go("m", "a")
    assert not box.hold("m", "a", now=16.0, seconds=10.0)
    box.let_go("m", "b")
    assert box.hold("m", "a", now=16.0, seconds=10.0)
    assert not box.hold("nobody", "a", now=0.0, seconds=10.0)


def test_many_writers_leave_nothing_out(store: Store, make_run: MakeRun) -> None:
    """Whatever order transactions end in, each run waits once."""

    def work(number: int) -> None:
        for one in range(10):
            stored(store, make_run(f"r{number}-{one}"), make_run(f"shared-{one}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(subjects(store)) == sorted(
        {*(f"r{n}-{o}" for n in range(4) for o in range(10))} | {f"shared-{o}" for o in range(10)}
    )


def test_runs_of_another_trace_are_found(store: Store, make_run: MakeRun) -> None:
    """By the trace that another tracer keeps of them."""
    stored(store, make_run("r1", trace="abc"), make_run("r2"))
    assert [run.run_id for run in store.runs.of_trace("abc")] == ["r1"]
    assert store.runs.of_trace("def") == ()
    assert set(store.runs.many(["r1", "r2", "r9"])) == {"r1", "r2"}
