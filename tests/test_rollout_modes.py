"""Rollouts that are no canary: an even test, a switch of all threads at once, and metrics of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, DataError, EngineError
from langgraph_learnloop.evidence import metric_of
from langgraph_learnloop.records import Decision, Feedback, Run
from langgraph_learnloop.show import rollout_tree
from tests.shop import ASK_HOURS, Shop
from tests.test_rolling import PARTS, SETTINGS, candidate, serve


def opened(path: Path, settings: dict[str, Any] | None = None, **parts: Any) -> Shop:
    """Return a shop with a release that passed its gates."""
    return Shop.after("examined", path, {**SETTINGS, **(settings or {})}, **{**PARTS, **parts})


def grumpy(run: Run, said: Sequence[Feedback]) -> float | None:
    """Call a run as bad as its worst score says."""
    return max((0.5 - 0.5 * one.score for one in said if one.score is not None), default=0.0)


def broken(run: Run, said: Sequence[Feedback]) -> float | None:
    """Return no share at all."""
    return 7.0


def test_an_even_test_ends_by_a_person(tmp_path: Path) -> None:
    """The share stays as it is, however good the candidate looks, until somebody approves it."""
    with (shop := opened(tmp_path)).loop as loop:
        new = candidate(shop)
        rollout = loop.rollout(new.release_id, mode="ab", percent=30)
        assert (rollout.percent, rollout.stages) == (30, (30, 100))
        for day in range(3):
            served = serve(shop, f"day {day}", 60)
            assert 0.15 < served.count(new.release_id) / len(served) < 0.45
            moved, evidence = loop.roll_on()
            assert (moved.state, moved.percent) == ("canary", 30)
        assert evidence is not None
        assert (evidence.move, evidence.threads[1] > 30) == ("advance", True)
        assert loop.rolling.approve("ann").state == "live"
        assert loop.champion.release_id == new.release_id


def test_an_even_test_goes_back_by_itself(tmp_path: Path) -> None:
    """Nobody need watch it."""
    with (shop := opened(tmp_path)).loop as loop:
        new = candidate(shop)
        drawn = rollout_tree(loop.rollout(new.release_id, mode="ab"), None, ())
        assert "even test, canary, 50% of new threads" in str(drawn.label)
        serve(shop, "day 1", 60, annoyed_by=new.release_id)
        assert loop.roll_on()[0].state == "rolled_back"


@pytest.mark.parametrize("annoys", [False, True])
def test_a_switch_of_all_threads_at_once(tmp_path: Path, annoys: bool) -> None:
    """Every new thread gets the candidate, older ones keep the champion, which stays warm; then it is kept, or not."""
    with (shop := opened(tmp_path)).loop as loop:
        new, old = candidate(shop), loop.champion.release_id
        serve(shop, "before", 60)
        rollout = loop.rollout(new.release_id, mode="blue_green")
        assert (rollout.state, rollout.percent, loop.champion.release_id) == ("canary", 100, old)
        served = serve(shop, "after", 60, annoyed_by=new.release_id if annoys else None)
        assert set(served) == {new.release_id}
        shop.ask("before 1", ASK_HOURS[0])
        loop.flush()
        assert loop.store.runs.last_of_thread("before 1").release == old
        assert set(loop.engine.health().loaded) >= {old, new.release_id}
        moved, evidence = loop.roll_on()
        assert evidence is not None
        assert (moved.state, loop.champion.release_id) == (("rolled_back", old) if annoys else ("live", new.release_id))


def test_a_person_approves_a_switch(tmp_path: Path) -> None:
    """Where people must, one approval makes the switch and another keeps it."""
    with (shop := opened(tmp_path, {"autonomy": "manual"})).loop as loop:
        new = candidate(shop)
        assert loop.rollout(new.release_id, mode="blue_green").state == "shadow"
        assert (loop.rolling.approve("ann").state, loop.store.rollouts.routes().percent) == ("canary", 100)
        assert loop.roll_on()[0].state == "canary"
        assert loop.rolling.approve("ann").state == "live"


def test_a_share_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """An even test has one share, the others have their stages."""
    with (shop := opened(tmp_path)).loop as loop:
        new = candidate(shop).release_id
        for mode, percent in (("ab", 0), ("ab", 100), ("stages", 10), ("blue_green", 10)):
            with pytest.raises(ConfigError, match="percent"):
                loop.rollout(new, mode=mode, percent=percent)  # type: ignore[arg-type]
        assert loop.store.rollouts.all() == ()


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    """By name in the settings, or as a function; what people said of a run is known to it."""
    with (shop := opened(tmp_path, {"rollout_metric": "tests.test_rollout_modes:grumpy"})).loop as loop:
        new = candidate(shop)
        loop.rollout(new.release_id, mode="ab")
        for number in range(60):
            shop.ask(f"t {number}", ASK_HOURS[number % len(ASK_HOURS)])
        loop.flush()
        for number in range(60):
            run = loop.store.runs.last_of_thread(f"t {number}")
            loop.feedback(run.run_id, score=0.2 if run.release == new.release_id else 1.0)  # nothing is flagged
        _, evidence = loop.roll_on()
        assert evidence is not None
        assert evidence.candidate_bad == pytest.approx(0.4)
        assert evidence.champion_bad == 0.0
    with pytest.raises(DataError, match="from 0 to 1"):
        seen_by(tmp_path / "other", broken)


def seen_by(path: Path, metric: Any) -> None:
    """Look at a rollout with a metric."""
    path.mkdir()
    with (shop := opened(path, rollout_metric=metric)).loop as loop:
        loop.rollout(candidate(shop).release_id, mode="ab")
        serve(shop, "day", 40)  # of a handful, all may be the champion's
        loop.roll_on()


@pytest.mark.parametrize("name", ["moods", "tests.test_rollout_modes:nothing", "no.such:thing", "os:sep"])
def test_a_metric_that_is_none_is_a_sentence(name: str) -> None:
    """The setting is named, and what it may be."""
    with pytest.raises(ConfigError, match="rollout_metric"):
        metric_of(name)


def test_known_metrics() -> None:
    """What a run itself says, and what people said of it."""
    assert metric_of("flagged") is None
    for name in ("failed", "interrupted", "unhappy"):
        assert callable(metric_of(name))


def test_unsafe_answers_count_by_what_is_said_of_them(tmp_path: Path) -> None:
    """Feedback with the category "unsafe", whoever gave it, is a guardrail of its own."""
    with (shop := opened(tmp_path, {"rollout_metric": "failed"})).loop as loop:
        new = candidate(shop)
        loop.rollout(new.release_id, mode="ab")
        for run_id in (served := serve_and_find(shop, new.release_id))[-3:]:
            loop.feedback(run_id, categories=["unsafe"], by="judge")
        assert len(served) > 20
        moved, evidence = loop.roll_on()
        assert evidence is not None
        assert (moved.state, evidence.candidate_bad) == ("rolled_back", 0.0)
        assert "3 of its" in moved.because


def serve_and_find(shop: Shop, release_id: str) -> list[str]:
    """Serve a day, and return the runs of a release."""
    serve(shop, "day", 60)
    runs = [shop.loop.store.runs.last_of_thread(f"day {number}") for number in range(60)]
    return [run.run_id for run in runs if run.release == release_id]


class Pager:
    """Note what it is told, and break now and then."""

    def __init__(self) -> None:
        self.told: list[Decision] = []

    def tell(self, decision: Decision) -> None:
        """Note it, then break."""
        self.told.append(decision)
        raise OSError("The pager has no battery.")


def test_the_operator_is_told_and_nothing_depends_on_it(tmp_path: Path) -> None:
    """Each move of a rollout, with its reason; an operator that breaks is logged."""
    pager = Pager()
    with (shop := opened(tmp_path, operator=pager)).loop as loop:
        new = candidate(shop)
        loop.rollout(new.release_id, mode="ab")
        loop.rolling.back("It lies.", "ann")
        assert [one.action for one in pager.told][-2:] == ["rollout:50%", "rollout:rolled_back"]
        assert set(pager.told) <= set(loop.log())


def test_threads_may_follow_the_champion(tmp_path: Path) -> None:
    """By policy a thread goes on with its release only while that is the champion or the candidate."""
    with (shop := opened(tmp_path, {"threads": "follow"})).loop as loop:
        new, old = candidate(shop), loop.champion.release_id
        shop.ask("long talk", ASK_HOURS[0])
        loop.rollout(new.release_id, mode="ab")
        shop.ask("long talk", ASK_HOURS[0])
        loop.flush()
        assert loop.store.runs.last_of_thread("long talk").release == old
        loop.rolling.approve("ann")
        shop.ask("long talk", ASK_HOURS[0])
        loop.flush()
        assert loop.store.runs.last_of_thread("long talk").release == new.release_id


@pytest.mark.parametrize("settings", [{"after_gate": "rollout"}, {"autonomy": "manual"}])
def test_a_cycle_may_end_in_a_rollout(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By the settings, or because people want to approve every change; the next cycle waits for its end."""
    with Shop.after("corrected", tmp_path, {**SETTINGS, **settings}).loop as loop:
        old = loop.champion.release_id
        report = loop.cycle()
        assert (report.outcome, loop.champion.release_id) == ("rolling", old)
        rollout = loop.store.rollouts.open()
        assert rollout is not None
        assert rollout.candidate == report.candidate
        assert loop.store.cycles.open() is None
        assert loop.rolling.set_stage(100, "ann").state == "live"


def test_two_rollouts_wait_for_each_other(tmp_path: Path) -> None:
    """A cycle whose candidate passed while another is on its way stays open, and is taken up again."""
    with (shop := opened(tmp_path, {"after_gate": "rollout"}, new_id=iter(("one", "two")).__next__)).loop as loop:
        first = candidate(shop)
        other = first.model_copy(update={"instructions": "Be kind."})
        loop.store.releases.add(other)
        card = loop.store.scorecards.of(first.release_id)
        assert card is not None
        loop.store.scorecards.add(card.model_copy(update={"candidate": other.release_id}))
        loop.rollout(other.release_id)
        loop.store.cycles.start("c1", loop._now())
        dataset = loop.store.datasets.all()[-1]
        outcome, because = loop._ship(first, card, "c1")
        assert (outcome, other.release_id in because) == ("waiting", True)
        loop.rollback("It lies.")
        assert loop._ship(first, card, "c1")[0] == "rolling"
        assert loop._ship(first, card, "c1")[0] == "rolling"  # as after a kill
        assert dataset.version == first.dataset


def test_a_rollout_is_looked_after_by_itself(tmp_path: Path) -> None:
    """A thread moves it, or takes it back, while nobody asks; it ends with the loop."""
    with (shop := opened(tmp_path)).loop as loop:
        stop = loop.tend(0.01)
        new = candidate(shop)
        loop.rollout(new.release_id, mode="ab")
        days = 0
        while loop.store.rollouts.open() is not None and days < 20:
            days += 1
            serve(shop, f"day {days}", 60, annoyed_by=new.release_id)
        assert [one.state for one in loop.store.rollouts.all()] == ["rolled_back"]
        stop()


def shadowed(path: Path, **settings: Any) -> Shop:
    """Return a shop whose rollouts begin in the shadow of thirty threads."""
    return opened(path, {"rollout_shadow": 30, **settings})


def test_in_the_shadow_nobody_gets_the_candidate(tmp_path: Path) -> None:
    """It is asked what the champion was asked, once a thread, in whole answers and in streams; then it gets a share."""
    with (shop := shadowed(tmp_path)).loop as loop:
        new, old = candidate(shop), loop.champion.release_id
        rollout = loop.rollout(new.release_id)
        assert (rollout.state, rollout.percent) == ("shadow", 0)
        for number in range(30):
            text, config = ASK_HOURS[number], {"metadata": {"thread_id": f"t{number}"}}
            live = loop.live
            said, *_ = live.stream(text, config) if number % 2 else [live.invoke(text, config)]  # type: ignore[arg-type]
            assert said.response_metadata["learnloop_release"] == old
            loop._shadow.wait()
        loop.live.invoke(ASK_HOURS[0], {"metadata": {"thread_id": "t1"}})  # a second turn
        loop.live.invoke(ASK_HOURS[0])  # nobody's thread
        loop.live.invoke(ASK_HOURS[0], {"metadata": {"thread_id": "t99", "learnloop_release": old}})  # an examination
        loop._shadow.wait()
        answers = loop.store.rollouts.shadows(rollout.rollout_id)
        assert [(one.same, one.error) for one in answers] == [(True, None)] * 30
        moved, evidence = loop.roll_on()
        assert (moved.state, moved.percent) == ("canary", 20)
        assert evidence is not None
        assert "answered 30 as the champion did and 0 not at all" in moved.because


def test_a_candidate_that_breaks_is_stopped_in_the_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ever saw it."""
    with (shop := shadowed(tmp_path)).loop as loop:
        new = candidate(shop)
        rollout = loop.rollout(new.release_id)
        true = loop.engine.generate

        def breaks(request: Any) -> Any:
            if request.release_id == new.release_id:
                raise EngineError("The model broke while it answered.")
            return true(request)

        monkeypatch.setattr(loop.engine, "generate", breaks)
        for number in range(80):
            loop.live.invoke(ASK_HOURS[0], {"metadata": {"thread_id": f"t{number}"}})
            loop._shadow.wait()
        moved, _ = loop.roll_on()
        assert (moved.state, moved.because[:23]) == ("rolled_back", "Take the candidate back")
        assert len(loop.store.rollouts.shadows(rollout.rollout_id)) == 80


def test_out_of_the_shadow_and_in_again_by_hand(tmp_path: Path) -> None:
    """A pause in the shadow is resumed in the shadow; a person may lead it out."""
    with (shop := shadowed(tmp_path, autonomy="manual")).loop as loop:
        loop.rollout(candidate(shop).release_id)
        assert loop.rolling.pause("ann").state == "paused"
        assert loop.rolling.resume("ann").state == "shadow"
        assert (loop.rolling.approve("ann").percent, loop.rolling.pause("ann").percent) == (20, 0)
        assert (loop.rolling.resume("ann").state, loop.store.rollouts.routes().percent) == ("canary", 20)
