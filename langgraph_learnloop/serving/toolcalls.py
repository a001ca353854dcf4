"""Read what a model wrote: its answer, its chain of thought and the tools it asks for.

The form is that of Hermes and Qwen: `<think>...</think>` and `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from langgraph_learnloop.records import ToolCall

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"


class Answer(NamedTuple):
    """A model's text, taken apart."""

    content: str
    """What it says, without surrounding blanks."""
    reasoning: str | None
    """Its chain of thought; None where it wrote none."""
    tool_calls: tuple[ToolCall, ...]
    """The tools it asks for, in order."""


def new_call_id() -> str:
    """Return a fresh id for a tool call."""
    return f"call_{uuid4().hex}"


def parse_answer(text: str, new_id: Callable[[], str] = new_call_id) -> Answer:
    """Take a model's text apart; a call that is not usable stays in the content, nothing raises."""
    reasoning, rest = _split_reasoning(text)
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        call = _read_call(match.group(1), new_id)
        if call is None:
            return match.group(0)
        calls.append(call)
        return ""

    return Answer(_CALL.sub(take, rest).strip(), reasoning, tuple(calls))


def _split_reasoning(text: str) -> tuple[str | None, str]:
    """Return (reasoning, the rest); the opening mark may stand in the prompt, the closing one may never come."""
    before, opened, after = text.partition(_THINK_OPEN)
    if opened:
        thought, _, rest = after.partition(_THINK_CLOSE)
        return thought.strip() or None, before + rest
    thought, closed, rest = text.partition(_THINK_CLOSE)
    return (thought.strip() or None, rest) if closed else (None, text)


def _read_call(body: str, new_id: Callable[[], str]) -> ToolCall | None:
    try:
        value = json.loads(body)
        arguments = value.get("arguments", {}) if isinstance(value, dict) else None
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return None
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return ToolCall(name=name.strip(), args=_stripped(arguments), id=new_id())


def _stripped(value: Any) -> Any:
    """Return the value with blanks around every string gone: small models write " Canberra" so as to copy one token."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, dict):
        return {key.strip(): _stripped(item) for key, item in value.items()}
    return value
