"""What the agent must be able to do from its first day: the cases of suites/daily.jsonl."""

import pytest
from agent import graph
from same_rows import SameRows

from langgraph_learnloop.pytest_plugin import LearnLoopCase


@pytest.mark.learnloop("suites/daily.jsonl")
def test_daily(learnloop_case: LearnLoopCase) -> None:
    """Every case is answered with SQL that finds what the expected SQL finds."""
    learnloop_case.check(graph.invoke(learnloop_case.input), SameRows())
