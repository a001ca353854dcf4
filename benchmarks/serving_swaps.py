"""Measure swaps while people talk to the agent, and how soon a rollback is everywhere. A part of `serving.py`."""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AIMessage, HumanMessage
from rich.console import Console
from rich.table import Table

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.demo.worlds import SHIPPED_BASE, sample_world
from langgraph_learnloop.records import Generation, Message, Release, Rollout, Sampling
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.testing import MemoryEngine

if TYPE_CHECKING:
    from langgraph_learnloop.serving.local_engine import LocalEngine

THREADS = 16
PROCESSES = 4
TOKENS = 40
TEXTS = 8
"""Requests that people choose from."""
PAUSE = 0.05
"""Seconds from one swap to the next."""
ROUNDS = 5
"""How often people are watched for a while without swaps and for as long with them; medians of the rounds are told."""
REASONS = 20
"""Of requests that went wrong so many are told about."""
GOALS = {"p99": 1.2, "flip_ms": 1.0, "resident_ms": 25.0, "overhead_ms": 0.2, "rollback_s": 2.0}


class Asked(NamedTuple):
    """One request of somebody."""

    seconds: float
    wrong: str | None
    """Why it failed, or that it was not answered wholly by the release that it says; None where all is well."""


def adapter(folder: Path, seed: int, strength: int = 16, base: str = str(SHIPPED_BASE)) -> Release:
    """Write an adapter with random weights, and return its release."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=8, lora_alpha=strength, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    place = folder / f"adapter-{seed}"
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(place)
    digest = hashlib.sha256((place / "adapter_model.safetensors").read_bytes()).hexdigest()
    return Release(base_model=base, adapter=str(place), adapter_sha256=digest, made_at=datetime.now(UTC))


def swaps(quick: bool = False) -> dict[str, Any]:
    """Return what happens to sixteen people at once while the champion changes again and again."""
    from langgraph_learnloop.serving.local_engine import LocalEngine

    count, rounds, processes = (4, 1, 2) if quick else (1_000, ROUNDS, PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        config = LoopConfig(sampling=Sampling(max_tokens=TOKENS))
        with LearnLoop(Path(folder) / "learnloop.db", config=config) as loop:
            engine = LocalEngine(SHIPPED_BASE)
            model = loop.model(engine)
            two = [adapter(Path(folder), seed) for seed in (1, 2)]
            for release in two:
                loop.store.releases.add(release)
                engine.load(release)
            texts, known = _told_apart(engine, two, 2 if quick else TEXTS)
            for release in reversed(two):
                proved(loop, release)
            flips: list[tuple[float, float]] = []
            asked = in_turns(
                lambda during: crowd(model, texts, known, during),
                lambda: _flip(loop, model, two, count // rounds, flips),
                rounds,
            )
            resident = _resident(engine, two, texts[0], 5 if quick else 60)
            engine.close()
        return {
            "swaps": len(flips),
            **figures_of(asked),
            "commit_ms": 1_000 * statistics.median(commit for commit, _ in flips),
            "flip_ms": 1_000 * statistics.median(flip for _, flip in flips),
            "resident_ms": resident,
            "overhead_ms": _overhead(50 if quick else 2_000),
            "processes": processes,
            "rollback_s": _rollback(Path(folder) / "processes.db", processes, seconds=1.5 if quick else 3.5),
        }


def proved(loop: LearnLoop, release: Release) -> None:
    """Put a release in service once: a process gives new threads only what it has loaded and proved."""
    loop.store.releases.point(release.release_id, "first", "benchmark")
    loop.follow()


def in_turns(
    watch: Callable[[Callable[[], object]], list[Asked]], swap: Callable[[], object], rounds: int
) -> dict[str, list[list[Asked]]]:
    """Return what people asked, round by round, in times with swaps and in times as long without.

    The machine is not the same from minute to minute: so the two follow each other, each of them first in its turn.
    """
    asked: dict[str, list[list[Asked]]] = {"steady": [], "swapping": []}
    seconds = [1.0]

    def swapping() -> None:
        began = time.perf_counter()
        swap()
        seconds[0] = time.perf_counter() - began

    def steady() -> None:
        time.sleep(seconds[0])

    watch(steady)  # the first requests make caches and connections
    for number in range(rounds):
        for during in (swapping, steady) if number % 2 == 0 else (steady, swapping):
            asked[during.__name__].append(watch(during))
    return asked


def figures_of(asked: dict[str, list[list[Asked]]]) -> dict[str, Any]:
    """Return what goes for any engine: how many requests there were, how many went wrong, how long they took."""
    every = [one for rounds in asked.values() for some in rounds for one in some]
    return {
        "requests": sum(map(len, asked["swapping"])),
        "failed_or_mixed": sum(one.wrong is not None for one in every),
        "wrong": sorted({one.wrong for one in every if one.wrong is not None})[:REASONS],
        "p99_ms": {name: statistics.median(map(_p99, rounds)) for name, rounds in asked.items()},
        "p50_ms": {name: statistics.median(map(_p50, rounds)) for name, rounds in asked.items()},
    }


def crowd(model: Any, texts: Sequence[str], known: dict[Any, str], during: Callable[[], object]) -> list[Asked]:
    """Return what sixteen people asked meanwhile, without a pause, each time in a new thread."""
    asked: list[Asked] = []
    over = threading.Event()

    def person(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            text, began = texts[turn % len(texts)], time.perf_counter()
            try:
                said: AIMessage = model.invoke(
                    [HumanMessage(text)], {"metadata": {"thread_id": f"{id(asked)}-{number}-{turn}"}}
                )
                release = said.response_metadata["learnloop_release"]
                answer, due = said_of(said.text, said.tool_calls), known[release, text]
                wrong = None if answer == due else f"{release} said {answer!r} to {text!r}, and not {due!r}"
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a request that failed
                wrong = f"{type(error).__name__}: {error}"
            asked.append(Asked(time.perf_counter() - began, wrong))

    people = [threading.Thread(target=person, args=(number,)) for number in range(THREADS)]
    for one in people:
        one.start()
    try:
        during()
    finally:
        over.set()
        for one in people:
            one.join()
    return asked


def _flip(
    loop: LearnLoop, model: LiveModel, two: Sequence[Release], count: int, took: list[tuple[float, float]]
) -> None:
    for number in range(count):
        release = two[(number + 1) % 2]
        began = time.perf_counter()
        loop.store.releases.point(release.release_id, "benchmark", "benchmark")
        stored = time.perf_counter()
        model.router.refresh()
        took.append((stored - began, time.perf_counter() - stored))
        time.sleep(PAUSE)


def _told_apart(engine: LocalEngine, two: Sequence[Release], count: int) -> tuple[list[str], dict[Any, str]]:
    """Return requests that the two releases answer differently, in calls that can be read, and their answers."""
    known: dict[Any, str] = {}
    for text in (request.text for request in sample_world().exam):
        answers = [_answer(engine, release, text) for release in two]
        if answers[0] != answers[1] and not any("<tool_call>" in answer for answer in answers):
            known |= {(release.release_id, text): answer for release, answer in zip(two, answers, strict=True)}
        if len(known) == 2 * count:
            break
    return list(dict.fromkeys(text for _, text in known)), known


def _answer(engine: LocalEngine, release: Release, text: str) -> str:
    message = engine.generate(_request(release, text)).message
    return said_of(message.content, [{"name": call.name, "args": call.args} for call in message.tool_calls])


def _request(release: Release, text: str, tokens: int = TOKENS) -> Generation:
    asked = (Message(role="user", content=text),)
    return Generation(release_id=release.release_id, messages=asked, sampling=Sampling(max_tokens=tokens))


def said_of(text: str, calls: Sequence[Any]) -> str:
    """Return an answer in a form that can be compared."""
    return f"{text} {[(call['name'], call['args']) for call in calls]}"


def _p99(asked: Sequence[Asked]) -> float:
    return 1_000 * statistics.quantiles([one.seconds for one in asked], n=100)[98]


def _p50(asked: Sequence[Asked]) -> float:
    return 1_000 * statistics.median(one.seconds for one in asked)


def _resident(engine: LocalEngine, two: Sequence[Release], text: str, times: int) -> float:
    """Return how much longer the first token takes right after the other release answered, in milliseconds."""
    took: dict[bool, list[float]] = {True: [], False: []}
    for number in range(times):
        for changed in (True, False):
            release = two[number % 2]
            engine.generate(_request(two[(number + changed) % 2], text, 1))
            began = time.perf_counter()
            engine.generate(_request(release, text, 1))
            took[changed].append(time.perf_counter() - began)
    return 1_000 * (statistics.median(took[True]) - statistics.median(took[False]))


def _overhead(count: int) -> float:
    """Return what LiveModel and router add to an engine that answers at once, in milliseconds: medians."""
    with tempfile.TemporaryDirectory() as folder, LearnLoop(Path(folder) / "l.db") as loop:
        engine = MemoryEngine({"hello": "Hi."})
        model = loop.model(engine)
        config: Any = {"metadata": {"thread_id": "one"}}
        request = _request(loop.champion, "hello")
        took: dict[str, list[float]] = {"model": [], "engine": []}
        for _ in range(count):
            began = time.perf_counter()
            model.invoke("hello", config)
            between = time.perf_counter()
            engine.generate(request)
            took["model"].append(between - began)
            took["engine"].append(time.perf_counter() - between)
    return 1_000 * (statistics.median(took["model"]) - statistics.median(took["engine"]))


# -- a rollback across processes ---------------------------------------------------------------------------------------


def _serve(store: str, ready: Any, stop: Any, last: Any) -> None:
    """Ask again and again in threads that began with the bad release, and note when it answered last."""
    with LearnLoop(store) as loop:
        model = loop.model(MemoryEngine())
        turn = 0
        ready.set()
        while not stop.is_set():
            turn += 1
            thread = {"metadata": {"thread_id": f"{multiprocessing.current_process().pid}-{turn % 50}"}}
            said = model.invoke("hello", thread)
            if said.response_metadata["learnloop_release"] != loop.store.releases.history()[0].release_id:
                last.value = time.time()
            time.sleep(0.005)


def _rollback(store: Path, processes: int, seconds: float) -> float:
    """Return the seconds from a rollback to the last answer of the bad release in any of several processes.

    They are watched for so many `seconds` after it.
    """
    with LearnLoop(store) as loop:
        loop.model(MemoryEngine())
        good = loop.champion
        bad = Release(base_model="memory", instructions="Be rude.", made_at=datetime.now(UTC))
        loop.store.releases.add(bad)
        now = datetime.now(UTC)
        ids = {"candidate": bad.release_id, "champion": good.release_id}
        loop.store.rollouts.start(
            Rollout(rollout_id="r1", **ids, percent=100, state="canary", started_at=now, stage_at=now)
        )
        context = multiprocessing.get_context("spawn")
        stop, last = context.Event(), context.Value("d", 0.0)
        ready = [context.Event() for _ in range(processes)]
        people = [context.Process(target=_serve, args=(str(store), one, stop, last), daemon=True) for one in ready]
        for one in people:
            one.start()
        for one in ready:
            one.wait(60)
        time.sleep(1.5)
        decided = time.time()
        loop.rollback("The benchmark says so.")
        time.sleep(seconds)
        stop.set()
        for one in people:
            one.join(30)
    return max(0.0, float(last.value) - decided)


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals were reached."""
    p99 = figures["p99_ms"]
    return {
        "no request failed or mixed": figures["failed_or_mixed"] == 0,
        "p99 during swaps <= 1.2 times": p99["swapping"] <= GOALS["p99"] * p99["steady"],
        **{f"{name} <= {GOALS[name]:g}": figures[name] <= GOALS[name] for name in list(GOALS)[1:]},
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table("swaps under sixteen threads, the in-process engine", "", title="Swaps")
    for name, figure in _rows(figures):
        table.add_row(name, figure)
    console.print(table)


def _rows(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    p99 = figures["p99_ms"]
    yield "swaps, requests meanwhile", f"{figures['swaps']:,}, {figures['requests']:,}"
    yield "requests that failed, or were answered by two releases", str(figures["failed_or_mixed"])
    yield "99th percentile of a request: steady, while swapping", f"{p99['steady']:.0f}, {p99['swapping']:.0f} ms"
    yield "the pointer's flip in a process that serves, median", f"{figures['flip_ms']:.2f} ms"
    yield "its commit to the store before, synced, beside sixteen writers", f"{figures['commit_ms']:.1f} ms"
    yield "a resident adapter after another one", f"{figures['resident_ms']:+.1f} ms"
    yield "LiveModel and router over the engine", f"{figures['overhead_ms']:.2f} ms"
    yield (
        f"last answer of a release after its rollback, {figures['processes']} processes",
        f"{figures['rollback_s']:.2f} s",
    )
