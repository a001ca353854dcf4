"""Turn an ended trace into a Run record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.constants import START
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command
from pydantic import TypeAdapter

from langgraph_learnloop.capture.events import Answered, Event
from langgraph_learnloop.capture.interning import Interner
from langgraph_learnloop.capture.messages import as_messages, clean, plain, reasoning_of, text_of
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.capture.trace import Trace, Work
from langgraph_learnloop.records import Outcome, Run, Step, ToolCall

_ERROR_LENGTH = 4000
"""Characters of an exception's message that are kept."""
_NAMESPACE = "langgraph_checkpoint_ns"
"""The key of the metadata under which LangGraph names a node's run, the same for all that happens directly in it."""
_NOT_OWN = frozenset({"thread_id", "user", "user_id", "langfuse_user_id", "checkpoint_ns", "lc_versions"})
_INNER = ("langgraph_", "ls_", "lc_", "__")
_INNER_TAGS = ("seq:step:", "graph:step:", "map:key:")
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
    "tool_choice",
)
_STEPS = TypeAdapter(tuple[Step, ...])
"""All the steps of a run at once: twice as fast as one by one."""
_GONE = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
"""The caller went away: not the agent's failure."""


def assemble(trace: Trace, interner: Interner, policy: Policy) -> Run:
    """Return the run that a trace tells; its messages are left in the interner."""
    root, end = trace.root.start, trace.root.end
    metadata = trace.root.metadata
    conversation = _conversation(trace)
    question, answer = _question_and_answer(conversation)
    steps = _STEPS.validate_python(_joined(_steps(trace, interner, policy)))
    own = {key: value for key, value in metadata.items() if key not in _NOT_OWN and not key.startswith(_INNER)}
    user = next((metadata[key] for key in ("user", "user_id", "langfuse_user_id") if metadata.get(key)), None)
    costs = [step.usd for step in steps if step.usd is not None]
    return Run(
        run_id=str(root.run_id),
        thread_id=_text(trace.thread),
        agent=trace.agent,
        release=_release(trace),
        user=policy.user(_text(user)),
        messages=interner.conversation(conversation) if policy.keeps("messages") else None,
        question=policy.kept("question", question),
        answer=policy.kept("answer", answer),
        steps=steps,
        outcome=_outcome(trace),
        error=policy.kept("error", _error(end)),
        started_at=_date(root),
        seconds=_seconds(trace.root),
        usd=sum(costs) if costs else None,
        tags=tuple(policy.fit(clean(tag)) for tag in root.details.get("tags") or () if not tag.startswith(_INNER_TAGS)),
        metadata=policy.kept("metadata", plain(own)) or {},
        flagged=tuple(policy.fit(clean(reason)) for reason in trace.reasons),
        resumes=_text(trace.resumes),
        trace=trace.beside,
    )


Fields = dict[str, Any]
"""What a Step is made of."""


def _steps(trace: Trace, interner: Interner, policy: Policy) -> list[Fields]:
    """Return the steps that are shown, in order of start."""
    shown: list[Fields] = []
    home: dict[Work, str] = {}  # the id of the step that a piece of work is or happened in, else of the run
    for work in trace.works:
        parent_id = home[work.parent] if work.parent else None
        if not _is_step(work):
            home[work] = parent_id or str(work.start.run_id)
            continue
        home[work] = str(work.start.run_id)
        if policy.shows(work.metadata.get("langgraph_node")):
            shown.append({"step_id": home[work], "parent_id": parent_id, **_step(work, interner, policy)})
    return shown


def _joined(steps: list[Fields]) -> list[Fields]:
    """Say of each tool call which model step asked for it, and of each node which attempt and checkpoint it is."""
    asked = {call.id: step["step_id"] for step in steps if step["kind"] == "model" for call in step["tool_calls"]}
    began = {step["namespace"]: step["checkpoint_id"] for step in reversed(steps) if step["checkpoint_id"]}
    tried: Counter[tuple[str, int | None]] = Counter()
    for step in steps:
        if step["kind"] == "tool" and step["tool_calls"] and step["tool_calls"][0].id is not None:
            step["asked_by"] = asked.get(step["tool_calls"][0].id)
        if step["kind"] == "node" and step["namespace"] is not None:
            tried[step["namespace"], step["superstep"]] += 1
            step["attempt"] = tried[step["namespace"], step["superstep"]]
            step["checkpoint_id"] = began.get(step["namespace"])
    return steps


def _step(work: Work, interner: Interner, policy: Policy) -> Fields:
    fields = _TOLD_BY[work.start.kind](work, interner, policy)
    metadata = work.metadata
    return fields | {
        "name": clean(fields["name"]),
        "node": _text(metadata.get("langgraph_node")),
        "superstep": metadata.get("langgraph_step"),
        "namespace": _text(metadata.get(_NAMESPACE)),
        "checkpoint_id": _text((work.start.details.get("checkpoints") or {}).get("")),  # of the outermost graph
        "started_at": _date(work.start),
        "seconds": _seconds(work),
        "error": policy.kept("error", fields.get("error") or _error(work.end)),
    }


def _model(work: Work, interner: Interner, policy: Policy) -> Fields:
    messages = _answers(work)
    parameters = work.start.details.get("invocation_params") or {}
    tools = parameters.get("tools") or parameters.get("functions")
    asked = [
        _call(call, policy) for message in messages if isinstance(message, AIMessage) for call in message.tool_calls
    ]
    thoughts = [text for message in messages if (text := reasoning_of(message)) is not None]
    read, written = _tokens(work, messages)
    name = _model_name(work, parameters)
    return {
        "kind": "model",
        "name": name,
        "input": interner.conversation(_asked(work)) if policy.keeps("messages") else None,
        "output": interner.all(messages) if policy.keeps("messages") else (),
        "tools": interner.value(tools) if tools else None,
        "reasoning": policy.kept("reasoning", "\n".join(thoughts) or None),
        "tool_calls": tuple(asked) if policy.keeps("tool_calls") else (),
        "parameters": _parameters(parameters),
        "cached": _is_cached(messages),
        "first_token_seconds": None if work.first_token is None else work.first_token - work.start.clock,
        "input_tokens": read,
        "output_tokens": written,
        "usd": policy.usd(name, read, written),
    }


def _asked(work: Work) -> tuple[BaseMessage, ...]:
    """Return the messages that a model read."""
    return tuple(HumanMessage(m) if isinstance(m, str) else m for m in work.start.payload)


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Return what the caller set of how the model writes, as far as it is plain."""
    chosen = {name: given[name] for name in _SAMPLING if given.get(name) is not None}
    return {name: value for name, value in chosen.items() if isinstance(value, bool | int | float | str)}


def _is_cached(messages: tuple[BaseMessage, ...]) -> bool:
    # LangChain prices what comes from its cache at 0.
    usage = [getattr(message, "usage_metadata", None) or {} for message in messages]
    return any(told.get("total_cost") == 0 for told in usage)


def _tool(work: Work, interner: Interner, policy: Policy) -> Fields:
    details = work.start.details
    inputs = details.get("inputs")
    name = details.get("name") or (details.get("serialized") or {}).get("name") or "tool"
    call = {
        "name": name,
        "args": inputs if isinstance(inputs, dict) else {"input": work.start.payload},
        "id": details.get("tool_call_id"),
    }
    told: Fields = {
        "kind": "tool",
        "name": name,
        "tool_calls": (_call(call, policy),) if policy.keeps("tool_calls") else (),
    }
    if work.end is not None and work.end.kind == "end":
        results = _results(work.end.payload, call)
        told["output"] = interner.all(results) if policy.keeps("messages") else ()
        told["steered"] = _steered(work.end.payload)
        refused = [text_of(m) for m in results if isinstance(m, ToolMessage) and m.status == "error"]
        if refused:
            told["error"] = refused[0][:_ERROR_LENGTH]
    return told


def _node(work: Work, interner: Interner, policy: Policy) -> Fields:
    return {"kind": "node", "name": work.start.details["name"]}


_TOLD_BY: dict[str, Callable[[Work, Interner, Policy], Fields]] = {"model": _model, "tool": _tool, "chain": _node}


def _is_step(work: Work) -> bool:
    """Return whether work is shown: models, tools, and a graph's nodes and tasks, not what those are built of."""
    if work.start.kind != "chain":
        return True
    name, metadata = work.start.details.get("name"), work.metadata
    if work.parent is None or name in (None, START) or name != metadata.get("langgraph_node"):
        return False
    # What a node is built of may bear its name, and shares its namespace.
    return bool(metadata.get(_NAMESPACE) != work.parent.metadata.get(_NAMESPACE))


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
    return _asked(calls[-1]) + _answers(calls[-1])


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
    answered = work.end.payload if work.end is not None else None
    if not isinstance(answered, Answered):
        return ()
    return tuple(AIMessage(said) if isinstance(said, str) else said for said in answered.said)


def _results(output: Any, call: dict[str, Any]) -> tuple[BaseMessage, ...]:
    """Return what a tool returned as messages."""
    found = as_messages(output.update if isinstance(output, Command) else output)
    if found:
        return found
    content = output if isinstance(output, str) else str(plain(output))
    return (ToolMessage(content, tool_call_id=call["id"] or "", name=call["name"]),)


def _steered(output: Any) -> bool:
    """Return whether a tool returned more than messages."""
    commands = [one for one in (output if isinstance(output, list) else [output]) if isinstance(one, Command)]
    return any(bool(c.goto) or (isinstance(c.update, dict) and c.update.keys() - {"messages"}) for c in commands)


def _tokens(work: Work, messages: tuple[BaseMessage, ...]) -> tuple[int | None, int | None]:
    """Return tokens read and written, as the message says, else as the provider's answer says."""
    for message in messages:
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if usage:
            return usage["input_tokens"], usage["output_tokens"]
    told = work.end.payload.told if messages and work.end is not None else None
    usage_told = (told or {}).get("token_usage") or {}
    return usage_told.get("prompt_tokens"), usage_told.get("completion_tokens")


def _model_name(work: Work, parameters: dict[str, Any]) -> str:
    details = work.start.details
    serialized = details.get("serialized") or {}
    names = (
        work.metadata.get("ls_model_name"),
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


def _call(call: Any, policy: Policy) -> ToolCall:
    return ToolCall(name=clean(call["name"]), args=policy.fit(plain(call["args"])), id=_text(call.get("id")))


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
