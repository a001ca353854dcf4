"""Turn examples into token ids and lay out every batch of a job beforehand; for the training worker.

The data path is ours: examples are templated and tokenised here, so that the trainer sees nothing but numbers and no
column merging can change a tool's arguments. What every step reads is settled before the first, so a job that is
resumed reads what it would have read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset

from langgraph_learnloop.errors import DataError, TrainingError
from langgraph_learnloop.records import Example, Message, Recipe

Row = dict[str, Any]
"""One example for the trainer: lists of numbers by column."""

IGNORE = -100
"""The label of what is read and not learned."""
_SORTED = 8
"""Batches that are sorted by length together."""


def rows_of(examples: Sequence[Example], tokenizer: Any, recipe: Recipe) -> list[Row]:
    """Return the rows that the recipe's method learns from; raise DataError when there is nothing for it to learn.

    "sft": input_ids and labels; for the recipe's kl also old, 1 for the tokens of replayed examples.
    "dpo": prompt_ids, chosen_ids, rejected_ids of the examples that have both answers.
    "kto": prompt_ids, completion_ids, label of every answer, good or not.
    """
    if recipe.method == "sft":
        rows = tokenise(examples, tokenizer)
        if recipe.kl:
            for row, example in zip(rows, examples, strict=True):
                row["old"] = [int(example.origin == "replay")] * len(row["labels"])
        return rows
    pairs = [(e, e.rejected) for e in examples if e.rejected is not None]
    if not pairs:
        raise DataError(
            f"The dataset has no example with a rejected answer, and {recipe.method!r} learns from those: train with "
            'the method "sft", or collect corrections of answers that the agent gave.'
        )
    rejected = _answers(pairs, tokenizer)
    if recipe.method == "kto":
        chosen = _answers([(e, e.chosen) for e in examples], tokenizer)
        return [
            {"prompt_ids": prompt, "completion_ids": answer, "label": good}
            for answers, good in ((chosen, True), (rejected, False))
            for prompt, answer in answers
        ]
    chosen = _answers([(e, e.chosen) for e, _ in pairs], tokenizer)
    return [_pair(good, bad) for good, bad in zip(chosen, rejected, strict=True)]


def _pair(chosen: tuple[list[int], list[int]], rejected: tuple[list[int], list[int]]) -> Row:
    prompt = min(chosen[0], rejected[0], key=len)
    good, bad = (before + answer for before, answer in (chosen, rejected))
    return {"prompt_ids": prompt, "chosen_ids": good[len(prompt) :], "rejected_ids": bad[len(prompt) :]}


def length(row: Row) -> int:
    """Return how many tokens the longest sequence of a row has."""
    if "input_ids" in row:
        return len(row["input_ids"])
    answers = (row.get(name) or () for name in ("chosen_ids", "rejected_ids", "completion_ids"))
    return len(row["prompt_ids"]) + max(map(len, answers))


def tokenise(examples: Sequence[Example], tokenizer: Any) -> list[Row]:
    """Return token ids and labels; only what follows the prompt of the last answer is learned.

    Earlier answers of a conversation may be the very mistakes that are being corrected, so they are read, not learned.
    """
    answers = _answers([(e, e.chosen) for e in examples], tokenizer)
    return [{"input_ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer} for prompt, answer in answers]


def _answers(given: Sequence[tuple[Example, Message]], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """Return the token ids of each prompt and of the answer to it."""
    if not getattr(tokenizer, "chat_template", None):
        raise TrainingError("The base model's tokenizer has no chat template: add chat_template.jinja to its folder.")
    prompts = [_render(tokenizer, example, None) for example, _ in given]
    wholes = [_render(tokenizer, example, answer) for example, answer in given]
    ids = tokenizer(prompts + wholes, add_special_tokens=False)["input_ids"] if given else []
    return [_divided(prompt, whole) for prompt, whole in zip(ids[: len(given)], ids[len(given) :], strict=True)]


def _render(tokenizer: Any, example: Example, answer: Message | None) -> str:
    messages = [m.openai() for m in (*example.messages, *([answer] if answer else []))]
    tools = list(example.tools) or None
    text: str = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=answer is None
    )
    return text


def _divided(prompt: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """Divide where both token lists part: a token may straddle the end of the prompt."""
    shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return whole[:shared], whole[shared:]


def in_order(rows: Sequence[Row], recipe: Recipe) -> Dataset:
    """Return the rows of every step of the job, one after the other."""
    made = batches(rows, recipe)
    laid = [row for batch in (map(_mismatched, made) if recipe.method == "kto" else made) for row in batch]
    return Dataset.from_dict({name: [row[name] for row in laid] for name in laid[0]})


def batches(rows: Sequence[Row], recipe: Recipe) -> list[list[Row]]:
    """Lay out every batch of the job beforehand: shuffled passes, sorted by length within a few batches only.

    Sorting saves padding; sorting the whole set, as `group_by_length` does to one this small, would make batches of
    one kind of example, and what is learned from one is forgotten at the next.
    """
    rng = random.Random(recipe.seed)
    order: list[Row] = []
    while len(order) < recipe.steps * recipe.batch:
        order += rng.sample(rows, len(rows))
    window = _SORTED * recipe.batch
    made: list[list[Row]] = []
    for start in range(0, recipe.steps * recipe.batch, window):
        part = sorted(order[start : start + window], key=length)
        cut = [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        made += rng.sample(cut, len(cut))
    return made[: recipe.steps]


def _mismatched(batch: list[Row]) -> list[Row]:
    """Give each prompt the answer to another one, from which KTO estimates how far the model went (its eq. 7)."""
    return [row | {"KL_completion_ids": batch[at - 1]["completion_ids"]} for at, row in enumerate(batch)]


def collate(batch: Sequence[Row], pad: int, multiple: int = 8) -> dict[str, torch.Tensor]:
    """Pad rows on the right to the longest, rounded up to `multiple` tokens: tensors of batch x tokens."""
    width = math.ceil(max(len(row["input_ids"]) for row in batch) / multiple) * multiple

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in batch])

    lengths = torch.tensor([len(row["input_ids"]) for row in batch])
    mask = (torch.arange(width) < lengths[:, None]).long()
    tensors = {"input_ids": padded("input_ids", pad), "attention_mask": mask, "labels": padded("labels", IGNORE)}
    return tensors | ({"old": padded("old", 0)} if "old" in batch[0] else {})


def loss_of(model: Any, batch: Sequence[Row], pad: int) -> torch.Tensor:
    """Return the model's mean loss over the learned tokens of some rows."""
    given = {name: value.to(model.device) for name, value in collate(batch, pad).items() if name != "old"}
    loss: torch.Tensor = model(**given, use_cache=False).loss
    return loss


def packed(batch: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Lay rows end to end: tensors of 1 x tokens, with positions that begin anew, so that no row attends to another."""
    joined: dict[str, torch.Tensor] = {
        name: torch.tensor([[number for row in batch for number in row[name]]])
        for name in ("input_ids", "labels", "old")
        if name in batch[0]
    }
    joined["position_ids"] = torch.tensor([[at for row in batch for at in range(len(row["input_ids"]))]])
    joined["labels"][joined["position_ids"] == 0] = IGNORE  # nothing comes before it to tell it from
    return joined
