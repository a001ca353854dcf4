"""Read what Langfuse's API gives: values, dates, and messages in OpenAI's form or in one of LangChain's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.integrations.langfuse_wire import reason_of
from langgraph_learnloop.messages import from_langchain
from langgraph_learnloop.records import Message

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

_KINDS = {"HumanMessage": "human", "AIMessage": "ai", "SystemMessage": "system", "ToolMessage": "tool"}
"""LangChain's classes, as its serialised form names them."""
_THOUGHTS = ("thinking", "reasoning")
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError)
Seen = dict[str, Any]
"""Something as the public API sends it."""
Said = tuple[Message, str | None]
"""A message, and the chain of thought that came with it."""


def parsed(text: object) -> Any:
    """Return the value that a JSON text holds; what is no JSON is returned as it is."""
    if not isinstance(text, str):
        return text
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    with suppress(ValueError, RecursionError):  # half a character, and numbers of any size
        return json.loads(text)
    return text


def filled(value: object) -> str | None:
    """Return a text with something in it; None for anything else."""
    return value if isinstance(value, str) and value.strip() else None


def date_of(value: object) -> datetime:
    """Return a date; raise DataError when it is none."""
    try:
        read = datetime.fromisoformat(str(value))
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise DataError("It has an observation without a time.") from error


def is_message(value: object) -> bool:
    """Return whether a value has what a message has, in any of its forms."""
    return isinstance(value, Mapping) and bool({"role", "type"} & value.keys())


def langchain_messages(values: Sequence[Any]) -> list[BaseMessage]:
    """Return messages in OpenAI's form or in LangChain's as LangChain's; raise Unreadable with what is wrong."""
    from langchain_core.messages import convert_to_messages

    try:
        return convert_to_messages([_unwrapped(value) for value in values])
    except _UNREADABLE as error:
        raise Unreadable(reason_of(error)) from error


class Unreadable(DataError):
    """Say what a library said of messages that it cannot read."""


class Reading:
    """Read messages, each once: a trace repeats its conversation in every call. What is not text is left out."""

    def __init__(self) -> None:
        """Have read nothing yet."""
        self._read: dict[bytes, Said] = {}

    def all(self, values: Sequence[Any]) -> tuple[Message, ...]:
        """Return messages, in order; raise DataError for one that cannot be read."""
        return tuple(self.one(value)[0] for value in values)

    def one(self, value: Any) -> Said:
        """Return a message with its chain of thought; raise DataError when it cannot be read."""
        try:
            key = orjson.dumps(value)
        except (TypeError, ValueError):  # half a character, or a number of more than 64 bits
            return _said(value)
        known = self._read.get(key)
        if known is None:
            known = self._read[key] = _said(value)
        return known


def _said(value: Any) -> Said:
    try:
        message = langchain_messages([value])[0]
        return from_langchain(message), _reasoning(message)
    except _UNREADABLE as error:
        if isinstance(value, dict) and value.get("tool_calls"):
            return _said({**value, "tool_calls": None})  # they may be torn; what was said besides is worth keeping
        raise DataError("It holds a message that is in no known form.") from error


def _reasoning(message: BaseMessage) -> str | None:
    beside = message.additional_kwargs.get("reasoning_content")
    blocks = [block for block in message.content if isinstance(block, dict)] if message.content else []
    thoughts = [beside, *(block.get(kind) for block in blocks if (kind := block.get("type")) in _THOUGHTS)]
    return "\n".join(thought for thought in thoughts if isinstance(thought, str) and thought) or None


def _unwrapped(value: Any) -> Any:
    """Return a message that LangChain serialised whole (`dumpd`, `message_to_dict`) as the dict of its fields."""
    if not isinstance(value, dict):
        return value
    if value.get("type") == "constructor" and isinstance(value.get("kwargs"), dict):
        names = value.get("id")
        kind = str(names[-1]).removesuffix("Chunk") if isinstance(names, list) and names else ""
        value = {**value["kwargs"], "type": _KINDS.get(kind, kind)}
    elif isinstance(value.get("data"), dict) and "content" in value["data"]:
        value = {**value["data"], "type": value.get("type")}
    kind = str(value.get("role", value.get("type", "")))
    if kind.endswith("MessageChunk"):
        return {**value, "type": _KINDS.get(kind.removesuffix("Chunk"), kind)}
    return {"content": "", "tool_call_id": "", **value} if kind == "tool" else value
