"""Read messages in the forms of OpenAI and of LangChain.

What is in OpenAI's form may come from anywhere: `check` it as a whole, then read it; `where` names its place in the
sentences.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import ValidationError

from langgraph_learnloop.calls import LARGEST_NUMBER, clean_text
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Message, ToolCall
from langgraph_learnloop.texts import quoted

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

LONGEST_MESSAGE = 1_000_000
"""Characters of one text of a conversation."""
LONGEST_NAME = 200
"""Characters of a category, of a tool's or a speaker's name, or of an id."""
UNREADABLE = "unreadable"
"""The argument that holds what a model wrote in place of arguments."""
DEEPEST = 64
"""Levels of lists and mappings inside of a conversation."""
_BEYOND_64_BITS = re.compile(rb"\d{19}")

_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")
_OTHER_ROLES = {"developer": "system"}
"""Names that others give to the roles."""
_LANGCHAIN: Mapping[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system",
    "SystemMessageChunk": "system",
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "tool": "tool",
    "ToolMessageChunk": "tool",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
"""The roles of LangChain's types of messages, and of those that its free-form messages name themselves."""


def question(messages: Sequence[Message]) -> str:
    """Return what the user asked last; empty where nobody asked anything."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def text_in(content: Any) -> str:
    """Return the text of a LangChain message's content: a string, or blocks of which some are text."""
    if isinstance(content, str):
        return content
    blocks = [{"text": block} if isinstance(block, str) else block for block in content or ()]
    texts = [one.get("text") for one in blocks if isinstance(one, dict) and one.get("type", "text") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def from_langchain(message: BaseMessage, *, broken: bool = True) -> Message:
    """Return a LangChain message as a record; raise DataError for a type that no conversation here has.

    Blocks that are not text are left out. A call whose arguments are not JSON keeps them as a text, as UNREADABLE;
    without `broken` it is left out.
    """
    role = _LANGCHAIN.get(str(getattr(message, "role", message.type)))
    if role is None:
        kind = getattr(message, "role", message.type)
        raise DataError(f"A message of the type {kind!r} cannot be read: send system, human, AI or tool ones.")
    content = message.content if isinstance(message.content, str) else str(message.text)
    if role == "user" and message.name is None:
        return Message(role=role, content=content)
    return Message(
        role=role,
        content=content,
        tool_calls=_langchain_calls(message, broken) if role == "assistant" else (),
        tool_call_id=getattr(message, "tool_call_id", None) if role == "tool" else None,
        name=message.name,
    )


def from_openai(value: object, where: str) -> Message:
    """Return a message in OpenAI's form or in that of `Message`; what is null counts as not there.

    Raises DataError, naming the field and the way out.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where!r} is a {type(value).__name__}; it must be an object with {', '.join(_KEYS)}.")
    # OpenAI's clients write out what is not there: "refusal": null, "annotations": [].
    said = {key: item for key, item in value.items() if item not in (None, []) and (item or key in _KEYS)}
    if unknown := [key for key in said if key not in _KEYS]:
        raise DataError(f"{where!r} has no key {quoted(unknown[0])}; use {', '.join(_KEYS)}.")
    for key in ("name", "tool_call_id"):
        if len(str(said.get(key, ""))) > LONGEST_NAME:
            raise DataError(f"{where + '.' + key!r} is too long; at most {LONGEST_NAME} characters are allowed.")
    said["content"] = _text(said.get("content", ""), f"{where}.content")
    said["tool_calls"] = _calls(said.get("tool_calls", []), f"{where}.tool_calls")
    if said["tool_calls"] and said.get("role") != "assistant":
        raise DataError(
            f"{where!r} has tool_calls, and its role is {quoted(said.get('role'))}: only an assistant's may."
        )
    said["role"] = _OTHER_ROLES.get(str(said.get("role")), said.get("role"))
    try:
        return Message.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join([where, *map(str, first['loc'])])!r} cannot be used: {first['msg']}.") from error


def conversation(value: object, where: str) -> tuple[Message, ...]:
    """Return a list of messages in OpenAI's form; raise DataError when it is none, is empty or holds what is none."""
    if not isinstance(value, list) or not value:
        raise DataError(f'{where!r} must be a list of messages such as {{"role": "user", "content": "Hi"}}.')
    return tuple(from_openai(item, f"{where}[{number}]") for number, item in enumerate(value))


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object that `json.loads` read as pairs; raise DataError when a key stands there twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the key {quoted(twice)} stands there twice; leave one of them out.")
    return row


def check(value: Any, where: str, depth: int = 0) -> None:
    """Raise DataError, naming the field, for what would be lost or do harm on its way through the rooms."""
    if depth > DEEPEST:
        raise DataError(f"{quoted(where)} is nested deeper than the {DEEPEST} levels allowed; make it flatter.")
    if isinstance(value, dict):
        for key, item in value.items():
            check(key, f"{where}, a key")
            check(item, f"{where}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check(item, f"{where}[{number}]", depth + 1)
    elif isinstance(value, str) and value.strip():
        clean_text(value, quoted(where), LONGEST_MESSAGE)
    elif isinstance(value, int | float) and not abs(value) < LARGEST_NUMBER:
        raise DataError(f"{quoted(where)} is no number below {LARGEST_NUMBER}; write it as text.")


def _langchain_calls(message: BaseMessage, broken: bool) -> tuple[ToolCall, ...]:
    # This floor does without LangChain's classes.
    calls = (ToolCall(name=call["name"], args=call["args"], id=call["id"]) for call in _of(message, "tool_calls"))
    torn = _of(message, "invalid_tool_calls") if broken else ()
    return (
        *calls,
        *(ToolCall(name=call["name"] or "", args={UNREADABLE: call["args"] or ""}, id=call["id"]) for call in torn),
    )


def _of(message: BaseMessage, name: str) -> Sequence[Mapping[str, Any]]:
    return getattr(message, name, None) or ()


def _text(content: object, where: str) -> str:
    """Return the text of a content, which may be blocks of text; a case with an image could not be asked as it was."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{where!r} is a {type(content).__name__}; it must be text.")
    texts = [block.get("text") if isinstance(block, dict) else block for block in content]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where!r} holds a block that is not text; a suite's messages must be text only.")
    return "".join(map(str, texts))


def _calls(value: object, where: str) -> tuple[ToolCall, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where!r} is a {type(value).__name__}; it must be a list.")
    return tuple(_call(item, f"{where}[{number}]") for number, item in enumerate(value))


def _call(value: object, where: str) -> ToolCall:
    """Return a call in OpenAI's form, its arguments as JSON or as an object, or in the form of `ToolCall`."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(inner, dict):
        raise DataError(f'{where!r} is no tool call; write {{"name": "find_order", "args": {{"order": 5}}}}.')
    name = clean_text(inner.get("name"), f"{where + '.name'!r}", LONGEST_NAME)
    args = _arguments(inner.get("arguments", inner.get("args")), f"{where}.args")
    call_id = value.get("id")
    if call_id is not None and (not isinstance(call_id, str) or len(call_id) > LONGEST_NAME):
        raise DataError(f"{where + '.id'!r} must be text of at most {LONGEST_NAME} characters.")
    return ToolCall(name=name, args=args, id=call_id)


def _arguments(value: object, where: str) -> dict[str, Any]:
    args: Any = {} if value in (None, "") else value
    if isinstance(args, str):
        try:
            args = json.loads(args, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where!r} is not JSON; write the arguments as an object.") from error
        check(args, where)
    if not isinstance(args, dict):
        raise DataError(f"{where!r} is a {type(args).__name__}; it must be an object of arguments by name.")
    return args


def loads(body: bytes) -> Any:
    """Return stored JSON as Python values; integers of any size, of which orjson would make floats beyond 64 bits."""
    if _BEYOND_64_BITS.search(body) is None:
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return json.loads(body)
