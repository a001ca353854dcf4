"""A small search over recipes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.improvement.lora.adapters import load
from langgraph_learnloop.improvement.lora.loop import train
from langgraph_learnloop.improvement.lora.search import search, validated
from langgraph_learnloop.records import Recipe, TrainingResult, Trial
from tests.improvement.jobs import RECIPE, job_of
from tests.improvement.tiny_base import weather_examples

CONFIGURED = Recipe(rank=16, alpha=32, learning_rate=1e-3, steps=100, replay=2.0)


def result(recipe: Recipe, **validation: float) -> TrainingResult:
    """Return what a job would leave."""
    return TrainingResult(
        adapter="a", adapter_sha256="b", engine="e", examples=1, steps=recipe.steps, loss=1.0, tokens=1, seconds=1.0,
        validation=validation,
    )  # fmt: skip


def valley(recipe: Recipe) -> TrainingResult:
    """Be best at rank 32 and twice the configured rate; forget with little replay."""
    away = abs(math.log2(recipe.rank / 32)) + abs(math.log2(recipe.learning_rate / 2e-3))
    return result(recipe, new=0.1 + 0.1 * away, old=0.2 / max(recipe.replay, 0.5))


def test_the_best_recipe_comes_first() -> None:
    """The configured one is tried first; what is found is at least as good, and the adapter's scale stays."""
    seen: list[Trial] = []
    found = search(CONFIGURED, valley, trials=15, on_trial=seen.append)
    assert seen[0].recipe == CONFIGURED
    assert len(seen) == len(found) == 15
    assert found[0].score == min(trial.score for trial in seen) < seen[0].score
    assert all(trial.recipe.alpha == 2 * trial.recipe.rank for trial in found)
    assert [t.score for t in found] == sorted(t.score for t in found)


def test_a_search_is_the_same_again() -> None:
    """A killed search finds its finished jobs: the same recipes are proposed."""
    first, again = (search(CONFIGURED, valley, trials=6) for _ in range(2))
    assert [trial.recipe for trial in first] == [trial.recipe for trial in again]


def test_failed_trials_are_passed_over() -> None:
    """One that ran out of memory is in the list, last; when all fail, that is the error."""

    def small_only(recipe: Recipe) -> TrainingResult:
        if recipe.rank > 16:
            raise TrainingError("There is not enough memory.")
        return valley(recipe)

    found = search(CONFIGURED, small_only, trials=12)
    assert found[0].failed is None
    assert found[-1].failed == "There is not enough memory."
    with pytest.raises(
        TrainingError, match="None of 3 trials came to an end; the first one said: The trainer measured"
    ):
        search(CONFIGURED, result, trials=3)


def test_time_is_a_budget() -> None:
    """The first trial is made whatever it takes; no other begins when the time is over."""
    assert len(search(CONFIGURED, valley, trials=50, minutes=1e-9)) == 1


def test_a_share_is_kept_aside_by_group() -> None:
    """Groups stay whole, and a variation of what is kept aside is in neither part."""
    examples = [
        e.model_copy(update={"group": str(number % 20), "origin": "variation" if number >= 60 else e.origin})
        for number, e in enumerate(weather_examples() * 10)
    ]
    divided = validated(examples, 0.3)
    sides = {side: {e.group for e in divided if e.split == side} for side in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    assert 1 <= len(sides["validation"]) <= 12
    assert {e.origin for e in divided if e.split == "validation"} == {"correction"}
    assert validated(examples, 0.0) == examples


def test_the_loss_on_what_was_kept_aside_is_measured(base: Path, tmp_path: Path) -> None:
    """A real job tells it for new and old examples; what it learned it is sure of, what it never saw it is not."""
    job = job_of(base, tmp_path, weather_examples()[:6], RECIPE)
    aside = [weather_examples()[0], weather_examples()[7].model_copy(update={"origin": "replay"})]
    found = train(
        job, draw(read_examples(job.dataset), job.recipe), *load(job), engine="e", tell=lambda _: None, aside=aside
    ).validation
    assert found["new"] < 0.2 < found["old"]
