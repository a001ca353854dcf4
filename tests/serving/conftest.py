"""A tiny real base model with two adapters, made once for all serving tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from langgraph_learnloop.records import Release

if TYPE_CHECKING:
    from langgraph_learnloop.serving.local_engine import LocalEngine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Models(NamedTuple):
    """Releases of one tiny base."""

    base: Release
    one: Release
    two: Release


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Make a base and two adapters that answer differently."""
    import torch

    from tests.improvement.tiny_base import make_base

    torch.set_num_threads(1)  # as the engine does: threads that wait for each other take far longer on a busy machine
    folder = tmp_path_factory.mktemp("models")
    base = str(make_base(folder / "base"))
    return Models(Release(base_model=base, made_at=NOW), *(make_release(base, folder, seed) for seed in (1, 2)))


def make_release(base: str, folder: Path, seed: int) -> Release:
    """Write an adapter with random weights and return its release."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapter = folder / f"adapter-{seed}"
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    return Release(base_model=base, adapter=str(adapter), adapter_sha256=digest, made_at=NOW)


@pytest.fixture(params=["merged", "beside", "apart"])
def adapters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Say how adapters are held: merged into copies of a small base, beside the weights of a large one, or each apart.

    The last is for adapters of another kind than the plain one.
    """
    if request.param != "merged":
        monkeypatch.setattr("langgraph_learnloop.serving.weights.SMALL", 0)
    if request.param == "apart":
        monkeypatch.setattr("langgraph_learnloop.serving.weights.plain_pairs", lambda model, release_id: None)
    return request.param


@pytest.fixture
def engine(models: Models, adapters: str) -> Iterator[LocalEngine]:
    """Give an engine that holds all three releases."""
    from langgraph_learnloop.serving.local_engine import LocalEngine

    made = LocalEngine(models.base.base_model)
    for release in models:
        made.load(release)
    yield made
    made.close()
