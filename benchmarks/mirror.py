"""Measure the Langfuse mirror: how fast it tells, whether each run arrives once, and what the agent notices.

    python benchmarks/mirror.py [--json FILE] [--quick] [--only speed,once,agent]

The server is on this machine, in a process of its own, and takes spans as Langfuse does; it keeps no contents. A run is
an agent with six tool turns of 2 kB, 27 observations, whose generations show the whole conversation. What the agent
notices is measured in blocks of runs that take turns: recorded only, told by a thread of the same process, and told by
a process beside it, as the setting `mirror` has it.
"""

from __future__ import annotations

import os
import statistics
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from capture_agent import PAYLOAD, TURNS, Scripted, look_up, prepare, rng, words
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langfuse_server import Running, running
from parts import Part
from parts import run as run_parts
from rich.console import Console
from rich.table import Table

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces
from langgraph_learnloop.integrations.langfuse_wire import Wire
from langgraph_learnloop.mirroring import Mirroring
from langgraph_learnloop.records import Interned, Recorded, Run

GOALS = {"runs_per_cpu_second": 200, "agent_ms": 0.5}
SPEC = "langgraph_learnloop.integrations.langfuse_traces:LangfuseTraces"


def opened(folder: str, name: str = "runs", mirror: str | None = None) -> LearnLoop:
    """Return a loop on a file of its own."""
    return LearnLoop(Path(folder) / f"{name}.db", config=LoopConfig(agent="bench", mirror=mirror))


def mirror(server: Running, settles: float = 30.0) -> LangfuseTraces:
    """Return the mirror on a server."""
    return LangfuseTraces(Wire("pk", "sk", server.url), kinds=("run",), settles=settles)


def recorded(loop: LearnLoop, runs: int) -> None:
    """Run an agent with six tool turns so often, and store that."""
    agent = loop.watch(create_agent(Scripted(), [look_up]))
    for _ in range(runs):
        run_once(agent)
    loop.flush(60)


def run_once(agent: Any) -> float:
    """Run the agent once and return the seconds that its caller waited."""
    for count, times in ((PAYLOAD, TURNS), (100, 2), (20, TURNS + 1)):
        prepare(count, times)
    config: Any = {"configurable": {"thread_id": uuid.uuid4().hex}}
    began = time.perf_counter()
    agent.invoke({"messages": [HumanMessage(words(100))]}, config)
    return time.perf_counter() - began


def copied(run: Run) -> Run:
    """Return a run as another one: with ids of its own."""
    ids = {run.run_id: str(uuid.uuid4()), **{step.step_id: str(uuid.uuid4()) for step in run.steps}}
    steps = [
        step.model_copy(update={"step_id": ids[step.step_id], "parent_id": ids.get(step.parent_id or "")})
        for step in run.steps
    ]
    return run.model_copy(update={"run_id": ids[run.run_id], "steps": tuple(steps)})


def speed(runs: int) -> dict[str, float]:
    """Return how many runs of six tool turns a second, and a CPU second, are told."""
    with TemporaryDirectory() as folder, running() as server, opened(folder) as loop:
        mirroring = Mirroring(loop.store, mirror(server), "bench")
        recorded(loop, runs)
        began, cpu = time.perf_counter(), time.process_time()
        mirroring.step()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        seen = server.seen()
    assert (seen["traces"], seen["twice"]) == (runs, 0), seen
    return {"runs_per_second": runs / seconds, "runs_per_cpu_second": runs / cpu, "spans_per_run": seen["spans"] / runs}


def once(runs: int) -> dict[str, float]:
    """Return what arrived of runs through a server that fails a fifth of the requests and restarts twice."""
    with TemporaryDirectory() as folder, running() as server, opened(folder) as loop:
        mirroring = Mirroring(loop.store, mirror(server, settles=1.0), "bench", seconds=0.1)
        recorded(loop, 1)
        model = loop.runs()[0]
        for start in range(0, runs - 1, 500):
            loop.store.runs.add_runs([Recorded(copied(model), Interned()) for _ in range(min(500, runs - 1 - start))])
        server.fail(0.2)
        began = time.perf_counter()
        mirroring.start()
        for share in (1 / 3, 2 / 3):
            while server.seen()["traces"] < share * runs:
                time.sleep(0.1)
            server.restart()
        while mirroring.health().waiting and time.perf_counter() - began < 1_800:
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        mirroring.stop()
        health, seen = mirroring.health(), server.seen()
    expected = runs * (len(model.steps) + 1)
    failed = sum(count for kind, count in seen["requests"].items() if kind != "taken")
    return {
        "runs": runs,
        "missing": runs - seen["traces"] + (expected - seen["spans"]),
        "twice": seen["twice"],
        "refused": health.refused,
        "failed_requests": failed / max(1, sum(seen["requests"].values())),
        "seconds": seconds,
    }


def agent(rounds: int, block: int = 40) -> dict[str, float]:
    """Return milliseconds that a run takes its caller: median of the blocks' medians, and what each way adds."""
    waits: dict[str, list[float]] = {"recorded": [], "thread": [], "process": []}
    with TemporaryDirectory() as folder, running() as server:
        os.environ.update(LANGFUSE_PUBLIC_KEY="pk", LANGFUSE_SECRET_KEY="sk", LANGFUSE_BASE_URL=server.url)
        sides = {name: opened(folder, name, SPEC if name == "process" else None) for name in waits}
        agents = {name: loop.watch(create_agent(Scripted(), [look_up])) for name, loop in sides.items()}
        run_once(agents["process"])
        while not server.seen()["traces"]:  # the process begins
            time.sleep(0.1)
        for number in range(rounds + 1):
            for name in rng.sample(sorted(waits), len(waits)):
                mirroring = sides[name].mirror(mirror(server)) if name == "thread" else None
                waited = [run_once(agents[name]) for _ in range(block)]
                sides[name].flush(60)
                if mirroring is not None:
                    mirroring.stop()
                while name == "process" and sides[name].store.outbox.backlog("langfuse").waiting:
                    time.sleep(0.05)  # it is not to tell while another side is measured
                if number:  # the first round warms up
                    waits[name].append(1000 * statistics.median(waited))
        told = server.seen()["traces"]
        for loop in sides.values():
            loop.close()
    assert told > rounds * block, told
    bare = waits["recorded"]
    added = {name: [one - other for one, other in zip(waits[name], bare, strict=True)] for name in waits}
    noise = statistics.quantiles([abs(one - statistics.median(bare)) for one in bare], n=4)[2] if rounds > 1 else 0.0
    return {
        "recorded_ms": statistics.median(bare),
        "added_by_thread_ms": statistics.median(added["thread"]),
        "added_by_process_ms": statistics.median(added["process"]),
        "noise_ms": noise,
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """Print the figures of a part."""
    table = Table("what", "figure", title="the Langfuse mirror")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}".rstrip("0").rstrip("."))
    console.print(table)


if __name__ == "__main__":
    run_parts(
        __doc__,
        {
            "speed": Part(
                lambda quick: speed(20 if quick else 1_000),
                lambda found: {"runs_per_cpu_second": found["runs_per_cpu_second"] >= GOALS["runs_per_cpu_second"]},
                show,
            ),
            "once": Part(
                lambda quick: once(200 if quick else 10_000),
                lambda found: {"each_once": not (found["missing"] or found["twice"] or found["refused"])},
                show,
            ),
            "agent": Part(
                lambda quick: agent(1, 3) if quick else agent(15),
                lambda found: {"agent": found["added_by_process_ms"] <= max(GOALS["agent_ms"], found["noise_ms"])},
                show,
            ),
        },
    )
