"""Measure what recording costs an agent, beside Langfuse's handler and LangSmith's tracer.

    python benchmarks/capture.py [--json FILE] [--quick] [--memory] [--postgres URL]

One run is an agent with six tool turns and 2 kB of random words in each result; the model is scripted. Every tracer
sends to a sink on this machine that answers at once; ours writes to SQLite, durably. Runs are interleaved, and what is
shown are medians of what a tracer adds to the same run without one. "Inline" is how much longer the caller waits;
"CPU" is the whole process's, background threads and the final flush included.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import platform
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import zstandard
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.table import Table

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import StoreError

TURNS = 6
"""Tool turns in a run."""
PAYLOAD = 2_000
"""Characters of a tool's result."""
LENGTHS = (1, 10, 25, 50, 100)
"""Turns of the threads whose storage is measured."""
GOALS = {"inline": 1 / 20, "cpu": 1 / 5, "runs_per_second": 2_000, "growth": 1.5}

rng = random.Random(0)
_texts: dict[int, list[str]] = {}


def words(count: int) -> str:
    """Return random words of `count` characters in all, each text once: nothing that compression could find twice."""
    if not _texts.get(count):
        prepare(count, 200)
    return _texts[count].pop()


def prepare(count: int, times: int) -> None:
    """Make texts beforehand: writing one takes as long as what is measured."""
    letters = "abcdefghijklmnopqrstuvwxyz"

    def one() -> str:
        return " ".join("".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(count // 4))[:count]

    known = _texts.setdefault(count, [])
    known += [one() for _ in range(times - len(known))]


def look_up(topic: str) -> str:
    """Return what is known about a topic."""
    return words(PAYLOAD)


class Scripted(BaseChatModel):
    """Ask for the tool a number of times, then answer."""

    turns: int = TURNS

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        since = next(i for i, message in enumerate(reversed(messages)) if message.type == "human")
        done = since // 2
        call = {"name": "look_up", "args": {"topic": words(20)}, "id": uuid.uuid4().hex}
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        told = (
            AIMessage("", tool_calls=[call], usage_metadata=usage)
            if done < self.turns
            else AIMessage(words(100), usage_metadata=usage)
        )
        return ChatResult(generations=[ChatGeneration(message=told)])

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Bind tools as a provider does."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])


class Side(NamedTuple):
    """One way of recording."""

    callbacks: list[BaseCallbackHandler]
    flush: Callable[[], object]


# -- the sink ----------------------------------------------------------------------------------------------------------


def _sink(port: Any, received: Any) -> None:
    """Answer every request at once, and count its bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                self.rfile.read(length)
            elif self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    length += size
                    self.rfile.read(size + 2)
                self.rfile.readline()
            with received.get_lock():
                received.value += length
            body = b"{}"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


@contextmanager
def sink() -> Iterator[tuple[str, Any]]:
    """Yield the address of a sink in a process of its own, and its count of bytes."""
    context = multiprocessing.get_context("spawn")
    port, received = context.Value("i", 0), context.Value("q", 0)
    process = context.Process(target=_sink, args=(port, received), daemon=True)
    process.start()
    while port.value == 0:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}", received
    finally:
        process.terminate()


# -- the sides ---------------------------------------------------------------------------------------------------------


def langfuse_side(url: str) -> Side:
    """Return Langfuse's handler."""
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

    key = f"pk-lf-{uuid.uuid4().hex}"  # there is one client for each key, with the address it was first made with
    client = Langfuse(public_key=key, secret_key="sk-lf-1", host=url, tracing_enabled=True)
    return Side([CallbackHandler(public_key=key)], client.flush)


def langsmith_side(url: str) -> Side:
    """Return LangSmith's tracer."""
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client

    client = Client(api_url=url, api_key="key")
    return Side([LangChainTracer(client=client, project_name="bench")], client.flush)


def sides(loop: LearnLoop, url: str) -> dict[str, Side]:
    """Return every side by its name."""

    def nothing() -> None:
        pass

    class Empty(BaseCallbackHandler):
        run_inline = True

    return {
        "untraced": Side([], nothing),
        "empty handler": Side([Empty()], nothing),
        "learnloop": Side([loop.recorder], loop.flush),
        "langfuse": langfuse_side(url),
        "langsmith": langsmith_side(url),
    }


# -- what is measured --------------------------------------------------------------------------------------------------


def overhead(all_sides: dict[str, Side], rounds: int) -> dict[str, dict[str, float]]:
    """Return inline and CPU milliseconds that each side adds to a run: medians of its difference to the untraced run.

    In every round each side has one run, in random order, so that a slow moment of the machine meets all alike.
    """
    agent = create_agent(Scripted(), [look_up])
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in all_sides}
    for number in range(rounds + 3):
        for count, times in ((PAYLOAD, TURNS), (100, 2), (20, TURNS + 1)):
            prepare(count, times * len(all_sides))
        gc.collect()
        for name in rng.sample(sorted(all_sides), len(all_sides)):
            cost = _run(agent, all_sides[name])
            if number >= 3:  # the first rounds warm up
                costs[name].append(cost)
    return {
        name: {
            key: 1000 * statistics.median(one[at] - bare[at] for one, bare in zip(some, costs["untraced"], strict=True))
            for at, key in enumerate(("inline", "cpu"))
        }
        | {"total_cpu": 1000 * statistics.median(cpu for _, cpu in some)}
        for name, some in costs.items()
    }


def _run(agent: Any, side: Side) -> tuple[float, float]:
    """Return seconds that the caller waited for a run, and CPU seconds that it took in all, with the flush."""
    config: Any = {"callbacks": list(side.callbacks), "configurable": {"thread_id": uuid.uuid4().hex}}
    began, cpu = time.perf_counter(), time.process_time()
    agent.invoke({"messages": [HumanMessage(words(100))]}, config)
    waited = time.perf_counter() - began
    side.flush()
    return waited, time.process_time() - cpu


def storage(lengths: tuple[int, ...], folder: Path) -> dict[str, dict[int, int]]:
    """Return bytes stored or shipped for one thread, by side and number of turns; and what a store must hold."""
    found: dict[str, dict[int, int]] = {name: {} for name in ("learnloop", "unique", "steps", "langfuse", "langsmith")}
    for turns in lengths:
        path = folder / f"storage-{turns}.db"
        with LearnLoop(path, config=LoopConfig(agent="bench")) as loop:
            empty = _file_bytes(path)
            unique = _talk(Side([loop.recorder], loop.flush), turns)
            steps = sum(len(run.steps) for run in loop.runs(limit=turns))
        found["learnloop"][turns] = _file_bytes(path) - empty
        found["unique"][turns], found["steps"][turns] = unique, steps
        for name, make in (("langfuse", langfuse_side), ("langsmith", langsmith_side)):
            with sink() as (url, received):
                side = make(url)
                _talk(side, turns)
                time.sleep(0.2)
                found[name][turns] = received.value
    return found


def _talk(side: Side, turns: int) -> int:
    """Hold one conversation of some turns; return the compressed bytes of its messages."""
    agent = create_agent(Scripted(turns=1), [look_up], checkpointer=InMemorySaver())
    config: Any = {"callbacks": list(side.callbacks), "configurable": {"thread_id": "t"}}
    for _ in range(turns):
        state = agent.invoke({"messages": [HumanMessage(words(200))]}, config)
        side.flush()
    pack = zstandard.ZstdCompressor()
    return sum(len(pack.compress(message.model_dump_json().encode())) for message in state["messages"])


def _file_bytes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def growth(folder: Path, turns: int, early: int, threads: int) -> dict[str, float]:
    """Return CPU milliseconds that recording adds to a turn, early in a thread and at its end.

    A recorded and an unrecorded thread take their turns side by side; what is returned are medians of the differences
    in five turns of every pair of threads.
    """
    added: dict[int, list[float]] = {early: [], turns: []}
    for number in range(threads):
        with LearnLoop(folder / f"growth-{number}.db", config=LoopConfig(agent="bench")) as loop:
            turn = {True: _turns(Side([loop.recorder], loop.flush)), False: _turns(Side([], lambda: None))}
            for count in (PAYLOAD, 200, 100, 20):
                prepare(count, 4 * turns)
            for at in range(1, turns + 1):
                costs = {recorded: next(turn[recorded]) for recorded in rng.sample([True, False], 2)}
                for wanted, found in added.items():
                    if wanted - 4 <= at <= wanted:
                        found.append(1000 * (costs[True] - costs[False]))
    medians = {at: statistics.median(some) for at, some in added.items()}
    return {"early": medians[early], "late": medians[turns], "times": medians[turns] / medians[early]}


def _turns(side: Side) -> Iterator[float]:
    """Yield the CPU seconds of one turn of a conversation after the other."""
    agent = create_agent(Scripted(turns=1), [look_up], checkpointer=InMemorySaver())
    config: Any = {"callbacks": list(side.callbacks), "configurable": {"thread_id": "t"}}
    while True:
        began = time.process_time()
        agent.invoke({"messages": [HumanMessage(words(200))]}, config)
        side.flush()
        yield time.process_time() - began


def ingest(url: str | Path, runs: int, at_once: int = 1_000) -> dict[str, float]:
    """Return small runs a second, of CPU and of time, that are recorded and stored; a flush every so many."""
    burnt = took = 0.0
    with LearnLoop(url, config=LoopConfig(agent="bench")) as loop:
        for first in range(0, runs, at_once):
            prepared = [_SmallRun(number) for number in range(first, first + at_once)]
            gc.collect()
            began, cpu = time.perf_counter(), time.process_time()
            for run in prepared:
                run.tell(loop.recorder)
            loop.flush(600)
            burnt, took = burnt + time.process_time() - cpu, took + time.perf_counter() - began
        stored = loop.store.runs.count()
    if stored != runs:
        raise SystemExit(f"{runs} runs were recorded, and {stored} are stored.")
    return {"per_cpu_second": runs / burnt, "per_second": runs / took}


class _SmallRun:
    """A run of a graph of one node with one model call: what LangGraph hands to callbacks, made beforehand."""

    def __init__(self, number: int) -> None:
        from langchain_core.outputs import LLMResult

        self.root, self.node, self.model = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
        self.metadata = {"thread_id": f"t{number % 100}"}
        namespace = f"say:{self.node}"
        inner = {"langgraph_node": "say", "langgraph_step": 1, "langgraph_checkpoint_ns": namespace}
        self.inner = {**self.metadata, **inner}
        self.asked = HumanMessage(f"question {number}", id=uuid.uuid4().hex)
        self.told = AIMessage(f"answer {number}", id=uuid.uuid4().hex)
        self.result = LLMResult(generations=[[ChatGeneration(message=self.told)]])

    def tell(self, recorder: Any) -> None:
        """Call the recorder as LangGraph does."""
        root, node, model, inner = self.root, self.node, self.model, self.inner
        given: dict[str, Any] = {"name": "graph", "metadata": self.metadata, "tags": []}
        recorder.on_chain_start(None, {"messages": [self.asked]}, run_id=root, **given)
        recorder.on_chain_start(None, {}, run_id=node, parent_run_id=root, name="say", metadata=inner, tags=[])
        recorder.on_chat_model_start(
            {"name": "m"}, [[self.asked]], run_id=model, parent_run_id=node, metadata=inner, tags=[]
        )
        recorder.on_llm_end(self.result, run_id=model, parent_run_id=node)
        recorder.on_chain_end({"messages": [self.told]}, run_id=node, parent_run_id=root)
        recorder.on_chain_end({"messages": [self.asked, self.told]}, run_id=root)


def memory(folder: Path, runs: int) -> dict[str, list[float]]:
    """Return the process's resident megabytes after each tenth of so many runs, the store answering and refusing."""
    found: dict[str, list[float]] = {}
    for name in ("store answers", "store refuses"):
        with LearnLoop(folder / f"memory-{name[6:]}.db", config=LoopConfig(agent="bench")) as loop:
            if name == "store refuses":
                loop._writer._spool._sink = _Refusing()
            found[name] = []
            for number in range(runs):
                _SmallRun(number).tell(loop.recorder)
                if number % 500 == 499:
                    loop.flush(60)
                if (number + 1) % (runs // 10) == 0:
                    gc.collect()
                    found[name].append(_resident())
    return found


class _Refusing:
    """A store that takes nothing."""

    def add_runs(self, recorded: Any) -> None:
        raise StoreError("The store is gone.")


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# -- the tables --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print the tables, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few runs, one round")
    parser.add_argument("--postgres", metavar="URL", help="ingest into this database as well; it must be empty")
    parser.add_argument("--memory", action="store_true", help="100,000 runs, to see that memory stays flat (Linux)")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # the sink's answers are not what the tracers' services say
    os.environ.pop("LANGSMITH_TRACING", None)
    folder = Path(tempfile.mkdtemp())
    try:
        figures = measure(folder, args.quick, args.postgres)
        if args.memory:
            figures["memory"] = memory(folder, 1_000 if args.quick else 100_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console = Console()
    show(console, figures)
    if args.json:
        report = {"figures": figures, "met": met(figures)}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, quick: bool, postgres: str | None) -> dict[str, Any]:
    """Return every figure."""
    with sink() as (url, _), LearnLoop(folder / "bench.db", config=LoopConfig(agent="bench")) as loop:
        added = overhead(sides(loop, url), 3 if quick else 200)
    figures: dict[str, Any] = {
        "added": added,
        "bytes": storage((1, 2) if quick else LENGTHS, folder),
        "growth": growth(folder, *((8, 5, 1) if quick else (50, 5, 9))),
        "ingest": {"sqlite": ingest(folder / "ingest.db", 1_000 if quick else 20_000)},
    }
    if postgres:
        figures["ingest"]["postgresql"] = ingest(postgres, 1_000 if quick else 20_000)
    return figures


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals are reached."""
    ours, theirs, stored = figures["added"]["learnloop"], figures["added"]["langfuse"], figures["bytes"]
    last = max(turns for turns in stored["learnloop"] if turns <= 50)
    allowed = 1.3 * stored["unique"][last] + 300 * stored["steps"][last]
    return {
        "inline": ours["inline"] <= GOALS["inline"] * theirs["inline"],
        "cpu": ours["cpu"] <= GOALS["cpu"] * theirs["cpu"],
        "bytes": stored["learnloop"][last] <= allowed,
        "growth": figures["growth"]["times"] <= GOALS["growth"],
        "ingest": figures["ingest"]["sqlite"]["per_cpu_second"] >= GOALS["runs_per_second"],
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the tables."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=f"Added to a run of {TURNS} tool turns, milliseconds ({machine})")
    for column in ("", "inline", "CPU, flush included"):
        table.add_column(column, justify="right" if column else "left")
    for name, cost in figures["added"].items():
        if name != "untraced":
            table.add_row(name, f"{cost['inline']:.2f}", f"{cost['cpu']:.2f}")
    console.print(table, f"Untraced, the run takes {figures['added']['untraced']['total_cpu']:.1f} ms of CPU.")
    stored = figures["bytes"]
    table = Table(title="Kilobytes stored or shipped for one thread, by turns")
    for column in ("", *map(str, stored["learnloop"])):
        table.add_column(column, justify="right" if column else "left")
    for name in ("learnloop", "langfuse", "langsmith", "unique"):
        label = "its messages, compressed one by one" if name == "unique" else name
        table.add_row(label, *(f"{size / 1000:,.0f}" for size in stored[name].values()))
    console.print(table)
    more = figures["growth"]
    console.print(f"CPU added to a turn: {more['early']:.2f} ms at turn 5, {more['late']:.2f} ms at the last.")
    for name, rate in figures["ingest"].items():
        console.print(f"Ingest into {name}: {rate['per_cpu_second']:,.0f} small runs per second of CPU.")
    for name, sizes in figures.get("memory", {}).items():
        console.print(f"Resident MB while {name}, after each tenth: {', '.join(f'{size:.0f}' for size in sizes)}.")


if __name__ == "__main__":
    main()
