"""See that an adapter is its release's and fits the base, which vLLM does not. A part of `vllm_engine`."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import CONFIG, WEIGHTS
from langgraph_learnloop.records import Release
from langgraph_learnloop.texts import one_line

_LARGEST_HEADER = 100_000_000
"""Bytes; no safetensors file has a longer one."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of weights whose shape is that of the layer; quantised ones are packed."""
_AGAIN = "Train the release again, or take another."
_ITS_BASE = "Serve the base that it was trained on, or train it again on this one."
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def check_adapter(release: Release, base: Path) -> Path:
    """Return the folder of a release's adapter; raise EngineError for one that is another or does not fit the base."""
    folder = Path(os.path.abspath(str(release.adapter)))
    who = f"The adapter of release {release.release_id!r} in {str(folder)!r}"
    try:
        found = file_sha256(folder / WEIGHTS)
        json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise EngineError(f"{who} cannot be read: {one_line(error)}. {_AGAIN}") from error
    if found != release.adapter_sha256:
        raise EngineError(
            f"{who} has SHA-256 {found[:12]}..., but the release names {str(release.adapter_sha256)[:12]}...: "
            "the file was changed; train it again."
        )
    if (misfit := _misfit(_shapes(folder / WEIGHTS), _layers(base))) is not None:
        raise EngineError(f"{who} does not fit {str(base)!r}: {misfit}. {_ITS_BASE}")
    return folder


def _shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of a safetensors file's weights by name, of those that are not packed."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, _LARGEST_HEADER)))
        return {name: list(about["shape"]) for name, about in header.items() if about.get("dtype") in _FLOATS}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        raise EngineError(f"{str(file)!r} cannot be read as safetensors: {one_line(error)}. {_AGAIN}") from error


def _layers(base: Path) -> dict[str, list[int]]:
    """Return the shapes of a base's layers, as far as it is a folder on this machine: else none is known."""
    shapes = [_shapes(file) for file in sorted(base.glob("*.safetensors"))] if base.is_dir() else []
    return {name.removesuffix(".weight"): shape for one in shapes for name, shape in one.items()}


def _misfit(adapter: dict[str, list[int]], layers: dict[str, list[int]]) -> str | None:
    """Return why an adapter is not one of these layers, or None where nothing speaks against it.

    `lora_A` is rank x in, `lora_B` out x rank. A layer that the base has nowhere may have another name there.
    """
    kinds = {_NUMBER.sub("*", layer) for layer in layers}
    for key, shape in adapter.items():
        layer, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        if side not in ("A.weight", "B.weight") or len(shape) != 2:
            continue
        width = shape[1] if side == "A.weight" else shape[0]
        if layer in layers and width not in layers[layer]:
            return f"{key!r} is for a layer of width {width}, and the base's has the shape {layers[layer]}"
        if layer not in layers and _NUMBER.sub("*", layer) in kinds:
            return f"the base has no layer {layer!r}"
    return None
