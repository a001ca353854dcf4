"""Equal calls are equal however they are written, and different ones are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.evaluation.evaluators import ToolCallMatch, canonical
from langgraph_learnloop.records import Message, ToolCall
from tests.evaluation.scripted import case

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9, width=16) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def asks(*named: tuple[str, dict[str, Any]], content: str = "") -> Message:
    """Return an assistant message with these tool calls."""
    return Message(
        role="assistant", content=content, tool_calls=tuple(ToolCall(name=name, args=args) for name, args in named)
    )


def says(content: str) -> Message:
    """Return an assistant message in words."""
    return Message(role="assistant", content=content)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ({"city": "Paris"}, {"city": "  paris "}),
        ({"song": "Hey  Jude"}, {"song": "hey jude"}),
        ({"n": 5}, {"n": "5"}),
        ({"n": 5}, {"n": 5.0}),
        ({"n": "2.50"}, {"n": 2.5}),
        ({"n": 0}, {"n": "0"}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1, "b": None}, {"a": 1}),
        ({"deep": {"a": None, "list": ["X", 1]}}, {"deep": {"list": ["x", "1"]}}),
        ({"n": 100}, {"n": "100"}),
    ],
)
def test_the_same_arguments_in_another_writing_are_right(expected: dict[str, Any], got: dict[str, Any]) -> None:
    """Blanks, case, number form, key order and absent optional values make no difference."""
    assert ToolCallMatch().judge(case("q", asks(("f", expected))), asks(("f", got))) == (True, True)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ({"city": "Paris"}, {"city": "Rome"}),
        ({"city": "Paris"}, {}),
        ({}, {"city": "Paris"}),
        ({"zip": "05401"}, {"zip": 5401}),
        ({"on": True}, {"on": 1}),
        ({"on": False}, {"on": 0}),
        ({"list": [1, 2]}, {"list": [2, 1]}),
        ({"a": ""}, {}),
        ({"a": [{"on": True}]}, {"a": [{"on": 1}]}),
    ],
)
def test_other_arguments_are_the_right_tool_only(expected: dict[str, Any], got: dict[str, Any]) -> None:
    """A wrong, missing or added value is not fully right, though the tool is."""
    assert ToolCallMatch().judge(case("q", asks(("f", expected))), asks(("f", got))) == (True, False)


@pytest.mark.parametrize("got", [asks(("g", {})), says("f"), asks(("f", {}), ("f", {})), asks(), asks(("F", {}))])
def test_another_tool_is_wrong(got: Message) -> None:
    """Another tool, words instead, one call too many, silence, or a name in another case: all wrong."""
    assert ToolCallMatch().judge(case("q", asks(("f", {}))), got) == (False, False)


def test_several_calls_are_compared_in_order() -> None:
    """The sequence of tools counts, and each call's arguments with it."""
    expected = case("q", asks(("f", {"a": 1}), ("g", {"b": 2})))
    assert ToolCallMatch().judge(expected, asks(("f", {"a": 1}), ("g", {"b": 2}))) == (True, True)
    assert ToolCallMatch().judge(expected, asks(("f", {"a": 1}), ("g", {"b": 3}))) == (True, False)
    assert ToolCallMatch().judge(expected, asks(("g", {"b": 2}), ("f", {"a": 1}))) == (False, False)


def test_words_beside_a_call_are_not_compared() -> None:
    """A model may say something while it asks for the right tool."""
    expected = case("q", asks(("f", {"a": 1}), content="One moment."))
    assert ToolCallMatch().judge(expected, asks(("f", {"a": 1}), content="Sure!")) == (True, True)


def test_an_expected_text_is_compared_in_plain_form() -> None:
    """An answer in words is right up to blanks and case; asking for a tool instead is wrong."""
    expected = case("q", says("The capital is Canberra."))
    assert ToolCallMatch().judge(expected, says("the capital  is canberra.")) == (True, True)
    assert ToolCallMatch().judge(expected, says("Sydney")) == (True, False)
    assert ToolCallMatch().judge(expected, asks(("f", {}), content="The capital is Canberra.")) == (False, False)


def test_a_case_that_expects_nothing_is_not_judged() -> None:
    """Nothing to compare with is unknown, not wrong."""
    assert ToolCallMatch().judge(case("q", says("  ")), says("hello")) == (None, None)


@given(JSON)
def test_the_canonical_form_is_stable(value: Any) -> None:
    """What is canonical stays as it is, and a value always equals itself."""
    args = {"value": value}
    assert ToolCallMatch().judge(case("q", asks(("f", args))), asks(("f", args))) == (True, True)
    assert canonical(value) == canonical(value)
