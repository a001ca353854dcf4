"""Turn an ended trace into a Run record."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import LLMResult
from langgraph.constants import START
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from langgraph_learnloop.capture.events import Event
from langgraph_learnloop.capture.messages import Interner, as_messages, clean, plain, reasoning_of, text_of
from langgraph_learnloop.capture.trace import Trace, Work
from langgraph_learnloop.records import Outcome, Run, Step, ToolCall

_ERROR_LENGTH = 4000
"""Characters of an exception's message that are kept."""
_NAMESPACE = "langgraph_checkpoint_ns"
"""The key of the metadata under which LangGraph names a node's run, the same for all that happens directly in it."""
_GONE = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
"""The caller went away: not the agent's failure."""


def assemble(trace: Trace, interner: Interner) -> Run:
    """Return the run that a trace tells; its messages are left in the interner."""
    root, end = trace.root.start, trace.root.end
    metadata = _metadata(trace.root)
    conversation = _conversation(trace)
    question, answer = _question_and_answer(conversation)
    return Run(
        run_id=str(root.run_id),
        thread_id=_text(metadata.get("thread_id")),
        agent=trace.agent,
        release=_release(trace),
        user=_text(next((metadata[key] for key in ("user", "user_id", "langfuse_user_id") if metadata.get(key)), None)),
        messages=interner.all(conversation),
        question=question,
        answer=answer,
        steps=tuple(_step(work, interner) for work in trace.works if _is_step(work)),
        outcome=_outcome(trace),
        error=_error(end),
        started_at=_date(root),
        seconds=_seconds(trace.root),
        tags=tuple(clean(tag) for tag in root.details.get("tags") or () if not _is_inner_tag(tag)),
    )


class _Known(NamedTuple):
    """What differs between the kinds of steps."""

    kind: Literal["model", "tool", "node"]
    name: str
    more: dict[str, Any]


def _step(work: Work, interner: Interner) -> Step:
    known = {"model": _model, "tool": _tool, "chain": _node}[work.start.kind](work, interner)
    metadata = _metadata(work)
    return Step(
        step_id=str(work.start.run_id),
        parent_id=_parent_id(work),
        kind=known.kind,
        name=clean(known.name),
        node=_text(metadata.get("langgraph_node")),
        started_at=_date(work.start),
        seconds=_seconds(work),
        **{"error": _error(work.end), **known.more},
    )


def _model(work: Work, interner: Interner) -> _Known:
    details = work.start.details
    messages = _answers(work)
    parameters = details.get("invocation_params") or {}
    tools = parameters.get("tools") or parameters.get("functions")
    asked = [_call(call) for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    thoughts = [text for message in messages if (text := reasoning_of(message)) is not None]
    read, written = _tokens(work, messages)
    return _Known(
        "model",
        _model_name(details, parameters),
        {
            "input": interner.all(HumanMessage(m) if isinstance(m, str) else m for m in work.start.payload),
            "output": interner.all(messages),
            "tools": interner.value(tools) if tools else None,
            "reasoning": "\n".join(thoughts) or None,
            "tool_calls": tuple(asked),
            "input_tokens": read,
            "output_tokens": written,
        },
    )


def _tool(work: Work, interner: Interner) -> _Known:
    details = work.start.details
    inputs = details.get("inputs")
    name = details.get("name") or (details.get("serialized") or {}).get("name") or "tool"
    call = {
        "name": name,
        "args": inputs if isinstance(inputs, dict) else {"input": work.start.payload},
        "id": details.get("tool_call_id"),
    }
    more: dict[str, Any] = {"tool_calls": (_call(call),)}
    if work.end is not None and work.end.kind == "end":
        results = _results(work.end.payload, call)
        more["output"] = interner.all(results)
        refused = [text_of(m) for m in results if isinstance(m, ToolMessage) and m.status == "error"]
        if refused:
            more["error"] = refused[0][:_ERROR_LENGTH]
    return _Known("tool", name, more)


def _node(work: Work, interner: Interner) -> _Known:
    return _Known("node", work.start.details["name"], {})


def _is_step(work: Work) -> bool:
    """Return whether work is shown: models, tools, and a graph's nodes and tasks, not what those are built of."""
    if work.start.kind != "chain":
        return True
    name, metadata = work.start.details.get("name"), _metadata(work)
    if work.parent is None or name in (None, START) or name != metadata.get("langgraph_node"):
        return False
    # What a node is built of may bear its name, and shares its namespace.
    return bool(metadata.get(_NAMESPACE) != _metadata(work.parent).get(_NAMESPACE))


def _metadata(work: Work) -> dict[str, Any]:
    return work.start.details.get("metadata") or {}


def _parent_id(work: Work) -> str | None:
    parent = work.parent
    while parent is not None and parent.parent is not None and not _is_step(parent):
        parent = parent.parent
    return None if parent is None else str(parent.start.run_id)


def _conversation(trace: Trace) -> tuple[BaseMessage, ...]:
    """Return the messages that the root left; else, as in a failed run, those of its last model call."""
    end = trace.root.end
    if end is not None and end.kind == "end" and trace.root.start.kind == "chain":
        left = as_messages(end.payload)
        if left:
            return left
    calls = [work for work in trace.works if work.start.kind == "model"]
    if not calls:
        return as_messages(trace.root.start.payload) if trace.root.start.kind == "chain" else ()
    asked = tuple(HumanMessage(m) if isinstance(m, str) else m for m in calls[-1].start.payload)
    return asked + _answers(calls[-1])


def _question_and_answer(conversation: tuple[BaseMessage, ...]) -> tuple[str | None, str | None]:
    """Return the text of the last user message, and of the last assistant message after it."""
    answer: str | None = None
    for message in reversed(conversation):
        if message.type == "human":
            return text_of(message) or None, answer
        if message.type == "ai" and answer is None:
            answer = text_of(message)
    return None, answer or None


def _answers(work: Work) -> tuple[BaseMessage, ...]:
    """Return the messages that a model call produced."""
    if work.end is None or not isinstance(work.end.payload, LLMResult) or not work.end.payload.generations:
        return ()
    generations = work.end.payload.generations[0]
    return tuple(getattr(generation, "message", None) or AIMessage(generation.text) for generation in generations)


def _results(output: Any, call: dict[str, Any]) -> tuple[BaseMessage, ...]:
    """Return what a tool returned as messages."""
    found = as_messages(output.update if isinstance(output, Command) else output)
    if found:
        return found
    content = output if isinstance(output, str) else str(plain(output))
    return (ToolMessage(content, tool_call_id=call["id"] or "", name=call["name"]),)


def _tokens(work: Work, messages: tuple[BaseMessage, ...]) -> tuple[int | None, int | None]:
    """Return tokens read and written, as the message says, else as the provider's answer says."""
    for message in messages:
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if usage:
            return usage["input_tokens"], usage["output_tokens"]
    told = work.end.payload.llm_output if messages and work.end is not None else None
    usage_told = (told or {}).get("token_usage") or {}
    return usage_told.get("prompt_tokens"), usage_told.get("completion_tokens")


def _model_name(details: dict[str, Any], parameters: dict[str, Any]) -> str:
    serialized = details.get("serialized") or {}
    names = (
        (details.get("metadata") or {}).get("ls_model_name"),
        parameters.get("model"),
        parameters.get("model_name"),
        details.get("name"),
        serialized.get("name"),
        (serialized.get("id") or [None])[-1],
    )
    return next((str(name) for name in names if name), "model")


def _release(trace: Trace) -> str | None:
    """Return the release that answered last."""
    for work in reversed(trace.works):
        for message in _answers(work) if work.start.kind == "model" else ():
            release = message.response_metadata.get("learnloop_release")
            if release:
                return str(release)
    return None


def _call(call: Any) -> ToolCall:
    return ToolCall(name=clean(call["name"]), args=plain(call["args"]), id=_text(call.get("id")))


def _outcome(trace: Trace) -> Outcome:
    end = trace.root.end
    if end is None or end.kind != "error":
        return "interrupted" if trace.paused else "finished"
    return "interrupted" if isinstance(end.payload, (GraphBubbleUp, *_GONE)) else "failed"


def _error(end: Event | None) -> str | None:
    """Return type and message of an exception; a pause or a jump to another graph is none."""
    if end is None or end.kind != "error" or isinstance(end.payload, GraphBubbleUp):
        return None
    kind = type(end.payload).__name__
    try:
        return clean(f"{kind}: {end.payload}")[:_ERROR_LENGTH]
    except Exception:  # noqa: BLE001 - an exception whose message cannot be made still has a type
        return kind


def _date(event: Event) -> datetime:
    return datetime.fromtimestamp(event.wall, UTC)


def _seconds(work: Work) -> float | None:
    return None if work.end is None else max(0.0, work.end.clock - work.start.clock)


def _text(value: Any) -> str | None:
    return None if value is None else clean(str(value))


def _is_inner_tag(tag: str) -> bool:
    return tag.startswith(("seq:step:", "graph:step:", "map:key:"))
