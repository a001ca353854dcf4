"""Two runs are alike by the calls they make, each call with a partner of its own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.callables import from_callable
from langgraph_learnloop.evaluation.trajectories import Mode, Trajectory
from langgraph_learnloop.records import Case, Message, Score, ToolCall
from tests.evaluation.scripted import case

Call = tuple[str, int]
MODES: tuple[Mode, ...] = ("strict", "unordered", "subset", "superset")
CALL = st.tuples(st.sampled_from("fg"), st.integers(0, 2))
RUN = st.lists(st.lists(CALL, max_size=3), min_size=1, max_size=3)


def run(*turns: list[Call]) -> tuple[Message, ...]:
    """Return a run: assistant messages with these calls, their tools' results, and a last answer."""
    messages: list[Message] = []
    for turn in turns:
        asked = tuple(ToolCall(name=name, args={"x": x}, id=f"{name}{x}") for name, x in turn)
        messages.append(Message(role="assistant", tool_calls=asked))
        messages += [Message(role="tool", content="ok", tool_call_id=call.id) for call in asked]
    return (*messages, Message(role="assistant", content="Done."))


def of(reference: tuple[Message, ...]) -> Case:
    """Return a case with a run that would be right."""
    return case("q").model_copy(update={"reference": reference})


def verdicts(reference: tuple[Message, ...], got: tuple[Message, ...], **settings: Any) -> list[Score]:
    """Return what each mode says, in the order of MODES."""
    return [Trajectory(mode, **settings).judge(of(reference), got).scores["trajectory"] for mode in MODES]


F, G = ("f", 1), ("g", 1)


@pytest.mark.parametrize(
    ("reference", "got", "expected"),
    [
        (run([F], [G]), run([F], [G]), [True, True, True, True]),
        (run([F], [G]), run([G], [F]), [False, True, True, True]),
        (run([F, G]), run([G, F]), [True, True, True, True]),
        (run([F, G]), run([F], [G]), [False, True, True, True]),
        (run([F], [G]), run([F]), [False, False, True, False]),
        (run([F]), run([F], [G]), [False, False, False, True]),
        (run([F], [F]), run([F]), [False, False, True, False]),
        (run([F]), run([F], [F]), [False, False, False, True]),
        (run([F]), run([("f", 2)]), [False, False, False, False]),
        (run([F]), run([("F", 1)]), [False, False, False, False]),
        (run(), run([F]), [False, False, False, True]),
    ],
)
def test_each_mode_asks_its_own_question(
    reference: tuple[Message, ...], got: tuple[Message, ...], expected: list[bool]
) -> None:
    """Order counts in strict alone, and only between messages; a call made twice counts twice."""
    assert verdicts(reference, got) == expected


def test_the_words_and_results_of_a_run_are_not_compared() -> None:
    """What a tool said, and how the answer is put, are other evaluators' business."""
    changed = tuple(m.model_copy(update={"content": "other"}) for m in run([F], [G]))
    assert verdicts(run([F], [G]), changed) == [True] * 4


def test_who_speaks_when_is_compared_in_strict_alone() -> None:
    """A word in a place where a tool should have answered is another run."""
    changed = (run([F])[0], Message(role="assistant", content="ok"), run([F])[2])
    assert verdicts(run([F]), changed) == [False, True, True, True]


def test_the_right_tools_with_other_arguments_pass_the_guard() -> None:
    """The guard looks at the names alone."""
    scores = Trajectory().judge(of(run([F])), run([("f", 2)])).scores
    assert scores == {"trajectory": False, "trajectory_tools": True}


@pytest.mark.parametrize(
    ("args", "expected"),
    [("exact", False), ("ignore", True), ({"f": "ignore"}, True), ({"g": "ignore"}, False), ({"f": "exact"}, False)],
)
def test_arguments_are_compared_as_told(args: Any, expected: bool) -> None:
    """A tool that a mapping does not name is compared exactly."""
    assert verdicts(run([F]), run([("f", 2)]), args=args) == [expected] * 4


def test_a_function_gets_the_runs_arguments_first() -> None:
    """In every mode: a comparison that is not symmetric means the same everywhere."""
    enough = {"f": lambda ours, theirs: ours["x"] >= theirs["x"]}
    assert verdicts(run([("f", 1)]), run([("f", 2)]), args=enough) == [True] * 4
    assert verdicts(run([("f", 2)]), run([("f", 1)]), args=enough) == [False] * 4


def test_a_partner_is_given_up_where_that_helps_another() -> None:
    """The first partner that fits is not always the right one: 3 may do for 1, but 2 has nothing else."""
    enough = {"f": lambda ours, theirs: ours["x"] >= theirs["x"]}
    assert verdicts(run([("f", 1), ("f", 2)]), run([("f", 3), ("f", 1)]), args=enough) == [True] * 4


@given(RUN, RUN, st.sets(st.tuples(st.integers(0, 2), st.integers(0, 2))))
def test_partners_are_found_if_there_are_any(ours: Any, theirs: Any, fitting: set[tuple[int, int]]) -> None:
    """Against trying out every order, with any notion of what fits."""
    fits = {name: lambda a, b: (a["x"], b["x"]) in fitting for name in "fg"}
    made, right = list(itertools.chain(*ours)), list(itertools.chain(*theirs))
    few, many = sorted((made, right), key=len)
    pairs = (zip(few, some, strict=True) for some in itertools.permutations(many[:7], len(few)) if len(few) <= 7)
    swap = few is not made
    possible = any(
        all(a[0] == b[0] and ((b[1], a[1]) if swap else (a[1], b[1])) in fitting for a, b in pair) for pair in pairs
    )
    if len(many) <= 7:
        mode: Mode = "superset" if swap else "subset"
        assert Trajectory(mode, args=fits).judge(of(run(*theirs)), run(*ours)).scores["trajectory"] is possible


def test_hundreds_of_calls_are_no_trouble() -> None:
    """A run that asks for one tool over and over ends neither in a deep recursion nor in a long wait."""
    many = run(*[[F]] * 400)
    assert Trajectory("superset").judge(of(run([F], [("f", 2)])), many).scores["trajectory"] is False
    assert Trajectory("superset", args="ignore").judge(of(run(*[[F]] * 300)), many).scores["trajectory"] is True


def test_where_only_the_next_message_is_known_only_that_is_compared() -> None:
    """A case without a whole run says nothing of what comes after the next message."""
    expected = case("q", Message(role="assistant", tool_calls=(ToolCall(name="f", args={"x": 1}),)))
    for mode in MODES:
        assert Trajectory(mode).judge(expected, run([F], [G])).scores["trajectory"] is True
        assert Trajectory(mode).judge(expected, run([("f", 2)], [F])).scores["trajectory"] is False


@pytest.mark.parametrize("expected", [None, Message(role="assistant")])
def test_a_case_that_knows_nothing_is_not_judged(expected: Message | None) -> None:
    """Neither a run nor a message: no verdict."""
    empty = case("q").model_copy(update={"expected": expected})
    assert Trajectory().judge(empty, run([F])).scores == {"trajectory": None, "trajectory_tools": None}


def test_other_ways_to_compare_are_other_evaluators() -> None:
    """Mode, way of comparing and version are in the name."""
    made = [
        *(Trajectory(mode) for mode in MODES),
        Trajectory(args="ignore"),
        Trajectory(args={"f": "ignore"}),
        Trajectory(args={"f": lambda ours, theirs: True}),
        Trajectory(version="2"),
    ]
    assert len({one.name for one in made}) == len(made)


@pytest.mark.parametrize("settings", [{"mode": "loose"}, {"args": "most"}, {"args": {"f": 3}}, {"args": len}])
def test_ways_that_are_none_are_refused(settings: Any) -> None:
    """A slip in a mode is named with what there is."""
    with pytest.raises(ConfigError, match="compared by"):
        Trajectory(**settings)


@given(RUN, RUN)
def test_agentevals_says_the_same(ours: Any, theirs: Any) -> None:
    """The four modes, with arguments exact and ignored, are those of agentevals' trajectory match."""
    match = pytest.importorskip("agentevals.trajectory.match", reason="agentevals is not installed")
    for mode, args in itertools.product(MODES, ("exact", "ignore")):
        peer = match.create_trajectory_match_evaluator(trajectory_match_mode=mode, tool_args_match_mode=args)
        other = from_callable(peer, name="agentevals", version="1", whole=True)
        got = Trajectory(mode, args=args).judge(of(run(*theirs)), run(*ours))  # type: ignore[arg-type]
        assert got.scores["trajectory"] == other.judge(of(run(*theirs)), run(*ours)).scores["agentevals"]
