"""A replay asks the user's own graph, and leaves no trace in the world."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.evaluation.replay import GraphReplay
from langgraph_learnloop.records import Case, CaseResult, Judged, Message, Progress, ToolCall
from tests.evaluation.scripted import Answer, ReleaseModel, Timers, calls, case

CASES = tuple(case(f"timer number {i}") for i in range(5))


def knows(release: str | None, messages: list[BaseMessage]) -> AIMessage:
    """Answer rightly as the release "new", with words as any other."""
    return calls("set_timer", minutes=5) if release == "new" else AIMessage(content=f"I am {release}.")


def agent(timers: Timers, answer: Answer = knows, **settings: Any) -> Any:
    """Return a real agent with a real tool."""
    return create_agent(ReleaseModel(answer=answer), [timers.tool], **settings)


def replay(graph: Any, **settings: Any) -> GraphReplay:
    """Return a replay with the shipped evaluator."""
    return GraphReplay(graph, ToolCallMatch(), **settings)


def chain(*nodes: tuple[str, Any], **settings: Any) -> Any:
    """Return a compiled graph of these nodes, one after the other."""
    builder = StateGraph(MessagesState)
    names = [START, *(name for name, _ in nodes), END]
    for name, node in nodes:
        builder.add_node(name, node)
    for one, following in pairwise(names):
        builder.add_edge(one, following)
    return builder.compile(**settings)


class MemoryCache:
    """A result cache that counts."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, str], CaseResult] = {}

    def results(self, release_id: str, evaluator: str) -> dict[str, CaseResult]:
        return {key[2]: found for key, found in self.kept.items() if key[:2] == (release_id, evaluator)}

    def add_results(self, results: Any) -> None:
        for found in results:
            self.kept.setdefault((found.release_id, found.evaluator, found.case_id), found)


def test_the_same_graph_answers_for_each_release(timers: Timers) -> None:
    """Champion and candidate run one compiled graph; the release in the metadata makes the difference."""
    examined = replay(agent(timers))
    assert [r.scores.get("fully_right") for r in examined.run("new", CASES)] == [True] * 5
    old = examined.run("old", CASES)
    assert [tuple(r.scores.values()) for r in old] == [(False, False)] * 5
    assert old[0].got == (Message(role="assistant", content="I am old."),)
    assert [r.case_id for r in old] == [c.case_id for c in CASES]


def test_no_tool_runs(timers: Timers) -> None:
    """The model asks for the tool, and the timer is not set."""
    replay(agent(timers)).run("new", CASES)
    assert timers.set == []


def saved(saver: InMemorySaver) -> bytes:
    """Return everything a saver holds, as bytes."""
    return repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs))).encode()


def test_the_users_threads_are_byte_identical(timers: Timers) -> None:
    """A replay writes nothing into the checkpointer of the watched graph, not even a new thread."""
    saver = InMemorySaver()
    graph = agent(timers, checkpointer=saver)
    graph.invoke({"messages": [("user", "hello")]}, {"configurable": {"thread_id": "42"}})
    before = saved(saver)
    replay(graph).run("new", CASES)
    assert saved(saver) == before
    assert graph.checkpointer is saver


def test_the_users_callbacks_hear_nothing(timers: Timers) -> None:
    """A watched graph carries its recorder in its config; a replay is not a run of the user's."""

    class Recorder(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_chain_start(self, *args: Any, **more: Any) -> None:
            self.heard.append("chain")

        def on_chat_model_start(self, *args: Any, **more: Any) -> None:
            self.heard.append("model")

    recorder = Recorder()
    graph = agent(timers).with_config({"callbacks": [recorder], "metadata": {"team": "a"}})
    assert all(r.scores.get("fully_right") for r in replay(graph).run("new", CASES))
    assert recorder.heard == []


def test_a_node_cache_does_not_answer_for_another_release() -> None:
    """A cached node of the graph would give the champion's answer for the candidate's; a replay has no cache."""
    model = ReleaseModel(answer=knows)
    builder = StateGraph(MessagesState)
    builder.add_node(
        "model",
        lambda state: {"messages": [model.invoke(state["messages"])]},
        cache_policy=CachePolicy(key_func=lambda state: "same"),
    )
    builder.add_edge(START, "model")
    examined = replay(builder.compile(cache=InMemoryCache()))
    assert examined.run("old", CASES[:1])[0].scores.get("right_tool") is False
    assert examined.run("new", CASES[:1])[0].scores.get("right_tool") is True


def test_the_users_store_is_read_and_not_written() -> None:
    """A node may read the graph's store; what it writes is thrown away."""
    store = InMemoryStore()
    store.put(("facts",), "who", {"name": "new"})

    def answer(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        store.put(("facts",), "who", {"name": "spoilt"})
        found = store.get(("facts",), "who")
        return {"messages": [AIMessage(content=str(found.value["name"]) if found else "nobody")]}

    (found,) = replay(chain(("answer", answer), store=store)).run("any", CASES[:1])
    assert found.got[0].content == "new"
    kept = store.get(("facts",), "who")
    assert kept is not None
    assert kept.value == {"name": "new"}


def test_a_hanging_case_costs_its_deadline_only(timers: Timers) -> None:
    """A case without an answer is a result with the reason; the others are judged, and its late answer is ignored."""
    release = threading.Event()

    def hangs(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].text.endswith("2"):
            release.wait(30)
        return calls("set_timer", minutes=5)

    try:
        results = replay(agent(timers, hangs), threads=2, timeout_seconds=1.0).run("new", CASES)
    finally:
        release.set()
    assert [r.scores.get("fully_right") for r in results] == [True, True, None, True, True]
    assert results[2].error == "No answer within 1 seconds."


def test_an_answer_after_its_deadline_is_ignored(timers: Timers) -> None:
    """A case that was given up stays open, even when its answer comes while others are still running."""
    late = threading.Event()

    def slow(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].text.endswith("0"):
            late.wait(30)
        if messages[-1].text.endswith("1"):
            late.set()
            for thread in threading.enumerate():
                if thread.name == f"case-{CASES[0].case_id[:8]}":
                    thread.join(30)
        return calls("set_timer", minutes=5)

    lines: list[Progress] = []
    examined = replay(agent(timers, slow), threads=1, timeout_seconds=1.0)
    results = examined.run("new", CASES[:2], on_progress=lines.append)
    assert [r.scores.get("fully_right") for r in results] == [None, True]
    assert len(lines) == 3


def test_a_crash_is_a_result_with_its_reason(timers: Timers) -> None:
    """An exception is counted and named, also one that is no Exception; nothing is dropped."""

    def crashes(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].text.endswith("1"):
            raise ValueError("the server is down")
        if messages[-1].text.endswith("2"):
            raise SystemExit(3)
        return calls("set_timer", minutes=5)

    results = replay(agent(timers, crashes)).run("new", CASES)
    assert [r.scores.get("fully_right") for r in results] == [True, None, None, True, True]
    assert "ValueError: the server is down" in str(results[1].error)
    assert "SystemExit" in str(results[2].error)


def test_a_judge_that_cannot_tell_or_crashes_is_no_verdict(timers: Timers) -> None:
    """None from the evaluator, and an exception in it, leave the case open with the reason."""

    class Unsure:
        name = "unsure/1"
        target = guard = "sure"
        whole = False

        def judge(self, case: Case, got: Sequence[Message]) -> Judged:
            if case.case_id == CASES[0].case_id:
                raise ConnectionError("no judge")
            return Judged({"sure": None})

    first, second = GraphReplay(agent(timers), Unsure()).run("new", CASES[:2])
    assert "no judge" in str(first.error)
    assert first.scores.get("right_tool") is None
    assert "'unsure/1' could not judge" in str(second.error)
    assert second.got


def test_a_release_is_examined_once(timers: Timers) -> None:
    """What is in the cache is not asked again; only new cases and other releases are."""
    model = ReleaseModel(answer=knows)
    examined, cache = replay(create_agent(model, [timers.tool])), MemoryCache()
    first = examined.run("old", CASES[:3], cache)
    assert examined.run("old", CASES[:3], cache) == first
    assert len(model.asked) == 3
    examined.run("old", CASES, cache)
    examined.run("new", CASES, cache)
    assert len(model.asked) == 10


def test_a_failure_is_not_cached(timers: Timers) -> None:
    """A server that was down once is asked again in the next run."""
    down = [True]

    def answer(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        if down[0]:
            raise ConnectionError("down")
        return calls("set_timer", minutes=5)

    examined, cache = replay(agent(timers, answer)), MemoryCache()
    assert examined.run("new", CASES[:1], cache)[0].scores.get("fully_right") is None
    down[0] = False
    assert examined.run("new", CASES[:1], cache)[0].scores.get("fully_right") is True


def test_progress_counts_to_the_end(timers: Timers) -> None:
    """Progress starts with what is known, rises by one a case, and ends at the total."""
    lines: list[Progress] = []
    cache = MemoryCache()
    examined = replay(agent(timers))
    examined.run("new", CASES[:2], cache)
    examined.run("new", (*CASES, CASES[0]), cache, lines.append)
    assert [(line.done, line.total) for line in lines] == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert {line.stage for line in lines} == {"evaluate"}


@pytest.mark.parametrize(("threads", "meet"), [(3, True), (2, False)])
def test_cases_run_side_by_side_within_the_limit(timers: Timers, threads: int, meet: bool) -> None:
    """Three threads bring three cases into the model at once; two threads never do."""
    three = threading.Barrier(3, timeout=20 if meet else 0.3)

    def answer(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        three.wait()
        return calls("set_timer", minutes=5)

    results = replay(agent(timers, answer), threads=threads).run("new", CASES[:3])
    assert [r.scores.get("fully_right") for r in results] == [True if meet else None] * 3


def test_a_whole_conversation_is_replayed(timers: Timers) -> None:
    """Earlier turns with calls and results reach the model, and only the new message is judged."""
    earlier = ToolCall(name="set_timer", args={"minutes": 1}, id="c1")
    turns = (
        Message(role="user", content="one minute"),
        Message(role="assistant", tool_calls=(earlier,)),
        Message(role="tool", content="set", tool_call_id="c1"),
        Message(role="assistant", content="Done."),
        Message(role="user", content="five"),
    )
    model = ReleaseModel(answer=knows)
    asked = case("five").model_copy(update={"messages": turns})
    (found,) = replay(create_agent(model, [timers.tool])).run("new", [asked])
    assert found.scores.get("fully_right")
    assert [m.type for m in model.asked[0]] == ["human", "ai", "tool", "ai", "human"]
    assert model.asked[0][1].tool_calls[0]["args"] == {"minutes": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("own", ["Set timers.", None])
def test_there_is_one_system_message(timers: Timers, own: str | None) -> None:
    """A recorded system message is left to a graph that says its own, and given to one that says none."""
    model = ReleaseModel(answer=knows)
    recorded = Message(role="system", content="Recorded.")
    asked = [c.model_copy(update={"messages": (recorded, *c.messages)}) for c in CASES]
    replay(create_agent(model, [timers.tool], system_prompt=own), threads=1).run("new", asked)
    last = model.asked[-1]
    assert [m.text for m in last if isinstance(m, SystemMessage)] == [own or "Recorded."]


def test_a_pause_for_a_person_still_gives_the_answer(timers: Timers) -> None:
    """A graph that interrupts for approval after the model is judged by what the model asked for."""
    graph = agent(
        timers, middleware=[HumanInTheLoopMiddleware(interrupt_on={"set_timer": True})], checkpointer=InMemorySaver()
    )
    assert [r.scores.get("fully_right") for r in replay(graph).run("new", CASES)] == [True] * 5


def test_the_users_own_pauses_stay() -> None:
    """A node that the user pauses before is not run by a replay either."""
    ran: list[str] = []
    graph = chain(
        ("model", lambda state: {"messages": [AIMessage(content="ok")]}),
        ("publish", lambda state: ran.append("published")),
        checkpointer=InMemorySaver(),
        interrupt_before=["publish"],
    )
    (found,) = replay(graph).run("new", CASES[:1])
    assert found.got == (Message(role="assistant", content="ok"),)
    assert ran == []


def test_the_users_own_pauses_and_the_tool_node_are_both_kept(timers: Timers) -> None:
    """Knowing the tool node does not make a replay forget the node that the user pauses before."""
    ran: list[str] = []
    graph = chain(
        ("model", lambda state: {"messages": [AIMessage(content="ok")]}),
        ("publish", lambda state: ran.append("published")),
        ("tools", ToolNode([timers.tool])),
        checkpointer=InMemorySaver(),
        interrupt_before=["publish"],
    )
    assert replay(graph).run("new", CASES[:1])[0].error is None
    assert ran == []


def test_what_follows_the_model_is_examined_too(timers: Timers) -> None:
    """A middleware that mends the model's call before the tool runs is part of the user's agent."""

    class Mend(AgentMiddleware[Any, Any, Any]):
        def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
            mended = calls("set_timer", minutes=5)
            return {"messages": [mended.model_copy(update={"id": state["messages"][-1].id})]}

    graph = agent(timers, lambda name, messages: calls("set_timer", minutes=99), middleware=[Mend()])
    assert replay(graph).run("new", CASES[:1])[0].scores.get("fully_right")
    assert timers.set == []


def model_node(answer: Answer = knows, tools: Any = ()) -> Any:
    """Return a node that calls a model which was told of these tools."""
    model = ReleaseModel(answer=answer)
    asked = model.bind_tools(tools) if tools else model
    return lambda state: {"messages": [asked.invoke(state["messages"])]}


def test_a_plain_graph_needs_no_tools() -> None:
    """A graph without tools is examined to its end."""
    graph = chain(("draft", model_node()), ("polish", lambda s: {"messages": [AIMessage(content="polished")]}))
    (found,) = replay(graph).run("old", CASES[:1])
    assert found.got == (Message(role="assistant", content="polished"),)


def test_a_graph_that_runs_its_tools_by_hand_is_refused(timers: Timers) -> None:
    """Tools without a tool node cannot be stopped before: the sentence says how to name the node."""
    act = timers.tool
    graph = chain(("model", model_node(tools=[act])), ("act", lambda state: act.invoke({"minutes": 1})))
    with pytest.raises(ConfigError, match=r"stop_before=\['node'\]"):
        replay(graph)
    assert replay(graph, stop_before=["act"]).run("new", CASES[:1])[0].scores.get("fully_right")
    assert timers.set == []


def test_a_model_that_knows_tools_is_enough_to_refuse(timers: Timers) -> None:
    """Where the model is told of tools, somebody runs them, even if no tool is in sight."""
    with pytest.raises(ConfigError, match="no ToolNode"):
        replay(chain(("model", model_node(tools=[timers.tool])), ("act", lambda state: None)))


def test_nothing_runs_after_a_call_where_no_node_is_known_to_act() -> None:
    """With stop_before=[] the run still ends at the first call for a tool."""
    ran: list[str] = []
    graph = chain(("model", model_node()), ("after", lambda state: ran.append("acted")))
    assert replay(graph, stop_before=[]).run("new", CASES[:1])[0].scores.get("fully_right")
    assert ran == []


def test_a_hidden_tool_is_stopped_at_the_door(timers: Timers) -> None:
    """A LangChain tool that starts outside the known nodes does nothing, and the case says which tool it was."""

    class Hidden:
        def __init__(self) -> None:
            self.tool = timers.tool

        def __call__(self, state: MessagesState) -> dict[str, Any]:
            self.tool.invoke({"minutes": 9})
            return {"messages": [AIMessage(content="done")]}

    (found,) = replay(chain(("hidden", RunnableLambda(Hidden().__call__)))).run("new", CASES[:1])
    assert timers.set == []
    assert found.scores.get("fully_right") is None
    assert "'set_timer' was about to run" in str(found.error)


def test_a_forgiving_tool_node_does_not_hide_the_stop(timers: Timers) -> None:
    """A tool node that turns every error into a message lets the stop pass, and nothing after it runs."""
    hidden, ran = [[ToolNode([timers.tool], handle_tool_errors=True)]], list[str]()

    def act(state: MessagesState, config: RunnableConfig) -> Any:
        return hidden[0][0].invoke({"messages": [calls("set_timer", minutes=9)]}, config)

    graph = chain(("act", act), ("after", lambda state: ran.append("after")))
    (found,) = replay(graph, stop_before=[]).run("new", CASES[:1])
    assert timers.set == []
    assert ran == []
    assert "'set_timer' was about to run" in str(found.error)


def test_a_swallowed_stop_is_no_answer(timers: Timers) -> None:
    """Code that catches everything keeps the tool from nothing: it did not run, and the case is not judged."""
    hidden = [[timers.tool]]

    def act(state: MessagesState) -> dict[str, Any]:
        with suppress(Exception):
            hidden[0][0].invoke({"minutes": 9})
        return {"messages": [AIMessage(content="done")]}

    (found,) = replay(chain(("act", act))).run("new", CASES[:1])
    assert timers.set == []
    assert "'set_timer' was about to run" in str(found.error)


def test_an_inner_agent_is_stopped_at_its_tools(timers: Timers) -> None:
    """What an agent that is a node asks for is the answer; naming the node ends the replay before it."""
    graph = chain(("model", lambda s: {"messages": [AIMessage(content="Let me see.")]}), ("inner", agent(timers)))
    (found,) = replay(graph).run("new", CASES[:1])
    assert found.scores["fully_right"] is True
    assert timers.set == []
    (found,) = replay(graph, stop_before=["inner"]).run("new", CASES[:1])
    assert found.got == (Message(role="assistant", content="Let me see."),)


def test_an_unknown_node_to_stop_before_is_refused(timers: Timers) -> None:
    """A misspelt node would stop nothing."""
    with pytest.raises(ConfigError, match="'toolz'"):
        replay(agent(timers), stop_before=["toolz"])


def test_a_graph_without_messages_is_refused() -> None:
    """A graph that keeps no messages cannot be asked."""

    class Words(TypedDict):
        words: str

    builder = StateGraph(Words)
    builder.add_node("n", lambda state: {"words": "none"})
    builder.add_edge(START, "n")
    with pytest.raises(ConfigError, match="'messages'"):
        replay(builder.compile())


@pytest.mark.parametrize("settings", [{"threads": 0}, {"timeout_seconds": 0}])
def test_no_threads_or_no_time_are_refused(timers: Timers, settings: dict[str, Any]) -> None:
    """A replay that could never finish does not start."""
    with pytest.raises(ConfigError, match="threads"):
        replay(agent(timers), **settings)


def test_an_async_graph_is_awaited(timers: Timers) -> None:
    """A graph whose nodes are coroutines is examined like any other, and no tool runs."""
    model = ReleaseModel(answer=knows)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = chain(("model", answer), ("tools", ToolNode([timers.tool])))
    assert [r.scores.get("fully_right") for r in replay(graph).run("new", CASES)] == [True] * 5
    assert timers.set == []


def test_a_bare_model_is_examined_too(timers: Timers) -> None:
    """A chat model with bound tools needs no graph, and keeps the system message of the case."""
    model = ReleaseModel(answer=knows)
    asked = CASES[0].model_copy(update={"messages": (Message(role="system", content="Be."), *CASES[0].messages)})
    (found,) = replay(model.bind_tools([timers.tool])).run("new", [asked])
    assert found.scores.get("fully_right")
    assert [m.type for m in model.asked[0]] == ["system", "human"]


def test_arguments_that_are_no_json_are_wrong_and_kept(timers: Timers) -> None:
    """A broken call is a wrong answer with the right tool, and the text stays to be seen."""

    def broken(name: str | None, messages: list[BaseMessage]) -> AIMessage:
        return AIMessage(
            content="",
            invalid_tool_calls=[
                {
                    "name": "set_timer",
                    "args": '{"minutes": 5',
                    "id": "c",
                    "error": "no JSON",
                    "type": "invalid_tool_call",
                }
            ],
        )

    (found,) = replay(agent(timers, broken)).run("new", CASES[:1])
    assert (found.scores.get("right_tool"), found.scores.get("fully_right")) == (True, False)
    assert found.got[0].tool_calls[0].args == {"unreadable": '{"minutes": 5'}


def test_a_runnable_that_gives_no_message_is_named() -> None:
    """A chain that parses the answer to a text cannot be judged, and the case says so."""
    (found,) = replay(RunnableLambda(lambda messages: "text")).run("new", CASES[:1])
    assert "answered with str" in str(found.error)
