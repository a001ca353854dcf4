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

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Message, Run, ToolCall
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
