"""Measure what is stored and taken in: bytes of a thread, runs a second, memory. A part of `capture.py`."""

from __future__ import annotations

import gc
import os
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

import zstandard
from capture_sides import Side, conversation, langfuse_side, langsmith_side, sink
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import StoreError

LENGTHS = (1, 10, 25, 50, 100)
"""Turns of the threads whose storage is measured."""
BURST = 1_000
"""Runs that are taken in before a flush."""


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
    turn = conversation(side)
    messages = [turn() for _ in range(turns)][-1]
    pack = zstandard.ZstdCompressor()
    return sum(len(pack.compress(message.model_dump_json().encode())) for message in messages)


def _file_bytes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def ingest(url: str | Path, runs: int, **settings: Any) -> dict[str, float]:
    """Return small runs a second, of CPU and of time, that are recorded and stored; a flush after each burst."""
    burnt = took = 0.0
    with LearnLoop(url, config=LoopConfig(agent="bench", **settings)) as loop:
        for first in range(0, runs, BURST):
            prepared = [_SmallRun(number) for number in range(first, first + BURST)]
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
        recorder.on_chain_start(
            None, {"messages": [self.asked]}, run_id=root, name="graph", metadata=self.metadata, tags=[]
        )
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
