"""Measure the in-process engine beside `generate` of transformers and PEFT. A part of `serving.py`.

Eight people ask at the same time. Both sides hold the model in float32 on one thread and answer greedily, with the same
prompts and the same most tokens; rounds are interleaved. The other side is what a program does that guards a model with
a lock: all adapters loaded, `set_adapter` and then `generate` for one request after another. (`transformers serve`
would be a nearer peer, but it has no way to load an adapter.) Adapters have random weights; so has the larger model,
which is made on the spot. "Next turn": a thread's second question with a long conversation before it, one person alone,
by an engine that keeps what it has read and by one that does not (`prefix_mb=0`).
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from serving_swaps import adapter

from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.records import Generation, Message, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine

THREADS = 8
ADAPTERS = 3
GOAL = 3.0
"""How many times as many answers a second as `generate` the engine should give."""
SOONER = 2.0
"""How many times as soon the first token of a next turn should come."""
TEMPLATE = (
    "{%- for m in messages -%}{{ '<|' ~ m.role ~ '|> ' ~ m.content ~ '<|end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
"""Shows the whole conversation; the demo's own shows its last request."""


class Load(NamedTuple):
    """Who is asked what."""

    releases: Sequence[Release]
    """Asked in turn."""
    texts: Sequence[str]
    tokens: int
    """Most tokens of an answer."""

    @property
    def work(self) -> list[tuple[Release, str]]:
        """Return what is asked of whom."""
        return [(self.releases[number % len(self.releases)], text) for number, text in enumerate(self.texts)]


@contextmanager
def engine_answers(load: Load) -> Iterator[Callable[[], object]]:
    """Give a round of the engine: eight threads that ask one request after another."""
    engine = LocalEngine(load.releases[0].base_model, threads=1)
    for release in load.releases:
        engine.load(release)

    def ask(one: tuple[Release, str]) -> Message:
        return engine.generate(request(one[0], [Message(role="user", content=one[1])], load.tokens)).message

    with ThreadPoolExecutor(THREADS) as pool:
        yield lambda: list(pool.map(ask, load.work))
    engine.close()


@contextmanager
def generate_answers(load: Load) -> Iterator[Callable[[], object]]:
    """Give a round of transformers and PEFT: `set_adapter` and `generate` for one request after another."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = load.releases[0].base_model
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for release in (one for one in load.releases if one.adapter):
        if isinstance(model, PeftModel):
            model.load_adapter(release.adapter, adapter_name=release.release_id)
        else:
            model = PeftModel.from_pretrained(model, release.adapter, adapter_name=release.release_id)
    model.eval()

    def ask(one: tuple[Release, str]) -> str:
        release, text = one
        if release.adapter:
            model.set_adapter(release.release_id)
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=load.tokens, do_sample=False)
        return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))

    yield lambda: [ask(one) for one in load.work]


def request(release: Release, messages: Sequence[Message], tokens: int) -> Generation:
    """Return a greedy request."""
    sampling = Sampling(max_tokens=tokens)
    return Generation(release_id=release.release_id, messages=tuple(messages), sampling=sampling)


def measure(load: Load, rounds: int) -> dict[str, float]:
    """Return the median answers a second of both sides, and how they compare."""
    with engine_answers(load) as engine, generate_answers(load) as generate:
        torch.set_num_threads(1)
        sides = {"engine": engine, "generate": generate}
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for ask in sides.values():
            ask()  # the first calls make caches and kernels
        for _ in range(rounds):
            for name, ask in sides.items():
                began = time.perf_counter()
                ask()
                rates[name].append(len(load.texts) / (time.perf_counter() - began))
    medians = {name: statistics.median(some) for name, some in rates.items()}
    return {**medians, "times": medians["engine"] / medians["generate"]}


def next_turn(base: str, turns: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds to the first token of a next turn, read in part and in whole: medians."""
    release = bare(base)
    engines = {"kept": LocalEngine(base, threads=1), "read_again": LocalEngine(base, threads=1, prefix_mb=0)}
    took: dict[str, list[float]] = {name: [] for name in engines}
    read, texts = 0, [one.text for one in sample_world().exam]
    for engine in engines.values():
        engine.load(release)
    for number in range(rounds + 1):
        rng = random.Random(number)
        said = [rng.choice(texts) for _ in range(turns + 2)]
        talk = [Message(role="user" if at % 2 == 0 else "assistant", content=text) for at, text in enumerate(said)]
        for name in sorted(engines, reverse=bool(number % 2)):
            first = engines[name].generate(request(release, talk[:-1], 8)).message
            began = time.perf_counter()
            read = engines[name].generate(request(release, [*talk[:-1], first, user(said[-1])], 1)).input_tokens
            took[name].append(time.perf_counter() - began)
    for engine in engines.values():
        engine.close()
    medians = {name: 1_000 * statistics.median(some[1:]) for name, some in took.items()}
    return {"tokens": read, **medians, "times": medians["read_again"] / medians["kept"]}


def user(text: str) -> Message:
    """Return what a user says."""
    return Message(role="user", content=text)


def bare(base: str | Path) -> Release:
    """Return the release that is the base alone."""
    return Release(base_model=str(base), made_at=datetime.now(UTC))


def talkative(folder: Path) -> str:
    """Return a copy of the demo's model that is shown whole conversations."""
    shutil.copytree(SHIPPED_BASE, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return str(folder)


def larger(folder: Path, layers: int = 14) -> str:
    """Make a model of random weights, 67 million in 14 layers, with the demo's tokenizer, shown whole conversations."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer: Any = AutoTokenizer.from_pretrained(SHIPPED_BASE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=640,
        intermediate_size=1728,
        num_hidden_layers=layers,
        num_attention_heads=10,
        num_key_value_heads=5,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def answers(quick: bool) -> dict[str, Any]:
    """Return the answers a second of both sides, and how soon next turns begin."""
    count, rounds = (THREADS, 1) if quick else (96, 5)
    few, turns, long, tokens = (2, 1, 4, 8) if quick else (12, 5, 20, 40)
    texts = [one.text for one in sample_world().exam[:count]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        large, demo = larger(folder / "large", 1 if quick else 14), talkative(folder / "demo")
        adapters = [adapter(folder, seed) for seed in range(ADAPTERS)]
        large_adapters = [adapter(folder / "large", seed, base=large) for seed in range(ADAPTERS)]
        return {
            "one release": measure(Load([bare(SHIPPED_BASE)], texts, tokens), rounds),
            "three adapters": measure(Load(adapters, texts, tokens), rounds),
            "three adapters, 67M": measure(Load(large_adapters, texts[:few], min(tokens, 16)), min(rounds, 3)),
            "next turn": next_turn(demo, long, turns),
            "next turn, 67M": next_turn(large, long, turns),
        }


def met(figures: Mapping[str, Mapping[str, float]]) -> dict[str, bool]:
    """Return which goals were reached."""
    goals = {name: SOONER if name.startswith("next turn") else GOAL for name in figures}
    return {f"{name}: >= {goal:g} times": figures[name]["times"] >= goal for name, goal in goals.items()}


def show(console: Console, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print the answers a second, and the milliseconds to the first token."""
    answered = Table(title=f"Answers a second, {THREADS} people at once")
    first = Table(title="Milliseconds to the first token of a thread's next turn")
    for table, columns in (
        (answered, ("", "engine", "set_adapter + generate, one by one", "times")),
        (first, ("", "tokens of the conversation", "what was read is kept", "read again", "times")),
    ):
        for column in columns:
            table.add_column(column, justify="right" if column else "left")
    for name, one in figures.items():
        if name.startswith("next turn"):
            numbers = (f"{one['tokens']:.0f}", *(f"{one[key]:.1f}" for key in ("kept", "read_again", "times")))
            first.add_row(name, *numbers)
        else:
            answered.add_row(name, *(f"{one[key]:.1f}" for key in ("engine", "generate", "times")))
    console.print(answered)
    console.print("[dim]transformers serve is not beside them: it cannot load adapters.[/dim]")
    console.print(first)
