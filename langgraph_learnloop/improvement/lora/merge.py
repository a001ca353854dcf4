"""Make one model of a base and an adapter: `python -m langgraph_learnloop.improvement.lora.merge BASE ADAPTER FOLDER`.

Heavy; a process of its own, started by `merged`. With a fourth argument, a way of quantising such as q4_k_m, Unsloth
writes a GGUF file with llama.cpp's own programs; that needs an interpreter with Unsloth, and a llama.cpp.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
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
                _gguf(base, adapter, scratch, how[0])
            else:
                _merge(base, adapter, scratch)
    except LearnLoopError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"A file could not be read or written: {error}. Check the folder and the space on its disk.")
    except Exception as error:  # noqa: BLE001 - whatever form damage takes in four libraries, it is one sentence
        reason = str(error).rstrip(". ")
        return fail(f"The base {base!r} and the adapter {adapter!r} could not be merged: {reason}.")
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


def _gguf(base: str, adapter: str, folder: Path, how: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        # With a GPU it writes trainers, and imports them: not from the folder where the command was given.
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path(work, "unsloth")))
        try:
            from unsloth import FastLanguageModel
            from unsloth_zoo.llama_cpp import check_llama_cpp
        except ImportError as error:
            raise MissingExtraError(
                f"A GGUF file is written with Unsloth, which cannot be imported ({error}): name an interpreter that "
                "has it as train_python."
            ) from error
        need_llama_cpp(check_llama_cpp)
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=adapter, load_in_4bit=False, use_safetensors=True
        )
        try:
            model.save_pretrained_gguf(str(Path(work, Path(base).name)), tokenizer, quantization_method=how)
        except Exception as error:
            said = str(error).rstrip(". \n").rpartition("\n")[2]  # of a converter's traceback, the reason
            raise TrainingError(
                f"Unsloth could not write a GGUF file as {how!r}: {said}. Take another way of quantising, or merge "
                "without --gguf and convert that folder with a newer llama.cpp."
            ) from error
        written = list(Path(work).rglob("*.gguf"))  # with a GPU it puts them beside the folder that it was given
        if not written:
            raise TrainingError(f"Unsloth wrote no GGUF file as {how!r}: merge without --gguf and convert that folder.")
        for file in written:
            file.rename(folder / file.name)


def need_llama_cpp(check: Callable[[], object]) -> None:
    """Raise TrainingError without a llama.cpp, unless Unsloth may fetch one.

    It would compile it, and have the system's packages for that installed: not unasked.
    """
    if os.environ.setdefault("UNSLOTH_AUTO_INSTALL", "0") != "0":
        return
    try:
        check()
    except RuntimeError as error:
        said = str(error).partition("\n")[0].strip(". ")
        raise TrainingError(
            f"A GGUF file is written with llama.cpp's programs ({said}): set UNSLOTH_LLAMA_CPP_PATH to a folder that "
            "holds its convert_hf_to_gguf.py and llama-quantize, or UNSLOTH_AUTO_INSTALL to 1, and Unsloth fetches and "
            "builds them, system packages included."
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv))
