"""What a recorder makes of real graphs."""

import asyncio
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from langgraph_learnloop.capture import recorder as module
from langgraph_learnloop.capture.attach import watch
from langgraph_learnloop.capture.events import Event
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.records import Run, ToolCall

Tree = Callable[[Run], list[tuple[str, str, str]]]

ADDING = [
    ("node", "model", "root"),
    ("model", "scripted-1", "model"),
    ("node", "tools", "root"),
    ("tool", "add", "tools"),
    ("node", "model", "root"),
    ("model", "scripted-1", "model"),
]
QUESTION = {"messages": [("user", "1+2")]}
CONFIG: dict[str, Any] = {"configurable": {"thread_id": "t1"}, "metadata": {"user_id": "ann"}, "tags": ["web"]}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    if a == 666:
        raise ValueError("not that one")
    return a + b


@pytest.fixture
def agent(adder: Any, recorder: Any) -> Any:
    """Return a watched agent that adds."""
    return watch(create_agent(adder, [add], system_prompt="You add."), recorder)


def _one_node(function: Any, name: str = "work", **options: Any) -> Any:
    return StateGraph(MessagesState).add_node(name, function).add_edge(START, name).compile(**options)


def _check_adding(run: Run, tree: Tree) -> None:
    assert tree(run) == ADDING
    assert (run.outcome, run.error, run.question, run.answer) == ("finished", None, "1+2", "It is 3.")
    assert (run.agent, run.thread_id, run.user, run.tags) == ("support", "t1", "ann", ("web",))


def test_a_tool_turn_is_recorded_whole(agent: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """Models, tools and nodes are there with what they read and wrote, and who served them."""
    agent.invoke(QUESTION, CONFIG)
    assert writer.flush()
    run = sink.the_run()
    _check_adding(run, tree)
    assert run.release == "rel1"
    assert [m.content for m in sink.read(run.messages)] == ["1+2", "", "3", "It is 3."]
    _, asked, _, tool, _, told = run.steps
    assert [m.role for m in sink.read(asked.input)] == ["system", "user"]
    said = sink.items(run.messages)
    assert asked.output == said[1:2]
    assert asked.tool_calls == tool.tool_calls == (ToolCall(name="add", args={"a": 1, "b": 2}, id="call_0"),)
    assert tool.output == said[2:3]
    assert (sink.items(told.input)[1:], told.output) == (said[:3], said[3:])
    assert (told.input_tokens, told.output_tokens, asked.input_tokens) == (9, 4, None)
    assert b'"add"' in sink.blob(str(asked.tools))
    assert all(step.seconds is not None and step.seconds >= 0 and step.error is None for step in run.steps)
    assert [step.started_at for step in run.steps] == sorted(step.started_at for step in run.steps)


async def test_async_gives_the_same_run(agent: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """An agent that is awaited is recorded like one that is called."""
    await agent.ainvoke(QUESTION, CONFIG)
    assert writer.flush()
    _check_adding(sink.the_run(), tree)


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "custom", "debug", "tasks", ["updates", "messages"]])
def test_every_stream_mode_gives_the_same_run(agent: Any, writer: Any, sink: Any, tree: Tree, mode: Any) -> None:
    """How the caller wants to see the run does not change what is recorded."""
    list(agent.stream(QUESTION, CONFIG, stream_mode=mode))
    assert writer.flush()
    _check_adding(sink.the_run(), tree)


async def test_async_streams_at_once_do_not_mix(agent: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """Agents that take turns on one event loop keep their own steps."""

    async def stream(number: int) -> None:
        config = {"configurable": {"thread_id": f"t{number}"}}
        async for _ in agent.astream({"messages": [("user", f"{number}+1")]}, config):
            await asyncio.sleep(0)

    await asyncio.gather(*(stream(number) for number in range(20)))
    assert writer.flush()
    assert {run.thread_id: run.answer for run in sink.runs.values()} == {f"t{i}": f"It is {i + 1}." for i in range(20)}
    assert all(tree(run) == ADDING for run in sink.runs.values())


def test_batch_records_each_input(agent: Any, writer: Any, sink: Any) -> None:
    """A batch of three questions is three runs."""
    agent.batch([{"messages": [("user", f"{i}+1")]} for i in range(3)])
    assert writer.flush()
    assert sorted(run.question for run in sink.runs.values()) == ["0+1", "1+1", "2+1"]


def test_the_callers_callbacks_go_on_working(adder: Any, recorder: Any, writer: Any, sink: Any) -> None:
    """Callbacks that were bound before, and those of the call, see what they saw without a recorder."""

    class Counting(BaseCallbackHandler):
        def __init__(self) -> None:
            self.tools = 0

        def on_tool_end(self, output: Any, **kwargs: Any) -> None:
            self.tools += 1

    bound, given = Counting(), Counting()
    graph = create_agent(adder, [add]).with_config(callbacks=[bound])
    watched = watch(graph, recorder)
    watched.invoke(QUESTION, {"callbacks": [given]})
    assert writer.flush()
    assert (bound.tools, given.tools, len(sink.runs)) == (1, 1, 1)
    assert type(watched) is type(graph)


def test_a_graph_that_is_watched_twice_is_recorded_once(
    agent: Any, recorder: Any, writer: Any, sink: Any, tree: Tree
) -> None:
    """Watching again, or passing the recorder as a callback too, changes nothing."""
    again = watch(agent, recorder)
    assert again is agent
    again.invoke(QUESTION, CONFIG | {"callbacks": [recorder]})
    assert writer.flush()
    _check_adding(sink.the_run(), tree)


def test_only_a_compiled_graph_can_be_watched(recorder: Any) -> None:
    """A builder that was not compiled is refused by a sentence."""
    with pytest.raises(ConfigError, match=r"this is a 'StateGraph'.*compile"):
        watch(StateGraph(MessagesState), recorder)  # type: ignore[arg-type]


def test_a_watched_agent_inside_an_unwatched_graph_is_a_run(agent: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """The root is what this recorder sees first, whether or not it has a parent."""
    outer = _one_node(lambda state: agent.invoke(state))
    outer.invoke(QUESTION, CONFIG)
    assert writer.flush()
    _check_adding(sink.the_run(), tree)


def test_a_watched_agent_as_a_node_is_a_run(agent: Any, writer: Any, sink: Any) -> None:
    """The same holds for an agent that is a node itself."""
    _one_node(agent, name="helper").invoke(QUESTION, CONFIG)
    assert writer.flush()
    assert sink.the_run().answer == "It is 3."


def test_a_watched_agent_inside_a_watched_graph_is_one_run(
    agent: Any, recorder: Any, writer: Any, sink: Any, tree: Tree
) -> None:
    """With one recorder on both, the inner agent's steps are steps of the outer run, once."""
    watch(_one_node(lambda state: agent.invoke(state), name="outer"), recorder).invoke(QUESTION, CONFIG)
    assert writer.flush()
    inner = [(kind, name, "outer" if parent == "root" else parent) for kind, name, parent in ADDING]
    assert tree(sink.the_run()) == [("node", "outer", "root"), *inner]


def test_a_subgraph_that_is_named_like_its_node_is_one_step(recorder: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """Nodes are steps; the graphs and runnables that they are built of are not."""
    chain = RunnableLambda(lambda state: state) | RunnableLambda(lambda state: {"messages": [AIMessage("yes")]})
    sub = _one_node(chain, name="inner").with_config(run_name="sub")
    watch(_one_node(sub, name="sub"), recorder).invoke(QUESTION)
    assert writer.flush()
    assert tree(sink.the_run()) == [("node", "sub", "root"), ("node", "inner", "sub")]


def test_tasks_of_the_functional_api_are_steps(recorder: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """An entrypoint's tasks are shown like a graph's nodes."""

    @task
    def double(number: int) -> int:
        return 2 * number

    @entrypoint()
    def twice(number: int) -> int:
        return double(double(number).result()).result()

    assert watch(twice, recorder).invoke(1) == 4
    assert writer.flush()
    assert tree(sink.the_run()) == [("node", "twice", "root"), ("node", "double", "twice"), ("node", "double", "twice")]


def test_retries_are_attempts(recorder: Any, writer: Any, sink: Any) -> None:
    """A node that failed and was tried again is two steps of a run that finished."""
    failures = [ConnectionError("once")]

    def flaky(state: MessagesState) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return {}

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    graph = StateGraph(MessagesState).add_node("flaky", flaky, retry_policy=policy).add_edge(START, "flaky")
    watch(graph.compile(), recorder).invoke(QUESTION)
    assert writer.flush()
    run = sink.the_run()
    assert [step.error for step in run.steps] == ["ConnectionError: once", None]
    assert run.outcome == "finished"


def test_parallel_tools_keep_their_own_arguments_and_results(
    scripted: Any, calls: Any, recorder: Any, writer: Any, sink: Any
) -> None:
    """Tools that run at the same time in threads are each joined with their own call."""
    asked = [{"a": i, "b": i} for i in range(10)]
    model = scripted(answer=lambda told: AIMessage("done") if told[-1].type == "tool" else calls("add", *asked))
    watch(create_agent(model, [add]), recorder).invoke(QUESTION)
    assert writer.flush()
    tools = [step for step in sink.the_run().steps if step.kind == "tool"]
    assert len({step.parent_id for step in tools}) == 10
    results = {step.tool_calls[0].args["a"]: sink.read(step.output)[0].content for step in tools}
    assert results == {i: str(2 * i) for i in range(10)}


class _Sum(TypedDict):
    numbers: Annotated[list[int], operator.add]


def test_parallel_branches_are_all_there(recorder: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """Branches that are sent out at once are steps of the root; a state without messages is no hindrance."""
    graph = StateGraph(_Sum).add_node("square", lambda number: {"numbers": [number * number]})
    graph.add_conditional_edges(START, lambda state: [Send("square", n) for n in state["numbers"]], ["square"])
    watch(graph.compile(), recorder).invoke({"numbers": list(range(20))})
    assert writer.flush()
    run = sink.the_run()
    assert tree(run) == [("node", "square", "root")] * 20
    assert (run.outcome, run.messages, run.question, run.answer) == ("finished", None, None, None)


def test_a_tool_that_fails_fails_the_run(agent: Any, writer: Any, sink: Any) -> None:
    """The exception is kept where it left: tool, node and root; the caller gets it as ever."""
    with pytest.raises(ValueError, match="not that one"):
        agent.invoke({"messages": [("user", "666+1")]}, CONFIG)
    assert writer.flush()
    run = sink.the_run()
    failed = [(step.kind, step.name) for step in run.steps if step.error == "ValueError: not that one"]
    assert failed == [("node", "tools"), ("tool", "add")]
    assert (run.outcome, run.error, run.question) == ("failed", "ValueError: not that one", "666+1")
    assert [m.role for m in sink.read(run.messages)] == ["system", "user", "assistant"]


class _Forgiving(AgentMiddleware[Any, Any]):
    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        try:
            return handler(request)
        except ValueError as error:
            return ToolMessage(f"failed: {error}", tool_call_id=request.tool_call["id"], status="error")


def test_a_tool_error_that_was_handled_fails_only_the_tool(adder: Any, recorder: Any, writer: Any, sink: Any) -> None:
    """An agent that goes on after a failed tool has finished; the tool's step has the error."""
    agent = watch(create_agent(adder, [add], middleware=[_Forgiving()]), recorder)
    agent.invoke({"messages": [("user", "666+1")]})
    assert writer.flush()
    run = sink.the_run()
    assert [step.name for step in run.steps if step.error] == ["add"]
    assert (run.outcome, run.answer) == ("finished", "It is failed: not that one.")


def test_a_refusal_that_a_tool_returns_is_its_error(
    scripted: Any, calls: Any, recorder: Any, writer: Any, sink: Any
) -> None:
    """A tool message with the status "error" is a failed tool, as ToolNode makes it of bad arguments."""
    model = scripted(answer=lambda told: AIMessage("sorry") if told[-1].type == "tool" else calls("add", {"a": "x"}))
    watch(create_agent(model, [add]), recorder).invoke(QUESTION)
    assert writer.flush()
    run = sink.the_run()
    assert run.outcome == "finished"
    told = [m.content for m in sink.read(run.messages) if m.role == "tool"]
    assert "Error" in told[0]


def test_a_model_that_fails_fails_the_run(scripted: Any, recorder: Any, writer: Any, sink: Any) -> None:
    """A failed model call keeps what it read, and has written nothing."""

    def refuse(told: list[BaseMessage]) -> AIMessage:
        raise TimeoutError("too slow")

    with pytest.raises(TimeoutError):
        watch(create_agent(scripted(answer=refuse)), recorder).invoke(QUESTION)
    assert writer.flush()
    run = sink.the_run()
    (model,) = (step for step in run.steps if step.kind == "model")
    assert (model.error, len(sink.items(model.input)), model.output) == ("TimeoutError: too slow", 1, ())
    assert (run.outcome, run.question, run.answer) == ("failed", "1+2", None)


def test_a_pause_and_its_resume_are_two_runs_without_errors(recorder: Any, writer: Any, sink: Any) -> None:
    """A graph that waits for a person is interrupted, not failed; the resume finishes in the same thread."""
    graph = _one_node(lambda state: {"messages": [AIMessage(interrupt("may I?"))]}, checkpointer=InMemorySaver())
    watched = watch(_one_node(graph, name="sub", checkpointer=InMemorySaver()), recorder)
    watched.invoke(QUESTION, CONFIG)
    watched.invoke(Command(resume="yes"), CONFIG)
    assert writer.flush()
    paused, resumed = sink.runs.values()
    assert (paused.outcome, paused.error, paused.answer, paused.thread_id) == ("interrupted", None, None, "t1")
    assert (resumed.outcome, resumed.answer, resumed.thread_id) == ("finished", "yes", "t1")
    assert all(step.error is None for step in (*paused.steps, *resumed.steps))


async def test_a_pause_before_a_node_is_seen_too(recorder: Any, writer: Any, sink: Any) -> None:
    """`interrupt_before` raises nothing anywhere, and still the run is interrupted."""
    graph = _one_node(lambda state: state, checkpointer=InMemorySaver(), interrupt_before=["work"])
    await watch(graph, recorder).ainvoke(QUESTION, CONFIG)
    assert writer.flush()
    assert sink.the_run().outcome == "interrupted"


def test_a_jump_to_the_parent_graph_is_no_error(recorder: Any, writer: Any, sink: Any, tree: Tree) -> None:
    """Handing over to a node of the parent travels as an exception, and is none."""
    sub = _one_node(lambda state: Command(goto="after", graph=Command.PARENT), name="jump")
    outer = StateGraph(MessagesState).add_node("sub", sub).add_node("after", lambda state: state)
    watch(outer.add_edge(START, "sub").compile(), recorder).invoke(QUESTION)
    assert writer.flush()
    run = sink.the_run()
    assert tree(run) == [("node", "sub", "root"), ("node", "jump", "sub"), ("node", "after", "root")]
    assert run.outcome == "finished"
    assert all(step.error is None for step in run.steps)


def test_a_stream_that_is_left_early_is_interrupted(agent: Any, writer: Any, sink: Any) -> None:
    """A caller who stops listening is no failure of the agent."""
    stream = agent.stream(QUESTION, CONFIG, stream_mode="updates")
    next(stream)
    stream.close()
    assert writer.flush()
    assert (sink.the_run().outcome, sink.the_run().error) == ("interrupted", "GeneratorExit: ")


@pytest.mark.parametrize("mark", [{"tags": ["learnloop_evaluation"]}, {"metadata": {"learnloop_evaluation": "suite"}}])
def test_examinations_are_not_recorded(agent: Any, writer: Any, sink: Any, mark: dict[str, Any]) -> None:
    """A root that is marked as an evaluation leaves no run, and what comes after it does."""
    agent.invoke(QUESTION, mark)
    agent.invoke(QUESTION, CONFIG)
    assert writer.flush()
    assert sink.the_run().thread_id == "t1"
    assert writer.health().open == 0
    assert writer.health().dropped == {}


def test_a_bare_model_call_is_a_run(adder: Any, recorder: Any, writer: Any, sink: Any) -> None:
    """A model that is called without a graph is a run of one step."""
    adder.invoke("4+5", {"callbacks": [recorder]})
    assert writer.flush()
    run = sink.the_run()
    assert [(step.kind, step.parent_id) for step in run.steps] == [("model", None)]
    assert run.question == "4+5"


def test_a_text_model_is_recorded_like_a_chat_model(recorder: Any, writer: Any, sink: Any) -> None:
    """A model of text to text has a question and an answer, too."""
    FakeListLLM(responses=["fine"]).invoke("how are you?", {"callbacks": [recorder]})
    assert writer.flush()
    assert (sink.the_run().question, sink.the_run().answer) == ("how are you?", "fine")


def test_a_state_without_messages_is_read_from_the_model_call(
    scripted: Any, recorder: Any, writer: Any, sink: Any
) -> None:
    """Where the graph leaves no messages, those of the last model call tell question and answer."""
    model = scripted(answer=lambda told: AIMessage("<think>hm</think> 42"))
    graph = StateGraph(_Sum).add_node("ask", lambda state: {"numbers": [len(model.invoke("meaning?").content)]})
    watch(graph.add_edge(START, "ask").compile(), recorder).invoke({"numbers": []})
    assert writer.flush()
    run = sink.the_run()
    assert (run.question, run.answer, run.steps[1].reasoning) == ("meaning?", "42", "hm")


def test_an_answer_of_an_earlier_turn_is_not_this_runs_answer(
    scripted: Any, recorder: Any, writer: Any, sink: Any
) -> None:
    """A run without an answer has none, even if the thread has older ones."""
    graph = _one_node(lambda state: {})
    watch(graph, recorder).invoke({"messages": [("user", "a"), ("assistant", "b"), ("user", "c")]})
    assert writer.flush()
    assert (sink.the_run().question, sink.the_run().answer) == ("c", None)


def test_dict_messages_are_read_like_message_objects(recorder: Any, writer: Any, sink: Any) -> None:
    """A state that keeps OpenAI dicts has question and answer."""

    class Plain(TypedDict):
        messages: list[dict[str, str]]

    graph = StateGraph(Plain).add_node(
        "say", lambda s: {"messages": [*s["messages"], {"role": "assistant", "content": "b"}]}
    )
    watch(graph.add_edge(START, "say").compile(), recorder).invoke({"messages": [{"role": "user", "content": "a"}]})
    assert writer.flush()
    assert (sink.the_run().question, sink.the_run().answer) == ("a", "b")


def test_a_thread_stores_each_message_once(scripted: Any, recorder: Any, writer: Any, sink: Any) -> None:
    """Storage grows with what is new: 30 turns that re-send everything leave two messages a turn."""
    model = scripted(answer=lambda told: AIMessage(f"answer {len(told)}"))
    agent = watch(create_agent(model, checkpointer=InMemorySaver()), recorder)
    for turn in range(30):
        agent.invoke({"messages": [("user", f"question {turn}")]}, CONFIG)
    assert writer.flush()
    assert len(sink.bodies) == 60
    assert len(sink.items(list(sink.runs.values())[-1].messages)) == 60
    assert sum(len(items) for _, items in sink.lists.values()) == 60


def test_what_never_ends_is_forgotten(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of which no end is told, as of processes that were killed, is remembered within bounds."""
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    for _ in range(10):
        recorder.on_chain_start({}, {}, run_id=uuid4())
        recorder.on_llm_new_token("x", run_id=uuid4())
    assert len(recorder._roots) == 3
    assert len(recorder._streaming) <= 4


def test_outside_of_a_run_nothing_is_noted(recorder: Recorder, writer: Any) -> None:
    """A flag, a wish or a pause that belongs to no run is no event."""
    recorder.flag("bad")
    recorder.want()
    recorder.on_interrupt(SimpleNamespace(run_id=None))  # type: ignore[arg-type]
    recorder.on_resume(SimpleNamespace(run_id=None))  # type: ignore[arg-type]
    assert recorder.current_run() is None
    assert not recorder.is_flagged()
    assert writer.health().queued == 0


def test_what_nodes_pass_around_is_not_held() -> None:
    """A state may be large: only what the root took and left waits in the queue, not what each node did."""
    put: list[Event] = []
    recorder = Recorder(SimpleNamespace(put=put.append), "support")  # type: ignore[arg-type]
    _one_node(lambda state: {"messages": [AIMessage("yes")]}).invoke(QUESTION, {"callbacks": [recorder]})
    root = put[0].run_id
    assert {event.run_id == root for event in put} == {True, False}
    assert all((event.payload is not None) == (event.run_id == root) for event in put)
