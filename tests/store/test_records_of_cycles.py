"""Datasets, scorecards, cycles and the audit log."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import delete, update

from langgraph_learnloop.errors import NotFoundError, StoreError
from langgraph_learnloop.records import CaseResult, CycleReport, Dataset, Decision, Gate, Scorecard
from langgraph_learnloop.store.decisions import Entry
from langgraph_learnloop.store.opened import Store
from langgraph_learnloop.store.tables import decisions


def _dataset(version: str, at: datetime) -> Dataset:
    return Dataset(version=version, counts={"correction": {"train": 3}}, path="x.jsonl", made_at=at)


def _scorecard(candidate: str, at: datetime, passed: bool) -> Scorecard:
    gate = Gate(
        name="target",
        required=True,
        passed=passed,
        metric="fully_right",
        champion=0.1,
        candidate=0.9,
        cases=40,
        because="It is better.",
    )
    return Scorecard(candidate=candidate, champion="old", gates=(gate,), at=at)


def test_a_dataset_version_never_changes(store: Store, noon: datetime) -> None:
    """Adding a version again changes nothing; the latest is the one that was added last."""
    with pytest.raises(NotFoundError, match="no dataset yet"):
        store.datasets.latest()
    store.datasets.add(_dataset("v1", noon))
    store.datasets.add(_dataset("v2", noon))
    store.datasets.add(_dataset("v1", noon.replace(year=2030)))
    assert store.datasets.all() == (_dataset("v1", noon), _dataset("v2", noon))
    assert store.datasets.latest().version == "v2"
    assert store.datasets.get("v1") == _dataset("v1", noon)
    with pytest.raises(NotFoundError, match="'v9'"):
        store.datasets.get("v9")


def test_a_candidates_latest_scorecard_counts(store: Store, noon: datetime) -> None:
    """A candidate that was examined twice is known by the second examination."""
    assert store.scorecards.of("new") is None
    store.scorecards.add(_scorecard("new", noon, passed=False))
    store.scorecards.add(_scorecard("other", noon, passed=False))
    store.scorecards.add(_scorecard("new", noon, passed=True))
    assert store.scorecards.of("new") == _scorecard("new", noon, passed=True)
    assert len(store.scorecards.all()) == 3


def test_results_are_kept_by_release_case_and_evaluator(store: Store) -> None:
    """A known result stays; scores of another evaluator never mix in."""
    result = CaseResult(release_id="r", case_id="c", evaluator="calls-1", scores={"right_tool": True, "n": 0.5})
    other = result.model_copy(update={"evaluator": "calls-2", "scores": {"right_tool": False}})
    store.scorecards.add_results([result, other])
    store.scorecards.add_results([result.model_copy(update={"scores": {}})])
    store.scorecards.add_results([])
    assert store.scorecards.results("r", "calls-1") == {"c": result}
    assert store.scorecards.results("r", "calls-2") == {"c": other}
    assert store.scorecards.results("nobody", "calls-1") == {}
    store.scorecards.forget_results("r", "calls-1")
    assert store.scorecards.results("r", "calls-1") == {}


def test_a_cycle_is_open_until_it_ended(store: Store, noon: datetime) -> None:
    """A cycle that was started, or that waits for review, is the one to take up again."""
    assert (store.cycles.open(), store.cycles.open_since()) == (None, None)
    for _ in range(2):
        store.cycles.start("c1", noon)
    assert store.cycles.open() == "c1"
    assert store.cycles.report("c1") is None
    waiting = CycleReport(cycle_id="c1", outcome="waiting", because="Review is open.")
    store.cycles.finish(waiting)
    assert (store.cycles.open(), store.cycles.report("c1")) == ("c1", waiting)
    done = CycleReport(cycle_id="c1", outcome="promoted", because="It is better.")
    store.cycles.finish(done)
    assert (store.cycles.open(), store.cycles.all()) == (None, (done,))
    for later in (2, 1):
        store.cycles.start(f"c{later + 1}", noon + timedelta(hours=later))
    assert (store.cycles.open(), store.cycles.open_since()) == ("c2", noon + timedelta(hours=1))
    with pytest.raises(NotFoundError, match="'c9' was never started"):
        store.cycles.finish(done.model_copy(update={"cycle_id": "c9"}))


def _log(store: Store, count: int, now: datetime) -> list[Decision]:
    return [
        store.decisions.append(action="gate", subject=f"s{i}", because="b", cycle_id="c", now=now) for i in range(count)
    ]


def test_decisions_are_chained(store: Store, noon: datetime) -> None:
    """Each entry names the one before it; a limit gives the newest, oldest first."""
    entries = _log(store, 3, noon)
    assert entries[0].previous == "0" * 32
    assert [entry.previous for entry in entries[1:]] == [entry.hash for entry in entries[:2]]
    assert store.decisions.all() == tuple(entries)
    assert store.decisions.all(limit=2) == tuple(entries[1:])
    store.decisions.verify()
    assert store.decisions.of_cycle("c", "gate") == entries[2]
    assert store.decisions.of_cycle("c", "train") is store.decisions.of_cycle("d", "gate") is None


def test_many_decisions_are_written_at_once(store: Store, noon: datetime) -> None:
    """They are chained to what was there and to each other; none of them is none."""
    _log(store, 1, noon)
    made = store.decisions.append_all([Entry("review:approve", f"p{i}", "b", "ann", "c") for i in range(3)], noon)
    assert store.decisions.append_all([]) == ()
    assert store.decisions.all(limit=3) == made
    assert [(entry.actor, entry.subject) for entry in made] == [("ann", "p0"), ("ann", "p1"), ("ann", "p2")]
    store.decisions.verify()


def test_a_changed_entry_shows(store: Store, noon: datetime) -> None:
    """Rewriting what an entry says breaks the chain there."""
    entry = _log(store, 3, noon)[1]
    forged = entry.model_copy(update={"because": "forged"}).model_dump_json()
    with store._database.writing() as connection:
        connection.execute(update(decisions).where(decisions.c.subject == "s1").values(body=forged))
    with pytest.raises(StoreError, match="broken at entry 2"):
        store.decisions.verify()


def test_a_removed_entry_shows(store: Store, noon: datetime) -> None:
    """Taking an entry out breaks the chain at the one that followed."""
    _log(store, 3, noon)
    with store._database.writing() as connection:
        connection.execute(delete(decisions).where(decisions.c.subject == "s1"))
    with pytest.raises(StoreError, match=r"broken at entry 2 \('gate' of 's2'"):
        store.decisions.verify()
