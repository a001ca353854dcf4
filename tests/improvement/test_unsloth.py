"""Real Unsloth jobs on this processor, in an interpreter of their own; `make unsloth` makes it."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job
from langgraph_learnloop.records import Generation, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine
from tests.improvement.jobs import RECIPE
from tests.improvement.test_methods import corrected
from tests.improvement.tiny_base import weather_examples, write_dataset

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("UNSLOTH_PYTHON", str(ROOT / ".venv-unsloth" / "bin" / "python"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with Unsloth: `make unsloth` makes it"),
]


@pytest.fixture(autouse=True)
def _this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker run the package that is tested."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_unsloth_trains_and_the_engine_serves(base: Path, tmp_path: Path, method: str) -> None:
    """The worker trains with Unsloth in another environment; the agent's own loads the adapter and answers with it."""
    recipe = RECIPE.model_copy(update={"method": method, "steps": 60 if method != "sft" else 150, "batch": 4})
    job = make_job(
        base, write_dataset(tmp_path / "data.jsonl", corrected()), recipe, tmp_path / "jobs", None, "unsloth"
    )
    result = LocalTrainer(PYTHON).train(job, lambda _: None)
    assert result.engine == "unsloth: the job asks for it."
    assert (result.libraries["trl"], "unsloth" in result.libraries) == ("1.15.0", True)
    release = Release(
        base_model=str(base),
        adapter=result.adapter,
        adapter_sha256=result.adapter_sha256,
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    engine = LocalEngine(base)
    engine.load(release)
    asked = [
        Generation(release_id=release.release_id, messages=e.messages, sampling=Sampling(max_tokens=40))
        for e in weather_examples()
    ]
    calls = [engine.generate(one).message.tool_calls for one in asked]
    engine.close()
    if method == "sft":
        right = sum(
            bool(c) and c[0].args == e.chosen.tool_calls[0].args for c, e in zip(calls, weather_examples(), strict=True)
        )
        assert right >= 6


def test_a_job_of_unsloth_goes_on(base: Path, tmp_path: Path) -> None:
    """An adapter of Unsloth's is gone on from by plain PEFT, and one of PEFT's by Unsloth."""
    dataset = write_dataset(tmp_path / "data.jsonl", weather_examples())
    recipe = RECIPE.model_copy(update={"steps": 40})
    for first, second in (("unsloth", "peft"), ("peft", "unsloth")):
        parent = LocalTrainer(PYTHON).train(
            make_job(base, dataset, recipe, tmp_path / first, None, first),
            lambda _: None,  # type: ignore[arg-type]
        )
        more = recipe.model_copy(update={"steps": 2})
        child = LocalTrainer(PYTHON).train(
            make_job(base, dataset, more, tmp_path / first, parent.adapter, second),
            lambda _: None,  # type: ignore[arg-type]
        )
        assert child.engine.startswith(second)
        assert parent.loss is not None
        assert child.loss is not None
        assert child.loss < parent.loss + 0.1


def test_the_worker_keeps_its_environment_apart() -> None:
    """The package imports there with TRL 1.15 and here without Unsloth: neither has to have the other's versions."""
    code = "import langgraph_learnloop, importlib.metadata as m; print(m.version('trl'), m.version('unsloth'))"
    said = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "1.15.0"
