"""A node gets credit for what it mends alone; a whole run is judged by the one message that matters."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.ablation import Decisive, credit
from langgraph_learnloop.evaluation.evaluators import ExactMatch
from langgraph_learnloop.evaluation.trajectories import Trajectory
from langgraph_learnloop.records import Case, Message, ToolCall
from tests.evaluation.scripted import case

CALL = Message(role="assistant", tool_calls=(ToolCall(name="set_timer", args={"minutes": 5}),))
OTHER = Message(role="assistant", tool_calls=(ToolCall(name="stop_timer", args={}),))
SET, DONE = Message(role="tool", content="set"), Message(role="assistant", content="Done.")


@pytest.mark.parametrize(
    ("of", "got", "right"),
    [
        (case("q", CALL), [CALL, SET, DONE], True),
        (case("q", CALL), [DONE, CALL, SET, OTHER], True),
        (case("q", CALL), [OTHER, SET, CALL], False),
        (case("q", CALL), [DONE], False),
        (case("q", DONE), [CALL, SET, DONE], True),
        (case("q", DONE), [DONE, CALL, SET], False),
    ],
)
def test_the_message_that_matters_is_judged(of: Case, got: list[Message], right: bool) -> None:
    """Where a tool is expected it is the first that asks for one, or else the first; where words are, the last."""
    assert Decisive(ExactMatch()).judge(of, got).scores == {"exact_match": right}


def test_an_evaluator_of_whole_runs_sees_all_of_it() -> None:
    """It knows itself what matters."""
    of = case("q", CALL).model_copy(update={"reference": (CALL, SET, DONE)})
    assert Decisive(Trajectory()).judge(of, [CALL, SET, DONE]).scores["trajectory"] is True
    assert Decisive(Trajectory()).judge(of, [CALL, SET, OTHER]).scores["trajectory"] is False


def test_cases_that_no_run_made_have_no_nodes() -> None:
    """They are refused before anything is asked."""
    nobody: Any = None
    with pytest.raises(DataError, match="None of the cases was made from a recorded run"):
        credit(nobody, ExactMatch(), "new", "old", [case("q")], nobody)
