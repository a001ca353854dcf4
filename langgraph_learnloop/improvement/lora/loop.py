"""Train a LoRA adapter with TRL, from whatever checkpoint there is; heavy, imported by the worker process alone."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.files import file_sha256, whole_file, whole_folder
from langgraph_learnloop.improvement.lora.ewc import PARENT, Consolidation, divergence
from langgraph_learnloop.improvement.lora.job import hashes, workplace
from langgraph_learnloop.improvement.lora.rate import find_rate
from langgraph_learnloop.improvement.lora.rows import (
    IGNORE,
    Row,
    batches,
    collate,
    in_order,
    length,
    rows_of,
    tokenise,
)
from langgraph_learnloop.improvement.lora.trainers import SETTINGS, Penalty, trainer_for
from langgraph_learnloop.jobs import RESULT, WEIGHTS
from langgraph_learnloop.records import Example, Job, Progress, Recipe, TrainingResult

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Tell = Callable[[Progress], None]

_LOGS = 40
"""Lines of progress in a whole job."""
_TRIED = 4
"""Steps of a rehearsal."""
_CHECKPOINTS = 10
"""Checkpoints of a whole job; the newest two are kept while it runs."""
_LIBRARIES = ("langgraph-learnloop", "torch", "transformers", "peft", "trl", "unsloth")
_TRAINED = "default"
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
    except Exception as error:  # whatever form damage takes in four libraries, it is one sentence for the user
        raise TrainingError(
            f"The base model {job.base_model!r} (or its parent adapter) cannot be loaded: {_first_line(error)} "
            "It must be a folder with config.json, a tokenizer and weights in safetensors."
        ) from error
    return get_peft_model(base, _lora(job.recipe)), tokenizer


def _precision(recipe: Recipe) -> dict[str, Any]:
    if not recipe.four_bit:
        return {"dtype": torch.bfloat16 if torch.cuda.is_available() and _bf16(True) else torch.float32}
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


def train(
    job: Job,
    examples: Sequence[Example],
    model: Any,
    tokenizer: Any,
    *,
    engine: str,
    tell: Tell,
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
    log = _Log(job, tell)
    resumed_at = _fit(job, model, tokenizer, examples, rows, log)
    if job.parent_adapter is None:
        _weaken(model, recipe.strength)
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


def _with_rate(job: Job, rows: Sequence[Row], model: Any, tokenizer: Any, tell: Tell) -> Job:
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
            batch = {
                name: value.to(model.device) for name, value in collate(rows[start : start + recipe.batch], 0).items()
            }
            asked = float((batch["labels"][:, 1:] != IGNORE).sum())
            with torch.no_grad():
                cost += float(model(**batch, use_cache=False).loss) * asked
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
        _fit(short, model, tokenizer, examples, rows, _Log(short, lambda _: None), [Watch()])
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
    log: _Log,
    callbacks: Sequence[TrainerCallback] = (),
) -> int | None:
    """Train, with smaller parts of a batch whenever memory runs out; return the step it went on from, if any."""
    recipe = job.recipe
    pad = _padding(tokenizer)
    penalty = _penalty(job, model, tokenizer, examples, pad)
    fresh = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    make = trainer_for(recipe, rows, model, penalty, pad)
    data = in_order(rows, recipe)
    first = _checkpoint(workplace(job))
    part = recipe.batch
    while True:
        at = _checkpoint(workplace(job))
        if at is not None:
            log.say(f"Going on from step {_step_of(at)}.")
        trainer = make(
            model=model,
            args=_settings(job, part),
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[log, *callbacks],
        )
        try:
            trainer.train(resume_from_checkpoint=None if at is None else str(at))
        except Exception as error:  # noqa: BLE001 - what is no lack of memory is raised again
            part = _smaller(part, recipe.batch, error)
        else:
            log.check_the_cap()
            return None if first is None else _step_of(first)
        log.say(f"Memory ran out: going on with {part} of a batch's {recipe.batch} examples at a time.")
        del trainer
        if _checkpoint(workplace(job)) is None:
            _put_back(model, fresh)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _smaller(part: int, batch: int, error: Exception) -> int:
    """Return the next smaller part that a batch divides into; raise what happened if it was not memory, or none is."""
    text = str(error).lower()
    short = isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )
    if not short:
        raise error
    smaller = [n for n in range(1, part // 2 + 1) if batch % n == 0]
    if not smaller:
        raise TrainingError(
            "There is not enough memory for a single example: take a smaller max_length or rank, or four_bit."
        ) from error
    return smaller[-1]


def _put_back(model: Any, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in weights:
                value.copy_(weights[name])


def _penalty(job: Job, model: Any, tokenizer: Any, examples: Sequence[Example], pad: int) -> Penalty | None:
    """Return what the recipe adds to the loss for forgetting; None if nothing."""
    recipe = job.recipe
    if not recipe.ewc and not recipe.kl:
        return None
    replayed = [example for example in examples if example.origin == "replay"]
    if not replayed:
        raise TrainingError(
            "The recipe's ewc or kl holds on to replayed examples, and there are none: set replay above 0, "
            "or both of them to 0."
        )
    if recipe.kl and job.parent_adapter is not None:
        model.load_adapter(job.parent_adapter, adapter_name=PARENT, is_trainable=False)
        model.set_adapter(_TRAINED)
    known = [row for row in tokenise(replayed, tokenizer) if length(row) <= recipe.max_length]
    hold = Consolidation(model, known, recipe.ewc, pad) if recipe.ewc else None

    def penalty(now: Any, batch: Any, old: torch.Tensor | None) -> torch.Tensor:
        cost = hold(now) if hold is not None else torch.zeros(())
        return cost + recipe.kl * divergence(now, batch, old) if recipe.kl and old is not None else cost

    return penalty


def _settings(job: Job, part: int) -> Any:
    """Return the trainer's settings; a step reads the recipe's batch, `part` examples at a time."""
    recipe = job.recipe
    gpu = torch.cuda.is_available()
    log_steps = max(1, recipe.steps // _LOGS)
    own: dict[str, dict[str, Any]] = {
        "sft": {"packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}},
        "dpo": {"beta": recipe.beta},
        "kto": {"beta": recipe.beta},
    }
    return SETTINGS[recipe.method](
        output_dir=str(workplace(job)),
        max_steps=recipe.steps,
        per_device_train_batch_size=part,
        gradient_accumulation_steps=recipe.batch // part,
        learning_rate=recipe.learning_rate * (1 if job.parent_adapter is None else recipe.continued_rate),
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": math.ceil(recipe.steps * 0.7), "decay_type": "linear"},
        warmup_steps=math.ceil(recipe.steps * 0.05),
        weight_decay=0.0,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not gpu,
        bf16=_bf16(gpu),
        gradient_checkpointing=gpu,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        max_length=None,
        logging_steps=log_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_strategy="steps",
        # Whole lines of the log, so that a job that was resumed tells the same losses.
        save_steps=log_steps * max(1, math.ceil(recipe.steps / log_steps / _CHECKPOINTS)),
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        **own[recipe.method],
    )


def _bf16(gpu: bool) -> bool:
    """Return whether bf16 is worth it: on processors without instructions for it, it is emulated and slower."""
    if gpu:
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


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


class _Log(TrainerCallback):
    """Pass the trainer's log on as progress; stop a run whose loss is no number, or whose time is up."""

    def __init__(self, job: Job, tell: Tell) -> None:
        self._total = job.recipe.steps
        self._minutes = job.minutes
        self._tell = tell
        self._began = time.monotonic()
        self._first: tuple[float, int, int] | None = None
        self._capped_at: int | None = None
        self._done = 0
        self.loss: float | None = None
        self.tokens = 0

    def say(self, note: str) -> None:
        """Tell something that is no step."""
        self._tell(Progress(stage="train", done=self._done, total=self._total, note=note))

    def check_the_cap(self) -> None:
        """Raise TrainingError if the time was up before the last step."""
        if self._capped_at is not None:
            raise TrainingError(
                f"The job stopped at step {self._capped_at} of {self._total}, for its {self._minutes:g} minutes are "
                "over. Run it again with more minutes, and it goes on from there."
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first = (time.monotonic(), state.global_step, int(state.num_input_tokens_seen))
        for line in state.log_history:  # of a checkpoint, which may be that of the last step
            self.loss, self.tokens = line.get("loss", self.loss), self._first[2]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        over = self._minutes is not None and time.monotonic() - self._began > 60 * self._minutes
        if over and state.global_step < self._total:
            self._capped_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.loss, self.tokens = logs["loss"], int(state.num_input_tokens_seen)
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"The loss became {self.loss} at step {state.global_step} of {self._total}: "
                "lower the recipe's learning_rate, and look at the dataset for empty or broken examples."
            )
        self._done = state.global_step
        began, step, tokens = self._first or (self._began, 0, 0)
        took, steps = max(time.monotonic() - began, 1e-6), max(state.global_step - step, 1)
        self._tell(
            Progress(
                stage="train",
                done=state.global_step,
                total=self._total,
                loss=self.loss,
                tokens_per_second=(self.tokens - tokens) / took,
                seconds_left=took / steps * (self._total - state.global_step),
            )
        )


def _weaken(model: Any, strength: float) -> None:
    """Multiply what the adapter adds by `strength`, in its weights, so that every server does the same."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and f".{_TRAINED}." in name:
                weight.mul_(strength)


def _write(model: Any, output: Path, **facts: Any) -> TrainingResult:
    """Write the adapter and its result into a fresh folder, then give the folder its name."""
    with whole_folder(output) as scratch:  # what lies there already did not match its own hash
        model.save_pretrained(scratch, selected_adapters=[_TRAINED])
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


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
