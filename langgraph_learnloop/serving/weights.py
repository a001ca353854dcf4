"""Load base models and adapters, and refuse what is damaged, foreign or changed; heavy, for the in-process engine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import WEIGHTS
from langgraph_learnloop.records import Release
from langgraph_learnloop.serving.row_adapters import Pairs, RowAdapters, plain_pairs, shell, touches_words

SMALL = 50_000_000
"""Parameters below which one thread is best (several wait for each other, ten times as long when the cores are busy),
and a copy of the base with an adapter merged into it: one beside the weights costs up to a quarter of a step."""


class ReleaseModels:
    """Hold a base and the releases that speak through it.

    Releases without an adapter, or with a plain one, may speak in one batch. While a batch is of one release only, a
    small model has a copy in which the adapter is merged. An adapter of another kind (DoRA, say) has a model of its own
    and no batch with others; of a large base that is a model that shares the base's weights.
    """

    def __init__(self, base: Any, name: str) -> None:
        self.small = base.num_parameters() < SMALL
        self._base = base
        self._name = name
        self._rows = RowAdapters(base)
        self._alone: dict[str, Any] = {}

    def add(self, release: Release) -> None:
        """Make a release ready; those who speak meanwhile are not disturbed. Raise EngineError if it does not fit."""
        release_id = release.release_id
        if release.adapter is None:
            if self._rows.fits({}):
                self._rows.add(release_id, {})
            self._alone[release_id] = self._base
            return
        pairs, alone = self._adapted(checked_adapter(release), release_id)
        if pairs is not None:
            self._rows.add(release_id, pairs)
        if alone is not None:
            self._alone[release_id] = alone

    def drop(self, release_id: str) -> None:
        """Forget a release that nobody speaks for any more; in the thread that runs the models."""
        self._alone.pop(release_id, None)
        self._rows.drop(release_id)

    @property
    def plain(self) -> bool:
        """Tell whether several prompts that were read apart can be answered together."""
        return bool(self._rows.able)

    def group(self, release_id: str) -> str:
        """Return what releases that may speak in one batch have in common."""
        return "" if release_id in self._rows else release_id

    def model(self, rows: tuple[str, ...]) -> Any:
        """Return the model that speaks for each row's release; in the thread that runs the models."""
        if len(set(rows)) == 1 and rows[0] in self._alone:
            return self._alone[rows[0]]
        return self._rows.model(rows)

    def _adapted(self, folder: str, release_id: str) -> tuple[Pairs | None, Any]:
        """Return what an adapter adds to a row, if it is as plain as that, and its own model, if it has one."""
        try:
            model = adapted(copy.deepcopy(self._base) if self.small else shell(self._base), folder, release_id)
            found = plain_pairs(model, release_id)
            pairs = found if self._rows.fits(found) else None
            if self.small and not touches_words(model):
                return pairs, model.merge_and_unload()
        except Exception as error:  # one sentence of the many ways in which damaged and foreign adapters fail
            raise EngineError(
                f"The adapter of release {release_id!r} in {folder!r} does not fit {self._name!r}: {error}. "
                "Serve the base that it was trained on, or train it again on this one."
            ) from error
        return pairs, None if pairs is not None else model.eval()


def load_base(base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a base's tokenizer and model, on the GPU if there is one; raise EngineError when it cannot serve."""
    local = Path(base).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=local)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, local_files_only=local, use_safetensors=True, dtype=dtype
        )
    except Exception as error:  # four libraries, one sentence
        raise EngineError(
            f"The base model {base!r} cannot be loaded: {error}. "
            "It must be a folder with config.json, a tokenizer and weights in safetensors, or a name on the hub."
        ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(f"The tokenizer of {base!r} has no chat template: add chat_template.jinja to its folder.")
    tokenizer("", padding=False, truncation=False)  # drops settings of the file now, while no other thread reads it
    model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    return tokenizer, model


def end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    """Return the ids that end an answer: end tokens of model and tokenizer, and the padding token."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*several, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None)


def checked_adapter(release: Release) -> str:
    """Return the adapter's folder when its weights are the ones that the release names."""
    file = Path(str(release.adapter)) / WEIGHTS
    try:
        found = file_sha256(file)
    except OSError as error:
        raise EngineError(
            f"The adapter of release {release.release_id!r} cannot be read: {str(file)!r}, {error.strerror}. "
            "Train it again, or take another release."
        ) from error
    if found != release.adapter_sha256:
        raise EngineError(
            f"The adapter of release {release.release_id!r} in {str(file)!r} has SHA-256 {found[:12]}..., "
            f"but the release names {str(release.adapter_sha256)[:12]}...: the file was changed; train it again."
        )
    return str(file.parent)


def adapted(model: Any, folder: str, release_id: str) -> Any:
    """Return a model with an adapter, every weight of which found its place; its layers are replaced in place."""
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    wrapped = get_peft_model(model, config, adapter_name=release_id)
    loaded = wrapped.load_adapter(folder, adapter_name=release_id)
    if strange := [*loaded.missing_keys, *loaded.unexpected_keys]:
        raise ValueError(f"{len(strange)} weights do not match, for instance {strange[0]!r}")
    return wrapped
