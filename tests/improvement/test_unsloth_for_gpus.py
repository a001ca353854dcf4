"""The code that Unsloth has for GPUs, run on this processor: `as_on_a_gpu.py` says how."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from langgraph_learnloop.improvement.lora.job import finished, make_job
from langgraph_learnloop.records import Progress
from tests.improvement.by_unsloth import NEEDED, PYTHON, this_package
from tests.improvement.jobs import RECIPE, answers, in_process
from tests.improvement.test_methods import corrected
from tests.improvement.tiny_base import make_base, weather_examples, write_dataset

__all__ = ["this_package"]

TRITON = list((Path(PYTHON).parents[1] / "lib").glob("*/site-packages/triton"))
pytestmark = [*NEEDED, pytest.mark.skipif(not TRITON, reason="Unsloth's environment has no Triton: `make unsloth`")]


@pytest.mark.parametrize(
    "changes",
    [{"kl": 1.0, "replay": 1.0, "packing": True, "max_length": 42}, {"method": "dpo", "steps": 2, "batch": 1}],
    ids=["sft", "dpo"],
)
def test_its_code_for_gpus_learns_the_same(tmp_path: Path, changes: dict[str, object]) -> None:
    """Losses are PEFT's, the adapter is served, and the folder where the agent works stays as it was.

    Rows have 42 tokens and are padded to 48, of which Unsloth must cut nothing where max_length is 42.
    """
    base = make_base(tmp_path / "base", hidden=32, layers=1)
    recipe = RECIPE.model_copy(update={"steps": 3, "batch": 2} | changes)
    examples = corrected() + ([e.model_copy(update={"origin": "replay"}) for e in corrected()] if recipe.replay else [])
    examples += [e.model_copy(update={"split": "validation"}) for e in corrected()[:2]]
    data = write_dataset(tmp_path / "data.jsonl", examples)
    job = make_job(base, data, recipe, tmp_path / "jobs", engine="unsloth")
    file, here, told = tmp_path / "job.json", tmp_path / "here", list[Progress]()
    file.write_text(job.model_dump_json())
    here.mkdir()
    script = Path(__file__).with_name("as_on_a_gpu.py")
    ran = subprocess.run([PYTHON, str(script), str(file)], cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3_000:]
    losses = [line.loss for line in map(Progress.model_validate_json, ran.stdout.splitlines()) if line.loss is not None]
    twin = in_process(job.model_copy(update={"engine": "peft", "output": str(tmp_path / "by peft")}), told.append)
    assert losses == pytest.approx([line.loss for line in told if line.loss is not None], rel=0.02)
    result = finished(job)
    assert result is not None
    assert result.validation == pytest.approx(twin.validation, rel=0.02)
    assert twin.validation
    assert len(answers(base, result)) == len(weather_examples())
    assert not list(here.iterdir())
