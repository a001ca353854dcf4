"""Any chat model behind the engine's port: its answers whole, its faults a sentence each."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field, SkipValidation

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.hosted_engine import HostedEngine
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.testing import ScriptedModel
from tests.serving.test_standard import OneRelease

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = Release(base_model="small", instructions="Be brief.", made_at=NOW)
TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}
ASKED = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="1+1?", name="ann"),
    Message(role="assistant", tool_calls=(ToolCall(name="add", args={"a": 1}, id="c1"),)),
    Message(role="tool", content="2", tool_call_id="c1", name="add"),
)


def request(release: Release = SMALL, **more: Any) -> Generation:
    return Generation(**{"release_id": release.release_id, "messages": ASKED, **more})


def hosting(model: BaseChatModel, **more: Any) -> HostedEngine:
    engine = HostedEngine({"small": model}, base_model="small", **more)
    engine.load(SMALL)
    return engine


class Spoken(BaseChatModel):
    """Give one message, whole or in chunks, and keep what it was asked."""

    whole: SkipValidation[AIMessage]
    chunks: SkipValidation[list[AIMessageChunk]] = Field(default_factory=list)
    asked: SkipValidation[list[tuple[list[BaseMessage], Any, dict[str, Any]]]] = Field(default_factory=list)
    closed: SkipValidation[list[bool]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "spoken"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.asked.append((messages, stop, kwargs))
        return ChatResult(generations=[ChatGeneration(message=self.whole.model_copy())])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        try:
            yield from (ChatGenerationChunk(message=chunk) for chunk in self.chunks)
        finally:
            self.closed.append(True)


def test_a_release_is_a_model_with_its_options():
    """Conversation, tools, sampling and stop texts reach the model in LangChain's form."""
    model = Spoken(whole=AIMessage("2"), asked=[])
    sampling = Sampling(temperature=0.5, max_tokens=7)
    hosting(model).generate(request(tools=(TOOL,), sampling=sampling, stop=("\n",)))
    ((messages, stop, options),) = model.asked
    assert [(message.type, message.content, message.name) for message in messages] == [
        ("system", "Be kind.", None),
        ("human", "1+1?", "ann"),
        ("ai", "", None),
        ("tool", "2", "add"),
    ]
    assert (messages[2].tool_calls[0]["id"], messages[3].tool_call_id, stop) == ("c1", "c1", ["\n"])
    assert options == {"temperature": 0.5, "max_tokens": 7, "tools": [TOOL]}


def test_options_can_be_named_otherwise():
    """A model that refuses a temperature is not given one."""
    model = Spoken(whole=AIMessage("2"), asked=[])
    hosting(model, options=lambda sampling: {"max_completion_tokens": sampling.max_tokens}).generate(request())
    assert model.asked[0][2] == {"max_completion_tokens": 256}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (AIMessage("Two."), ("Two.", None, "stop", [])),
        (AIMessage("Tw", response_metadata={"finish_reason": "length"}), ("Tw", None, "length", [])),
        (AIMessage("Tw", response_metadata={"stop_reason": "max_tokens"}), ("Tw", None, "length", [])),
        (AIMessage("Tw", response_metadata={"finish_reason": "MAX_TOKENS"}), ("Tw", None, "length", [])),
        (AIMessage("Two.", additional_kwargs={"reasoning_content": "Hm"}), ("Two.", "Hm", "stop", [])),
        (AIMessage([{"type": "reasoning", "reasoning": "Hm"}, {"type": "text", "text": "2"}]), ("2", "Hm", "stop", [])),
        (
            AIMessage(
                [{"type": "thinking", "thinking": "Hm", "signature": "s"}, {"type": "text", "text": "2"}],
                response_metadata={"model_provider": "anthropic"},
            ),
            ("2", "Hm", "stop", []),
        ),
        (AIMessage("<think>Hm</think>Two."), ("Two.", "Hm", "stop", [])),
        (AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c2"}]), ("", None, "stop", ["add"])),
        (AIMessage('<tool_call>{"name": "add"}</tool_call>'), ("", None, "stop", ["add"])),
    ],
)
def test_what_providers_answer_becomes_one_record(message: AIMessage, expected: tuple[Any, ...]):
    """Text, thoughts, calls and the end are found wherever a provider puts them."""
    got = hosting(Spoken(whole=message)).generate(request(tools=(TOOL,)))
    assert (
        got.message.content,
        got.reasoning,
        got.finish_reason,
        [call.name for call in got.message.tool_calls],
    ) == expected


def test_a_call_whose_arguments_are_torn_is_written_again():
    """What a provider could not read is in the form that the chat model asks for again."""
    torn = {"name": "add", "args": '{"a": ', "id": "c2", "error": None, "type": "invalid_tool_call"}
    model = Spoken(whole=AIMessage("", invalid_tool_calls=[torn]), asked=[])
    engine = HostedEngine({"small": model}, "small")
    live = LiveModel(engine=engine, router=Router(OneRelease(), OneRelease()), find_release=lambda _: SMALL)
    engine.load(SMALL.model_copy())
    engine._loaded["butler"] = "small"
    assert '"add"' in live.bind_tools([TOOL]).invoke("1+1?").content
    assert [options["temperature"] for _, _, options in model.asked] == [0.0, 0.4, 0.8]


def test_unknown_tokens_are_no_usage():
    """Where the model does not tell its tokens, the chat model does not make them up."""
    model = Spoken(whole=AIMessage("Two."))
    engine = hosting(model)
    engine._loaded["butler"] = "small"
    assert LiveModel(engine=engine, router=Router(OneRelease(), OneRelease())).invoke("?").usage_metadata is None


def test_a_stream_carries_thoughts_in_their_marks_and_ends_whole():
    """Chunks come as texts; reasoning, calls and usage are in the answer at the end."""
    chunks = [
        AIMessageChunk("", additional_kwargs={"reasoning_content": "H"}),
        AIMessageChunk("", additional_kwargs={"reasoning_content": "m"}),
        AIMessageChunk("Two"),
        AIMessageChunk("."),
        AIMessageChunk(
            "",
            tool_call_chunks=[{"name": "add", "args": '{"a": 1}', "id": "c2", "index": 0, "type": "tool_call_chunk"}],
            response_metadata={"finish_reason": "length"},
            usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        ),
    ]
    *texts, answer = hosting(Spoken(whole=AIMessage(""), chunks=chunks)).stream(request())
    assert texts == ["<think>H", "m", "</think>Two", "."]
    assert answer == Generated(
        message=Message(role="assistant", content="Two.", tool_calls=(ToolCall(name="add", args={"a": 1}, id="c2"),)),
        reasoning="Hm",
        input_tokens=3,
        output_tokens=2,
        finish_reason="length",
    )


def test_a_stream_that_is_left_is_closed():
    """The provider does not go on writing for nobody."""
    model = Spoken(whole=AIMessage(""), chunks=[AIMessageChunk("a"), AIMessageChunk("b")], closed=[])
    stream = hosting(model).stream(request())
    assert next(stream) == "a"
    stream.close()
    assert model.closed == [True]


def test_a_model_that_does_not_stream_is_streamed_whole():
    """One text, and the answer."""
    text, answer = hosting(ScriptedModel(script=["Two."])).stream(request())
    assert isinstance(answer, Generated)
    assert text == answer.message.content == "Two."


def test_the_wrapped_model_is_seen_once():
    """Handlers see the chat model that serves, not the one inside of it too."""

    class Seen(BaseCallbackHandler):
        starts = 0
        tokens = ""

        def on_chat_model_start(self, *given: Any, **more: Any) -> None:
            self.starts += 1

        def on_llm_new_token(self, token: str, **more: Any) -> None:
            self.tokens += token

    engine = hosting(Spoken(whole=AIMessage("Two."), chunks=[AIMessageChunk("Two"), AIMessageChunk(".")]))
    engine._loaded["butler"] = "small"
    model, seen = LiveModel(engine=engine, router=Router(OneRelease(), OneRelease())), Seen()
    model.invoke("?", {"callbacks": [seen]})
    assert "".join(str(chunk.content) for chunk in model.stream("?", {"callbacks": [seen]})) == "Two."
    assert (seen.starts, seen.tokens) == (2, "Two.")


def test_models_are_found_made_and_forgotten():
    """Releases of one model share it; a name that is not there, and a maker that fails, are sentences."""
    made: list[str] = []

    def make(name: str) -> BaseChatModel:
        made.append(name)
        if name == "gone":
            raise ValueError("No such model")
        return ScriptedModel(script=[name])

    engine = HostedEngine(make, base_model="small")
    other = SMALL.model_copy(update={"instructions": None})
    for release in (SMALL, other, SMALL):
        engine.load(release)
    assert made == ["small"]
    with pytest.raises(EngineError, match="'gone' cannot be made: ValueError: No such model"):
        engine.load(SMALL.model_copy(update={"base_model": "gone"}))
    with pytest.raises(EngineError, match="no model 'gone' in this engine; name one of these: small"):
        HostedEngine({"small": ScriptedModel(script=["a"])}, "small").load(
            SMALL.model_copy(update={"base_model": "gone"})
        )
    with pytest.raises(EngineError, match="has an adapter"):
        engine.load(SMALL.model_copy(update={"adapter": "/a", "adapter_sha256": "0"}))
    engine.unload(SMALL.release_id)
    engine.unload("unknown")
    with pytest.raises(EngineError, match=f"not loaded in this engine.*{other.release_id}"):
        engine.generate(request())
    assert engine.generate(request(other)).message.content == "small"


def test_a_model_that_takes_no_tools_says_so():
    """A model without `bind_tools` is a sentence, not a NotImplementedError."""

    class Deaf(ScriptedModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(EngineError, match=r"'small' of release .* did not answer: NotImplementedError"):
        hosting(Deaf(script=["a"])).generate(request(tools=(TOOL,)))


class Provider(ThreadingHTTPServer):
    """Speak the chat completions API on loopback; `do` answers the next request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Speaker)
        self.do: Callable[[Speaker], None] = Speaker.answer
        self.bodies: list[dict[str, Any]] = []
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Speaker(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.do(self)

    def send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str) -> None:
        self.send(status, json.dumps({"error": {"message": message, "type": "t", "code": "c"}}).encode())

    def answer(self) -> None:
        if self.server.bodies[-1].get("stream"):
            self.say([{"content": "Two"}, {"content": "."}], whole=True)
            return
        call = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        said = {"role": "assistant", "content": "Two.", "reasoning_content": "Hm", "tool_calls": [call]}
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
        self.send(200, json.dumps({**ABOUT, "choices": [choice], "usage": usage}).encode())

    def say(self, deltas: list[dict[str, Any]], whole: bool) -> None:
        """Stream deltas, and break off unless the stream is to be whole."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for delta in deltas:
            self.event({**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if whole:
            self.event({**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.event({**CHUNK, "choices": [], "usage": {**USAGE}})
            self.part(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def event(self, event: dict[str, Any]) -> None:
        self.part(f"data: {json.dumps(event)}\n\n".encode())

    def part(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def hang(self) -> None:
        self.server.go_on.wait(30)
        self.close_connection = True

    def log_message(self, *given: Any) -> None: ...


ABOUT = {"id": "r1", "object": "chat.completion", "created": 1, "model": "small"}
CHUNK = {**ABOUT, "object": "chat.completion.chunk"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.go_on.set()
    made.shutdown()
    made.server_close()


def client_of(provider: Provider, timeout: float) -> BaseChatModel:
    """Make a real client of the provider, which tries once."""
    vendor = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    made: BaseChatModel = vendor.ChatOpenAI(
        model="small", base_url=provider.url, api_key="k", max_retries=0, timeout=timeout, stream_usage=True
    )
    return made


@pytest.fixture
def engine(provider: Provider) -> HostedEngine:
    return hosting(client_of(provider, timeout=60))


def test_a_real_client_is_served(engine: HostedEngine, provider: Provider):
    """Answer, call, usage and end come through a real client, and the request is what the provider expects."""
    got = engine.generate(request(tools=(TOOL,), sampling=Sampling(temperature=0.5, max_tokens=7), stop=("\n",)))
    assert (got.message.content, got.message.tool_calls) == ("Two.", (ToolCall(name="add", args={"a": 1}, id="c2"),))
    assert (got.input_tokens, got.output_tokens, got.finish_reason) == (9, 4, "stop")
    (body,) = provider.bodies
    assert (body["model"], body["temperature"], body["stop"]) == ("small", 0.5, ["\n"])
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["tools"][0]["function"]["name"] == "add"
    assert 7 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_a_real_client_streams(engine: HostedEngine):
    """Words come one by one, usage with the last."""
    *texts, answer = engine.stream(request())
    assert texts == ["Two", "."]
    assert isinstance(answer, Generated)
    assert (answer.message.content, answer.input_tokens, answer.output_tokens) == ("Two.", 9, 2)


def refuse(status: int, message: str) -> Callable[[Speaker], None]:
    return lambda speaker: speaker.refuse(status, message)


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        (refuse(401, "Incorrect API key."), r"AuthenticationError 401: Incorrect API key\. Check"),
        (refuse(429, "Too many requests"), r"RateLimitError 429: Too many requests\. Check"),
        (refuse(500, "Something broke"), r"Error 500: Something broke\. Check"),
        (lambda speaker: speaker.send(200, b"<html>nothing", "text/html"), r"did not answer"),
        (lambda speaker: speaker.send(200, b"{", "application/json"), r"did not answer"),
        (lambda speaker: speaker.send(502, b"<html>Bad gateway</html>", "text/html"), r"Error 502: .*Bad gateway"),
    ],
)
def test_every_fault_is_a_sentence(engine: HostedEngine, provider: Provider, do: Any, sentence: str, way: str):
    """Refusals and garbage are EngineErrors that name model and release, and nothing is asked twice."""
    provider.do = do
    with pytest.raises(EngineError, match=rf"'small' of release '{SMALL.release_id}'.*") as caught:
        engine.generate(request()) if way == "whole" else list(engine.stream(request()))
    assert caught.match(sentence)
    assert len(provider.bodies) == 1


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_provider_that_is_silent_is_not_waited_for(provider: Provider, way: str):
    """The client's own patience ends the wait."""
    provider.do = Speaker.hang
    engine = hosting(client_of(provider, timeout=0.2))
    with pytest.raises(EngineError, match=r"TimeoutError: Request timed out\. Check"):
        engine.generate(request()) if way == "whole" else list(engine.stream(request()))
    assert len(provider.bodies) <= 1


def garbage(speaker: Speaker) -> None:
    speaker.say([{"content": "Tw"}], whole=False)
    speaker.part(b"data: {nothing\n\n")


@pytest.mark.parametrize("do", [lambda speaker: speaker.say([{"content": "Tw"}], whole=False), garbage])
def test_a_stream_that_breaks_off_is_an_error(engine: HostedEngine, provider: Provider, do: Any):
    """What came is shown; half an answer is never taken for a whole one."""
    provider.do = do
    stream = engine.stream(request())
    assert next(stream) == "Tw"
    with pytest.raises(EngineError, match="did not answer"):
        next(stream)
