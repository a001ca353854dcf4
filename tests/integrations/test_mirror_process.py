"""With the setting a process beside the agent's tells the mirror: there is one of it, and it ends with the agent's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integrations.loopback_langfuse import Langfuse

AGENT = """
import sys, time
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph_learnloop import LearnLoop, mirror_process
mirror_process._LOOK = 0.2
loop = LearnLoop("l.db", agent="support")
graph = StateGraph(MessagesState).add_node("answer", lambda state: {"messages": [("ai", "Soon.")]})
agent = loop.watch(graph.add_edge(START, "answer").add_edge("answer", END).compile())
for number in range(int(sys.argv[1])):
    agent.invoke({"messages": [("user", "Hi")]}, {"configurable": {"thread_id": str(number)}})
loop.flush()
print("asked", flush=True)
sys.stdin.readline()
"""
PATIENCE = 180.0


@pytest.fixture
def server() -> Iterator[Langfuse]:
    """Yield a Langfuse."""
    with Langfuse() as made:
        yield made


@pytest.fixture
def agent(server: Langfuse, tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Yield what starts a process that runs an agent, and stops when its input is closed."""
    (tmp_path / "learnloop.toml").write_text(
        'mirror = "langgraph_learnloop.integrations.langfuse_traces:LangfuseTraces"\n'
    )
    keys = {"LANGFUSE_PUBLIC_KEY": server.public_key, "LANGFUSE_SECRET_KEY": server.secret_key}
    environ = {**os.environ, **keys, "LANGFUSE_BASE_URL": server.url, "PYTHONPATH": _without_typer(tmp_path)}
    started: list[subprocess.Popen[str]] = []

    def start(runs: int) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", AGENT, str(runs)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(line, cwd=tmp_path, env=environ, text=True, **pipes)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _without_typer(folder: Path) -> str:
    """Return a path on which typer is not installed, so to speak: the extra `langfuse` does not bring it."""
    (folder / "path").mkdir()
    (folder / "path" / "typer.py").write_text("raise ImportError('No module named typer')")
    return os.pathsep.join([str(folder / "path"), *filter(None, [os.environ.get("PYTHONPATH")])])


def until(what: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def beside(store: Path) -> list[int]:
    """Return the processes that tell the mirror of a store."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            ours = place.name.isdecimal() and b"mirroring(holder=" in (place / "cmdline").read_bytes()
            if ours and Path(os.readlink(place / "cwd")) == store.parent:
                found.append(int(place.name))
        except OSError:
            continue  # it ended
    return found


def _another(store: Path, known: Sequence[int]) -> int:
    """Wait for a process that tells the mirror of a store and is none of those that are known; return it."""
    until(lambda: set(beside(store)) - set(known))
    return next(one for one in beside(store) if one not in known)


def _parent(process: int) -> int:
    """Return who started a process."""
    return int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
def test_it_is_there_once_and_ends_with_the_agents(
    server: Langfuse, agent: Callable[[int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Processes that run the agent have one beside them; when its own ends or is killed, another one gets one."""
    first, second, third = agent(2), agent(1), agent(1)
    until(lambda: len(server.traces()) == 4)
    mine = beside(tmp_path / "l.db")
    assert len(mine) == 1
    began = time.monotonic()
    first.communicate("\n")
    assert time.monotonic() - began < 30.0  # the mirror may have a minute to hang; the interpreter takes a while, too
    its = _another(tmp_path / "l.db", mine)  # the first may still tell what is left
    holding = next(one for one in (second, third) if _parent(its) == one.pid)
    os.kill(holding.pid, signal.SIGKILL)
    _another(tmp_path / "l.db", [*mine, its])
    last = second if holding is third else third
    assert last.poll() is None
    last.communicate("\n")
    until(lambda: not beside(tmp_path / "l.db"))
    assert not server.duplicates()
