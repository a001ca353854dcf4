"""What the agent must be able to do from its first day: the cases of suites/daily.jsonl, and to be believed."""

import pytest
from agent import graph, topics
from citations import problem

from langgraph_learnloop.pytest_plugin import LearnLoopCase


@pytest.mark.learnloop("suites/daily.jsonl")
def test_daily(learnloop_case: LearnLoopCase) -> None:
    """Every case is planned with the right topics."""
    learnloop_case.check(graph.invoke(learnloop_case.input), topics)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("It is 412 kilometres long [arvell].", None),
        ("It is 412 kilometres long.", "Nothing is cited for 'It is 412 kilometres long.'."),
        ("It is 412 kilometres long [bromsk].", "It cites [bromsk], which was not found."),
        ("It is 421 kilometres long [arvell].", "The figure 421 does not stand in [arvell]."),
        ("No document is about it.", "The question names Arvell; nothing cites it."),
        (
            "No document is about it, but it is long.",
            "Nothing is cited for 'No document is about it, but it is long.'.",
        ),
        ("", "It wrote nothing."),
    ],
)
def test_an_answer_is_held_against_what_was_found(answer: str, reason: str | None) -> None:
    """Every sentence cites a document that was found, with the figures that stand in it, and nothing asked is left."""
    assert problem("How long is the Arvell?", answer, {"arvell"}) == reason
