"""Measure swaps on a real vLLM on this processor while people talk to the agent. A part of `serving.py`.

Most swaps flip the pointer between two adapters that the server holds. Every 49th brings an adapter that it has never
seen, which takes the place of one of the two; that one is unloaded a little later. Which answer is right is known from
before: a request is used only if the adapters answer it differently, and each of them with clear margins, so that no
order in which numbers are added up can make it say something else.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from serving_swaps import GOALS, PAUSE, THREADS, adapter, crowd, figures_of, in_turns, proved, said_of
from vllm_server import KEY, PYTHON, Vllm

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling
from langgraph_learnloop.serving.live_model import LiveModel

TOKENS = 12
TEXTS = 6
SWAPS = 1_000
ROUNDS = 10
FRESH = 49
"""After so many swaps comes an adapter that the server has never seen."""
MARGIN = 0.001
"""By how much a token must be likelier than the next one, as a logarithm: many times what float32 leaves open."""


class Swaps:
    """Move the pointer, and give the server new adapters for old ones."""

    def __init__(self, loop: LearnLoop, model: LiveModel, releases: Sequence[Release], every: int) -> None:
        """Give the server the next of the releases after so many swaps."""
        self.loop, self.model, self.every = loop, model, every
        self.current, self.fresh = list(releases[:2]), list(releases[2:])
        self.over: list[Release] = []
        self.number = 0
        self.flips: list[float] = []
        self.loads: list[float] = []

    def some(self, count: int) -> None:
        """Swap so many times."""
        for _ in range(count):
            self.number += 1
            if self.number % self.every == 0 and self.fresh:
                self._load(self.fresh.pop(0))
            elif self.number % self.every == self.every // 2:
                self._unload()
            self._flip(self.current[self.number % 2])
            time.sleep(PAUSE)

    def _flip(self, release: Release) -> None:
        self.loop.store.releases.point(release.release_id, "benchmark", "benchmark")
        began = time.perf_counter()
        self.model.router.refresh()
        self.flips.append(time.perf_counter() - began)

    def _load(self, release: Release) -> None:
        began = time.perf_counter()
        self.model.engine.load(release)
        self.loads.append(time.perf_counter() - began)
        proved(self.loop, release)
        self.over.append(self.current[self.number % 2])
        self.current[self.number % 2] = release

    def _unload(self) -> None:
        while self.over:
            self.model.engine.unload(self.over.pop().release_id)


def swaps(quick: bool = False) -> dict[str, Any]:
    """Return what happens to sixteen people at once, or why that was left out."""
    if quick:
        return {"left_out": "a smoke run starts no server; the slow test of vLLM runs this part on its own"}
    if not PYTHON.exists():
        return {"left_out": "there is no environment with vLLM: `make vllm` makes it"}
    with tempfile.TemporaryDirectory() as folder:
        releases = [made(Path(folder), seed) for seed in range(1, 3 + SWAPS // FRESH)]
        with Vllm(str(SHIPPED_BASE), Path(folder, "vllm.log"), at_once=THREADS) as server:
            return measure(server.url, Path(folder), releases, SWAPS, ROUNDS)


def made(folder: Path, seed: int) -> Release:
    """Return a release with an adapter of its own: it talks nonsense, briefly, and unlike any other."""
    return adapter(folder, seed, strength=64).model_copy(update={"sampling": Sampling(max_tokens=TOKENS)})


def measure(
    url: str,
    folder: Path,
    releases: Sequence[Release],
    count: int,
    rounds: int,
    requests: int = TEXTS,
    every: int = FRESH,
) -> dict[str, Any]:
    """Return the figures of so many swaps on a server that holds the releases' base; `every` so many, one is fresh."""
    engine = VllmEngine([url], releases[0].base_model, key=KEY)
    texts, known = _told_apart(engine, releases, requests)
    with LearnLoop(folder / "learnloop.db") as loop:
        model = loop.model(engine)
        for release in releases:
            loop.store.releases.add(release)
        for release in reversed(releases[:2]):
            proved(loop, release)
        swapping = Swaps(loop, model, releases, every)
        asked = in_turns(
            lambda during: crowd(model, texts, known, during), lambda: swapping.some(count // rounds), rounds
        )
    _leave(engine, releases)
    engine.close()
    return {
        "swaps": swapping.number,
        **figures_of(asked),
        "flip_ms": 1_000 * statistics.median(swapping.flips),
        "fresh": len(swapping.loads),
        "load_ms": 1_000 * statistics.median(swapping.loads) if swapping.loads else None,
    }


def _told_apart(engine: VllmEngine, releases: Sequence[Release], requests: int) -> tuple[list[str], dict[Any, str]]:
    """Return requests that all of the releases answer differently and clearly, and their answers.

    They are asked one by one, and then all at once: who answers otherwise then is no use.
    """
    known: dict[Any, str] = {}
    for text in dict.fromkeys(request.text for request in sample_world().exam):
        known |= {(release_id, text): answer for release_id, answer in _answers(engine, releases, text).items()}
        if len(known) == requests * len(releases):
            break
    texts = [text for text in dict.fromkeys(text for _, text in known) if _stable(engine, releases, text, known)]
    if not texts:
        raise RuntimeError("There is no request that all of the adapters answer differently and clearly.")
    _leave(engine, releases)
    return texts, known


def _leave(engine: VllmEngine, releases: Sequence[Release]) -> None:
    for release in releases:
        engine.unload(release.release_id)


def _answers(engine: VllmEngine, releases: Sequence[Release], text: str) -> dict[str, str]:
    """Return each release's answer; none at all when one of them is of no use, or two are the same."""
    answers: dict[str, str] = {}
    for release in releases:
        answer = _clear(_ask(engine, release, text))
        if answer is None or answer in answers.values():
            return {}
        answers[release.release_id] = answer
    return answers


def _stable(engine: VllmEngine, releases: Sequence[Release], text: str, known: dict[Any, str]) -> bool:
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda release: said_of(_ask(engine, release, text).message.content, ()), releases)
        return all(said == known[release.release_id, text] for release, said in zip(releases, answers, strict=True))


def _ask(engine: VllmEngine, release: Release, text: str) -> Generated:
    engine.load(release)
    asked = (Message(role="user", content=text),)
    return engine.generate(
        Generation(release_id=release.release_id, messages=asked, sampling=release.sampling, logprobs=2)
    )


def _clear(answer: Generated) -> str | None:
    """Return what was said; None where a token was nearly another one, or where a call begins.

    A call that cannot be read the model writes again, less predictably.
    """
    near = any(token.top[0][1] - token.top[1][1] < MARGIN for token in answer.logprobs)
    return None if near or "<tool_call>" in answer.message.content else said_of(answer.message.content, ())


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals were reached."""
    if "left_out" in figures:
        return {}
    p99 = figures["p99_ms"]
    return {
        "vLLM: no request failed or mixed": figures["failed_or_mixed"] == 0,
        "vLLM: p99 during swaps <= 1.2 times": p99["swapping"] <= GOALS["p99"] * p99["steady"],
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures, or why there are none."""
    if "left_out" in figures:
        console.print(f"vLLM was left out: {figures['left_out']}.")
        return
    table = Table("swaps under sixteen threads, a vLLM server", "", title="Swaps on vLLM")
    for name, figure in _rows(figures):
        table.add_row(name, figure)
    console.print(table)


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    p50, p99 = figures["p50_ms"], figures["p99_ms"]
    yield "swaps, of them to an adapter that was new there", f"{figures['swaps']:,}, {figures['fresh']}"
    yield "requests meanwhile", f"{figures['requests']:,}"
    yield "requests that failed, or were not wholly the release's", str(figures["failed_or_mixed"])
    yield "median of a request: steady, while swapping", f"{p50['steady']:.0f}, {p50['swapping']:.0f} ms"
    yield "99th percentile of a request: steady, while swapping", f"{p99['steady']:.0f}, {p99['swapping']:.0f} ms"
    yield "the pointer's flip in a process that serves, median", f"{figures['flip_ms']:.2f} ms"
    if figures["load_ms"] is not None:
        yield "a new adapter is there after, median", f"{figures['load_ms']:.0f} ms"
