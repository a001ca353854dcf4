"""Read text and reasoning out of messages, whatever form they came in, and write values as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
from langchain_core.messages import BaseMessage, convert_to_messages
from pydantic import BaseModel

from langgraph_learnloop.messages import loads, text_in

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS
_DEPTH = 100
"""Levels of nesting after which a value is kept as text."""
_LONGEST_SECRET = 10_000
"""Characters beyond a cut that are looked at: a private key, the longest thing that is masked, is shorter."""
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


def encode(value: Any) -> bytes:
    """Return JSON with sorted keys; what JSON has no form for is kept as text."""
    try:
        return orjson.dumps(value, default=_plain, option=_OPTIONS)
    except (orjson.JSONEncodeError, RecursionError):
        return json.dumps(_mended(value, _DEPTH), sort_keys=True, ensure_ascii=False).encode()


def plain(value: Any) -> Any:
    """Return a value as JSON would give it back."""
    return loads(encode(value))


def cut(value: Any, longest: int, redact: Callable[[str], str] | None = None) -> Any:
    """Return a JSON-like value whose texts beyond a tenth of `longest` end in a mark: their length, and their hash.

    With `redact` what is cut is redacted before: half of a secret would not be known for one any more.
    """
    if isinstance(value, str) and len(value) > (room := longest // 10):
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        kept = value[:room] if redact is None else redact(value[: room + _LONGEST_SECRET])[:room]
        return f"{kept} [cut here: {len(value)} characters, SHA-256 {digest}]"
    if isinstance(value, dict):
        return {key: cut(item, longest, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cut(item, longest, redact) for item in value]
    return value


def clean(text: str) -> str:
    """Return text without lone surrogates, which no database takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def as_messages(value: Any) -> tuple[BaseMessage, ...]:
    """Return the messages in what a graph, a node or a tool returned; empty where there are none."""
    if isinstance(value, BaseMessage):
        return (value,)
    found = value.get("messages") if isinstance(value, dict) else getattr(value, "messages", value)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        return ()
    if all(isinstance(message, BaseMessage) for message in found):
        return tuple(found)
    try:
        return tuple(convert_to_messages(found))
    except (ValueError, NotImplementedError, TypeError):
        return ()


def text_of(message: BaseMessage) -> str:
    """Return a message's text, without reasoning that the model wrote into it."""
    return clean(_THINK.sub("", raw_text(message))).strip()


def raw_text(message: BaseMessage) -> str:
    """Return a message's text as it is, reasoning that was written into it included."""
    return text_in(message.content)


def reasoning_of(message: BaseMessage) -> str | None:
    """Return the chain of thought, in whichever of the known forms it came; None where there is none."""
    parts = [*_kept_beside(message), *_kept_in_blocks(message.content), *_THINK.findall(raw_text(message))]
    text = "\n".join(part.strip() for part in parts if part.strip())
    return clean(text) or None


def _kept_beside(message: BaseMessage) -> Iterator[str]:
    """Yield what DeepSeek, Qwen and vLLM (reasoning_content) and older OpenAI adapters (reasoning) keep beside."""
    beside = message.additional_kwargs.get("reasoning_content")
    if isinstance(beside, str):
        yield beside
    yield from _summary(message.additional_kwargs.get("reasoning"))


def _kept_in_blocks(content: str | list[str | dict[str, Any]]) -> Iterator[str]:
    """Yield what Anthropic (thinking) and OpenAI and LangChain (reasoning) keep in content blocks."""
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        wrapped = block.get("value") if block.get("type") == "non_standard" else None
        inner = wrapped if isinstance(wrapped, dict) else block
        kind = inner.get("type")
        if kind in ("thinking", "reasoning") and isinstance(inner.get(kind), str):
            yield inner[kind]
        elif kind == "reasoning":
            yield from _summary(inner)


def _summary(reasoning: Any) -> Iterator[str]:
    parts = reasoning.get("summary") if isinstance(reasoning, dict) else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _plain(value: Any) -> Any:
    """Return something that JSON has a form for, in place of what it has none for."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return repr(value)


def _mended(value: Any, depth: int) -> Any:
    """Return a copy without lone surrogates and endless nesting; slow, for the few values that orjson refuses."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return clean(value)
    if depth == 0:
        return clean(repr(type(value)))
    if isinstance(value, dict):
        return {clean(str(key)): _mended(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item, depth - 1) for item in value]
    return _mended(_plain(value), depth - 1)
