"""Jobs for tests: a dataset, a job of it, and the same job in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.improvement.lora.adapters import load
from langgraph_learnloop.improvement.lora.job import make_job
from langgraph_learnloop.improvement.lora.loop import train
from langgraph_learnloop.records import Example, Job, Progress, Recipe, TrainingResult
from tests.improvement.tiny_base import write_dataset

RECIPE = Recipe(rank=8, alpha=16, learning_rate=5e-3, steps=79, batch=8, replay=0, max_length=64)


def job_of(base: Path, folder: Path, examples: list[Example], recipe: Recipe = RECIPE, **more: object) -> Job:
    """Return a job on plain PEFT, its dataset written into a folder."""
    dataset = write_dataset(folder / "data.jsonl", examples)
    return make_job(base, dataset, recipe, folder / "jobs", engine="peft", **more)  # type: ignore[arg-type]


def in_process(job: Job, tell: Callable[[Progress], None] = lambda _: None) -> TrainingResult:
    """Do what the worker does, here."""
    examples = draw(read_examples(job.dataset), job.recipe)
    return train(job, examples, *load(job), engine="peft: a test.", tell=tell)
