"""Real Unsloth jobs on this processor, in an interpreter of their own; `make unsloth` makes it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job, merged
from langgraph_learnloop.records import Generation, Job, Recipe, Release, Sampling, ToolCall, TrainingResult
from langgraph_learnloop.serving.local_engine import LocalEngine
from tests.improvement.jobs import RECIPE, in_process, job_of
from tests.improvement.test_methods import corrected
from tests.improvement.tiny_base import make_base, weather_examples, write_dataset

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("UNSLOTH_PYTHON", str(ROOT / ".venv-unsloth" / "bin" / "python"))
LLAMA_CPP = Path(os.environ.get("UNSLOTH_LLAMA_CPP_PATH", ROOT / ".llama.cpp"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with Unsloth: `make unsloth` makes it"),
]


@pytest.fixture(scope="module", autouse=True)
def _this_package() -> Iterator[None]:
    """Let the worker run the package that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


def unsloth_job(base: Path, folder: Path, recipe: Recipe, parent: str | None = None) -> Job:
    """Return a job that asks for Unsloth."""
    return make_job(base, write_dataset(folder / "data.jsonl", corrected()), recipe, folder / "jobs", parent, "unsloth")


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """Train an adapter with Unsloth until it knows the cities."""
    recipe = RECIPE.model_copy(update={"steps": 150, "batch": 4})
    return LocalTrainer(PYTHON).train(unsloth_job(base, tmp_path_factory.mktemp("sft"), recipe), lambda _: None)


def answers(base: Path, result: TrainingResult) -> list[tuple[ToolCall, ...]]:
    """Serve an adapter by the agent's own engine; return what it calls for each of the cities."""
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
    return calls


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


def test_the_worker_keeps_its_environment_apart() -> None:
    """The package imports there with TRL 1.15 and here without Unsloth: neither has to have the other's versions."""
    code = "import langgraph_learnloop, importlib.metadata as m; print(m.version('trl'), m.version('unsloth'))"
    said = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == "1.15.0"


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return llama.cpp's folder, which Unsloth then uses, and no network."""
    if not (LLAMA_CPP / "llama-quantize").exists():
        pytest.skip("no llama.cpp: `make llama.cpp` builds it")
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(LLAMA_CPP))
    monkeypatch.setenv("UNSLOTH_OFFLINE", "1")
    return LLAMA_CPP


def test_a_gguf_file_holds_the_adapter(llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What llama.cpp reads are the base's weights with what the adapter adds, and nothing else is in the folder."""
    base = make_base(tmp_path / "the base", vocabulary=500, like_llama2=True)
    adapter = str(in_process(job_of(base, tmp_path, weather_examples())).adapter)
    folder = merged(str(base), adapter, tmp_path / "a model", PYTHON, gguf="q6_k")
    assert [file.name for file in folder.iterdir()] == ["the base.Q6_K.gguf"]
    whole = merged(str(base), adapter, tmp_path / "whole")
    monkeypatch.syspath_prepend(llama_cpp / "gguf-py")
    import gguf

    name, theirs = "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"
    tensor = next(t for t in gguf.GGUFReader(folder / "the base.Q6_K.gguf").tensors if t.name == theirs)
    read = gguf.dequantize(tensor.data, tensor.tensor_type)
    right, before = (load_file(where / "model.safetensors")[name] for where in (whole, base))
    assert abs(read - right).max() < 0.1 * abs(before - right).max()


def test_what_llama_cpp_does_not_know_is_a_sentence(
    base: Path, learned: TrainingResult, llama_cpp: Path, tmp_path: Path
) -> None:
    """The converter's own reason is told, not its traceback; no folder looks like a model."""
    with pytest.raises(TrainingError, match=r"GGUF file as 'q8_0': .*BPE pre-tokenizer was not recognized.*--gguf"):
        merged(str(base), str(learned.adapter), tmp_path / "model", PYTHON, gguf="q8_0")
    assert not list(tmp_path.iterdir())


def test_nothing_is_installed_unasked(
    base: Path, learned: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a llama.cpp Unsloth would fetch one, and the system's packages to build it with."""
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(TrainingError, match=r"nowhere' does not exist.*UNSLOTH_LLAMA_CPP_PATH"):
        merged(str(base), str(learned.adapter), tmp_path / "model", PYTHON, gguf="q8_0")
    assert not list(tmp_path.iterdir())
