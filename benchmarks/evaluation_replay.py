"""Measure replays: that they do what was recorded, touch nothing, and cost little. A part of `evaluation.py`."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.sqlite import SqliteSaver
from rich.console import Console
from rich.table import Table

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.evaluation.fidelity import SameTrajectory, case_of
from langgraph_learnloop.evaluation.replay import GraphReplay
from langgraph_learnloop.records import Case

OVERHEAD_MS = 5.0
"""Milliseconds of a replay beyond the time of its models."""
SECONDS_OF_1000 = 20.0
_QUESTIONS = 16
"""So many different questions are asked."""


class Clerk(BaseChatModel):
    """A model that answers at once, by rule: it looks up one to three orders, or answers from what it knows."""

    @property
    def _llm_type(self) -> str:
        return "clerk"

    def bind_tools(self, tools: Any, **settings: Any) -> Runnable[Any, Any]:
        """Take the tools as they are."""
        return self.bind(tools=[one.name for one in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **settings: Any,
    ) -> ChatResult:
        asked = next(m for m in reversed(messages) if isinstance(m, HumanMessage))
        number = int(str(asked.content).split()[-1])
        heard = [m for m in messages[messages.index(asked) :] if isinstance(m, ToolMessage)]
        if len(heard) < number % 4:
            call = {"name": "order", "args": {"number": number, "part": len(heard)}, "id": f"c{number}-{len(heard)}"}
            return _said(AIMessage("", tool_calls=[call]))
        return _said(AIMessage(f"{number}: " + "; ".join(str(m.content) for m in heard)))


def _said(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


class Orders:
    """A tool whose answer changes with every call, so that only the recording can give it again."""

    def __init__(self) -> None:
        """Begin without a call."""
        self.calls = 0
        self._lock = threading.Lock()

    @property
    def tool(self) -> BaseTool:
        """Return the tool."""

        @tool
        def order(number: int, part: int) -> str:
            """Look up an order."""
            with self._lock:
                self.calls += 1
                return f"order {number}/{part} as of call {self.calls}"

        return order


def replays(quick: bool = False) -> dict[str, Any]:
    """Record runs in threads of three turns, replay every one, and compare; time 1,000 replays and the bare graph."""
    count = 60 if quick else 1_000
    with tempfile.TemporaryDirectory() as folder:
        orders, saver = Orders(), SqliteSaver(sqlite3.connect(Path(folder) / "threads.db", check_same_thread=False))
        graph = create_agent(Clerk(), [orders.tool], checkpointer=saver)
        with LearnLoop(Path(folder) / "learnloop.db") as loop:
            watched = loop.watch(graph)
            for i in range(count):
                watched.invoke(_asked(i), _thread(f"user-{i // 3}"))
            cases = [case_of(run, loop.store.runs) for run in loop.runs(count)]
            before, ran = list(saver.conn.iterdump()), orders.calls
            how = {"runs": loop.store.runs, "mask": loop.policy.fit}
            alone, together = (_timed(graph, cases, threads, how) for threads in (1, 16))
            writes, live = int(list(saver.conn.iterdump()) != before), orders.calls - ran
            bare = _bare(graph, count)
    results = together["results"]
    return {
        "runs": len(cases),
        "same": sum(result.scores.get("same") is True for result in results),
        "from_checkpoint": sum(result.started == "checkpoint" for result in results),
        "tool_answers": sum(message.role == "tool" for result in results for message in result.got),
        "writes_in_users_threads": writes,
        "live_tool_calls": live,
        "overhead_ms": alone["overhead_ms"],
        "bare_graph_ms": bare,
        "seconds_of_1000": {"1": alone["ms"], "16": together["ms"]},
    }


def met(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which goals were reached."""
    return {
        "every replay does the same": figures["same"] == figures["from_checkpoint"] == figures["runs"],
        "nothing written, nothing run": not figures["writes_in_users_threads"] and not figures["live_tool_calls"],
        "overhead <= 5 ms": figures["overhead_ms"] <= OVERHEAD_MS,
        "1,000 replays <= 20 s": figures["seconds_of_1000"]["16"] <= SECONDS_OF_1000,
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table("replays of recorded runs with the same release", "", title="Replay")
    seconds = figures["seconds_of_1000"]
    rows = {
        "runs (threads of three turns, none to three tool calls, SQLite checkpoints)": figures["runs"],
        "started from their own checkpoint": figures["from_checkpoint"],
        "same trajectory": figures["same"],
        "tool calls answered from the recording": figures["tool_answers"],
        "tool calls that ran": figures["live_tool_calls"],
        "writes in the users' threads": figures["writes_in_users_threads"],
        "beyond the model's own time, median": f"{figures['overhead_ms']:.1f} ms",
        "the bare graph for such a run, median": f"{figures['bare_graph_ms']:.1f} ms",
        "1,000 replays, one at a time": f"{seconds['1']:.1f} s",
        "1,000 replays, sixteen at a time": f"{seconds['16']:.1f} s",
    }
    for name, figure in rows.items():
        table.add_row(name, str(figure))
    console.print(table)


def _timed(graph: Any, cases: Sequence[Case], threads: int, how: dict[str, Any]) -> dict[str, Any]:
    replay = GraphReplay(graph, SameTrajectory(how["mask"]), threads=threads, **how)
    began = time.perf_counter()
    results = replay.run("the same", cases)
    wall = time.perf_counter() - began
    own = [(result.seconds or 0.0) - (result.model_seconds or 0.0) for result in results]
    return {"results": results, "ms": 1_000 * wall / len(cases), "overhead_ms": 1_000 * statistics.median(own)}


def _bare(graph: Any, count: int) -> float:
    """Return what the user's own graph takes for such a run, in milliseconds: the median, models included."""
    took = []
    for i in range(min(count, 200)):
        began = time.perf_counter()
        graph.invoke(_asked(i), _thread(f"bare-{i}"))
        took.append(time.perf_counter() - began)
    return 1_000 * statistics.median(took)


def _asked(number: int) -> dict[str, Any]:
    return {"messages": [("user", f"where is order {number % _QUESTIONS}")]}


def _thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}
