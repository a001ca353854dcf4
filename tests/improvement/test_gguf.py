"""A GGUF file by Unsloth and a real llama.cpp; `make unsloth` and `make llama.cpp` make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.job import merged
from tests.improvement.by_unsloth import NEEDED, PYTHON, ROOT, this_package
from tests.improvement.jobs import RECIPE, in_process, job_of
from tests.improvement.tiny_base import make_base, weather_examples

__all__ = ["this_package"]

LLAMA_CPP = Path(os.environ.get("UNSLOTH_LLAMA_CPP_PATH", ROOT / ".llama.cpp"))
pytestmark = NEEDED


@pytest.fixture(scope="module")
def learned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a little, here: any adapter will do."""
    job = job_of(base, tmp_path_factory.mktemp("job"), weather_examples(), RECIPE.model_copy(update={"steps": 5}))
    return str(in_process(job).adapter)


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


def test_what_llama_cpp_does_not_know_is_a_sentence(base: Path, learned: str, llama_cpp: Path, tmp_path: Path) -> None:
    """The converter's own reason is told, not its traceback; no folder looks like a model."""
    with pytest.raises(TrainingError, match=r"GGUF file as 'q8_0': .*BPE pre-tokenizer was not recognized.*--gguf"):
        merged(str(base), learned, tmp_path / "model", PYTHON, gguf="q8_0")
    assert not list(tmp_path.iterdir())


def test_nothing_is_installed_unasked(
    base: Path, learned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a llama.cpp Unsloth would fetch one, and the system's packages to build it with."""
    monkeypatch.setenv("UNSLOTH_LLAMA_CPP_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(TrainingError, match=r"nowhere' does not exist.*UNSLOTH_LLAMA_CPP_PATH"):
        merged(str(base), learned, tmp_path / "model", PYTHON, gguf="q8_0")
    assert not list(tmp_path.iterdir())
