"""What nobody said of a run is noticed from what was asked next, and from what the agent did."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.records import Run, Step, ToolCall
from langgraph_learnloop.signals import implicit
from langgraph_learnloop.signals.implicit import Noticed, Turn, detectors_of, notice, similarity

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = ("asked_again", "objected", "gave_up", "repeated_call", "unknown_tool", "no_answer")


def call(name: str = "find", **args: Any) -> Step:
    """Return a model step that asks for a tool."""
    calls = (ToolCall(name=name, args=args),)
    return Step(step_id=name, parent_id=None, kind="model", name="m", tool_calls=calls, started_at=NOW)


SPOKEN = Step(step_id="s", parent_id=None, kind="model", name="m", started_at=NOW + timedelta(seconds=1))


def run(
    question: str | None = "Where is order 5?", answer: str | None = "On its way.", *steps: Step, **facts: Any
) -> Run:
    """Return a finished run."""
    given: dict[str, Any] = {"run_id": "r", "agent": "a", "outcome": "finished", "started_at": NOW}
    return Run(**{**given, "question": question, "answer": answer, "steps": steps or (SPOKEN,), **facts})


def seen(turn: Turn, *names: str) -> list[tuple[str, str]]:
    """Return what is noticed: the signal and the run that it is about."""
    return [(said.name, about.run_id) for about, said in notice(turn, detectors_of(names or ALL), NOW)]


def again(before: str, after: str, *steps: Step, earlier: tuple[Step, ...] = (), **facts: Any) -> bool:
    """Return whether a second request is taken for the first one in other words."""
    later: dict[str, Any] = {"run_id": "r2", "started_at": NOW + timedelta(minutes=1), **facts}
    turn = Turn(run(after, "So.", *steps, **later), run(before, "So.", *earlier))
    return seen(turn, "asked_again") == [("asked_again", "r")]


def test_a_good_turn_is_left_alone() -> None:
    """A request that was answered, and another one after it, say nothing."""
    later = run("Thanks! And when do you open?", "At nine.", run_id="r2")
    assert seen(Turn(later, run(), frozenset({"find"}))) == []
    assert seen(Turn(run())) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Where is my order 5?", "can you tell me where my order 5 is"),
        ("Cancel the subscription to the paper", "please cancel the paper subscription"),
        ("Wo ist meine Bestellung 5?", "wo ist denn meine bestellung 5"),
        ("我想订一张去北京的票", "我想要订一张去北京的票"),
    ],
)
def test_the_same_in_other_words_is_asked_again(before: str, after: str) -> None:
    """Order, case and small words do not matter, in any script."""
    assert again(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Where is my order 5?", "Where is my order 6?"),
        ("What is the weather in Rome tomorrow?", "Book me a table for two."),
        ("next page please", "Tell me about the weather in Rome."),
        ("go on", "go on"),
        ("?", "?"),
    ],
)
def test_something_else_is_not_asked_again(before: str, after: str) -> None:
    """Another number, another subject, and what is too short to say: each is a request of its own."""
    assert not again(before, after)


def test_arguments_tell_requests_apart() -> None:
    """Words that went into a tool call of one request alone make it another one; those of both make it the same."""
    rome, oslo = call(city="Rome", days=2), call(city="Oslo", days=2)
    first, second = "What will the weather be in Rome tomorrow?", "What will the weather be in Oslo tomorrow?"
    assert not again(first, second, oslo, earlier=(rome,))
    assert not again(first, second, oslo)
    assert not again(first, second, earlier=(rome,))
    assert again(first, "the weather in Rome tomorrow, please", rome, earlier=(rome,))
    assert not again(first, "the weather in Rome tomorrow, please")  # words alone are not sure enough


def test_only_what_ended_a_moment_ago_is_asked_again() -> None:
    """What failed is flagged for that; what is asked each morning, or goes on after a pause, is no complaint."""
    text = "What is on my calendar for today?"
    assert again(text, text)
    assert not again(text, text, started_at=NOW + timedelta(minutes=31))
    assert not again(text, text, resumes="r")
    failed = run(text, None, outcome="failed")
    assert seen(Turn(run(text, run_id="r2"), failed), "asked_again", "objected") == []
    assert seen(Turn(run(None, run_id="r2"), run(text)), "asked_again", "objected") == []


@given(st.lists(st.text(max_size=8), max_size=30), st.lists(st.text(max_size=8), max_size=30))
def test_similarity_is_a_share(words: list[str], others: list[str]) -> None:
    """It is the same from both sides, within 0 and 1, and 1 for the same words."""
    words, others = [word for word in words if word], [word for word in others if word]
    assert similarity(words, others) == pytest.approx(similarity(others, words))
    assert -1e-9 <= similarity(words, others) <= 1
    assert similarity(words, words) == (1.0 if words else 0.0)


def test_an_objection_is_about_the_run_before() -> None:
    """A message that says "that's not right" says nothing of the answer that follows it."""
    turn = Turn(run("No, that's not right.", "Sorry: Canberra.", run_id="r2"), run("Capital of Australia?", "Sydney."))
    assert seen(turn) == [("objected", "r")]
    assert [said.text for _, said in notice(turn, detectors_of(ALL), NOW)] == [
        'The user objected to the answer: "No, that\'s not right.".'
    ]


def test_the_same_call_three_times_is_a_loop() -> None:
    """Twice may be meant, other arguments are another call, and one step that asks twice asks once."""
    assert seen(Turn(run("Q", "A", call(order=5), call(order=5), call(order=6)))) == []
    assert seen(Turn(run("Q", "A", call(order=5), call(order=5), call(order=5)))) == [("repeated_call", "r")]
    twice = call(order=5).model_copy(update={"tool_calls": call(order=5).tool_calls * 3})
    assert seen(Turn(run("Q", "A", twice, twice))) == []


def test_a_made_up_tool_is_noticed() -> None:
    """A tool that the model was not given is named; where nobody knows what it was given, nothing is said."""
    made_up = run("Q", "A", call("cancel"))
    assert seen(Turn(made_up, offered=frozenset({"find"}))) == [("unknown_tool", "r")]
    assert seen(Turn(made_up, offered=frozenset({"cancel"}))) == []
    assert seen(Turn(made_up)) == []


def test_a_turn_without_a_word_is_noticed() -> None:
    """An empty answer is none; a call that hands over, a failed model, or a run without a model says it otherwise."""
    assert seen(Turn(run(answer=" "))) == [("no_answer", "r")]
    assert seen(Turn(run("Q", None, call("hand_over")))) == []
    assert seen(Turn(run("Q", None, SPOKEN.model_copy(update={"error": "E: x"})))) == []
    assert seen(Turn(run("Q", None, call().model_copy(update={"kind": "node"})))) == []
    assert seen(Turn(run(answer=None, outcome="interrupted"))) == []


def test_what_is_not_recorded_is_not_missed() -> None:
    """A detector that needs a part of runs which is left out is left out, too."""
    assert [name for name, _ in detectors_of(ALL, ("answer",))] == [name for name in ALL if name != "no_answer"]
    assert len(detectors_of(ALL, ("reasoning",))) == len(ALL)


def test_a_signal_has_one_id_and_no_score() -> None:
    """Noticed twice, it is the same feedback; it judges nothing, and says by what it was noticed."""
    turn = Turn(run(answer=""))
    (first,), (second,) = ([said for _, said in notice(turn, detectors_of(ALL), NOW)] for _ in range(2))
    assert first == second
    assert (first.feedback_id, first.name, first.origin, first.score) == ("no_answer:r", "no_answer", "implicit", None)


def complains(turn: Turn) -> Noticed | None:
    """Notice shouting."""
    shouts = turn.run.question is not None and turn.run.question.isupper()
    return Noticed(turn.run, "The user shouted.") if shouts else None


def breaks(turn: Turn) -> Noticed | None:
    """Fail, as somebody's own function may."""
    raise RuntimeError(turn.run.run_id)


def answers_wrongly(turn: Turn) -> Any:
    """Return what no signal returns."""
    return "The user shouted."


def test_your_own_signal_is_asked_too(caplog: pytest.LogCaptureFixture) -> None:
    """A function of one's own is named as "module:function"; one that fails is logged, and the others are asked."""
    here = __name__
    with caplog.at_level(logging.ERROR):
        own = [f"{here}:{name}" for name in ("breaks", "answers_wrongly", "complains")]
        assert seen(Turn(run("WHERE IS IT?")), *own) == [("complains", "r")]
    for name in ("breaks", "answers_wrongly"):
        assert f"The signal {name!r} could not be looked for in the run r" in caplog.text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("shouted", "cannot hold 'shouted': name 'asked_again'"),
        (f"{__name__}:NOW", "which is a datetime: name a function"),
        ("nowhere:f", "cannot be loaded"),
    ],
)
def test_a_signal_that_there_is_none_of_is_refused(name: str, why: str) -> None:
    """The refusal says what there is."""
    with pytest.raises(ConfigError, match="signal") as refused:
        detectors_of([name])
    assert why in str(refused.value)


@given(st.text(max_size=400), st.text(max_size=400), st.recursive(st.integers() | st.text(), st.lists, max_leaves=20))
def test_no_text_breaks_a_detector(one: str, other: str, value: Any) -> None:
    """Whatever is written, every detector has an answer."""
    turn = Turn(run(one, other, call(x=value), run_id="r2"), run(other, one, call(x=[value])), frozenset({"find"}))
    for detect in implicit._DETECTORS.values():
        found = detect(turn)
        assert found is None or found.why
