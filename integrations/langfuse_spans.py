"""Tell a run as Langfuse's observations: an agent, its nodes, its model calls and its tools, whole and once.

Langfuse keeps an observation as it first came: another with the same id would stand beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

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
_FACTS = ("step_id", "node", "superstep", "namespace", "checkpoint_id", "attempt", "asked_by", "cached", "steered")
"""What is known of a step besides."""
_Said = TypeVar("_Said")


class Teller:
    """Turn runs into spans; messages that they share are written out once."""

    def __init__(self, environment: str | None = None) -> None:
        """Name the environment, as Langfuse calls it, if there is one."""
        self._environment = environment
        self._written: dict[str, str] = {}

    def spans(self, told: ToldRun) -> list[Span]:
        """Return a run's observations, the agent first."""
        run, texts = told.run, told.texts
        trace = trace_of(run.run_id)
        everywhere = key_values(self._everywhere(told))
        known = everywhere + key_values(self._agent(run, texts))
        spans = [make_span(trace, run.run_id, run.agent, run.started_at, known, None, run.seconds, run.error)]
        for step in run.steps:
            known, began = everywhere + key_values(self._step(step, texts)), step.started_at
            span = make_span(trace, step.step_id, step.name, began, known, step.parent_id, step.seconds, step.error)
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
        """Return the conversation up to the last question, the answer to it, and what is known of the run."""
        conversation = texts.lists.get(run.messages or "", ())
        asked, answered = (_last(conversation, texts, role) for role in ("user", "assistant"))
        question = self._messages(conversation[: asked + 1], texts) if asked >= 0 else run.question
        answer = self._message(conversation[answered], texts) if answered > asked else run.answer
        facts = {"run_id": run.run_id, "outcome": run.outcome, "resumes": run.resumes, "thread_id": run.thread_id}
        facts |= {"user": run.user, "flagged": "; ".join(run.flagged) or None}
        return observed("agent", question, answer, {**run.metadata, **facts}, run.error)

    def _step(self, step: Step, texts: Texts) -> Iterator[tuple[str, Any]]:
        yield from observed(_TYPES[step.kind], None, None, {name: getattr(step, name) for name in _FACTS}, step.error)
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
            return self._message(step.output[0], texts)
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
        return as_list(hashes, lambda key: self._message(key, texts))

    def _message(self, key: str, texts: Texts) -> str:
        if key not in self._written:
            self._written[key] = written(openai(texts.messages[key]))
        return self._written[key]


def as_list(said: Sequence[_Said], write: Callable[[_Said], str]) -> str:
    """Return messages as a JSON list; of more than fits, the last ones, after a note."""
    pieces: list[str] = []
    room = LONGEST_INPUT
    for one in reversed(said):
        piece = write(one)
        room -= len(piece.encode()) + 1
        if room < 0 and pieces:
            left = len(said) - len(pieces)
            note = f"[{left} earlier messages are not shown here; the store has them.]"
            pieces.append(written({"role": "system", "content": note}))
            break
        pieces.append(piece)
    return f"[{','.join(reversed(pieces))}]"


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


def _last(conversation: Sequence[str], texts: Texts, role: str) -> int:
    """Return the place of the last message of a role; -1 where there is none."""
    return max((place for place, key in enumerate(conversation) if texts.messages[key].role == role), default=-1)


def observed(
    kind: str, given: str | None, said: str | None, facts: Mapping[str, Any], error: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield what Langfuse shows of any observation: its type, what went in and came out, metadata, and what failed."""
    yield _OBSERVATION + "type", kind
    yield _OBSERVATION + "input", given
    yield _OBSERVATION + "output", said
    for name, value in facts.items():
        yield _METADATA + name, _fact(value)
    if error is not None:
        yield _OBSERVATION + "level", "ERROR"
        yield _OBSERVATION + "status_message", error


def as_text(value: Any) -> str:
    """Return a value as it is shown: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else written(value)


def _fact(value: Any) -> str | None:
    """Return a piece of metadata; what says nothing is left out."""
    return None if value is None or value is False else as_text(value)


def make_span(
    trace: str,
    own_id: str,
    name: str,
    began: datetime,
    attributes: Iterable[KeyValue],
    parent_id: str | None = None,
    seconds: float | None = None,
    error: str | None = None,
) -> Span:
    """Return an observation of a trace; its id is made of `own_id`."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    start = int(began.timestamp() * 1_000_000) * 1_000
    return Span(
        trace_id=bytes.fromhex(trace),
        span_id=bytes.fromhex(span_of(own_id)),
        parent_span_id=bytes.fromhex(span_of(parent_id)) if parent_id else b"",
        name=storable(name[:_LONGEST_NAME]) or "step",
        start_time_unix_nano=start,
        end_time_unix_nano=start + int((seconds or 0.0) * 1_000_000_000),
        attributes=attributes,
        status=None if error is None else {"code": 2, "message": storable(error)},  # type: ignore[arg-type]  # a dict will do
    )


def key_values(values: Iterable[tuple[str, Any]]) -> list[KeyValue]:
    """Return a span's attributes, texts and lists of texts; None is left out."""
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

    put: list[KeyValue] = []
    for key, value in values:
        if value is None:
            continue
        one = KeyValue(key=key)
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
