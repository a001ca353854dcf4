"""Measure what recording adds to a run, and to a turn late in a thread. A part of `capture.py`."""

from __future__ import annotations

import gc
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capture_agent import PAYLOAD, TURNS, Scripted, look_up, prepare, rng, words
from capture_sides import Side, conversation
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from langgraph_learnloop import LearnLoop, LoopConfig

EARLY = 5
"""The turn that is early in a thread."""


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


def growth(folder: Path, turns: int, threads: int) -> dict[str, float]:
    """Return CPU milliseconds that recording adds to a turn, early in a thread and at its end.

    A recorded and an unrecorded thread take their turns side by side; what is returned are medians of the differences
    in five turns of every pair of threads.
    """
    added: dict[int, list[float]] = {EARLY: [], turns: []}
    for number in range(threads):
        with LearnLoop(folder / f"growth-{number}.db", config=LoopConfig(agent="bench")) as loop:
            turn = {True: conversation(Side([loop.recorder], loop.flush)), False: conversation(Side([]))}
            for count in (PAYLOAD, 200, 100, 20):
                prepare(count, 4 * turns)
            for at in range(1, turns + 1):
                costs = {recorded: _cpu(turn[recorded]) for recorded in rng.sample([True, False], 2)}
                for wanted, found in added.items():
                    if wanted - 4 <= at <= wanted:
                        found.append(1000 * (costs[True] - costs[False]))
    medians = {at: statistics.median(some) for at, some in added.items()}
    return {"early": medians[EARLY], "late": medians[turns], "times": medians[turns] / medians[EARLY]}


def _cpu(turn: Callable[[], object]) -> float:
    """Return the CPU seconds that a turn takes."""
    began = time.process_time()
    turn()
    return time.process_time() - began
