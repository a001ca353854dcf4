"""Read what a model wrote: its answer, its chain of thought and the tools it asks for.

The chain of thought stands in `<think>...</think>`. The forms of calls are told by what they begin with:

| family          | form                                                                                              |
|-----------------|---------------------------------------------------------------------------------------------------|
| Hermes, Qwen    | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`                                        |
| Llama 3         | `<|python_tag|>{"name": ..., "parameters": {...}}`; or that alone, for a tool that was offered    |
| Mistral         | `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`, and the newer `[TOOL_CALLS]name{...}`    |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from langgraph_learnloop.records import Message, ToolCall

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
"""The marks around a chain of thought."""

_HERMES, _LLAMA, _MISTRAL = "<tool_call>", "<|python_tag|>", "[TOOL_CALLS]"
_MARKS = (_HERMES, _LLAMA, _MISTRAL)
_OPENED = re.compile(f"({'|'.join(map(re.escape, _MARKS))})\\s*")
_HERMES_CLOSE = re.compile(r"\s*(?:</tool_call>|\Z)")
_LLAMA_CLOSE = re.compile(r"\s*(?:<\|eo[mt]_id\|>)?")
_MISTRAL_NAME = re.compile(r"([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")
_BETWEEN = re.compile(r"\s*[;,]?\s*(?=\{)")
_ARGUMENTS = ("arguments", "parameters")
_BARE_KEYS = frozenset({"type", "name", *_ARGUMENTS})
_BARE_BEGUN = re.compile(
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"]*)"\s*,\s*"(?:parameters|arguments)"'
)
_FIRST_KEY = re.compile(r'\{\s*(?:"([^"]*)("?))?')

_Call = tuple[str, dict[str, Any]]
_Read = tuple[list[_Call], int]
"""The calls that were read, none of them if they cannot be, and where reading goes on."""


class Answer(NamedTuple):
    """A model's text, taken apart."""

    content: str
    """What it says, without surrounding blanks."""
    reasoning: str | None
    """Its chain of thought; None where it wrote none."""
    tool_calls: tuple[ToolCall, ...]
    """The tools it asks for, in order."""


class Part(NamedTuple):
    """A piece of an answer that is still being written."""

    text: str
    """The next words."""
    is_reasoning: bool = False
    """They belong to the chain of thought."""


def new_call_id() -> str:
    """Return a fresh id for a tool call."""
    return f"call_{uuid4().hex}"


def offered_names(tools: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Return the names of tools in OpenAI's function form."""
    return frozenset(str(tool.get("function", tool).get("name")) for tool in tools)


def parse_answer(text: str, new_id: Callable[[], str] = new_call_id, offered: Collection[str] = ()) -> Answer:
    """Take a model's text apart; a call that is not usable stays in the content, nothing raises.

    JSON without a mark is a call only if it is all the model says and names a tool that was `offered`.
    """
    if calls := _bare_calls(text, offered):  # first: a closing mark inside a call's arguments is none
        return Answer("", None, _with_ids(calls, new_id))
    reasoning, rest = _split_reasoning(text)
    if calls := _bare_calls(rest, offered):
        return Answer("", reasoning, _with_ids(calls, new_id))
    content, at = "", 0
    while (opened := _OPENED.search(rest, at)) is not None:
        found, end = _READERS[opened[1]](rest, opened.end())
        content += rest[at : opened.start()] if found else rest[at:end]
        calls += found
        at = end
    return Answer((content + rest[at:]).strip(), reasoning, _with_ids(calls, new_id))


def is_malformed(message: Message, offered: Collection[str] = ()) -> bool:
    """Return whether a parsed answer holds a call that could not be read: no JSON, no name, or never ended."""
    if message.tool_calls:
        return False
    bare = _BARE_BEGUN.match(message.content)
    return (bare is not None and bare[1] in offered) or _OPENED.search(message.content) is not None


def may_begin(text: str, marks: Sequence[str]) -> int:
    """Return where in a text that goes on one of the marks may have begun; its length where none has."""
    longest = max((len(mark) for mark in marks), default=1) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(mark.startswith(text[at:]) for mark in marks):
            return at
    return len(text)


class AnswerReader:
    """Read an answer while it is written: hand out words at once, and hold back what may become a call.

    `offered`: tools were offered, so that an answer which begins as JSON may be a call. `silent`: hand out reasoning
    only, because nothing but a call will do. Words are handed out without the blanks around the whole; what was held
    back is in the answer, once it is there.
    """

    def __init__(self, offered: bool = False, silent: bool = False) -> None:
        self.content = ""
        self.reasoning = ""
        self._offered = offered
        self._silent = silent
        self._held = ""
        self._read: Callable[[], Part | None] = self._begin

    def read(self, text: str) -> list[Part]:
        """Take the next text in and return what can be shown."""
        self._held += text
        shown: list[Part] = []
        while (part := self._read()) is not None:
            if part.is_reasoning:
                self.reasoning += part.text
            else:
                self.content += part.text
            shown += [part] if part.text else []
        return shown

    def _begin(self) -> Part | None:
        """Find out whether the answer begins with a chain of thought; an empty part leads on."""
        begun = self._held.lstrip()
        if begun != THINK_OPEN and THINK_OPEN.startswith(begun):
            return None
        self._read = self._think if begun.startswith(THINK_OPEN) else self._say
        self._held = begun.removeprefix(THINK_OPEN)
        return Part("")

    def _think(self) -> Part | None:
        """Hand out reasoning up to its end."""
        end = self._held.find(THINK_CLOSE)
        if end < 0:
            return self._hand_out(may_begin(self._held, (THINK_CLOSE,)), self.reasoning, is_reasoning=True)
        last = self._hand_out(end, self.reasoning, is_reasoning=True)
        self._held = self._held[self._held.index(THINK_CLOSE) + len(THINK_CLOSE) :]
        self._read = self._say
        return last or Part("", is_reasoning=True)

    def _say(self) -> Part | None:
        """Hand out words up to what may be a call."""
        if self._silent or (self._offered and not self.content and _may_be_bare(self._held)):
            return None
        opened = _OPENED.search(self._held)
        return self._hand_out(opened.start() if opened else may_begin(self._held, _MARKS), self.content)

    def _hand_out(self, end: int, said: str, is_reasoning: bool = False) -> Part | None:
        """Return the words before `end`; blanks wait for what follows them, and those before the first are dropped."""
        words = self._held[:end].rstrip()
        self._held = self._held[len(words) :]
        words = words if said else words.lstrip()
        return Part(words, is_reasoning) if words else None


def _with_ids(calls: Sequence[_Call], new_id: Callable[[], str]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(name=name, args=args, id=new_id()) for name, args in calls)


def _split_reasoning(text: str) -> tuple[str | None, str]:
    """Return (reasoning, the rest); the opening mark may stand in the prompt, the closing one may never come."""
    opened = text.lstrip().startswith(THINK_OPEN)
    start = text.index(THINK_OPEN) + len(THINK_OPEN) if opened else 0
    end = text.find(THINK_CLOSE, start)
    call = _OPENED.search(text, start)
    if not opened and (end < 0 or (call is not None and call.start() < end)):  # as above: that is an argument's
        return None, text
    thought, rest = (text[start:], "") if end < 0 else (text[start:end], text[end + len(THINK_CLOSE) :])
    return thought.strip() or None, rest


def _bare_calls(text: str, offered: Collection[str]) -> list[_Call]:
    """Return the calls that a text of nothing but JSON asks for; none if any part of it is no call to be made."""
    start = len(text) - len(text.lstrip())
    if not offered or not text.startswith("{", start):
        return []
    calls, end = _read_objects(
        text, start, lambda value: value.keys() <= _BARE_KEYS and not value.keys().isdisjoint(_ARGUMENTS)
    )
    closed = _LLAMA_CLOSE.match(text, end)
    is_whole = closed is not None and not text[closed.end() :].strip()
    return calls if is_whole and all(name in offered for name, _ in calls) else []


def _may_be_bare(text: str) -> bool:
    """Tell whether a text that goes on may become a call without a mark, as far as its first key tells."""
    begun = text.lstrip()
    first = _FIRST_KEY.match(begun)
    if first is None:
        return False
    if first[1] is None:
        return first.end() == len(begun)
    return first[1] in ("name", "type") if first[2] else True


def _read_hermes(text: str, start: int) -> _Read:
    """Read one object and its closing mark, in whose place the answer may end."""
    value, end = _decoded(text, start)
    closed = _HERMES_CLOSE.match(text, end)
    call = _as_call(value) if closed else None
    return ([call], closed.end()) if call and closed else ([], start)


def _read_llama(text: str, start: int) -> _Read:
    """Read objects in a row; a program in place of them is none."""
    calls, end = _read_objects(text, start)
    closed = _LLAMA_CLOSE.match(text, end)
    return calls, closed.end() if closed else end


def _read_mistral(text: str, start: int) -> _Read:
    """Read a list of objects, or a name with its arguments."""
    named = _MISTRAL_NAME.match(text, start)
    if named is not None:
        value, end = _decoded(text, named.end())
        call = _as_call({"name": named[1], "arguments": value})
        return ([call], end) if call else ([], start)
    if not text.startswith("[", start):
        return _read_objects(text, start)
    values, end = _decoded(text, start)
    calls = [_as_call(value) for value in values] if isinstance(values, list) else []
    sound = [call for call in calls if call is not None]
    return (sound, end) if sound and len(sound) == len(calls) else ([], start)


_READERS: Mapping[str, Callable[[str, int], _Read]] = {
    _HERMES: _read_hermes,
    _LLAMA: _read_llama,
    _MISTRAL: _read_mistral,
}


def _read_objects(text: str, start: int, is_call: Callable[[dict[str, Any]], object] = lambda value: True) -> _Read:
    """Read calls that stand in a row, up to the first object that is none."""
    calls: list[_Call] = []
    end = start
    while True:
        between = _BETWEEN.match(text, end) if calls else None
        value, after = _decoded(text, between.end() if between else end)
        call = _as_call(value) if isinstance(value, dict) and is_call(value) else None
        if call is None:
            return calls, end
        calls.append(call)
        end = after


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """Return the JSON that begins at `start` and where it ends; None and `start` where there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start


def _as_call(value: Any) -> _Call | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    try:
        arguments = _stripped(json.loads(arguments) if isinstance(arguments, str) else arguments)
    except (ValueError, RecursionError):
        return None
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    return name.strip(), arguments


def _stripped(value: Any) -> Any:
    """Return the value with blanks around every string gone: small models write " Canberra" so as to copy one token."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, dict):
        return {key.strip(): _stripped(item) for key, item in value.items()}
    return value
