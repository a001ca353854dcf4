"""Read what a model wrote: its answer, its chain of thought and the tools it asks for.

The form is that of Hermes and Qwen: `<think>...</think>`, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from langgraph_learnloop.records import Message, ToolCall

_CALL_OPEN, _CALL_CLOSE = re.compile(r"<tool_call>\s*"), re.compile(r"\s*(?:</tool_call>|\Z)")
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
    content, at = "", 0
    while (opened := _CALL_OPEN.search(rest, at)) is not None:
        call, end = _read_call(rest, opened.end(), new_id)
        content += rest[at : opened.start()] if call else rest[at:end]
        calls += [call] if call else []
        at = end
    return Answer((content + rest[at:]).strip(), reasoning, tuple(calls))


def is_malformed(message: Message) -> bool:
    """Return whether a parsed answer holds a call that could not be read: no JSON, no name, or never ended."""
    return not message.tool_calls and _CALL_OPEN.search(message.content) is not None


def _split_reasoning(text: str) -> tuple[str | None, str]:
    """Return (reasoning, the rest); the opening mark may stand in the prompt, the closing one may never come."""
    opened = text.lstrip().startswith(_THINK_OPEN)
    start = text.index(_THINK_OPEN) + len(_THINK_OPEN) if opened else 0
    end = text.find(_THINK_CLOSE, start)
    call = text.find("<tool_call>", start)
    if not opened and (end < 0 or 0 <= call < end):  # a closing mark inside a call's arguments is none
        return None, text
    thought, rest = (text[start:], "") if end < 0 else (text[start:end], text[end + len(_THINK_CLOSE) :])
    return thought.strip() or None, rest


def _read_call(text: str, start: int, new_id: Callable[[], str]) -> tuple[ToolCall | None, int]:
    """Return the call that begins at `start`, or None, and where reading goes on."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    closed = _CALL_CLOSE.match(text, end)
    call = _as_call(value, new_id) if closed else None
    return (call, closed.end()) if call and closed else (None, start)


def _as_call(value: Any, new_id: Callable[[], str]) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
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
