"""Find a learning rate by trying them: the range test of Smith (2017, "Cyclical learning rates"); for the worker.

Heavy, and off by default. A few steps are taken with a rate that grows at each of them, and the weights are put back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from langgraph_learnloop.improvement.lora.adapters import copied, put_back, trained
from langgraph_learnloop.improvement.lora.rows import Row, batches, loss_of
from langgraph_learnloop.records import Recipe

_TRIED = 40
"""Steps of the test."""
_SPAN = 30.0
"""The rates go from the recipe's divided by this to the recipe's times it."""
_SMOOTH = 0.8
"""Share of the loss so far in the smoothed loss."""
_LOST = 1.5
"""Times the best smoothed loss at which the test ends: the model falls apart there."""


def find_rate(recipe: Recipe, rows: Sequence[Row], model: Any, pad: int) -> float:
    """Return the rate at which the smoothed loss falls fastest on the way to its lowest point; the model stays."""
    before = copied(model)
    optimizer = torch.optim.AdamW(list(trained(model).values()), weight_decay=0.0)
    rates: list[float] = [recipe.learning_rate * _SPAN ** (2 * at / (_TRIED - 1) - 1) for at in range(_TRIED)]
    losses: list[float] = []
    model.train()
    for rate, batch in zip(rates, batches(rows, recipe.model_copy(update={"steps": _TRIED})), strict=True):
        loss = loss_of(model, batch, pad)
        losses.append(_smoothed(losses, float(loss.detach())))
        if not math.isfinite(losses[-1]) or losses[-1] > _LOST * min(losses):
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.zero_grad(set_to_none=True)
    put_back(model, before)
    return rates[steepest(losses)]


def steepest(losses: Sequence[float]) -> int:
    """Return the step after which the loss falls fastest, of those before its lowest point; 0 where it never falls."""
    known = [loss for loss in losses if math.isfinite(loss)]
    lowest = min(range(len(known)), key=known.__getitem__)
    falls = [known[at] - known[at + 1] for at in range(lowest)]
    return max(range(len(falls)), key=falls.__getitem__) if falls else 0


def _smoothed(losses: Sequence[float], loss: float) -> float:
    return loss if not losses else _SMOOTH * losses[-1] + (1 - _SMOOTH) * loss
