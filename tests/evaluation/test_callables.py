"""A function in the form of openevals is an evaluator, and what it says is checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.evaluation.callables import from_callable
from langgraph_learnloop.records import Case, Judged, Message, ToolCall
from tests.evaluation.scripted import case


def says(content: str) -> Message:
    """Return an assistant message in words."""
    return Message(role="assistant", content=content)


def asks(call_id: str | None = None, **args: Any) -> Message:
    """Return an assistant message that asks for one tool."""
    return Message(role="assistant", tool_calls=(ToolCall(name="f", args=args, id=call_id),))


def judged(returned: Any, **settings: Any) -> Judged:
    """Return what an evaluator makes of what its function returns."""
    return from_callable(lambda outputs: returned, name="mine", version="3", **settings).judge(case("q"), [says("a")])


def test_a_function_is_given_what_its_signature_takes() -> None:
    """All three for keywords without end, none for a function that takes none."""
    seen: dict[str, Any] = {}

    def everything(**given: Any) -> bool:
        seen.update(given)
        return True

    def two(outputs: Any, reference_outputs: Any, strict: bool = True) -> bool:
        return bool(outputs == reference_outputs)

    of = case("q", says("a"))
    assert from_callable(everything, name="e", version="1").judge(of, [says("a"), says("later")]).scores == {"e": True}
    assert seen == {
        "inputs": [{"role": "user", "content": "q"}],
        "outputs": [{"role": "assistant", "content": "a"}],
        "reference_outputs": [{"role": "assistant", "content": "a"}],
    }
    assert from_callable(two, name="e", version="1").judge(of, [says("a")]).scores == {"e": True}
    assert from_callable(lambda: True, name="e", version="1").judge(of, [says("a")]).scores == {"e": True}


def test_messages_are_openais_and_their_ids_are_counted_through() -> None:
    """Arguments are JSON texts, a result is joined with its call, and random ids make no difference."""
    seen: list[Any] = []

    def keep(outputs: Any, reference_outputs: Any) -> bool:
        seen[:] = [outputs, reference_outputs]
        return bool(outputs == reference_outputs)

    def run(*ids: str) -> tuple[Message, ...]:
        turns = ((asks(one, x="é"), Message(role="tool", content="ok", tool_call_id=one)) for one in ids)
        return tuple(message for turn in turns for message in turn)

    of = case("q").model_copy(update={"reference": run("a9", "b9")})
    assert from_callable(keep, name="k", version="1", whole=True).judge(of, run("z1", "z2")).scores == {"k": True}
    assert [m.get("tool_call_id") for m in seen[0]] == [None, "call_0", None, "call_1"]
    function = {"name": "f", "arguments": json.dumps({"x": "é"}, ensure_ascii=False)}
    assert seen[0][2]["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]


def test_without_an_expectation_the_reference_is_none() -> None:
    """A function that needs no right answer works all the same."""
    of = case("q").model_copy(update={"expected": None})
    evaluator = from_callable(lambda reference_outputs: reference_outputs is None, name="n", version="1")
    assert evaluator.judge(of, [says("a")]).scores == {"n": True}


def test_an_evaluator_is_named_by_name_and_version() -> None:
    """The score is called as `key` says, or as the evaluator."""
    evaluator = from_callable(lambda: True, name="polite", version="2", whole=True)
    assert (evaluator.name, evaluator.target, evaluator.guard, evaluator.whole) == (
        "polite/2",
        "polite",
        "polite",
        True,
    )
    assert from_callable(lambda: True, name="polite", version="2", key="tone").target == "tone"


class Result(BaseModel):
    """What LangSmith's own class looks like."""

    key: str = "k"
    score: float | bool | None = None
    comment: str | None = None


class Scalar:
    """A number of another library."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("returned", "score", "comment"),
    [
        (True, True, None),
        (0, 0.0, None),
        (1, 1.0, None),
        (0.25, 0.25, None),
        (None, None, None),
        (Scalar(0.5), 0.5, None),
        (Scalar(False), False, None),
        ({"key": "k", "score": True, "comment": None, "metadata": None}, True, None),
        ({"key": "k", "score": 0.5, "comment": "so so"}, 0.5, "so so"),
        ({"score": None, "value": "unclear", "comment": "?"}, None, "?"),
        ({"results": [{"key": "k", "score": 1}]}, 1.0, None),
        ([{"key": "k", "score": 1}], 1.0, None),
        (Result(score=True, comment="yes"), True, "yes"),
        ({"results": [Result(score=True)]}, True, None),
    ],
)
def test_every_form_of_a_result_is_read(returned: Any, score: Any, comment: str | None) -> None:
    """A bool stays an assertion, a number a score, and None is no verdict."""
    got = judged(returned)
    assert got == Judged({"mine": score}, comment)
    assert type(got.scores["mine"]) is type(score)


def test_of_several_results_the_key_names_the_one_that_decides() -> None:
    """All of them are kept; the one that was asked for must be there."""
    several = [{"key": "a", "score": True, "comment": "A."}, {"key": "b", "score": 0.5, "comment": "B."}]
    assert judged(several, key="b") == Judged({"a": True, "b": 0.5}, "A. B.")
    with pytest.raises(DataError, match="'mine/3' returned the scores 'a', 'b'; name one of them with key="):
        judged(several)
    with pytest.raises(DataError, match="name one of them"):
        judged(several, key="c")
    with pytest.raises(DataError, match="name one of them"):
        judged([several[0], several[0]], key="a")
    with pytest.raises(DataError, match="scores none"):
        judged([], key="a")


def test_a_lone_result_of_another_key_is_not_taken_for_the_one_asked_for() -> None:
    """It would be compared with scores that mean something else."""
    assert judged({"key": "a", "score": True}, key="a").scores == {"a": True}
    with pytest.raises(DataError, match="returned the scores 'b'"):
        judged({"key": "b", "score": True}, key="a")


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf"), 10**400, "0.5", [1]])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_score_that_is_none_is_refused(score: Any, wrapped: bool) -> None:
    """What is out of range would move every mean; the sentence names the evaluator."""
    returned = {"score": score} if wrapped or isinstance(score, list) else score
    with pytest.raises(DataError, match=r"'mine/3' returned .*; a score must be a bool, a number from 0 to 1, or None"):
        judged(returned)


def test_a_dict_without_a_score_is_refused() -> None:
    """The sentence says what it holds instead."""
    with pytest.raises(DataError, match=r"without .score. \(it holds 'grade'\)"):
        judged({"grade": 1})


def test_what_a_function_raises_is_raised() -> None:
    """The replay makes it a case that is not judged."""

    def fail(outputs: Any) -> bool:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        from_callable(fail, name="f", version="1").judge(case("q"), [says("a")])


async def _later(*, outputs: Any, **rest: Any) -> dict[str, Any]:
    return {"key": "k", "score": outputs[0]["content"] == "a"}


def test_an_async_function_is_waited_for() -> None:
    """Without a loop in this thread, as in a replay."""
    assert from_callable(_later, name="l", version="1").judge(case("q"), [says("a")]).scores == {"l": True}


async def test_an_async_function_is_waited_for_inside_a_loop() -> None:
    """With a loop in this thread, as in a notebook."""
    assert from_callable(_later, name="l", version="1").judge(case("q"), [says("b")]).scores == {"l": False}


def _langsmith(run: Any, example: Any) -> bool:
    return True


def _positional(outputs: Any, /) -> bool:
    return True


@pytest.mark.parametrize(("function", "wanted"), [(_langsmith, "run"), (_positional, "outputs")])
def test_a_function_that_cannot_be_called_is_refused_at_once(function: Any, wanted: str) -> None:
    """Not at the first case of an examination."""
    with pytest.raises(ConfigError, match=f"wants '{wanted}', and it gets inputs, outputs, reference_outputs"):
        from_callable(function, name="f", version="1")


def test_what_has_no_signature_is_refused() -> None:
    """A name in place of a function, too."""
    with pytest.raises(ConfigError, match="whose signature can be read"):
        from_callable("exact_match", name="f", version="1")  # type: ignore[arg-type]


def _json_case() -> Case:
    return case("q", says('{"a": 1, "b": 2}'))


def test_openevals_exact_match_is_an_evaluator() -> None:
    """The real function, with calls whose ids differ."""
    exact = pytest.importorskip("openevals.exact", reason="openevals is not installed")
    evaluator = from_callable(exact.exact_match, name="exact", version="1")
    of = case("q", asks("one", x=1))
    assert evaluator.judge(of, [asks("other", x=1)]).scores == {"exact": True}
    assert evaluator.judge(of, [asks("other", x=2)]).scores == {"exact": False}


def test_openevals_json_match_is_an_evaluator() -> None:
    """The real one, on the texts of the messages, with a score for each key."""
    module = pytest.importorskip("openevals.json", reason="openevals is not installed")
    match = module.create_json_match_evaluator()

    def on_texts(outputs: Any, reference_outputs: Any) -> Any:
        answer, right = (json.loads(messages[-1]["content"]) for messages in (outputs, reference_outputs))
        return match(outputs=answer, reference_outputs=right)

    evaluator = from_callable(on_texts, name="json", version="1", key="json_match:a")
    got = evaluator.judge(_json_case(), [says('{"a": 1, "b": 3}')])
    assert got.scores == {"json_match:a": 1.0, "json_match:b": 0.0}
