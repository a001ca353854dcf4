"""Two ways of holding on to what the model knew: elastic weight consolidation, and divergence from the parent.

Heavy; for the training worker. Both are added to the loss; both are off by default, for replay does most of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import kl_div, log_softmax

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.improvement.lora.adapters import TRAINED, copied, trained
from langgraph_learnloop.improvement.lora.rows import IGNORE, Row, length, loss_of, tokenise
from langgraph_learnloop.improvement.lora.trainers import Penalty
from langgraph_learnloop.records import Example, Job

PARENT = "parent"
"""Name of the frozen copy of the adapter that a job goes on from."""
_SAMPLED = 64
"""Examples that the Fisher information is estimated on."""


def penalty_for(job: Job, model: Any, tokenizer: Any, examples: Sequence[Example], pad: int) -> Penalty | None:
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
        model.set_adapter(TRAINED)
    known = [row for row in tokenise(replayed, tokenizer) if length(row) <= recipe.max_length]
    hold = Consolidation(model, known, recipe.ewc, pad) if recipe.ewc else None

    def penalty(now: Any, batch: Any, old: torch.Tensor | None) -> torch.Tensor:
        cost = hold(now) if hold is not None else torch.zeros(())
        return cost + recipe.kl * divergence(now, batch, old) if recipe.kl and old is not None else cost

    return penalty


class Consolidation:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3), on the adapter's weights.

    weight / 2 * sum of F * (w - w0)^2, where w0 are the weights it was made with and F the diagonal of their Fisher
    information on `rows`: the mean square of the gradient of an example's log-likelihood (their labels stand for
    samples of the model's own, which makes it the empirical Fisher).
    """

    def __init__(self, model: Any, rows: Sequence[Row], weight: float, pad: int) -> None:
        """Estimate what matters to the rows; the model is left as it was."""
        self._weight = weight
        self._start = copied(model)
        self._fisher = fisher(model, rows[:_SAMPLED], pad)

    def __call__(self, model: Any) -> torch.Tensor:
        """Return the penalty for where the weights are now."""
        moved = (
            (self._fisher[name] * (value - self._start[name]) ** 2).sum() for name, value in trained(model).items()
        )
        return self._weight / 2 * torch.stack(list(moved)).sum()


def fisher(model: Any, rows: Sequence[Row], pad: int) -> Mapping[str, torch.Tensor]:
    """Return the diagonal of the empirical Fisher information of each trained weight, shaped like it."""
    weights = trained(model)
    found = {name: torch.zeros_like(value) for name, value in weights.items()}
    for row in rows:
        said = sum(label != IGNORE for label in row["labels"])
        model.zero_grad(set_to_none=True)
        (loss_of(model, [row], pad) * said).backward()
        for name, value in weights.items():
            if value.grad is not None:
                found[name] += value.grad.detach() ** 2 / len(rows)
    model.zero_grad(set_to_none=True)
    return found


def divergence(model: Any, batch: Mapping[str, torch.Tensor], old: torch.Tensor) -> torch.Tensor:
    """Return KL(parent || model) on the learned tokens that `old` marks: a mean over them, in nats; 0 for none.

    Their shapes: `batch` and `old` batch x tokens. The parent is the adapter `PARENT` if there is one, else the base.
    """
    marked = (batch["labels"][:, 1:] != IGNORE) & old[:, 1:].bool()
    rows, places = marked.any(1).nonzero()[:, 0], marked.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return torch.zeros((), device=marked.device)
    given = {name: value[rows] for name, value in batch.items() if name != "labels"}
    where = marked[rows][:, places]

    def spoken() -> torch.Tensor:
        logits = model(**given, logits_to_keep=places, use_cache=False).logits
        if logits.shape[1] > len(places):  # Unsloth's models on a GPU answer for every place
            logits = logits[:, places]
        return log_softmax(logits[where].float(), dim=-1)

    with torch.no_grad(), as_parent(model):
        before = spoken()
    return kl_div(spoken(), before, reduction="batchmean", log_target=True)


@contextmanager
def as_parent(model: Any) -> Iterator[None]:
    """Let the model answer as it did before the job; not while another thread uses it."""
    if PARENT not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    active = model.active_adapter
    model.set_adapter(PARENT)
    try:
        yield
    finally:
        model.set_adapter(active)
