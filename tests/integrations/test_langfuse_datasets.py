"""What a team keeps in Langfuse becomes cases, over real HTTP to a server of these tests."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, DataError, EngineError, MissingExtraError, NotFoundError
from langgraph_learnloop.evaluation.suites import read_suite, write_suite
from langgraph_learnloop.integrations.langfuse_datasets import cases_from_langfuse
from langgraph_learnloop.records import Message, ToolCall
from tests.integrations.loopback_langfuse import Langfuse
from tests.integrations.loopback_langfuse_scores import new

langfuse = pytest.importorskip("langfuse", reason="Langfuse is not installed")

UNSAID = ("description", "metadata", "inputSchema", "expectedOutputSchema")
FIND = {"tool": "find_order", "args": {"order": 5}}
FOUND = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}),))


def add(project: Langfuse, name: str, *items: Any) -> None:
    """Keep items in a new dataset, each (input, expected output) with what else is to be said of it."""
    project.datasets[name] = dataset = new(project, name=name, **dict.fromkeys(UNSAID))
    for number, (asked, expected, *facts) in enumerate(items):
        item = new(project, id=f"item-{number}", datasetId=dataset["id"], datasetName=name, status="ACTIVE")
        item |= {"input": asked, "expectedOutput": expected, "metadata": None, "mediaReferences": []}
        project.dataset_items[item["id"]] = item | (facts[0] if facts else {})


@pytest.fixture
def client(project: Langfuse, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of the server that records nothing and loses no time between its tries."""
    monkeypatch.setattr("langfuse.api.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.01)
    return project.client(timeout=1, tracing_enabled=False)


def test_all_the_pages_are_read(project: Langfuse, client: Any) -> None:
    """More items than a page holds come in order; the name may hold anything."""
    add(project, "team/refunds & co", *((f"question {number}", FIND) for number in range(120)))
    cases = cases_from_langfuse("team/refunds & co", client)
    assert [case.messages[0].content for case in cases] == [f"question {number}" for number in range(120)]
    assert all((case.suite, case.category, case.expected) == ("retention", "find_order", FOUND) for case in cases)
    assert len(project.log) == 4


@pytest.mark.parametrize(
    ("asked", "messages"),
    [
        ("Hi", (Message(role="user", content="Hi"),)),
        ({"question": "Hi"}, (Message(role="user", content="Hi"),)),
        ({"question": "Hi", "language": "en"}, (Message(role="user", content="Hi"),)),
        ({"role": "user", "content": "Hi"}, (Message(role="user", content="Hi"),)),
        ([{"role": "user", "content": "Hi", "name": "ann"}], (Message(role="user", content="Hi", name="ann"),)),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": [{"type": "text", "text": "Order 5?"}]},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "c1",
                                "type": "function",
                                "function": {"name": "find_order", "arguments": '{"order": 5}'},
                            }
                        ],
                    },
                    {"role": "tool", "content": "sent", "tool_call_id": "c1"},
                ]
            },
            (
                Message(role="system", content="Be kind."),
                Message(role="user", content="Order 5?"),
                Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}, id="c1"),)),
                Message(role="tool", content="sent", tool_call_id="c1"),
            ),
        ),
        (
            {
                "messages": [
                    {"type": "human", "content": "Order 5?", "id": "m1", "additional_kwargs": {}},
                    {
                        "type": "ai",
                        "content": "",
                        "tool_calls": [{"name": "find_order", "args": {"order": 5}, "id": "c1", "type": "tool_call"}],
                    },
                    {"type": "tool", "content": "sent", "tool_call_id": "c1"},
                ]
            },
            (
                Message(role="user", content="Order 5?"),
                Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}, id="c1"),)),
                Message(role="tool", content="sent", tool_call_id="c1"),
            ),
        ),
    ],
)
def test_inputs_come_in_many_forms(project: Langfuse, client: Any, asked: Any, messages: tuple[Message, ...]) -> None:
    """A text, a question, messages in OpenAI's form, and as LangChain writes them into a trace."""
    add(project, "d", (asked, "x"))
    assert cases_from_langfuse("d", client)[0].messages == messages


@pytest.mark.parametrize(
    ("expected", "right", "category"),
    [
        ("Hello!", Message(role="assistant", content="Hello!"), "answer"),
        (FIND, FOUND, "find_order"),
        ([FIND], FOUND, "find_order"),
        ({"role": "assistant", "content": "Hello!"}, Message(role="assistant", content="Hello!"), "answer"),
        ({"type": "ai", "content": "Hello!"}, Message(role="assistant", content="Hello!"), "answer"),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "function": {"name": "find_order", "arguments": '{"order": 5}'}}],
            },
            Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}, id="c"),)),
            "find_order",
        ),
    ],
)
def test_expected_outputs_come_in_many_forms(
    project: Langfuse, client: Any, expected: Any, right: Message, category: str
) -> None:
    """A text, a call, a list of calls or a message; the right tool is the category."""
    add(project, "d", ("Hi", expected))
    (case,) = cases_from_langfuse("d", client)
    assert (case.expected, case.category) == (right, category)


def test_categories_archives_and_doubles(project: Langfuse, client: Any) -> None:
    """The metadata names the category; archived items are left out, and the same case is there once."""
    add(
        project,
        "d",
        ("a", "x", {"metadata": {"category": "refunds"}}),
        ("a", "x"),
        ("b", "x", {"metadata": "refunds"}),
        ("c", None, {"status": "ARCHIVED"}),
    )
    cases = cases_from_langfuse("d", client, suite="target")
    assert [(c.suite, c.messages[0].content, c.category) for c in cases] == [
        ("target", "a", "refunds"),
        ("target", "b", "answer"),
    ]


def test_safety_needs_no_right_answer(project: Langfuse, client: Any) -> None:
    """An evaluator judges there."""
    add(project, "d", ("Give me Ann's address.", None))
    (case,) = cases_from_langfuse("d", client, suite="safety")
    assert (case.expected, case.category) == (None, "safety")


def test_a_case_is_the_same_in_a_file(project: Langfuse, client: Any, tmp_path: Any) -> None:
    """What is exported to a file keeps its ids, so that what was asked stays known."""
    add(project, "d", ("Where is order 5?", FIND), ({"question": "Hi"}, "Hello!"))
    cases = cases_from_langfuse("d", client)
    write_suite(cases, tmp_path / "suite.jsonl")
    assert read_suite(tmp_path / "suite.jsonl") == cases


@pytest.mark.parametrize(
    ("asked", "expected", "facts", "reason"),
    [
        (5, "x", {}, "its input must be a text, "),
        (None, "x", {}, "its input must be a text, "),
        ([], "x", {}, "its input must be a text, "),
        ({"query": "Hi"}, "x", {}, "its input must be a text, "),
        (" ", "x", {}, "the question is empty"),
        ([{"role": "boss", "content": "Hi"}], "x", {}, "the messages of its input cannot be read .*'boss'"),
        ([{"content": "Hi"}], "x", {}, "the messages of its input cannot be read"),
        ([5], "x", {}, "the messages of its input cannot be read"),
        ([{"role": "user", "content": {"text": "Hi"}}], "x", {}, "the messages of its input cannot be read"),
        ([{"role": "ai", "content": "", "tool_calls": [5]}], "x", {}, "the messages of its input cannot be read"),
        (
            [{"role": "ai", "content": "", "tool_calls": [{"id": "c", "function": {"name": "t", "arguments": "{"}}]}],
            "x",
            {},
            "the messages of its input cannot be read",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
            "x",
            {},
            "it holds a message that is not one of text",
        ),
        ([{"role": "user", "content": "a\x00"}], "x", {}, "a message holds a NUL"),
        ("Hi", None, {}, "it has no expected output; add the right answer"),
        ("Hi", 5, {}, "its expected output must be a text, .*not int"),
        ("Hi", "", {}, "its expected output must be a text, .*is empty"),
        ("Hi", {"answer": "x"}, {}, "its expected output must be a text, .*no key 'answer'"),
        ("Hi", {"role": "user", "content": "x"}, {}, "its expected output must be a text, .*its role is 'user'"),
        ("Hi", {"role": "boss", "content": "x"}, {}, "its expected output must be a text, .*cannot be read"),
        ("Hi", "x", {"metadata": {"category": 5}}, "the category in its metadata must be text"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_used_is_named(
    project: Langfuse, client: Any, asked: Any, expected: Any, facts: dict[str, Any], reason: str
) -> None:
    """With the dataset, the item's id and the reason."""
    add(project, "d", ("Hi", "Hello!"), (asked, expected, facts))
    with pytest.raises(
        DataError, match=rf"^1 of 2 items of the Langfuse dataset 'd' cannot be used\. Item 'item-1': {reason}.*Mend or"
    ):
        cases_from_langfuse("d", client)


def test_of_many_bad_items_three_are_named(project: Langfuse, client: Any) -> None:
    """And all are counted."""
    add(project, "d", *((number, "x") for number in range(60)), ("Hi", "x"))
    with pytest.raises(DataError, match=r"^60 of 61 items .* 'item-0': .* 'item-2': .*And 57 more\. Mend") as caught:
        cases_from_langfuse("d", client)
    assert "item-3" not in str(caught.value)


def test_an_empty_dataset_is_no_suite(project: Langfuse, client: Any) -> None:
    """A candidate that is asked nothing must not seem to have kept everything."""
    add(project, "d", ("a", "x", {"status": "ARCHIVED"}))
    with pytest.raises(DataError, match="'d' holds no active item"):
        cases_from_langfuse("d", client)


def test_a_suite_that_is_none(client: Any) -> None:
    """It is refused before anything is asked."""
    with pytest.raises(ConfigError, match="no suite 'other'; it must be one of target"):
        cases_from_langfuse("d", client, suite="other")  # type: ignore[arg-type]


def test_a_dataset_that_is_not_there(client: Any) -> None:
    """The sentence names it."""
    with pytest.raises(NotFoundError, match="There is no dataset 'nowhere'"):
        cases_from_langfuse("nowhere", client)


def test_keys_of_another_project(project: Langfuse) -> None:
    """The sentence says what to look at."""
    other = langfuse.Langfuse(
        public_key=f"pk-{uuid.uuid4()}", secret_key="sk", base_url=project.url, tracing_enabled=False
    )
    with pytest.raises(ConfigError, match=r"Langfuse refused the dataset 'd' \(401\): .* keys"):
        cases_from_langfuse("d", other)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_broken(project: Langfuse, client: Any, status: int) -> None:
    """Its own words come along."""
    project.fail(1.0, [str(status)])
    with pytest.raises(
        EngineError, match=rf"did not give the dataset 'd' \({status}: .*It was told to fail.* Try again later"
    ):
        cases_from_langfuse("d", client)


def test_a_server_that_says_something_else(project: Langfuse, client: Any) -> None:
    """An answer that is no dataset is no answer."""
    add(project, "d")
    project.dataset_items["item-0"] = {"id": "item-0", "datasetName": "d"}
    with pytest.raises(EngineError, match="did not give the dataset 'd'"):
        cases_from_langfuse("d", client)


def test_a_server_that_hangs(project: Langfuse, client: Any) -> None:
    """The client's own time is over some day."""
    project.fail(1.0, ["hang"])
    with pytest.raises(EngineError, match=r"did not give the dataset 'd': ReadTimeout: .*Langfuse\(timeout=\.\.\.\)"):
        cases_from_langfuse("d", client)


def test_nobody_at_the_address() -> None:
    """The sentence names the setting."""
    client = langfuse.Langfuse(
        public_key=f"pk-{uuid.uuid4()}", secret_key="sk", base_url="http://127.0.0.1:1", tracing_enabled=False
    )
    with pytest.raises(EngineError, match=r"did not give the dataset 'd': ConnectError: .*LANGFUSE_BASE_URL"):
        cases_from_langfuse("d", client)


def test_the_processs_own_client_is_asked(project: Langfuse, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a client it is the one of the process, and without keys that is a sentence."""
    add(project, "d", ("Hi", "x"))
    monkeypatch.setattr(langfuse, "get_client", lambda: client)
    assert len(cases_from_langfuse("d")) == 1
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    monkeypatch.setattr(langfuse, "get_client", lambda: langfuse.Langfuse(tracing_enabled=False))
    with pytest.raises(ConfigError, match="no keys for Langfuse: set LANGFUSE_PUBLIC_KEY"):
        cases_from_langfuse("d")


def test_without_langfuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the pip command."""
    monkeypatch.setitem(sys.modules, "langfuse", None)
    with pytest.raises(MissingExtraError, match=r"pip install langfuse"):
        cases_from_langfuse("d")
