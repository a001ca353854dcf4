"""Messages in other people's forms become ours, and a case is known by what it asks and what is right."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langgraph_learnloop.cases import each_once, make_case
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.messages import DEEPEST, check, conversation, from_langchain, from_openai, loads, question
from langgraph_learnloop.records import Message, ToolCall

HI = Message(role="user", content="Hi")
HELLO = Message(role="assistant", content="Hello!")
FIND = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}, id="c1"),))


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (SystemMessage("Be kind."), Message(role="system", content="Be kind.")),
        (HumanMessage("Hi", name="ann"), Message(role="user", content="Hi", name="ann")),
        (HumanMessageChunk(content="Hi"), HI),
        (AIMessageChunk(content="Hello!"), HELLO),
        (AIMessage("", tool_calls=[{"name": "find_order", "args": {"order": 5}, "id": "c1"}]), FIND),
        (
            ToolMessage("sent", tool_call_id="c1", name="find_order"),
            Message(role="tool", content="sent", tool_call_id="c1", name="find_order"),
        ),
        (
            HumanMessage([{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
            HI,
        ),
    ],
)
def test_langchains_messages_are_read(given: BaseMessage, read: Message) -> None:
    """Whole ones and chunks, with names and calls; what is no text is left out."""
    assert from_langchain(given) == read


def test_arguments_that_are_no_json_are_kept() -> None:
    """Who asked for a tool in a way that cannot be read has asked for it."""
    broken: list[Any] = [{"name": "find_order", "args": "{", "id": "c1", "error": None, "type": "invalid_tool_call"}]
    (call,) = from_langchain(AIMessage("", invalid_tool_calls=broken)).tool_calls
    assert call == ToolCall(name="find_order", args={"unreadable": "{"}, id="c1")


@pytest.mark.parametrize("given", [RemoveMessage(id="m1"), FunctionMessage(name="f", content="x")])
def test_other_types_of_messages_are_refused(given: BaseMessage) -> None:
    """The sentence names the type."""
    with pytest.raises(DataError, match=f"of the type '{given.type}' cannot be read: send"):
        from_langchain(given)


def test_a_conversation_is_read_with_its_places() -> None:
    """Each message in order; a wrong one is named by its number."""
    assert conversation([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}], "input") == (
        HI,
        HELLO,
    )
    with pytest.raises(DataError, match=r"'input\[1\]' is a str; it must be an object with role, content"):
        conversation([{"role": "user", "content": "Hi"}, "Hello!"], "input")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"role": "developer", "content": "Be kind.", "refusal": None}, Message(role="system", content="Be kind.")),
        ({"role": "user", "content": [{"type": "text", "text": "H"}, "i"], "annotations": []}, HI),
        (
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"order": 5}'}}
                ],
            },
            FIND,
        ),
        ({"role": "assistant", "tool_calls": [{"name": "find_order", "args": {"order": 5}, "id": "c1"}]}, FIND),
    ],
)
def test_openais_messages_are_read(given: dict[str, Any], read: Message) -> None:
    """In either form, with what their clients write out though it is not there."""
    assert from_openai(given, "in") == read


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"role": "user", "audio": {"id": "a1"}}, r"'in' has no key 'audio'; use role, content"),
        ({"role": "user", "content": 5}, r"'in\.content' is a int; it must be text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, r"'in\.content' holds a block that is not text"),
        ({"role": "user", "name": "n" * 201}, r"'in\.name' is too long"),
        ({"role": "robot", "content": "Hi"}, r"'in\.role' cannot be used"),
        ({"role": "user", "tool_calls": [{"name": "f"}]}, r"its role is 'user': only an assistant's may"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, r"'in\.tool_calls' is a dict; it must be a list"),
        ({"role": "assistant", "tool_calls": ["f"]}, r"'in\.tool_calls\[0\]' is no tool call; write"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "id": 5}]}, r"tool_calls\[0\]\.id' must be text"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "args": "{"}]}, r"\[0\]\.args' is not JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "args": '{"a": 1, "a": 2}'}]}, r"args' is not JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "args": [5]}]}, r"args' is a list; it must be an object"),
    ],
)
def test_what_is_no_message_is_named(given: dict[str, Any], reason: str) -> None:
    """The sentence says where it stands, and what may be there."""
    with pytest.raises(DataError, match=reason):
        from_openai(given, "in")


def test_a_conversation_is_a_list() -> None:
    """An empty one is none."""
    for value in ([], "Hi", {}):
        with pytest.raises(DataError, match="'input' must be a list of messages"):
            conversation(value, "input")


def test_stored_integers_of_any_size_come_back() -> None:
    """Other readers make floats of those beyond 64 bits."""
    assert loads(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}
    assert loads(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


def test_what_is_nested_too_deep_is_refused() -> None:
    """Who reads it later need not."""
    value: Any = 1
    for _ in range(DEEPEST + 1):
        value = [value]
    with pytest.raises(DataError, match="make it flatter"):
        check(value, "in")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": [1, float("nan")]}, r"'in\.a\[1\]' is no number below"),
        ({"a": {"b\x00": 1}}, r"'in\.a, a key' holds a NUL"),
        ({"a": "\ud800"}, r"'in\.a' holds a NUL or half a character"),
    ],
)
def test_what_would_be_lost_is_named(value: Any, reason: str) -> None:
    """The sentence says where it stands."""
    with pytest.raises(DataError, match=reason):
        check(value, "in")


@pytest.mark.parametrize(("expected", "category"), [(FIND, "find_order"), (HELLO, "answer"), (None, "safety")])
def test_a_case_has_a_category(expected: Message | None, category: str) -> None:
    """The right tool, an answer, or the suite where nothing is expected; what is named counts more."""
    assert make_case("safety", [HI], expected).category == category
    assert make_case("safety", [HI], expected, category="refunds").category == "refunds"


def test_a_case_is_known_by_what_is_asked_and_what_is_right() -> None:
    """Neither the suite, the category, the run nor the reference is part of its id."""
    one = make_case("target", [HI], HELLO)
    assert make_case("retention", [HI], HELLO, category="x", run_id="r", reference=[HELLO]).case_id == one.case_id
    assert len({one.case_id, make_case("target", [HI], FIND).case_id, make_case("target", [HELLO], HELLO).case_id}) == 3


def test_a_case_is_there_once_in_its_suite() -> None:
    """The first of the same stays, in its place."""
    first, other = make_case("target", [HI], HELLO, run_id="r1"), make_case("target", [HI], FIND)
    elsewhere = make_case("retention", [HI], HELLO)
    again = first.model_copy(update={"run_id": "r2"})
    assert each_once([first, other, again, elsewhere]) == (first, other, elsewhere)


def test_the_question_is_what_the_user_said_last() -> None:
    """Where nobody asked, it is empty."""
    later = Message(role="user", content="And now?")
    assert question([HI, HELLO, later, HELLO]) == "And now?"
    assert question([HELLO]) == ""
