"""Rollouts are moved by one hand at a time, and threads follow in the same transaction."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import (
    ROLLOUT_MOVES,
    Generation,
    Message,
    Probe,
    Release,
    Rollout,
    Routes,
    Server,
    ShadowAnswer,
)
from langgraph_learnloop.store.opened import Store, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def release(name: str) -> Release:
    """Return a release of that name."""
    return Release(base_model=name, made_at=NOW)


OLD, NEW, OTHER = release("old"), release("new"), release("other")


@pytest.fixture
def registry(tmp_path: Path) -> Store:
    """Return a store in which OLD serves."""
    store = open_store(tmp_path / "l.db")
    for one in (OLD, NEW, OTHER):
        store.releases.add(one)
    store.releases.point(OLD.release_id, "first", "test")
    return store


def begun(candidate: Release = NEW, rollout_id: str = "r1") -> Rollout:
    """Return a rollout that begins with one percent."""
    ids = {"rollout_id": rollout_id, "candidate": candidate.release_id, "champion": OLD.release_id}
    return Rollout(**ids, percent=1, state="canary", started_at=NOW, stage_at=NOW)


def test_routes_follow_a_rollout(registry: Store) -> None:
    """From the champion alone to a share for the candidate, and to the new champion."""
    rollouts = registry.rollouts
    assert rollouts.routes() == Routes(OLD.release_id)
    rollouts.start(rollout := begun())
    assert rollouts.routes() == Routes(OLD.release_id, NEW.release_id, 1, "r1")
    rollouts.move(rollout := rollout.move("canary", 50, "fine", "test", NOW))
    assert rollouts.routes().percent == 50
    rollouts.move(rollout.move("live", 100, "fine", "test", NOW))
    assert rollouts.routes() == Routes(NEW.release_id)
    assert rollouts.open() is None
    assert [one.state for one in rollouts.all()] == ["live"]
    assert registry.releases.history()[-1].because == "fine"


def test_a_rollback_takes_its_threads_along(registry: Store) -> None:
    """Threads that were pinned to the bad release get the champion; it is refused until it is tried again."""
    registry.rollouts.start(rollout := begun())
    for thread, one in (("t1", NEW), ("t2", OLD)):
        registry.releases.pin(thread, one.release_id)
    registry.rollouts.move(rollout.move("rolled_back", 0, "bad", "test", NOW))
    assert registry.releases.pin("t1", NEW.release_id) == OLD.release_id
    assert registry.rollouts.routes().refused == {NEW.release_id}
    registry.releases.pin("late", NEW.release_id)  # by a process that had not heard of it
    assert registry.releases.repin("late", {NEW.release_id}, OLD.release_id) == OLD.release_id
    assert registry.releases.repin("t2", {NEW.release_id}, OTHER.release_id) == OLD.release_id
    registry.rollouts.start(begun(rollout_id="r2"))
    assert registry.rollouts.routes().refused == frozenset()


def test_one_rollout_at_a_time(registry: Store) -> None:
    """The second one is told to wait; one against a champion that has gone is refused."""
    registry.rollouts.start(begun())
    with pytest.raises(IllegalMoveError, match="still open"):
        registry.rollouts.start(begun(OTHER, "r2"))
    registry.rollouts.move(begun().move("rolled_back", 0, "bad", "test", NOW))
    registry.releases.point(OTHER.release_id, "by hand", "test")
    with pytest.raises(IllegalMoveError, match="Examine it again"):
        registry.rollouts.start(begun(rollout_id="r3"))


def test_two_people_cannot_move_it_at_once(registry: Store) -> None:
    """Sixteen hands reach for it, one moves it, the others are told; the pointer moves once."""
    registry.rollouts.start(rollout := begun())
    said: list[str] = []

    def promote(number: int) -> None:
        try:
            registry.rollouts.move(rollout.move("live", 100, f"by {number}", f"person {number}", NOW))
            said.append("moved")
        except IllegalMoveError as error:
            said.append(str(error))

    hands = [threading.Thread(target=promote, args=(number,)) for number in range(16)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert said.count("moved") == 1
    assert sum("moved by somebody else" in one for one in said) == 15
    assert len(registry.releases.history()) == 2


@pytest.mark.parametrize("state", ROLLOUT_MOVES)
def test_only_legal_moves(state: str) -> None:
    """An ended rollout goes nowhere; the sentence says where it may go."""
    rollout = begun().model_copy(update={"state": state})
    for goal in ROLLOUT_MOVES:
        if goal in ROLLOUT_MOVES[rollout.state]:
            assert rollout.move(goal, 0, "", "test", NOW).moves == 1
        else:
            with pytest.raises(IllegalMoveError, match="may go"):
                rollout.move(goal, 0, "", "test", NOW)
    assert rollout.open is bool(ROLLOUT_MOVES[rollout.state])


def test_stages_follow_each_other() -> None:
    """From one percent to all."""
    rollout, seen = begun(), []
    while (percent := rollout.next_percent) is not None:
        seen.append(percent)
        rollout = rollout.move("canary", percent, "", "test", NOW)
    assert seen == [5, 25, 50, 100]


def test_what_is_not_there_is_named(registry: Store, tmp_path: Path) -> None:
    """An unknown rollout, and a store in which nothing serves."""
    with pytest.raises(NotFoundError, match="'r9'"):
        registry.rollouts.get("r9")
    with pytest.raises(NotFoundError, match="no champion"):
        open_store(tmp_path / "empty.db").rollouts.routes()
    registry.rollouts.start(begun())
    assert registry.rollouts.get("r1") == begun()


def test_every_move_is_in_the_log_with_it(registry: Store) -> None:
    """What moved and what the log says of it are one transaction."""
    first = registry.rollouts.start(rollout := begun())
    with pytest.raises(IllegalMoveError):
        registry.rollouts.start(begun(OTHER, "r2"))
    last = registry.rollouts.move(rollout.move("rolled_back", 0, "it lies", "ann", NOW))
    assert registry.decisions.all()[-2:] == (first, last)
    assert (last.action, last.subject, last.actor, last.because) == (
        "rollout:rolled_back",
        NEW.release_id,
        "ann",
        "it lies",
    )


def test_a_champion_that_was_taken_back_is_refused_until_it_serves_again(registry: Store) -> None:
    """Its threads get the champion, those of now and those that come back later."""
    releases = registry.releases
    releases.point(NEW.release_id, "better", "gate")
    releases.pin("t1", NEW.release_id)
    said = releases.point(OLD.release_id, "it lies", "ann", action="rollback", refused=NEW.release_id)
    assert said is not None
    assert (said.action, said.subject) == ("rollback", OLD.release_id)
    assert releases.pin("t1", NEW.release_id) == OLD.release_id
    assert registry.rollouts.routes().refused == {NEW.release_id}
    releases.point(NEW.release_id, "mended", "gate")
    releases.point(OTHER.release_id, "better still", "gate")
    assert registry.rollouts.routes().refused == frozenset()
    assert releases.point(OTHER.release_id, "again", "gate") is None


def test_shadow_answers_and_probes_are_kept(registry: Store) -> None:
    """Both come back as they were; the first probes of a release stay."""
    answer = ShadowAnswer(rollout_id="r1", thread="t", same=True, seconds=0.1, champion_seconds=0.2, at=NOW)
    registry.rollouts.add_shadow(answer)
    assert registry.rollouts.shadows("r1") == (answer,)
    assert registry.rollouts.shadows("r2") == ()
    request = Generation(release_id=NEW.release_id, messages=(Message(role="user", content="hi"),))
    probe = Probe(request=request, answer=Message(role="assistant", content="Hi."))
    registry.releases.keep_probes(NEW.release_id, [probe])
    registry.releases.keep_probes(NEW.release_id, [])
    assert registry.releases.probes(NEW.release_id) == (probe,)
    assert registry.releases.probes(OLD.release_id) == ()


def test_processes_report_themselves(registry: Store) -> None:
    """The last report counts; who has been silent for a while does not serve."""
    for name, at in (("a", NOW), ("b", NOW - timedelta(minutes=5)), ("a", NOW + timedelta(seconds=1))):
        registry.rollouts.report(Server(server_id=name, champion=OLD.release_id, at=at))
    assert [one.server_id for one in registry.rollouts.serving(NOW)] == ["a"]
    registry.rollouts.retire("a")
    assert registry.rollouts.serving(NOW) == ()
