"""Every way in gives the same run, and can be left again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.integrations.langchain_middleware import LearnLoopMiddleware
from langgraph_learnloop.nodes import flag_node, record_node, route_flagged
from langgraph_learnloop.records import Run

CONFIG: dict[str, Any] = {"configurable": {"thread_id": "t1"}, "metadata": {"user_id": "ann", "plan": "pro"}}
QUESTION = {"messages": [("user", "1+2")]}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[LearnLoop]:
    """Yield a loop on an empty store."""
    with LearnLoop(tmp_path / "learnloop.db", agent="support") as made:
        yield made


def _facts(run: Run) -> dict[str, Any]:
    """Return what does not differ from one invocation to the next."""
    moving = {
        "step_id",
        "parent_id",
        "started_at",
        "seconds",
        "namespace",
        "checkpoint_id",
        "asked_by",
        "output",
        "input",
    }
    steps = [step.model_dump(exclude=moving) for step in run.steps]
    more = run.model_dump(exclude={"run_id", "started_at", "seconds", "steps", "messages"})
    return {**more, "steps": steps}


def _one(loop: LearnLoop) -> Run:
    (run,) = loop.runs()
    return run


def _watched(loop: LearnLoop, model: Any) -> None:
    loop.watch(create_agent(model, [add])).invoke(QUESTION, CONFIG)


def _callback(loop: LearnLoop, model: Any) -> None:
    create_agent(model, [add]).invoke(QUESTION, {**CONFIG, "callbacks": [loop.recorder]})


def _everywhere(loop: LearnLoop, model: Any) -> None:
    with loop.capture_all():
        create_agent(model, [add]).invoke(QUESTION, CONFIG)


def _middleware(loop: LearnLoop, model: Any) -> None:
    create_agent(model, [add], middleware=[LearnLoopMiddleware(loop)]).invoke(QUESTION, CONFIG)


def _async_middleware(loop: LearnLoop, model: Any) -> None:
    asyncio.run(create_agent(model, [add], middleware=[LearnLoopMiddleware(loop)]).ainvoke(QUESTION, CONFIG))


@pytest.mark.parametrize("way", [_watched, _callback, _everywhere, _middleware, _async_middleware])
def test_every_way_in_gives_the_same_run(
    way: Callable[[LearnLoop, Any], None], loop: LearnLoop, adder: Any, tmp_path: Path
) -> None:
    """The steps, the texts, the user and the metadata are the same, whichever way the recorder was attached."""
    with LearnLoop(tmp_path / "other.db", agent="support") as other:
        _watched(other, adder)
        right = _facts(_one(other))
    way(loop, adder)
    assert _facts(_one(loop)) == right
    assert (right["user"], right["metadata"]) == ("ann", {"plan": "pro"})


def test_the_switch_reaches_every_thread_and_goes_off(loop: LearnLoop, adder: Any) -> None:
    """Once on, agents of other threads are recorded as well; once off, nothing is, and on again, all is."""
    agent = create_agent(adder, [add])

    def elsewhere() -> None:
        thread = threading.Thread(target=agent.invoke, args=(QUESTION,))
        thread.start()
        thread.join()

    switch = loop.capture_all()
    elsewhere()
    switch.off()
    elsewhere()
    agent.invoke(QUESTION)
    assert len(loop.runs()) == 1
    assert loop.capture_all() is switch
    elsewhere()
    switch.off()
    assert len(loop.runs()) == 2


def test_watched_and_switched_on_is_recorded_once(loop: LearnLoop, adder: Any) -> None:
    """An agent that is watched already is not recorded twice by the switch or the middleware."""
    with loop.capture_all():
        loop.watch(create_agent(adder, [add], middleware=[LearnLoopMiddleware(loop)])).invoke(QUESTION, CONFIG)
    assert len(_one(loop).steps) == 6


def test_the_middleware_records_its_own_agent_only(loop: LearnLoop, adder: Any) -> None:
    """Other graphs and models of the process are not recorded."""
    LearnLoopMiddleware(loop)
    create_agent(adder, [add]).invoke(QUESTION)
    adder.invoke("1+2")
    assert loop.runs() == ()
    assert loop.health().open == 0


def test_the_middleware_records_failures(loop: LearnLoop, scripted: Any) -> None:
    """A run that fails is recorded as failed."""

    def fail(told: Any) -> AIMessage:
        raise TimeoutError("too slow")

    agent = create_agent(scripted(answer=fail), [add], middleware=[LearnLoopMiddleware(loop)])
    with pytest.raises(TimeoutError):
        agent.invoke(QUESTION, CONFIG)
    assert (_one(loop).outcome, _one(loop).error) == ("failed", "TimeoutError: too slow")


class _State(TypedDict, total=False):
    text: str
    repaired: bool


def _graph(loop: LearnLoop, *, with_record: bool = False, **options: Any) -> Any:
    builder = StateGraph(_State)
    builder.add_node("say", lambda state: {"text": state["text"].strip()})
    builder.add_node("check", flag_node(loop, lambda state: None if state["text"] else "It said nothing."))
    builder.add_node("repair", lambda state: {"repaired": True})
    builder.add_conditional_edges("check", route_flagged(loop, "repair"))
    builder.add_edge("say", "check")
    if with_record:
        builder.add_node("record", record_node(loop))
        builder.add_edge(START, "record")
        builder.add_edge("record", "say")
    else:
        builder.add_edge(START, "say")
    return builder.compile(**options)


def test_a_flagged_run_goes_another_way(loop: LearnLoop) -> None:
    """The flag node's word sends the run to the repair, records it whole, and it can be curated; others go on."""
    graph = _graph(loop)
    assert "repaired" not in graph.invoke({"text": "fine"})
    assert loop.runs() == ()
    assert graph.invoke({"text": " "}, CONFIG)["repaired"]
    run = _one(loop)
    assert [step.name for step in run.steps] == ["say", "check", "repair"]
    (flag,) = loop.flagged()
    assert (flag.run_id, flag.reasons) == (run.run_id, ("It said nothing.",))


def test_a_reason_that_is_said_twice_is_one_reason(loop: LearnLoop) -> None:
    """A check that a loop comes by again says nothing new; another reason is kept, in order."""

    def check(state: _State) -> _State:
        for reason in ("No source.", "Too long.", "No source."):
            loop.flag(reason)
        return {}

    builder = StateGraph(_State)
    builder.add_node("check", check)
    builder.add_edge(START, "check")
    loop.watch(builder.compile()).invoke({"text": "x"})
    assert _one(loop).flagged == ("No source.", "Too long.")


def test_a_record_node_records_the_graph_it_is_in(loop: LearnLoop) -> None:
    """A graph that nobody watches is recorded from its first node on."""
    _graph(loop, with_record=True).invoke({"text": "fine"}, CONFIG)
    assert [step.name for step in _one(loop).steps] == ["record", "say", "check"]


async def test_nodes_work_in_async_graphs(loop: LearnLoop) -> None:
    """Flagging and routing do not depend on how the graph is run."""
    graph = _graph(loop, with_record=True)
    results = await asyncio.gather(*(graph.ainvoke({"text": " " if n % 2 else "x"}) for n in range(10)))
    assert [bool(result.get("repaired")) for result in results] == [bool(n % 2) for n in range(10)]
    assert len(loop.flagged()) == 5


def test_a_tool_knows_the_run_it_is_in(loop: LearnLoop, adder: Any) -> None:
    """Feedback can be given from inside: a tool asks for the run's id; outside of a run there is none."""
    seen: list[str | None] = []

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        seen.append(loop.current_run())
        return a + b

    loop.watch(create_agent(adder, [add])).invoke(QUESTION)
    assert seen == [_one(loop).run_id]
    assert loop.current_run() is None


def test_a_run_that_goes_on_after_a_pause_says_so(loop: LearnLoop) -> None:
    """The run that was interrupted and the one that went on with it are joined."""
    from langgraph.types import Command

    builder = StateGraph(_State).add_node("ask", lambda state: {"text": interrupt("sure?")}).add_edge(START, "ask")
    graph = loop.watch(builder.compile(checkpointer=InMemorySaver()))
    graph.invoke({"text": "x"}, CONFIG)
    graph.invoke(Command(resume="yes"), CONFIG)
    graph.invoke({"text": "x"}, CONFIG)
    third, second, first = loop.runs()
    assert [run.outcome for run in (first, second, third)] == ["interrupted", "finished", "interrupted"]
    assert (first.resumes, second.resumes, third.resumes) == (None, first.run_id, None)
    assert loop.flagged() == ()


def test_steps_know_their_checkpoint(loop: LearnLoop, adder: Any) -> None:
    """The checkpoint that a model or tool call started from is there to replay from, and leads to the same node."""
    saver = InMemorySaver()
    graph = loop.watch(create_agent(adder, [add], checkpointer=saver))
    graph.invoke(QUESTION, CONFIG)
    history = {state.config["configurable"]["checkpoint_id"]: state.next for state in graph.get_state_history(CONFIG)}
    steps = _one(loop).steps
    assert [history[str(step.checkpoint_id)] for step in steps if step.kind != "node"] == [
        ("model",),
        ("tools",),
        ("model",),
    ]
    assert [step.checkpoint_id for step in steps if step.kind == "node"] == [
        step.checkpoint_id for step in steps if step.kind != "node"
    ]
    assert [step.asked_by for step in steps if step.kind == "tool"] == [steps[1].step_id]
