"""Who may move a rollout where: the rules alone, on an empty store, without an agent that serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from langgraph_learnloop import rolling as module
from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import ConfigError, IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Decision, Gate, Release, Rollout, Scorecard, Server
from langgraph_learnloop.rolling import Rolling, behind_in_words, tending
from langgraph_learnloop.serving.canary import Evidence
from langgraph_learnloop.store.opened import Store, open_store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW, OTHER = (Release(base_model=name, made_at=NOW) for name in ("old", "new", "other"))
Make = Callable[..., Rolling]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Yield a store in which OLD serves."""
    with open_store(tmp_path / "l.db", tmp_path / "files") as opened:
        for one in (OLD, NEW, OTHER):
            opened.releases.add(one)
        opened.releases.point(OLD.release_id, "first", "test")
        yield opened


@pytest.fixture
def log() -> list[Decision]:
    """Return the moves that were told."""
    return []


@pytest.fixture
def make(store: Store, log: list[Decision], monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of `Rolling` with settings, and with a move that the evidence speaks for."""

    def made(move: str | None = None, **settings: Any) -> Rolling:
        config = LoopConfig(
            **{"autonomy": "automatic", "rollout_shadow": 0, "rollout_stages": (20, 50, 100), **settings}
        )
        hours = iter(range(1_000))
        one = Rolling(store, config, "agent", lambda: NOW + timedelta(hours=next(hours)), log.append)
        monkeypatch.setattr(one, "evidence", lambda rollout: evidence(move) if move else None)
        return one

    return made


def evidence(move: Any) -> Evidence:
    return Evidence(
        move=move, because=f"so: {move}", champion_bad=None, candidate_bad=None, low=-1.0, high=1.0, e_values={},
        threads=(0, 0), routing_p=1.0,
    )  # fmt: skip


def card(passed: bool = True, champion: Release = OLD) -> Scorecard:
    gate = Gate(
        name="g", required=True, passed=passed, metric="m", champion=None, candidate=None, cases=1, because="Fine."
    )
    return Scorecard(candidate=NEW.release_id, champion=champion.release_id, gates=(gate,), at=NOW)


def begin(rolling: Rolling, mode: Any = "stages", percent: int | None = None, release: Release = NEW) -> Rollout:
    return rolling.start("r1", release, card(), "ann", mode, percent)


def stands(one: Rollout) -> tuple[str, int]:
    return one.state, one.percent


@pytest.mark.parametrize(
    ("settings", "mode", "percent", "stages", "first"),
    [
        ({}, "stages", None, (20, 50, 100), ("canary", 20)),
        ({"autonomy": "manual"}, "stages", None, (20, 50, 100), ("shadow", 0)),
        ({"rollout_shadow": 1}, "stages", None, (20, 50, 100), ("shadow", 0)),
        ({}, "blue_green", None, (100,), ("canary", 100)),
        ({}, "ab", None, (50, 100), ("canary", 50)),
        ({}, "ab", 1, (1, 100), ("canary", 1)),
        ({}, "ab", 99, (99, 100), ("canary", 99)),
    ],
)
def test_how_a_rollout_begins(
    make: Make, store: Store, log: list[Decision], settings: Any, mode: Any, percent: Any, stages: Any, first: Any
) -> None:
    """By its mode's stages; in the shadow where that is asked for or every stage waits for a person."""
    rolling = make(**settings)
    one = begin(rolling, mode, percent)
    assert (one.mode, one.stages, stands(one), one.by) == (mode, stages, first, "ann")
    assert (one.candidate, one.champion, one.because) == (NEW.release_id, OLD.release_id, card().because)
    assert one.started_at == one.stage_at == NOW
    assert rolling.current() == store.rollouts.open() == one
    assert len(log) == 1


@pytest.mark.parametrize(("mode", "percent"), [("ab", 0), ("ab", 100), ("stages", 20), ("blue_green", 20)])
def test_a_share_of_ones_own_is_an_even_tests(make: Make, store: Store, mode: Any, percent: int) -> None:
    """From 1 to 99 percent, and in no other mode; what is refused begins nothing."""
    with pytest.raises(ConfigError, match=f"not {percent}" if mode == "ab" else repr(mode)):
        begin(make(), mode, percent)
    assert store.rollouts.open() is None


def test_what_may_be_put_in_service(make: Make, store: Store) -> None:
    """What passed against today's champion, while nothing else is on its way; else the reason is said."""
    rolling = make()
    rolling.check(NEW, card())
    for given, said in (
        (None, "never examined"),
        (card(passed=False), "stopped by the gate"),
        (card(champion=OTHER), "was examined against"),
    ):
        with pytest.raises(IllegalMoveError, match=said):
            rolling.check(NEW, given)
    begin(rolling)
    with pytest.raises(IllegalMoveError, match=r"still open \(canary, 20%\)"):
        rolling.check(OTHER, card())


def test_without_a_rollout_nothing_is_moved(make: Make) -> None:
    """Whoever asks for a move hears that there is none to be made."""
    rolling = make("advance")
    for move in (rolling.current, rolling.step, lambda: rolling.approve("ann"), lambda: rolling.pause("ann")):
        with pytest.raises(NotFoundError, match="No rollout is on its way"):
            move()


WAYS = [
    ("automatic", 0, "stages", [("canary", 50), ("live", 100)]),
    ("guarded", 0, "stages", [("canary", 50), ("canary", 50)]),
    ("manual", 0, "stages", [("shadow", 0)]),
    ("automatic", 1, "stages", [("canary", 20), ("canary", 50), ("live", 100)]),
    ("guarded", 1, "stages", [("canary", 20), ("canary", 50), ("canary", 50)]),
    ("automatic", 1, "blue_green", [("canary", 100), ("live", 100)]),
    ("automatic", 0, "blue_green", [("live", 100)]),
    ("guarded", 1, "blue_green", [("shadow", 0)]),
    ("guarded", 0, "blue_green", [("canary", 100)]),
    ("automatic", 0, "ab", [("canary", 50)]),
    ("automatic", 1, "ab", [("canary", 50), ("canary", 50)]),
]


@pytest.mark.parametrize(("autonomy", "shadow", "mode", "way"), WAYS)
def test_how_far_it_goes_by_itself(
    make: Make, log: list[Decision], autonomy: str, shadow: int, mode: Any, way: list[tuple[str, int]]
) -> None:
    """Good evidence moves it on as far as the autonomy and the mode let it; a test is ended by a person."""
    rolling = make("advance", autonomy=autonomy, rollout_shadow=shadow)
    at = stands(begin(rolling, mode))
    for ends in way:
        moved, seen = rolling.step()
        assert stands(moved) == ends
        assert seen is not None
        if ends != at:
            assert (moved.because, moved.by) == ("so: advance", "learnloop")
            assert log[-1].because == "so: advance"
        at = ends


def test_a_paused_one_goes_nowhere_by_itself_but_back(make: Make) -> None:
    """Good evidence does not end a pause; bad evidence takes the candidate back, whoever may move it on."""
    rolling = make("advance")
    begin(rolling)
    assert stands(rolling.pause("bob")) == ("paused", 0)
    assert stands(rolling.step()[0]) == ("paused", 0)
    bad = make("rollback", autonomy="manual")
    moved, seen = bad.step()
    assert (stands(moved), moved.because, moved.by) == (("rolled_back", 0), "so: rollback", "learnloop")
    assert seen is not None


@pytest.mark.parametrize("move", [None, "hold"])
def test_without_good_evidence_it_stays(make: Make, log: list[Decision], move: str | None) -> None:
    """Nothing seen, or nothing sure, moves nobody; what was seen is handed out."""
    rolling = make(move)
    begun = begin(rolling)
    assert rolling.step() == (begun, evidence(move) if move else None)
    assert len(log) == 1


def test_people_move_it(make: Make) -> None:
    """To the next stage, to any share, to a pause with a reason, and on from where it had been."""
    rolling = make(autonomy="manual")
    assert stands(begin(rolling)) == ("shadow", 0)
    assert (stands(one := rolling.pause("bob")), one.because, one.by) == (("paused", 0), "bob paused it.", "bob")
    assert stands(rolling.resume("bob")) == ("shadow", 0)
    assert (stands(one := rolling.approve("bob")), one.because, one.by) == (("canary", 20), "bob approved it.", "bob")
    assert (stands(one := rolling.set_stage(1, "eve")), one.because) == (("canary", 1), "eve set it to 1%.")
    assert (stands(one := rolling.pause("bob", "lunch")), one.because) == (("paused", 0), "lunch")
    assert (stands(one := rolling.resume("eve")), one.because, one.by) == (("canary", 20), "eve resumed it.", "eve")
    assert stands(rolling.set_stage(99, "eve")) == ("canary", 99)
    assert stands(rolling.approve("bob")) == ("live", 100)
    with pytest.raises(NotFoundError):
        rolling.back("Too late.", "bob")


def test_all_of_them_ends_it_at_once(make: Make, store: Store) -> None:
    """A hundred percent is live, from wherever; the candidate serves."""
    rolling = make()
    begin(rolling)
    assert stands(rolling.set_stage(100, "eve")) == ("live", 100)
    assert store.releases.champion() == NEW.release_id


def test_a_switch_of_all_is_seen_before_it_is_live(make: Make) -> None:
    """Blue-green in the shadow goes to all the threads first, and is live at the next approval."""
    rolling = make(autonomy="manual")
    assert stands(begin(rolling, "blue_green")) == ("shadow", 0)
    assert stands(rolling.approve("bob")) == ("canary", 100)
    assert stands(rolling.approve("bob")) == ("live", 100)


@pytest.mark.parametrize("percent", [0, 101, -1])
def test_a_stage_is_a_share(make: Make, percent: int) -> None:
    """From 1 to 100 percent; anything else is refused and moves nothing."""
    rolling = make()
    begun = begin(rolling)
    with pytest.raises(ConfigError, match=f"not {percent}; or pause it"):
        rolling.set_stage(percent, "ann")
    assert rolling.current() == begun


def test_only_what_is_paused_is_resumed(make: Make) -> None:
    """Who resumes what goes on is told where it stands."""
    rolling = make()
    begin(rolling)
    with pytest.raises(IllegalMoveError, match="is not paused, it is 'canary'"):
        rolling.resume("ann")


def server(name: str, champion: str, trouble: str | None = None) -> Server:
    return Server(server_id=name, champion=champion, trouble=trouble, at=NOW)


def test_who_is_behind(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives another release to new threads, or has trouble; it is asked again until the time is over."""
    rolling = make()
    here, late, hurt = server("a", "new"), server("b", "old"), server("c", "new", "no memory")
    monkeypatch.setattr(rolling, "servers", lambda: (here, late, hurt))
    assert rolling.behind("new", 0.0) == (late, hurt)
    answers = iter([(late,), (hurt,), (here,)])
    monkeypatch.setattr(rolling, "servers", lambda: next(answers))
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    # Not the time of the whole process: threads that another test left behind ask for it, too.
    still = SimpleNamespace(sleep=lambda seconds: None, monotonic=lambda: next(clock))
    monkeypatch.setattr(module, "time", still)
    assert rolling.behind("new", 60.0) == ()
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(rolling, "servers", lambda: (late,))
    assert rolling.behind("new", 2.0) == (late,)
    assert next(clock) == 3.0


def test_who_is_behind_in_words() -> None:
    """Three are named, with what they serve or what troubles them; the rest is a number."""
    late, hurt = server("a", "old"), server("b", "new", "no memory")
    assert behind_in_words((), "new") == ""
    assert behind_in_words((late, hurt), "new") == (
        "2 of the processes that serve do not serve new yet: a (serves old), b (no memory)."
    )
    assert behind_in_words((late,) * 3, "new").endswith("yet: a (serves old), a (serves old), a (serves old).")
    assert behind_in_words((late,) * 4, "new").endswith(
        "yet: a (serves old), a (serves old), a (serves old) and 1 more."
    )
    assert behind_in_words((late,) * 5, "new").endswith(
        "yet: a (serves old), a (serves old), a (serves old) and 2 more."
    )


def test_a_rollout_is_looked_after_until_that_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """No rollout is no event; what breaks is told and does not end the looking; ending waits for the thread."""
    looked = threading.Semaphore(0)
    faults: list[Exception] = [NotFoundError("none"), KeyError("a bug")]

    def look() -> None:
        looked.release()
        if faults:
            raise faults.pop(0)

    before = threading.active_count()
    stop = tending(look, 0.001)
    for _ in range(4):
        assert looked.acquire(timeout=20)
    (thread,) = (one for one in threading.enumerate() if one.name == "learnloop-tender")
    assert thread.daemon
    stop()
    assert threading.active_count() == before
    (told,) = caplog.records
    assert "tried again" in told.message
