"""Train a LoRA adapter with TRL's SFTTrainer; heavy, imported by the worker process alone.

The data path is ours: examples are templated and tokenised here, so that the trainer sees nothing but token ids
and labels (-100 outside the assistant's words) and no column merging can change a tool's arguments.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]  # trl imports lazily, mypy cannot see it

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.job import RESULT, WEIGHTS, file_sha256
from langgraph_learnloop.records import Example, Job, Progress, Recipe, TrainingResult

Tell = Callable[[Progress], None]
Row = dict[str, list[int]]
"""One example for the trainer: input_ids and labels, equally long."""

_IGNORE = -100
_SORTED = 8
"""Batches that are sorted by length together."""
_LOGS = 40
"""Lines of progress in a whole job."""
_SHORT = 256
"""Tokens up to which plain attention beats PyTorch's fused one on a CPU (at 40 tokens a step takes 3/4 of the time)."""


def load(job: Job) -> tuple[Any, Any]:
    """Return the base model with a LoRA adapter on it, and its tokenizer; raise TrainingError when one is broken."""
    local = Path(job.base_model).is_dir()
    torch.manual_seed(job.recipe.seed)  # the adapter's first weights are drawn here
    try:
        tokenizer = AutoTokenizer.from_pretrained(job.base_model, local_files_only=local)
        base = AutoModelForCausalLM.from_pretrained(
            job.base_model, local_files_only=local, use_safetensors=True, dtype=torch.float32
        )
        if job.parent_adapter is not None:
            return PeftModel.from_pretrained(base, job.parent_adapter, is_trainable=True), tokenizer
    except Exception as error:  # whatever form damage takes in four libraries, it is one sentence for the user
        raise TrainingError(
            f"The base model {job.base_model!r} (or its parent adapter) cannot be loaded: {_first_line(error)} "
            "It must be a folder with config.json, a tokenizer and weights in safetensors."
        ) from error
    return get_peft_model(base, _lora(job.recipe)), tokenizer


def _lora(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def train(
    job: Job, examples: Sequence[Example], model: Any, tokenizer: Any, *, engine: str, tell: Tell
) -> TrainingResult:
    """Train on the examples and write the adapter, whole or not at all."""
    rows = [row for row in tokenise(examples, tokenizer) if len(row["input_ids"]) <= job.recipe.max_length]
    if not rows:
        raise TrainingError(
            f"All {len(examples)} examples exceed {job.recipe.max_length} tokens: raise the recipe's max_length."
        )
    left_out = len(examples) - len(rows)
    note = f"{len(rows)} examples" + (f", {left_out} left out as too long." if left_out else ".")
    tell(Progress(stage="train", done=0, total=job.recipe.steps, note=note))
    started = time.monotonic()
    log = _fit(job.recipe, model, tokenizer, rows, tell)
    if job.parent_adapter is None:
        _weaken(model, job.recipe.strength)
    return _write(
        model,
        Path(job.output),
        engine=engine,
        examples=len(rows),
        steps=job.recipe.steps,
        loss=log.loss,
        tokens=log.tokens,
        seconds=time.monotonic() - started,
    )


def tokenise(examples: Sequence[Example], tokenizer: Any) -> list[Row]:
    """Return token ids and labels; only what follows the prompt of the last answer is learned.

    Earlier answers of a conversation may be the very mistakes that are being corrected, so they are read, not learned.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TrainingError("The base model's tokenizer has no chat template: add chat_template.jinja to its folder.")
    prompts = [_render(tokenizer, example, prompt=True) for example in examples]
    wholes = [_render(tokenizer, example, prompt=False) for example in examples]
    ids = tokenizer(prompts + wholes, add_special_tokens=False)["input_ids"]
    return [_row(prompt, whole) for prompt, whole in zip(ids[: len(prompts)], ids[len(prompts) :], strict=True)]


def _render(tokenizer: Any, example: Example, prompt: bool) -> str:
    messages = [m.openai() for m in (example.messages if prompt else (*example.messages, example.chosen))]
    tools = list(example.tools) or None
    text: str = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
    return text


def _row(prompt: list[int], whole: list[int]) -> Row:
    """Mask the part that both token lists share: a token may straddle the end of the prompt."""
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return {"input_ids": whole, "labels": [_IGNORE] * shared + whole[shared:]}


def _fit(recipe: Recipe, model: Any, tokenizer: Any, rows: list[Row], tell: Tell) -> _Log:
    log = _Log(recipe.steps, tell)
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer_class(rows, model)(
            model=model,
            args=_settings(recipe, scratch),
            train_dataset=_in_order(rows, recipe),
            data_collator=lambda batch: collate(batch, pad),
            processing_class=tokenizer,
            callbacks=[log],
        )
        trainer.train()
    return log


def _in_order(rows: Sequence[Row], recipe: Recipe) -> Dataset:
    """Lay out every batch of the job beforehand: shuffled passes, sorted by length within a few batches only.

    Sorting saves padding; sorting the whole set, as `group_by_length` does to one this small, would make batches of
    one kind of example, and what is learned from one is forgotten at the next.
    """
    rng = random.Random(recipe.seed)
    order: list[Row] = []
    while len(order) < recipe.steps * recipe.batch:
        order += rng.sample(rows, len(rows))
    window = _SORTED * recipe.batch
    laid: list[Row] = []
    for start in range(0, recipe.steps * recipe.batch, window):
        part = sorted(order[start : start + window], key=lambda row: len(row["input_ids"]))
        batches = [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        laid += [row for batch in rng.sample(batches, len(batches)) for row in batch]
    laid = laid[: recipe.steps * recipe.batch]
    return Dataset.from_dict({name: [row[name] for row in laid] for name in ("input_ids", "labels")})


def _trainer_class(rows: Sequence[Row], model: Any) -> type[SFTTrainer]:
    """Return TRL's trainer on a GPU; on a CPU the same with a cheaper loss, and cheaper attention for short rows."""
    if torch.cuda.is_available() or "unsloth" in sys.modules:  # Unsloth has put its own in TRL's place
        return SFTTrainer
    if max(len(row["input_ids"]) for row in rows) <= _SHORT and hasattr(model, "get_base_model"):
        model.get_base_model().set_attn_implementation("eager")
    return _CpuTrainer


class _CpuTrainer(SFTTrainer):
    """Compute the plain cross-entropy, and only where there is something to learn; half a batch beside the other.

    TRL's fused loss is made for GPUs; on a CPU it takes as long as the rest of the step, for metrics we do not use.
    And for small tensors two threads with half a batch each are a third faster than two threads inside each product.
    """

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add the gradients of both halves and return the mean loss; who comes first makes no difference to a sum."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        asked = (inputs["labels"][:, 1:] != _IGNORE).sum()

        def learn(part: dict[str, Any]) -> torch.Tensor:
            share = (part["labels"][:, 1:] != _IGNORE).sum() / asked
            loss: torch.Tensor = self.compute_loss(model, part) * share
            self.accelerator.backward(loss)
            return loss.detach()

        halves = [{name: value[lane::2] for name, value in inputs.items()} for lane in (0, 1)]
        losses = self._lanes.map(learn, [half for half in halves if (half["labels"][:, 1:] != _IGNORE).any()])
        return torch.stack(list(losses)).sum()

    @cached_property
    def _lanes(self) -> ThreadPoolExecutor:
        threads = max(1, torch.get_num_threads() // 2)
        return ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(threads,))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss over the labels that are not masked."""
        labels = inputs["labels"][:, 1:]
        learned = (labels != _IGNORE).any(0).nonzero()[:, 0]  # positions where some row of the batch has a label
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=learned,
            use_cache=False,
        )
        loss = cross_entropy(outputs.logits.flatten(0, 1).float(), labels[:, learned].flatten(), ignore_index=_IGNORE)
        return (loss, outputs) if return_outputs else loss


def _settings(recipe: Recipe, scratch: str) -> SFTConfig:
    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=scratch,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
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
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=max(1, recipe.steps // _LOGS),
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _bf16(gpu: bool) -> bool:
    """Return whether bf16 is worth it: on processors without instructions for it, it is emulated and slower."""
    if gpu:
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def collate(batch: Sequence[Row], pad: int, multiple: int = 8) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest, rounded up to `multiple` tokens: tensors of batch x tokens."""
    width = math.ceil(max(len(row["input_ids"]) for row in batch) / multiple) * multiple

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in batch])

    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return {"input_ids": padded("input_ids", pad), "attention_mask": mask, "labels": padded("labels", _IGNORE)}


class _Log(TrainerCallback):
    """Pass the trainer's log on as progress, and stop a run whose loss is no number."""

    def __init__(self, total: int, tell: Tell) -> None:
        self._total = total
        self._tell = tell
        self.loss: float | None = None
        self.tokens = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.loss, self.tokens = logs["loss"], int(state.num_input_tokens_seen)
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"The loss became {self.loss} at step {state.global_step} of {self._total}: "
                "lower the recipe's learning_rate, and look at the dataset for empty or broken examples."
            )
        self._tell(Progress(stage="train", done=state.global_step, total=self._total, loss=self.loss))


def _weaken(model: Any, strength: float) -> None:
    """Multiply what the adapter adds by `strength`, in its weights, so that every server does the same."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.mul_(strength)


def _write(model: Any, output: Path, **facts: Any) -> TrainingResult:
    """Write the adapter and its result into a fresh folder, then give the folder its name."""
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        model.save_pretrained(scratch)
        (scratch / "README.md").unlink(missing_ok=True)  # a model card that says nothing
        result = TrainingResult(adapter=str(output), adapter_sha256=file_sha256(scratch / WEIGHTS), **facts)
        (scratch / RESULT).write_text(result.model_dump_json(indent=2), encoding="utf-8")
        if output.exists():  # what lies there did not match its own hash, or the job would not have run
            shutil.rmtree(output)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
