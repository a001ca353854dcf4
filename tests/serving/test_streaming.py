"""What an engine writes is shown as it is written, but for calls; who stops listening stops the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.toolcalls import parse_answer
from langgraph_learnloop.testing import MemoryEngine
from tests.serving.test_standard import OneRelease

TOOL = {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


class Scripted:
    """An engine that streams given pieces, and then the answer that they are; one script a call."""

    base_model = "scripted"

    def __init__(self, *scripts: Sequence[str]) -> None:
        self.scripts = list(scripts)
        self.asked: list[Generation] = []
        self.closed = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def load(self, release: Release) -> None: ...

    def unload(self, release_id: str) -> None: ...

    def generate(self, request: Generation) -> Generated:
        return self.answer(self.next(request))

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        script = self.next(request)
        try:
            for piece in script:
                yield piece
                assert self.go_on.wait(30)
            yield self.answer(script)
        finally:
            self.closed.set()

    def next(self, request: Generation) -> Sequence[str]:
        self.asked.append(request)
        return self.scripts[(len(self.asked) - 1) % len(self.scripts)]

    def answer(self, script: Sequence[str]) -> Generated:
        read = parse_answer("".join(script), new_id=lambda: "call_0", offered=["add"])
        said = Message(role="assistant", content=read.content, tool_calls=read.tool_calls)
        return Generated(message=said, reasoning=read.reasoning, input_tokens=3, output_tokens=len(script))


def live(*scripts: Sequence[str]) -> tuple[LiveModel, Scripted]:
    engine = Scripted(*scripts)
    return LiveModel(engine=engine, router=Router(OneRelease(), OneRelease())), engine


def summed(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def test_words_come_one_by_one() -> None:
    """Each piece is a chunk of its own; metadata is in the first, usage in the last."""
    model, _ = live(["It", " rains", " in Oslo."])
    chunks = list(model.stream("weather?"))
    assert [chunk.content for chunk in chunks] == ["It", " rains", " in Oslo.", ""]
    assert [chunk.response_metadata.get("model_name") for chunk in chunks] == ["learnloop", None, None, None]
    assert [chunk.usage_metadata is not None for chunk in chunks] == [False, False, False, True]
    assert [chunk.chunk_position for chunk in chunks] == [None, None, None, "last"]
    assert summed(chunks).response_metadata == model.invoke("weather?").response_metadata


def test_the_first_word_comes_before_the_last_is_written() -> None:
    """Nobody waits for the whole answer to read its beginning."""
    model, engine = live(["It", " rains."])
    engine.go_on.clear()
    chunks = iter(model.stream("weather?"))
    assert next(chunks).content == "It"
    engine.go_on.set()
    assert [chunk.content for chunk in chunks] == [" rains.", ""]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "It rains. \n",
        f"<think>\nOslo is\nfar. </think>\n\nLet me see. {CALL}",
        f"{CALL}\n{CALL} That is all.",
        "<think>It was cut",
        "a < b <tool and [TOOL_ are no calls: <|python",
        '{"name": "add", "parameters": {"a": 1}}',
        '{"weather": "rain"}',
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
        "[TOOL_CALLS]add[ARGS]{}",
        "<think></think> Yes.",
        "",
    ],
)
def test_a_stream_adds_up_to_the_whole_answer(text: str, size: int) -> None:
    """However the text is torn, content, reasoning, calls and usage are those of the invoked message."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    model, _ = live(pieces)
    whole = summed(list(model.bind_tools([TOOL], temperature=0.0).stream("1+1?")))
    said = model.bind_tools([TOOL]).invoke("1+1?")
    assert whole.content == said.content
    assert whole.additional_kwargs.get("reasoning_content") == said.additional_kwargs.get("reasoning_content")
    assert (whole.tool_calls, whole.usage_metadata) == (said.tool_calls, said.usage_metadata)
    assert "<tool_call>" not in str(whole.content)


def test_reasoning_is_streamed_apart() -> None:
    """Thoughts are in chunks of their own, without their marks."""
    model, _ = live(["<th", "ink>Hm", ", well", ".</thi", "nk>", "Yes."])
    shown = [(chunk.content, chunk.additional_kwargs.get("reasoning_content")) for chunk in model.stream("?")]
    assert shown == [("", "Hm"), ("", ", well"), ("", "."), ("Yes.", None), ("", None)]


def test_each_call_is_one_chunk_piece_at_the_end() -> None:
    """Calls are handed on whole, with their indexes, after the words before them."""
    model, _ = live(["See: ", CALL[:9], CALL[9:], CALL])
    *words, last = model.bind_tools([TOOL]).stream("1+1?")
    assert [chunk.content for chunk in words] == ["See:"]
    assert [(piece["index"], piece["name"], piece["args"]) for piece in last.tool_call_chunks] == [
        (0, "add", '{"a": 1}'),
        (1, "add", '{"a": 1}'),
    ]


def test_a_torn_call_is_written_again_before_anybody_reads_it() -> None:
    """Of a call that cannot be read nothing is shown; the words before it stay, and every try's tokens count."""
    model, engine = live(["Well. ", '<tool_call>{"name": "add", "argu'], ["Now: ", CALL])
    whole = summed(list(model.bind_tools([TOOL]).stream("1+1?")))
    assert whole.content == "Well.\nNow:"
    assert [call["name"] for call in whole.tool_calls] == ["add"]
    assert [round(request.sampling.temperature, 1) for request in engine.asked] == [0.0, 0.4]
    assert whole.usage_metadata == {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}


@pytest.mark.parametrize("choice", ["any", True, "add", {"type": "function", "function": {"name": "add"}}])
def test_a_call_that_is_demanded_and_missing_is_asked_for_again(choice: Any) -> None:
    """With a choice of tools words alone do not do, streamed or not; none of them is shown."""
    for ask in ("invoke", "stream"):
        model, engine = live(["I would rather talk."], [CALL])
        bound = model.bind_tools([TOOL], tool_choice=choice)
        got = bound.invoke("1+1?") if ask == "invoke" else summed(list(bound.stream("1+1?")))
        assert (got.content, [call["name"] for call in got.tool_calls]) == ("", ["add"])
        assert len(engine.asked) == 2


def test_a_demand_that_is_never_met_ends_in_words() -> None:
    """After three tries the words are handed on."""
    model, engine = live(["No."])
    assert summed(list(model.bind_tools([TOOL], tool_choice="any").stream("1+1?"))).content == "No."
    assert len(engine.asked) == 3


@pytest.mark.parametrize("choice", ["sub", {"type": "function", "function": {"name": "sub"}}, {"function": 3}])
def test_a_choice_of_a_tool_that_is_not_offered_is_refused(choice: Any) -> None:
    """A slip in a tool's name says which ones there are."""
    model, _ = live(["No."])
    with pytest.raises(ConfigError, match="names none of the tools add;"):
        model.bind_tools([TOOL], tool_choice=choice)


def test_a_bare_stream_belongs_to_its_thread() -> None:
    """The thread of the config's metadata decides the release, as it does for `invoke`."""

    class ByThread(OneRelease):
        def pin(self, thread_id: str, release_id: str) -> str:
            return f"release of {thread_id}"

    engine = Scripted(["Yes."])
    model = LiveModel(engine=engine, router=Router(ByThread(), ByThread()))
    list(model.stream("?", {"metadata": {"thread_id": "t1"}}))
    asyncio.run(collected(model, {"metadata": {"thread_id": "t2"}}))
    list(model.stream("?", {"metadata": {"learnloop_release": "r3"}}))
    assert [request.release_id for request in engine.asked] == ["release of t1", "release of t2", "r3"]


async def collected(model: LiveModel, config: Any = None) -> list[AIMessageChunk]:
    return [chunk async for chunk in model.astream("?", config)]


def test_a_graph_streams_the_models_words() -> None:
    """LangGraph's stream of messages has the words of a node that only invokes, once each."""
    model, _ = live(["It", " rains."])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "model")
    said = [chunk.content for chunk, _ in graph.compile().stream({"messages": [("user", "?")]}, stream_mode="messages")]
    assert said == ["It", " rains.", ""]


def test_an_engine_that_does_not_stream_gives_one_chunk() -> None:
    """The whole answer is the last chunk too."""
    model, engine = live(["<think>Hm</think>It", " rains."])
    engine.stream = None  # type: ignore[assignment]
    (chunk,) = model.stream("?")
    assert (chunk.content, chunk.chunk_position) == ("It rains.", "last")
    assert chunk.additional_kwargs == {"reasoning_content": "Hm"}


def test_a_stream_without_an_end_is_refused() -> None:
    """An engine that forgets the whole answer is told so."""
    model, engine = live(["It"])
    engine.stream = lambda request: iter(["It"])  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="without the answer of release 'butler'"):
        list(model.stream("?"))


def test_an_error_in_the_middle_reaches_the_reader() -> None:
    """What was written is shown, then the engine's sentence is raised, from a coroutine too."""

    def broken(request: Generation) -> Iterator[str | Generated]:
        yield "It"
        raise EngineError("It broke.")

    model, engine = live(["It"])
    engine.stream = broken  # type: ignore[method-assign]
    chunks = iter(model.stream("?"))
    assert next(chunks).content == "It"
    with pytest.raises(EngineError, match="It broke"):
        next(chunks)
    with pytest.raises(EngineError, match="It broke"):
        asyncio.run(collected(model))


def test_closing_a_stream_closes_the_engines() -> None:
    """Who has read enough frees the engine at once."""
    model, engine = live(["It", " rains."])
    chunks = model.stream("?")
    assert next(chunks).content == "It"
    chunks.close()  # type: ignore[attr-defined]
    assert engine.closed.is_set()


@pytest.mark.parametrize("script", [["It", *["."] * 5], ["It <tool_call>", *["."] * 5]])
async def test_cancelling_a_coroutine_stops_the_engine_at_its_next_word(script: list[str]) -> None:
    """The event loop is free while the engine is busy, and so is the engine soon after, even in a call held back."""
    model, engine = live(script)
    engine.go_on.clear()
    reading = asyncio.create_task(collected(model))
    while not engine.asked:
        await asyncio.sleep(0.001)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not engine.closed.is_set()
    engine.go_on.set()
    assert await asyncio.to_thread(engine.closed.wait, 30)


async def test_a_cancelled_answer_is_waited_for_by_nobody() -> None:
    """`ainvoke` returns to its caller at once, whatever the engine still does."""
    model, engine = live(["It"])
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: Generation) -> Generated:
        begun.set()
        assert go_on.wait(30)
        return engine.answer(["It"])

    engine.generate = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(model.ainvoke("?"))
    assert await asyncio.to_thread(begun.wait, 30)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()


async def test_many_coroutines_are_answered_at_once() -> None:
    """An engine's batch is not kept small by the threads that asyncio lends: all of these wait for each other."""
    model, engine = live(["It"])
    together = threading.Barrier(40)

    def meet(request: Generation) -> Generated:
        together.wait(30)
        return engine.answer(["It"])

    engine.generate = meet  # type: ignore[method-assign]
    answers = await asyncio.gather(*(model.ainvoke("?") for _ in range(40)))
    assert {answer.content for answer in answers} == {"It"}


def test_the_engine_from_memory_speaks_word_by_word() -> None:
    """The fake streams what it answers, and a tool call as no words at all."""
    engine = MemoryEngine({"weather": "It rains  in Oslo.\n"})
    engine.load(Release(base_model="memory", made_at="2026-01-01T00:00:00Z"))  # type: ignore[arg-type]
    (release_id,) = engine._loaded
    asked = Generation(release_id=release_id, messages=(Message(role="user", content="weather"),))
    *words, answer = engine.stream(asked)
    assert words == ["It", " rains", "  in", " Oslo.", "\n"]
    assert answer == engine.generate(asked)
