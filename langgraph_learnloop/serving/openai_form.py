"""Read and write OpenAI's chat completions: what a request asks for, and an answer, whole or piece by piece.

What a request cannot have here is refused with a sentence that names the field; fields that nobody knows are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata, add_usage
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from langgraph_learnloop.serving.live_model import RELEASE_KEY
from langgraph_learnloop.serving.request import MOST_LOGPROBS
from langgraph_learnloop.texts import quoted

DEEPEST = 64
"""Levels of lists and mappings inside a request."""
MOST_MESSAGES = 4096
"""Messages of a conversation, and parts of a message."""
MOST_TOOLS = 512
"""Tools on offer, and calls in one message."""
MOST_STOPS = 4
"""Texts that end the answer."""
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": (),
}
"""Fields that would change the answer in a way that is not supported, with the values that change nothing."""


def _as_text(value: Any) -> Any:
    """Return a message's content as one text; parts that are not text are refused."""
    if not isinstance(value, list):
        return value
    if len(value) > MOST_MESSAGES:
        raise ValueError(f"it has {len(value):,} parts, and at most {MOST_MESSAGES:,} are allowed")
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"a part of it is {quoted(kind)}, and this model reads text only: leave it out")
    return "".join(part["text"] for part in value)


def _as_arguments(value: Any) -> Any:
    """Return a call's arguments, which OpenAI writes as JSON inside of a text."""
    read = _json(value.encode("utf-8", "replace") or b"{}") if isinstance(value, str) else value
    if not isinstance(read, dict):
        raise ValueError("it must be a JSON object")
    return read


def _as_stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("it must be a text that is not empty, or a list of those")
    return stops


class _Part(BaseModel):
    """Something in a request; what it does not know is ignored, as OpenAI's fields grow in number."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _CalledFunction(_Part):
    name: str = Field(min_length=1)
    arguments: Annotated[dict[str, Any], BeforeValidator(_as_arguments)]


class _Call(_Part):
    id: str
    type: Literal["function"] = "function"
    function: _CalledFunction


class _Message(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_as_text)] = None
    name: str | None = None
    tool_calls: list[_Call] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError("it must have a 'content'")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("it must have a 'tool_call_id'")
        if self.role != "assistant" and self.tool_calls:
            raise ValueError("only the assistant has 'tool_calls'")
        return self


class _Function(_Part):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(_Part):
    type: Literal["function"]
    function: _Function


class _StreamOptions(_Part):
    include_usage: bool | None = None


class Asked(_Part):
    """A request for a chat completion."""

    model: str
    messages: list[_Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    tools: list[_Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    stop: Annotated[list[str], BeforeValidator(_as_stops)] = Field(default=[], max_length=MOST_STOPS)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _asks_for_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "it asks for more of what 'logprobs': true asks for, so set both")
        return self

    @model_validator(mode="after")
    def _chooses_what_is_offered(self) -> Self:
        choices: list[Any] = [None, "none", "auto"]
        if self.tools:
            names = [{"name": tool.function.name} for tool in self.tools]
            choices += ["required", *({"type": "function", "function": name} for name in names)]
        if self.tool_choice not in choices:
            raise refused("tool_choice", "it must be none, auto, required, or name one of the 'tools'")
        return self

    @property
    def with_usage(self) -> bool:
        """Return whether a stream is to end with what was used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def options(self) -> dict[str, Any]:
        """Return what the call itself asks for, in LangChain's words."""
        limit = self.max_completion_tokens or self.max_tokens
        given = {"temperature": self.temperature, "max_tokens": limit, "stop": self.stop or None}
        probabilities = {"logprobs": True, "top_logprobs": self.top_logprobs} if self.logprobs else {}
        return {name: value for name, value in {**given, **probabilities}.items() if value is not None}

    def conversation(self) -> list[BaseMessage]:
        """Return the messages as LangChain has them; a tool's result gets the name of the call that it answers."""
        names = {call.id: call.function.name for message in self.messages for call in message.tool_calls or ()}
        return convert_to_messages(
            [
                {
                    **message.model_dump(),
                    "role": "system" if message.role == "developer" else message.role,
                    "name": message.name or (names.get(str(message.tool_call_id)) if message.role == "tool" else None),
                }
                for message in self.messages
            ]
        )


class Refusal(Exception):
    """Say no in OpenAI's form: `status` is HTTP's, `body` what is sent."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(field: str, why: str) -> Refusal:
    """Return the refusal of a field."""
    return Refusal(400, f"The field {field!r} is not usable: {why}.", "invalid_value", field)


def read_asked(body: bytes) -> Asked:
    """Return what a body asks for, or raise Refusal with the field that is not usable."""
    try:
        value = _json(body)
    except ValueError as error:
        raise Refusal(400, f"The body must be JSON: {error}.", "invalid_json") from error
    if not isinstance(value, dict):
        raise Refusal(400, "The body must be a JSON object.", "invalid_json")
    for field, harmless in _ONLY.items():
        if value.get(field) is not None and value[field] not in harmless:
            raise refused(field, "it is not supported here; leave it out")
    try:
        return Asked.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise refused(field, first["msg"].removeprefix("Value error, ")) from error


def _json(body: bytes) -> Any:
    """Return what JSON says; raise ValueError when it is none, or too deep for those who walk through it later."""
    value = orjson.loads(body)
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    return value


@dataclass
class Heard:
    """Hear the pieces of an answer, and write them in OpenAI's form."""

    asked: Asked
    created: int
    completion_id: str
    release: str | None = None
    _reason: str = "stop"
    _called: bool = False
    _usage: UsageMetadata | None = None
    _logprobs: dict[str, Any] | None = None

    def take(self, piece: AIMessage) -> dict[str, Any]:
        """Take note of a piece and return what it says, as OpenAI's message or as a change of it."""
        self.release = release_of(piece) or self.release
        self._reason = piece.response_metadata.get("finish_reason") or self._reason
        self._usage = add_usage(self._usage, piece.usage_metadata) if piece.usage_metadata else self._usage
        if probabilities := piece.response_metadata.get("logprobs"):
            self._logprobs = {"content": probabilities["content"], "refusal": None}
        said: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if reasoning := piece.additional_kwargs.get("reasoning_content"):
            said["reasoning_content"] = reasoning
        several = self.asked.parallel_tool_calls is not False
        if calls := [call for call in _calls(piece) if several or call["index"] == 0]:
            self._called = True
            said["tool_calls"] = calls
        return said

    @property
    def finish_reason(self) -> str:
        """Return why the answer ended."""
        return "tool_calls" if self._called and self._reason == "stop" else self._reason

    def whole(self, piece: AIMessage) -> dict[str, Any]:
        """Return a chat completion."""
        message = {"role": "assistant", "content": None, **self.take(piece)}
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        for call in message.get("tool_calls", ()):
            del call["index"]
        choice = {"index": 0, "message": message, "logprobs": self._logprobs, "finish_reason": self.finish_reason}
        return self._frame("chat.completion", choices=[choice], usage=self._used())

    def change(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        """Return an event of a stream; the last one tells the log-probabilities of all its tokens."""
        told = self._logprobs if finish_reason is not None else None
        choice = {"index": 0, "delta": delta, "logprobs": told, "finish_reason": finish_reason}
        usage = {"usage": None} if self.asked.with_usage else {}
        return event(self._frame("chat.completion.chunk", choices=[choice], **usage))

    def end(self) -> Iterator[str]:
        """Yield the last events of a stream."""
        yield self.change({}, self.finish_reason)
        if self.asked.with_usage:
            yield event(self._frame("chat.completion.chunk", choices=[], usage=self._used()))
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str, **more: Any) -> dict[str, Any]:
        return {
            "id": self.completion_id,
            "object": kind,
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self.release,
            **more,
            "learnloop": {"release": self.release},
        }

    def _used(self) -> dict[str, int] | None:
        if self._usage is None:
            return None
        read, written = self._usage["input_tokens"], self._usage["output_tokens"]
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _calls(piece: AIMessage) -> list[dict[str, Any]]:
    """Return a piece's tool calls, or what it adds to them, in OpenAI's form."""
    if not isinstance(piece, AIMessageChunk):
        return [
            _call(index, call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False))
            for index, call in enumerate(piece.tool_calls)
        ]
    return [_call(part["index"] or 0, part["id"], part["name"], part["args"] or "") for part in piece.tool_call_chunks]


def _call(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    first = {} if call_id is None else {"id": call_id, "type": "function"}
    return {"index": index, **first, "function": {**({} if name is None else {"name": name}), "arguments": arguments}}


def release_of(piece: AIMessage) -> str | None:
    """Return the release that wrote a piece; None where it does not say."""
    release: str | None = piece.response_metadata.get(RELEASE_KEY)
    return release


def event(body: Mapping[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(body)}\n\n"
