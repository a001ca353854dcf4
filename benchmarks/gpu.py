"""Measure training on a GPU: Unsloth beside plain TRL + PEFT, on the same model, rows and recipe.

    scripts/gpu_check.sh [FILE.json]          sets up what this needs, and runs it
    python benchmarks/gpu.py [--json FILE] [--quick]

The model is made on the spot: a Llama of 0.4 billion random weights (`--quick`: a few million) with the demo's
tokenizer. Each engine trains the same SFT job through the worker, rounds interleaved; then Unsloth trains DPO, and the
adapters are loaded back and asked something.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.improvement.lora.job import LocalTrainer, make_job
from langgraph_learnloop.records import (
    Example,
    Generation,
    Message,
    Progress,
    Recipe,
    Release,
    Sampling,
    TrainingResult,
)
from langgraph_learnloop.serving.local_engine import LocalEngine

GOALS = {"times": 1.8, "loss": 0.02}
SIZES: dict[bool, dict[str, int]] = {
    False: {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16},
    True: {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
}
"""By whether it is a quick run."""
VOCABULARY = 32_000
LENGTH = 1_024
WARMING = 3
"""One part of so many of the steps is not measured."""


def make_model(folder: Path, quick: bool) -> Path:
    """Write a model of random weights with the demo's tokenizer; its vocabulary is as large as a real one's."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    torch.manual_seed(0)
    size = SIZES[quick]
    config = LlamaConfig(
        vocab_size=len(tokenizer) if quick else VOCABULARY,
        num_key_value_heads=size["num_attention_heads"] // 2,
        max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversations(folder: Path, quick: bool) -> Path:
    """Write examples of many turns, about `LENGTH` tokens each; the last answer is learned, another one rejected."""
    past = [e for e in sample_world().past if len(e.messages) == 1]
    turns = 4 if quick else 24
    rows = []
    for at in range(0, len(past) - turns, turns):
        part = past[at : at + turns]
        before = [m for e in part[:-1] for m in (*e.messages, Message(role="assistant", content="Done."))]
        asked = (*before, *part[-1].messages)
        rows.append(
            Example(
                messages=asked, chosen=part[-1].chosen, rejected=part[0].chosen, origin="correction", split="train"
            ).model_dump_json()
        )
    file = folder / "conversations.jsonl"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


class Pace:
    """Remember when each step was told of, so that a job's pace can be told without what comes once.

    Loading the model is left out, and so is the first part of the steps, in which Unsloth's kernels are compiled.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def __call__(self, progress: Progress) -> None:
        """Take a line of progress."""
        if progress.loss is not None:
            self._seen.append((time.perf_counter(), progress.done))

    def tokens_per_second(self, result: TrainingResult) -> float:
        """Return how many tokens a second the job read once it ran."""
        (began, first), (ended, last) = self._seen[len(self._seen) // WARMING], self._seen[-1]
        return result.tokens / result.steps * (last - first) / (ended - began)


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Return tokens a second, memory and loss of each engine, and whether what they wrote is served."""
    base, data = make_model(folder / "base", quick), conversations(folder, quick)
    recipe = Recipe(
        learning_rate=2e-4, steps=4 if quick else 120, batch=2 if quick else 8, replay=0, max_length=2 * LENGTH
    )
    preferences = recipe.model_copy(update={"method": "dpo", "batch": 2, "steps": 4 if quick else 20})
    rounds = 1 if quick else 3
    trained = [("peft", recipe), ("unsloth", recipe)] * rounds + [("unsloth, DPO", preferences)]
    paces: dict[str, list[float]] = {"peft": [], "unsloth": [], "unsloth, DPO": []}

    def train(name: str, recipe: Recipe, output: Path) -> TrainingResult:
        pace = Pace()
        job = make_job(base, data, recipe, output, engine=name.partition(",")[0])  # type: ignore[arg-type]
        result = LocalTrainer().train(job, pace)
        paces[name].append(pace.tokens_per_second(result))
        return result

    with ThreadPoolExecutor(len(trained) if quick else 1) as pool:  # a smoke run's time is that of their imports
        done = [
            (name, pool.submit(train, name, recipe, folder / f"job {number}"))
            for number, (name, recipe) in enumerate(trained)
        ]
        results = {name: job.result() for name, job in done}
    found: dict[str, Any] = {
        name: {
            "tokens_per_second": None if name == "unsloth, DPO" else statistics.median(paces[name]),
            "seconds": result.seconds,
            "memory_mb": result.memory_mb,
            "loss": result.loss,
            "libraries": result.libraries,
        }
        for name, result in results.items()
    }
    answers = served(base, results.values())
    for name, answer in zip(found, answers, strict=True):
        found[name]["served"] = answer
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return found


def served(base: Path, results: Sequence[TrainingResult] | Any) -> list[bool]:
    """Return whether the engine loads each adapter and answers with it."""
    engine = LocalEngine(base)
    good = []
    for result in results:
        release = Release(
            base_model=str(base),
            adapter=result.adapter,
            adapter_sha256=result.adapter_sha256,
            made_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        engine.load(release)
        asked = Generation(
            release_id=release.release_id,
            messages=(Message(role="user", content="set a timer for five minutes"),),
            sampling=Sampling(max_tokens=8),
        )
        good.append(engine.generate(asked).message.role == "assistant")
    engine.close()
    return good


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals are reached."""
    plain, unsloth = figures["peft"], figures["unsloth"]
    return {
        "times": unsloth["tokens_per_second"] >= GOALS["times"] * plain["tokens_per_second"],
        "loss": abs(unsloth["loss"] - plain["loss"]) <= GOALS["loss"] * plain["loss"],
        "served": all(row["served"] for name, row in figures.items() if name != "device"),
    }


def main() -> None:
    """Measure, print the table, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: a tiny model, few steps; no GPU needed")
    args = parser.parse_args()
    if not args.quick and not torch.cuda.is_available():
        raise SystemExit("There is no GPU that PyTorch sees: mend its driver, or look with --quick whether this runs.")
    folder = Path(tempfile.mkdtemp())
    try:
        figures = measure(folder, args.quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    table = Table(title=f"Training on {figures['device']}")
    for column in ("engine", "tokens/s", "seconds in all", "peak MB", "loss", "served"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name, row in figures.items():
        if name != "device":
            pace = "" if row["tokens_per_second"] is None else f"{row['tokens_per_second']:,.0f}"
            memory = f"{row['memory_mb'] or 0:,.0f}"
            table.add_row(name, pace, f"{row['seconds']:.0f}", memory, f"{row['loss']:.4f}", str(row["served"]))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "met": met(figures)}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
