"""The recorder on a real PostgreSQL, which goes away and comes back."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.testing import ScriptedModel
from tests import postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """Yield a running server."""
    yield from postgres.server()


@pytest.fixture
def url(server: postgres.Server) -> str:
    """Return the URL of an empty database."""
    return server.database(f"t{uuid.uuid4().hex}")


def _loop(url: str, folder: Path) -> LearnLoop:
    return LearnLoop(url, config=LoopConfig(agent="a", folder=str(folder)))


def _agent(loop: LearnLoop, scripted: Any) -> Any:
    return loop.watch(create_agent(scripted(answer=lambda told: AIMessage(f"yes {len(told)}")), []))


def _ask(agent: Any, number: int) -> None:
    config = {"configurable": {"thread_id": str(number)}}
    agent.invoke({"messages": [("user", f"q{number}"), ("ai", "a"), ("user", f"more {number}")]}, config)


def test_the_run_before_is_found_in_postgres(url: str, tmp_path: Path) -> None:
    """What is asked of the driver itself is asked in its own words."""
    with LearnLoop(url, config=LoopConfig(agent="a", folder=str(tmp_path))) as loop:
        agent = loop.watch(create_agent(ScriptedModel(script=["Soon.", "On Monday."]), []))
        for question in ("Where is my order 5?", "so where is my order 5"):
            agent.invoke({"messages": [("user", question)]}, {"configurable": {"thread_id": "t"}})
        assert [flag.reasons for flag in loop.flagged()] == [
            ("The user asked nearly the same again: 'so where is my order 5'.",)
        ]
        newest, oldest = loop.runs()
        assert loop.store.runs.following([oldest])[oldest.run_id] == newest


def test_runs_come_back_from_postgres(url: str, scripted: Any, tmp_path: Path) -> None:
    """Runs, lists of messages, feedback and flags are the same as with a file."""
    with _loop(url, tmp_path) as loop:
        agent = _agent(loop, scripted)
        for number in range(20):
            _ask(agent, number)
        assert len(loop.runs()) == 20
        loop.feedback(thread="7", score=-1, correction="no")
        (flag,) = loop.flagged()
        run = loop.store.runs.run(flag.run_id)
        said = [message.content for message in loop.store.runs.conversation(run.messages)]
        assert said == ["q7", "a", "more 7", "yes 3"]
        assert [r.thread_id for r in loop.store.runs.every()] == [str(number) for number in range(20)]
        assert loop.store.runs.resolve(run.run_id) == run


def test_a_server_that_goes_and_comes_back_loses_nothing(
    server: postgres.Server, url: str, scripted: Any, tmp_path: Path
) -> None:
    """The agent goes on while the server is down; what it did meanwhile is there when the server is."""
    with _loop(url, tmp_path) as loop:
        agent = _agent(loop, scripted)
        _ask(agent, 0)
        assert loop.flush()
        server.stop()
        try:
            for number in range(1, 30):
                _ask(agent, number)
            assert not loop.flush(5)
            assert loop.health().problem is not None
        finally:
            server.start()
        deadline = time.monotonic() + 60
        while not loop.flush() and time.monotonic() < deadline:
            pass
        assert loop.store.runs.count() == 30
        assert loop.health().dropped == {}


def test_several_processes_record_into_one_database(url: str, tmp_path: Path) -> None:
    """Four processes that start on an empty database at once make its tables once, and lose nothing."""
    code = (
        "import sys\nfrom langchain.agents import create_agent\nfrom langgraph_learnloop import LearnLoop, LoopConfig\n"
        "from langgraph_learnloop.testing import ScriptedModel\n"
        "loop = LearnLoop(sys.argv[1], config=LoopConfig(agent='a', folder=sys.argv[2]))\n"
        "agent = loop.watch(create_agent(ScriptedModel(script=['yes']), []))\n"
        "[agent.invoke({'messages': [('user', f'{sys.argv[3]} {i}')]}) for i in range(25)]\n"
        "loop.close()"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path), str(n)]) for n in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    with _loop(url, tmp_path) as loop:
        asked = {run.question for run in loop.store.runs.every()}
    assert asked == {f"{process} {number}" for process in range(4) for number in range(25)}
