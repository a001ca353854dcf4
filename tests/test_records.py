"""The nouns keep their promises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from langgraph_learnloop.errors import IllegalMoveError
from langgraph_learnloop.records import (
    FLAG_MOVES,
    ROLLOUT_MOVES,
    Example,
    Feedback,
    Flag,
    Gate,
    Message,
    Recipe,
    Release,
    Rollout,
    Routes,
    Scorecard,
    ToolCall,
    Verdict,
    content_hash,
)
from langgraph_learnloop.records.feedback import FlagState
from langgraph_learnloop.records.rollouts import RolloutState

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


def flag(state: str = "open", **more: Any) -> Flag:
    return Flag(**{"run_id": "r", "agent": "a", "reasons": ("x",), "severity": 0.5, "at": NOW, "state": state, **more})


def rollout(state: str = "canary", **more: Any) -> Rollout:
    made = {"rollout_id": "r1", "candidate": "new", "champion": "old", "started_at": NOW, "stage_at": NOW}
    return Rollout(**{**made, "state": state, **more})


def go(one: Flag | Rollout, state: Any, step: int = 0) -> Flag | Rollout:
    """Move either, at a time of its own."""
    return one.move(state) if isinstance(one, Flag) else one.move(state, step, "so", "ann", NOW + timedelta(hours=step))


def first(kind: str, state: str | None = None) -> Flag | Rollout:
    return flag(state or "open") if kind == "flag" else rollout(state or "shadow")


TABLES: dict[str, Any] = {"flag": FLAG_MOVES, "rollout": ROLLOUT_MOVES}
KINDS = pytest.mark.parametrize("kind", TABLES)
PAIRS = [(kind, state, to) for kind, table in TABLES.items() for state in table for to in table]


def test_the_tables_of_moves() -> None:
    """Every state has its row, a flag may be taken up again, and a rollout that has ended stays so."""
    assert set(FLAG_MOVES) == set(get_args(FlagState))
    assert set(ROLLOUT_MOVES) == set(get_args(RolloutState))
    assert {state: sorted(to) for state, to in FLAG_MOVES.items()} == {
        "open": ["dismissed", "queued"],
        "queued": ["curated", "dismissed", "open"],
        "curated": [],
        "dismissed": ["open"],
    }
    assert {state: sorted(to) for state, to in ROLLOUT_MOVES.items()} == {
        "shadow": ["canary", "live", "paused", "rolled_back"],
        "canary": ["canary", "live", "paused", "rolled_back"],
        "paused": ["canary", "live", "rolled_back", "shadow"],
        "live": [],
        "rolled_back": [],
    }


@KINDS
def test_every_state_can_be_reached(kind: str) -> None:
    """From where a flag or a rollout begins the moves lead to every state of its table."""
    reached, left = set(), [first(kind).state]
    while left:
        state = left.pop()
        reached.add(state)
        left += TABLES[kind][state] - reached
    assert reached == set(TABLES[kind])


@pytest.mark.parametrize(("kind", "state", "to"), PAIRS)
def test_only_what_the_table_holds_can_be_done(kind: str, state: str, to: str) -> None:
    """A legal move gives a new record; an illegal one says where it may go; neither changes the old one."""
    one = first(kind, state)
    before = one.model_dump()
    if to in TABLES[kind][state]:
        assert go(one, to).state == to
    else:
        legal = ", ".join(sorted(TABLES[kind][state])) or ("nowhere" if kind == "flag" else "nowhere, it has ended")
        what = "flag on run 'r'" if kind == "flag" else "rollout of 'new'"
        said = f"The {what} cannot go from {state!r} to {to!r}; from there it may go: {legal}."
        with pytest.raises(IllegalMoveError) as error:
            go(one, to)
        assert str(error.value) == said
    assert one.model_dump() == before


@KINDS
@given(data=st.data())
def test_no_walk_leaves_the_table(kind: str, data: st.DataObject) -> None:
    """Whatever is asked for, in whatever order, only legal moves are made, and what has ended is not moved."""
    one: Any = first(kind)
    for step, to in enumerate(data.draw(st.lists(st.sampled_from(sorted(TABLES[kind])), max_size=12)), start=1):
        state = one.state
        try:
            one = go(one, to, step)
        except IllegalMoveError:
            assert to not in TABLES[kind][state]
            assert one.state == state
        else:
            assert to in TABLES[kind][state]
    if kind == "rollout":
        assert one.moves == len(one.past)
        assert one.open == bool(ROLLOUT_MOVES[one.state])


def test_a_rollout_remembers_its_way() -> None:
    """A move keeps when it had which share, counts itself, and says who and why."""
    later, latest = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    one = rollout(percent=5).move("canary", 25, "fine", "ann", later).move("live", 100, "all of them", "bob", latest)
    assert (one.because, one.by, one.moves, one.stage_at, one.started_at) == ("all of them", "bob", 2, latest, NOW)
    assert one.past == ((NOW, 5), (later, 25))
    assert one.share_at(NOW - timedelta(seconds=1)) is None
    assert one.share_at(NOW) == (NOW, 5)
    assert one.share_at(latest - timedelta(seconds=1)) == (later, 25)
    assert one.share_at(latest) == (latest, 100)


def test_a_rollout_begins_small_and_by_the_loop() -> None:
    """What nobody sets: five stages, no share yet, moved by nobody."""
    one = rollout()
    assert (one.mode, one.stages, one.percent, one.because, one.by) == (
        "stages", (1, 5, 25, 50, 100), 0, "", "learnloop"
    )  # fmt: skip
    assert (one.moves, one.past, one.open, one.next_percent) == (0, (), True, 1)
    assert (rollout(percent=5).next_percent, rollout(percent=99).next_percent) == (25, 100)
    assert rollout(percent=100).next_percent is None
    assert (rollout(percent=25).stage, rollout("paused").stage) == ("25%", "paused")
    assert Routes("old") == ("old", None, 0, "", frozenset(), None)


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_share_is_of_a_hundred(percent: int) -> None:
    """Nobody gets less than nothing or more than everything."""
    with pytest.raises(ValidationError):
        rollout(percent=percent)


def test_a_flag_begins_open() -> None:
    """What nobody sets: it is to be looked at, and of no conversation."""
    one = Flag(run_id="r", agent="a", reasons=("x",), severity=0.5, at=NOW)
    assert (one.state, one.thread_id) == ("open", None)
    assert [rollout(mode=mode).mode for mode in ("stages", "blue_green", "ab")] == ["stages", "blue_green", "ab"]
    assert Rollout.model_validate(rollout(mode="blue_green").model_dump()).mode == "blue_green"


@pytest.mark.parametrize("severity", [-0.01, 1.01])
def test_a_severity_is_from_0_to_1(severity: float) -> None:
    """Nothing is worse than the worst."""
    with pytest.raises(ValidationError):
        flag(severity=severity)
    assert [flag(severity=end).severity for end in (0, 1)] == [0, 1]


@pytest.mark.parametrize("score", [-1.01, 1.01])
def test_a_score_is_from_minus_1_to_1(score: float) -> None:
    """Beyond good and bad there is nothing."""
    with pytest.raises(ValidationError):
        Feedback(feedback_id="f", run_id="r", at=NOW, score=score)
    assert [Feedback(feedback_id="f", run_id="r", at=NOW, score=end).score for end in (-1, 1)] == [-1, 1]


@pytest.mark.parametrize(
    "said",
    [{"score": 0.0}, {"text": "hm"}, {"categories": ("slow",)}, {"correction": Message(role="assistant", content="a")}],
)
def test_one_thing_said_is_feedback(said: dict[str, Any]) -> None:
    """A score of 0, a text, a category or a correction is enough; by default a user says it on purpose."""
    one = Feedback.model_validate({"feedback_id": "f", "run_id": "r", "at": NOW, **said})
    assert (one.name, one.origin, one.step_id, one.by) == ("user", "explicit", None, None)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def turned(value: Any) -> Any:
    """Return a JSON value with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(item) for key, item in reversed(value.items())}
    return [turned(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_a_hash_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    """What is equal as JSON has one name."""
    assert content_hash(value) == content_hash(turned(value))
    assert content_hash([value]) != content_hash(value)


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


SAID = Message(role="user", content="Find order 5.")
ASKS = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}, id="c1"),))
FOUND = Message(role="tool", content="Sent.", tool_call_id="c1")
DONE = Message(role="assistant", content="It was sent.")


def test_shots_may_call_tools() -> None:
    """A call that is answered is an exchange like any other."""
    assert Release(base_model="m", shots=(SAID, ASKS, FOUND, DONE), made_at=NOW).shots[2] == FOUND


@pytest.mark.parametrize(
    ("shots", "reason"),
    [
        ((SAID, Message(role="system", content="Be kind."), DONE), "put what it says into the instructions"),
        ((SAID, FOUND, DONE), "answers the tool call 'c1', which nobody asked for"),
        ((SAID, ASKS, FOUND, FOUND, DONE), "the shot 3 answers the tool call 'c1'"),
        ((SAID, ASKS, DONE), r"the tool calls \['c1'\] in the shots have no answer"),
        ((SAID, ASKS), "have no answer: let a tool message follow"),
        ((SAID, Message(role="assistant", content="x" * 100_001)), "shorten them, or train on them"),
    ],
)
def test_shots_that_no_conversation_can_begin_with_are_refused(shots: tuple[Message, ...], reason: str) -> None:
    """The sentence names the message, and the way out."""
    with pytest.raises(ValidationError, match=reason):
        Release(base_model="m", shots=shots, made_at=NOW)
