"""Load a base model with a LoRA adapter through Unsloth; for the training worker, and nobody else.

Importing Unsloth patches trl, transformers and peft, so it happens inside the function, before they are imported.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from typing import Any

from langgraph_learnloop.errors import MissingExtraError, TrainingError
from langgraph_learnloop.jobs import unreadable
from langgraph_learnloop.records import Job


def load(job: Job) -> tuple[Any, Any]:
    """Return (model with a trainable LoRA adapter, tokenizer); raise MissingExtraError without Unsloth.

    Raise TrainingError where the recipe's rows may be longer than what the base can read.
    """
    write_elsewhere()
    try:
        from unsloth import FastLanguageModel
    except ImportError as error:
        raise MissingExtraError(
            f"Job {job.job_id!r} asks for Unsloth, which cannot be imported ({error}): "
            'pip install "langgraph-learnloop[unsloth]", or set the job\'s engine to "peft".'
        ) from error
    recipe = job.recipe
    _check_positions(job)
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=job.parent_adapter or job.base_model,  # a saved adapter brings its base along
            # It cuts what is longer, and batches are padded to a multiple of 8.
            max_seq_length=math.ceil(recipe.max_length / 8) * 8,
            load_in_4bit=recipe.four_bit,
            use_safetensors=True,  # left to itself it opens pickled weights, too
        )
    except Exception as error:
        raise unreadable(job, error) from error
    if job.parent_adapter is None:
        chosen = {"target_modules": list(recipe.targets)} if recipe.targets else {}  # Unsloth's own are the linear ones
        model = FastLanguageModel.get_peft_model(
            model,
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            use_rslora=recipe.rslora,
            use_dora=recipe.dora,
            random_state=recipe.seed,
            **chosen,
        )
    return FastLanguageModel.for_training(model) or model, tokenizer


def _check_positions(job: Job) -> None:
    """Raise TrainingError where rows may be longer than what the base reads: Unsloth would stretch it, no server."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(job.base_model).get_text_config()
    except Exception as error:
        raise unreadable(job, error) from error
    positions, longest = getattr(config, "max_position_embeddings", None), job.recipe.max_length
    if positions is not None and longest > positions:
        raise TrainingError(
            f"The recipe's max_length is {longest:,}, and the base model {job.base_model!r} reads {positions:,} "
            f"tokens: set max_length to {positions:,} or less."
        )


def write_elsewhere() -> None:
    """Let Unsloth write in a folder of its own, which goes with the process, the trainers that it makes of TRL's.

    On a GPU it writes and imports them; left to itself it does so in whatever folder the agent works in.
    """
    if "UNSLOTH_COMPILE_LOCATION" not in os.environ:
        os.environ["UNSLOTH_COMPILE_LOCATION"] = written = tempfile.mkdtemp(prefix="unsloth-")
        atexit.register(shutil.rmtree, written, ignore_errors=True)
