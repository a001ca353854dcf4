"""Put an adapter on a base model; keep, put back and weaken its weights; heavy, for the training worker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_learnloop.jobs import unreadable
from langgraph_learnloop.records import Job, Recipe

TRAINED = "default"
"""Name of the adapter that is trained."""


def load(job: Job) -> tuple[Any, Any]:
    """Return the base model with a LoRA adapter on it, and its tokenizer; raise TrainingError when one is broken."""
    local = Path(job.base_model).is_dir()
    torch.manual_seed(job.recipe.seed)  # the adapter's first weights are drawn here
    try:
        tokenizer = AutoTokenizer.from_pretrained(job.base_model, local_files_only=local)
        base = AutoModelForCausalLM.from_pretrained(
            job.base_model, local_files_only=local, use_safetensors=True, **_precision(job.recipe)
        )
        if job.parent_adapter is not None:
            return PeftModel.from_pretrained(base, job.parent_adapter, is_trainable=True), tokenizer
    except Exception as error:
        raise unreadable(job, error) from error
    return get_peft_model(base, _lora(job.recipe)), tokenizer


def _precision(recipe: Recipe) -> dict[str, Any]:
    if not recipe.four_bit:
        return {"dtype": torch.bfloat16 if torch.cuda.is_available() and bf16() else torch.float32}
    from transformers import BitsAndBytesConfig

    settings: Any = BitsAndBytesConfig
    return {"quantization_config": settings(load_in_4bit=True, bnb_4bit_quant_type="nf4")}


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=list(recipe.targets) or "all-linear",
        use_rslora=recipe.rslora,
        use_dora=recipe.dora,
        task_type="CAUSAL_LM",
    )


def bf16() -> bool:
    """Return whether bf16 is worth it here: without instructions for it, it is emulated, and slower.

    Unsloth loads a model as float16 on such a GPU (T4, V100), and refuses to train it as bf16.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights that a job changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def copied(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of the weights that a job changes, by name."""
    return {name: value.detach().clone() for name, value in trained(model).items()}


def put_back(model: Any, copies: Mapping[str, torch.Tensor]) -> None:
    """Give weights the values of their copies."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in copies:
                value.copy_(copies[name])


def weaken(model: Any, strength: float) -> None:
    """Multiply what the adapter adds by `strength`, in its weights, so that every server does the same."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and f".{TRAINED}." in name:
                weight.mul_(strength)
