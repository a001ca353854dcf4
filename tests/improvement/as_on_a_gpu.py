"""Run a training job by the code that Unsloth has for GPUs, on a processor: `as_on_a_gpu.py job.json`.

Unsloth's own tests come that far (UNSLOTH_ALLOW_CPU), and Triton interprets its kernels. What is missing is a device:
here PyTorch tells of one, and puts on the processor what is meant for it. All of it in float32, which is exact.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

os.environ |= {"UNSLOTH_ALLOW_CPU": "1", "TRITON_INTERPRET": "1"}

import torch
from torch.overrides import TorchFunctionMode

from langgraph_learnloop.improvement.lora import worker

PROCESSOR = torch.device("cpu")


class Card(nullcontext):
    """What is asked of a device, and of a block that runs on it."""

    name, major, minor, total_memory, multi_processor_count, idx = "none", 9, 0, 80 << 30, 132, 0


def on_the_processor(device: Any) -> Any:
    """Return the processor for what names a GPU: an index, "cuda:0" or a device."""
    a_gpu = type(device) is int or (isinstance(device, str | torch.device) and str(device).startswith("cuda"))
    return PROCESSOR if a_gpu else device


class OnTheProcessor(TorchFunctionMode):
    """Puts what PyTorch makes and moves on the processor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func` without a GPU."""
        given = dict(kwargs or {})
        if "device" in given:
            given["device"] = on_the_processor(given["device"])
        if func is torch.device:
            return torch.device(on_the_processor(args[0]), *args[1:])
        if func is torch.Tensor.to:
            args = (args[0], *map(on_the_processor, args[1:]))
        return func(*args, **given)


class ByDevice(list[Any]):
    """A list by the index of a device, which is None for the processor."""

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(at or 0)

    def __setitem__(self, at: Any, value: Any) -> None:
        super().__setitem__(at or 0, value)


def pretend() -> None:
    """Have PyTorch tell of one card."""
    stream = SimpleNamespace(cuda_stream=0, wait_stream=lambda *_: None, wait_event=lambda *_: None)
    facts = {
        "get_device_properties": Card(),
        "get_device_capability": (9, 0),
        "current_device": 0,
        "device_count": 1,
        "mem_get_info": (70 << 30, 80 << 30),
        "current_stream": stream,
    }
    for name, fact in facts.items():
        setattr(torch.cuda, name, lambda *_, _fact=fact, **__: _fact)
    for name in ("empty_cache", "synchronize", "ipc_collect", "reset_peak_memory_stats"):
        setattr(torch.cuda, name, lambda *_, **__: None)
    torch.cuda.device = Card  # type: ignore[assignment, misc]
    torch._C._cuda_getCurrentRawStream = lambda *_: 0  # type: ignore[attr-defined]
    OnTheProcessor().__enter__()


def unsloth_for_gpus() -> None:
    """Import Unsloth as for a GPU, its trainers included, which it leaves as they are when it has none."""
    import unsloth
    from transformers import PreTrainedModel
    from unsloth.models import llama, rl

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    rl.PatchFastRL(FastLanguageModel=llama.FastLlamaModel)
    load, load_base = unsloth.FastLanguageModel.from_pretrained, PreTrainedModel.from_pretrained.__func__
    unsloth.FastLanguageModel.from_pretrained = staticmethod(lambda **given: load(dtype=torch.float32, **given))
    PreTrainedModel.from_pretrained = classmethod(
        lambda cls, *args, **given: load_base(cls, *args, **given | {"device_map": "cpu"})
    )
    for kind in vars(llama).values():
        if isinstance(kind, type) and "_ensure_rope_cache" in vars(kind):
            kind._ensure_rope_cache = by_device(kind._ensure_rope_cache)


def by_device(ensure: Any) -> Any:
    """Return Unsloth's method with tables that can be asked by the processor's index."""

    def ensured(self: Any, device_index: int | None) -> Any:
        for name, table in list(vars(self).items()):
            if type(table) is list:
                setattr(self, name, ByDevice(table))
        return ensure(self, device_index or 0)

    return ensured


def imported(name: str) -> Any:
    """Import a part of the worker, Unsloth's first; without a GPU a job would neither checkpoint nor leave bf16 off."""
    part = importlib.import_module(name)
    if name == worker.UNSLOTH:
        part.write_elsewhere()
        unsloth_for_gpus()
    if name == worker.LOOP:
        from langgraph_learnloop.improvement.lora import trainers

        settings = trainers.settings_for

        def as_with_one(*given: Any) -> Any:
            made = settings(*given)
            made.gradient_checkpointing, made.bf16 = True, False
            return made

        part.settings_for = as_with_one
    return part


if __name__ == "__main__":
    pretend()
    worker.importlib = SimpleNamespace(import_module=imported, util=importlib.util)  # type: ignore[assignment]
    sys.exit(worker.main(["worker", sys.argv[1], "--alone"]))
