"""Programs that speak OpenAI's protocol get the live model: the right release, nothing else, and a clear no."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")

import openai
import uvicorn

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release, ToolCall
from langgraph_learnloop.serving.endpoint import LARGEST_BODY, application, serve
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.testing import MemoryEngine

KEY = "a-key-of-our-own"
HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say how the weather is.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": "Ålesund"}, id="call_1"),))


class Signing(MemoryEngine):
    """Answer with the release's name, and keep what was asked."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[Generation] = []
        self.broken: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def generate(self, request: Generation) -> Generated:
        self.asked.append(request)
        self.go_on.wait(30)
        if self.broken is not None:
            raise self.broken
        answer = super().generate(request)
        signed = Message(role="assistant", content=request.release_id)
        return answer.model_copy(update={"message": signed, "reasoning": "I sign."})


class Streaming(Signing):
    """Write word by word, and know when it was stopped; an endless answer stops only so."""

    def __init__(self, words: tuple[str, ...] = (), endless: bool = False, after: Exception | None = None) -> None:
        super().__init__()
        self.words = words
        self.endless = endless
        self.after = after
        self.stopped = threading.Event()
        self._pace = threading.Event()

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        try:
            yield from (f"{word} " for word in self.words)
            while self.endless:
                self._pace.wait(0.005)
                yield "on "
            if self.after is not None:
                raise self.after
            said = Message(role="assistant", content=" ".join(self.words))
            yield Generated(message=said, input_tokens=1, output_tokens=len(self.words))
        finally:
            self.stopped.set()


class Place:
    """A server, its loop and its model."""

    def __init__(self, address: str, loop: LearnLoop, model: LiveModel) -> None:
        self.address = address
        self.loop = loop
        self.model = model
        self.first = loop.champion.release_id

    def client(self, **given: Any) -> Any:
        """Give OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.address}/v1", **{"api_key": KEY, "max_retries": 0, **given})

    def say(self, text: str = "hello", **given: Any) -> Any:
        """Ask, and return the completion, or the list of its chunks."""
        messages = [{"role": "user", "content": text}]
        with self.client() as client:
            said = client.chat.completions.create(**{"model": "learnloop", "messages": messages, **given})
            return list(said) if given.get("stream") else said

    def post(self, body: Any, **headers: str | bytes) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        return httpx.post(f"{self.address}/v1/chat/completions", content=content, headers=given, timeout=30)

    def flip(self) -> str:
        """Put another release in service."""
        release = self.loop.champion.model_copy(update={"instructions": "Be brief."})
        self.loop.store.releases.add(release)
        self.loop.store.releases.point(release.release_id, "A test.", "test")
        self.loop.follow()
        return release.release_id


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve in a thread, and give the address."""
    door = socket.create_server(("127.0.0.1", 0))
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        door.close()


def opened(stack: ExitStack, folder: Path, engine: Any, key: str | None = KEY, **given: Any) -> Place:
    """Serve an engine until the stack is closed."""
    loop = stack.enter_context(LearnLoop(folder / "loop.db"))
    model = loop.model(engine)
    app = application(model, key=key, releases=loop.store.releases, **given)
    return Place(stack.enter_context(running(app)), loop, model)


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Give a function that serves an engine."""
    with ExitStack() as stack:
        yield partial(opened, stack, tmp_path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Serve an engine that knows two answers, to tests that change nothing."""
    with ExitStack() as stack:
        yield opened(
            stack, tmp_path_factory.mktemp("place"), MemoryEngine({"hello": "Hi.", "weather in Ålesund?": CALL})
        )


def test_a_completion_has_openais_form(place: Place) -> None:
    """The answer, its usage, its ending and its release are where OpenAI's clients look for them."""
    with place.client() as client:
        raw = client.chat.completions.with_raw_response.create(model="learnloop", messages=HELLO)
    said = raw.parse()
    assert (said.object, said.model, said.id[:9]) == ("chat.completion", "learnloop", "chatcmpl-")
    assert abs(said.created - time.time()) < 600
    choice = said.choices[0]
    assert (choice.message.role, choice.message.content, choice.message.tool_calls) == ("assistant", "Hi.", None)
    assert choice.finish_reason == "stop"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (1, 1, 2)
    assert said.learnloop == {"release": place.first}
    assert said.system_fingerprint == raw.headers["x-learnloop-release"] == place.first


def test_tools_go_there_and_back(place: Place) -> None:
    """A call comes with its arguments as JSON, and the model reads the result of it."""
    question = {"role": "user", "content": "weather in Ålesund?"}
    asked = place.say(question["content"], tools=[WEATHER])
    message = asked.choices[0].message
    call = message.tool_calls[0]
    assert (asked.choices[0].finish_reason, message.content) == ("tool_calls", None)
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Ålesund"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    told = place.say(messages=[question, message.model_dump(), result], tools=[WEATHER])
    assert (told.choices[0].message.content, told.choices[0].finish_reason) == ("rain", "stop")


def test_everything_that_is_asked_reaches_the_engine(open_place: Callable[..., Place]) -> None:
    """Roles, parts of text, calls, results with their tools' names, tools, stops and sampling."""
    engine = Signing()
    place = open_place(engine)
    place.say(
        messages=[
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        tools=[WEATHER],
        temperature=0.5,
        max_completion_tokens=7,
        max_tokens=9,
        stop="\n",
        user="somebody",
        extra_body={"a_field_of_tomorrow": True},
    )
    request = engine.asked[0]
    assert request.messages == (
        Message(role="system", content="d"),
        Message(role="user", content="ab", name="ann"),
        Message(role="assistant", tool_calls=(ToolCall(name="weather", id="c1"),)),
        Message(role="tool", content="rain", tool_call_id="c1", name="weather"),
    )
    assert request.tools == (WEATHER,)
    assert (request.sampling.temperature, request.sampling.max_tokens, request.stop) == (0.5, 7, ("\n",))


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("auto", ["weather", "clock"]),
        ("required", ["weather", "clock"]),
        ("none", []),
        ({"type": "function", "function": {"name": "clock"}}, ["clock"]),
    ],
)
def test_tool_choice_narrows_the_offer(open_place: Callable[..., Place], choice: Any, offered: list[str]) -> None:
    """A named tool is offered alone, and "none" offers nothing."""
    engine = Signing()
    clock = {"type": "function", "function": {"name": "clock"}}
    open_place(engine).say(tools=[WEATHER, clock], tool_choice=choice)
    assert [tool["function"]["name"] for tool in engine.asked[0].tools] == offered


def test_parallel_calls_can_be_forbidden(open_place: Callable[..., Place]) -> None:
    """Only the first call is handed on then, whole or streamed."""
    twice = CALL.model_copy(update={"tool_calls": (*CALL.tool_calls, ToolCall(name="weather", args={}, id="call_2"))})
    place = open_place(MemoryEngine({"weather?": twice}))
    assert len(place.say("weather?", tools=[WEATHER]).choices[0].message.tool_calls) == 2
    one = place.say("weather?", tools=[WEATHER], parallel_tool_calls=False)
    assert [call.id for call in one.choices[0].message.tool_calls] == ["call_1"]
    chunks = place.say("weather?", tools=[WEATHER], parallel_tool_calls=False, stream=True)
    assert [call.id for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()] == ["call_1"]


def test_a_stream_says_the_same_word_by_word(open_place: Callable[..., Place]) -> None:
    """Every chunk has the same id, the first the role, the last the ending, and usage comes when it is asked for."""
    place = open_place(Streaming(("one", "two", "three")))
    with place.client() as client:
        stream = client.chat.completions.create(
            model="learnloop", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        assert stream.response.headers["x-learnloop-release"] == place.first
        chunks = list(stream)
    *words, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in words) == "one two three"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in words) >= 2
    assert words[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in words] == [None] * (len(words) - 1) + ["stop"]
    assert (usage.choices, usage.usage.total_tokens) == ([], 4)
    assert {(chunk.id, chunk.object, chunk.learnloop["release"]) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", place.first)
    }
    assert all(chunk.usage is None for chunk in place.say(stream=True))


def test_a_stream_carries_calls(place: Place) -> None:
    """The pieces of a call add up, and the ending says so."""
    chunks = place.say("weather in Ålesund?", tools=[WEATHER], stream=True)
    parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert (parts[0].index, parts[0].id, parts[0].function.name) == (0, "call_1", "weather")
    assert json.loads("".join(part.function.arguments for part in parts)) == {"city": "Ålesund"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_reasoning_is_beside_the_content(open_place: Callable[..., Place]) -> None:
    """Whole and streamed, under the name that other servers use."""
    place = open_place(Signing())
    assert place.say().choices[0].message.reasoning_content == "I sign."
    deltas = [chunk.choices[0].delta for chunk in place.say(stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "I sign."


def test_a_thread_keeps_its_release(open_place: Callable[..., Place]) -> None:
    """By header or by metadata; a caller without a thread gets the champion, and a named release is that release."""
    place = open_place(Signing())
    header, metadata = {"extra_headers": {"x-thread-id": "t1"}}, {"metadata": {"thread_id": "t2"}}
    assert {place.say(**one).choices[0].message.content for one in (header, metadata)} == {place.first}
    new = place.flip()
    assert {place.say(**one).choices[0].message.content for one in (header, metadata)} == {place.first}
    assert "".join(c.choices[0].delta.content or "" for c in place.say(stream=True, **header)) == place.first
    assert place.say().choices[0].message.content == new
    assert place.say(metadata={"thread_id": "t3"}).learnloop == {"release": new}
    both = place.say(metadata={"thread_id": "t3"}, extra_headers={"x-thread-id": "t1"})
    assert both.learnloop == {"release": place.first}
    named = place.say(model=f"learnloop:{place.first}", metadata={"thread_id": "t3"})
    assert named.choices[0].message.content == place.first


async def test_async_clients_are_served_too(place: Place) -> None:
    """Many at once, over one client."""
    async with openai.AsyncOpenAI(base_url=f"{place.address}/v1", api_key=KEY, max_retries=0) as client:
        ask = client.chat.completions.create
        answers = await asyncio.gather(*(ask(model="learnloop", messages=HELLO) for _ in range(20)))
        assert {answer.choices[0].message.content for answer in answers} == {"Hi."}
        stream = await ask(model="learnloop", messages=HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hi."


def test_sixteen_callers_over_two_releases_never_mix(open_place: Callable[..., Place]) -> None:
    """Half of the threads began before the flip: each gets its own release every time, whole or streamed."""
    place = open_place(Signing())

    def say(number: int, stream: bool) -> str:
        given: dict[str, Any] = {"metadata": {"thread_id": f"t{number}"}, "stream": stream}
        answer = place.say(**given)
        if not stream:
            assert answer.learnloop["release"] == answer.choices[0].message.content
            return str(answer.choices[0].message.content)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        assert {chunk.learnloop["release"] for chunk in answer} == {said}
        return said

    for number in range(0, 16, 2):
        say(number, stream=False)
    new = place.flip()
    wanted = [(place.first, new)[number % 2] for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for turn in range(4):
            assert list(pool.map(lambda number, turn=turn: say(number, bool(turn % 2)), range(16))) == wanted


def test_langchains_openai_model_works_with_it(place: Place) -> None:
    """Chat, calls, streams and the release's name, as an agent in another process has them."""
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(
        model="learnloop", base_url=f"{place.address}/v1", api_key=KEY, default_headers={"x-thread-id": "t1"}
    )
    said = model.invoke("hello")
    assert (said.content, said.response_metadata["system_fingerprint"]) == ("Hi.", place.first)
    asked = model.bind_tools([WEATHER]).invoke("weather in Ålesund?")
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Ålesund"})]
    chunks = list(model.stream("hello", stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == "Hi."
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) == 2


def test_models_are_listed(open_place: Callable[..., Place]) -> None:
    """The live name first, then the releases that serve, newest first."""
    place = open_place(MemoryEngine())
    new = place.flip()
    place.say()
    with place.client() as client:
        listed = client.models.list().data
        assert listed[0].id == "learnloop"
        assert f"learnloop:{new}" in {model.id for model in listed}
        assert client.models.retrieve(f"learnloop:{place.first}").owned_by == "learnloop"
        assert client.models.retrieve(place.model.model_name).object == "model"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o'"):
            client.models.retrieve("gpt-4o")


def test_health_says_what_serves_and_since_when(place: Place) -> None:
    """Everybody may ask that, without the key."""
    said = httpx.get(f"{place.address}/health")
    assert (said.status_code, said.json()["status"], said.json()["release"]) == (200, "ok", place.first)
    assert datetime.fromisoformat(said.json()["since"]) == place.loop.store.releases.history()[-1].at


def test_health_is_503_while_the_engine_does_not_answer(open_place: Callable[..., Place]) -> None:
    """The reason is told to the log and not to everybody; a crowd that asks is one question to the engine."""
    engine = Signing()
    place = open_place(engine)
    engine.broken = EngineError("The weights in /secret/place are gone.")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.get(f"{place.address}/health"), range(8)))
    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json() == {"status": "down", "because": "The model does not answer (EngineError)."}
    assert len(engine.asked) == 1


def test_an_engine_that_is_down_is_503(open_place: Callable[..., Place]) -> None:
    """The sentence reaches the caller in OpenAI's form, streamed or not."""
    engine = Signing()
    place = open_place(engine)
    engine.broken = EngineError("The model broke.")
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="The model broke") as caught:
            place.say(stream=stream)
        assert (caught.value.status_code, caught.value.code, caught.value.type) == (503, "unavailable", "server_error")


def test_an_unexpected_failure_tells_nothing(
    open_place: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody asked may be in the error's text: neither the caller nor the log gets it."""
    engine = Signing()
    place = open_place(engine)
    engine.broken = ZeroDivisionError("My secret question.")
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as caught:
        place.say("My secret question.")
    assert caught.value.status_code == 500
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in str(caught.value) + caplog.text


def test_an_error_in_midst_of_a_stream_is_its_last_event(open_place: Callable[..., Place]) -> None:
    """The words before it came through, and the client raises."""
    place = open_place(Streaming(("one", "two", "three"), after=EngineError("The model broke.")))
    with place.client() as client:
        stream = client.chat.completions.create(model="learnloop", messages=HELLO, stream=True)
        assert next(stream).choices[0].delta.content == "one"
        with pytest.raises(openai.APIError, match="The model broke"):
            list(stream)


def test_a_model_that_takes_too_long_is_504(open_place: Callable[..., Place]) -> None:
    """The caller is told, and is not to ask again at once; the place is free when the model is done."""
    engine = Signing()
    place = open_place(engine, seconds=0.2, places=1)
    engine.go_on.clear()
    late = place.post({"model": "learnloop", "messages": HELLO})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert late.headers["x-should-retry"] == "false"
    busy = place.post({"model": "learnloop", "messages": HELLO})
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    engine.go_on.set()
    assert _soon(lambda: place.post({"model": "learnloop", "messages": HELLO}).status_code == 200)


def test_a_stream_ends_at_its_deadline(open_place: Callable[..., Place]) -> None:
    """An endless answer is stopped, and the client raises."""
    engine = Streaming(endless=True)
    place = open_place(engine, seconds=0.5)
    with pytest.raises(openai.APIError, match=r"did not answer within 0\.5 seconds"):
        place.say(stream=True)
    assert engine.stopped.wait(10)


def test_a_caller_who_hangs_up_stops_a_call_that_is_held_back(open_place: Callable[..., Place]) -> None:
    """No piece of it is there to be refused, and it is given up all the same."""
    engine = Streaming(("Well.", "<tool_call>"), endless=True)
    place = open_place(engine)
    with place.client() as client:
        stream = client.chat.completions.create(model="learnloop", messages=HELLO, stream=True)
        assert next(stream).choices[0].delta.content == "Well."
        stream.close()
    assert engine.stopped.wait(10)


def test_a_caller_who_hangs_up_stops_the_answer(open_place: Callable[..., Place]) -> None:
    """The engine is told at its next word, and the place is free again."""
    engine = Streaming(endless=True)
    place = open_place(engine, places=1)
    for _ in range(3):
        engine.stopped.clear()
        with place.client() as client:
            stream = client.chat.completions.create(model="learnloop", messages=HELLO, stream=True)
            next(iter(stream))
            assert not engine.stopped.is_set()
            stream.close()
        assert engine.stopped.wait(10)


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer é"])
def test_nobody_is_let_in_without_the_key(place: Place, given: str) -> None:
    """401 in OpenAI's form, whatever is wrong, at every door but that of health."""
    header = {"authorization": given.encode()}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/learnloop")):
        said = httpx.request(method, place.address + path, headers=header)
        assert (said.status_code, said.json()["error"]["code"]) == (401, "invalid_api_key")


def test_openais_client_sees_a_wrong_key(place: Place) -> None:
    """It raises its own error for that."""
    with place.client(api_key="wrong") as client, pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        client.models.list()


@pytest.mark.parametrize(("host", "status"), [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200)] + [
    (host, 403) for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", "")
])  # fmt: skip
def test_without_a_key_no_web_page_gets_in(open_place: Callable[..., Place], host: str, status: int) -> None:
    """A page whose name was made to lead here cannot hide its name, and a form cannot send JSON."""
    place = open_place(MemoryEngine({"hello": "Hi."}), key=None)
    body = {"model": "learnloop", "messages": HELLO}
    assert place.post(body, host=host).status_code == status
    assert place.post(body, **{"content-type": "text/plain"}).status_code == 400


@pytest.mark.parametrize("name", ["gpt-4o", "", "learnloop:", "learnloop:unknown", "learnloop-x"])
def test_an_unknown_model_is_404(place: Place, name: str) -> None:
    """In the form that OpenAI's clients know."""
    with pytest.raises(openai.NotFoundError) as caught:
        place.say(model=name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "critic", "content": "boo"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "rain"}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search", "function": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "clock"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": ["none"]}, "tool_choice"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": "t1"}, "metadata"),
        ({"metadata": {"thread_id": 5}}, "metadata.thread_id"),
        ({"metadata": {"thread_id": ""}}, "metadata.thread_id"),
        ({"metadata": {"thread_id": "t" * 1000}}, "metadata.thread_id"),
        ({"metadata": {"thread_id": "\x00"}}, "metadata.thread_id"),
        ({"model": None}, "model"),
        ({"n": 2}, "n"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": True}, "top_logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"top_p": 0.5}, "top_p"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
def test_what_is_not_usable_is_named(place: Place, given: dict[str, Any], field: str) -> None:
    """A 400 in OpenAI's form with a sentence that names the field."""
    said = place.post({"model": "learnloop", "messages": HELLO, **given})
    error = said.json()["error"]
    assert (said.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
    assert f"{field!r}" in error["message"]
    assert error["message"].endswith(".")


@pytest.mark.parametrize(
    "given", [{"n": 1, "top_p": 1.0, "logprobs": False, "response_format": {"type": "text"}}, {"n": None, "stop": None}]
)
def test_what_changes_nothing_is_welcome(place: Place, given: dict[str, Any]) -> None:
    """Frameworks send many fields at their defaults."""
    assert place.post({"model": "learnloop", "messages": HELLO, **given}).status_code == 200


def test_log_probabilities_come_in_openais_form(place: Place) -> None:
    """Of every token, with the likeliest ones; a stream tells them with its end."""
    whole = place.say(logprobs=True, top_logprobs=2).choices[0].logprobs
    assert [(token.token, len(token.top_logprobs)) for token in whole.content] == [("Hi.", 2)]
    *before, last = [chunk.choices[0] for chunk in place.say(logprobs=True, top_logprobs=2, stream=True)]
    assert ({choice.logprobs for choice in before}, last.finish_reason) == ({None}, "stop")
    assert last.logprobs.model_dump() == whole.model_dump()
    assert place.say(logprobs=False).choices[0].logprobs is None
    assert place.say(logprobs=True, top_logprobs=0).choices[0].logprobs.content[0].top_logprobs == []


def test_langchains_client_reads_them(place: Place) -> None:
    """An agent behind the endpoint finds them where it would find OpenAI's, and where the live model puts them."""
    pytest.importorskip("langchain_openai")
    from langchain_openai import ChatOpenAI

    client = ChatOpenAI(base_url=f"{place.address}/v1", api_key=KEY, model="learnloop").bind(
        logprobs=True, top_logprobs=1
    )
    expected = place.model.invoke("hello", logprobs=True, top_logprobs=1).response_metadata["logprobs"]["content"]
    assert client.invoke("hello").response_metadata["logprobs"]["content"] == expected
    streamed = [chunk.response_metadata.get("logprobs") for chunk in client.stream("hello")]
    assert [told["content"] for told in streamed if told] == [expected]


def test_an_engine_that_knows_no_probabilities_answers_without(open_place: Callable[..., Place]) -> None:
    """Asking is no error."""
    place = open_place(Streaming(("Hi.",)))
    assert {chunk.choices[0].logprobs for chunk in place.say(logprobs=True, stream=True)} == {None}


@pytest.mark.parametrize("arguments", ["[]", "{", "5", '{"a": NaN}', '{"a": ' * 70 + "1" + "}" * 70])
def test_arguments_must_be_a_json_object(place: Place, arguments: str) -> None:
    """They are JSON inside of a text, and must not be deeper than the rest."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    said = place.post({"model": "learnloop", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert (said.status_code, said.json()["error"]["param"]) == (
        400,
        "messages[0].tool_calls[0].function.arguments",
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"[" * 70 + b"]" * 70],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_a_body_that_is_no_json_is_400(place: Place, body: bytes) -> None:
    """Broken, deep and odd bodies are refused in a sentence, and the server lives on."""
    said = place.post(body)
    assert (said.status_code, said.json()["error"]["code"]) == (400, "invalid_json")
    assert place.say().choices[0].message.content == "Hi."


def test_a_body_that_is_too_large_is_413(place: Place) -> None:
    """It is refused, and what fits is not."""
    text = "hello " * (LARGEST_BODY // 6)
    with pytest.raises(openai.APIStatusError, match="at most 4,000,000 bytes") as caught:
        place.say(text)
    assert caught.value.status_code == 413
    assert place.say(text[: LARGEST_BODY // 2]).choices[0].finish_reason == "stop"


def test_a_thread_in_the_header_must_be_ascii(place: Place) -> None:
    """Else it would be another thread than the same name in the metadata."""
    said = place.post({"model": "learnloop", "messages": HELLO}, **{"x-thread-id": "tå".encode()})
    assert (said.status_code, "metadata.thread_id" in said.text) == (400, True)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/docs", 404), ("GET", "/openapi.json", 404)] + [
    ("GET", "/v1/chat/completions", 405), ("POST", "/v1/embeddings", 404)
])  # fmt: skip
def test_there_are_no_other_doors(place: Place, method: str, path: str, status: int) -> None:
    """No pages of documentation, and a refusal in OpenAI's form."""
    said = httpx.request(method, place.address + path, headers={"authorization": f"Bearer {KEY}"})
    assert (said.status_code, said.json()["error"]["code"]) == (status, "not_found")


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused(key: str, tmp_path: Path) -> None:
    """An empty variable of the environment must not open the door."""
    with LearnLoop(tmp_path / "loop.db") as loop, pytest.raises(ConfigError, match="key"):
        application(loop.model(MemoryEngine()), key=key)


def test_without_a_key_it_is_served_on_this_machine_only(tmp_path: Path) -> None:
    """Everybody else could use the model."""
    with LearnLoop(tmp_path / "loop.db") as loop, pytest.raises(ConfigError, match=r"'0\.0\.0\.0'.*give a key"):
        serve(application(loop.model(MemoryEngine())), "0.0.0.0")


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    """Not a process that ends by itself."""
    with (
        LearnLoop(tmp_path / "loop.db") as loop,
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="cannot be had"),
    ):
        serve(application(loop.model(MemoryEngine())), port=taken.getsockname()[1])


def test_a_server_lets_answers_come_to_their_end_and_returns(tmp_path: Path) -> None:
    """SIGTERM in the midst of a stream: its caller gets the rest, and what comes after `serve` is done."""
    script = tmp_path / "server.py"
    script.write_text(_SERVER, encoding="utf-8")
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=_environment(root)
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        body = {"model": "learnloop", "messages": HELLO, "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            process.terminate()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.stdout.read() == "closed\n"
    assert process.returncode == 0


_SERVER = """
import time
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.records import Generated, Message
from langgraph_learnloop.serving.endpoint import application, serve
from langgraph_learnloop.testing import MemoryEngine

class Slow(MemoryEngine):
    def stream(self, request):
        for _ in range(20):
            time.sleep(0.05)
            yield "on "
        yield Generated(message=Message(role="assistant", content="on"), input_tokens=1, output_tokens=20)

with LearnLoop("loop.db") as loop:
    serve(application(loop.model(Slow())), port=0, on_ready=lambda address: print(address, flush=True))
    print("closed", flush=True)
"""


def _environment(root: Path) -> dict[str, str]:
    """Let a process elsewhere import what this one can."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}


@pytest.mark.slow
def test_the_shipped_model_is_served(tmp_path: Path) -> None:
    """A real model calls a tool over HTTP, whole and streamed alike."""
    pytest.importorskip("torch")
    from langgraph_learnloop.demo.toolbox import Home
    from langgraph_learnloop.serving.local_engine import LocalEngine

    engine = LocalEngine(str(resources.files("langgraph_learnloop.demo") / "base_model"))
    with LearnLoop(tmp_path / "loop.db") as loop:
        model = loop.model(engine)
        with running(application(model, key=KEY, releases=loop.store.releases)) as address:
            place = Place(address, loop, model)
            tools = [convert_to_openai_tool(tool) for tool in Home().tools()]
            whole = place.say("Set a timer for 5 minutes", tools=tools)
            chunks = place.say("Set a timer for 5 minutes", tools=tools, stream=True)
            health = httpx.get(f"{address}/health").json()
    engine.close()
    call = whole.choices[0].message.tool_calls[0].function
    parts = [part.function for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert (parts[0].name, "".join(part.arguments for part in parts)) == (call.name, call.arguments)
    assert (health["status"], health["release"]) == ("ok", place.first)
    assert Release(base_model=engine.base_model, made_at=datetime.now(UTC)).release_id == place.first


def _soon(holds: Callable[[], bool]) -> bool:
    """Tell whether something comes to hold within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if holds():
            return True
    return False
