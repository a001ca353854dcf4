"""Measure the in-process engine beside transformers: eight people ask the demo's model at the same time.

    python benchmarks/serving.py [--json FILE] [--quick]

Both hold the same base model in float32 on one thread and answer greedily. `generate` is called for one request after
another, as a program does that guards a model with a lock; the engine batches whoever waits. Rounds are interleaved.
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
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.records import Generation, Message, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine

THREADS = 8
TOKENS = 40
GOAL = 2.0
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


def main() -> None:
    """Measure, print a table, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few requests, one round")
    args = parser.parse_args()
    found = measure(*((16, 1) if args.quick else (160, 5)))
    table = Table(title=f"Answers a second, {THREADS} people at once ({platform.machine()}, {os.cpu_count()} cores)")
    for column in ("engine", "generate, one by one", "times"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{found[name]:.1f}" for name in ("engine", "generate", "times")))
    Console().print(table)
    if args.json:
        report = {"figures": found, "met": {"times": found["times"] >= GOAL}}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
