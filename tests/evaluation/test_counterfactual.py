"""A recorded run is run again from its own checkpoint; its tools answer as they did, and its thread stays as it was."""

from __future__ import annotations

import asyncio
import operator
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command, interrupt

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.evaluation.fidelity import SameTrajectory, case_of
from langgraph_learnloop.evaluation.replay import GraphReplay
from langgraph_learnloop.integrations.langchain_middleware import LearnLoopMiddleware
from langgraph_learnloop.records import CaseResult, Run
from tests.evaluation.scripted import ReleaseModel, calls

THREAD: RunnableConfig = {"configurable": {"thread_id": "42"}}
ASKED = {"messages": [("user", "what is the weather in Bern?")]}


class Weather:
    """A tool that answers differently each time, and counts how often it really ran."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def tool(self) -> BaseTool:
        @tool
        def weather(city: str) -> str:
            """Look up the weather."""
            self.calls.append(city)
            return f"{city}: {len(self.calls)} degrees, write to a.b@example.org"

        return weather


@pytest.fixture
def weather() -> Weather:
    """Return the tool's owner."""
    return Weather()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LearnLoop]:
    """Yield a loop on a new store."""
    with LearnLoop(tmp_path / "learnloop.db") as made:
        yield made


def looks_up(release: str | None, messages: list[BaseMessage]) -> AIMessage:
    """Ask for the weather where the release says, then tell what was heard."""
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(content=f"It says: {messages[-1].content}")
    return calls("weather", city="Paris" if release == "new" else "Bern")


def recorded(loop: LearnLoop, graph: Any, asked: Any = ASKED, config: RunnableConfig = THREAD, **watch: Any) -> Run:
    """Run an agent once and return what was recorded."""
    loop.watch(graph, **watch).invoke(asked, config)
    return loop.runs(1)[0]


def replayed(loop: LearnLoop, run: Run, release: str = "old") -> CaseResult:
    """Run a recorded run again, whole."""
    loop.exams.__dict__.pop("replays", None)
    watched = loop.exams.watched
    assert watched is not None
    replay = GraphReplay(
        watched.graph,
        SameTrajectory(loop.policy.fit),
        stop_before=watched.stop_before,
        pure=watched.pure,
        context=watched.context,
        runs=loop.store.runs,
        mask=loop.policy.fit,
    )
    (result,) = replay.run(release, [case_of(run, loop.store.runs)])
    return result


def dump(saver: BaseCheckpointSaver[Any]) -> Any:
    """Return all that a saver holds, byte for byte."""
    if isinstance(saver, InMemorySaver):
        writes = {key: value for key, value in saver.writes.items() if value}  # to look one up made an empty one once
        return repr((dict(saver.storage), writes, dict(saver.blobs)))
    assert isinstance(saver, SqliteSaver)
    return list(saver.conn.iterdump())


SAVERS: list[Callable[[Path], BaseCheckpointSaver[Any]]] = [
    lambda folder: InMemorySaver(),
    lambda folder: SqliteSaver(sqlite3.connect(folder / "threads.db", check_same_thread=False)),
]


@pytest.mark.parametrize("make", SAVERS, ids=["memory", "sqlite"])
def test_the_same_release_does_the_same_again(
    loop: LearnLoop, weather: Weather, make: Callable[[Path], BaseCheckpointSaver[Any]], tmp_path: Path
) -> None:
    """From the run's checkpoint, with the tool's answer of then; the thread is byte-identical afterwards."""
    saver = make(tmp_path)
    run = recorded(loop, create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=saver))
    before = dump(saver)
    result = replayed(loop, run)
    assert result.scores == {"same": True}, (result.comment, result.error)
    assert result.started == "checkpoint"
    assert [m.role for m in result.got] == ["assistant", "tool", "assistant"]
    assert "a.b@example.org" in result.got[-1].content  # the thread's own state is not masked
    assert weather.calls == ["Bern"]
    assert dump(saver) == before


def test_what_was_not_recorded_ends_the_replay(loop: LearnLoop, weather: Weather) -> None:
    """A candidate that asks for something else diverges; the tool does not run."""
    run = recorded(loop, create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=InMemorySaver()))
    result = replayed(loop, run, "new")
    assert result.diverged is not None
    assert '\'weather\' was asked for {"city": "Paris"}' in result.diverged
    assert result.scores == {}
    assert result.got[-1].tool_calls[0].args == {"city": "Paris"}
    assert weather.calls == ["Bern"]


def test_without_checkpoints_the_masked_recording_answers(loop: LearnLoop, weather: Weather) -> None:
    """A graph that keeps no checkpoints is replayed from the stored messages; masked arguments are found."""

    def writes(release: str | None, messages: list[BaseMessage]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(content="Done.")
        return calls("weather", city="c.d@example.org")

    run = recorded(loop, create_agent(ReleaseModel(answer=writes), [weather.tool]))
    result = replayed(loop, run)
    assert result.started == "messages"
    assert result.error is None, result.error
    assert [m.role for m in result.got] == ["assistant", "tool", "assistant"]
    assert "a.b@example.org" not in result.got[1].content
    assert len(weather.calls) == 1


def test_a_pure_tool_runs(loop: LearnLoop, weather: Weather) -> None:
    """Who says that a tool acts on nothing has it run in replays."""
    graph = create_agent(ReleaseModel(answer=looks_up), [weather.tool])
    run = recorded(loop, graph, pure=["weather"])
    assert replayed(loop, run, "new").got[-1].content == "It says: Paris: 2 degrees, write to a.b@example.org"
    assert weather.calls == ["Bern", "Paris"]


def test_each_answer_is_given_once_and_in_order(loop: LearnLoop, weather: Weather) -> None:
    """The same question asked twice got two answers then, and gets them now; a third one is unknown."""

    def asks(times: int) -> Callable[[str | None, list[BaseMessage]], AIMessage]:
        def answer(release: str | None, messages: list[BaseMessage]) -> AIMessage:
            heard = [m for m in messages if isinstance(m, ToolMessage)]
            wanted = times + (release == "new")
            return calls("weather", city="Bern") if len(heard) < wanted else AIMessage(content="enough")

        return answer

    run = recorded(loop, create_agent(ReleaseModel(answer=asks(2)), [weather.tool]))
    same = replayed(loop, run)
    assert [m.content[:7] for m in same.got if m.role == "tool"] == ["Bern: 1", "Bern: 2"]
    assert "does not hold" in str(replayed(loop, run, "new").diverged)
    assert weather.calls == ["Bern", "Bern"]


class Cart(MessagesState):
    """A state with more than messages."""

    items: Annotated[list[str], operator.add]


def shop(weather: Weather, saver: BaseCheckpointSaver[Any] | None) -> Any:
    """Return a graph whose answer depends on more than its messages."""
    model = ReleaseModel(answer=lambda release, messages: AIMessage(content=f"{messages[0].content}"))

    def add(state: Cart) -> dict[str, Any]:
        return {"items": ["pear"]}

    def answer(state: Cart) -> dict[str, Any]:
        return {"messages": [model.invoke([HumanMessage(", ".join(state["items"])), *state["messages"]])]}

    builder = StateGraph(Cart)
    builder.add_node("add", add)
    builder.add_node("answer", answer)
    builder.add_edge(START, "add")
    builder.add_edge("add", "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)


def test_the_whole_state_comes_back(loop: LearnLoop, weather: Weather) -> None:
    """A replay from a checkpoint knows what is in the cart, and does not fill it again."""
    run = recorded(loop, shop(weather, InMemorySaver()), {**ASKED, "items": ["fig"]})
    result = replayed(loop, run)
    assert result.got[-1].content == "fig, pear"
    assert result.started == "checkpoint"


def test_a_lost_checkpoint_is_named(loop: LearnLoop, weather: Weather) -> None:
    """Messages alone do not hold the cart: the case is left open with the reason."""
    saver = InMemorySaver()
    run = recorded(loop, shop(weather, saver), {**ASKED, "items": ["fig"]})
    saver.delete_thread("42")
    result = replayed(loop, run)
    assert result.scores == {}
    assert "is gone" in str(result.error)
    assert "items" in str(result.error)


def test_a_lost_checkpoint_of_messages_alone_does_no_harm(loop: LearnLoop, weather: Weather) -> None:
    """Where the state is messages, the stored ones are as good."""
    saver = InMemorySaver()
    run = recorded(loop, create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=saver))
    saver.delete_thread("42")
    result = replayed(loop, run)
    assert result.started == "messages"
    assert result.scores == {"same": True}, result.comment


def test_a_later_turn_starts_from_its_own_checkpoint(loop: LearnLoop, weather: Weather) -> None:
    """The second run of a thread is replayed with the first before it, and the thread goes on as if nothing were."""
    graph = create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=InMemorySaver())
    recorded(loop, graph)
    second = recorded(loop, graph)
    result = replayed(loop, second)
    assert result.scores == {"same": True}, result.comment
    assert "Bern: 2" in result.got[1].content
    third = recorded(loop, graph)
    assert "Bern: 3" in str(third.answer)
    assert len(graph.get_state(THREAD).values["messages"]) == 12


def test_a_subgraph_with_a_memory_of_its_own_remembers(loop: LearnLoop, weather: Weather) -> None:
    """A subgraph compiled with checkpointer=True keeps its state over turns: the replay gives it the state of then."""
    inner_model = ReleaseModel(
        answer=lambda release, messages: AIMessage(content=f"seen {sum(m.type == 'human' for m in messages)}")
    )
    inner = StateGraph(MessagesState)
    inner.add_node("think", lambda state: {"messages": [inner_model.invoke(state["messages"])]})
    inner.add_edge(START, "think")
    saver = InMemorySaver()
    outer = StateGraph(MessagesState)
    outer.add_node("helper", inner.compile(checkpointer=True))
    outer.add_edge(START, "helper")
    graph = outer.compile(checkpointer=saver)
    recorded(loop, graph)
    second = recorded(loop, graph)
    recorded(loop, graph)
    before = dump(saver)
    result = replayed(loop, second)
    assert result.scores == {"same": True}, (result.got, result.comment, result.error)
    assert result.started == "checkpoint"
    assert dump(saver) == before


def test_a_subgraph_with_a_saver_of_its_own_does_not_write_to_it(loop: LearnLoop, weather: Weather) -> None:
    """The inner graph's saver is the user's as well."""
    saver = InMemorySaver()
    inner = create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=saver)
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    run = recorded(loop, builder.compile())
    before = dump(saver)
    assert replayed(loop, run).error is None
    assert dump(saver) == before
    assert weather.calls == ["Bern"]


def test_tools_of_an_inner_agent_answer_from_the_recording(loop: LearnLoop, weather: Weather) -> None:
    """An agent that is a node of another graph is replayed with it."""
    builder = StateGraph(MessagesState)
    builder.add_node("inner", create_agent(ReleaseModel(answer=looks_up), [weather.tool]))
    builder.add_edge(START, "inner")
    run = recorded(loop, builder.compile(checkpointer=InMemorySaver()))
    assert replayed(loop, run).scores == {"same": True}
    result = replayed(loop, run, "new")
    assert result.diverged is not None
    assert result.got[-1].tool_calls[0].args == {"city": "Paris"}
    assert weather.calls == ["Bern"]


@pytest.mark.parametrize("how", ["bare", "recordable", "middleware"])
def test_an_agent_inside_a_function_needs_recordable_tools(loop: LearnLoop, weather: Weather, how: str) -> None:
    """What a node's function runs cannot be exchanged: it is stopped, or answers from the recording by itself."""
    tools = loop.recordable([weather.tool]) if how == "recordable" else [weather.tool]
    middleware = [LearnLoopMiddleware(loop)] if how == "middleware" else []
    hidden = [create_agent(ReleaseModel(answer=looks_up), tools, middleware=middleware)]
    builder = StateGraph(MessagesState)
    builder.add_node("inner", lambda state: {"messages": hidden[0].invoke(state)["messages"]})
    builder.add_edge(START, "inner")
    run = recorded(loop, builder.compile())
    result = replayed(loop, run)
    if how == "bare":
        assert "was about to run" in str(result.diverged)
    else:
        assert result.scores == {"same": True}, (result.error, result.comment)
    assert weather.calls == ["Bern"]


def by_hand(model: Any, tools: list[BaseTool]) -> Any:
    """Return a graph that runs its tools itself."""
    by_name = {one.name: one for one in tools}
    bound = model.bind_tools(tools)

    def act(state: MessagesState) -> dict[str, Any]:
        return {"messages": [by_name[call["name"]].invoke(call) for call in state["messages"][-1].tool_calls]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("act", act)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "act" if state["messages"][-1].tool_calls else END)
    builder.add_edge("act", "model")
    return builder.compile()


def test_tools_that_a_node_runs_by_hand_are_made_recordable(loop: LearnLoop, weather: Weather) -> None:
    """They work as ever, and answer from the recording in a replay."""
    run = recorded(loop, by_hand(ReleaseModel(answer=looks_up), loop.recordable([weather.tool])))
    assert run.answer == "It says: Bern: 1 degrees, write to [email]"
    result = replayed(loop, run)
    assert result.error is None, result.error
    assert [m.role for m in result.got] == ["assistant", "tool", "assistant"]
    assert weather.calls == ["Bern"]


def test_a_recordable_tool_is_never_run_by_another_door(loop: LearnLoop, weather: Weather) -> None:
    """`run`, bare arguments and `ainvoke` lead to the recording too."""
    (one,) = loop.recordable([weather.tool])
    doors: list[Callable[[], Any]] = [
        lambda: one.run({"city": "Bern"}),
        lambda: one.invoke({"city": "Bern"}),
        lambda: asyncio.run(one.ainvoke({"city": "Bern"})),
        lambda: asyncio.run(one.arun({"city": "Bern"})),
    ]
    builder = StateGraph(MessagesState)
    chosen = [1]  # `run` is not seen by callbacks, and so not recorded
    builder.add_node("act", lambda state: {"messages": [AIMessage(content=str(doors[chosen[0]]()))]})
    builder.add_node("model", lambda state: {"messages": [ReleaseModel(answer=looks_up).invoke(state["messages"])]})
    builder.add_edge(START, "model")
    builder.add_edge("model", "act")
    run = recorded(loop, builder.compile(), stop_before=[])
    for number in range(len(doors)):
        chosen[0] = number
        result = replayed(loop, run)
        assert result.got[-1].content == "Bern: 1 degrees, write to [email]", (number, result)
    assert weather.calls == ["Bern"]


def test_a_tool_that_steers_is_refused(loop: LearnLoop) -> None:
    """A Command changes the state or the way, which a recorded answer does not hold."""

    @tool
    def note(text: str, state: Annotated[dict[str, Any], InjectedState]) -> Command[Any]:
        """Keep a note."""
        message = ToolMessage("noted", tool_call_id=state["messages"][-1].tool_calls[0]["id"])
        return Command(update={"messages": [message], "items": [text]})

    def notes(release: str | None, messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(content="ok") if isinstance(messages[-1], ToolMessage) else calls("note", text="milk")

    builder = StateGraph(Cart)
    model = ReleaseModel(answer=notes)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode([note]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "model")
    graph = builder.compile()
    run = recorded(loop, graph)
    assert any(step.steered for step in run.steps)
    assert "changed the state of the graph" in str(replayed(loop, run).diverged)
    loop.watch(graph, pure=["note"])
    assert replayed(loop, run).scores == {"same": True}


def test_a_person_who_was_asked_answers_again(loop: LearnLoop) -> None:
    """A run that went on after an interrupt is replayed with the answer that was given."""
    model = ReleaseModel(answer=lambda release, messages: AIMessage(content=f"As you say: {messages[-1].content}"))

    def ask(state: MessagesState) -> dict[str, Any]:
        said = interrupt("May I?")
        return {"messages": [model.invoke([HumanMessage(said)])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    saver = InMemorySaver()
    graph = builder.compile(checkpointer=saver)
    loop.watch(graph).invoke({"messages": [("user", "go")]}, THREAD)
    run = recorded(loop, graph, Command(resume="yes"))
    before = dump(saver)
    result = replayed(loop, run)
    assert result.error is None, result.error
    assert result.got[-1].content == "As you say: yes"
    assert dump(saver) == before


def test_an_async_graph_is_replayed(loop: LearnLoop, weather: Weather) -> None:
    """Nodes that can only be awaited are."""
    model = ReleaseModel(answer=looks_up)

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", think)
    builder.add_node("tools", ToolNode([weather.tool]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END)
    builder.add_edge("tools", "model")
    graph = loop.watch(builder.compile(checkpointer=InMemorySaver()))
    asyncio.run(graph.ainvoke(ASKED, THREAD))
    (run,) = loop.runs(1)
    result = replayed(loop, run)
    assert result.scores == {"same": True}, (result.error, result.comment)
    assert weather.calls == ["Bern"]


def test_users_threads_are_not_read_for_runs_of_nobody(loop: LearnLoop, weather: Weather) -> None:
    """A case whose run was erased is asked from its messages."""
    run = recorded(loop, create_agent(ReleaseModel(answer=looks_up), [weather.tool], checkpointer=InMemorySaver()))
    case = case_of(run, loop.store.runs).model_copy(update={"run_id": "gone"})
    watched = loop.exams.watched
    assert watched is not None
    (result,) = GraphReplay(watched.graph, SameTrajectory(), runs=loop.store.runs).run("old", [case])
    assert result.started == "messages"
    assert result.scores == {"same": True}  # the reference holds the tool's answer
