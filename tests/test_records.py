"""The nouns keep their promises."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from langgraph_learnloop.errors import IllegalMoveError
from langgraph_learnloop.records import (
    FLAG_MOVES,
    Example,
    Feedback,
    Flag,
    Gate,
    Message,
    Recipe,
    Release,
    Scorecard,
    ToolCall,
    Verdict,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _gate(required: bool, passed: bool) -> Gate:
    return Gate(
        name="g", required=required, passed=passed, metric="m", champion=None, candidate=None, cases=1, because="B."
    )


def _card(*gates: Gate) -> Scorecard:
    return Scorecard(candidate="b", champion="a", gates=gates, at=NOW)


def test_a_scorecard_without_a_required_gate_has_not_passed() -> None:
    """all([]) is True, and must not ship anything."""
    assert not _card().passed
    assert not _card(_gate(required=False, passed=True)).passed


def test_one_failed_required_gate_stops() -> None:
    """Every required gate must pass; the others only inform."""
    assert _card(_gate(True, True), _gate(False, False)).passed
    assert not _card(_gate(True, True), _gate(True, False)).passed


@pytest.mark.parametrize(("state", "to"), [(s, t) for s in FLAG_MOVES for t in FLAG_MOVES if t not in FLAG_MOVES[s]])
def test_illegal_moves_of_a_flag_are_refused(state: str, to: str) -> None:
    """A flag goes only where the table of moves leads, and says where that is."""
    flag = Flag(run_id="r", agent="a", reasons=("x",), severity=0.5, state=state, at=NOW)  # type: ignore[arg-type]
    with pytest.raises(IllegalMoveError, match=r"'r'.*may go"):
        flag.move(to)  # type: ignore[arg-type]


def test_a_flag_moves_along_its_table() -> None:
    """Legal moves give a new record and leave the old one alone."""
    flag = Flag(run_id="r", agent="a", reasons=("x",), severity=0.5, at=NOW)
    assert flag.move("queued").move("curated").state == "curated"
    assert flag.state == "open"


def test_an_example_is_named_by_what_is_learned() -> None:
    """Where an example comes from, and what review said, does not change its id; its answer does."""
    question = (Message(role="user", content="q"),)
    one = Example(messages=question, chosen=Message(role="assistant", content="a"), origin="correction")
    before = one.example_id
    same = one.model_copy(update={"origin": "replay", "review": "approved", "by": "mia"})
    other = one.model_copy(update={"chosen": Message(role="assistant", content="b")})
    assert before == same.example_id != other.example_id
    assert one == same.model_copy(update={"origin": "correction", "review": "pending", "by": None})


def test_the_category_is_the_first_tool() -> None:
    """Gates look at one tool at a time; an answer in words is a category of its own."""
    call = Message(role="assistant", tool_calls=(ToolCall(name="set_timer"), ToolCall(name="play")))
    assert Example(messages=(), chosen=call, origin="replay").category == "set_timer"
    assert Example(messages=(), chosen=Message(role="assistant", content="x"), origin="replay").category == "answer"


def test_a_release_is_named_by_content_and_not_by_place_or_time() -> None:
    """Moving the adapter's folder or making it again later gives the same release; other weights do not."""
    one = Release(base_model="b", adapter="/x", adapter_sha256="1", recipe=Recipe(), made_at=NOW)
    moved = one.model_copy(update={"adapter": "/y", "made_at": NOW.replace(year=2027)})
    other = one.model_copy(update={"adapter_sha256": "2"})
    assert one.release_id == moved.release_id != other.release_id


def test_feedback_must_say_something() -> None:
    """Silence is no feedback."""
    with pytest.raises(ValidationError, match="must hold a score"):
        Feedback(feedback_id="f", run_id="r", at=NOW)


def test_an_edit_needs_its_message_and_nothing_else_has_one() -> None:
    """A verdict that edits carries the right answer."""
    with pytest.raises(ValidationError, match="edit"):
        Verdict(proposal_id="p", action="edit", by="mia")
    with pytest.raises(ValidationError, match="edit"):
        Verdict(proposal_id="p", action="approve", by="mia", chosen=Message(role="assistant", content="x"))


def test_unknown_fields_are_refused() -> None:
    """A record from a newer version, or a slip, is not read in silence."""
    with pytest.raises(ValidationError, match="extra"):
        Recipe.model_validate({"rang": 16})


def test_a_copy_of_a_release_has_an_id_of_its_own() -> None:
    """The id is remembered, and not by copies that are something else; nor is it compared or stored."""
    release = Release(base_model="base", made_at=datetime(2026, 1, 1, tzinfo=UTC))
    asked = release.release_id
    other = release.model_copy(update={"instructions": "Be kind."})
    assert other.release_id != asked
    assert release.model_copy(update={"adapter": "elsewhere"}).release_id == asked
    assert Release.model_validate_json(release.model_dump_json()) == release.model_copy() == release
