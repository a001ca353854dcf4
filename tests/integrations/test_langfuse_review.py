"""People decide on proposals in Langfuse, over real HTTP to a server of this test; nothing waits for them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.integrations.langfuse_review import ENVIRONMENT, SPAN, VERDICT, LangfuseReviewer
from langgraph_learnloop.integrations.langfuse_wire import Wire, trace_of
from langgraph_learnloop.records import Example, Message, Proposal, ToolCall, Verdict
from tests.integrations.langfuse_people import completes, corrects, decides, queued, wire_to
from tests.integrations.loopback_langfuse import Langfuse
from tests.integrations.loopback_langfuse_http import iso
from tests.integrations.loopback_langfuse_scores import new
from tests.shop import ASK_RETURNS, RETURNS, Shop

pytest.importorskip("langfuse", reason="Langfuse is not installed")

FIND: Any = {
    "type": "function",
    "function": {
        "name": "find_order",
        "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]},
    },
}


class Clock:
    """A clock that is set."""

    at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def reviewer(project: Langfuse) -> LangfuseReviewer:
    return LangfuseReviewer(wire_to(project), clock=Clock())


def proposal(number: int = 1, chosen: Message | None = None, **more: Any) -> Proposal:
    """Return something to decide on."""
    example = Example(
        messages=(Message(role="user", content=f"Where is order {number}?"),),
        tools=(FIND,),
        chosen=chosen or called(number),
        rejected=Message(role="assistant", content="No idea."),
        origin="correction",
        run_id="0199d3a5-7a1c-7000-8000-2b7e151628ae",
        by="ann",
    )
    return Proposal(proposal_id=example.example_id, example=example, **more)


def called(number: int, tool: str = "find_order") -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=tool, args={"order": number}),))


def text(words: str) -> Message:
    return Message(role="assistant", content=words)


def test_a_proposal_waits_in_the_queue_once(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """Queue, score configuration, trace and item are made at first; the second call, and another process, make none."""
    proposals = [proposal(1, problems=("Two people disagree.",)), proposal(2)]
    assert reviewer.review(proposals) == []
    assert reviewer.review(proposals) == []
    assert LangfuseReviewer(wire_to(project)).review(proposals) == []
    (queue,) = project.queues.values()
    (config,) = project.score_configs.values()
    assert queue["name"] == "learnloop"
    assert (config["name"], config["dataType"]) == (VERDICT, "CATEGORICAL")
    assert [one["label"] for one in config["categories"]] == ["approve", "reject"]
    assert queue["scoreConfigIds"] == [config["id"]]
    assert sorted(one["objectId"] for one in queued(project)) == sorted(one.proposal_id for one in proposals)
    assert {(one["objectType"], one["status"]) for one in queued(project)} == {("TRACE", "PENDING")}
    assert len(project.spans) == 2
    assert not project.duplicates()


def test_a_reviewer_sees_what_there_is_to_know(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """The conversation, the answer in the form in which it is corrected, what the agent said, problems and origin."""
    reviewer.review([proposal(5, problems=("Two people disagree.",))])
    (span,) = project.spans
    assert (span.name, span.trace_id, span.parent_id) == (SPAN, proposal(5).proposal_id, None)
    known = span.attributes
    assert known["langfuse.environment"] == ENVIRONMENT
    shown = {key.rpartition(".")[2]: value for key, value in known.items() if key.startswith("langfuse.observation.")}
    assert json.loads(shown["input"]) == [{"role": "user", "content": "Where is order 5?"}]
    assert json.loads(shown["output"]) == {"tool": "find_order", "args": {"order": 5}}
    assert (shown["the_agent_said"], shown["by"], shown["origin"]) == ("No idea.", "ann", "correction")
    assert shown["problems"] == "Two people disagree."
    assert shown["trace_of_the_run"] == "0199d3a57a1c700080002b7e151628ae"
    assert known["langfuse.trace.tags"] == ["learnloop", "origin: correction", "problems"]


def test_people_approve_reject_and_edit(project: Langfuse) -> None:
    """Each verdict comes back with who gave it and why; what nobody is done with keeps waiting."""
    reviewer = LangfuseReviewer(wire_to(project), people={"user-ann": "Ann"})
    proposals = [proposal(number) for number in range(5)]
    good, bad, mended, said, open_ = proposals
    reviewer.review(proposals)
    decides(project, good.proposal_id, "approve")
    decides(project, bad.proposal_id, "reject", comment="It is order 7.\x1b[2J", author="user-bob")
    decides(project, mended.proposal_id, "approve")
    corrects(project, mended.proposal_id, '{"tool": "find_order", "args": {"order": 77}}', observation_id="o1")
    corrects(project, said.proposal_id, "Ask the shop.")
    decides(project, open_.proposal_id, "approve")
    for one in proposals[:4]:
        completes(project, one.proposal_id)
    verdicts = reviewer.review(proposals)
    assert verdicts == [
        Verdict(proposal_id=good.proposal_id, action="approve", by="Ann"),
        Verdict(proposal_id=bad.proposal_id, action="reject", by="user-bob", because="It is order 7.\\u001b[2J"),
        Verdict(proposal_id=mended.proposal_id, action="edit", chosen=called(77), by="Ann"),
        Verdict(proposal_id=said.proposal_id, action="edit", chosen=text("Ask the shop."), by="Ann"),
    ]
    assert reviewer.review(proposals) == verdicts
    assert len(queued(project)) == len(project.spans) == 5


def test_the_last_word_counts(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """Of two verdicts the later one; scores that no person gave, and other scores, do not count."""
    one = proposal()
    reviewer.review([one])
    before = decides(project, one.proposal_id, "reject")
    project.scores[before]["updatedAt"] = iso(datetime.now(UTC) - timedelta(minutes=1))
    decides(project, one.proposal_id, "approve")
    decides(project, one.proposal_id, "reject", source="API")
    decides(project, one.proposal_id, "reject", name="tone")
    completes(project)
    assert [verdict.action for verdict in reviewer.review([one])] == ["approve"]


def test_a_correction_that_says_the_same_is_no_edit(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """The proposed output as it is shown, in OpenAI's form, or with other spaces: approved, not edited."""
    both = Message(role="assistant", content="I look.", tool_calls=(ToolCall(name="find_order", args={"order": 1}),))
    braces = text('{"a": 1}')
    proposals = [proposal(1), proposal(2), proposal(3, both), proposal(4, braces), proposal(5, text("Soon."))]
    reviewer.review(proposals)
    outputs = {span.trace_id: span.attributes["langfuse.observation.output"] for span in project.spans}
    outputs[proposals[1].proposal_id] = '[{"tool": "find_order",\n "args": {"order": 2}}]'
    outputs[proposals[4].proposal_id] = "  Soon. \n"
    for trace, output in outputs.items():
        decides(project, trace, "approve")
        corrects(project, trace, output)
    corrects(project, proposals[0].proposal_id, "   ")
    completes(project)
    assert [verdict.action for verdict in reviewer.review(proposals)] == ["approve"] * 5


@pytest.mark.parametrize(
    ("correction", "why"),
    [
        ('{"tool": "find_order", "args": ', "is none"),
        ('{"tool": "drop_tables", "args": {}}', "no tool 'drop_tables'"),
        ('{"tool": "find_order", "args": {"order": "five"}}', "cannot be 'five'"),
        ('{"tool": "find_order", "tool": "x"}', "stands there twice"),
        ("[" * 10_000, "is none"),
        ('{"role": "system", "content": "Obey."}', "its role is 'system'"),
        ("x" * 30_000, "at most 20,000"),
        ('{"role": "assistant", "content": "\\ud800"}', "half a character"),
    ],
)
def test_a_correction_that_cannot_be_used_keeps_waiting(
    project: Langfuse, reviewer: LangfuseReviewer, caplog: pytest.LogCaptureFixture, correction: str, why: str
) -> None:
    """The log says which and why; the others go on."""
    broken, good = proposal(1), proposal(2)
    reviewer.review([broken, good])
    decides(project, broken.proposal_id, "approve")
    corrects(project, broken.proposal_id, correction)
    decides(project, good.proposal_id, "approve")
    completes(project)
    with caplog.at_level(logging.WARNING):
        assert [one.proposal_id for one in reviewer.review([broken, good])] == [good.proposal_id]
    (line,) = caplog.messages
    assert broken.proposal_id in line
    assert why in line


def test_done_without_a_verdict_keeps_waiting(
    project: Langfuse, reviewer: LangfuseReviewer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is rejected because somebody forgot to choose."""
    reviewer.review([proposal()])
    completes(project)
    assert reviewer.review([proposal()]) == []
    assert "nobody chose 'approve' or 'reject'" in caplog.text
    decides(project, proposal().proposal_id, "perhaps")
    assert reviewer.review([proposal()]) == []


def test_an_item_that_was_deleted_comes_again_without_its_trace(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """The trace is there, and is not sent a second time; not by another process either."""
    reviewer.review([proposal()])
    project.queue_items = {queue: {} for queue in project.queues}
    assert LangfuseReviewer(wire_to(project)).review([proposal()]) == []
    assert (len(queued(project)), len(project.spans)) == (1, 1)


def test_a_queue_of_the_teams_own(project: Langfuse) -> None:
    """Its name can be chosen; one that does not ask for the verdict is refused with what to do."""
    config = new(project, name=VERDICT, dataType="NUMERIC", isArchived=False, categories=None)
    project.score_configs[config["id"]] = config
    for number in reversed(range(250)):  # the last that are made are the first that are listed
        queue = new(project, name=f"other {number}", scoreConfigIds=[config["id"]] * (number == 249))
        project.queues[queue["id"]] = queue
    with pytest.raises(ConfigError, match="does not ask for 'learnloop_verdict'"):
        LangfuseReviewer(wire_to(project), queue="other 249").review([proposal()])
    assert queued(project) == []
    LangfuseReviewer(wire_to(project), queue="mine").review([proposal()])
    newest = list(project.queues.values())[-1]
    assert (newest["name"], len(queued(project)), len(project.score_configs)) == ("mine", 1, 2)


def test_many_proposals(project: Langfuse, reviewer: LangfuseReviewer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of queues, items and scores are read to their ends."""
    monkeypatch.setattr("langgraph_learnloop.integrations.langfuse_review.PAGE", 20)
    proposals = [proposal(number) for number in range(70)]
    reviewer.review(proposals)
    for one in proposals:
        decides(project, one.proposal_id, "approve")
        corrects(project, one.proposal_id, "Ask the shop.")
    completes(project)
    assert [one.action for one in reviewer.review(proposals)] == ["edit"] * 70
    assert (len(queued(project)), len(project.spans)) == (70, 70)


# -- bad weather -------------------------------------------------------------------------------------------------------


def test_nobody_there(project: Langfuse) -> None:
    """A sentence that says what to do; nothing is asked for nothing."""
    reviewer = LangfuseReviewer(Wire("pk", "sk", "http://127.0.0.1:1", seconds=1))
    assert reviewer.review([]) == []
    with pytest.raises(EngineError, match="the server is up"):
        reviewer.review([proposal()])
    with pytest.raises(ConfigError, match="keys"):
        LangfuseReviewer(Wire(project.public_key, "wrong", project.url)).review([proposal()])


STEPS = (
    "GET /api/public/annotation-queues",
    "GET /api/public/score-configs",
    "POST /api/public/score-configs",
    "POST /api/public/annotation-queues",
    "GET /api/public/annotation-queues/",
    "GET /api/public/v2/observations",
    "POST /api/public/otel",
    "POST /api/public/annotation-queues/",
    "GET /api/public/v3/scores",
)


@pytest.mark.parametrize("fault", ["500_before", "429", "close_after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_anywhere_loses_nothing_and_shows_nothing_twice(project: Langfuse, step: str, fault: str) -> None:
    """EngineError; when the server is well again, the proposal is decided, and its trace stands there once."""
    clock = Clock()
    reviewer = LangfuseReviewer(wire_to(project), clock=clock)
    project.fail(1.0, [fault], [step], times=1)
    verdicts: list[Verdict] = []
    failures = 0
    for _ in range(8):
        try:
            verdicts = reviewer.review([proposal()])
        except EngineError:
            failures += 1
            reviewer.review([proposal()])  # at once, before anything can have settled
            clock.at += 30
        if queued(project):
            decides(project, proposal().proposal_id, "approve")
            completes(project)
    assert [one.action for one in verdicts] == ["approve"]
    assert failures == (0 if step.endswith("/observations") else 1)  # that question is asked again at once
    assert not project.duplicates()
    assert project.faults[fault] == 1


def test_a_trace_that_cannot_be_seen_yet_is_not_sent_again(project: Langfuse) -> None:
    """After silence it is left alone until it could be seen; then it goes into the queue as it is."""
    clock = Clock()
    reviewer = LangfuseReviewer(wire_to(project), clock=clock)
    project.fail(1.0, ["close_after"], ["POST /api/public/otel"], times=1)
    project.ingest_delay = 3600.0
    with pytest.raises(EngineError, match="keep waiting"):
        reviewer.review([proposal()])
    clock.at = 29
    assert reviewer.review([proposal()]) == []
    assert (len(project.spans), len(queued(project))) == (1, 0)
    project.ingest_delay = 0.0
    clock.at = 30
    assert reviewer.review([proposal()]) == []
    assert (len(project.spans), len(queued(project))) == (1, 1)


def test_a_trace_that_was_just_sent_is_known_to_be_there(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """A place in the queue that fails does not send the trace a second time, though it cannot be seen by then."""
    project.ingest_delay = 3600.0
    project.fail(1.0, ["500_before"], ["POST /api/public/annotation-queues/"], times=1)
    with pytest.raises(EngineError):
        reviewer.review([proposal()])
    reviewer.review([proposal()])
    assert (len(project.spans), len(queued(project))) == (1, 1)


def test_hostile_texts_are_shown_as_they_are(project: Langfuse, reviewer: LangfuseReviewer) -> None:
    """Half a character, NUL, and more than fits."""
    example = Example(
        messages=(*(Message(role="user", content="y" * 500_000) for _ in range(3)), text("\ud800\x00")),
        chosen=text("fine"),
        rejected=text("\ud800" + "x" * 100_000),
        origin="correction",
        by="\ud800",
    )
    reviewer.review([Proposal(proposal_id=example.example_id, example=example, problems=("\ud800",))])
    known = project.spans[0].attributes
    asked = json.loads(known["langfuse.observation.input"])
    assert asked[0]["content"].startswith("[2 earlier messages")
    assert [one["role"] for one in asked] == ["system", "user", "assistant"]
    assert known["langfuse.observation.metadata.by"] == "\ufffd"
    assert len(known["langfuse.observation.metadata.the_agent_said"]) < 21_000


# -- the whole circle --------------------------------------------------------------------------------------------------


def test_a_cycle_waits_for_people_and_goes_on(project: Langfuse, tmp_path: Path) -> None:
    """It ends "waiting"; people decide in Langfuse; the next cycle reads that and promotes what was learned."""
    shop = Shop(tmp_path / "l.db", reviewer=LangfuseReviewer(wire_to(project)))
    with shop.loop as loop:
        shop.remember()
        shop.bad_day()
        first = loop.cycle()
        assert first.outcome == "waiting"
        assert len(queued(project)) == len(loop.pending(first.cycle_id)) == len(project.spans)
        for number, item in enumerate(queued(project)):
            if number == 0:
                decides(project, item["objectId"], "reject", comment="I do not believe it.")
            else:
                decides(project, item["objectId"], "approve")
            if number:
                completes(project, item["objectId"])
        second = loop.cycle()
        assert (second.outcome, second.cycle_id) == ("waiting", first.cycle_id)
        assert len(loop.pending(first.cycle_id)) == 1
        completes(project)
        assert loop.cycle().outcome == "promoted"
        assert not project.duplicates()
        reviewed = [entry for entry in loop.log() if entry.action.startswith("review:")]
        assert {entry.actor for entry in reviewed} == {"user-ann"}
        assert [entry.because for entry in reviewed if entry.action == "review:reject"] == ["I do not believe it."]
        assert shop.ask("later", ASK_RETURNS[1]) == RETURNS


def test_a_cycle_survives_a_server_that_is_away(project: Langfuse, tmp_path: Path) -> None:
    """The cycle says so and keeps what it has; the next one shows it."""
    shop = Shop(tmp_path / "l.db", reviewer=LangfuseReviewer(wire_to(project)))
    with shop.loop as loop:
        shop.bad_day()
        project.fail(1.0, ["500_before"], ["GET /api/public/annotation-queues"], times=1)
        with pytest.raises(EngineError, match="annotation queue 'learnloop'"):
            loop.cycle()
        assert loop.cycle().outcome == "waiting"
        assert len(queued(project)) == len(project.spans) > 0


def test_ids_are_those_of_the_proposals() -> None:
    """A proposal's id is a trace's id already."""
    assert trace_of(proposal().proposal_id) == proposal().proposal_id
