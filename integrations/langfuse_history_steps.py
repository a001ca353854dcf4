"""Read what models and tools were given and answered, from Langfuse's observations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.integrations.langfuse_history_order import Observation
from langgraph_learnloop.integrations.langfuse_messages import Reading, date_of, filled, is_message, parsed
from langgraph_learnloop.mirrors import ForeignStep
from langgraph_learnloop.records import Message, Step, ToolCall

_MOST_USD = 1e9


def model_step(one: Observation, common: dict[str, Any], reading: Reading) -> ForeignStep:
    """Return a model call; raise DataError when what it read or said cannot be read."""
    given = parsed(one.seen.get("input"))
    asked, tools = _asked(given)
    said, thoughts = _said(parsed(one.seen.get("output")), reading)
    usage = one.seen.get("usageDetails")
    step = Step(
        **{**common, "name": one.fact("ls_model_name") or filled(one.seen.get("model")) or one.name or "model"},
        reasoning=thoughts,
        tool_calls=tuple(call for message in said for call in message.tool_calls),
        parameters=_parameters(parsed(one.seen.get("modelParameters"))),
        first_token_seconds=_first_token(one),
        input_tokens=_tokens(usage, "input"),
        output_tokens=_tokens(usage, "output"),
        usd=_usd(one),
    )
    return ForeignStep(step, texts_of(asked, "user", reading), said, tools)


def tool_step(one: Observation, common: dict[str, Any], reading: Reading) -> ForeignStep:
    """Return a tool call with its result."""
    args = parsed(one.seen.get("input"))
    call_id = one.fact("tool_call_id")
    if not isinstance(args, dict):
        args = {} if args is None else {"input": args}
    output = one.seen.get("output")
    # What our mirror tells is the text of the answer, whatever it looks like.
    result = output if one.step_id is not None else parsed(output)
    said = () if result is None else _results(result, call_id, one.name, reading)
    steered = one.facts.get("steered") is True or _steered(result)
    calls = (ToolCall(name=one.name, args=args, id=call_id),)
    return ForeignStep(Step(**common, tool_calls=calls, steered=steered), said=said)


def texts_of(value: Any, role: Literal["user", "assistant"], reading: Reading) -> tuple[Message, ...]:
    """Return the messages in a value: those it holds, or what it is, as one of a role; raise DataError."""
    if value is None or value == "":
        return ()
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if is_message(value):
        value = [value]
    if isinstance(value, list) and value and all(is_message(item) or _is_pair(item) for item in value):
        return reading.all(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        raise DataError("A model's input or output was cut, so that it is no JSON.")
    return (Message(role=role, content=_as_text(value)),)


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _asked(given: Any) -> tuple[Any, tuple[dict[str, Any], ...]]:
    """Return what a model was given without the tools, and the tools."""
    if isinstance(given, dict) and "messages" in given:
        tools = given.get("tools")
        return given["messages"], tuple(t for t in tools if isinstance(t, dict)) if isinstance(tools, list) else ()
    if not isinstance(given, list):
        return given, ()
    # Langfuse's handler shows the tools as messages of the role "tool", which have no call to answer.
    schemas = [item for item in given if _is_schema(item)]
    return [item for item in given if not _is_schema(item)], tuple(item["content"] for item in schemas)


def _is_schema(item: object) -> bool:
    if not isinstance(item, dict) or item.get("role") != "tool" or "tool_call_id" in item:
        return False
    content = item.get("content")
    return isinstance(content, dict) and bool({"function", "name", "input_schema"} & content.keys())


def _said(output: Any, reading: Reading) -> tuple[tuple[Message, ...], str | None]:
    """Return what a model said, with its chain of thought."""
    values = output if isinstance(output, list) else [output]
    if output is None or not values or not all(is_message(value) for value in values):
        return texts_of(output, "assistant", reading), None
    found = [reading.one(value) for value in values]
    thoughts = [thought for _, thought in found if thought]
    return tuple(message for message, _ in found), "\n".join(thoughts) or None


def _results(output: Any, call_id: str | None, name: str, reading: Reading) -> tuple[Message, ...]:
    """Return what a tool returned as messages."""
    update = output.get("update") if isinstance(output, dict) and "goto" in output else output
    found = update.get("messages") if isinstance(update, dict) else update
    values = found if isinstance(found, list) else [update]
    if values and all(is_message(value) for value in values):
        return reading.all(values)
    return (Message(role="tool", content=_as_text(output), tool_call_id=call_id or "", name=name),)


def _as_text(value: Any) -> str:
    """Return a value as LangChain writes it into a message."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _steered(output: Any) -> bool:
    """Return whether a tool returned more than messages: a `Command` that changes more, or goes somewhere."""
    commands = [one for one in (output if isinstance(output, list) else [output]) if isinstance(one, dict)]
    return any("goto" in one and bool(one["goto"] or _more_than_messages(one.get("update"))) for one in commands)


def _more_than_messages(update: Any) -> bool:
    return isinstance(update, dict) and bool(update.keys() - {"messages"})


def _tokens(usage: Any, side: str) -> int | None:
    """Return tokens read or written; Langfuse's handler counts what came from a cache apart."""
    counts = [
        count
        for name, count in (usage.items() if isinstance(usage, Mapping) else ())
        if (name == side or (name.startswith(f"{side}_") and "priority" not in name))
        and isinstance(count, int)
        and 0 <= count < 2**53
    ]
    return sum(counts) if counts else None


def _parameters(given: Any) -> dict[str, Any]:
    pairs: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    return {str(name): value for name, value in pairs.items() if isinstance(value, bool | int | float | str)}


def _first_token(one: Observation) -> float | None:
    at = one.seen.get("completionStartTime")
    return None if at is None else max(0.0, (date_of(at) - one.began).total_seconds())


def _usd(one: Observation) -> float | None:
    """Return what a call cost; Langfuse says 0 of what failed, and of models whose price it does not know."""
    costs = one.seen.get("costDetails")
    told = costs.get("total") if isinstance(costs, Mapping) else None
    cost = one.seen.get("totalCost") if told is None else told
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < _MOST_USD:
        return None
    return float(cost) if cost or (told is not None and one.step_id is not None) else None
