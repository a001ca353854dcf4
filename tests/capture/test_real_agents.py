"""Agents that nobody here wrote, under the recorder: what they did is what is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelCallLimitMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.records import Run

CONFIG: dict[str, Any] = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LearnLoop]:
    """Yield a loop on an empty store."""
    with LearnLoop(tmp_path / "learnloop.db", agent="real") as made:
        yield made


@pytest.fixture
def script(scripted: Any) -> Callable[..., Any]:
    """Return a maker of models that say one thing after another."""

    def make(*answers: AIMessage) -> Any:
        left = list(answers)
        return scripted(answer=lambda told: left.pop(0))

    return make


def _checked(run: Run) -> list[tuple[str, str]]:
    """Return a run's models and tools, after looking at how its steps hang together."""
    ids = {run.run_id, *(step.step_id for step in run.steps)}
    assert len(ids) == len(run.steps) + 1
    assert all(step.parent_id in ids for step in run.steps)
    asked = {call.id: step.step_id for step in run.steps if step.kind == "model" for call in step.tool_calls}
    for step in run.steps:
        if step.kind == "tool":
            assert step.asked_by == asked[step.tool_calls[0].id]
    return [(step.kind, step.name) for step in run.steps if step.kind != "node"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_create_agent_with_middleware(loop: LearnLoop, script: Any, calls: Any) -> None:
    """Limits and retries around models and tools: each attempt is told, the retried tool call twice."""
    failed: list[int] = []

    def shaky(a: int) -> int:
        """Fail once."""
        if not failed:
            failed.append(a)
            raise ConnectionError("gone")
        return a

    middleware = [
        ToolRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False),
        ModelCallLimitMiddleware(run_limit=5),
    ]
    agent = create_agent(script(calls("shaky", {"a": 1}), AIMessage("done")), [shaky], middleware=middleware)
    loop.watch(agent).invoke({"messages": [("user", "go")]}, CONFIG)
    (run,) = loop.runs()
    assert _checked(run) == [("model", "scripted-1"), ("tool", "shaky"), ("tool", "shaky"), ("model", "scripted-1")]
    assert [step.error for step in run.steps if step.kind == "tool"] == ["ConnectionError: gone", None]
    assert (run.outcome, run.answer) == ("finished", "done")


def test_a_person_in_the_loop(loop: LearnLoop, script: Any, calls: Any) -> None:
    """The pause for approval and what came after are two runs of one conversation, and no failure."""
    middleware = [HumanInTheLoopMiddleware(interrupt_on={"add": True})]
    model = script(calls("add", {"a": 1, "b": 2}), AIMessage("3"))
    agent = loop.watch(create_agent(model, [add], middleware=middleware, checkpointer=InMemorySaver()))
    agent.invoke({"messages": [("user", "1+2")]}, CONFIG)
    agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    after, before = loop.runs()
    assert (before.outcome, after.outcome, after.resumes) == ("interrupted", "finished", before.run_id)
    assert [(s.kind, s.name) for s in before.steps if s.kind != "node"] == [("model", "scripted-1")]
    assert [(s.kind, s.name) for s in after.steps if s.kind != "node"] == [("tool", "add"), ("model", "scripted-1")]
    assert (after.question, after.answer) == ("1+2", "3")


def test_supervisor(loop: LearnLoop, script: Any, calls: Any) -> None:
    """A supervisor hands over to a worker and back: one run, with the worker's calls inside the worker."""
    langgraph_supervisor = pytest.importorskip("langgraph_supervisor")
    worker = create_agent(script(calls("add", {"a": 1, "b": 2}), AIMessage("It is 3.")), [add], name="adder")
    boss = script(calls("transfer_to_adder", {}), AIMessage("The adder says 3."))
    graph = langgraph_supervisor.create_supervisor([worker], model=boss).compile()
    loop.watch(graph).invoke({"messages": [("user", "1+2")]}, CONFIG)
    (run,) = loop.runs()
    assert _checked(run) == [
        ("model", "scripted-1"),
        ("tool", "transfer_to_adder"),
        ("model", "scripted-1"),
        ("tool", "add"),
        ("model", "scripted-1"),
        ("model", "scripted-1"),
    ]
    assert (run.outcome, run.answer) == ("finished", "The adder says 3.")
    names = {step.step_id: step.name for step in run.steps}
    (added,) = [step for step in run.steps if step.name == "add"]
    assert added.namespace is not None
    assert added.namespace.startswith("adder:")
    assert names[str(added.parent_id)] == "tools"


def test_swarm(loop: LearnLoop, script: Any, calls: Any) -> None:
    """Agents that hand over to each other keep one conversation over two runs."""
    langgraph_swarm = pytest.importorskip("langgraph_swarm")
    to_bob = langgraph_swarm.create_handoff_tool(agent_name="Bob")
    alice = create_agent(script(calls("transfer_to_bob", {})), [to_bob], name="Alice")
    bob = create_agent(
        script(AIMessage("Ahoy."), calls("add", {"a": 1, "b": 2}), AIMessage("3, ahoy.")), [add], name="Bob"
    )
    swarm = langgraph_swarm.create_swarm([alice, bob], default_active_agent="Alice")
    graph = loop.watch(swarm.compile(checkpointer=InMemorySaver()))
    graph.invoke({"messages": [("user", "to Bob")]}, CONFIG)
    graph.invoke({"messages": [("user", "1+2")]}, CONFIG)
    second, first = loop.runs()
    assert _checked(first) == [("model", "scripted-1"), ("tool", "transfer_to_bob"), ("model", "scripted-1")]
    assert _checked(second) == [("model", "scripted-1"), ("tool", "add"), ("model", "scripted-1")]
    assert (first.answer, second.answer) == ("Ahoy.", "3, ahoy.")
    assert first.outcome == second.outcome == "finished"


def test_deep_agent(loop: LearnLoop, script: Any, calls: Any) -> None:
    """A deep agent writes a file and sends a subagent out: all of it is in one run."""
    deepagents = pytest.importorskip("deepagents")
    model = script(
        calls("write_file", {"file_path": "/note.txt", "content": "1+2"}),
        calls("task", {"description": "add 1 and 2", "subagent_type": "adder"}),
        AIMessage("All done: 3."),
    )
    helper = {
        "name": "adder",
        "description": "Adds.",
        "system_prompt": "You add.",
        "tools": [add],
        "model": script(calls("add", {"a": 1, "b": 2}), AIMessage("3")),
    }
    agent = deepagents.create_deep_agent(model=model, subagents=[helper])
    loop.watch(agent).invoke({"messages": [("user", "1+2")]}, CONFIG)
    (run,) = loop.runs()
    told = _checked(run)
    assert [name for kind, name in told if kind == "tool"] == ["write_file", "task", "add"]
    assert [kind for kind, _ in told].count("model") == 5
    parents = {step.step_id: step for step in run.steps}
    (added,) = [step for step in run.steps if step.name == "add"]
    above = []
    step: Any = added
    while step is not None:
        above.append(step.name)
        step = parents.get(step.parent_id)
    assert "task" in above
    assert (run.outcome, run.answer) == ("finished", "All done: 3.")
