"""Agents under a real LangGraph server: it brings checkpointer, thread ids and an event loop of its own.

`make newest` sets it up; without it these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.store.opened import open_store

ROOT = Path(__file__).parents[2]
SERVER = Path(os.environ.get("LEARNLOOP_NEWEST", ".venv-newest")).absolute() / "bin" / "langgraph"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER.exists(), reason="there is no LangGraph server: make newest sets it up"),
]

AGENT = """
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.testing import ScriptedModel

def find_order(order: int) -> str:
    "Return where an order is."
    return f"Order {order} is on its way."

turn = [
    AIMessage("", tool_calls=[{"name": "find_order", "args": {"order": 5}, "id": "c1"}]),
    AIMessage("On its way."),
]
loop = LearnLoop("learnloop.db", agent="support")
graph = loop.watch(create_agent(ScriptedModel(script=turn * 3), [find_order]))
"""


@contextmanager
def served(folder: Path) -> Iterator[Any]:
    """Serve the graph of a folder's langgraph.json, give a client, and look through the server's log at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(SERVER), "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    told = folder / "server.log"
    with told.open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}", server, told)
            yield get_sync_client(url=f"http://127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)
    text = told.read_text()
    assert "Blocking" not in text, text[-3000:]
    assert "Traceback" not in text, text[-3000:]


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{address}/ok", timeout=1).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"The server did not start: {log.read_text()[-2000:]}")


def _asked(client: Any, question: str, assistant: str) -> tuple[str, list[str]]:
    """Ask twice and wait, and once by a stream; return the thread and the runs, as the server names them."""
    thread = client.threads.create()["thread_id"]
    given: Any = {"messages": [{"role": "user", "content": question}]}
    for _ in range(2):
        assert client.runs.wait(thread, assistant, input=given)["messages"][-1]["content"]
    parts = list(client.runs.stream(thread, assistant, input=given, stream_mode=["messages-tuple", "values"]))
    assert not [part for part in parts if part.event == "error"], parts
    return thread, [run["run_id"] for run in client.runs.list(thread)]


def _corrected(folder: Path, run: str) -> None:
    """Tell the store in a process of its own what was wrong with a run."""
    code = (
        "import sys; from langgraph_learnloop import LearnLoop\nwith LearnLoop(sys.argv[1], agent='support') as loop:\n"
    )
    code += "    loop.feedback(run=sys.argv[2], score=-1, correction='It is lost.')"
    words = [sys.executable, "-c", code, str(folder / "learnloop.db"), run]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


def _learns(folder: Path, thread: str, runs: list[str]) -> None:
    """While the server serves, another process reads its runs and corrects one, which is flagged then."""
    with LearnLoop(folder / "learnloop.db", agent="support") as loop:
        for _ in range(100):  # what writes is behind the answer
            found = loop.store.runs.recent(10)
            if len(found) == len(runs):
                break
            time.sleep(0.1)
        assert {run.run_id for run in found} == set(runs)
        assert {run.thread_id for run in found} == {thread}
        assert {run.outcome for run in found} == {"finished"}
        _corrected(folder, runs[0])
        worst = loop.flagged()[0]  # that the same was asked three times is noticed, too
        assert (worst.run_id, worst.reasons[-1]) == (runs[0], "It was corrected by somebody.")


def test_the_servers_runs_are_recorded_under_its_ids(tmp_path: Path) -> None:
    """A watched `create_agent` at module level is served; its runs can be corrected by the ids the server gave."""
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "langgraph.json").write_text('{"dependencies": ["."], "graphs": {"support": "./agent.py:graph"}}')
    with served(tmp_path) as client:
        thread, runs = _asked(client, "Where is order 5?", "support")
        assert len(runs) == 3
        _learns(tmp_path, thread, runs)
    with open_store(tmp_path / "learnloop.db") as store:
        kinds = [[step.kind for step in run.steps] for run in store.runs.recent(10)]
    assert all(one.count("model") == 2 and one.count("tool") == 1 for one in kinds), kinds


def test_a_template_is_served(tmp_path: Path) -> None:
    """The support agent's folder is served as it is, and the loop's own model answers in it."""
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.db*")
    folder = Path(shutil.copytree(ROOT / "examples/templates/support_agent", tmp_path / "desk", ignore=ignored))
    with served(folder) as client:
        thread, runs = _asked(client, "Where is order 1017?", "support")
        _learns(folder, thread, runs)
    with open_store(folder / "learnloop.db") as store:
        assert all(run.release for run in store.runs.recent(10))
