"""Measure training jobs: beside a script written by hand, what is forgotten, and what becomes of killed jobs.

    python benchmarks/training.py [--json FILE] [--quick] [--only overhead,forgetting,kills]

On the demo's model and data. "Overhead" is a job from start to adapter, its process included, beside a plain TRL script
of the same steps on the same rows (`by_hand` below, in a process of its own as well); rounds are interleaved, medians.
"Forgetting" trains one lesson five times, with and without what is to hold on to the old tools, and asks held-out
requests. "Kills" ends a job with SIGKILL at random moments and runs it again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from langgraph_learnloop.curation.dataset import build
from langgraph_learnloop.demo.story import exam_case
from langgraph_learnloop.demo.worlds import SAMPLE_CONFIG, SHIPPED_BASE, World, sample_world
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, make_job
from langgraph_learnloop.jobs import WORKER
from langgraph_learnloop.records import Case, Dataset, Example, Generation, Job, Message, Recipe, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine

GOALS = {"overhead": 1.05, "old_slice_points": 1.0, "final_loss": 1e-5}
AT_ONCE = 32

rng = random.Random(0)


def lesson(world: World, folder: Path, count: int) -> Dataset:
    """Write a dataset of so many corrections, their variations, and what the base knows."""
    corrected = [
        Example(
            messages=(Message(role="user", content=request.text),),
            chosen=request.expected,
            origin="correction",
            review="approved",
        )
        for request in world.day1
        if request.target
    ]
    config, ratio = world.config, world.config.recipe.replay
    return build(
        corrected[:count],
        world.past,
        folder=folder,
        heldout=config.heldout,
        variations=config.variations,
        replay_ratio=ratio,
    )[0]


# -- beside a script written by hand -----------------------------------------------------------------------------------


def by_hand(data: str, steps: str, batch: str, output: str) -> None:
    """Train as the TRL documentation does it: prompts and completions, loss on the completions."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from langgraph_learnloop.improvement.lora.adapters import bf16

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    recipe = SAMPLE_CONFIG.recipe
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(SHIPPED_BASE, dtype=torch.float32),
        args=SFTConfig(
            output_dir=output,
            max_steps=int(steps),
            per_device_train_batch_size=int(batch),
            learning_rate=recipe.learning_rate,
            max_length=recipe.max_length,
            use_cpu=True,
            bf16=bf16(),  # as our job decides it
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset("json", data_files=data, split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    trainer.save_model(output)


def overhead(dataset: Dataset, folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of a job and of the script by hand, from start to adapter; medians of interleaved rounds."""
    recipe = SAMPLE_CONFIG.recipe.model_copy(update={"steps": steps})
    rows = folder / "rows.jsonl"
    rows.write_text("".join(_rendered(draw(read_examples(dataset.path), recipe))), encoding="utf-8")
    seconds: dict[str, list[float]] = {"learnloop": [], "by hand": []}
    for number in range(rounds):
        for side in rng.sample(sorted(seconds), 2):
            output = folder / f"{side} {number}"
            began = time.perf_counter()
            if side == "learnloop":
                LocalTrainer().train(
                    make_job(SHIPPED_BASE, dataset.path, recipe, output, engine="peft"), lambda _: None
                )
            else:
                _run_by_hand(rows, recipe, output)
            seconds[side].append(time.perf_counter() - began)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    return {"seconds": medians, "times": medians["learnloop"] / medians["by hand"], "steps": steps}


def _rendered(examples: Sequence[Example]) -> Iterator[str]:
    """Yield what a hand-written script would read: rendered text, for tools' arguments of two rows must not mix."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    for example in examples:
        messages = [m.openai() for m in (*example.messages, example.chosen)]
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        yield json.dumps({"prompt": prompt, "completion": whole[len(prompt) :]}) + "\n"


def _run_by_hand(rows: Path, recipe: Recipe, output: Path) -> None:
    words = [str(rows), str(recipe.steps), str(recipe.batch), str(output)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, __file__, "--by-hand", *words], check=True, env=offline, capture_output=True)


# -- what is forgotten -------------------------------------------------------------------------------------------------

HOLDS: dict[str, dict[str, Any]] = {
    "nothing": {"replay": 0.0, "strength": 1.0},
    "EWC alone": {"replay": 1.0, "ewc": 300.0, "strength": 1.0},
    "KL alone": {"replay": 1.0, "kl": 5.0, "strength": 1.0},
    "replay": {},
    "replay and EWC": {"ewc": 30.0},
}
"""What differs from the demo's recipe. EWC and KL need some old examples to hold on to: one for each correction."""


def forgetting(
    world: World, dataset: Dataset, folder: Path, ways: Sequence[str], steps: int, asked: int
) -> dict[str, Any]:
    """Return the shares of new and old held-out requests that are fully right, for each way of holding on."""
    cases = [exam_case(request) for request in world.exam]
    cases = [case for suite in ("target", "retention") for case in [c for c in cases if c.suite == suite][:asked]]
    engine = LocalEngine(SHIPPED_BASE)
    base = Release(base_model=str(SHIPPED_BASE), made_at=datetime(2026, 1, 1, tzinfo=UTC))
    found = {"before": _shares(engine, base, cases)}
    for name in ways:
        recipe = world.config.recipe.model_copy(update={"steps": steps} | HOLDS[name])
        result = LocalTrainer().train(
            make_job(SHIPPED_BASE, dataset.path, recipe, folder / name, engine="peft"), lambda _: None
        )
        release = base.model_copy(update={"adapter": result.adapter, "adapter_sha256": result.adapter_sha256})
        found[name] = _shares(engine, release, cases) | {"seconds": result.seconds}
    engine.close()
    return found


def _shares(engine: LocalEngine, release: Release, cases: Sequence[Case]) -> dict[str, float]:
    engine.load(release)
    judge = ToolCallMatch()

    def right(case: Case) -> bool:
        said = engine.generate(
            Generation(release_id=release.release_id, messages=case.messages, sampling=Sampling(max_tokens=40))
        )
        return bool(judge.judge(case, [said.message]).scores["fully_right"])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(right, cases))
    suites = {"new": "target", "old": "retention"}
    return {
        name: statistics.mean(ok for ok, case in zip(verdicts, cases, strict=True) if case.suite == suite)
        for name, suite in suites.items()
    }


# -- killed jobs -------------------------------------------------------------------------------------------------------


def kills(dataset: Dataset, folder: Path, steps: int, times: int) -> dict[str, Any]:
    """Return by how much the final loss of jobs that were killed and resumed differs from one that was not."""
    recipe = SAMPLE_CONFIG.recipe.model_copy(update={"steps": steps})

    def job(name: str) -> Job:
        return make_job(SHIPPED_BASE, dataset.path, recipe, folder / name, engine="peft")

    whole = LocalTrainer().train(job("whole"), lambda _: None)
    resumed, differences, same = [], [], 0
    for number in range(times):
        killed = job(f"killed {number}")
        _kill_after(killed, rng.uniform(0.0, 1.0) * whole.seconds)
        if finished(killed) is not None:
            continue  # it was done before
        result = LocalTrainer().train(killed, lambda _: None)
        resumed.append(result.resumed_at or 0)
        differences.append(abs((result.loss or 0.0) - (whole.loss or 0.0)))
        same += result.adapter_sha256 == whole.adapter_sha256
    return {
        "killed": len(resumed),
        "resumed_at": resumed,
        "largest_difference": max(differences, default=0.0),
        "same_adapter": same,
    }


def _kill_after(job: Job, seconds: float) -> None:
    """Start a job's worker and kill it so many seconds after its training began."""
    described = Path(f"{job.output}.json")
    described.parent.mkdir(parents=True, exist_ok=True)
    described.write_text(job.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", WORKER, str(described)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        for line in worker.stdout or ():
            if json.loads(line)["stage"] == "train":
                break
        time.sleep(seconds)
        worker.kill()


# -- the tables --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    if sys.argv[1:2] == ["--by-hand"]:
        by_hand(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few steps, one round")
    parser.add_argument("--only", default="overhead,forgetting,kills", help="which of them, with commas")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if args.quick:  # it may have to share the processor, and threads that wait would spin
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp())
    figures: dict[str, Any] = {}
    try:
        world = sample_world()
        dataset = lesson(world, folder, 6 if args.quick else 100)
        if "overhead" in args.only:
            figures["overhead"] = overhead(dataset, folder, *((4, 1) if args.quick else (120, 3)))
        if "forgetting" in args.only:
            ways = ("nothing", "replay") if args.quick else tuple(HOLDS)
            figures["forgetting"] = forgetting(world, dataset, folder, ways, *((5, 10) if args.quick else (250, 300)))
        if "kills" in args.only:
            figures["kills"] = kills(dataset, folder, *((10, 1) if args.quick else (80, 10)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(Console(), figures)
    if args.json:
        report = {"figures": figures, "met": met(figures)}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals are reached."""
    found: dict[str, bool] = {}
    if "overhead" in figures:
        found["overhead"] = figures["overhead"]["times"] <= GOALS["overhead"]
    if "forgetting" in figures:
        lost = {
            name: 100 * (figures["forgetting"]["before"]["old"] - row["old"])
            for name, row in figures["forgetting"].items()
        }
        found["forgetting"] = lost["replay"] <= GOALS["old_slice_points"] < lost["nothing"]
    if "kills" in figures:
        found["kills"] = figures["kills"]["largest_difference"] <= GOALS["final_loss"]
    return found


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the tables."""
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    if one := figures.get("overhead"):
        ours, theirs = one["seconds"]["learnloop"], one["seconds"]["by hand"]
        console.print(
            f"{one['steps']} steps from start to adapter: {ours:.1f} s, a TRL script by hand {theirs:.1f} s "
            f"({one['times']:.2f} times)."
        )
    if rows := figures.get("forgetting"):
        table = Table(title="Held-out requests fully right after one lesson")
        for column in ("held on by", "new", "old", "seconds"):
            table.add_column(column, justify="left" if column == "held on by" else "right")
        for name, row in rows.items():
            seconds = "" if "seconds" not in row else f"{row['seconds']:.0f}"
            table.add_row(name, f"{100 * row['new']:.1f}%", f"{100 * row['old']:.1f}%", seconds)
        console.print(table)
    if one := figures.get("kills"):
        console.print(
            f"{one['killed']} jobs were killed at random moments and run again: they went on from the steps "
            f"{one['resumed_at']}, their final losses differ by at most {one['largest_difference']:.0e}, and "
            f"{one['same_adapter']} adapters are the same to the last bit."
        )


if __name__ == "__main__":
    main()
