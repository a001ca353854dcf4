"""Only vouched-for, held-out examples become cases, and none that was taught."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.suites import cases_from, refuse_leaks
from langgraph_learnloop.records import Example, Message, ToolCall


def example(question: str, tool: str = "play", **facts: Any) -> Example:
    """Return an approved, held-out correction unless told otherwise."""
    values: dict[str, Any] = {"origin": "correction", "review": "approved", "split": "heldout", **facts}
    return Example(
        messages=(Message(role="user", content=question),),
        chosen=Message(role="assistant", tool_calls=(ToolCall(name=tool),)),
        **values,
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"split": "train"},
        {"split": "validation"},
        {"split": None},
        {"review": "pending"},
        {"review": "rejected"},
        {"origin": "variation"},
        {"origin": "teacher", "review": "pending"},
        {"origin": "replay", "review": "rejected"},
    ],
)
def test_what_nobody_vouches_for_is_no_case(facts: dict[str, Any]) -> None:
    """Taught, unreviewed, rejected and made-up examples are left out."""
    assert cases_from([example("hi", **facts)]) == ()


@pytest.mark.parametrize(
    ("facts", "suite"),
    [
        ({}, "target"),
        ({"review": "edited"}, "target"),
        ({"origin": "teacher"}, "target"),
        ({"origin": "replay", "review": "pending"}, "retention"),
        ({"origin": "replay"}, "retention"),
        ({"origin": "approved", "review": "pending"}, "retention"),
    ],
)
def test_what_somebody_vouches_for_is_a_case_of_one_suite(facts: dict[str, Any], suite: str) -> None:
    """A reviewed correction is a target, an approved or replayed run is retention; the tool is the category."""
    (made,) = cases_from([example("hi", **facts)])
    assert (made.suite, made.category, made.messages[0].content) == (suite, "play", "hi")


def test_the_same_case_is_there_once() -> None:
    """Two examples with one question and one answer are one case, whoever made them."""
    assert len(cases_from([example("hi", by="ann"), example("hi", by="bob"), example("ho")])) == 2


def test_the_order_does_not_depend_on_the_input() -> None:
    """The target comes first, then a category after another."""
    rows = [example("play it"), example("book it", "book"), example("add it", "add", origin="replay")]
    made = cases_from(rows)
    assert cases_from(rows[::-1]) == made
    assert [case.category for case in made] == ["book", "play", "add"]


def test_a_taught_case_is_refused() -> None:
    """A held-out case whose request was taught is refused with the count, whatever the writing or the answer."""
    cases = cases_from([example("Play some jazz!"), example("What is new?")])
    taught = [example("  play SOME  jazz", "other", split="train", origin="variation")]
    with pytest.raises(DataError, match="1 of 2 held-out cases"):
        refuse_leaks(cases, taught)


def test_held_out_examples_are_no_leak() -> None:
    """A whole data set may be given: its own held-out part does not accuse itself."""
    rows = [example("play some jazz"), example("book a table", split="train")]
    cases = cases_from(rows)
    assert refuse_leaks(cases, rows) == cases
    assert len(cases) == 1


def test_another_turn_of_the_conversation_is_no_leak() -> None:
    """Saying "yes" after another question is another request; the system message makes no difference."""

    def turns(*said: str, **facts: Any) -> Example:
        roles = ("user", "assistant", "user")
        messages = tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=True))  # type: ignore[arg-type]
        return example("x", **facts).model_copy(update={"messages": messages})

    cases = cases_from([turns("book", "sure?", "yes")])
    assert refuse_leaks(cases, [turns("cancel", "sure?", "yes", split="train")]) == cases
    system = Message(role="system", content="Be kind.")
    same = turns("book", "sure?", "yes", split="train")
    with pytest.raises(DataError, match="1 of 1"):
        refuse_leaks(cases, [same.model_copy(update={"messages": (system, *same.messages)})])
