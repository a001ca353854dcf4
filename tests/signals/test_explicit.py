"""Feedback that somebody gives on purpose is checked at the door."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Feedback, Message, Run, Step, ToolCall
from langgraph_learnloop.signals.explicit import make_feedback

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEP = Step(step_id="s1", parent_id=None, kind="model", name="m", started_at=NOW)
RUN = Run(run_id="r1", agent="a", outcome="finished", started_at=NOW, steps=(STEP,))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "book",
            "parameters": {
                "type": "object",
                "properties": {
                    "people": {"type": "integer", "minimum": 1},
                    "day": {"enum": ["mon", "tue"]},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "where": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                },
                "required": ["people"],
            },
        },
    }
]


def make(**given: Any) -> Feedback:
    """Make feedback on the run with the tools above."""
    return make_feedback(RUN, **{"tools": TOOLS, "now": NOW, "new_id": lambda: "f1", **given})


@pytest.mark.parametrize("score", [-1, 0, 0.5, 1])
def test_a_score_within_range_is_kept(score: float) -> None:
    """A score from -1 to 1 is stored as it was given, with its time and a made id."""
    said = make(score=score)
    assert (said.score, said.at, said.feedback_id, said.origin) == (score, NOW, "f1", "explicit")


@pytest.mark.parametrize("score", [1.01, -2, float("nan"), float("inf"), True, "1", [1], 10**400])
def test_a_score_out_of_range_is_refused(score: Any) -> None:
    """A score that is no number from -1 to 1 is a DataError that names run and range."""
    with pytest.raises(DataError, match=r"run 'r1'.*score.*from -1 \(bad\) to 1 \(good\)"):
        make(score=score)


def test_no_score_is_not_zero() -> None:
    """Feedback without a score has None, not 0."""
    assert make(text="hm").score is None


def test_feedback_that_says_nothing_is_refused() -> None:
    """Without score, text, category or correction there is no feedback."""
    with pytest.raises(DataError, match="must hold a score"):
        make()


def test_an_id_of_the_callers_own_is_kept() -> None:
    """The caller's feedback_id makes sending the same thing twice one feedback."""
    assert make(score=1, feedback_id="mine").feedback_id == "mine"


def test_made_ids_differ() -> None:
    """Without an id of the caller's, two feedbacks with the same content have different ids."""
    assert make_feedback(RUN, score=1).feedback_id != make_feedback(RUN, score=1).feedback_id


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        ("Canberra", Message(role="assistant", content="Canberra")),
        ({"tool": "book", "args": {"people": 2}}, ToolCall(name="book", args={"people": 2})),
        ([{"tool": "book", "args": {"people": 2}}], ToolCall(name="book", args={"people": 2})),
        (ToolCall(name="book", args={"people": 2}), ToolCall(name="book", args={"people": 2})),
        (Message(role="assistant", content="Hi"), Message(role="assistant", content="Hi")),
        (
            {"tool": "book", "args": {"people": 2, "note": None}},
            ToolCall(name="book", args={"people": 2, "note": None}),
        ),
    ],
)
def test_each_form_of_a_correction_becomes_a_message(correction: Any, expected: Message | ToolCall) -> None:
    """A text, a call as dict or record, a list of calls and a message are all read as the assistant's message."""
    wanted = expected if isinstance(expected, Message) else Message(role="assistant", tool_calls=(expected,))
    assert make(correction=correction).correction == wanted


@pytest.mark.parametrize(
    ("correction", "sentence"),
    [
        ({"tool": "bok", "args": {}}, r"no tool 'bok'; the agent had book\. Did you mean 'book'\?"),
        ({"tool": "book", "args": {}}, "'book' needs the argument 'people'"),
        ({"tool": "book"}, "'book' needs the argument 'people'"),
        ({"tool": "book", "args": {"people": "two"}}, "'people' of 'book' cannot be 'two': it must be of type integer"),
        ({"tool": "book", "args": {"people": 0}}, "cannot be 0: it must be at least 1"),
        ({"tool": "book", "args": {"people": 1, "day": "fri"}}, "cannot be 'fri': allowed are 'mon', 'tue'"),
        ({"tool": "book", "args": {"people": 1, "note": 5}}, "it must be of type string or null"),
        ({"tool": "book", "args": {"people": 1, "zz": 5}}, "no argument 'zz'; its arguments are: day, note, people"),
        ({"tool": "book", "args": {"people": 1, "where": {}}}, r"'where' of 'book' cannot be \{\}"),
        ({"name": "book"}, "no key 'name'; use 'tool' and 'args'"),
        ({"tool": "book", "args": [1]}, "must be a mapping, not list"),
        ({"tool": None}, "tool's name must be text"),
        ({"tool": "book", "args": {"people": 1, "note": float("nan")}}, "no number below"),
        ({"tool": "book", "args": {"people": 10**400}}, "no number below"),
        ({"tool": "book", "args": {"note": {1, 2}}}, "holds a set"),
        ({"tool": "book", "args": {"note": "\ud800"}}, "must be valid Unicode"),
        ({"tool": "book", "args": {5: 1}}, "argument name 5"),
        ({"tool": "book", "args": {"note": "x" * 30_000}}, "20,000 are allowed"),
        ([], "says nothing"),
        ([{"tool": "book", "args": {"people": 1}}] * 17, "17 tool calls; at most 16"),
        ([5], "not int"),
        ("", "is empty"),
        ("x" * 20_001, "20,001 characters"),
        (b"bytes", "not bytes"),
        (Message(role="user", content="hi"), "its role is 'user'"),
        (Message(role="assistant"), "says nothing"),
    ],
)
def test_a_correction_that_does_not_fit_is_refused(correction: Any, sentence: str) -> None:
    """What cannot be learned is a DataError that names the run and says what is allowed."""
    with pytest.raises(DataError, match=sentence) as error:
        make(correction=correction)
    assert str(error.value).startswith("The feedback on run 'r1' was refused: ")


def test_deep_nesting_is_refused() -> None:
    """An argument nested beyond any use is refused before anything recurses into it."""
    value: Any = "x"
    for _ in range(5_000):
        value = [value]
    with pytest.raises(DataError, match="nested deeper"):
        make(correction={"tool": "book", "args": {"people": 1, "note": value}})


def test_without_known_tools_no_call_is_refused() -> None:
    """When the run's tools were not recorded, nothing is held against a call."""
    assert make(correction={"tool": "any", "args": {"x": 1}}, tools=()).correction is not None


def test_a_schema_that_points_outside_is_not_fetched() -> None:
    """A schema that refers to an address makes a sentence, not a request (the tests have no network)."""
    tools = [
        {"type": "function", "function": {"name": "t", "parameters": {"properties": {"a": {"$ref": "http://x.y/z"}}}}}
    ]
    with pytest.raises(DataError, match="schema of the tool 't' cannot be read"):
        make(correction={"tool": "t", "args": {"a": 1}}, tools=tools)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"step_id": "nope"}, "no model call of it; its model calls are: s1"),
        ({"text": ""}, "the text is empty"),
        ({"text": 5}, "must be text, not int"),
        ({"text": "a\x00b"}, "NUL"),
        ({"text": "x" * 20_001}, "at most 20,000"),
        ({"categories": "wrong"}, "must be a list"),
        ({"categories": ["x" * 201]}, "a category has 201 characters"),
        ({"categories": ["x"] * 33}, "33 categories"),
        ({"by": ""}, r"rater \(by\) is empty"),
        ({"feedback_id": " "}, "feedback_id is empty"),
    ],
)
def test_every_other_field_is_checked(given: dict[str, Any], sentence: str) -> None:
    """Each field that cannot be stored is named, with what is allowed."""
    with pytest.raises(DataError, match=sentence):
        make(**{"score": 1, **given})


def test_a_step_of_the_run_is_kept() -> None:
    """Feedback may be about one model call of the run."""
    assert make(score=-1, step_id="s1").step_id == "s1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(correction=JSON | st.fixed_dictionaries({"tool": st.just("book") | JSON, "args": JSON}), text=JSON, score=JSON)
def test_any_input_is_stored_or_refused(correction: Any, text: Any, score: Any) -> None:
    """Whatever is sent, the outcome is a storable record or a DataError, never another exception."""
    try:
        said = make(correction=correction, text=text, score=score)
    except DataError:
        return
    assert Feedback.model_validate(json.loads(said.model_dump_json())) == said
