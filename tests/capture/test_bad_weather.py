"""Bad weather, for real: a full disk, a store that may not be written, kills, exits, huge and broken values."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.capture import interning, spool, trace, writer
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Run
from tests.disk import fill

_AGENT = """
import os, random, sys, threading, time
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_learnloop import LearnLoop, LoopConfig

def say(state):
    said = state["messages"][-1].content
    special(said)
    return {"messages": [AIMessage("yes " + said)]}

def special(said):
    pass

def ask(said):
    return agent.invoke({"messages": [("user", said)]}, {"configurable": {"thread_id": "t"}})

loop = LearnLoop(sys.argv[1], agent="support")
agent = loop.watch(StateGraph(MessagesState).add_node("say", say).add_edge(START, "say").compile())
"""


def _python(code: str, store: Path, **more: Any) -> subprocess.Popen[str]:
    source = _AGENT + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", source, str(store)], stdout=subprocess.PIPE, text=True, **more)


def _finished(code: str, store: Path, **more: Any) -> str:
    process = _python(code, store, stderr=subprocess.PIPE, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def _runs(store: Path) -> dict[str, Run]:
    """Return the runs by their question; each is whole, or this fails."""
    with LearnLoop(store, agent="support") as loop:
        assert loop.flush(30)
        found = {str(run.question): run for run in loop.runs(limit=1_000_000)}
        for said, run in found.items():
            assert run.answer == f"yes {said}"
            assert [step.name for step in run.steps] == ["say"]
            assert [m.content for m in loop.store.runs.conversation(run.messages)] == [said, f"yes {said}"]
    return found


def _speaker(loop: LearnLoop) -> Callable[[str], Any]:
    graph = StateGraph(MessagesState)
    graph.add_node("say", lambda state: {"messages": [AIMessage(f"yes {state['messages'][-1].content}")]})
    agent = loop.watch(graph.add_edge(START, "say").compile())
    return lambda said: agent.invoke({"messages": [("user", said)]}, {"configurable": {"thread_id": "t"}})


def test_a_full_disk_hurts_nobody_and_loses_nothing(small_disk: Path) -> None:
    """Store and spill share a disk that fills up: the agent answers, the trouble shows, and room brings all in."""
    with LearnLoop(small_disk / "learnloop.db", agent="support") as loop:
        ask = _speaker(loop)
        ask("before")
        assert loop.flush()
        ballast = fill(small_disk)
        noise = random.Random(0)
        said = [f"{number} {noise.randbytes(2000).hex()}" for number in range(50)]
        for one in said:
            assert ask(one)["messages"][-1].content == f"yes {one}"
        assert not loop.flush(2)
        health = loop.health()
        assert health.problem is not None
        assert "disk is full" in health.problem
        assert (health.pending, health.dropped) == (50, {})
        ballast.unlink()
        assert loop.flush(30)
        assert (loop.health().recorded, loop.health().problem) == (51, None)
    assert set(_runs(small_disk / "learnloop.db")) == {"before", *said}


def test_closing_on_a_full_disk_counts_what_is_lost(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What neither store nor disk takes when the process ends is counted, and what was stored is whole."""
    loop = LearnLoop(small_disk / "learnloop.db", agent="support")
    ask = _speaker(loop)
    ask("before")
    assert loop.flush()
    ballast = fill(small_disk)
    noise = random.Random(0)
    for _ in range(20):
        ask(noise.randbytes(4000).hex())
    loop.close()
    assert "the store does not take it, and neither does the disk" in caplog.text
    health = loop.health()
    assert health.dropped["runs that neither store nor disk took"] + health.spilled == 20
    ballast.unlink()
    assert len(_runs(small_disk / "learnloop.db")) == 1 + health.spilled


@pytest.fixture
def nobodys_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder of a user without rights, who this process is meanwhile: root may write whatever is read-only."""
    if not hasattr(os, "seteuid") or os.getuid() != 0:
        pytest.skip("only root can become a user without rights")
    with LearnLoop(tmp_path / "first.db") as loop:  # imports what the user without rights may not read
        _speaker(loop)("x")
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    yield folder
    os.seteuid(0)
    shutil.rmtree(folder)


def test_a_store_that_may_not_be_written_any_more(nobodys_folder: Path) -> None:
    """The store becomes read-only in mid-work: runs wait, and come in when it is writable again."""

    def permit(writing: bool) -> None:
        nobodys_folder.chmod(0o755)
        for place in nobodys_folder.glob("learnloop.db*"):
            place.chmod((0o755 if writing else 0o555) if place.is_dir() else (0o644 if writing else 0o444))
        nobodys_folder.chmod(0o755 if writing else 0o555)

    with LearnLoop(nobodys_folder / "learnloop.db", agent="support") as loop:
        ask = _speaker(loop)
        ask("1")
        assert loop.flush()
        loop.store.close()  # else the connection that is open goes on writing
        permit(writing=False)
        for said in ("2", "3", "4"):
            ask(said)
        assert not loop.flush(2)
        health = loop.health()
        assert "it is read-only" in str(health.problem)
        assert (health.pending, health.dropped) == (3, {})
        permit(writing=True)
        assert loop.flush(30)
    assert set(_runs(nobodys_folder / "learnloop.db")) == {"1", "2", "3", "4"}


def _talk(store: Path, life: int, out: int) -> None:
    """Ask and flush without end, and write how many runs are confirmed."""
    loop, when = LearnLoop(store, agent="support"), random.Random(life)
    ask, number = _speaker(loop), 0
    while True:
        for _ in range(when.randint(1, 40)):
            ask(f"{life}/{number}")
            number += 1
        if loop.flush():
            os.write(out, b"%d\n" % number)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
def test_kills_at_random_moments_lose_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """Several processes in a row are killed while they write; every confirmed run is there, and none is half."""
    store, confirmed, when = tmp_path / "learnloop.db", set[str](), random.Random(0)
    for life in range(5):
        reading, writing = os.pipe()
        child = os.fork()  # an interpreter of its own takes ten times as long to start, and dies no harder
        if not child:
            try:
                _talk(store, life, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with open(reading, encoding="ascii") as told:
            said = [told.readline()]
            threading.Timer(when.uniform(0, 0.3), os.kill, (child, signal.SIGKILL)).start()
            said += told.readlines()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        confirmed |= {f"{life}/{number}" for number in range(int(said[-1]))}
    assert confirmed <= set(_runs(store))


@pytest.mark.parametrize(
    ("code", "there"),
    [
        ("def special(said):\n    if said == '3': sys.exit(0)\nfor n in range(9): ask(str(n))", 3),
        ("def special(said):\n    if said == '3': time.sleep(600)\nfor n in range(3): ask(str(n))\n"
         "threading.Thread(target=ask, args=('3',), daemon=True).start(); time.sleep(0.3)", 3),
        ("threading.Thread(target=lambda: [ask(str(n)) for n in range(20)]).start()", 20),
    ],
    ids=["a tool that exits", "a thread in mid-run", "a thread that outlives the main one"],
)  # fmt: skip
def test_an_exit_in_mid_run_keeps_what_had_ended(tmp_path: Path, code: str, there: int) -> None:
    """The interpreter ends while a run is open: it ends at once, and what had ended before is stored."""
    store = tmp_path / "learnloop.db"
    began = time.monotonic()
    _finished(code, store)
    assert time.monotonic() - began < 60
    with LearnLoop(store, agent="support") as loop:
        ended = [run for run in loop.runs() if run.outcome == "finished"]
        assert {run.question for run in ended} == {str(number) for number in range(there)}
        assert all(run.outcome != "finished" or run.answer for run in loop.runs())


def test_a_huge_tool_result_is_cut_in_the_store_and_whole_for_the_agent(
    scripted: Any, calls: Any, tmp_path: Path
) -> None:
    """10 MB reach the agent as they are; the store keeps a part, with a mark and the hash of the whole."""
    huge = "0123456789" * 1_000_000

    def fetch() -> str:
        """Fetch everything."""
        return huge

    def answer(told: list[Any]) -> AIMessage:
        return AIMessage(f"{len(told[-1].content)} read") if told[-1].type == "tool" else calls("fetch", {})

    path = tmp_path / "learnloop.db"
    with LearnLoop(path, agent="support") as loop:
        agent = loop.watch(create_agent(scripted(answer=answer), [fetch]))
        assert agent.invoke({"messages": [("user", "go")]})["messages"][-1].content == "10000000 read"
        assert loop.flush(60)
        (run,) = loop.runs()
        (kept,) = [m for m in loop.store.runs.conversation(run.messages) if m.role == "tool"]
        assert run.answer == "10000000 read"
        assert len(kept.content) < 1_100_000
        assert kept.content.startswith("0123456789")
        assert hashlib.sha256(huge.encode()).hexdigest()[:32] in kept.content
        assert loop.health().dropped == {}
    assert path.stat().st_size < 3_000_000


class _Broken(BaseCallbackHandler):
    """Somebody else's handler, which fails at everything."""

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("broken handler")

    on_chain_end = on_llm_end = on_tool_end = on_chain_start


def test_a_handler_that_fails_beside_ours_changes_nothing(tmp_path: Path) -> None:
    """A broken handler of somebody else, before or after ours, costs no run."""
    with LearnLoop(tmp_path / "learnloop.db", agent="support") as loop:
        graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [AIMessage("yes x")]})
        agent = graph.add_edge(START, "say").compile()
        for handlers in ([_Broken(), loop.recorder], [loop.recorder, _Broken()]):
            agent.invoke({"messages": [("user", "x")]}, {"callbacks": handlers})
        assert [(run.answer, len(run.steps)) for run in loop.runs()] == [("yes x", 1)] * 2


def test_a_recorder_that_fails_never_hurts_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the recorder itself is logged by LangChain; the agent's answer is what it would have been."""
    with LearnLoop(tmp_path / "learnloop.db", agent="support") as loop:
        ask = _speaker(loop)

        def fail(event: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(loop.recorder, "_put", fail)
        assert ask("x")["messages"][-1].content == "yes x"
        monkeypatch.undo()
        ask("y")
        assert [run.question for run in loop.runs()] == ["y"]


class _Odd:
    """A value that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def test_what_cannot_be_serialised_costs_no_run(tmp_path: Path) -> None:
    """Messages may carry anything; their text is kept, and the run is told."""
    round_about: dict[str, Any] = {}
    round_about["self"] = round_about
    odd = [
        AIMessage("a", additional_kwargs={"x": _Odd()}),
        AIMessage("b", response_metadata={"x": round_about}),
        ToolMessage("c", tool_call_id="1", artifact=threading.Lock()),
        AIMessage("d\ud800", additional_kwargs={"n": 10**400, "f": float("nan"), 1: {2: b"\xff"}}),
    ]
    with LearnLoop(tmp_path / "learnloop.db", agent="support") as loop:
        graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": odd})
        loop.watch(graph.add_edge(START, "say").compile()).invoke({"messages": [("user", "x")]})
        (run,) = loop.runs()
        said = [m.content for m in loop.store.runs.conversation(run.messages)]
        assert said[:4] == ["x", "a", "b", "c"]
        assert said[4].startswith("d")
        assert loop.health().dropped == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("way", "runs", "nodes"), [("threads", 10_000, 1), ("asyncio", 1_000, 2)])
def test_ten_thousand_runs_are_all_there(tmp_path: Path, way: str, runs: int, nodes: int) -> None:
    """The agent counts what it does; the store agrees, step by step, in 32 threads and, of fewer runs, in 32 tasks."""
    did: Counter[tuple[str, str]] = Counter()

    def one(state: MessagesState) -> dict[str, Any]:
        did[str(state["messages"][-1].content), "one"] += 1
        return {"messages": [AIMessage("half")]}

    def two(state: MessagesState) -> dict[str, Any]:
        said = str(state["messages"][0].content)
        did[said, "two"] += 1
        return {"messages": [AIMessage(f"yes {said}")]}

    # Agents that wait for no model fill the usual queue of 10,000 events faster than it is emptied.
    config = LoopConfig(agent="support", queue_size=1_000_000)
    with LearnLoop(tmp_path / "learnloop.db", config=config) as loop:
        graph = StateGraph(MessagesState).add_node("one", one).add_node("two", two).add_edge("one", "two")
        agent = loop.watch(graph.add_edge(START, ["two", "one"][nodes - 1]).compile())

        def question(number: int) -> tuple[Any, Any]:
            thread = {"configurable": {"thread_id": f"t{number % 32}"}}
            return {"messages": [("user", f"{number % 32} {number}")]}, thread

        def work(lane: int) -> None:
            for number in range(lane, runs, 32):
                agent.invoke(*question(number))

        async def awork() -> None:
            async def lane(first: int) -> None:
                for number in range(first, runs, 32):
                    await agent.ainvoke(*question(number))

            await asyncio.gather(*(lane(first) for first in range(32)))

        if way == "threads":
            threads = [threading.Thread(target=work, args=(lane,)) for lane in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            asyncio.run(awork())
        assert loop.flush(120)
        assert loop.health().dropped == {}
        stored: Counter[tuple[str, str]] = Counter()
        for run in loop.store.runs.every():
            said = str(run.question)
            assert run.thread_id == f"t{said.split()[0]}"
            assert run.answer == f"yes {said}"
            assert [step.parent_id for step in run.steps] == [run.run_id] * nodes
            stored.update((said, step.name) for step in run.steps)
        assert stored == did
        assert len(did) == nodes * runs


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("store", ["answers", "refuses"])
def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """When all that is remembered is full, 9,000 runs more cost no memory, with the store or without."""
    monkeypatch.setattr(spool, "_FIRST_PAUSE", 0.01)
    for module, name, most in (
        (interning, "_REMEMBERED", 2_000), (trace, "_ENDED_IDS", 5_000), (trace, "_OPEN_TRACES", 1_000),
        (writer, "_TOLD", 1_000), (spool, "_PENDING_RUNS", 100),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, most)
    with LearnLoop(tmp_path / "learnloop.db", agent="support") as loop:
        if store == "refuses":
            monkeypatch.setattr(loop.store.runs, "add_runs", _refuse)
        sizes = []
        for number in range(12_000):
            _tell(loop, number)
            if number % 500 == 499:
                loop.flush(30)
            if number in (3_000, 11_999):
                gc.collect()
                sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
        health = loop.health()
        assert health.dropped == {}
        assert (health.recorded or health.pending) == 12_000
        monkeypatch.undo()
    assert sizes[1] - sizes[0] < 9


def _refuse(recorded: Any) -> None:
    raise StoreError("The store is gone.")


def _tell(loop: LearnLoop, number: int) -> None:
    """Call the recorder as LangGraph does for a graph of one node."""
    root, node = uuid.uuid4(), uuid.uuid4()
    asked, told = HumanMessage(f"question {number}", id=f"q{number}"), AIMessage(f"answer {number}", id=f"a{number}")
    metadata = {"thread_id": f"t{number % 100}", "langgraph_node": "say", "langgraph_checkpoint_ns": f"say:{node}"}
    recorder = loop.recorder
    recorder.on_chain_start({}, {"messages": [asked]}, run_id=root, name="graph", metadata=metadata, tags=[])
    recorder.on_chain_start({}, {}, run_id=node, parent_run_id=root, name="say", metadata=metadata, tags=[])
    recorder.on_chain_end({"messages": [told]}, run_id=node, parent_run_id=root)
    recorder.on_chain_end({"messages": [asked, told]}, run_id=root)
