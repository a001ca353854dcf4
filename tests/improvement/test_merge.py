"""One model of a base and an adapter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.job import merged
from langgraph_learnloop.improvement.lora.merge import main, need_llama_cpp
from langgraph_learnloop.jobs import WEIGHTS
from tests.improvement.jobs import RECIPE, in_process, job_of
from tests.improvement.tiny_base import weather_examples


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a little."""
    job = job_of(base, tmp_path_factory.mktemp("job"), weather_examples(), RECIPE.model_copy(update={"steps": 10}))
    return Path(str(in_process(job).adapter))


def test_a_merged_model_says_the_same(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Its logits are those of base and adapter; its files are safetensors and the tokenizer's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = merged(str(base), str(adapter), tmp_path / "model")
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]
    ids = AutoTokenizer.from_pretrained(folder)("weather in oslo", return_tensors="pt")["input_ids"]
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    with torch.no_grad():
        one, two = (model(ids).logits for model in (AutoModelForCausalLM.from_pretrained(folder), beside))
    assert torch.allclose(one, two, atol=1e-4)


def test_the_process_writes_what_is_written_here(base: Path, adapter: Path, tmp_path: Path) -> None:
    """It ends with 0 when the model is in its place; what cannot be written is a sentence, too."""
    assert main(["merge", str(base), str(adapter), str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").exists()
    (tmp_path / "file").write_text("in the way")
    assert main(["merge", str(base), str(adapter), str(tmp_path / "file" / "model")]) == 1


def test_a_folder_that_is_there_stays(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Nothing is written over."""
    (tmp_path / "mine").mkdir()
    with pytest.raises(TrainingError, match="mine' is there already"):
        merged(str(base), str(adapter), tmp_path / "mine")


def test_a_damaged_adapter_leaves_nothing(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is a sentence, the last one on standard error, and no folder looks like a model."""
    (tmp_path / "broken").mkdir()
    for file in adapter.iterdir():
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken" / WEIGHTS).write_bytes(b"no")
    assert main(["merge", str(base), str(tmp_path / "broken"), str(tmp_path / "model")]) == 1
    assert "could not be merged" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_gguf_file_needs_unsloth(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Without it the error names the way out."""
    with pytest.raises(TrainingError, match=r"written with Unsloth.*train_python"):
        merged(str(base), str(adapter), tmp_path / "model", gguf="q4_k_m")


def test_unsloth_may_fetch_llama_cpp_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a llama.cpp must be there, and Unsloth is told to leave the machine as it is."""

    def check() -> None:
        raise RuntimeError("llama.cpp folder 'x' does not exist.\nand more")

    monkeypatch.setenv("UNSLOTH_AUTO_INSTALL", "1")
    need_llama_cpp(check)
    monkeypatch.delenv("UNSLOTH_AUTO_INSTALL")
    with pytest.raises(TrainingError, match=r"programs \(llama.cpp folder 'x' does not exist\): set"):
        need_llama_cpp(check)
    assert os.environ["UNSLOTH_AUTO_INSTALL"] == "0"
