"""Corrections become proposals about the model call that was wrong."""

from __future__ import annotations

import pytest

from langgraph_learnloop.curation.propose import propose, replayable
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Message, ToolCall
from tests.curation.builders import TOOLS, MemoryReader, answer, call, user

RESULT = Message(role="tool", content="ok", tool_call_id="c1")


def two_step_run(reader: MemoryReader, run_id: str = "r") -> None:
    """Store a run that called a tool and then answered."""
    asked = [user("Play Abba")]
    called = Message(role="assistant", tool_calls=(ToolCall(name="book_table", args={}, id="c1"),))
    first = reader.step("first", asked, [called])
    reader.add(run_id, [first, reader.step("last", [*asked, called, RESULT], [answer("Booked.")])])


def test_a_corrected_call_blames_the_first_model_call() -> None:
    """The example is what that call read and was offered; what it said, without its random id, is rejected."""
    reader = MemoryReader()
    two_step_run(reader)
    reader.say("r", correction=call("play_music", artist="Abba"))
    [made] = propose([reader.run("r")], reader)
    assert made.example.messages == (user("Play Abba"),)
    assert made.example.tools == TOOLS
    assert made.example.chosen == call("play_music", artist="Abba")
    assert made.example.rejected == call("book_table")
    assert (made.example.origin, made.example.by, made.example.run_id) == ("correction", "ann", "r")
    assert made.proposal_id == made.example.example_id


def test_a_corrected_text_blames_the_last_model_call() -> None:
    """A right answer in words replaces the run's last answer."""
    reader = MemoryReader()
    two_step_run(reader)
    reader.say("r", correction=answer("I play Abba."))
    [made] = propose([reader.run("r")], reader)
    assert made.example.messages[-1] == RESULT
    assert made.example.rejected == answer("Booked.")


def test_a_named_step_is_blamed() -> None:
    """Feedback about one model call is about that one, whatever the correction is."""
    reader = MemoryReader()
    two_step_run(reader)
    reader.say("r", correction=answer("Which Abba?"), step_id="first")
    [made] = propose([reader.run("r")], reader)
    assert made.example.messages == (user("Play Abba"),)


def test_the_last_turn_is_meant() -> None:
    """In a run of several turns a corrected call is about the first model call of the last turn."""
    reader = MemoryReader()
    turn = [user("Hi"), answer("Hello"), user("Play Abba")]
    steps = [reader.step("one", turn[:1], turn[1:2]), reader.step("two", turn, [answer("No.")])]
    reader.add("r", steps)
    reader.say("r", correction=call("play_music", artist="Abba"))
    [made] = propose([reader.run("r")], reader)
    assert made.example.messages == tuple(turn)


def test_a_model_call_without_tools_is_not_blamed_for_a_wrong_tool() -> None:
    """A router that reads the same request first, but was offered no tools, is not what the correction is about."""
    reader = MemoryReader()
    asked = [user("Play Abba")]
    steps = [reader.step("router", asked, [answer("music")], tools=None), reader.step("agent", asked, [answer("No.")])]
    reader.add("r", steps)
    reader.say("r", correction=call("play_music", artist="Abba"))
    [made] = propose([reader.run("r")], reader)
    assert made.example.rejected == answer("No.")


def test_the_newest_correction_of_a_rater_counts() -> None:
    """Who corrects twice means the second."""
    reader = MemoryReader()
    reader.simple("r", "Play Abba", answer("No."))
    reader.say("r", minute=2, correction=call("play_music", artist="Abba"))
    reader.say("r", minute=1, correction=answer("older"))
    [made] = propose([reader.run("r")], reader)
    assert made.example.chosen.tool_calls


def test_raters_who_disagree_make_a_proposal_each() -> None:
    """Two corrections by two people are two proposals, for the checks to decide."""
    reader = MemoryReader()
    reader.simple("r", "Play Abba", answer("No."))
    reader.say("r", by="ann", correction=call("play_music", artist="Abba"))
    reader.say("r", by="bob", correction=call("book_table", restaurant="Abba"))
    assert [p.example.by for p in propose([reader.run("r")], reader)] == ["ann", "bob"]


def test_runs_that_cannot_teach_make_no_proposal() -> None:
    """No correction, no model call, or messages that were erased: no proposal, and no error."""
    reader = MemoryReader()
    reader.simple("plain", "Hi", answer("Hello"))
    reader.add("empty", [])
    reader.say("empty", correction=answer("x"))
    reader.simple("erased", "Secret", answer("?"))
    reader.say("erased", correction=answer("y"))
    reader.bodies.pop(reader.lists[str(reader.run("erased").steps[0].input)][0])
    assert propose(list(reader.runs.values()), reader) == []


def test_broken_tool_schemas_are_a_sentence() -> None:
    """Tool schemas that are no JSON are a DataError naming the step."""
    reader = MemoryReader()
    run = reader.simple("r", "Hi", answer("Hello"))
    reader.say("r", correction=answer("x"))
    for blob, reason in ((b"{", "are no JSON"), (b'{"a": 1}', "are no list of mappings"), (b"[1]", "are no list")):
        reader.blobs[str(run.steps[0].tools)] = blob
        with pytest.raises(DataError, match=f"s-r.*{reason}"):
            propose([run], reader)


def test_the_same_lesson_has_the_same_id() -> None:
    """Random call ids are no part of a lesson: two runs that went wrong alike make one example."""
    reader = MemoryReader()
    two_step_run(reader, "a")
    two_step_run(reader, "b")
    for name in ("a", "b"):
        reader.say(name, correction=call("play_music", artist="Abba"))
    assert len({p.proposal_id for p in propose(list(reader.runs.values()), reader)}) == 1


def test_silence_is_no_approval() -> None:
    """Only runs that somebody liked are kept."""
    reader = MemoryReader()
    for name in ("liked", "silent", "disliked", "commented"):
        reader.simple(name, f"Play {name}", call("play_music", artist=name))
    reader.say("liked", score=1)
    reader.say("disliked", score=-1)
    reader.say("commented", text="hm")
    [kept] = replayable(list(reader.runs.values()), reader)
    assert (kept.run_id, kept.origin, kept.by, kept.chosen) == (
        "liked", "approved", "ann", call("play_music", artist="liked"),
    )  # fmt: skip


def test_what_cannot_be_read_again_is_not_replayed() -> None:
    """A liked run without a model call, without an answer, or whose messages were erased, is passed over."""
    reader = MemoryReader()
    reader.add("empty", [])
    reader.add("mute", [reader.step("s", [user("Hi")], [])])
    reader.simple("erased", "Secret", answer("I keep it."))
    reader.bodies.pop(reader.lists[str(reader.run("erased").steps[0].input)][0])
    for name in reader.runs:
        reader.say(name, score=1)
    assert replayable(list(reader.runs.values()), reader) == []


def test_one_voice_against_a_run_keeps_it_from_replay() -> None:
    """A run with a good mean is not replayed when one rater disliked it, it failed, or it was corrected."""
    reader = MemoryReader()
    for name in ("mixed", "corrected"):
        reader.simple(name, f"Play {name}", call("play_music", artist=name))
        reader.say(name, by="bob", score=1)
    reader.simple("failed", "Play failed", call("play_music", artist="failed"), outcome="failed")
    reader.say("failed", score=1)
    reader.say("mixed", by="ann", score=-0.5)
    reader.say("corrected", by="ann", correction=answer("no"))
    assert replayable(list(reader.runs.values()), reader) == []
