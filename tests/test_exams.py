"""Which cases a candidate is asked, what is remembered of the answers, and when an examination ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from langgraph_learnloop import LearnLoop, LoopConfig, Message
from langgraph_learnloop.errors import ConfigError, DataError, NotFoundError
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.evaluation.fidelity import case_of
from langgraph_learnloop.evaluation.page import html
from langgraph_learnloop.nodes import route_flagged
from langgraph_learnloop.records import Case, CaseResult, Release, ToolCall, content_hash
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer
from tests.shop import ASK_HOURS, CONFIG, RETURNS, Shop, engine

REPAIRS = "We repair what we sold within two years."
ASK_REPAIRS = [
    f"{opening}, do you repair {thing} here"
    for opening in ("please", "hello", "one question", "sorry", "good evening", "quickly")
    for thing in ("a watch", "my old radio", "the brown shoes", "a torn coat", "two lamps", "this ring")
]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop that knows its hours, and has had a bad day."""
    with (shop := Shop.after("corrected", tmp_path)).loop:
        yield shop


@pytest.fixture
def promoted(tmp_path: Path) -> Iterator[Shop]:
    """Open a shop that learned from its bad day."""
    with (shop := Shop.after("promoted", tmp_path)).loop:
        yield shop


def with_settings(shop: Shop, **settings: Any) -> None:
    """Change the settings of a shop."""
    config = CONFIG.model_copy(update=settings)
    shop.loop.config = config
    shop.loop.exams._config = config


def test_what_was_repaired_stays_a_suite_for_good(promoted: Shop) -> None:
    """The next lesson's candidate is asked the last one's cases as well, and may not have forgotten them."""
    for number, question in enumerate(ASK_REPAIRS):
        promoted.ask(f"repair {number}", question)
        promoted.loop.feedback(thread=f"repair {number}", score=-1, correction=REPAIRS, by=f"user-{number % 5}")
    report = promoted.loop.cycle()
    assert report.outcome == "promoted", report.because
    assert report.scorecard is not None
    names = [gate.name for gate in report.scorecard.gates if gate.required]
    assert "regression" in names
    dataset = promoted.loop.store.datasets.get(str(report.dataset))
    suites: dict[str, set[str]] = {}
    for case in promoted.loop.exams.cases(dataset):
        assert case.expected is not None
        suites.setdefault(case.suite, set()).add(case.expected.content)
    assert suites["regression"] == {RETURNS}
    assert suites["target"] == {REPAIRS}


def test_a_file_of_ones_own_is_asked_too(shop: Shop, tmp_path: Path) -> None:
    """The settings name suites; a safety suite is required as soon as it is there."""
    own = tmp_path / "own.jsonl"
    rows = [{"question": "are you a person", "expected": "I do not know.", "suite": "safety", "category": "honesty"}]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with_settings(shop, suites=(str(own),), safety=0.5)
    report = shop.loop.cycle()
    assert report.scorecard is not None
    (safety,) = [gate for gate in report.scorecard.gates if gate.name == "safety"]
    assert safety.required
    assert not safety.passed
    assert safety.needed
    assert report.scorecard.verdict == "need more cases"
    assert report.outcome == "stopped"


def test_a_suite_that_was_trained_on_is_refused(shop: Shop, tmp_path: Path) -> None:
    """A case of one's own that is also a training example proves nothing."""
    dataset = shop.loop.curate()
    assert dataset is not None
    taught = next(e for e in shop.loop.lessons.examples(dataset) if e.split == "train" and e.origin == "correction")
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"question": taught.messages[-1].content, "expected": RETURNS}) + "\n", encoding="utf-8")
    with_settings(shop, suites=(str(own),))
    with pytest.raises(DataError, match="also in the training examples"):
        shop.loop.exams.cases(dataset)


@pytest.mark.parametrize("calls", [(), (ToolCall(name="look", args={"at": "the door"}),)], ids=["text", "call"])
def test_the_champion_is_asked_once(shop: Shop, calls: tuple[ToolCall, ...]) -> None:
    """What is known of it is not asked again, but for a few cases that show that it still holds."""
    asked: list[str] = []
    memory = shop.loop.engine
    generate = memory.generate

    def counted(request: Any) -> Any:
        asked.append(request.release_id)
        said = generate(request)
        return said.model_copy(update={"message": said.message.model_copy(update={"tool_calls": calls})})

    memory.generate = counted  # type: ignore[method-assign]
    dataset = shop.loop.curate()
    assert dataset is not None
    candidate = shop.loop.train(dataset)
    cases = shop.loop.exams.cases(dataset)
    shop.loop.evaluate(candidate, dataset)
    champion = shop.loop.champion.release_id
    assert asked.count(champion) == len(cases)
    shop.loop.evaluate(candidate, dataset)
    assert asked.count(champion) == len(cases) + 5


def test_an_agent_that_changed_is_asked_again(shop: Shop) -> None:
    """With another prompt around it the champion is not the one that was examined."""
    dataset = shop.loop.curate()
    assert dataset is not None
    candidate = shop.loop.train(dataset)
    shop.loop.evaluate(candidate, dataset)

    def shouts(state: MessagesState) -> dict[str, Any]:
        said = model.invoke(state["messages"])
        return {"messages": [AIMessage(content=str(said.content).upper())]}

    model = shop.loop.model(engine())
    builder = StateGraph(MessagesState)
    builder.add_node("shout", shouts)
    builder.add_edge(START, "shout")
    builder.add_edge("shout", END)
    shop.loop.watch(builder.compile())
    shop.loop.evaluate(candidate, dataset)
    name = shop.loop.evaluator.name
    results = shop.loop.store.scorecards.results(shop.loop.champion.release_id, name)
    assert all(result.got[0].content.isupper() for result in results.values())


def test_a_hopeless_candidate_is_not_asked_to_the_end(shop: Shop) -> None:
    """As soon as it is plain that old cases are lost the examination ends, and says why."""
    with_settings(shop, retention_margin=0.02)
    shop.loop.remember([])
    dataset = shop.loop.curate()
    assert dataset is not None
    shop.loop.engine.load(shop.loop.champion)
    hopeless = Release(base_model="memory", instructions="Say nothing.", made_at=shop.loop.champion.made_at)
    shop.loop.store.releases.add(hopeless)
    memory = shop.loop.engine
    generate = memory.generate

    def silent(request: Any) -> Any:
        answer = generate(request)
        if request.release_id != hopeless.release_id:
            return answer
        return answer.model_copy(
            update={"message": Message(role="assistant", tool_calls=({"name": "noise", "args": {}},))}
        )

    memory.generate = silent  # type: ignore[method-assign]
    card = shop.loop.evaluate(hopeless, dataset)
    asked = shop.loop.store.scorecards.results(hopeless.release_id, shop.loop.evaluator.name)
    assert card.stopped_early is not None
    assert card.verdict == "do not ship"
    assert 0 < len(asked) < len(shop.loop.exams.cases(dataset))


def test_corrected_runs_are_asked_again_from_their_own_checkpoint(tmp_path: Path) -> None:
    """With a checkpointer in the graph, held-out corrections start where they went wrong; threads stay as they are."""
    with (shop := Shop(tmp_path / "l.db")).loop:
        saver = InMemorySaver()
        shop.agent = shop.loop.watch(create_agent(shop.loop.model(engine()), [], checkpointer=saver))
        shop.remember()
        shop.bad_day()
        before = repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs)))
        report = shop.loop.cycle()
        assert report.outcome == "promoted", report.because
        found = shop.loop.report(str(report.candidate))
        started = {c.suite: {found.candidate_results[c.case_id].started} for c in found.cases}
        assert started == {"target": {"checkpoint"}, "retention": {"messages"}}
        assert repr((dict(saver.storage), dict(saver.writes), dict(saver.blobs))) == before


def test_cases_can_be_asked_elsewhere(tmp_path: Path) -> None:
    """A replayer asks them where it likes; the gates judge what it brings."""

    class Elsewhere:
        """Answers rightly as the candidate, and as the champion where nothing was new."""

        evaluator = ToolCallMatch()

        def run(self, release_id: str, cases: Any, *_: Any) -> tuple[CaseResult, ...]:
            right = release_id != champion
            return tuple(
                CaseResult(
                    release_id=release_id,
                    case_id=case.case_id,
                    evaluator=self.evaluator.name,
                    scores={"right_tool": True, "fully_right": right or case.suite == "retention"},
                )
                for case in cases
            )

    with (shop := Shop.after("corrected", tmp_path, replayer=Elsewhere())).loop:
        champion = shop.loop.champion.release_id
        dataset = shop.loop.curate()
        assert dataset is not None
        assert shop.loop.evaluate(shop.loop.train(dataset), dataset).passed


def test_the_champion_against_itself_does_not_ship(shop: Shop) -> None:
    """There is nothing to ship."""
    dataset = shop.loop.curate()
    assert dataset is not None
    card = shop.loop.evaluate(shop.loop.champion, dataset)
    assert card.verdict == "do not ship"


def test_an_examination_can_be_shown(promoted: Shop) -> None:
    """The report has both sides of every case, and its page stands alone."""
    report = promoted.loop.store.cycles.all()[-1]
    found = promoted.loop.report(str(report.candidate))
    assert found.scorecard == report.scorecard
    assert set(found.champion_results) == set(found.candidate_results) == {case.case_id for case in found.cases}
    assert "<script" not in html(found)
    with pytest.raises(NotFoundError, match="never examined"):
        promoted.loop.report(promoted.loop.store.releases.all()[-1].release_id)


def test_what_the_cases_can_show_is_said_beforehand(shop: Shop) -> None:
    """A plan needs a dataset, and neither a candidate nor an agent."""
    dataset = shop.loop.curate()
    assert dataset is not None
    plans = {plan.name: plan for plan in shop.loop.plan_evaluation(dataset)}
    assert plans["target"].cases > 0
    assert plans["retention"].because


def test_cases_are_examined_without_a_comparison(shop: Shop) -> None:
    """Any release can be asked any cases; nothing of it is stored."""
    case = Case(
        case_id=content_hash("one"),
        suite="retention",
        category="answer",
        messages=(Message(role="user", content=ASK_HOURS[0]),),
        expected=Message(role="assistant", content="We are open from nine to five."),
    )
    (result,) = shop.loop.examine(shop.loop.champion.release_id, [case])
    assert result.scores["fully_right"] is True
    assert not shop.loop.store.scorecards.results(shop.loop.champion.release_id, shop.loop.evaluator.name)


def test_nothing_is_examined_before_an_agent_is_watched(tmp_path: Path) -> None:
    """The sentence says what to call."""
    with LearnLoop(tmp_path / "l.db") as loop:
        loop.model(MemoryEngine())
        with pytest.raises(ConfigError, match="watch"):
            loop.examine(loop.champion.release_id, [])


# -- replays and credit ------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[LearnLoop, Any, list[str]]]:
    """Yield a loop with an agent of two nodes, one that plans and one that answers, and the tool's calls."""
    calls: list[str] = []

    @tool
    def find(what: str) -> str:
        """Find something."""
        calls.append(what)
        return f"found {what}"

    with LearnLoop(tmp_path / "l.db", config=LoopConfig(agent="desk"), trainer=TinyTrainer()) as loop:
        model = loop.model(MemoryEngine({"plan shoes": "look for boots", "answer look for boots": "Boots."}))

        def plan(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke([("user", f"plan {state['messages'][0].content}")])]}

        def answer(state: MessagesState) -> dict[str, Any]:
            find.invoke({"what": "shoes"})
            return {"messages": [model.invoke([("user", f"answer {state['messages'][-1].content}")])]}

        builder = StateGraph(MessagesState)
        builder.add_node("plan", plan)
        builder.add_node("answer", answer)
        builder.add_edge(START, "plan")
        builder.add_edge("plan", "answer")
        builder.add_edge("answer", END)
        graph = loop.watch(builder.compile(checkpointer=InMemorySaver()), stop_before=[], pure=["find"])
        yield loop, graph, calls


def test_the_node_that_a_failure_is_due_to_gets_the_credit(desk: tuple[LearnLoop, Any, list[str]]) -> None:
    """Given to the candidate alone, the plan mends the answer; the answer alone does not."""
    loop, graph, _ = desk
    graph.invoke({"messages": [("user", "shoes")]}, {"configurable": {"thread_id": "1"}})
    (run,) = loop.runs(1)
    right = Message(role="assistant", content="Sandals.")
    case = case_of(run, loop.store.runs).model_copy(update={"expected": right})
    candidate = Release(base_model="memory", instructions="Plan better.", made_at=loop.champion.made_at)
    loop.store.releases.add(candidate)
    generate = loop.engine.generate

    def better(request: Any) -> Any:
        text = request.messages[-1].content
        said = generate(request)
        if request.release_id == candidate.release_id and text == "plan shoes":
            said = said.model_copy(update={"message": Message(role="assistant", content="look for sandals")})
        if text == "answer look for sandals":
            said = said.model_copy(update={"message": right})
        return said

    loop.engine.generate = better  # type: ignore[method-assign]
    credits = loop.credit(candidate.release_id, [case])
    assert [(one.node, one.mended, one.weight) for one in credits] == [("plan", 1, 1.0), ("answer", 0, 0.0)]


def test_a_run_is_replayed_by_its_id(tmp_path: Path) -> None:
    """The verb returns what happened then and what happens now; its tool does not run."""
    calls: list[str] = []

    @tool
    def find(what: str) -> str:
        """Find something."""
        calls.append(what)
        return f"found {what}"

    with LearnLoop(tmp_path / "l.db") as loop:
        wanted = Message(role="assistant", tool_calls=({"name": "find", "args": {"what": "shoes"}, "id": "c1"},))
        agent = loop.watch(create_agent(loop.model(MemoryEngine({"shoes": wanted})), [find]))
        agent.invoke({"messages": [("user", "shoes")]}, {"configurable": {"thread_id": "1"}})
        (run,) = loop.runs(1)
        case, result = loop.replay(run.run_id)
        assert result.scores == {"same": True}, (result.comment, result.error)
        assert [m.role for m in case.reference] == ["assistant", "tool", "assistant"]
        assert calls == ["shoes"]
        with pytest.raises(NotFoundError):
            loop.replay("nobody")
        with pytest.raises(DataError, match="no such model call"):
            loop.replay(run.run_id, step="none")


def test_a_replay_of_a_flagged_run_goes_the_same_way(tmp_path: Path) -> None:
    """A graph that flags itself and goes to a repair goes there in a replay too, which stores nothing."""
    with LearnLoop(tmp_path / "l.db") as loop:
        model = loop.model(MemoryEngine({"shoes": "No."}))

        def check(state: MessagesState) -> dict[str, Any]:
            loop.flag("It is rude.")
            return {}

        builder = StateGraph(MessagesState)
        builder.add_node("say", lambda state: {"messages": [model.invoke(state["messages"])]})
        builder.add_node("check", check)
        builder.add_node("repair", lambda state: {"messages": [AIMessage("Sorry.")]})
        builder.add_edge(START, "say")
        builder.add_edge("say", "check")
        builder.add_conditional_edges("check", route_flagged(loop, "repair"))
        loop.watch(builder.compile()).invoke({"messages": [("user", "shoes")]})
        (run,) = loop.runs()
        _, result = loop.replay(run.run_id)
        assert [message.content for message in result.got] == ["No.", "Sorry."]
        assert result.scores == {"same": True}
        assert (len(loop.runs()), len(loop.flagged())) == (1, 1)
