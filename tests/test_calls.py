"""What is let in as a correction, to the last digit, and what a call is held against."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_learnloop.calls import clean_text, leaves, misfit, names, parameters, read_message
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Message, ToolCall


def tool(name: str = "book", **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **schema}}}


def asked(**args: Any) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="book", args=args),))


def nested(depth: int, value: Any = 1) -> Any:
    for number in range(depth):
        value = [value] if number % 2 else {"k": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 20_000,
        [{"tool": "f"}] * 16,
        ({"tool": "f"},),
        {"tool": "f" * 200},
        {"tool": "f", "args": {"x": 0.999e300, "y": -0.999e300, "z": True, "n": None}},
        {"tool": "f", "args": {"x": nested(16)}},
        {"tool": "f", "args": {"x": "y" * (20_000 - len('{"x": ""}'))}},
        {"tool": "f", "args": {"x": {"k": (1, "two")}}},
        Message(role="assistant", content="", tool_calls=(ToolCall(name="f"),)),
    ],
)
def test_what_is_just_within_bounds_is_read(value: Any) -> None:
    """A correction as long, as wide, as large and as deep as is allowed."""
    read = read_message(value)
    assert read.role == "assistant"
    assert read.content or read.tool_calls


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x" * 20_001, "text has 20,001 characters; at most 20,000 are allowed."),
        ([{"tool": "f"}] * 17, "holds 17 tool calls; at most 16 are allowed."),
        ({"tool": "f" * 201}, "tool's name has 201 characters; at most 200 are allowed."),
        ({"tool": "f", "args": {"x": 1e300}}, "the argument 'x' of 'f' is no number below 1e+300"),
        ({"tool": "f", "args": {"x": [{"y": -1e300}]}}, "the argument 'x' of 'f' is no number below 1e+300"),
        ({"tool": "f", "args": {"x": nested(17)}}, "the argument 'x' of 'f' is nested deeper than the 16 levels"),
        ({"tool": "f", "args": {"x": "y" * (20_001 - len('{"x": ""}'))}}, "have 20,001 characters"),
        ({"tool": "f", "args": {"x": {5: 1}}}, "the argument 'x' of 'f' holds the key 5; keys must be text."),
        ({"tool": "f", "args": {"x": {"\x00": 1}}}, "the argument 'x' of 'f' must be valid Unicode text."),
        ({"tool": "f", "args": {"x": "\x00"}}, "must be valid Unicode text."),
        ({"tool": "f", "args": {"x": b"1"}}, "the argument 'x' of 'f' holds a bytes;"),
        ({"tool": "f", "args": {5: 1}}, "the argument name 5 of the correction's tool call must be text."),
        ({"tool": "f", "args": {"": 1, 0: 1}}, "the argument name 0 of the correction's tool call must be text."),
        ({"tool": "f", "zz": 1, "aa": 2}, "has no key 'aa'; use 'tool' and 'args'."),
        ({"tool": "f", "args": [1]}, "must be a mapping, not list."),
        ({"tool": "f", 3: 1}, "has no key '3'"),
        (asked().model_copy(update={"tool_calls": (ToolCall(name=" "),)}), "tool's name is empty"),
        (Message(role="assistant", content=" \n"), "the correction says nothing"),
        (Message(role="assistant", content="\x00"), "holds a NUL or half a character"),
        (Message(role="tool", content="x", tool_call_id="c"), "its role is 'tool'."),
        (5, "not int."),
        (b"x", "not bytes."),
        (bytearray(b"x"), "not bytearray."),
        (None, "not NoneType."),
    ],
)
def test_what_is_just_beyond_is_refused(value: Any, said: str) -> None:
    """The sentence says which part of it, and what is allowed."""
    with pytest.raises(DataError) as error:
        read_message(value)
    assert said in str(error.value)


def test_the_sentence_names_it_as_the_caller_does() -> None:
    """A correction is a correction, and an answer an answer, in every sentence."""
    values: list[Any] = [5, " ", [5], [{"tool": "f"}] * 17, {"tool": None}, {"tool": "f", "args": 1}, {"x": 1}, []]
    for value in [*values, Message(role="user", content="x"), Message(role="assistant")]:
        with pytest.raises(DataError, match="example answer"):
            read_message(value, "example answer")


@pytest.mark.parametrize("text", [None, 5, "", "  ", "a\x00", "\ud800", "abcd"])
def test_a_text_that_cannot_be_stored_is_refused(text: Any) -> None:
    """No text, an empty one, one that is no Unicode, and one that is too long."""
    with pytest.raises(DataError, match="the note"):
        clean_text(text, "the note", longest=3)
    assert clean_text(" a ", "the note", longest=3) == " a "


BOOK = tool(
    properties={
        "people": {"type": "integer", "minimum": 1, "maximum": 8},
        "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "day": {"enum": ["mon", "tue"]},
        "where": {"type": "object", "properties": {"city": {"type": ["string", "null"]}, "rooms": {"type": "array"}}},
        "note": {"anyOf": [{"type": "string"}, {"const": 3}]},
        "code": {"type": "string", "pattern": "^A"},
    },
    required=["people", "day"],
)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"people": 1, "day": "mon"}, None),
        ({"people": 8, "day": "tue", "share": 0.5, "where": {"city": None}, "note": "n", "code": "A"}, None),
        ({"day": "mon"}, "The tool 'book' needs the argument 'people'."),
        ({"people": 1}, "The tool 'book' needs the argument 'day'."),
        (
            {"people": 1, "day": "mon", "b": 1, "a": 1},
            "The tool 'book' has no argument 'a'; its arguments are: code, day, note, people, share, where.",
        ),
        ({"people": 0, "day": "mon"}, "The argument 'people' of 'book' cannot be 0: it must be at least 1."),
        ({"people": 9, "day": "mon"}, "The argument 'people' of 'book' cannot be 9: it must be at most 8."),
        ({"people": 1, "day": "mon", "share": 0}, "The argument 'share' of 'book' cannot be 0: it must be over 0."),
        ({"people": 1, "day": "mon", "share": 1}, "The argument 'share' of 'book' cannot be 1: it must be under 1."),
        ({"people": 1, "day": "fri"}, "The argument 'day' of 'book' cannot be 'fri': allowed are 'mon', 'tue'."),
        (
            {"people": 1, "day": "mon", "where": {"city": 5}},
            "The argument 'where.city' of 'book' cannot be 5: it must be of type string or null.",
        ),
        (
            {"people": 1, "day": "mon", "where": {"rooms": 5}},
            "The argument 'where.rooms' of 'book' cannot be 5: it must be of type array.",
        ),
        (
            {"people": 1, "day": "mon", "note": 5},
            "The argument 'note' of 'book' cannot be 5: it must be of type string or another form.",
        ),
        (
            {"people": 1, "day": "mon", "code": "B"},
            "The argument 'code' of 'book' cannot be 'B': the schema's pattern is '^A'.",
        ),
    ],
)
def test_why_a_call_does_not_fit(args: dict[str, Any], said: str | None) -> None:
    """The first thing that is wrong, with the value and what is allowed."""
    assert misfit(asked(**args), [BOOK]) == said


def test_a_tool_that_is_not_there() -> None:
    """The tools that there are, in order, and the one that was probably meant."""
    tools = [tool("weather"), {"name": "book", "parameters": {}}, {"function": 3}]
    call = Message(role="assistant", tool_calls=(ToolCall(name="wether"),))
    assert misfit(call, tools) == "There is no tool 'wether'; the agent had book, weather. Did you mean 'weather'?"
    far = Message(role="assistant", tool_calls=(ToolCall(name="xyz"),))
    assert misfit(far, tools) == "There is no tool 'xyz'; the agent had book, weather."
    assert misfit(far, []) is None
    both = Message(role="assistant", tool_calls=(ToolCall(name="book"), ToolCall(name="xyz")))
    assert misfit(both, tools) == "There is no tool 'xyz'; the agent had book, weather."
    assert misfit(Message(role="assistant", content="hi"), tools) is None


def test_arguments_that_the_schema_lets_in() -> None:
    """A schema that lists its arguments is closed, unless it says otherwise; one that lists none lets all in."""
    assert misfit(asked(x=1), [tool()]) is None
    assert misfit(asked(x=1), [tool(properties={})]) == "The tool 'book' has no argument 'x'; its arguments are: none."
    assert misfit(asked(x=1), [tool(properties={}, additionalProperties=True)]) is None


@pytest.mark.parametrize(
    "schema", [{"properties": {"x": {"type": "nonsense"}}}, {"properties": {"x": {"$ref": "http://127.0.0.1:9/s"}}}]
)
def test_a_schema_that_cannot_be_read_is_said(schema: dict[str, Any]) -> None:
    """Nothing is fetched, and nothing raises."""
    said = "The schema of the tool 'book' cannot be read, so the call cannot be checked."
    assert misfit(asked(x=1), [tool(**schema)]) == said


def test_the_parameters_of_a_tool() -> None:
    """The schema of the named tool; empty for one that is not known or says none."""
    assert parameters("book", [tool("f"), BOOK]) == BOOK["function"]["parameters"]
    assert parameters("book", [{"name": "book", "parameters": {"type": "object"}}]) == {"type": "object"}
    assert parameters("book", [{"name": "book", "parameters": 5}]) == parameters("book", []) == {}
    assert parameters("book", [{"function": 5}]) == {}


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        ([tool("book"), tool("cancel")], {"book", "cancel"}),
        ([{"name": "book", "input_schema": {}}], {"book"}),
        ([tool("book"), {"type": "file_search"}], None),  # the provider knows what that one is called
        ([tool("book"), {"function": "book"}], None),
        ([{"name": ["book"]}], None),
        ([], None),
    ],
)
def test_the_names_of_tools(tools: list[dict[str, Any]], found: set[str] | None) -> None:
    """They are known where each tool has one, in OpenAI's form or Anthropic's."""
    assert names(tools) == found


def test_the_values_in_an_argument() -> None:
    """Texts and numbers at any depth, in order; True, False and None are no values to look for."""
    assert [*leaves({"a": [1, "two", True, None], "b": {"c": (3.5,)}})] == [1, "two", 3.5]
