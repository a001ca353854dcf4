"""The chat model sends each call to the release it belongs to, and speaks LangChain on the outside."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_learnloop.errors import DataError, EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release, Routes, Sampling, ToolCall
from langgraph_learnloop.serving.live_model import LiveModel, to_messages
from langgraph_learnloop.serving.router import Router

OLD = Release(base_model="base", made_at=datetime(2026, 1, 1, tzinfo=UTC))
NEW = OLD.model_copy(
    update={"instructions": "Be brief.", "sampling": Sampling(temperature=0.5, max_tokens=7), "parent": OLD.release_id}
)
RELEASES = {release.release_id: release for release in (OLD, NEW)}


class Echo:
    """An engine that answers with the release's id and keeps every request."""

    def __init__(self, calls: tuple[ToolCall, ...] = ()) -> None:
        self.asked: list[Generation] = []
        self.loaded: list[str] = []
        self.calls = calls

    def load(self, release: Release) -> None:
        self.loaded.append(release.release_id)

    def unload(self, release_id: str) -> None:
        self.loaded.remove(release_id)

    def generate(self, request: Generation) -> Generated:
        self.asked.append(request)
        wants = self.calls if request.messages[-1].role == "user" else ()
        answer = Message(role="assistant", content="" if wants else request.release_id, tool_calls=wants)
        return Generated(message=answer, reasoning="I think.", input_tokens=5, output_tokens=2)


class Store:
    """A pointer and pins, in memory."""

    def __init__(self) -> None:
        self.now = OLD.release_id
        self.pins: dict[str, str] = {}

    def routes(self) -> Routes:
        return Routes(self.now)

    def pin(self, thread_id: str, release_id: str) -> str:
        return self.pins.setdefault(thread_id, release_id)

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        raise AssertionError(f"{thread_id} has none of {refused}")


def live(calls: tuple[ToolCall, ...] = (), **fields: Any) -> tuple[LiveModel, Echo, Store]:
    engine, store = Echo(calls), Store()
    fields = {"find_release": RELEASES.__getitem__, **fields}
    return LiveModel(engine=engine, router=Router(store, store, poll_seconds=0), **fields), engine, store


def in_thread(thread_id: str, **metadata: str) -> Any:
    return {"configurable": {"thread_id": thread_id}, "metadata": metadata}


def bare(thread_id: str) -> Any:
    return {"metadata": {"thread_id": thread_id}}


def test_a_thread_keeps_its_release_through_a_graph():
    """An agent's threads that began before the flip stay with the old release; new ones get the new."""
    model, _, store = live()
    agent = create_agent(model, [], checkpointer=InMemorySaver())

    def say(thread_id: str, **metadata: str) -> str:
        return agent.invoke({"messages": [("user", "hi")]}, in_thread(thread_id, **metadata))["messages"][-1].content

    assert say("t1") == OLD.release_id
    store.now = NEW.release_id
    assert [say("t1"), say("t2"), say("t1")] == [OLD.release_id, NEW.release_id, OLD.release_id]
    assert say("t1", learnloop_release=NEW.release_id) == NEW.release_id
    assert store.pins == {"t1": OLD.release_id, "t2": NEW.release_id}


async def test_the_same_holds_for_async_graphs():
    """The thread is found from a coroutine too."""
    model, _, store = live()
    agent = create_agent(model, [], checkpointer=InMemorySaver())
    await agent.ainvoke({"messages": [("user", "hi")]}, in_thread("t1"))
    store.now = NEW.release_id
    out = await agent.ainvoke({"messages": [("user", "hi")]}, in_thread("t1"))
    assert out["messages"][-1].content == OLD.release_id


def test_the_bare_model_reads_its_metadata():
    """Without a graph, thread and release come from the config's metadata; without a thread, the champion answers."""
    model, _, store = live()
    model.invoke("hi", bare("t1"))
    store.now = NEW.release_id
    assert model.invoke("hi", bare("t1")).content == OLD.release_id
    assert model.invoke("hi").content == NEW.release_id
    assert model.invoke("hi", {"metadata": {"learnloop_release": OLD.release_id}}).content == OLD.release_id


def test_eight_threads_never_cross():
    """Eight callers at once, each in a thread of its own, get their own release every time."""
    model, _, store = live()
    for number in range(8):
        store.now = (OLD, NEW)[number % 2].release_id
        model.invoke("hi", bare(f"t{number}"))

    def say(number: int) -> bool:
        return all(
            model.invoke("hi", bare(f"t{number}")).content == (OLD, NEW)[number % 2].release_id for _ in range(20)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(say, range(8)))


def test_a_release_brings_its_instructions_and_sampling():
    """Instructions go before the agent's own system prompt; what the call asks for beats the release's sampling."""
    model, engine, _ = live()
    new = {"metadata": {"learnloop_release": NEW.release_id}}
    model.invoke([SystemMessage("You book rooms."), HumanMessage("hi")], new, stop=["\n"], max_tokens=3)
    model.invoke("hi", new)
    first, second = engine.asked
    assert [m.content for m in first.messages] == ["Be brief.\n\nYou book rooms.", "hi"]
    assert [m.content for m in second.messages] == ["Be brief.", "hi"]
    assert (first.sampling.max_tokens, second.sampling.max_tokens) == (3, 7)
    assert (first.sampling.temperature, first.stop, second.stop) == (0.5, ("\n",), ())
    assert engine.loaded == [NEW.release_id] * 2


def test_without_find_release_the_engine_is_trusted():
    """Nothing is loaded and nothing is put before the conversation."""
    model, engine, store = live(find_release=None)
    store.now = NEW.release_id
    model.invoke("hi")
    assert (engine.loaded, engine.asked[0].messages, engine.asked[0].sampling) == (
        [],
        (Message(role="user", content="hi"),),
        Sampling(),
    )


def test_tools_go_around_the_whole_loop():
    """A tool that the model asks for is run by the agent, and the model reads call and result with one id."""

    @tool
    def weather(city: str) -> str:
        """Say how the weather is in a city."""
        return f"rain in {city}"

    model, engine, _ = live((ToolCall(name="weather", args={"city": "Oslo"}),))
    out = create_agent(model, [weather]).invoke({"messages": [("user", "weather?")]})
    first, second = engine.asked
    assert first.tools[0]["function"]["name"] == "weather"
    _, asked, result = second.messages
    assert (asked.tool_calls[0].args, result.content) == ({"city": "Oslo"}, "rain in Oslo")
    assert asked.tool_calls[0].id == result.tool_call_id
    assert str(result.tool_call_id).startswith("call_")
    assert out["messages"][-1].content == OLD.release_id


@pytest.mark.parametrize(
    ("choice", "offered"), [(None, ["one", "two"]), ("any", ["one", "two"]), ("two", ["two"]), ("none", [])]
)
def test_tool_choice_narrows_the_offer(choice: str | None, offered: list[str]):
    """A named tool is offered alone, "none" offers nothing, and no choice offers all."""
    schemas = [
        {"type": "function", "function": {"name": name, "description": "", "parameters": {}}} for name in ("one", "two")
    ]
    model, engine, _ = live()
    model.bind_tools(schemas, tool_choice=choice).invoke("hi")
    assert [schema["function"]["name"] for schema in engine.asked[0].tools] == offered


def test_the_answer_carries_what_traces_need():
    """Usage, release, finish reason and chain of thought are where LangChain's tools look for them."""
    model, _, _ = live()
    answer = model.invoke("hi")
    assert answer.usage_metadata == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    assert answer.response_metadata["learnloop_release"] == OLD.release_id
    assert (answer.response_metadata["finish_reason"], answer.response_metadata["model_provider"]) == (
        "stop",
        "learnloop",
    )
    assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": "I think."}


def test_streaming_gives_the_same_answer():
    """The chunks add up to the invoked message, calls and usage included."""
    call = ToolCall(name="weather", args={"city": "Oslo"}, id="call_1")
    model, _, _ = live((call,))
    whole: AIMessageChunk | None = None
    for chunk in model.stream("weather?"):
        whole = chunk if whole is None else whole + chunk
    said = model.invoke("weather?")
    assert whole is not None
    assert (whole.tool_calls, whole.usage_metadata) == (said.tool_calls, said.usage_metadata)
    assert whole.response_metadata["learnloop_release"] == OLD.release_id


def test_every_kind_of_message_is_translated():
    """Roles, calls, results and text blocks survive; what is not text is left out."""
    calls = [{"name": "f", "args": {"x": 1}, "id": "c1", "type": "tool_call"}]
    blocks = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    got = to_messages(
        [
            SystemMessage("s"),
            HumanMessage(blocks, name="ann"),
            AIMessage("", tool_calls=calls),
            ToolMessage("r", tool_call_id="c1", name="f"),
            ChatMessage(role="user", content="u"),
        ]
    )
    assert got == (
        Message(role="system", content="s"),
        Message(role="user", content="look", name="ann"),
        Message(role="assistant", tool_calls=(ToolCall(name="f", args={"x": 1}, id="c1"),)),
        Message(role="tool", content="r", tool_call_id="c1", name="f"),
        Message(role="user", content="u"),
    )


def test_a_message_of_an_unknown_kind_is_refused():
    """A sentence names the kind."""
    with pytest.raises(DataError, match="'critic' cannot be read"):
        to_messages([ChatMessage(role="critic", content="boo")])


def test_an_engine_error_reaches_the_caller():
    """The model hides no failure."""
    model, engine, _ = live()

    def fail(request: Generation) -> Generated:
        raise EngineError("It broke.")

    engine.generate = fail  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="It broke"):
        model.invoke("hi")


class Stutterer(Echo):
    """Write calls that cannot be read until the temperature is high enough."""

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until

    def generate(self, request: Generation) -> Generated:
        answer = super().generate(request)
        if request.sampling.temperature >= self.until:
            call = ToolCall(name="add", args={"a": 1})
            return answer.model_copy(update={"message": Message(role="assistant", tool_calls=(call,))})
        torn = Message(role="assistant", content='<tool_call>{"name": "add", "argu')
        return answer.model_copy(update={"message": torn})


@pytest.mark.parametrize(("until", "asked"), [(0.0, 1), (0.3, 2), (0.8, 3)])
def test_a_call_that_cannot_be_read_is_written_again(until: float, asked: int) -> None:
    """A torn call is asked for again, warmer each time, and the tokens of every try are counted."""
    engine = Stutterer(until)
    answer = LiveModel(engine=engine, router=Router(Store(), Store())).invoke("1+1")
    assert isinstance(answer, AIMessage)
    assert [call["name"] for call in answer.tool_calls] == ["add"]
    assert len(engine.asked) == asked
    assert answer.usage_metadata == {"input_tokens": 5 * asked, "output_tokens": 2 * asked, "total_tokens": 7 * asked}


def test_a_call_that_can_never_be_read_is_handed_on() -> None:
    """After three tries the text is what the model wrote, and nothing raises."""
    engine = Stutterer(9.0)
    answer = LiveModel(engine=engine, router=Router(Store(), Store())).invoke("1+1")
    assert str(answer.content).startswith("<tool_call>")
    assert len(engine.asked) == 3
