"""Jobs for tests: a dataset, a job of it, the same job in this process, and how what it made is served."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from langgraph_learnloop.examples import draw, read_splits
from langgraph_learnloop.improvement.lora.adapters import load
from langgraph_learnloop.improvement.lora.job import make_job
from langgraph_learnloop.improvement.lora.loop import train
from langgraph_learnloop.records import (
    Example,
    Generation,
    Job,
    Progress,
    Recipe,
    Release,
    Sampling,
    ToolCall,
    TrainingResult,
)
from langgraph_learnloop.serving.local_engine import LocalEngine
from tests.improvement.tiny_base import weather_examples, write_dataset

RECIPE = Recipe(rank=8, alpha=16, learning_rate=5e-3, steps=79, batch=8, replay=0, max_length=64)


def job_of(base: Path, folder: Path, examples: list[Example], recipe: Recipe = RECIPE, **more: object) -> Job:
    """Return a job on plain PEFT, its dataset written into a folder."""
    dataset = write_dataset(folder / "data.jsonl", examples)
    return make_job(base, dataset, recipe, folder / "jobs", engine="peft", **more)  # type: ignore[arg-type]


def in_process(job: Job, tell: Callable[[Progress], None] = lambda _: None) -> TrainingResult:
    """Do what the worker does, here."""
    splits = read_splits(job.dataset)
    examples, aside = draw(splits["train"], job.recipe), splits["validation"]
    return train(job, examples, *load(job), engine="peft: a test.", tell=tell, aside=aside)


def answers(base: Path, result: TrainingResult) -> list[tuple[ToolCall, ...]]:
    """Serve an adapter by the agent's own engine; return what it calls for each of the cities."""
    release = Release(
        base_model=str(base),
        adapter=result.adapter,
        adapter_sha256=result.adapter_sha256,
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    engine = LocalEngine(base)
    engine.load(release)
    asked = [
        Generation(release_id=release.release_id, messages=e.messages, sampling=Sampling(max_tokens=40))
        for e in weather_examples()
    ]
    calls = [engine.generate(one).message.tool_calls for one in asked]
    engine.close()
    return calls
