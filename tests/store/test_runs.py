"""Runs and their messages come back as they went in."""

from collections.abc import Callable
from datetime import timedelta, timezone

import orjson
import pytest
import zstandard
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)

from langgraph_learnloop.errors import NotFoundError, StoreError
from langgraph_learnloop.records import Interned, Message, Recorded, Run, Step, ToolCall
from langgraph_learnloop.store.opened import Store
from tests.store.recorded import recorded


def _body(message: BaseMessage) -> bytes:
    return zstandard.ZstdCompressor().compress(orjson.dumps(message_to_dict(message)))


def test_a_run_comes_back_as_it_went_in(store: Store, make_run: Callable[..., Run]) -> None:
    """Every field survives, steps and times in other zones included."""
    run = make_run("r1", thread_id="t", release="abc", user="ann", answer="no", tags=("x",), seconds=1.5)
    run = run.model_copy(update={"started_at": run.started_at.astimezone(timezone(timedelta(hours=5)))})
    store.runs.add_runs(recorded(run))
    assert store.runs.run("r1") == run


def test_adding_again_changes_nothing(store: Store, make_run: Callable[..., Run]) -> None:
    """A batch that is sent twice, as after a failure half-way, is stored once."""
    message = {"h": _body(HumanMessage("hi"))}
    store.runs.add_runs(recorded(make_run("r1"), bodies=message))
    store.runs.add_runs(recorded(make_run("r1", outcome="failed"), make_run("r2"), bodies=message))
    assert store.runs.count() == 2
    assert store.runs.run("r1").outcome == "finished"


def test_recent_is_newest_first_and_narrowed(store: Store, make_run: Callable[..., Run]) -> None:
    """The newest run comes first; agent, outcome and thread narrow; the limit cuts."""
    store.runs.add_runs(
        recorded(
            make_run("r1", 1, thread_id="t"),
            make_run("r3", 3, agent="other", outcome="failed"),
            make_run("r2", 2, thread_id="t"),
        )
    )
    assert [run.run_id for run in store.runs.recent()] == ["r3", "r2", "r1"]
    assert [run.run_id for run in store.runs.recent(limit=1, agent="support")] == ["r2"]
    assert [run.run_id for run in store.runs.recent(outcome="failed")] == ["r3"]
    assert [run.run_id for run in store.runs.recent(thread_id="t")] == ["r2", "r1"]
    assert store.runs.last_of_thread("t").run_id == "r2"


def test_an_unknown_run_thread_or_message_is_named(store: Store) -> None:
    """A lookup that finds nothing says what was looked for, and where."""
    with pytest.raises(NotFoundError, match="'r9' is not in the store"):
        store.runs.run("r9")
    with pytest.raises(NotFoundError, match="thread 't9' has no run"):
        store.runs.last_of_thread("t9")
    with pytest.raises(NotFoundError, match="message 'h9'"):
        store.runs.messages(["h9"])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (SystemMessage("s"), Message(role="system", content="s")),
        (HumanMessage("h", name="ann"), Message(role="user", content="h", name="ann")),
        (
            AIMessage("a", tool_calls=[{"name": "add", "args": {"x": 1}, "id": "c"}]),
            Message(role="assistant", content="a", tool_calls=(ToolCall(name="add", args={"x": 1}, id="c"),)),
        ),
        (AIMessageChunk("a"), Message(role="assistant", content="a")),
        (
            ToolMessage("3", tool_call_id="c", name="add"),
            Message(role="tool", content="3", tool_call_id="c", name="add"),
        ),
        (ChatMessage("d", role="developer"), Message(role="system", content="d")),
        (ChatMessage("d", role="assistant"), Message(role="assistant", content="d")),
        (ChatMessage("d", role="narrator"), Message(role="user", content="d")),
        (
            HumanMessage([{"type": "text", "text": "look "}, {"type": "image", "url": "u"}, "here"]),
            Message(role="user", content="look here"),
        ),
        (
            AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]),
            Message(role="assistant", content="yes"),
        ),
    ],
)
def test_a_message_is_read_without_langchain(store: Store, stored: BaseMessage, read: Message) -> None:
    """Each kind of LangChain message becomes one of OpenAI's roles, with text, calls and ids."""
    store.runs.add_runs(recorded(bodies={"h": _body(stored)}))
    assert store.runs.messages(["h"]) == (read,)


def test_messages_come_in_the_order_that_was_asked_for(store: Store) -> None:
    """Order and repetition follow the question, also beyond what fits into one query."""
    store.runs.add_runs(recorded(bodies={f"h{i}": _body(HumanMessage(str(i))) for i in range(1200)}))
    asked = [f"h{i}" for i in range(1199, -1, -1)] + ["h5", "h5"]
    assert [message.content for message in store.runs.messages(asked)] == [key[1:] for key in asked]


def test_a_blob_comes_back_decompressed(store: Store) -> None:
    """JSON that is no message, such as tool schemas, can be read by its hash."""
    store.runs.add_runs(recorded(bodies={"h": zstandard.ZstdCompressor().compress(b'[{"name":"add"}]')}))
    assert store.runs.blob("h") == b'[{"name":"add"}]'


def test_a_list_is_read_through_those_that_it_continues(store: Store, make_run: Callable[..., Run]) -> None:
    """Lists that share a beginning are read whole, one or many; a list that lost what it continues is named."""
    bodies = {key: _body(HumanMessage(key)) for key in "abc"} | {"t": zstandard.ZstdCompressor().compress(b"[]")}
    lists = {"1": (None, ("a", "b")), "2": ("1", ("a",)), "3": ("1", ("c",)), "torn": ("gone", ("a",))}
    run = make_run("r1", messages="2")
    step = Step(
        step_id="s",
        parent_id="r1",
        kind="model",
        name="m",
        started_at=run.started_at,
        input="3",
        output=("b",),
        tools="t",
    )
    run = run.model_copy(update={"steps": (step,)})
    store.runs.add_runs([Recorded(run, Interned(bodies, lists))])
    assert store.runs.items("2") == ("a", "b", "a")
    assert [message.content for message in store.runs.conversation("3")] == ["a", "b", "c"]
    assert store.runs.conversation(None) == ()
    texts = store.runs.texts([run, run])
    assert texts.lists == {"2": ("a", "b", "a"), "3": ("a", "b", "c")}
    assert ({key: one.content for key, one in texts.messages.items()}, texts.blobs) == (
        {"a": "a", "b": "b", "c": "c"},
        {"t": b"[]"},
    )
    for asked in ("torn", "nobody"):
        with pytest.raises(NotFoundError, match=f"list of messages '{asked}' is not whole"):
            store.runs.items(asked)


def test_runs_are_found_by_time_and_release(store: Store, make_run: Callable[..., Run]) -> None:
    """Before a time the latest of a release, from a time on all of an agent; and threads that are older."""
    made = [make_run(f"r{minute}", minute, release="x", thread_id=f"t{minute % 2}") for minute in range(4)]
    store.runs.add_runs(recorded(*made, make_run("other", 2, agent="other", release="x", thread_id="t9")))
    at = made[2].started_at
    assert [run.run_id for run in store.runs.since(at, "support")] == ["r2", "r3"]
    assert [run.run_id for run in store.runs.before(at, "support", "x", 1)] == ["r1"]
    assert store.runs.before(at, "support", "y", 9) == ()
    assert store.runs.older_threads(["t0", "t1", "t9"], at) == {"t0", "t1"}
    assert [run.run_id for run in store.runs.every("other")] == ["other"]


def test_neighbours_in_a_thread(store: Store, make_run: Callable[..., Run]) -> None:
    """The run before and the run after, of the same thread and agent; runs without a thread have none."""
    made = [make_run(f"r{minute}", minute, thread_id=f"t{minute % 2}") for minute in range(5)]
    odd = [make_run("alone", 9), make_run("alone2", 10), make_run("other", 11, thread_id="t0", agent="other")]
    store.runs.add_runs(recorded(*made, *odd))
    assert {key: run.run_id for key, run in store.runs.preceding([made[4], made[3]]).items()} == {
        "r4": "r2",
        "r3": "r1",
    }
    assert {key: run.run_id for key, run in store.runs.preceding([*made, *odd]).items()} == {
        "r2": "r0",
        "r3": "r1",
        "r4": "r2",
    }
    assert {key: run.run_id for key, run in store.runs.following(made[:3]).items()} == {
        "r0": "r2",
        "r1": "r3",
        "r2": "r4",
    }
    assert store.runs.following([made[4], *odd]) == {}
    assert store.runs.preceding([]) == {}


def test_all_runs_are_read_piece_by_piece(store: Store, make_run: Callable[..., Run]) -> None:
    """Runs that began at one moment are neither left out nor read twice at the seam of two pieces."""
    store.runs.add_runs(recorded(*(make_run(f"r{number:04}", number // 700) for number in range(1200))))
    assert [run.run_id for run in store.runs.every()] == [f"r{number:04}" for number in range(1200)]


def test_a_run_is_named_by_the_beginning_of_its_id(store: Store, make_run: Callable[..., Run]) -> None:
    """One that several have is refused, and so is one that nobody has; a whole id is no beginning."""
    store.runs.add_runs(recorded(make_run("abc"), make_run("abd"), make_run("a%"), make_run("a")))
    assert store.runs.resolve("a").run_id == "a"
    assert store.runs.resolve("abd").run_id == "abd"
    assert store.runs.resolve("a%").run_id == "a%"
    with pytest.raises(NotFoundError, match="Several runs begin with 'ab'"):
        store.runs.resolve("ab")
    with pytest.raises(NotFoundError, match="run 'x' is not in the store"):
        store.runs.resolve("x")


def test_an_image_is_kept_beside_the_store(store: Store, make_run: Callable[..., Run]) -> None:
    """It comes back in its message; without its file the reference stays; a folder that takes none is a sentence."""
    digest = "0" * 64
    block = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,learnloop-blob:{digest}:5"}}
    bodies = {"h": _body(HumanMessage([block]))}
    for _ in range(2):
        store.runs.add_runs([Recorded(make_run("r1"), Interned(bodies, blobs={digest: b"image"}))])
    (whole,) = store.runs.whole(["h"])
    assert whole["data"]["content"][0]["image_url"]["url"] == "data:image/png;base64,aW1hZ2U="
    place = store.folder / "blobs" / "00" / digest
    assert place.read_bytes() == b"image"
    place.unlink()
    assert store.runs.whole(["h"])[0]["data"]["content"] == [block]
    place.parent.rmdir()
    place.parent.write_text("in the way")
    with pytest.raises(StoreError, match=f"blob '{digest}' could not be written"):
        store.runs.add_runs([Recorded(make_run("r2"), Interned(blobs={digest: b"image"}))])
    assert store.runs.count() == 1
