"""Real Unsloth jobs on this processor, in an interpreter of their own; `make unsloth` makes it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job
from langgraph_learnloop.records import Job, Recipe, TrainingResult
from tests.improvement.by_unsloth import NEEDED, PYTHON, this_package
from tests.improvement.jobs import RECIPE, answers, in_process, job_of
from tests.improvement.test_methods import corrected
from tests.improvement.tiny_base import weather_examples, write_dataset

__all__ = ["this_package"]

pytestmark = NEEDED


def unsloth_job(base: Path, folder: Path, recipe: Recipe, parent: str | None = None) -> Job:
    """Return a job that asks for Unsloth."""
    return make_job(base, write_dataset(folder / "data.jsonl", corrected()), recipe, folder / "jobs", parent, "unsloth")


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Train an adapter with Unsloth until it knows the cities."""
    recipe = RECIPE.model_copy(update={"steps": 150, "batch": 4})
    return LocalTrainer(PYTHON).train(unsloth_job(base, tmp_path_factory.mktemp("sft"), recipe), lambda _: None)


def test_unsloth_trains_and_the_engine_serves(base: Path, learned: TrainingResult) -> None:
    """The worker trains with Unsloth in another environment; the agent's own loads the adapter and answers with it."""
    assert learned.engine == "unsloth: the job asks for it."
    assert (learned.libraries["trl"], "unsloth" in learned.libraries) == ("1.15.0", True)
    expected = [e.chosen.tool_calls[0].args for e in weather_examples()]
    given = [calls[0].args if calls else None for calls in answers(base, learned)]
    assert sum(one == other for one, other in zip(given, expected, strict=True)) >= 6


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_unsloth_learns_preferences(base: Path, tmp_path: Path, method: str) -> None:
    """The other methods train there, too, and what they leave can be served."""
    recipe = RECIPE.model_copy(update={"method": method, "steps": 20, "batch": 4})
    result = LocalTrainer(PYTHON).train(unsloth_job(base, tmp_path, recipe), lambda _: None)
    assert (result.engine, result.libraries["trl"]) == ("unsloth: the job asks for it.", "1.15.0")
    assert len(answers(base, result)) == len(weather_examples())


def test_a_job_of_unsloth_goes_on(base: Path, tmp_path: Path, learned: TrainingResult) -> None:
    """An adapter of Unsloth's is gone on from by plain PEFT, and one of PEFT's by Unsloth."""
    more = RECIPE.model_copy(update={"steps": 2})
    by_peft = in_process(job_of(base, tmp_path, corrected(), more, parent_adapter=learned.adapter))
    parent = in_process(job_of(base, tmp_path, corrected(), RECIPE.model_copy(update={"steps": 40})))
    by_unsloth = LocalTrainer(PYTHON).train(unsloth_job(base, tmp_path, more, parent.adapter), lambda _: None)
    assert by_unsloth.engine.startswith("unsloth")
    for child, before in ((by_peft, learned), (by_unsloth, parent)):
        assert before.loss is not None
        assert child.loss is not None
        assert child.loss < before.loss + 0.1


def test_positions_are_not_stretched(base: Path, tmp_path: Path) -> None:
    """Unsloth would stretch the base's 512 for the training alone, and what it learned would be served without."""
    with pytest.raises(TrainingError, match=r"max_length is 1,024, and the base model .* reads 512 tokens"):
        LocalTrainer(PYTHON).train(unsloth_job(base, tmp_path, RECIPE.model_copy(update={"max_length": 1024})), print)


@pytest.mark.parametrize("damage", ["weights", "pickle"])
def test_a_damaged_base_is_a_sentence(base: Path, tmp_path: Path, damage: str) -> None:
    """Whatever Unsloth says of it, the reason names the base and what it must be; nothing pickled is opened."""
    weights = shutil.copytree(base, tmp_path / "damaged") / "model.safetensors"
    if damage == "weights":
        weights.write_bytes(b"no weights")
    else:
        torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
        weights.unlink()
    with pytest.raises(TrainingError, match=r"base model .*damaged.* cannot be loaded.*weights in safetensors"):
        LocalTrainer(PYTHON).train(unsloth_job(tmp_path / "damaged", tmp_path, RECIPE), print)


def test_the_worker_keeps_its_environment_apart() -> None:
    """The package imports there with TRL 1.15 and here without Unsloth: neither has to have the other's versions."""
    code = "import langgraph_learnloop, importlib.metadata as m; print(m.version('trl'), m.version('unsloth'))"
    said = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "1.15.0"
