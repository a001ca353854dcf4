"""What nobody said of a run is noticed when it is stored, wherever it comes from, and raises a flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.mirrors import ForeignRun
from langgraph_learnloop.signals.implicit import Noticed, Turn
from langgraph_learnloop.testing import ScriptedModel
from tests.test_importing import AT, Elsewhere, foreign

Ask = Callable[..., LearnLoop]


def find_order(order: int) -> str:
    """Return where an order is."""
    return f"Order {order} is on its way."


def calling(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Return what asks a scripted agent some questions in one thread, and gives back its loop."""
    opened: list[LearnLoop] = []

    def asking(script: Sequence[Any], *questions: str, **settings: Any) -> LearnLoop:
        loop = LearnLoop(tmp_path / "l.db", config=LoopConfig(agent="shop", **settings))
        opened.append(loop)
        agent = loop.watch(create_agent(ScriptedModel(script=list(script)), [find_order]))
        for question in questions:
            agent.invoke({"messages": [("user", question)]}, {"configurable": {"thread_id": "t1"}})
        return loop

    yield asking
    for loop in opened:
        loop.close()


def flags(loop: LearnLoop) -> dict[str, tuple[str, ...]]:
    """Return why runs are flagged, by what was asked."""
    return {str(loop.store.runs.run(one.run_id).question): one.reasons for one in loop.flagged()}


def test_the_run_before_is_flagged(ask: Ask) -> None:
    """Whoever asks again, or objects, was not served by the answer before."""
    loop = ask(["Soon.", "On Monday.", "On Tuesday."], "Where is my order 5?", "so where is my order 5", "No, wrong")
    assert flags(loop) == {
        "so where is my order 5": ("The user objected to the answer: 'No, wrong'.",),
        "Where is my order 5?": ("The user asked nearly the same again: 'so where is my order 5'.",),
    }


def test_what_the_agent_did_is_flagged(ask: Ask) -> None:
    """A made-up tool is told from one that was offered, and what was noticed on one run is one flag."""
    loop = ask([calling("find_order", order=5), "It is on its way.", calling("cancel"), "I can't do that."], "Q1", "Q2")
    (flag,) = loop.flagged()
    assert flag.reasons == (
        'The agent gave up: "I can\'t do that.".',
        "The agent called 'cancel', a tool that it was not given.",
    )
    assert flag.severity == pytest.approx(0.64)


def test_whoever_liked_it_knows_better(ask: Ask) -> None:
    """What somebody scored above 0 is not flagged by a guess; a bad score and a guess both count."""
    questions = ["Where is my order 5?", "Where is my order 5?", "Where is my order 5?"]
    loop = ask(["Soon.", "Soon.", "Soon."], questions[0])
    loop.feedback(thread="t1", score=1)
    loop = ask(["Soon.", "Soon."], questions[1])
    assert loop.flagged() == ()
    loop.feedback(thread="t1", score=-1)
    (flag,) = ask(["Soon."], questions[2]).flagged()
    assert [reason.split(":")[0] for reason in flag.reasons] == [
        "It was judged badly",
        "The user asked nearly the same again",
    ]


def test_other_threads_are_not_compared(ask: Ask) -> None:
    """What was asked elsewhere says nothing of a run here."""
    text = "Where is my order 5?"
    loop = ask(["A", "B"], text)
    other = loop.watch(create_agent(ScriptedModel(script=["C"]), []))
    other.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": "t2"}})
    assert loop.flagged() == ()


def test_nothing_is_noticed_where_nobody_wants_it(ask: Ask) -> None:
    """Without signals only what was said or failed counts; one that there is none of is refused at once."""
    assert (
        ask(["I don't know.", "I don't know."], "Where is my order 5?", "Where is my order 5?", signals=()).flagged()
        == ()
    )
    with pytest.raises(ConfigError, match="cannot hold 'luck'"):
        ask([], signals=("luck",))


def elsewhere(turn: Turn) -> Noticed | None:
    """Notice something of a run that is not in the store."""
    return Noticed(turn.run.model_copy(update={"run_id": "nowhere"}), "It was bad.")


def test_a_signal_of_no_run_is_let_go(ask: Ask) -> None:
    """A detector that speaks of a run which is not there does not keep the others from speaking."""
    loop = ask(["I don't know."], "Q", signals=(f"{__name__}:elsewhere", "gave_up"))
    assert [flag.run_id for flag in loop.flagged()] == [loop.runs()[0].run_id]
    assert loop.health().dropped == {}


def test_secrets_do_not_come_back_in_reasons(ask: Ask) -> None:
    """A reason quotes what was stored, and that is masked."""
    loop = ask(["Soon.", "Soon."], "Where is the parcel of jo@example.com?", "so where is the parcel of jo@example.com")
    assert "jo@example.com" not in str(loop.flagged()) + str(loop.store.feedback.all())
    assert len(loop.flagged()) == 1


def asked(number: int, question: str) -> ForeignRun:
    """Return a run of one thread that began so many minutes after the first."""
    at = AT + timedelta(minutes=number)
    one = foreign(f"run-{number}", thread_id="t1", question=question, started_at=at)
    steps = tuple(step._replace(step=step.step.model_copy(update={"tool_calls": ()})) for step in one.steps)
    return one._replace(steps=steps)


@pytest.mark.parametrize("backwards", [True, False])
def test_imported_runs_are_compared_in_any_order(backwards: bool, tmp_path: Path) -> None:
    """A tracer may tell the newest first, in as many imports as it likes."""
    runs = [asked(0, "Where is my parcel to Rome?"), asked(1, "where is my parcel to rome"), asked(2, "No, wrong")]
    with LearnLoop(tmp_path / "l.db", config=LoopConfig(agent="shop"), now=lambda: AT) as loop:
        for one in reversed(runs) if backwards else runs:
            loop.import_runs(Elsewhere(one), AT)
        assert {one.run_id for one in loop.flagged()} == {"run-0", "run-1"}
        assert len(loop.store.feedback.all()) == 2
