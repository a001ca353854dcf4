"""What the agent must be able to do from its first day: the cases of suites/daily.jsonl."""

import pytest
from agent import graph


@pytest.mark.learnloop("suites/daily.jsonl")
def test_daily(learnloop_case):
    """Every case is answered with the right tool and arguments."""
    learnloop_case.check(graph.invoke(learnloop_case.input))
