"""TRL's trainers as a job wants them: rows that are tokenised already, penalties, and a loss that suits a CPU.

Heavy; for the training worker. Unsloth puts its own classes in TRL's place when it is imported, so what is made here is
made of whatever TRL has when this module is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from langgraph_learnloop.improvement.lora.adapters import bf16
from langgraph_learnloop.improvement.lora.job import workplace
from langgraph_learnloop.improvement.lora.rows import IGNORE, Row, collate, length, packed
from langgraph_learnloop.records import Job, Recipe

Penalty = Callable[[Any, Mapping[str, torch.Tensor], torch.Tensor | None], torch.Tensor]
"""Given the model, a batch and which of its tokens are replayed, returns what is added to the loss."""

_SHORT = 256
"""Tokens up to which plain attention beats PyTorch's fused one on a CPU (at 40 tokens a step takes 3/4 of the time)."""
_SETTINGS = {"sft": SFTConfig, "dpo": DPOConfig, "kto": KTOConfig}
_LOGS = 40
"""Lines of progress in a whole job."""
_CHECKPOINTS = 10
"""Checkpoints of a whole job; the newest two are kept while it runs."""


def trainer_for(
    recipe: Recipe, rows: Sequence[Row], model: Any, penalty: Penalty | None, pad: int
) -> Callable[..., Any]:
    """Return a maker of the method's trainer; it takes what TRL's take."""
    mixins = (_Penalised,) if penalty is not None else ()
    if recipe.method != "sft":
        kind = _made(_Tokenised, *mixins, {"dpo": DPOTrainer, "kto": KTOTrainer}[recipe.method])
        return _with(kind, penalty)
    collator = packed if recipe.packing else partial(collate, pad=pad)
    if torch.cuda.is_available() or "unsloth" in sys.modules:
        return partial(_with(_made(*mixins, SFTTrainer), penalty), data_collator=collator)
    if max(map(length, rows)) <= _SHORT and hasattr(model, "get_base_model"):
        model.get_base_model().set_attn_implementation("eager")
    lanes = () if penalty is not None or recipe.packing else (_TwoLanes,)  # a penalty is for the whole step
    return partial(_with(_made(*lanes, *mixins, CpuLoss), penalty), data_collator=collator)


def settings_for(job: Job, part: int) -> Any:
    """Return the trainer's settings; a step reads the recipe's batch, `part` examples at a time."""
    recipe = job.recipe
    gpu = torch.cuda.is_available()
    log_steps = max(1, recipe.steps // _LOGS)
    own: dict[str, dict[str, Any]] = {
        "sft": {"packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}},
        "dpo": {"beta": recipe.beta},
        "kto": {"beta": recipe.beta},
    }
    return _SETTINGS[recipe.method](
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
        bf16=bf16(),
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


def _made(*bases: type) -> type:
    return bases[0] if len(bases) == 1 else type("".join(base.__name__.strip("_") for base in bases), bases, {})


def _with(kind: type, penalty: Penalty | None) -> Callable[..., Any]:
    def make(**given: Any) -> Any:
        made = kind(**given)
        if penalty is not None:
            made.penalty = penalty
        return made

    return make


class _Tokenised:
    """Take rows of token ids as they are, where TRL would render and tokenise texts."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _Penalised:
    """Add a penalty to the loss."""

    penalty: Penalty
    args: Any

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        old = inputs.pop("old", None)
        loss = super().compute_loss(model, dict(inputs), num_items_in_batch=num_items_in_batch)  # type: ignore[misc]
        # Where the loss is a sum over the whole step's tokens, the trainer adds up what each part of the step returns.
        parts = 1 if num_items_in_batch is None else self.args.gradient_accumulation_steps
        return loss + self.penalty(model, inputs, old) / parts


class CpuLoss(SFTTrainer):
    """Compute the plain cross-entropy, and only where there is something to learn.

    TRL's fused loss is made for GPUs; on a CPU it takes as long as the rest of the step, for metrics we do not use.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss over the labels that are not masked; their sum over `num_items_in_batch`, if given."""
        given = dict(inputs)
        labels = given.pop("labels")[:, 1:]
        learned = (labels != IGNORE).any(0).nonzero()[:, 0]  # positions where some row of the batch has a label
        outputs = model(**given, logits_to_keep=learned, use_cache=False)
        how = "mean" if num_items_in_batch is None else "sum"
        logits, asked = outputs.logits.flatten(0, 1).float(), labels[:, learned].flatten()
        loss = cross_entropy(logits, asked, ignore_index=IGNORE, reduction=how)
        loss = loss if num_items_in_batch is None else loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class _TwoLanes:
    """Learn half a batch beside the other.

    For small tensors two threads with half a batch each are a third faster than two threads inside each product.
    """

    accelerator: Any
    compute_loss: Callable[..., Any]
    _prepare_inputs: Callable[..., Any]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Add the gradients of both halves and return the mean loss; who comes first makes no difference to a sum."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        asked = (inputs["labels"][:, 1:] != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch

        def learn(part: dict[str, Any]) -> torch.Tensor:
            loss: torch.Tensor = self.compute_loss(model, part, num_items_in_batch=asked)
            self.accelerator.backward(loss)
            return loss.detach()

        halves = [{name: value[lane::2] for name, value in inputs.items()} for lane in (0, 1)]
        losses = list(self._lanes.map(learn, [half for half in halves if (half["labels"][:, 1:] != IGNORE).any()]))
        return torch.stack(losses).sum() if losses else torch.zeros(())

    @cached_property
    def _lanes(self) -> ThreadPoolExecutor:
        threads = max(1, torch.get_num_threads() // 2)
        return ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(threads,))
