"""Train a LoRA adapter with TRL, from whatever checkpoint there is; heavy, imported by the worker process alone."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256, whole_file, whole_folder
from langgraph_learnloop.improvement.lora.adapters import TRAINED, copied, put_back, weaken
from langgraph_learnloop.improvement.lora.ewc import penalty_for
from langgraph_learnloop.improvement.lora.job import hashes, workplace
from langgraph_learnloop.improvement.lora.log import Log
from langgraph_learnloop.improvement.lora.rate import find_rate
from langgraph_learnloop.improvement.lora.rows import (
    IGNORE,
    Row,
    batches,
    in_order,
    length,
    loss_of,
    rows_of,
    tokenise,
)
from langgraph_learnloop.improvement.lora.trainers import settings_for, trainer_for
from langgraph_learnloop.jobs import RESULT, WEIGHTS, lacks_memory
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Example, Job, Progress, Recipe, TrainingResult

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TRIED = 4
"""Steps of a rehearsal."""
_ROOM = 1 << 20
"""Bytes below which a disk is full: each library says so in other words."""
_LIBRARIES = ("langgraph-learnloop", "torch", "transformers", "peft", "trl", "unsloth")


def train(
    job: Job,
    examples: Sequence[Example],
    model: Any,
    tokenizer: Any,
    *,
    engine: str,
    tell: OnProgress,
    aside: Sequence[Example] = (),
) -> TrainingResult:
    """Train on the examples and write the adapter, whole or not at all; go on from the job's checkpoint if it has one.

    The loss on the examples of `aside` is measured at the end. The checkpoint stays when the job fails, and goes when
    the adapter is written.
    """
    rows, left_out = _fitting(examples, tokenizer, job.recipe)
    if job.recipe.find_rate:
        job = _with_rate(job, rows, model, tokenizer, tell)
    recipe = job.recipe
    note = f"{len(rows)} examples" + (f", {left_out} left out as too long." if left_out else ".")
    tell(Progress(stage="train", done=0, total=recipe.steps, note=note))
    started = time.monotonic()
    log = Log(job, tell)
    resumed_at = _fit(job, model, tokenizer, examples, rows, log)
    if job.parent_adapter is None:
        weaken(model, recipe.strength)
    result = _write(
        model,
        Path(job.output),
        engine=engine,
        examples=len(rows),
        left_out=left_out,
        steps=recipe.steps,
        loss=log.loss,
        validation=_validation(model, tokenizer, aside, recipe),
        tokens=log.tokens,
        seconds=time.monotonic() - started,
        memory_mb=_peak_memory(),
        resumed_at=resumed_at,
        hashes=hashes(job),
        recipe=recipe,
        libraries=_versions(),
    )
    shutil.rmtree(workplace(job), ignore_errors=True)
    return result


def _with_rate(job: Job, rows: Sequence[Row], model: Any, tokenizer: Any, tell: OnProgress) -> Job:
    """Return the job with the rate that was found for it, now or before it was cut off."""
    kept = workplace(job) / "rate.json"
    try:
        rate = float(json.loads(kept.read_bytes()))
    except (OSError, ValueError):
        rate = find_rate(job.recipe, rows, model, _padding(tokenizer))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as beside:
            beside.write_text(json.dumps(rate), encoding="utf-8")
    note = f"The learning rate is {rate:.2g}, where the loss falls fastest ({job.recipe.learning_rate:.2g} was given)."
    tell(Progress(stage="train", done=0, total=job.recipe.steps, note=note))
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"learning_rate": rate})})


def _padding(tokenizer: Any) -> int:
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


def _validation(model: Any, tokenizer: Any, aside: Sequence[Example], recipe: Recipe) -> dict[str, float]:
    """Return the mean loss of a learned token on new and on old examples; nothing of a kind, nothing of its loss."""
    kinds = {"new": [e for e in aside if e.origin != "replay"], "old": [e for e in aside if e.origin == "replay"]}
    found: dict[str, float] = {}
    model.eval()
    for kind, examples in kinds.items():
        rows = sorted((r for r in tokenise(examples, tokenizer) if length(r) <= recipe.max_length), key=length)
        cost = tokens = 0.0
        for start in range(0, len(rows), recipe.batch):
            batch = rows[start : start + recipe.batch]
            asked = sum(label != IGNORE for row in batch for label in row["labels"][1:])
            with torch.no_grad():
                cost += float(loss_of(model, batch, 0)) * asked
            tokens += asked
        if tokens:
            found[kind] = cost / tokens
    return found


def rehearse(job: Job, examples: Sequence[Example], model: Any, tokenizer: Any) -> dict[str, Any]:
    """Try a few steps; return the fields of the job's Plan that only this can tell."""
    recipe = job.recipe
    rows, left_out = _fitting(examples, tokenizer, recipe)
    times: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            times.append(time.monotonic())
            control.should_save = False  # a job saves now and then, and not at every step as so short a one would

    with tempfile.TemporaryDirectory() as scratch:
        few = {"recipe": recipe.model_copy(update={"steps": _TRIED}), "output": f"{scratch}/tried", "minutes": None}
        short = job.model_copy(update=few)
        _fit(short, model, tokenizer, examples, rows, Log(short, lambda _: None), Watch())
    per_step = (times[-1] - times[0]) / (len(times) - 1)  # the first step warms up
    return {
        "left_out": left_out,
        "passes": recipe.steps * recipe.batch / len(rows),
        "tokens": sum(length(row) for batch in batches(rows, recipe) for row in batch),
        "minutes": recipe.steps * per_step / 60,
        "memory_mb": _peak_memory(),
    }


def _peak_memory() -> float | None:
    """Return the most memory that this process took, in megabytes: the GPU's where there is one. None on Windows."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 1e6
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _fitting(examples: Sequence[Example], tokenizer: Any, recipe: Recipe) -> tuple[list[Row], int]:
    """Return the rows that are short enough, and how many are not; raise TrainingError when none is."""
    found = rows_of(examples, tokenizer, recipe)
    rows = [row for row in found if length(row) <= recipe.max_length]
    if not rows:
        raise TrainingError(
            f"All {len(found)} examples exceed {recipe.max_length} tokens: raise the recipe's max_length."
        )
    return rows, len(found) - len(rows)


def _fit(
    job: Job,
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    rows: list[Row],
    log: Log,
    *callbacks: TrainerCallback,
) -> int | None:
    """Train, with smaller parts of a batch whenever memory runs out; return the step it went on from, if any."""
    recipe, folder, pad = job.recipe, workplace(job), _padding(tokenizer)
    make = trainer_for(recipe, rows, model, penalty_for(job, model, tokenizer, examples, pad), pad)
    fresh, data, part = copied(model), in_order(rows, recipe), recipe.batch
    first = at = _checkpoint(folder)
    while True:
        if at is not None:
            log.say(f"Going on from step {_step_of(at)}.")
        trainer = make(
            model=model,
            args=settings_for(job, part),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[log, *callbacks],
        )
        try:
            trainer.train(resume_from_checkpoint=None if at is None else str(at))
        except Exception as error:  # what is no lack of memory, or of room, is raised again
            full = shutil.disk_usage(folder.parent).free < _ROOM
            _checkpoint(folder)  # what was cut off goes: on a full disk the reason needs its room
            if full or isinstance(error, SafetensorError):
                raise OSError(f"no space left on the disk of {str(folder.parent)!r}" if full else str(error)) from error
            part = _smaller(part, recipe.batch, error)
        else:
            log.check_the_cap()
            return None if first is None else _step_of(first)
        log.say(f"Memory ran out: going on with {part} of a batch's {recipe.batch} examples at a time.")
        del trainer
        at = _checkpoint(folder)
        if at is None:
            put_back(model, fresh)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _smaller(part: int, batch: int, error: Exception) -> int:
    """Return the next smaller part that a batch divides into; raise what happened if it was not memory, or none is."""
    if not lacks_memory(error):
        raise error
    smaller = [n for n in range(1, part // 2 + 1) if batch % n == 0]
    if not smaller:
        raise TrainingError(
            "There is not enough memory for a single example: take a smaller max_length or rank, or four_bit."
        ) from error
    return smaller[-1]


def _checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole: its state is written last, and its weights can be opened."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True):
        with suppress(OSError, ValueError, SafetensorError):
            json.loads((path / "trainer_state.json").read_bytes())
            with safe_open(path / WEIGHTS, "pt") as weights:
                weights.keys()
            return path
        shutil.rmtree(path, ignore_errors=True)  # cut off while it was written
    return None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _write(model: Any, output: Path, **facts: Any) -> TrainingResult:
    """Write the adapter and its result into a fresh folder, then give the folder its name."""
    with whole_folder(output) as scratch:  # what lies there already did not match its own hash
        model.save_pretrained(scratch, selected_adapters=[TRAINED])
        (scratch / "README.md").unlink(missing_ok=True)  # a model card that says nothing
        result = TrainingResult(adapter=str(output), adapter_sha256=file_sha256(scratch / WEIGHTS), **facts)
        (scratch / RESULT).write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
