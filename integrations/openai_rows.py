"""Write examples as the lines of a file that a provider fine-tunes on. A part of `openai_finetuning`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Example, Message

Row = dict[str, Any]
"""One line of the file that is uploaded."""

_BYTES_A_TOKEN = 4
"""Of UTF-8; a cautious estimate, since the JSON around the texts counts as well."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def supervised_row(example: Example) -> Row:
    """Return an example as a line for supervised fine-tuning: its last message is learned, the others are read.

    Raise DataError where a tool call of the conversation has no result, or a result no call.
    """
    *before, answer = _chat([*example.messages, example.chosen])
    read = [message | {"weight": 0} if message["role"] == "assistant" else message for message in before]
    return {"messages": [*read, answer], **_offer(example)}


def preference_row(example: Example) -> Row:
    """Return an example as a line for preference fine-tuning (DPO).

    Raise DataError where nothing was rejected, or where a tool call of the conversation has no result.
    """
    if example.rejected is None:
        raise DataError(
            f'The example {example.example_id!r} has no rejected answer to prefer the chosen one to: train with "sft".'
        )
    *before, chosen = _chat([*example.messages, example.chosen])
    rejected = _chat([*example.messages, example.rejected])[-1]
    return {
        "input": {"messages": before, **_offer(example)},
        "preferred_output": [chosen],
        "non_preferred_output": [rejected],
    }


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages in the provider's form; calls are numbered anew, so that no two of them share an id."""
    chat: list[dict[str, Any]] = []
    waiting: dict[str, str] = {}  # calls without a result so far: their id in the example, and the new one
    calls = 0
    for message in messages:
        if message.role == "tool":
            chat.append({"role": "tool", "content": message.content, "tool_call_id": _called(message, waiting)})
            continue
        if waiting:
            raise DataError(
                f"The tool call {next(iter(waiting))!r} has no result right after it: put its tool message there."
            )
        for at, call in enumerate(message.tool_calls):
            waiting[call.id or f"call_{at}"] = f"call_{calls + at}"
        chat.append(_said_by(message, calls))
        calls += len(message.tool_calls)
    return chat


def _called(result: Message, waiting: dict[str, str]) -> str:
    """Return the new id of the call that a message answers; one that names none answers the first that waits."""
    call = result.tool_call_id if result.tool_call_id is not None else next(iter(waiting), "")
    if call not in waiting:
        raise DataError(f"The tool result {call!r} comes after no call: leave it out.")
    return waiting.pop(call)


def _said_by(message: Message, calls: int) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None and _NAME.fullmatch(message.name):  # others are refused, and the whole file with them
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": f"call_{calls + at}", "type": "function", "function": {"name": c.name, "arguments": as_json(c.args)}}
            for at, c in enumerate(message.tool_calls)
        ]
        if not message.content:
            del out["content"]
    return out


def _offer(example: Example) -> dict[str, Any]:
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in example.tools]
    return {"tools": tools} if tools else {}


def as_json(value: Any) -> str:
    """Return a value as JSON, on one line."""
    return json.dumps(value, ensure_ascii=False)


def tokens_of(row: Row) -> int:
    """Return about how many tokens the provider counts in a row."""
    return math.ceil(len(as_json(row).encode()) / _BYTES_A_TOKEN)
