"""Curation as a graph: it waits for review, loses nothing, and goes on after a crash."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from langgraph_learnloop.curation import graph as module
from langgraph_learnloop.curation.graph import (
    Curation,
    approved,
    curate,
    curation_graph,
    decided,
    pending,
    resume,
    settled,
)
from langgraph_learnloop.curation.review import ApproveChecked
from langgraph_learnloop.errors import DataError, NotFoundError
from langgraph_learnloop.records import Verdict
from tests.curation.builders import MemoryReader, answer, call

RUNS = ["r0", "r1", "r2"]


@pytest.fixture
def reader() -> MemoryReader:
    """Return a reader with three corrected runs; the last correction does not fit."""
    held = MemoryReader()
    for i, artist in enumerate(["Abba", "Queen", "nobody"]):
        held.simple(f"r{i}", f"Play {['Abba', 'Queen', 'Blur'][i]}", answer("No."))
        held.say(f"r{i}", correction=call("play_music", artist=artist))
    return held


@pytest.fixture
def graph(reader: MemoryReader) -> Curation:
    """Return a curation that remembers in memory."""
    return curation_graph(reader, checkpointer=InMemorySaver())


def verdict(proposal_id: str, action: str = "approve", **given: Any) -> dict[str, Any]:
    """Return a verdict as a person's client would send it."""
    return {"proposal_id": proposal_id, "action": action, "by": "ann", **given}


def test_it_stops_at_review(graph: Curation) -> None:
    """Every corrected run waits for review with what the checks said; nothing is approved yet."""
    waiting = curate(graph, "c1", RUNS)
    assert [p.example.run_id for p in waiting] == RUNS
    assert [bool(p.problems) for p in waiting] == [False, False, True]
    assert pending(graph, "c1") == waiting
    assert approved(graph, "c1") == ()


def test_the_interrupt_is_json(graph: Curation) -> None:
    """What the review is shown can be sent as JSON, so that any client can answer."""
    waiting = curate(graph, "c1", RUNS)
    [asked] = graph.get_state({"configurable": {"thread_id": "c1"}}).interrupts
    assert [p["proposal_id"] for p in json.loads(json.dumps(asked.value))["proposals"]] == [
        p.proposal_id for p in waiting
    ]


def test_verdicts_make_examples(graph: Curation) -> None:
    """Approved proposals become examples as they are, edited ones with the edit, rejected ones not at all."""
    first, second, third = curate(graph, "c1", RUNS)
    edit = call("play_music", artist="Blur").model_dump(mode="json")
    left = resume(
        graph,
        "c1",
        [
            verdict(first.proposal_id),
            verdict(second.proposal_id, "reject"),
            verdict(third.proposal_id, "edit", chosen=edit),
        ],
    )
    assert left == ()
    one, other = approved(graph, "c1")
    assert (one.review, one.chosen) == ("approved", first.example.chosen)
    assert (other.review, other.chosen) == ("edited", call("play_music", artist="Blur"))
    assert [v.action for _, v in decided(graph, "c1")] == ["approve", "reject", "edit"]


def test_proposals_without_a_verdict_stay_pending(graph: Curation) -> None:
    """A review may come in parts; nothing is built before the last part."""
    waiting = curate(graph, "c1", RUNS)
    left = resume(graph, "c1", [Verdict.model_validate(verdict(waiting[1].proposal_id))])
    assert [p.example.run_id for p in left] == ["r0", "r2"]
    assert approved(graph, "c1") == ()
    assert resume(graph, "c1", []) == left
    assert resume(graph, "c1", ApproveChecked().review(left)) == ()
    assert [e.run_id for e in approved(graph, "c1")] == ["r0", "r1"]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda p: verdict("unknown"), "'unknown' does not wait for review"),
        (lambda p: {"proposal_id": p, "action": "maybe", "by": "ann"}, "action: .*nothing was decided"),
        (lambda p: {"proposal_id": p, "action": "approve"}, "by: Field required"),
        (lambda p: verdict(p, "edit"), "an edit must have the chosen message"),
        (lambda p: verdict(p, "edit", chosen=call("play_musik").model_dump(mode="json")), "no tool 'play_musik'"),
        (lambda p: verdict(p, "edit", chosen={"role": "user", "content": "hi"}), "its role is 'user'"),
        (lambda p: "approve", "A verdict is not usable"),
    ],
)
def test_a_bad_verdict_decides_nothing(graph: Curation, bad: Any, sentence: str) -> None:
    """One bad verdict refuses the whole answer with a sentence, and everything stays pending."""
    waiting = curate(graph, "c1", RUNS)
    good = verdict(waiting[1].proposal_id)
    with pytest.raises(DataError, match=sentence):
        resume(graph, "c1", [good, bad(waiting[0].proposal_id)])
    assert pending(graph, "c1") == waiting


def test_two_verdicts_on_one_proposal_decide_nothing(graph: Curation) -> None:
    """Contradicting verdicts are refused."""
    waiting = curate(graph, "c1", RUNS)
    both = [verdict(waiting[0].proposal_id), verdict(waiting[0].proposal_id, "reject")]
    with pytest.raises(DataError, match="two verdicts"):
        resume(graph, "c1", both)
    assert pending(graph, "c1") == waiting


@pytest.mark.parametrize("rubbish", [None, "yes", 5, {"proposals": []}, [None], [{"proposal_id": "x"}]])
def test_rubbish_from_another_client_is_asked_again(graph: Curation, rubbish: Any) -> None:
    """A client that resumes the graph itself with something else is asked again, with the reason."""
    waiting = curate(graph, "c1", RUNS)
    config = {"configurable": {"thread_id": "c1"}}
    out = graph.invoke(Command(resume={"answer": rubbish} if rubbish is None else rubbish), config)
    assert out["__interrupt__"][0].value["refused"]
    assert pending(graph, "c1") == waiting
    assert resume(graph, "c1", ApproveChecked().review(waiting)) == ()


def test_nothing_to_curate_ends_at_once(graph: Curation) -> None:
    """Without runs, or with runs that were forgotten, there is no review and no example."""
    assert curate(graph, "c1", []) == ()
    assert curate(graph, "c2", ["forgotten"]) == ()
    assert approved(graph, "c1") == approved(graph, "c2") == ()
    with pytest.raises(NotFoundError, match="'c1' has no open review"):
        resume(graph, "c1", [])


def test_an_unknown_thread_is_a_sentence(graph: Curation) -> None:
    """A thread that was never started has nothing pending, and cannot be resumed."""
    assert pending(graph, "nope") == ()
    assert decided(graph, "nope") == ()
    with pytest.raises(NotFoundError, match="'nope' has no open review"):
        resume(graph, "nope", [])


def test_starting_again_changes_nothing(graph: Curation) -> None:
    """Curating a thread twice goes on with the first; runs that were flagged since wait for the next cycle."""
    waiting = curate(graph, "c1", RUNS[:1])
    assert curate(graph, "c1", RUNS) == waiting
    resume(graph, "c1", ApproveChecked().review(waiting))
    assert curate(graph, "c1", RUNS) == ()
    assert len(approved(graph, "c1")) == 1


def stored(path: Path, reader: MemoryReader) -> Curation:
    """Open a curation on a database file, as a new process would."""
    return curation_graph(reader, checkpointer=SqliteSaver(sqlite3.connect(path, check_same_thread=False)))


def test_a_killed_process_goes_on_at_review(tmp_path: Path, reader: MemoryReader) -> None:
    """A new graph on the same file waits with the same proposals, and earlier verdicts stand."""
    waiting = curate(stored(tmp_path / "c.db", reader), "c1", RUNS)
    again = stored(tmp_path / "c.db", reader)
    assert curate(again, "c1", []) == waiting
    left = resume(again, "c1", [verdict(waiting[0].proposal_id)])
    reader.runs.clear()
    last = stored(tmp_path / "c.db", reader)
    assert pending(last, "c1") == left
    resume(last, "c1", ApproveChecked().review(left))
    assert [e.run_id for e in approved(stored(tmp_path / "c.db", reader), "c1")] == ["r0", "r1"]


def test_a_process_killed_during_the_checks_goes_on_there(
    tmp_path: Path, reader: MemoryReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was gathered is kept when the checks die, and the next start goes on with them."""

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "check", killed)
        with pytest.raises(KeyboardInterrupt):
            curate(stored(tmp_path / "c.db", reader), "c1", RUNS)
    monkeypatch.setattr(module, "propose", lambda *_: pytest.fail("gathered twice"))
    waiting = curate(stored(tmp_path / "c.db", reader), "c1", RUNS)
    assert [bool(p.problems) for p in waiting] == [False, False, True]


def test_every_run_is_settled_once_review_is_done(graph: Curation, reader: MemoryReader) -> None:
    """Runs that taught something are curated, also when another run taught the same; the others are dismissed."""
    reader.simple("twin", "Play Abba", answer("No."))
    reader.say("twin", correction=call("play_music", artist="Abba"))
    reader.add("mute", [])
    waiting = curate(graph, "c1", [*RUNS, "twin", "mute", "forgotten"])
    assert settled(graph, "c1") == {}
    resume(graph, "c1", ApproveChecked().review(waiting))
    states = {"r0": "curated", "r1": "curated", "r2": "dismissed"}
    assert settled(graph, "c1") == {**states, "twin": "curated", "mute": "dismissed", "forgotten": "dismissed"}
    assert settled(graph, "unknown") == {}


def test_threads_do_not_mix(graph: Curation) -> None:
    """Two curations at once each have their own proposals."""
    one, other = curate(graph, "c1", RUNS[:1]), curate(graph, "c2", RUNS[1:])
    resume(graph, "c1", ApproveChecked().review(one))
    assert pending(graph, "c2") == other


def test_it_is_a_plain_graph(graph: Curation) -> None:
    """The graph has the four nodes by name and asks for run ids only, as LangGraph Studio shows it."""
    assert set(graph.nodes) == {"__start__", "gather", "check", "review", "build"}
    assert list(graph.get_input_jsonschema()["properties"]) == ["run_ids"]
