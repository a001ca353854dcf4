"""What a team keeps in Langfuse becomes cases, over real HTTP to a server of this test."""

from __future__ import annotations

import base64
import json
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from langgraph_learnloop.errors import ConfigError, DataError, EngineError, MissingExtraError, NotFoundError
from langgraph_learnloop.evaluation.suites import read_suite, write_suite
from langgraph_learnloop.integrations.langfuse_datasets import cases_from_langfuse
from langgraph_learnloop.records import Message, ToolCall

langfuse = pytest.importorskip("langfuse", reason="Langfuse is not installed")

AT = "2026-01-01T00:00:00.000Z"
FIND = {"tool": "find_order", "args": {"order": 5}}
FOUND = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}),))


class Server(ThreadingHTTPServer):
    """Answer as Langfuse does: a dataset by its name, its items in pages."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.datasets: dict[str, list[dict[str, Any]]] = {}
        self.status = 200
        self.hangs = False
        self.over = threading.Event()
        self.asked: list[str] = []
        self.key = f"pk-{uuid.uuid4()}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name: str, *items: Any) -> None:
        """Keep items, each (input, expected output) with what else is to be said of it."""
        self.datasets[name] = [item_of(name, number, *item) for number, item in enumerate(items)]


class Answer(BaseHTTPRequestHandler):
    """Answer one request."""

    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.hangs:
            self.server.over.wait(60)
            return
        url = urlsplit(self.path)
        right = "Basic " + base64.b64encode(f"{self.server.key}:sk".encode()).decode()
        if self.headers["Authorization"] != right:
            self.send(401, {"message": "Invalid credentials"})
        elif self.server.status != 200:
            self.send(self.server.status, {"message": "It is broken"})
        elif url.path.startswith("/api/public/v2/datasets/"):
            self.dataset(unquote(url.path.removeprefix("/api/public/v2/datasets/")))
        elif url.path == "/api/public/dataset-items":
            self.items({key: values[0] for key, values in parse_qs(url.query).items()})
        else:
            self.send(404, {"message": "Not found"})

    def dataset(self, name: str) -> None:
        if name not in self.server.datasets:
            self.send(404, {"message": "Dataset not found", "error": "LangfuseNotFoundError"})
            return
        dated = {"createdAt": AT, "updatedAt": AT}
        empty = {"description": None, "metadata": None, "inputSchema": None, "expectedOutputSchema": None}
        self.send(200, {"id": "d1", "name": name, "projectId": "p1"} | dated | empty)

    def items(self, query: dict[str, str]) -> None:
        page, limit = int(query["page"]), int(query["limit"])
        items = self.server.datasets[query["datasetName"]]
        pages = max(1, -(-len(items) // limit))
        meta = {"page": page, "limit": limit, "totalItems": len(items), "totalPages": pages}
        self.send(200, {"data": items[(page - 1) * limit : page * limit], "meta": meta})

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def item_of(name: str, number: int, asked: Any, expected: Any, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an item as the server sends it."""
    item = {
        "id": f"item-{number}",
        "status": "ACTIVE",
        "input": asked,
        "expectedOutput": expected,
        "metadata": None,
        "datasetId": "d1",
        "datasetName": name,
        "createdAt": AT,
        "updatedAt": AT,
        "mediaReferences": [],
    }
    return item | (facts or {})


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a server without datasets."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of the server that records nothing and loses no time between its tries."""
    monkeypatch.setattr("langfuse.api.core.http_client.INITIAL_RETRY_DELAY_SECONDS", 0.01)
    return langfuse.Langfuse(
        public_key=server.key, secret_key="sk", base_url=server.url, timeout=1, tracing_enabled=False
    )


def test_all_the_pages_are_read(server: Server, client: Any) -> None:
    """More items than a page holds come in order; the name may hold anything."""
    server.add("team/refunds & co", *((f"question {number}", FIND) for number in range(120)))
    cases = cases_from_langfuse("team/refunds & co", client)
    assert [case.messages[0].content for case in cases] == [f"question {number}" for number in range(120)]
    assert all((case.suite, case.category, case.expected) == ("retention", "find_order", FOUND) for case in cases)
    assert len(server.asked) == 4


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
def test_inputs_come_in_many_forms(server: Server, client: Any, asked: Any, messages: tuple[Message, ...]) -> None:
    """A text, a question, messages in OpenAI's form, and as LangChain writes them into a trace."""
    server.add("d", (asked, "x"))
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
    server: Server, client: Any, expected: Any, right: Message, category: str
) -> None:
    """A text, a call, a list of calls or a message; the right tool is the category."""
    server.add("d", ("Hi", expected))
    (case,) = cases_from_langfuse("d", client)
    assert (case.expected, case.category) == (right, category)


def test_categories_archives_and_doubles(server: Server, client: Any) -> None:
    """The metadata names the category; archived items are left out, and the same case is there once."""
    server.add(
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


def test_safety_needs_no_right_answer(server: Server, client: Any) -> None:
    """An evaluator judges there."""
    server.add("d", ("Give me Ann's address.", None))
    (case,) = cases_from_langfuse("d", client, suite="safety")
    assert (case.expected, case.category) == (None, "safety")


def test_a_case_is_the_same_in_a_file(server: Server, client: Any, tmp_path: Any) -> None:
    """What is exported to a file keeps its ids, so that what was asked stays known."""
    server.add("d", ("Where is order 5?", FIND), ({"question": "Hi"}, "Hello!"))
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
        ("Hi", None, {}, "it has no expected output; a case of the suite 'retention' needs the right answer"),
        ("Hi", 5, {}, "its expected output must be a text, .*not int"),
        ("Hi", "", {}, "its expected output must be a text, .*is empty"),
        ("Hi", {"answer": "x"}, {}, "its expected output must be a text, .*no key 'answer'"),
        ("Hi", {"role": "user", "content": "x"}, {}, "its expected output must be a text, .*its role is 'user'"),
        ("Hi", {"role": "boss", "content": "x"}, {}, "its expected output must be a text, .*cannot be read"),
        ("Hi", "x", {"metadata": {"category": 5}}, "the category in its metadata must be text"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_used_is_named(
    server: Server, client: Any, asked: Any, expected: Any, facts: dict[str, Any], reason: str
) -> None:
    """With the dataset, the item's id and the reason."""
    server.add("d", ("Hi", "Hello!"), (asked, expected, facts))
    with pytest.raises(
        DataError, match=rf"^1 of 2 items of the Langfuse dataset 'd' cannot be used\. Item 'item-1': {reason}.*Mend or"
    ):
        cases_from_langfuse("d", client)


def test_of_many_bad_items_three_are_named(server: Server, client: Any) -> None:
    """And all are counted."""
    server.add("d", *((number, "x") for number in range(60)), ("Hi", "x"))
    with pytest.raises(DataError, match=r"^60 of 61 items .* 'item-0': .* 'item-2': .*And 57 more\. Mend") as caught:
        cases_from_langfuse("d", client)
    assert "item-3" not in str(caught.value)


def test_an_empty_dataset_is_no_suite(server: Server, client: Any) -> None:
    """A candidate that is asked nothing must not seem to have kept everything."""
    server.add("d", ("a", "x", {"status": "ARCHIVED"}))
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


def test_keys_of_another_project(server: Server) -> None:
    """The sentence says what to look at."""
    other = langfuse.Langfuse(
        public_key=f"pk-{uuid.uuid4()}", secret_key="sk", base_url=server.url, tracing_enabled=False
    )
    with pytest.raises(ConfigError, match=r"Langfuse refused the dataset 'd' \(401\): .* keys"):
        cases_from_langfuse("d", other)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_is_broken(server: Server, client: Any, status: int) -> None:
    """Its own words come along."""
    server.status = status
    with pytest.raises(
        EngineError, match=rf"did not give the dataset 'd' \({status}: .*It is broken.* Try again later"
    ):
        cases_from_langfuse("d", client)


def test_a_server_that_says_something_else(server: Server, client: Any) -> None:
    """An answer that is no dataset is no answer."""
    server.datasets["d"] = [{"id": "item-0"}]
    with pytest.raises(EngineError, match="did not give the dataset 'd'"):
        cases_from_langfuse("d", client)


def test_a_server_that_hangs(server: Server, client: Any) -> None:
    """The client's own time is over some day."""
    server.hangs = True
    with pytest.raises(EngineError, match=r"did not give the dataset 'd': ReadTimeout: .*Langfuse\(timeout=\.\.\.\)"):
        cases_from_langfuse("d", client)


def test_nobody_at_the_address() -> None:
    """The sentence names the setting."""
    client = langfuse.Langfuse(
        public_key=f"pk-{uuid.uuid4()}", secret_key="sk", base_url="http://127.0.0.1:1", tracing_enabled=False
    )
    with pytest.raises(EngineError, match=r"did not give the dataset 'd': ConnectError: .*LANGFUSE_BASE_URL"):
        cases_from_langfuse("d", client)


def test_the_processs_own_client_is_asked(server: Server, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a client it is the one of the process, and without keys that is a sentence."""
    server.add("d", ("Hi", "x"))
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
