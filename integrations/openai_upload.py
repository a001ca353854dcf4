"""Choose what a job sends to a provider, and estimate what it will read. A part of `openai_finetuning`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from langgraph_learnloop.errors import DataError, TrainingError
from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.integrations.openai_rows import Row, as_json, preference_row, supervised_row, tokens_of
from langgraph_learnloop.records import Example, Job, Recipe

LEAST = 10
"""Examples that the provider wants at least."""
MOST_EPOCHS = 50
"""How often the provider reads the examples at most."""
METHODS = {"sft": "supervised", "dpo": "dpo"}
"""What a recipe's method is called at the provider."""


@dataclass(frozen=True)
class Upload:
    """What a job sends to be learned, and how often it is read: about as often as the recipe's steps would."""

    recipe: Recipe
    """How to train."""
    dataset_sha256: str
    """Hash of the file that the examples are from."""
    drawn: Sequence[Example]
    """What a local job of this recipe draws: a job's id says what it learns, wherever it is done."""
    rows: Sequence[Row]
    """What is sent of it, in the order in which it is read."""
    left_out: int
    """How many examples the provider could not read, or are too long."""

    @property
    def batch(self) -> int:
        """Return how many rows make a step."""
        return min(self.recipe.batch, len(self.rows))

    @property
    def epochs(self) -> int:
        """Return how often each row is read."""
        return min(MOST_EPOCHS, max(1, round(self.recipe.steps * self.recipe.batch / len(self.rows))))

    @property
    def steps(self) -> int:
        """Return how many optimizer steps that makes."""
        return self.epochs * math.ceil(len(self.rows) / self.batch)

    @cached_property
    def tokens(self) -> int:
        """Return about how many tokens are read in all."""
        return self.epochs * sum(map(tokens_of, self.rows))

    def body(self) -> bytes:
        """Return the file that is sent."""
        return b"".join(as_json(row).encode() + b"\n" for row in self.rows)


def upload_of(job: Job, parallel_tool_calls: bool | None = None) -> Upload:
    """Return what a job sends; raise TrainingError or DataError where a hosted model cannot be trained with it.

    `parallel_tool_calls` stands in each row that has tools, unless it is None.
    """
    _check(job)
    recipe = job.recipe
    drawn, sha256 = _drawn(job)
    made = [_row(e, recipe, parallel_tool_calls) for e in drawn if recipe.method == "sft" or e.rejected is not None]
    rows = [row for row in made if row is not None]
    left_out = len(made) - len(rows)
    if len(rows) < LEAST:
        also = f" ({left_out} more are too long, or have tool calls without a result)" if left_out else ""
        pairs = " with a rejected answer" if recipe.method == "dpo" else ""
        raise TrainingError(
            f"Job {job.job_id!r} has {len(rows)} examples{pairs}{also}, and the provider wants {LEAST} at least: "
            "collect more corrections, or raise the recipe's replay or max_length."
        )
    random.Random(recipe.seed).shuffle(rows)  # who reads them in order must not end with nothing but the old
    return Upload(recipe, sha256, drawn, rows, left_out)


def _check(job: Job) -> None:
    """Raise TrainingError for what a hosted model cannot be trained with."""
    recipe = job.recipe
    if recipe.method not in METHODS:
        raise TrainingError(
            f"Job {job.job_id!r} asks for {recipe.method!r}, which the provider does not know: "
            f"take one of {', '.join(map(repr, METHODS))}, or train on this machine."
        )
    if job.parent_adapter is not None:
        raise TrainingError(
            f"Job {job.job_id!r} goes on from the adapter {job.parent_adapter!r}, which a hosted model cannot read: "
            "name the fine-tuned model as its base model instead."
        )
    if asked := [name for name in ("ewc", "kl") if getattr(recipe, name)] + ["strength"] * (recipe.strength < 1):
        raise TrainingError(
            f"Job {job.job_id!r} asks for {' and '.join(map(repr, asked))}, which a hosted model is not trained with: "
            "leave it at its default, or train on this machine."
        )


def _drawn(job: Job) -> tuple[list[Example], str]:
    """Return the examples that a job learns from, and the hash of their file."""
    try:
        return draw(read_examples(job.dataset), job.recipe), file_sha256(job.dataset)
    except OSError as error:
        raise TrainingError(
            f"Job {job.job_id!r} cannot be trained: its dataset {job.dataset!r} cannot be read "
            f"({error.strerror}). Make it readable, or curate again."
        ) from error


def _row(example: Example, recipe: Recipe, parallel_tool_calls: bool | None) -> Row | None:
    """Return an example's row, or None where the provider could not read it or it is too long."""
    try:
        row = supervised_row(example) if recipe.method == "sft" else preference_row(example)
    except DataError:
        return None
    offer = row if recipe.method == "sft" else row["input"]
    if parallel_tool_calls is not None and "tools" in offer:
        offer["parallel_tool_calls"] = parallel_tool_calls
    return row if tokens_of(row) <= recipe.max_length else None
