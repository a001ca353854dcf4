"""Read a corrected message from untrusted input, and hold its tool calls against the tools' JSON schemas."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Message, ToolCall
from langgraph_learnloop.texts import quoted, short

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

Schema = Mapping[str, Any]

LONGEST_TEXT = 20_000
"""Characters of one text or of one call's arguments as JSON: a longer one is no correction but an attack or a slip."""
MOST_CALLS = 16
"""Tool calls in one message."""
LARGEST_NUMBER = 1e300
"""Numbers beyond it, infinities and NaN do not survive as JSON."""
DEEPEST = 16
"""Levels of lists and mappings inside an argument."""

_BOUNDS = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "over", "exclusiveMaximum": "under"}
_CALL_FORM = 'a text, or {"tool": name, "args": {...}} or a list of those'


def read_message(value: object, what: str = "correction") -> Message:
    """Return the assistant message that `value` stands for: a text, a call as dict or ToolCall, a list, or a Message.

    Raises DataError with a sentence when it is none of these, is empty, too long, or cannot be stored as JSON; `what`
    names it there, and goes with "a" and "the".
    """
    if isinstance(value, Message):
        return _checked(value, what)
    if isinstance(value, str):
        return _checked(Message(role="assistant", content=clean_text(value, f"the {what}'s text")), what)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        if len(value) > MOST_CALLS:
            raise DataError(f"the {what} holds {len(value)} tool calls; at most {MOST_CALLS} are allowed.")
        return _checked(Message(role="assistant", tool_calls=tuple(_read_call(item, what) for item in value)), what)
    return _checked(Message(role="assistant", tool_calls=(_read_call(value, what),)), what)


def clean_text(text: object, what: str, longest: int = LONGEST_TEXT) -> str:
    """Return the text if it can be stored; raise DataError when it is no text, empty, too long, or not Unicode."""
    if not isinstance(text, str):
        raise DataError(f"{what} must be text, not {type(text).__name__}.")
    if not text.strip():
        raise DataError(f"{what} is empty; leave it out instead.")
    if len(text) > longest:
        raise DataError(f"{what} has {len(text):,} characters; at most {longest:,} are allowed.")
    if "\x00" in text or not _is_unicode(text):
        raise DataError(f"{what} holds a NUL or half a character; send valid Unicode text.")
    return text


def misfit(message: Message, tools: Sequence[Schema]) -> str | None:
    """Return why a message's tool calls do not fit `tools` (OpenAI function form), or None when they do.

    Without any tools nothing is known, and nothing is held against the calls.
    """
    if not tools:
        return None
    schemas = {name: schema for name, schema in map(_named, tools) if name is not None}
    return next(filter(None, (_call_misfit(call, schemas) for call in message.tool_calls)), None)


def leaves(value: Any) -> Iterator[str | int | float]:
    """Yield the texts and numbers inside a value of a call; True and False are neither."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def names(tools: Sequence[Schema]) -> frozenset[str] | None:
    """Return the names of tools (OpenAI's or Anthropic's form); None when one of them has none, as a provider's own."""
    found = [name for name, _ in map(_named, tools) if isinstance(name, str)]
    return frozenset(found) if found and len(found) == len(tools) else None


def parameters(tool: str, tools: Sequence[Schema]) -> Schema:
    """Return the JSON schema of one tool's arguments; empty when it is not known."""
    return dict(map(_named, tools)).get(tool, {})


def _checked(message: Message, what: str) -> Message:
    if message.role != "assistant":
        raise DataError(f"a {what} must be what the assistant should have said; its role is {message.role!r}.")
    if not message.content.strip() and not message.tool_calls:
        raise DataError(f"the {what} says nothing: send {_CALL_FORM}.")
    if message.content:
        clean_text(message.content, f"the {what}'s text")
    for call in message.tool_calls:
        _check_name(call.name, what)
        _check_json(call)
    return message


def _check_name(name: object, what: str) -> str:
    return clean_text(name, f"the {what}'s tool's name", longest=200)


def _read_call(value: object, what: str) -> ToolCall:
    if isinstance(value, ToolCall):
        return value
    if not isinstance(value, Mapping):
        raise DataError(f"a {what} must be {_CALL_FORM}, not {type(value).__name__}.")
    if unknown := sorted(str(key) for key in value if key not in ("tool", "args")):
        raise DataError(f"a tool call of the {what} has no key {quoted(unknown[0])}; use 'tool' and 'args'.")
    args = value.get("args", {})
    if not isinstance(args, Mapping):
        raise DataError(f"the args of the {what}'s tool call must be a mapping, not {type(args).__name__}.")
    if stray := [key for key in args if not isinstance(key, str)]:
        raise DataError(f"the argument name {quoted(stray[0])} of the {what}'s tool call must be text.")
    return ToolCall(name=_check_name(value.get("tool"), what), args=dict(args))


def _check_json(call: ToolCall) -> None:
    for name, value in call.args.items():
        what = f"the argument {quoted(name)} of {call.name!r}"
        for leaf in _leaves(value, what):
            if isinstance(leaf, int | float) and not abs(leaf) < LARGEST_NUMBER:
                raise DataError(f"{what} is no number below {LARGEST_NUMBER}; send it as text.")
            if isinstance(leaf, str) and ("\x00" in leaf or not _is_unicode(leaf)):
                raise DataError(f"{what} must be valid Unicode text.")
    size = len(json.dumps(call.args, ensure_ascii=False))
    if size > LONGEST_TEXT:
        raise DataError(
            f"the arguments of {call.name!r} have {size:,} characters; at most {LONGEST_TEXT:,} are allowed."
        )


def _leaves(value: Any, what: str, depth: int = 0) -> Iterator[Any]:
    """Yield keys and plain values; raise DataError for what JSON does not know."""
    if depth > DEEPEST:
        raise DataError(f"{what} is nested deeper than the {DEEPEST} levels allowed; make it flatter.")
    if value is None or isinstance(value, str | int | float):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DataError(f"{what} holds the key {quoted(key)}; keys must be text.")
            yield key
            yield from _leaves(item, what, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, what, depth + 1)
    else:
        raise DataError(f"{what} holds a {type(value).__name__}; send text, numbers, lists and mappings.")


def _named(tool: Schema) -> tuple[str | None, Schema]:
    inner = tool.get("function", tool)
    if not isinstance(inner, Mapping):
        return None, {}
    schema = inner.get("parameters")
    return inner.get("name"), schema if isinstance(schema, Mapping) else {}


def _call_misfit(call: ToolCall, schemas: Mapping[str, Schema]) -> str | None:
    if call.name not in schemas:
        near = difflib.get_close_matches(call.name, schemas, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"There is no tool {quoted(call.name)}; the agent had {', '.join(sorted(schemas))}.{hint}"
    return _args_misfit(call, _closed(schemas[call.name]))


def _closed(schema: Schema) -> Schema:
    # Tool schemas rarely say so, but an argument the tool does not know is a mistake in the call.
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def _args_misfit(call: ToolCall, schema: Schema) -> str | None:
    from jsonschema.exceptions import SchemaError, best_match
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator(json.dumps(schema, sort_keys=True, default=str)).iter_errors(call.args))
    except (SchemaError, Unresolvable, RecursionError):
        return f"The schema of the tool {call.name!r} cannot be read, so the call cannot be checked."
    return _sentence(call.name, schema, error) if error is not None else None


@lru_cache(maxsize=256)
def _validator(schema: str) -> Draft202012Validator:
    """Return the validator of a schema given as JSON; checking the schema costs more than checking a call."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    read = json.loads(schema)
    Draft202012Validator.check_schema(read)
    # An empty registry: a schema that refers to an address must not make this process fetch it.
    return Draft202012Validator(read, registry=Registry())


def _sentence(tool: str, schema: Schema, error: ValidationError) -> str:
    known = ", ".join(sorted(schema.get("properties", {}))) or "none"
    if error.validator == "required" and not error.absolute_path:
        missing = [name for name in schema["required"] if name not in error.instance]  # type: ignore[operator]
        return f"The tool {tool!r} needs the argument {missing[0]!r}."
    if error.validator == "additionalProperties" and not error.absolute_path:
        unknown = sorted(set(error.instance) - set(schema.get("properties", {})))  # type: ignore[arg-type]
        return f"The tool {tool!r} has no argument {quoted(unknown[0])}; its arguments are: {known}."
    where = ".".join(str(part) for part in error.absolute_path)
    return f"The argument {quoted(where)} of {tool!r} cannot be {quoted(error.instance)}: {_allowed(error)}."


def _allowed(error: ValidationError) -> str:
    value: Any = error.validator_value
    if error.validator == "enum":
        return short("allowed are " + ", ".join(repr(item) for item in value), 300)
    if error.validator == "type":
        return "it must be of type " + (" or ".join(value) if isinstance(value, list) else str(value))
    if error.validator == "anyOf":
        return "it must be of type " + " or ".join(str(option.get("type", "another form")) for option in value)
    if error.validator in _BOUNDS:
        return f"it must be {_BOUNDS[str(error.validator)]} {value}"
    return short(f"the schema's {error.validator} is {value!r}", 300)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
