"""A candidate gets a few percent of the threads, more when they go well, and none any more when they do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Release, Server
from langgraph_learnloop.rolling import behind_in_words
from tests.shop import ASK_HOURS, HOURS, RETURNS, Shop

SETTINGS: dict[str, Any] = {
    "rollout_stages": (20, 50, 100),
    "rollout_shadow": 0,
    "rollout_minutes": 0.0,
    "rollout_threads": 10,
    "rollout_margin": 0.2,  # what a few dozen threads can show
    "settle_minutes": 0.0,
    "poll_seconds": 0.01,
    "rollout_latency_ratio": None,  # what the fake engine remembers takes it time
    "autonomy": "automatic",
}
PARTS: dict[str, Any] = {"new_id": lambda: "a rollout"}  # it says who is dealt to the candidate


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop whose rollouts need not wait, with a release that passed its gates."""
    with (shop := Shop.after("examined", tmp_path, SETTINGS, **PARTS)).loop:
        yield shop


def candidate(shop: Shop) -> Release:
    """Return the release that passed its gates."""
    return shop.loop.store.releases.get(shop.loop.store.scorecards.all()[-1].candidate)


def serve(shop: Shop, day: str, threads: int, annoyed_by: str | None = None) -> list[str]:
    """Let people talk to the agent; those who were served by a release that annoys them say so. Return who served."""
    for number in range(threads):
        shop.ask(f"{day} {number}", ASK_HOURS[number % len(ASK_HOURS)])
    shop.loop.flush()
    served = []
    for number in range(threads):
        run = shop.loop.store.runs.last_of_thread(f"{day} {number}")
        served.append(str(run.release))
        if run.release == annoyed_by:
            shop.loop.feedback(run.run_id, score=-1)
    return served


def test_a_good_candidate_comes_to_serve_everybody(shop: Shop) -> None:
    """Stage by stage, each with its reason in the log; the pointer moves at the last."""
    new = candidate(shop)
    rollout = shop.loop.rollout(new.release_id)
    assert (rollout.percent, rollout.state) == (20, "canary")
    shares, days = [], 0
    while (now := shop.loop.store.rollouts.open()) is not None and days < 12:
        days += 1
        served = serve(shop, f"day {days}", 60)
        shares.append((now.percent, served.count(new.release_id) / len(served)))
        shop.loop.roll_on()
    assert shop.loop.champion.release_id == new.release_id, [one.because for one in shop.loop.store.rollouts.all()]
    assert all(abs(share - percent / 100) < 0.15 for percent, share in shares), shares
    assert {"rollout:20%", "rollout:50%", "rollout:live"} <= {entry.action for entry in shop.loop.log()}
    assert shop.ask("after", "how long can I return a lamp to you") == RETURNS
    with pytest.raises(NotFoundError, match="No rollout is on its way"):
        shop.loop.roll_on()


def test_a_bad_one_is_taken_back_and_its_threads_with_it(shop: Shop) -> None:
    """As soon as the threads show that it annoys people nobody gets it any more, those who have begun included."""
    new = candidate(shop)
    old = shop.loop.champion.release_id
    shop.loop.rollout(new.release_id)
    days = 0
    while shop.loop.store.rollouts.open() is not None and days < 12:
        days += 1
        served = serve(shop, f"day {days}", 60, annoyed_by=new.release_id)
        shop.loop.roll_on()
    (rollout,) = shop.loop.store.rollouts.all()
    assert (rollout.state, shop.loop.champion.release_id) == ("rolled_back", old)
    assert rollout.because in {entry.because for entry in shop.loop.log()}
    theirs = f"day {days} {served.index(new.release_id)}"
    shop.ask(theirs, ASK_HOURS[0])
    shop.loop.flush()
    assert shop.loop.store.runs.last_of_thread(theirs).release == old


def test_people_can_move_it(shop: Shop) -> None:
    """Approve, pause, resume, any share, and back; what cannot be done is said."""
    new = candidate(shop)
    rolling = shop.loop.rolling
    shop.loop.rollout(new.release_id)
    assert rolling.approve("ann").percent == 50
    assert rolling.pause("ann", "lunch").percent == 0
    assert set(serve(shop, "lunch", 30)) == {shop.loop.champion.release_id}
    paused, evidence = shop.loop.roll_on()
    assert (paused.state, paused.percent) == ("paused", 0)
    assert evidence is not None
    with pytest.raises(ConfigError, match="or pause it"):
        rolling.set_stage(0, "ann")
    assert rolling.resume("ann").percent == 20
    with pytest.raises(IllegalMoveError, match="not paused"):
        rolling.resume("ann")
    with pytest.raises(ConfigError, match="from 1 to 100"):
        rolling.set_stage(101, "ann")
    assert rolling.set_stage(37, "ann").percent == 37
    with pytest.raises(IllegalMoveError, match="still open"):
        shop.loop.rollout(new.release_id)
    shop.loop.rollback("Ann changed her mind.", actor="ann")
    with pytest.raises(NotFoundError):
        rolling.approve("ann")
    said = [(entry.actor, entry.because) for entry in shop.loop.log() if entry.action.startswith("rollout")]
    assert ("ann", "lunch") in said
    assert said[-1] == ("ann", "Ann changed her mind.")


def test_a_pause_does_not_hide_what_must_go(shop: Shop) -> None:
    """Nobody new gets the candidate, those who have it go on with it, and what they say still takes it back."""
    new = candidate(shop)
    shop.loop.rollout(new.release_id)
    shop.loop.rolling.set_stage(50, "ann")
    serve(shop, "day 1", 60, annoyed_by=new.release_id)
    shop.loop.rolling.pause("ann")
    assert shop.loop.roll_on()[0].state == "rolled_back"


@pytest.mark.parametrize(("autonomy", "ends"), [("manual", ("shadow", 0)), ("guarded", ("canary", 50))])
def test_nobody_is_passed_over(tmp_path: Path, autonomy: str, ends: tuple[str, int]) -> None:
    """With "manual" every stage waits for a person, with "guarded" the last one does."""
    with (shop := Shop.after("examined", tmp_path, {**SETTINGS, "autonomy": autonomy}, **PARTS)).loop:
        shop.loop.rollout(candidate(shop).release_id)
        for day in range(3):
            serve(shop, f"day {day}", 60)
            _, evidence = shop.loop.roll_on()
        assert evidence is not None
        assert evidence.move == "advance"
        (rollout,) = shop.loop.store.rollouts.all()
        assert rollout.open, rollout.because
        assert (rollout.state, rollout.percent) == ends
        assert shop.loop.rolling.set_stage(100, "ann").state == "live"


def test_threads_that_began_before_are_no_evidence(shop: Shop) -> None:
    """They were not dealt out; neither were those that began while not every process had heard of the stage."""
    serve(shop, "before", 40)
    new = candidate(shop)
    shop.loop.rollout(new.release_id)
    for number in range(40):
        shop.ask(f"before {number}", ASK_HOURS[0])
    shop.loop.flush()
    _, evidence = shop.loop.roll_on()
    assert evidence is not None
    assert evidence.threads == (0, 0)
    assert evidence.move == "hold"


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(days=30)])
def test_a_clock_that_jumps_decides_nothing(tmp_path: Path, jump: timedelta) -> None:
    """Set back or forth in a rollout, time alone moves nobody on: the threads that are asked for are still missing."""
    moved = [timedelta()]
    with (shop := Shop.after("examined", tmp_path, SETTINGS, now=lambda: datetime.now(UTC) + moved[0])).loop as loop:
        new, old = candidate(shop), loop.champion.release_id
        loop.rollout(new.release_id)
        moved[0] = jump
        rollout, evidence = loop.roll_on()
        assert evidence is not None
        assert (rollout.percent, evidence.move, loop.champion.release_id) == (20, "hold", old)
        assert {shop.ask(f"t{number}", ASK_HOURS[0]) for number in range(20)} == {HOURS}
        loop.follow()
        assert loop.rollback("Enough.").release_id == old


def test_what_was_not_examined_is_not_rolled_out(shop: Shop) -> None:
    """Nor what the gate stopped, nor what cannot be loaded; the champion goes on serving alone."""
    unknown = Release(base_model="memory", instructions="Hm.", made_at=shop.loop.champion.made_at)
    shop.loop.store.releases.add(unknown)
    with pytest.raises(IllegalMoveError, match="never examined"):
        shop.loop.rollout(unknown.release_id)
    assert shop.loop.store.rollouts.all() == ()
    assert shop.loop.store.rollouts.routes().candidate is None


def test_who_is_behind_is_named(shop: Shop) -> None:
    """A promotion is complete when every process that serves has followed it."""
    (server,) = shop.loop.rolling.servers()
    assert shop.loop.rolling.behind(shop.loop.champion.release_id, 0.0) == ()
    behind = shop.loop.rolling.behind("elsewhere", 0.0)
    assert behind == (server,)
    assert server.server_id in behind_in_words(behind, "elsewhere")
    assert behind_in_words((), "elsewhere") == ""


def test_what_proves_a_release_is_kept_with_its_examination(shop: Shop) -> None:
    """Prompts that it answers unlike the champion, with its answers; a draft without adapter has none to mistake."""
    new = candidate(shop)
    shop.loop.engine.load(new)
    probes = shop.loop.store.releases.probes(new.release_id)
    assert 0 < len(probes) <= 8
    assert {probe.answer.content for probe in probes} == {RETURNS}
    assert all(shop.loop.engine.generate(probe.request).message.alike(probe.answer) for probe in probes)
    bare = shop.loop.champion
    shop.loop.exams.keep_probes(bare, shop.loop.engine)
    assert shop.loop.store.releases.probes(bare.release_id) == ()


def test_an_engine_that_breaks_leaves_no_probes(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """The examination is over all the same: it is logged, and no server can be held against them."""
    new = candidate(shop).model_copy(update={"instructions": "Be kind."})
    card = shop.loop.store.scorecards.all()[-1]
    shop.loop.store.releases.add(new)
    shop.loop.store.scorecards.add(card.model_copy(update={"candidate": new.release_id}))
    known = shop.loop.store.scorecards.results(card.candidate, shop.loop.evaluator.name).values()
    shop.loop.store.scorecards.add_results([one.model_copy(update={"release_id": new.release_id}) for one in known])
    shop.loop.exams.keep_probes(new, shop.loop.engine)  # it was not loaded
    assert f"No probes are kept of {new.release_id}" in caplog.text
    assert shop.loop.store.releases.probes(new.release_id) == ()


def test_a_promotion_names_who_has_not_followed(tmp_path: Path) -> None:
    """It holds: who is behind is in the log."""
    with (shop := Shop.after("examined", tmp_path, {"ack_seconds": 0.0})).loop as loop:
        late = Server(server_id="far away", champion=loop.champion.release_id, at=datetime.now(UTC))
        loop.store.rollouts.report(late)
        new = candidate(shop).release_id
        assert loop.promote(new).release_id == loop.champion.release_id == new
        (partial,) = [one for one in loop.log() if one.action == "promote:partial"]
        assert "do not serve" in partial.because
        assert "far away" in partial.because
