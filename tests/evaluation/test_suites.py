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
    assert cases_from([example("hi", **facts)], "target") == cases_from([example("hi", **facts)], "retention") == ()


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
def test_what_somebody_vouches_for_is_a_case_of_one_suite(facts: dict[str, Any], suite: Any) -> None:
    """A reviewed correction is a target, an approved or replayed run is retention; the tool is the category."""
    other: Any = "target" if suite == "retention" else "retention"
    (made,) = cases_from([example("hi", **facts)], suite)
    assert (made.suite, made.category, made.messages[0].content) == (suite, "play", "hi")
    assert cases_from([example("hi", **facts)], other) == ()


def test_the_same_case_is_there_once() -> None:
    """Two examples with one question and one answer are one case, whoever made them."""
    assert len(cases_from([example("hi", by="ann"), example("hi", by="bob"), example("ho")], "target")) == 2


def test_a_limit_holds_for_each_category() -> None:
    """A common tool does not crowd out a rare one."""
    many = [example(f"play {i}") for i in range(50)] + [example(f"book {i}", "book") for i in range(3)]
    made = cases_from(many, "target", limit=10)
    assert [sum(c.category == tool for c in made) for tool in ("play", "book")] == [10, 3]


def test_the_draw_is_seeded_and_keeps_its_cases() -> None:
    """The same seed draws the same cases in any order, another seed others, and new data only pushes some out."""
    many = [example(f"play {i}") for i in range(50)]
    drawn = cases_from(many, "target", limit=10, seed=1)
    assert cases_from(many[::-1], "target", limit=10, seed=1) == drawn
    assert cases_from(many, "target", limit=10, seed=2) != drawn
    more = cases_from([*many, *(example(f"new {i}") for i in range(5))], "target", limit=10, seed=1)
    assert len({c.case_id for c in more} & {c.case_id for c in drawn}) >= 5


def test_a_limit_below_one_is_refused() -> None:
    """A suite of no cases would pass nothing and mean nothing."""
    with pytest.raises(DataError, match="1 or more"):
        cases_from([example("hi")], "target", limit=0)


def test_a_taught_case_is_refused() -> None:
    """A held-out case whose request was taught is refused with the count, whatever the writing or the answer."""
    cases = cases_from([example("Play some jazz!"), example("What is new?")], "target")
    taught = [example("  play SOME  jazz", "other", split="train", origin="variation")]
    with pytest.raises(DataError, match="1 of 2 held-out cases"):
        refuse_leaks(cases, taught)


def test_held_out_examples_are_no_leak() -> None:
    """A whole data set may be given: its own held-out part does not accuse itself."""
    rows = [example("play some jazz"), example("book a table", split="train")]
    cases = cases_from(rows, "target")
    assert refuse_leaks(cases, rows) == cases
    assert len(cases) == 1


def test_another_turn_of_the_conversation_is_no_leak() -> None:
    """Saying "yes" after another question is another request; the system message makes no difference."""

    def turns(*said: str, **facts: Any) -> Example:
        roles = ("user", "assistant", "user")
        messages = tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=True))  # type: ignore[arg-type]
        return example("x", **facts).model_copy(update={"messages": messages})

    cases = cases_from([turns("book", "sure?", "yes")], "target")
    assert refuse_leaks(cases, [turns("cancel", "sure?", "yes", split="train")]) == cases
    system = Message(role="system", content="Be kind.")
    same = turns("book", "sure?", "yes", split="train")
    with pytest.raises(DataError, match="1 of 1"):
        refuse_leaks(cases, [same.model_copy(update={"messages": (system, *same.messages)})])
