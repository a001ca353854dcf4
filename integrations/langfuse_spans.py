"""Tell a run as Langfuse's observations: an agent, its nodes, its model calls and its tools, whole and once.

Langfuse keeps an observation as it first came: another with the same id would stand beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from langgraph_learnloop.integrations.langfuse_wire import span_of, trace_of
from langgraph_learnloop.mirrors import Texts, ToldRun
from langgraph_learnloop.records import Message, Run, Step, ToolCall

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

LONGEST_INPUT = 800_000
"""Bytes of what a model read that are shown; of a longer conversation, the end."""
_LONGEST_NAME = 200
"""Characters of a user, a session or a tag: Langfuse drops longer ones."""
_OBSERVATION = "langfuse.observation."
_METADATA = "langfuse.observation.metadata."
_TYPES = {"node": "chain", "model": "generation", "tool": "tool"}
_FACTS = tuple(
    (name, _METADATA + name)
    for name in (
        "step_id",
        "node",
        "superstep",
        "namespace",
        "checkpoint_id",
        "attempt",
        "asked_by",
        "cached",
        "steered",
    )
)
"""What is known of a step besides, and where Langfuse shows it."""


class Teller:
    """Turn runs into spans; messages that they share are written out once."""

    def __init__(self, environment: str | None = None) -> None:
        """Name the environment, as Langfuse calls it, if there is one."""
        self._environment = environment
        self._written: dict[str, bytes] = {}

    def spans(self, told: ToldRun) -> list[Span]:
        """Return a run's observations, the agent first."""
        run, texts = told.run, told.texts
        trace = bytes.fromhex(trace_of(run.run_id))
        everywhere = key_values(self._everywhere(told))
        root = make_span(trace, run.run_id, None, run.agent, run.started_at, run.seconds, run.error)
        root.attributes.extend(everywhere + key_values(self._agent(run, texts)))
        spans = [root]
        for step in run.steps:
            span = make_span(trace, step.step_id, step.parent_id, step.name, step.started_at, step.seconds, step.error)
            span.attributes.extend(everywhere + key_values(self._step(step, texts)))
            spans.append(span)
        return spans

    def _everywhere(self, told: ToldRun) -> Iterator[tuple[str, Any]]:
        """Yield what each observation of a trace must say, for Langfuse counts and filters observations."""
        run = told.run
        yield "langfuse.trace.name", run.agent
        yield "session.id", named(run.thread_id)
        yield "user.id", named(run.user)
        yield "langfuse.release", run.release
        yield "langfuse.environment", self._environment
        flagged = run.flagged or (told.flag is not None and told.flag.value != "dismissed")
        tags = [*run.tags, *(["flagged"] if flagged else [])]
        yield "langfuse.trace.tags", list(dict.fromkeys(tag[:_LONGEST_NAME] for tag in tags)) or None
        yield "langfuse.trace.metadata.run_id", run.run_id

    def _agent(self, run: Run, texts: Texts) -> Iterator[tuple[str, Any]]:
        conversation = texts.lists.get(run.messages or "", ())
        yield _OBSERVATION + "type", "agent"
        yield _OBSERVATION + "input", self._asked(conversation, texts, run)
        yield _OBSERVATION + "output", self._answered(conversation, texts, run)
        yield from _trouble(run.error)
        facts = {"run_id": run.run_id, "outcome": run.outcome, "resumes": run.resumes, "thread_id": run.thread_id}
        flagged = "; ".join(run.flagged) or None
        for name, value in {**run.metadata, **facts, "user": run.user, "flagged": flagged}.items():
            yield _METADATA + name, _fact(value)

    def _asked(self, conversation: Sequence[str], texts: Texts, run: Run) -> str | None:
        """Return the conversation up to the last question."""
        last = _last(conversation, texts, "user")
        return run.question if last is None else self._messages(conversation[: last + 1], texts)

    def _answered(self, conversation: Sequence[str], texts: Texts, run: Run) -> str | None:
        last, asked = _last(conversation, texts, "assistant"), _last(conversation, texts, "user")
        if last is None or (asked is not None and last < asked):
            return run.answer
        return self._message(conversation[last], texts).decode()

    def _step(self, step: Step, texts: Texts) -> Iterator[tuple[str, Any]]:
        yield _OBSERVATION + "type", _TYPES[step.kind]
        yield from _trouble(step.error)
        for name, key in _FACTS:
            value = getattr(step, name)
            if value is not None and value is not False:
                yield key, value if isinstance(value, str) else written(value)
        if step.kind == "model":
            yield from self._generation(step, texts)
        elif step.kind == "tool":
            yield from self._tool(step, texts)

    def _generation(self, step: Step, texts: Texts) -> Iterator[tuple[str, Any]]:
        if step.input is not None:
            read = self._messages(texts.lists[step.input], texts)
            tools = f',"tools":{texts.blobs[step.tools].decode()}' if step.tools else ""
            yield _OBSERVATION + "input", f'{{"messages":{read}{tools}}}'
        yield _OBSERVATION + "output", self._said(step, texts)
        yield _OBSERVATION + "model.name", step.name
        yield _OBSERVATION + "model.parameters", written(step.parameters) if step.parameters else None
        tokens = {"input": step.input_tokens, "output": step.output_tokens}
        counted = {name: count for name, count in tokens.items() if count is not None}
        if counted:
            yield _OBSERVATION + "usage_details", written({**counted, "total": sum(counted.values())})
        if step.usd is not None:
            yield _OBSERVATION + "cost_details", written({"total": step.usd})
        if step.first_token_seconds is not None:
            first = step.started_at + timedelta(seconds=step.first_token_seconds)
            yield _OBSERVATION + "completion_start_time", written(first.isoformat())

    def _said(self, step: Step, texts: Texts) -> str | None:
        """Return what a model answered, with its chain of thought."""
        if not step.output:
            return step.reasoning
        if step.reasoning is None and len(step.output) == 1:
            return self._message(step.output[0], texts).decode()
        answers = [openai(texts.messages[key]) for key in step.output]
        if step.reasoning is not None:
            answers[0]["reasoning_content"] = step.reasoning
        return written(answers[0] if len(answers) == 1 else answers)

    def _tool(self, step: Step, texts: Texts) -> Iterator[tuple[str, Any]]:
        call = step.tool_calls[0] if step.tool_calls else None
        results = [texts.messages[key] for key in step.output]
        yield _OBSERVATION + "input", None if call is None else written(call.args)
        yield _METADATA + "tool_call_id", None if call is None else call.id
        answer = next((one.content for one in results if one.role == "tool"), None)
        yield _OBSERVATION + "output", answer if answer is not None or not results else results[-1].content

    def _messages(self, hashes: Sequence[str], texts: Texts) -> str:
        """Return messages as a JSON list; of more than fits, the last ones."""
        pieces: list[bytes] = []
        size = 0
        for key in reversed(hashes):
            piece = self._message(key, texts)
            size += len(piece) + 1
            if size > LONGEST_INPUT and pieces:
                left = len(hashes) - len(pieces)
                said = f"[{left} earlier messages are not shown here; the store has them.]"
                pieces.append(orjson.dumps({"role": "system", "content": said}))
                break
            pieces.append(piece)
        return (b"[" + b",".join(reversed(pieces)) + b"]").decode()

    def _message(self, key: str, texts: Texts) -> bytes:
        piece = self._written.get(key)
        if piece is None:
            piece = self._written[key] = written(openai(texts.messages[key])).encode()
        return piece


def openai(message: Message) -> dict[str, Any]:
    """Return a message as OpenAI's API writes it: arguments are JSON in a string."""
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        out["tool_calls"] = [_call(call, number) for number, call in enumerate(message.tool_calls)]
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        out["name"] = message.name
    return out


def short_form(message: Message) -> Any:
    """Return an assistant's message as people write a right answer: a text, {"tool": ..., "args": {...}} or a list.

    Text beside calls is a message in OpenAI's form.
    """
    if not message.tool_calls:
        return message.content
    if message.content.strip():
        return openai(message)
    calls = [{"tool": call.name, "args": call.args} for call in message.tool_calls]
    return calls[0] if len(calls) == 1 else calls


def named(name: str | None) -> str | None:
    """Return a user or a session as Langfuse takes it; what it would drop, by its hash."""
    if name is None or (len(name) <= _LONGEST_NAME and name.isascii()):
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def written(value: Any) -> str:
    """Return a value as JSON; numbers of any size, and what is no JSON as its text."""
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError):
        return json.dumps(value, default=str)


def storable(value: Any) -> Any:
    """Return a JSON-able value as databases take it: half a character and NUL become U+FFFD, what is no number null."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {storable(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _call(call: ToolCall, number: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": written(call.args)}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def _last(conversation: Sequence[str], texts: Texts, role: str) -> int | None:
    found = (
        place for place in range(len(conversation) - 1, -1, -1) if texts.messages[conversation[place]].role == role
    )
    return next(found, None)


def _trouble(error: str | None) -> Iterator[tuple[str, Any]]:
    if error is not None:
        yield _OBSERVATION + "level", "ERROR"
        yield _OBSERVATION + "status_message", error


def _fact(value: Any) -> str | None:
    """Return a piece of metadata; what says nothing is left out."""
    if value is None or value is False:
        return None
    return value if isinstance(value, str) else written(value)


def make_span(
    trace: bytes,
    own_id: str,
    parent_id: str | None,
    name: str,
    began: datetime,
    seconds: float | None,
    error: str | None,
) -> Span:
    """Return an observation of a trace without what is known of it; its id is made of `own_id`."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    start = int(began.timestamp() * 1_000_000) * 1_000
    return Span(
        trace_id=trace,
        span_id=bytes.fromhex(span_of(own_id)),
        parent_span_id=bytes.fromhex(span_of(parent_id)) if parent_id else b"",
        name=storable(name[:_LONGEST_NAME]) or "step",
        start_time_unix_nano=start,
        end_time_unix_nano=start + int((seconds or 0.0) * 1_000_000_000),
        status=None if error is None else {"code": 2, "message": storable(error)},  # type: ignore[arg-type]  # a dict will do
    )


def key_values(values: Iterable[tuple[str, Any]]) -> list[KeyValue]:
    """Return a span's attributes, texts and lists of texts; None is left out."""
    key_value = _key_value()
    put: list[KeyValue] = []
    for key, value in values:
        if value is None:
            continue
        one = key_value(key=key)
        try:
            _fill(one, value)
        except UnicodeEncodeError:
            one.ClearField("value")
            _fill(one, storable(value))
        put.append(one)
    return put


def _fill(one: KeyValue, value: str | Sequence[str]) -> None:
    if isinstance(value, str):
        one.value.string_value = value
    else:
        for item in value:
            one.value.array_value.values.add(string_value=item)


@lru_cache(maxsize=1)
def _key_value() -> type[KeyValue]:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    return KeyValue
