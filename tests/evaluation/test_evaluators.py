"""Equal calls are equal however they are written, and different ones are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.evaluators import (
    DEEPEST,
    LONGEST_JSON,
    All,
    ExactMatch,
    JsonMatch,
    ToolCallMatch,
    canonical,
    read_json,
    same,
)
from langgraph_learnloop.records import Case, Judged, Message, Score, ToolCall
from langgraph_learnloop.testing import FixedJudge
from tests.evaluation.scripted import case

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9, width=16) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def judged(of: Case, got: Message) -> tuple[Score, Score]:
    """Return (right tool, fully right) of the shipped evaluator."""
    scores = ToolCallMatch().judge(of, [got]).scores
    return scores["right_tool"], scores["fully_right"]


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
    assert judged(case("q", asks(("f", expected))), asks(("f", got))) == (True, True)


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
    assert judged(case("q", asks(("f", expected))), asks(("f", got))) == (True, False)


@pytest.mark.parametrize("got", [asks(("g", {})), says("f"), asks(("f", {}), ("f", {})), asks(), asks(("F", {}))])
def test_another_tool_is_wrong(got: Message) -> None:
    """Another tool, words instead, one call too many, silence, or a name in another case: all wrong."""
    assert judged(case("q", asks(("f", {}))), got) == (False, False)


def test_several_calls_are_compared_in_order() -> None:
    """The sequence of tools counts, and each call's arguments with it."""
    expected = case("q", asks(("f", {"a": 1}), ("g", {"b": 2})))
    assert judged(expected, asks(("f", {"a": 1}), ("g", {"b": 2}))) == (True, True)
    assert judged(expected, asks(("f", {"a": 1}), ("g", {"b": 3}))) == (True, False)
    assert judged(expected, asks(("g", {"b": 2}), ("f", {"a": 1}))) == (False, False)


def test_words_beside_a_call_are_not_compared() -> None:
    """A model may say something while it asks for the right tool."""
    expected = case("q", asks(("f", {"a": 1}), content="One moment."))
    assert judged(expected, asks(("f", {"a": 1}), content="Sure!")) == (True, True)


def test_an_expected_text_is_compared_in_plain_form() -> None:
    """An answer in words is right up to blanks and case; asking for a tool instead is wrong."""
    expected = case("q", says("The capital is Canberra."))
    assert judged(expected, says("the capital  is canberra.")) == (True, True)
    assert judged(expected, says("Sydney")) == (True, False)
    assert judged(expected, asks(("f", {}), content="The capital is Canberra.")) == (False, False)


def test_a_case_that_expects_nothing_is_not_judged() -> None:
    """Nothing to compare with is unknown, not wrong."""
    assert judged(case("q", says("  ")), says("hello")) == (None, None)


@given(JSON)
def test_the_canonical_form_is_stable(value: Any) -> None:
    """What is canonical stays as it is, and a value always equals itself."""
    args = {"value": value}
    assert judged(case("q", asks(("f", args))), asks(("f", args))) == (True, True)
    assert canonical(value) == canonical(value)


def restyled(value: Any, draw: Any) -> Any:
    """Return a JSON value written otherwise: keys in another order, None beside them, numbers in another form."""
    if isinstance(value, dict):
        items = draw(st.permutations([(key, restyled(item, draw)) for key, item in value.items()]))
        return dict(items) if draw(st.booleans()) or "nothing" in value else {"nothing": None, **dict(items)}
    if isinstance(value, list):
        return [restyled(item, draw) for item in value]
    if isinstance(value, str):
        return draw(st.sampled_from(["", " ", "\n\t"])) + value + draw(st.sampled_from(["", "  "]))
    if isinstance(value, int) and not isinstance(value, bool):
        return draw(st.sampled_from([value, float(value), str(value), f"{value}.00"]))
    return value


@given(JSON, st.data())
def test_how_a_value_is_written_makes_no_difference(value: Any, data: st.DataObject) -> None:
    """The order of keys, keys of None, blanks around texts and the form of numbers are nothing to compare."""
    other = restyled(value, data.draw)
    assert same(value, value)
    assert same(value, other)
    assert same(other, value)


@given(JSON, JSON)
def test_equality_has_no_sides(one: Any, other: Any) -> None:
    """Whoever is expected and whoever answered; and a value is not the list of it, nor what a key holds."""
    assert same(one, other) == same(other, one)
    assert not same(one, [one])
    assert not same(one, {"key": one}) or one == {}


@given(st.integers(), st.integers())
def test_numbers_of_any_length_are_told_apart(one: int, other: int) -> None:
    """Two long ids are equal only where all their digits are."""
    assert same(one, other) == (one == other)
    assert same(str(one), other) == (one == other) or len(str(abs(one))) > 300


def nested(levels: int, inside: Any = 1) -> Any:
    """Return a value so many lists down."""
    for _ in range(levels):
        inside = [inside]
    return inside


def test_long_numbers_that_differ_at_their_ends_differ() -> None:
    """Ids of any length are compared whole, whether they are written as texts or as numbers."""
    assert not same("1" * 40 + "2", "1" * 40 + "3")
    assert not same(int("1" * 40 + "2"), int("1" * 40 + "3"))
    assert same(int("1" * 40), "1" * 40)
    assert not same("1" * 1000 + "2", "1" * 1000 + "3")


def test_what_is_nested_too_deep_equals_nothing() -> None:
    """Hostile nesting is a wrong answer, not the end of the interpreter."""
    assert same(nested(DEEPEST), nested(DEEPEST))
    assert not same(nested(DEEPEST + 1), nested(DEEPEST + 1))
    assert not same(nested(100_000), nested(100_000))
    assert judged(case("q", asks(("f", {"a": 1}))), asks(("f", {"a": nested(100_000)}))) == (True, False)


@pytest.mark.parametrize(
    "text",
    ["", "Sure!", "{'a': 1}", '{"a": NaN}', "[Infinity]", '{"a": 1, "a": 2}', "[" * 100_000, "1" * (LONGEST_JSON + 1)],
    ids=lambda text: text[:12],
)
def test_what_is_no_json_or_ambiguous_is_refused(text: str) -> None:
    """Constants that JSON has not, a key that is there twice and endless nesting have a reason each."""
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


@pytest.mark.parametrize(
    ("expected", "got", "verdict"),
    [
        (says("The capital is Canberra."), says(" the capital  is CANBERRA."), True),
        (says("The capital is Canberra."), says("Canberra."), False),
        (says("Done."), asks(("f", {}), content="Done."), False),
        (asks(("f", {"a": 1}), content="One moment."), asks(("f", {"a": "1"}), content="one moment."), True),
        (asks(("f", {"a": 1}), content="One moment."), asks(("f", {"a": 1})), False),
        (asks(("f", {"a": 1})), asks(("f", {"a": 2})), False),
        (asks(("f", {"a": 1}), ("g", {})), asks(("g", {}), ("f", {"a": 1})), False),
        (says(" "), says("hello"), None),
    ],
)
def test_an_exact_match_is_one_of_text_and_calls(expected: Message, got: Message, verdict: Score) -> None:
    """Both parts count, in order, in canonical form; an expectation of nothing is no verdict."""
    assert ExactMatch().judge(case("q", expected), [got]).scores == {"exact_match": verdict}


def test_without_an_expectation_there_is_no_exact_match() -> None:
    """A case for evaluators that need no answer is not judged by one that does."""
    of = case("q").model_copy(update={"expected": None})
    assert ExactMatch().judge(of, [says("x")]).scores == {"exact_match": None}
    assert JsonMatch().judge(of, [says("{}")]).scores == {"json_match": None}


@pytest.mark.parametrize(
    ("expected", "got", "verdict", "share"),
    [
        ('{"a": 1, "b": "X"}', '{"b": "x", "a": 1.0}', True, 1.0),
        ('{"a": 1, "b": "X"}', '{"a": 1, "b": "y"}', False, 0.5),
        ('{"a": 1, "b": "X"}', '{"a": 1}', False, 0.5),
        ('{"a": 1}', '{"a": 1, "b": 2}', False, 0.5),
        ('{"a": 1, "b": null}', '{"a": 1}', True, 1.0),
        ('{"a": true}', '{"a": 1}', False, 0.0),
        ("{}", "{}", True, 1.0),
        ('{"a": 1}', "[1]", False, 0.0),
        ('{"a": 1}', "I would say 1.", False, 0.0),
        ("[1, 2]", "[1, 2.0]", True, 1.0),
        ("[1, 2]", "[2, 1]", False, 0.0),
        ("no JSON", "{}", None, None),
    ],
)
def test_json_is_compared_key_by_key(expected: str, got: str, verdict: Score, share: Score) -> None:
    """An answer that cannot be read is wrong, an expectation that cannot be read is no verdict."""
    of = case("q", says(expected))
    assert JsonMatch().judge(of, [says(got)]).scores == {"json_match": verdict}
    assert JsonMatch(aggregate="mean").judge(of, [says(got)]).scores == {"json_match": share}


def test_named_keys_have_scores_of_their_own() -> None:
    """Keys that the user named are scored one by one, and nothing else counts."""
    match = JsonMatch(["city", "day"], aggregate="mean")
    of = case("q", says('{"city": "Bern", "day": 1, "note": "x"}'))
    right = match.judge(of, [says('{"city": "Bern", "day": 2, "note": "y"}')])
    assert right.scores == {"json_match": 0.5, "json_match:city": True, "json_match:day": False}
    assert right.comment == "Wrong: 'day'."
    assert match.judge(case("q", says("[1]")), [says("{}")]).scores["json_match:city"] is None


def test_keys_of_captured_text_become_no_scores() -> None:
    """An answer cannot fill a result with names of its own; its comment stays short, too."""
    answer = says("{" + ", ".join(f'"{"k" * 500}{n}": {n}' for n in range(1000)) + "}")
    judgement = JsonMatch().judge(case("q", says('{"a": 1}')), [answer])
    assert set(judgement.scores) == {"json_match"}
    assert len(judgement.comment or "") < 1000


def test_other_settings_are_another_evaluator() -> None:
    """What changes a verdict changes the name, so that kept results never mix."""
    names = {JsonMatch(keys, way).name for keys in (None, ["a"], ["a", "b"]) for way in ("all", "mean")}  # type: ignore[arg-type]
    assert len(names) == 6


@pytest.mark.parametrize(("keys", "way"), [("ab", "all"), ([], "all"), (None, "most")])
def test_json_settings_that_mean_nothing_are_refused(keys: Any, way: Any) -> None:
    """A text in place of a list of keys would be compared letter by letter."""
    with pytest.raises(ConfigError, match="JsonMatch"):
        JsonMatch(keys, way)


class Broken:
    """Fail at every case."""

    name = "broken/1"
    target = guard = "broken"
    whole = True

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        raise RuntimeError("no idea")


def test_several_evaluators_are_one() -> None:
    """All scores are there; the first evaluator decides, and one that looks at the whole run makes all of them."""
    both = All(ExactMatch(), ToolCallMatch())
    assert (both.name, both.target, both.guard) == ("exact-match/1+tool-call-match/1", "exact_match", "exact_match")
    assert both.judge(case("q", says("a")), [says("b")]).scores == {
        "exact_match": False,
        "right_tool": True,
        "fully_right": False,
    }
    assert not both.whole
    assert All(ExactMatch(), Broken()).whole


def test_scores_of_one_name_are_kept_apart() -> None:
    """A name that is taken gets its evaluator's before it; the first one's names stay."""
    scores = All(ToolCallMatch(), FixedJudge(True, False)).judge(case("q", says("a")), [says("a")]).scores
    assert scores == {
        "right_tool": True,
        "fully_right": True,
        "fixed-True-False/1:right_tool": True,
        "fixed-True-False/1:fully_right": False,
    }


def test_only_the_first_one_may_cost_the_verdict() -> None:
    """A failure of an evaluator that informs is a comment; one of the evaluator that decides is raised."""
    judgement = All(ExactMatch(), Broken()).judge(case("q", says("a")), [says("a")])
    assert judgement.scores == {"exact_match": True, "broken": None}
    assert judgement.comment == "'broken/1' failed: RuntimeError: no idea"
    with pytest.raises(RuntimeError, match="no idea"):
        All(Broken(), ExactMatch()).judge(case("q"), [says("a")])


@pytest.mark.parametrize("evaluators", [(), (ExactMatch(), ExactMatch())])
def test_all_needs_evaluators_that_differ(evaluators: Any) -> None:
    """None at all has no target, and one twice has no names."""
    with pytest.raises(ConfigError, match="of different names"):
        All(*evaluators)
