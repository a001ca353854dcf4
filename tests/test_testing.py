"""The fakes that ship do what they say."""

from __future__ import annotations

import pytest

from langgraph_learnloop.records import Generation, Message, Release, ToolCall
from langgraph_learnloop.testing import FixedClock, MemoryEngine


def _asked(engine: MemoryEngine, *messages: Message) -> Message:
    release = Release(base_model="memory", made_at=FixedClock()())
    engine.load(release)
    return engine.generate(Generation(release_id=release.release_id, messages=messages)).message


def _user(text: str) -> Message:
    return Message(role="user", content=text)


@pytest.mark.parametrize(
    ("known", "args", "asked", "expected"),
    [
        ("refund order 7 now", {"order": 7}, "refund order 19 now", {"order": 19}),
        ("refund order 7 now", {"order": 7}, "refund order A-19 now", {"order": 7}),
        ("wake me at 7.5", {"at": 7.5, "loud": True}, "wake me at 8.25", {"at": 8.25, "loud": True}),
        ("play Blue by Al", {"who": ["al"], "x": {"y": "Blue"}}, "play Up by Bo", {"who": ["Bo"], "x": {"y": "Up"}}),
        ("sum of Ann Lee", {"sql": "select 'Ann Lee', 'Annie'"}, "sum of Bo Li", {"sql": "select 'Bo Li', 'Annie'"}),
    ],
)  # fmt: skip
def test_what_differs_between_two_requests_differs_in_the_call(
    known: str, args: dict[str, object], asked: str, expected: dict[str, object]
) -> None:
    """Words and numbers of the known request are replaced by those of the new one, wherever they stand in the call."""
    call = Message(role="assistant", tool_calls=(ToolCall(name="do", args=args),))
    assert _asked(MemoryEngine({known: call}, alike=0.1), _user(asked)).tool_calls[0].args == expected


def test_results_of_tools_are_repeated_in_their_order() -> None:
    """What tools answered in a row becomes the answer."""
    results = (
        Message(role="tool", content="one", tool_call_id="1"),
        Message(role="tool", content="two", tool_call_id="2"),
    )
    assert _asked(MemoryEngine(), _user("both?"), Message(role="assistant"), *results).content == "one\ntwo"
