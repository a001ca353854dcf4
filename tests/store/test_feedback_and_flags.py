"""Feedback is kept once; flags are merged and move as their table allows."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Feedback, Flag, Message, Run
from langgraph_learnloop.store.opened import Store
from tests.store.recorded import recorded


def _flag(run_id: str, at: datetime, severity: float = 0.5, reason: str = "bad score", agent: str = "support") -> Flag:
    return Flag(run_id=run_id, agent=agent, reasons=(reason,), severity=severity, at=at)


def test_feedback_with_a_known_id_is_not_stored_again(
    store: Store, make_run: Callable[..., Run], noon: datetime
) -> None:
    """Sending the same id twice answers False and keeps what came first."""
    store.runs.add_runs(recorded(make_run("r1")))
    first = Feedback(
        feedback_id="f", run_id="r1", score=-1, correction=Message(role="assistant", content="no"), at=noon
    )
    assert store.feedback.add(first) is True
    assert store.feedback.add(first.model_copy(update={"score": 1.0})) is False
    assert store.feedback.of_run("r1") == store.runs.feedback("r1") == (first,)


def test_feedback_on_an_unknown_run_is_refused(store: Store, noon: datetime) -> None:
    """Feedback needs its run, and nothing is stored without it."""
    with pytest.raises(NotFoundError, match="run 'r9', which is not in the store"):
        store.feedback.add(Feedback(feedback_id="f", run_id="r9", score=1, at=noon))
    assert store.feedback.all() == ()


def test_feedback_is_oldest_first_and_by_agent(store: Store, make_run: Callable[..., Run], noon: datetime) -> None:
    """The order is that of speaking, not of arrival; an agent's feedback is that on its runs."""
    store.runs.add_runs(recorded(make_run("r1"), make_run("r2", agent="other")))
    for feedback_id, run_id, minute in (("late", "r1", 9), ("early", "r1", 1), ("elsewhere", "r2", 5)):
        at = noon + timedelta(minutes=minute)
        store.feedback.add(Feedback(feedback_id=feedback_id, run_id=run_id, score=0, at=at))
    assert [f.feedback_id for f in store.feedback.all()] == ["early", "elsewhere", "late"]
    assert [f.feedback_id for f in store.feedback.all(agent="support")] == ["early", "late"]


def test_feedback_is_found_by_its_id_and_by_runs(store: Store, make_run: Callable[..., Run], noon: datetime) -> None:
    """What nobody said is not there; what was said comes oldest first, also beyond what fits into one query."""
    store.runs.add_runs(recorded(make_run("r1"), make_run("r2")))
    for number, run_id in enumerate(("r1", "r2", "r1")):
        said = Feedback(feedback_id=f"f{number}", run_id=run_id, score=0, at=noon - timedelta(minutes=number))
        store.feedback.add(said)
    assert [said.feedback_id for said in store.feedback.many(["f0", "f2", "f9"])] == ["f2", "f0"]
    found = store.feedback.among([*(f"x{number}" for number in range(600)), "r1", "r2"])
    assert {run_id: [said.feedback_id for said in all_of_it] for run_id, all_of_it in found.items()} == {
        "r1": ["f2", "f0"],
        "r2": ["f1"],
    }


def test_flags_are_found_by_run(store: Store, noon: datetime) -> None:
    """A dismissed flag is one, and its run does not count as flagged; a run without one is not named."""
    for run_id in ("r1", "r2"):
        store.flags.add(_flag(run_id, noon))
    store.flags.move(["r2"], "dismissed")
    asked = [*(f"x{number}" for number in range(600)), "r1", "r2"]
    assert {run_id: flag.state for run_id, flag in store.flags.of(asked).items()} == {"r1": "open", "r2": "dismissed"}
    assert store.flags.among(asked) == {"r1"}


def test_flags_of_a_run_are_merged(store: Store, noon: datetime) -> None:
    """A run has one flag: all reasons once, the worse severity, the time of the first."""
    store.flags.add(_flag("r1", noon, 0.9, "tool failed"))
    store.flags.add(_flag("r1", noon + timedelta(hours=1), 0.2, "bad score"))
    merged = store.flags.add(_flag("r1", noon, 0.1, "tool failed"))
    assert (merged,) == store.flags.list()
    assert (merged.reasons, merged.severity, merged.at) == (("tool failed", "bad score"), 0.9, noon)


@pytest.mark.parametrize("path", [("queued",), ("queued", "curated"), ("dismissed",)])
def test_a_new_reason_does_not_reopen_a_flag(store: Store, noon: datetime, path: tuple[str, ...]) -> None:
    """A flag stays where it is when its run is flagged again."""
    store.flags.add(_flag("r1", noon))
    for state in path:
        store.flags.move(["r1"], state)  # type: ignore[arg-type]
    assert store.flags.add(_flag("r1", noon, 1.0, "again")).state == path[-1]
    assert store.flags.list(state="open") == ()


def test_flags_are_listed_worst_first(store: Store, noon: datetime) -> None:
    """Severity orders, state and agent narrow."""
    store.flags.add(_flag("mild", noon, 0.1))
    store.flags.add(_flag("worst", noon, 1.0))
    store.flags.add(_flag("other", noon, 0.5, agent="other"))
    store.flags.move(["mild"], "queued")
    assert [flag.run_id for flag in store.flags.list()] == ["worst", "other", "mild"]
    assert [flag.run_id for flag in store.flags.list(state="open", agent="support")] == ["worst"]


def test_an_illegal_move_moves_nothing(store: Store, noon: datetime) -> None:
    """Moves are made for all runs or for none: an illegal one, or a missing flag, undoes those before it."""
    store.flags.add(_flag("r1", noon))
    store.flags.add(_flag("r2", noon))
    store.flags.move(["r2"], "dismissed")
    with pytest.raises(IllegalMoveError, match="'r2' cannot go from 'dismissed' to 'queued'"):
        store.flags.move(["r1", "r2"], "queued")
    with pytest.raises(NotFoundError, match="'r9' has no flag"):
        store.flags.move(["r1", "r9"], "queued")
    assert {flag.run_id: flag.state for flag in store.flags.list()} == {"r1": "open", "r2": "dismissed"}
