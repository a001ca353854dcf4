"""What flagged runs have in common: errors of one kind, requests that are alike, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.curation import weakness
from langgraph_learnloop.curation.texts import Vectors, hashed, of_length_one
from langgraph_learnloop.curation.weakness import Flagged, groups
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Flag, Run, Step, Weakness

CONFIG = LoopConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARCELS = ("where is my parcel", "my parcel is lost, where is it", "the parcel never came, where is my parcel")
REFUNDS = ("refund my order please", "i want a refund for my order", "please refund the order of last week")


def flagged(
    number: int, question: str | None, *, corrected: bool = False, severity: float = 0.5, **given: Any
) -> Flagged:
    """Return a flagged run."""
    known = {"run_id": f"r{number}", "agent": "a", "outcome": "finished", "started_at": NOW, "question": question}
    run = Run.model_validate(known | given)
    at = NOW + timedelta(minutes=number)
    flag = Flag(run_id=run.run_id, agent="a", thread_id=run.thread_id, reasons=("bad",), severity=severity, at=at)
    return Flagged(run, flag, corrected)


def several(questions: Sequence[str], **given: Any) -> list[Flagged]:
    """Return a flagged run for each question."""
    return [flagged(number, question, **given) for number, question in enumerate(questions)]


def weaknesses(ones: Sequence[Flagged], **given: Any) -> tuple[Weakness, ...]:
    """Return what some flagged runs have in common, by the settings that ship unless others are given."""
    shipped = {"embed": hashed, "alike": CONFIG.alike, "enough": CONFIG.least_corrections}
    return weakness.weaknesses(ones, **{**shipped, **given})


def tool(name: str, error: str | None) -> Step:
    """Return a tool's step."""
    return Step(step_id=name, parent_id=None, kind="tool", name=name, started_at=NOW, error=error)


def test_requests_that_are_alike_are_one_weakness() -> None:
    """Two kinds of request become two weaknesses, each with the words that tell it from the other."""
    found = weaknesses(several([*PARCELS, *REFUNDS]))
    assert {frozenset(one.run_ids) for one in found} == {frozenset({"r0", "r1", "r2"}), frozenset({"r3", "r4", "r5"})}
    assert {one.label for one in found} == {"parcel, came, lost", "order, refund, want"}
    assert {one.cause for one in found} == {"answer"}


def test_errors_are_grouped_by_what_broke() -> None:
    """Whatever was asked, and whatever ids the message holds: tool and type of the error count."""
    timeouts = [
        flagged(0, "where is my parcel", steps=(tool("track", "TimeoutError: order 12"),)),
        flagged(1, "refund my order", steps=(tool("track", "TimeoutError: order 13"),)),
    ]
    other = flagged(2, "where is my parcel", steps=(tool("track", "KeyError: 'x'"),))
    failed = flagged(3, "hello", outcome="failed", error="RateLimitError: slow down")
    found = weaknesses([*timeouts, other, failed])
    assert {one.label: set(one.run_ids) for one in found} == {
        "tool track: TimeoutError": {"r0", "r1"},
        "tool track: KeyError": {"r2"},
        "run: RateLimitError": {"r3"},
    }
    assert {(one.cause, one.fix) for one in found} == {("error", "repair")}


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        ("set_timer", "ValidationError: 1 validation error for set_timer\nminutes\n  Field required", "answer"),
        ("search", "ValidationError: 2 validation errors for SearchInput\nq\n  Field required", "answer"),
        ("search", "ToolInvocationError: Error invoking tool 'search' with kwargs {} with error:\n q", "answer"),
        ("search", "ValidationError: 1 validation error for SearchResponse\nhits\n  Field required", "error"),
        ("search", "ValidationError: no such index", "error"),
    ],
)
def test_a_call_that_does_not_fit_is_the_models_mistake(name: str, error: str, cause: str) -> None:
    """A tool that refuses wrong arguments is no tool to be mended, even where that ended the run."""
    for outcome in ("finished", "failed"):
        (found,) = weaknesses([flagged(0, "set it", outcome=outcome, error=error, steps=(tool(name, error),))])
        assert found.cause == cause


def test_a_model_that_failed_is_named() -> None:
    """A run that ended in a model call says which model, so that nobody looks at the tools."""
    step = Step(step_id="m", parent_id=None, kind="model", name="qwen", started_at=NOW, error="APIError: 500")
    (found,) = weaknesses([flagged(0, "hi", outcome="failed", error="APIError: 500", steps=(step,))])
    assert found.label == "model qwen: APIError"


def test_a_corrected_error_is_something_to_learn_from() -> None:
    """Where somebody said what would have been right, the error was the agent's doing."""
    (found,) = weaknesses([flagged(0, "where is it", corrected=True, steps=(tool("track", "ValueError: no id"),))])
    assert (found.cause, found.corrected) == ("answer", 1)


def test_what_only_steers_the_graph_is_no_error() -> None:
    """A tool that paused for a person has not failed."""
    (found,) = weaknesses([flagged(0, "pay it", steps=(tool("pay", "GraphInterrupt: ask"),))])
    assert found.cause == "answer"


@pytest.mark.parametrize(("corrections", "fix", "said"), [(3, "train", "learnloop cycle"), (1, "correct", "of 2 more")])
def test_what_helps_depends_on_the_corrections(corrections: int, fix: str, said: str) -> None:
    """Enough of them can be trained on; else how many more it takes is said."""
    ones = [flagged(i, text, corrected=i < corrections) for i, text in enumerate(PARCELS)]
    (found,) = weaknesses(ones, enough=3)
    assert (found.fix, found.corrected) == (fix, corrections)
    assert said in found.because


def test_impact_counts_conversations() -> None:
    """Of a thread the worst run counts, and once; a run without a thread is one of its own."""
    ones = [
        flagged(0, PARCELS[0], thread_id="t", severity=0.9),
        flagged(1, PARCELS[1], thread_id="t", severity=0.3),
        flagged(2, PARCELS[2], severity=0.5),
    ]
    (found,) = weaknesses(ones)
    assert found.threads == 2
    assert found.impact == pytest.approx(1.4)


def test_the_worst_comes_first() -> None:
    """What spoiled most conversations does, however many runs another has."""
    ones = [flagged(i, text, thread_id="one") for i, text in enumerate(PARCELS)]
    ones += [flagged(10 + i, text, thread_id=f"t{i}") for i, text in enumerate(REFUNDS[:2])]
    assert [one.threads for one in weaknesses(ones)] == [2, 1]


def test_times_are_those_of_the_flags() -> None:
    """First and last say whether it still happens."""
    (found,) = weaknesses(several(PARCELS))
    assert (found.first_at, found.last_at) == (NOW, NOW + timedelta(minutes=2))


def test_the_id_is_of_the_runs() -> None:
    """The same runs in another order are the same weakness; one more is another."""
    (one,), (other,) = weaknesses(several(PARCELS)), weaknesses(several(PARCELS)[::-1])
    assert one.weakness_id == other.weakness_id
    (more,) = weaknesses(several([*PARCELS, "where is my parcel now"]))
    assert more.weakness_id != one.weakness_id


@pytest.mark.parametrize("question", [None, "", "  ", "?!"])
def test_requests_without_words_are_together(question: str | None) -> None:
    """There is nothing to compare them by, and none of them is lost."""
    found = weaknesses([*several([*PARCELS]), flagged(8, question), flagged(9, None)])
    assert {one.label: len(one.run_ids) for one in found}["requests without words"] == 2


def test_hostile_texts_are_shown_harmless() -> None:
    """What steers a terminal is spelled out, on one line, in labels and examples."""
    ones = [flagged(0, "\x1b[2Jparcel\nparcel"), flagged(1, "x", steps=(tool("t", "\x1b[31mOops\nError: y"),))]
    assert {(one.label, one.example) for one in weaknesses(ones)} == {
        ("2jparcel, parcel", "\\u001b[2Jparcel parcel"),
        ("tool t: \\u001b[31mOops Error", "x"),
    }


def test_nothing_flagged_is_no_weakness() -> None:
    """Nothing is made up."""
    assert weaknesses([]) == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.booleans(), st.floats(0, 1)), max_size=12))
def test_each_run_is_in_one_weakness(runs: list[tuple[str, bool, float]]) -> None:
    """Whatever was asked, no run is lost or told twice, and the order is that of the impact."""
    ones = [flagged(i, text, corrected=yes, severity=worst) for i, (text, yes, worst) in enumerate(runs)]
    found = weaknesses(ones)
    assert sorted(run_id for one in found for run_id in one.run_ids) == sorted(one.run.run_id for one in ones)
    assert [one.impact for one in found] == sorted((one.impact for one in found), reverse=True)


# -- groups ------------------------------------------------------------------------------------------------------------


def rows(*angles: float) -> Vectors:
    """Return rows of length 1 in a plane."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_a_chain_is_no_group() -> None:
    """Neighbours that are each alike do not join what lies far apart."""
    chain = rows(*range(0, 180, 10))
    assert len(groups([chain], 0.9)) > 1


def test_the_most_typical_comes_first() -> None:
    """What is in the middle stands for the group."""
    assert groups([rows(0, 20, 40)], 0.5)[0][0] == 1


def test_a_second_block_joins_the_groups_of_the_first() -> None:
    """What is alike finds its group wherever a block ends, and what is not makes a new one."""
    found = groups([rows(0, 5, 90, 95), rows(2, 92, 180)], 0.8)
    assert sorted(map(sorted, found)) == [[0, 1, 4], [2, 3, 5], [6]]


def test_rows_without_direction_do_no_harm() -> None:
    """What embeddings made zeros of is a group of its own."""
    some = np.vstack([rows(0, 5), np.zeros((2, 2), dtype=np.float32)])
    assert sorted(map(sorted, groups([some], 0.8))) == [[0, 1], [2, 3]]


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_your_own_embeddings_are_used() -> None:
    """What they find alike is one weakness, whatever the words are."""

    def embed(texts: Sequence[str]) -> Vectors:
        return of_length_one(lambda some: [[2.0, 0.0] if "money" in text else [0.0, 3.0] for text in some], texts)

    found = weaknesses(several(["money", "parcel", "some money", "where"]), embed=embed, alike=0.5)
    assert {frozenset(one.run_ids) for one in found} == {frozenset({"r0", "r2"}), frozenset({"r1", "r3"})}


@pytest.mark.parametrize(
    "made", [[[1.0]], [[1.0], [2.0, 3.0]], [["a"], ["b"]], [[float("nan")], [1.0]], [1.0, 2.0], None, [[1.0]] * 4]
)
def test_embeddings_that_cannot_be_used_are_named(made: Any) -> None:
    """Too few, of different lengths, no numbers, not finite, of another shape: one sentence."""
    with pytest.raises(DataError, match="embeddings cannot be used: for 2 texts"):
        of_length_one(lambda texts: made, ["a", "b"])


def test_what_has_no_text_is_not_embedded() -> None:
    """Some providers refuse an empty text; its row is zeros."""
    found = of_length_one(lambda texts: [[3.0, 4.0]] * len(texts), ["", "a", " "])
    assert found.tolist() == [[0, 0], [pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]
    assert not of_length_one(lambda texts: pytest.fail("There is nothing to embed."), ["", " "]).any()


def test_hashed_rows_have_length_one() -> None:
    """So that a product of two is their cosine."""
    assert np.linalg.norm(hashed(PARCELS), axis=1) == pytest.approx([1, 1, 1], abs=1e-6)
