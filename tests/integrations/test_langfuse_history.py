"""What is in Langfuse becomes runs and feedback, as if it had been recorded here: over HTTP, by Langfuse's own SDK."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.importing import Imported
from langgraph_learnloop.mirrors import ForeignRun, Remark, Untold, run_of, trace_of
from langgraph_learnloop.records import Message, Run, Step, ToolCall
from langgraph_learnloop.testing import ScriptedModel
from tests.integrations.langfuse_project import Project

langfuse = pytest.importorskip("langfuse", reason="Langfuse is not installed")

from langgraph_learnloop.integrations.langfuse_history import LangfuseHistory  # noqa: E402
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces  # noqa: E402
from langgraph_learnloop.integrations.langfuse_wire import Wire  # noqa: E402

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    if city == "Atlantis":
        raise LookupError("There is no such city.")
    return f"Sunny in {city}"


@tool
def permission(question: str) -> str:
    """Ask somebody."""
    return str(interrupt({"question": question}))


def calling(*cities: str) -> AIMessage:
    calls = [{"name": "weather", "args": {"city": city}, "id": f"call-{city}"} for city in cities]
    return AIMessage("", tool_calls=calls)


def answering(text: str) -> AIMessage:
    usage: Any = {"input_tokens": 50, "output_tokens": 3, "total_tokens": 53}
    return AIMessage(text, additional_kwargs={"reasoning_content": "It is sunny."}, usage_metadata=usage)


class Agent:
    """An agent that is watched twice: by LearnLoop, and by Langfuse's own handler."""

    def __init__(self, project: Project, folder: Path, graph: Any) -> None:
        from langfuse.langchain import CallbackHandler

        self.project = project
        self.client = langfuse.Langfuse(public_key=project.key, secret_key="sk", base_url=project.url)
        self.loop = LearnLoop(folder / "recorded.db", config=LoopConfig(agent="weather", redact=False))
        self.graph = graph
        self.callbacks = [CallbackHandler(public_key=project.key), self.loop.recorder]

    def config(self, thread: str = "thread-1") -> Any:
        return {
            "callbacks": self.callbacks,
            "configurable": {"thread_id": thread},
            "tags": ["beta"],
            "metadata": {"plan": "gold", "user_id": "ada", "langfuse_session_id": "another session"},
        }

    def ask(self, question: Any, thread: str = "thread-1") -> Any:
        asked = {"messages": [("user", question)]} if isinstance(question, str) else question
        return self.graph.invoke(asked, self.config(thread))

    def recorded(self) -> list[Run]:
        self.loop.flush()
        self.client.flush()
        return list(self.loop.store.runs.every())


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    import threading

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("LANGFUSE_TRACING_ENABLED", raising=False)
    server = Project()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def agent_of(project: Project, tmp_path: Path) -> Callable[[Any], Agent]:
    return lambda graph: Agent(project, tmp_path, graph)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[LearnLoop]:
    with LearnLoop(tmp_path / "imported.db", config=LoopConfig(agent="weather", redact=False)) as loop:
        yield loop


def history_of(project: Project, **parts: Any) -> LangfuseHistory:
    parts.setdefault("sleep", lambda seconds: None)
    return LangfuseHistory(Wire(project.key, "sk", project.url), **parts)


def model_of(*script: AIMessage) -> ScriptedModel:
    return ScriptedModel(script=list(script))


def brought(loop: LearnLoop, project: Project) -> list[Run]:
    """Import all there is and return what is in the store."""
    assert loop.import_runs(history_of(project), LONG_AGO).skipped == {}
    return list(loop.store.runs.every())


TOLD = ("thread_id", "agent", "user", "question", "answer", "outcome", "tags", "release")
TOLD_OF_STEPS = ("kind", "name", "node", "superstep", "namespace", "attempt", "reasoning", "tool_calls", "steered")


def same(recorded: Run, imported: Run, one: LearnLoop, other: LearnLoop) -> None:
    """Hold an imported run against the one that our own recorder stored."""
    assert {name: getattr(imported, name) for name in TOLD} == {name: getattr(recorded, name) for name in TOLD}
    # What is Langfuse's own, its handler takes out.
    assert imported.metadata == {n: v for n, v in recorded.metadata.items() if n != "langfuse_session_id"}
    assert abs((imported.started_at - recorded.started_at).total_seconds()) < 1
    ours, theirs = _by_time(recorded), _by_time(imported)
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        assert {n: getattr(its, n) for n in TOLD_OF_STEPS} == {n: getattr(mine, n) for n in TOLD_OF_STEPS}
        assert (its.input_tokens, its.output_tokens) == (mine.input_tokens, mine.output_tokens)
        assert (its.error is None) == (mine.error is None)
        assert _place(its.parent_id, imported, theirs) == _place(mine.parent_id, recorded, ours)
        assert _place(its.asked_by, imported, theirs) == _place(mine.asked_by, recorded, ours)
        read = one.store.runs.conversation(mine.input)
        assert _texts(other.store.runs.conversation(its.input)) == _texts(read)
        assert _texts(other.store.runs.messages(its.output)) == _texts(one.store.runs.messages(mine.output))
        assert (its.tools is None) == (mine.tools is None)
        if mine.tools is not None:
            assert json.loads(other.store.runs.blob(str(its.tools))) == json.loads(one.store.runs.blob(mine.tools))
    left = one.store.runs.conversation(recorded.messages)
    assert _texts(other.store.runs.conversation(imported.messages)) == _texts(left)


def _by_time(run: Run) -> list[Step]:
    """Return steps in an order that does not hang on which of two parallel ones was first."""
    return sorted(run.steps, key=lambda step: (step.superstep or 0, step.namespace or "", step.kind != "node"))


def _place(step_id: str | None, run: Run, steps: Sequence[Step]) -> Any:
    if step_id == run.run_id:
        return "run"
    return next((place for place, step in enumerate(steps) if step.step_id == step_id), None)


def _texts(messages: Sequence[Message]) -> list[Any]:
    # Langfuse's handler leaves out a tool message's name in what models read.
    return [(m.role, m.content, m.tool_calls, m.tool_call_id) for m in messages]


def _agent(*script: AIMessage, **parts: Any) -> Any:
    return create_agent(
        model_of(*script), [weather, permission], checkpointer=InMemorySaver(), system_prompt="Be short.", **parts
    )


def test_parallel_tools(agent_of: Callable[[Any], Agent], fresh: LearnLoop, project: Project) -> None:
    """A run with two tool calls at once is the same run, whoever watched it."""
    agent = agent_of(_agent(calling("Rome", "Oslo"), answering("Sunny in both.")))
    agent.ask("How is the weather in Rome and Oslo?")
    agent.ask("And in Rome?")
    recorded = agent.recorded()
    imported = brought(fresh, project)
    assert len(recorded) == len(imported) == 2
    for one, other in zip(recorded, imported, strict=True):
        same(one, other, agent.loop, fresh)
    first = imported[0]
    assert first.trace is not None
    assert first.run_id == run_of(first.trace)
    assert first.answer == "Sunny in both."
    assert fresh.flagged() == ()


def test_async_agent(agent_of: Callable[[Any], Agent], fresh: LearnLoop, project: Project) -> None:
    """An agent that was asked from an event loop is read as well."""
    agent = agent_of(_agent(calling("Rome", "Oslo"), answering("Sunny in both.")))
    asyncio.run(agent.graph.ainvoke({"messages": [("user", "Rome and Oslo?")]}, agent.config()))
    same(agent.recorded()[0], brought(fresh, project)[0], agent.loop, fresh)


def test_subgraph(agent_of: Callable[[Any], Agent], fresh: LearnLoop, project: Project) -> None:
    """An agent inside of a graph, with nodes of its own, is folded as the recorder folds it."""
    inner = create_agent(model_of(calling("Rome"), answering("Sunny.")), [weather], name="forecaster")
    graph = StateGraph(MessagesState)
    graph.add_node("forecast", inner)
    graph.add_node("polite", lambda state: {"messages": [AIMessage("Thank you.")]})
    graph.add_edge(START, "forecast")
    graph.add_conditional_edges("forecast", lambda state: "polite")
    graph.add_edge("polite", END)
    agent = agent_of(graph.compile())
    agent.ask("Rome?")
    recorded = agent.recorded()[0]
    assert len(recorded.steps) == 8
    same(recorded, brought(fresh, project)[0], agent.loop, fresh)


def test_interrupt_and_resume(agent_of: Callable[[Any], Agent], fresh: LearnLoop, project: Project) -> None:
    """A pause for a person is no failure, and what comes after it is a run of its own."""
    asks = AIMessage("", tool_calls=[{"name": "permission", "args": {"question": "May I?"}, "id": "p1"}])
    agent = agent_of(_agent(asks, answering("Done.")))
    agent.ask("Do it.")
    agent.ask(Command(resume="yes"))
    recorded, imported = agent.recorded(), brought(fresh, project)
    assert [run.outcome for run in imported] == ["interrupted", "finished"]
    for one, other in zip(recorded, imported, strict=True):
        same(one, other, agent.loop, fresh)
    assert fresh.flagged() == ()


def test_failing_tool(agent_of: Callable[[Any], Agent], fresh: LearnLoop, project: Project) -> None:
    """A run that a tool broke has failed, and is flagged."""
    agent = agent_of(_agent(calling("Atlantis")))
    with pytest.raises(LookupError):
        agent.ask("Atlantis?")
    recorded, imported = agent.recorded()[0], brought(fresh, project)[0]
    same(recorded, imported, agent.loop, fresh)
    assert imported.outcome == "failed"
    assert "no such city" in str(imported.error)
    assert [flag.run_id for flag in fresh.flagged()] == [imported.run_id]
