"""What a model wrote is taken apart, and nothing it writes can raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.serving.toolcalls import Answer, parse_answer


def parse(text: str) -> Answer:
    return parse_answer(text, new_id=lambda: "call_0")


def test_plain_text_is_content():
    """Text without marks comes back as content, blanks around it gone."""
    assert parse("  It rains. \n") == ("It rains.", None, ())


def test_one_call():
    """A call is read with its name and arguments, and leaves no content behind."""
    content, _, (call,) = parse(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
    )
    assert (content, call.name, call.args, call.id) == ("", "weather", {"city": "Oslo", "days": 2}, "call_0")


def test_several_calls_keep_their_order_and_the_text_around_them():
    """Two calls are two calls, in order, and the words before them stay."""
    answer = parse('Let me see. <tool_call>{"name": "a"}</tool_call> <tool_call>{"name": "b"}</tool_call>')
    assert (answer.content, [call.name for call in answer.tool_calls]) == ("Let me see.", ["a", "b"])


def test_ids_are_unlike():
    """Two calls of one answer get two ids."""
    answer = parse_answer('<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "a"}</tool_call>')
    assert len({call.id for call in answer.tool_calls}) == 2


def test_blanks_around_strings_are_stripped_at_any_depth():
    """A small model's " Oslo" becomes "Oslo", in lists and objects too; inner blanks stay."""
    (call,) = parse(
        '<tool_call>{"name": " find", "arguments": {"q": " new  york ", "l": [" a", [" b "]], "o": {" k ": " v"}}}'
    ).tool_calls
    assert (call.name, call.args) == ("find", {"q": "new  york", "l": ["a", ["b"]], "o": {"k": "v"}})


def test_arguments_may_be_a_json_string():
    """Arguments written as a JSON string, as OpenAI does, are parsed."""
    (call,) = parse('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>').tool_calls
    assert call.args == {"x": 1}


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "3",
        '"x"',
        '{"name": 3}',
        '{"name": " "}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{"}',
        "",
    ],
)
def test_an_unusable_call_stays_in_the_content(body: str):
    """What cannot be run is shown as it was written, so that nobody loses it."""
    text = f"<tool_call>{body}</tool_call>"
    assert parse(text) == (text, None, ())


def test_a_call_that_was_not_closed_counts_when_it_is_whole():
    """An end token in place of the closing mark does not spoil a whole call."""
    assert parse('<tool_call>{"name": "f"}').tool_calls[0].name == "f"


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>hm</think>Yes.", "hm", "Yes."),
        ("hm</think>Yes.", "hm", "Yes."),
        ("<think>cut off", "cut off", ""),
        ("<think>\n</think>Yes.", None, "Yes."),
    ],
)
def test_reasoning_is_split_off(text: str, reasoning: str | None, content: str):
    """The chain of thought is apart, also when the prompt opened it or the length cut it off."""
    assert parse(text) == (content, reasoning, ())


def test_marks_inside_an_argument_are_text():
    """Who searches for "</tool_call>" or "<think>" gets just that."""
    text = '<tool_call>{"name": "find", "arguments": {"q": "</think> <think> </tool_call>"}}</tool_call>'
    assert parse(text).tool_calls[0].args == {"q": "</think> <think> </tool_call>"}


def test_a_call_inside_the_chain_of_thought_is_not_made():
    """What a model only thinks of calling is not called."""
    assert parse('<think><tool_call>{"name": "f"}</tool_call></think>No.').tool_calls == ()


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "f"}', *'{}[]":, f1']))
)
def test_nothing_raises_and_nothing_is_lost(parts: list[str]):
    """Any text gives an answer, and every call that was not made is still to be seen."""
    text = "".join(parts)
    answer = parse(text)
    assert text.count("{") == sum(part.count("{") for part in (answer.content, answer.reasoning or "")) + len(
        answer.tool_calls
    )


@given(st.dictionaries(st.text(min_size=1).filter(lambda k: k == k.strip()), st.integers() | st.booleans() | st.none()))
def test_arguments_survive(args: dict[str, object]):
    """Arguments come back as they were written, whatever marks they hold."""
    (call,) = parse(f"<tool_call>{json.dumps({'name': 'f', 'arguments': args})}</tool_call>").tool_calls
    assert call.args == args
