"""Interning, and reading text and reasoning out of messages."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from zstandard import ZstdDecompressor

from langgraph_learnloop.capture.interning import Interner
from langgraph_learnloop.capture.messages import as_messages, encode, plain, reasoning_of, text_of
from langgraph_learnloop.store.runs import decode_message, loads


@pytest.mark.parametrize(
    ("message", "reasoning", "text"),
    [
        (AIMessage("x"), None, "x"),
        (AIMessage("x", additional_kwargs={"reasoning_content": "r"}), "r", "x"),
        (
            AIMessage("x", additional_kwargs={"reasoning": {"summary": [{"type": "summary_text", "text": "s"}]}}),
            "s",
            "x",
        ),
        (AIMessage([{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"}]), "t", "x"),
        (
            AIMessage(
                [{"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"}],
                response_metadata={"model_provider": "anthropic"},
            ),
            "t",
            "x",
        ),
        (AIMessage([{"type": "reasoning", "reasoning": "r"}, {"type": "text", "text": "x"}]), "r", "x"),
        (
            AIMessage(
                [
                    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "sum"}]},
                    {"type": "text", "text": "x"},
                ],
                response_metadata={"model_provider": "openai"},
            ),
            "sum",
            "x",
        ),
        (AIMessage([{"type": "non_standard", "value": {"type": "thinking", "thinking": "t"}}, "x"]), "t", "x"),
        (AIMessage("<think>abc</think>x"), "abc", "x"),
        (AIMessage("<think>one</think>x<think>two</think>"), "one\ntwo", "x"),
        (AIMessage("<think>cut off"), "cut off", ""),
        (AIMessage("<think></think>x"), None, "x"),
    ],
)
def test_reasoning_is_found_in_every_form(message: AIMessage, reasoning: str | None, text: str) -> None:
    """However a provider sends its chain of thought, it is kept, and is no part of the text."""
    assert reasoning_of(message) == reasoning
    assert text_of(message) == text


class _Odd:
    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("plain", "plain"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ([{"type": "text", "text": "x", "weight": 2**70, "odd": _Odd(), "raw": b"\x00\xff"}], "x"),
    ],
)
def test_whatever_a_message_holds_its_text_is_kept(content: Any, read: str) -> None:
    """Surrogates, huge numbers, bytes and foreign objects do not lose the message."""
    interner = Interner()
    key = interner.message(ToolMessage(content, tool_call_id="c", artifact=_Odd()))
    body = ZstdDecompressor().decompress(interner.take()[0].bodies[key])
    assert decode_message(body).content == read


def test_endless_nesting_ends() -> None:
    """A value that holds itself is cut, not followed for ever."""
    value: dict[str, Any] = {"name": "loop"}
    value["self"] = value
    assert loads(encode(value))["self"]["name"] == "loop"


def test_arguments_become_what_json_would_give_back() -> None:
    """Tuples, sets and keys that are not text take the form they have after storing."""
    assert plain({1: (1, 2), "s": {2}}) == {"1": [1, 2], "s": [2]}


@pytest.mark.parametrize("value", [None, 3, "text", {}, {"messages": "text"}, {"messages": [object()]}, [1, 2]])
def test_what_holds_no_messages_gives_none(value: Any) -> None:
    """Outputs of any shape are looked into without an error."""
    assert as_messages(value) == ()
