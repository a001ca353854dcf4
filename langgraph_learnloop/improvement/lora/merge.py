"""Make one model of a base and an adapter: `python -m langgraph_learnloop.improvement.lora.merge BASE ADAPTER FOLDER`.

Heavy; a process of its own, started by `merged`. With a fourth argument, a way of quantising such as q4_k_m, Unsloth
writes a GGUF file for llama.cpp; that needs an interpreter with Unsloth, which fetches and builds llama.cpp.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from langgraph_learnloop.errors import LearnLoopError, MissingExtraError, TrainingError
from langgraph_learnloop.files import whole_folder
from langgraph_learnloop.improvement.lora.worker import fail


def main(argv: list[str]) -> int:
    """Merge, and return the exit code; the reason of a failure is the last line on standard error."""
    base, adapter, folder, *how = argv[1:]
    try:
        with whole_folder(Path(folder)) as scratch:
            if how:
                _gguf(adapter, scratch, how[0])
            else:
                _merge(base, adapter, scratch)
    except LearnLoopError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"A file could not be read or written: {error}. Check the folder and the space on its disk.")
    except Exception as error:  # noqa: BLE001 - whatever form damage takes in four libraries, it is one sentence
        return fail(f"The base {base!r} and the adapter {adapter!r} could not be merged: {error}.")
    return 0


def _merge(base: str, adapter: str, folder: Path) -> None:
    """Write the base's weights with what the adapter adds, as safetensors, and the tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = Path(base).is_dir()
    model: Any = AutoModelForCausalLM.from_pretrained(base, local_files_only=local, use_safetensors=True, dtype="auto")
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, local_files_only=local).save_pretrained(folder)


def _gguf(adapter: str, folder: Path, how: str) -> None:
    try:
        from unsloth import FastLanguageModel
    except ImportError as error:
        raise MissingExtraError(
            f"A GGUF file is written with Unsloth, which cannot be imported ({error}): name an interpreter that has it "
            "as train_python."
        ) from error
    model, tokenizer = FastLanguageModel.from_pretrained(model_name=adapter, load_in_4bit=False)
    model.save_pretrained_gguf(str(folder), tokenizer, quantization_method=how)
    if not list(folder.glob("*.gguf")):
        raise TrainingError("Unsloth wrote no GGUF file: see what it said above.")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
