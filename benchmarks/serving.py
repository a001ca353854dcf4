"""Measure serving: answers a second beside transformers, swaps under load, and a canary's decisions by simulation.

    python benchmarks/serving.py [--json FILE] [--quick] [--only answers,swaps,vllm,canary]

"Answers": eight people ask the demo's model at the same time. Both sides hold it in float32 on one thread and answer
greedily; `generate` is called for one request after another, as a program does that guards a model with a lock, the
engine batches whoever waits. Rounds are interleaved. "Swaps" (serving_swaps.py): sixteen people while the champion
changes. "vLLM" (serving_vllm.py): the same on a real server. "Canary" (serving_canary.py): thousands of rollouts of
releases that are as good, and of such that are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import serving_canary
import serving_swaps
import serving_vllm
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.records import Generation, Message, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine

THREADS = 8
TOKENS = 40
GOAL = 3.0
"""How many times as many answers a second as `generate` the engine should give."""


def engine_answers(texts: Sequence[str]) -> Callable[[], list[Message]]:
    """Return a round of the engine: eight threads that ask one request after another."""
    engine = LocalEngine(SHIPPED_BASE)
    release = Release(base_model=engine.base_model, made_at=datetime.now(UTC))
    engine.load(release)

    def ask(text: str) -> Message:
        asked = (Message(role="user", content=text),)
        request = Generation(release_id=release.release_id, messages=asked, sampling=Sampling(max_tokens=TOKENS))
        return engine.generate(request).message

    def round_() -> list[Message]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(ask, texts))

    return round_


def generate_answers(texts: Sequence[str]) -> Callable[[], list[str]]:
    """Return a round of transformers: `generate` for one request after another."""
    tokenizer: Any = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    model: Any = AutoModelForCausalLM.from_pretrained(SHIPPED_BASE, dtype=torch.float32)

    def ask(text: str) -> str:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))

    return lambda: [ask(text) for text in texts]


def measure(count: int, rounds: int) -> dict[str, float]:
    """Return the median answers a second of both, and how they compare."""
    torch.set_num_threads(1)
    texts = [request.text for request in sample_world().exam[:count]]
    sides: dict[str, Callable[[], object]] = {"engine": engine_answers(texts), "generate": generate_answers(texts)}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for ask in sides.values():
        ask()  # the first calls make caches and kernels
    for _ in range(rounds):
        for name, ask in sides.items():
            began = time.perf_counter()
            ask()
            rates[name].append(count / (time.perf_counter() - began))
    medians = {name: statistics.median(some) for name, some in rates.items()}
    return {**medians, "times": medians["engine"] / medians["generate"]}


def answers(quick: bool) -> dict[str, float]:
    """Return the answers a second of both sides."""
    return measure(*((16, 1) if quick else (160, 5)))


def met_answers(figures: dict[str, float]) -> dict[str, bool]:
    """Return whether the engine is fast enough."""
    return {f"answers >= {GOAL:g} times": figures["times"] >= GOAL}


def show_answers(console: Console, figures: dict[str, float]) -> None:
    """Print the answers a second."""
    table = Table(title=f"Answers a second, {THREADS} people at once")
    for column in ("engine", "generate, one by one", "times"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{figures[name]:.1f}" for name in ("engine", "generate", "times")))
    console.print(table)


class Part(NamedTuple):
    """One part of the benchmark."""

    measure: Callable[[bool], dict[str, Any]]
    """Returns the figures; quickly, if asked."""
    met: Callable[[dict[str, Any]], dict[str, bool]]
    """Returns which goals they reach."""
    show: Callable[[Console, dict[str, Any]], None]
    """Prints them."""


PARTS = {
    "answers": Part(answers, met_answers, show_answers),
    "swaps": Part(serving_swaps.swaps, serving_swaps.met, serving_swaps.show),
    "vllm": Part(serving_vllm.swaps, serving_vllm.met, serving_vllm.show),
    "canary": Part(serving_canary.canary, serving_canary.met, serving_canary.show),
}
"""By the name that `--only` takes."""


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few requests and rollouts, one round")
    parser.add_argument("--only", default=",".join(PARTS), help="which of them, with commas")
    args = parser.parse_args()
    console = Console()
    console.print(f"{platform.machine()}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {}
    met: dict[str, bool] = {}
    for name in (name for name in PARTS if name in args.only.split(",")):
        figures[name] = PARTS[name].measure(args.quick)
        met |= PARTS[name].met(figures[name])
        PARTS[name].show(console, figures[name])
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "met": met}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
