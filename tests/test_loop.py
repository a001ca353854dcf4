"""The corridor: what comes next, and what happens when it is interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    EngineError,
    IllegalMoveError,
    NotFoundError,
    TrainingError,
)
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, TrainingResult
from langgraph_learnloop.testing import MemoryEngine, ScriptedReviewer, TinyTrainer
from tests.shop import HOURS, RETURNS, Shop

QUESTION = "how long can I return a lamp to you"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop."""
    with (shop := Shop(tmp_path / "l.db")).loop:
        yield shop


@pytest.fixture
def corrected(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop that had a bad day."""
    with (shop := Shop.after("corrected", tmp_path)).loop:
        yield shop


@pytest.fixture
def promoted(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop that learned from its bad day."""
    with (shop := Shop.after("promoted", tmp_path)).loop:
        yield shop


def test_the_whole_circle(shop: Shop) -> None:
    """An agent that fails is corrected, learns, and answers new threads rightly; what it knew stays."""
    shop.remember()
    shop.bad_day()
    assert shop.ask("before", QUESTION) == "I do not know."
    report = shop.loop.cycle()
    assert report.outcome == "promoted", report.because
    assert shop.ask("after", QUESTION) == RETURNS
    assert shop.ask("after", "what are the opening hours on monday") == HOURS
    assert {d.action for d in shop.loop.log()} >= {"remember", "dataset", "train", "gate:passed", "promote"}
    shop.loop.store.decisions.verify()


def test_a_thread_keeps_the_release_it_began_with(promoted: Shop) -> None:
    """A swap changes nothing for a conversation that has begun; what was taken back nobody keeps."""
    assert promoted.ask("0", QUESTION) == "I do not know."
    assert promoted.ask("new", QUESTION) == RETURNS
    promoted.loop.rollback()
    assert promoted.ask("new", QUESTION) == "I do not know."
    assert promoted.ask("newer", QUESTION) == "I do not know."


def test_what_changes_nothing_is_stopped(corrected: Shop) -> None:
    """A lesson that teaches the wrong answer to what was known does not ship, and says why."""
    dataset = corrected.loop.curate()
    assert dataset is not None
    recipe = corrected.loop.config.recipe.model_copy(update={"variations": False, "replay": 1.0})
    nothing = corrected.loop.train(dataset, recipe)
    poisoned = nothing.model_copy(update={"adapter": None, "adapter_sha256": None})
    corrected.loop.store.releases.add(poisoned)
    card = corrected.loop.evaluate(poisoned, dataset)
    assert not card.passed
    with pytest.raises(IllegalMoveError, match="stopped by the gate"):
        corrected.loop.promote(poisoned.release_id)
    assert corrected.loop.champion.release_id == card.champion


class _DiesOnce(TinyTrainer):
    """Be killed at the first job."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[str] = []

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        self.jobs.append(job.job_id)
        if len(self.jobs) == 1:
            raise KeyboardInterrupt
        return super().train(job, on_progress)


def test_a_killed_cycle_is_taken_up_again(tmp_path: Path) -> None:
    """Ctrl-C in the middle, a new process, the same cycle: same dataset, same job, one review."""
    trainer = _DiesOnce()
    first = Shop(tmp_path / "l.db", trainer=trainer)
    first.remember()
    first.bad_day()
    with pytest.raises(KeyboardInterrupt):
        first.loop.cycle()
    first.loop.close()
    with (second := Shop(tmp_path / "l.db", trainer=trainer)).loop:
        report = second.loop.cycle()
        assert report.outcome == "promoted"
        assert len(set(trainer.jobs)) == 1
        assert len([d for d in second.loop.log() if d.action == "dataset"]) == 1


def test_a_failed_job_leaves_the_agent_alone(tmp_path: Path) -> None:
    """Training that fails is an error with its reason; the champion serves on and the cycle can be walked again."""
    with (shop := Shop.after("corrected", tmp_path, trainer=TinyTrainer("out of memory"))).loop:
        before = shop.loop.champion.release_id
        with pytest.raises(TrainingError, match="out of memory"):
            shop.loop.cycle()
        assert shop.loop.champion.release_id == before
        assert shop.ask("x", "what are the opening hours on monday") == HOURS


def test_a_plan_comes_before_the_job(shop: Shop) -> None:
    """What a job would learn from is said without training; a dataset that teaches nothing good has problems."""
    shop.bad_day()  # nothing is remembered: there is nothing to replay beside the one answer
    dataset = shop.loop.curate()
    assert dataset is not None
    plan = shop.loop.plan(dataset)
    assert plan.examples["correction"] == dataset.counts["correction"]["train"]
    assert "give the very same answer, nothing is replayed" in plan.problems[0]
    assert len(shop.loop.store.releases.all()) == 1


def test_a_cycle_trains_nothing_on_too_little(corrected: Shop) -> None:
    """The report says what is missing, and nothing was spent."""
    corrected.loop.config = corrected.loop.config.model_copy(update={"least_corrections": 1000})
    report = corrected.loop.cycle()
    assert report.outcome == "stopped"
    assert "fewer than 1000 teach little but themselves" in report.because
    assert report.candidate is None


def test_what_was_learned_is_looked_up_again(promoted: Shop) -> None:
    """The ledger has a line for each lesson that was shipped, with the cases that were asked then and now."""
    report = promoted.loop.store.cycles.all()[-1]
    (row,) = promoted.loop.remembered()
    assert (row.dataset, row.learned_by) == (report.dataset, report.candidate)
    assert row.cases > 5
    assert row.then == row.now == 1.0
    promoted.loop.rollback("To show it.")
    assert promoted.loop.remembered() == ()  # the base learned nothing
    assert promoted.loop.remembered(report.candidate) == (row,)


class _Noting(TinyTrainer):
    """Note what each job goes on from."""

    def __init__(self) -> None:
        super().__init__()
        self.parents: list[str | None] = []

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        self.parents.append(job.parent_adapter)
        result = super().train(job, on_progress)
        (Path(job.output) / "adapter_model.safetensors").write_bytes(b"weights")
        return result


def test_a_candidate_goes_on_from_the_champion_if_asked(tmp_path: Path) -> None:
    """By default each candidate begins at the base; with `continue_adapter` at what serves."""
    trainer = _Noting()
    with (shop := Shop.after("corrected", tmp_path, trainer=trainer)).loop:
        report = shop.loop.cycle()
        dataset = shop.loop.store.datasets.get(str(report.dataset))
        shop.loop.train(dataset, shop.loop.config.recipe.model_copy(update={"seed": 1}))
        shop.loop.config = shop.loop.config.model_copy(update={"continue_adapter": True})
        shop.loop.train(dataset, shop.loop.config.recipe.model_copy(update={"seed": 2}))
        assert trainer.parents == [None, None, shop.loop.champion.adapter]


class _Measured(TinyTrainer):
    """Do better the higher the rank, on the examples that were kept aside."""

    datasets: ClassVar[set[str]] = set()

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        self.datasets.add(job.dataset)
        result = super().train(job, on_progress)
        return result.model_copy(update={"validation": {"new": 1 / job.recipe.rank, "old": 0.1}})


def test_a_search_changes_nothing(tmp_path: Path) -> None:
    """Recipes are tried on a dataset of their own, with a part kept aside; no release or dataset comes of it."""
    pytest.importorskip("optuna", reason="a search needs Optuna")
    with (shop := Shop.after("corrected", tmp_path, trainer=_Measured())).loop:
        dataset = shop.loop.curate()
        assert dataset is not None
        known, releases = shop.loop.store.datasets.all(), shop.loop.store.releases.all()
        trials = shop.loop.search(dataset, trials=4)
        assert trials[0].recipe.rank == max(trial.recipe.rank for trial in trials)
        assert shop.loop.store.datasets.all() == known
        assert shop.loop.store.releases.all() == releases
        (tried,) = _Measured.datasets
        sides = {json.loads(line)["split"] for line in Path(tried).read_text().splitlines()}
        assert sides == {"train", "validation"}
        assert tried != dataset.path


def test_a_trainer_that_cannot_plan_says_so(tmp_path: Path) -> None:
    """Planning is more than a trainer has to do."""

    class Plain:
        train = TinyTrainer().train

    with (shop := Shop.after("corrected", tmp_path, trainer=Plain())).loop:
        dataset = shop.loop.curate()
        assert dataset is not None
        with pytest.raises(ConfigError, match="Plain does not plan its jobs"):
            shop.loop.plan(dataset)


def test_review_can_wait_for_a_person(corrected: Shop) -> None:
    """A reviewer who decides on nothing leaves the cycle open; verdicts given later finish it."""

    class Later:
        def review(self, proposals: object) -> list[object]:
            return []

    assert corrected.loop.cycle(Later()).outcome == "waiting"  # type: ignore[arg-type]
    waiting = corrected.loop.pending()
    assert len(waiting) > 10
    corrected.loop.review(ScriptedReviewer().review(waiting))
    assert corrected.loop.cycle().outcome == "promoted"


def test_nothing_to_learn_is_a_normal_outcome(shop: Shop) -> None:
    """A cycle without corrections ends at once and says so."""
    shop.ask("1", QUESTION)
    report = shop.loop.cycle()
    assert (report.outcome, report.candidate) == ("nothing", None)
    assert report.because == "Nothing that went wrong was corrected, so there is nothing to learn."


def test_nothing_to_learn_says_what_the_corrections_were_rejected_for(shop: Shop) -> None:
    """If nothing passed the checks, the commonest reason is in the cycle's, with one of the values that it names."""
    for number in range(4):
        shop.ask(str(number), f"{QUESTION} {number}")
        call = {"tool": "search", "args": {"query": f"made up {number}"}}
        shop.loop.feedback(thread=str(number), score=-1, correction=call, by=f"user-{number}")
    because = shop.loop.cycle().because
    assert because.startswith("4 of 4 corrections were rejected, so there is nothing to learn; 4 of them for a reason")
    assert "The value 'made up" in because


def test_too_few_corrections_are_not_trained_on(shop: Shop) -> None:
    """One correction cannot be learned and examined at once: the cycle says so before it spends anything."""
    shop.ask("1", QUESTION)
    shop.loop.feedback(thread="1", score=-1, correction=RETURNS)
    report = shop.loop.cycle()
    assert (report.outcome, report.candidate) == ("stopped", None)
    assert "collect more" in report.because


def test_rejected_corrections_are_dismissed(shop: Shop) -> None:
    """What review rejects is not learned and not asked again."""
    shop.bad_day()
    assert shop.loop.cycle(ScriptedReviewer("reject")).outcome == "nothing"
    assert shop.loop.flagged() == ()
    assert len(shop.loop.flagged("dismissed")) == 48


def test_feedback_is_idempotent_under_its_id(shop: Shop) -> None:
    """Sending the same id twice stores it once."""
    shop.ask("1", QUESTION)
    for _ in range(2):
        shop.loop.feedback(thread="1", score=-1, feedback_id="f1")
    assert [said.feedback_id for said in shop.loop.store.feedback.all() if said.origin == "explicit"] == ["f1"]


def test_feedback_needs_a_run_that_is_there(shop: Shop) -> None:
    """An unknown run or thread is named; neither, or both, is refused."""
    with pytest.raises(NotFoundError, match="nobody"):
        shop.loop.feedback(thread="nobody", score=1)
    with pytest.raises(ConfigError, match="run id or a thread id"):
        shop.loop.feedback(score=1)
    shop.ask("1", QUESTION)
    with pytest.raises(DataError, match="score"):
        shop.loop.feedback(thread="1", score=7)


def test_rollback_with_nothing_behind_it_is_refused(shop: Shop) -> None:
    """The first release has no way back, and the pointer stays."""
    before = shop.loop.champion.release_id
    with pytest.raises(NotFoundError, match="nothing to roll back to"):
        shop.loop.rollback()
    assert shop.loop.champion.release_id == before


def test_an_unexamined_release_cannot_serve(corrected: Shop) -> None:
    """Nothing serves without a passed scorecard."""
    dataset = corrected.loop.curate()
    assert dataset is not None
    candidate = corrected.loop.train(dataset)
    with pytest.raises(IllegalMoveError, match="never examined"):
        corrected.loop.promote(candidate.release_id)


def test_an_adapter_that_changed_on_disk_does_not_serve(corrected: Shop) -> None:
    """What is loaded must be what passed: a tampered adapter is refused and the champion serves on."""
    dataset = corrected.loop.curate()
    assert dataset is not None
    candidate = corrected.loop.train(dataset)
    assert corrected.loop.evaluate(candidate).passed
    before = corrected.loop.champion.release_id
    corrected.loop.engine.unload(candidate.release_id)
    (Path(str(candidate.adapter)) / "memory.json").write_text("[]")
    with pytest.raises(EngineError, match="not the one"):
        corrected.loop.promote(candidate.release_id)
    assert corrected.loop.champion.release_id == before


def test_a_serving_process_follows_the_store(promoted: Shop, tmp_path: Path) -> None:
    """A rollback made elsewhere reaches a serving process at its next look at the pointer."""
    with LearnLoop(tmp_path / "l.db") as elsewhere:
        elsewhere.rollback()
    promoted.loop.follow()
    assert promoted.ask("later", QUESTION) == "I do not know."


def test_what_serves_already_is_not_promoted_again(promoted: Shop) -> None:
    """It serves on, and nothing is logged."""
    before, champion = promoted.loop.log(), promoted.loop.champion
    assert promoted.loop.promote(champion.release_id[:8]) == champion
    assert promoted.loop.log() == before


def test_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    """Each sentence names the call that is missing."""
    with LearnLoop(tmp_path / "l.db") as loop:
        for name in ("engine", "live"):
            with pytest.raises(ConfigError, match=r"call loop\.model\(engine\) first"):
                getattr(loop, name)
        with pytest.raises(NotFoundError, match=r"loop\.evaluate\(release\) does"):
            loop.report()
        with pytest.raises(NotFoundError, match="No cycle is open"):
            loop.review(())


def test_a_cycle_without_an_agent_says_what_is_missing(tmp_path: Path) -> None:
    """A loop that only looks cannot walk."""
    with LearnLoop(tmp_path / "l.db") as loop, pytest.raises(ConfigError, match=r"loop\.model"):
        loop.cycle()


def test_a_second_engine_start_serves_the_champion(promoted: Shop) -> None:
    """After a restart the promoted release serves, not the base."""
    assert promoted.ask("new", QUESTION) == RETURNS


def test_memory_engine_refuses_what_is_not_loaded() -> None:
    """The fake engine keeps the port's promise."""
    from langgraph_learnloop.records import Generation, Message

    with pytest.raises(EngineError, match="not loaded"):
        MemoryEngine().generate(Generation(release_id="x", messages=(Message(role="user", content="q"),)))
