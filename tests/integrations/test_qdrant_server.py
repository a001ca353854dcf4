"""The index of runs on a Qdrant server: real HTTP to the engine, and every way in which a server fails.

What it shares with the other indexes is in tests/test_run_indexes.py.
"""

from __future__ import annotations

import http.client
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, MissingExtraError, StoreError
from langgraph_learnloop.integrations.qdrant_server import QdrantServer
from langgraph_learnloop.records import RunPoint
from tests.integrations.loopback_langfuse_http import Answer, Request
from tests.integrations.loopback_qdrant import Qdrant

S, A = "texts", "support"
R = RunPoint("r", A, (1.0, 0.0))


@pytest.fixture
def qdrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Qdrant]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Qdrant(tmp_path / "qdrant") as made:
        yield made


@pytest.fixture
def index(qdrant: Qdrant) -> QdrantServer:
    return QdrantServer(qdrant.url)


NO_ADDRESS = (
    "",
    "localhost:6333",
    "ftp://example.com",
    "file:///etc/passwd",
    "https://",
    "http://[half",
    "http://127.0.0.1:99999/",
    "https://user:secret@example.com",
)


def attempts(index: QdrantServer) -> list[Callable[[], object]]:
    """Return everything that asks the server."""
    return [
        lambda: index.add(S, [R]),
        lambda: index.near(S, [1, 0], 3, A),
        lambda: index.size(S, A),
    ]


def refusals(index: QdrantServer) -> list[str]:
    """Return what each call says when it fails; each must."""
    said = []
    for attempt in attempts(index):
        with pytest.raises(StoreError) as refused:
            attempt()
        said.append(str(refused.value))
    return said


def test_a_space_is_a_collection_under_the_prefix(qdrant: Qdrant) -> None:
    """Its name is safe whatever the space's is, and other prefixes keep other stores' runs."""
    index, other = QdrantServer(qdrant.url), QdrantServer(qdrant.url, prefix="mine")
    index.add("a/b ?#\u00fc", [R])
    other.add("a/b ?#\u00fc", [R, RunPoint("s", A, (0.0, 1.0))])
    assert sorted(qdrant.collections) == ["learnloop-6706d321dd9f80d4", "mine-6706d321dd9f80d4"]
    assert (index.size("a/b ?#\u00fc", A), other.size("a/b ?#\u00fc", A)) == (1, 2)


def test_asking_makes_nothing(qdrant: Qdrant, index: QdrantServer) -> None:
    """A process that may only read can look."""
    assert index.near(S, [1, 0], 3, A) == ()
    assert index.size(S, A) == 0
    assert {method for method, _ in qdrant.asked} == {"GET"}


def test_two_processes_may_make_a_collection_at_once(qdrant: Qdrant) -> None:
    """The slower one is told that it is there, and goes on."""
    first, second = QdrantServer(qdrant.url), QdrantServer(qdrant.url)
    normal = qdrant._answered

    def faster(request: Request) -> Answer:
        """Let another process make it after this one was told that it is not there."""
        answer = normal(request)
        if request.path.endswith("/exists") and b"false" in answer.body:
            name = request.path.split("/")[2]
            qdrant._make(name, {"size": 2, "distance": "Cosine"})
        return answer

    qdrant._answered = faster  # type: ignore[method-assign]
    first.add(S, [R])
    second.add(S, [RunPoint("s", A, (0.0, 1.0))])
    assert first.size(S, A) == 2


def test_many_points_go_in_several_requests(qdrant: Qdrant, index: QdrantServer) -> None:
    """A server takes bodies of 32 MB."""
    index.add(S, [RunPoint(str(i), A, (1.0,) * 2048) for i in range(500)])
    assert sum(path.endswith("/points") for _, path in qdrant.asked) == 3
    assert index.size(S, A) == 500


def test_the_key_is_sent_and_nobody_is_warned(qdrant: Qdrant) -> None:
    """Over http on this machine, too, where the client would print a warning."""
    qdrant.key = "secret"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = QdrantServer(qdrant.url, "secret")
        index.add(S, [R])
        assert index.size(S, A) == 1
        index.close()
    for said in refusals(QdrantServer(qdrant.url, "wrong")):
        assert "answered 401: Must provide an API key" in said
        assert "Give it the server's key" in said
        assert "wrong" not in said


def test_a_server_that_is_not_there_is_a_sentence(qdrant: Qdrant, index: QdrantServer) -> None:
    """It names the address, and says what to see to; once it is back, the same index goes on."""
    qdrant.die()
    for said in refusals(index):
        assert repr(qdrant.url) in said
        assert "cannot be reached" in said
        assert "see that it runs there" in said


def test_a_server_that_is_back_is_used_again(qdrant: Qdrant, index: QdrantServer) -> None:
    """A failure leaves nothing behind in the index."""
    qdrant.fault = lambda request: Answer(503, b"busy", "text/plain")
    assert all("answered 503: busy. See the server's log." in said for said in refusals(index))
    qdrant.fault = None
    index.add(S, [R])
    assert index.size(S, A) == 1


Fault = Callable[[Request], Answer | None]
WRONG: dict[str, tuple[Fault, str]] = {
    "500": (lambda _: Answer(500, b'{"status":{"error":"Service internal error: x"}}'), "answered 500: Service intern"),
    "502 with a page": (
        lambda _: Answer(502, b"<html>\x1b[31mBad gateway", "text/html"),
        r"answered 502: <html>\\u001b",
    ),
    "403": (lambda _: Answer(403, b'{"status":{"error":"Forbidden: no"}}'), "answered 403: Forbidden: no. Give it"),
    "404 of another server": (lambda _: Answer(404, b""), "answered 404: Not Found. See that a Qdrant server runs"),
    "429": (lambda _: Answer(429, b"{}", headers=(("Retry-After", "7"),)), "is asked too much: .* Wait 7 seconds"),
    "429 and no more": (lambda _: Answer(429, b""), "answered 429"),
    "no JSON": (lambda _: Answer(200, b"<html>It works!", "text/html"), "sent what is no answer"),
    "half of it": (lambda _: Answer(200, b'{"result": {"exists": true}, "status"', torn=True), "cannot be reached, or"),
    "another form": (lambda _: Answer(200, b'{"result": [1, 2]}'), "sent what is no answer"),
    "null": (lambda _: Answer(200, b'{"result": null, "status": "ok"}'), "sent what is no answer"),
    "bytes": (lambda _: Answer(200, b"\xff\xfe\x00"), "sent what is no answer"),
    "it hangs up": (lambda _: None, "cannot be reached, or hung up"),
}


@pytest.mark.parametrize(("fault", "says"), WRONG.values(), ids=WRONG)
def test_whatever_a_server_does_is_one_sentence(qdrant: Qdrant, index: QdrantServer, fault: Fault, says: str) -> None:
    """With the address and the way out, on one line, and after one try."""
    index.add(S, [R])
    qdrant.asked.clear()
    qdrant.fault = fault
    for said in refusals(index):
        assert said.startswith(f"The Qdrant server {qdrant.url!r} ")
        assert said.isprintable()
        with pytest.raises(StoreError, match=says):
            raise StoreError(said)
    assert len(qdrant.asked) <= 2 * len(attempts(index))


def test_a_slow_server_is_waited_for_as_long_as_was_said(qdrant: Qdrant) -> None:
    """And no longer."""
    over = threading.Event()

    def slow(_: Request) -> None:
        over.wait(30)

    qdrant.fault = slow
    with pytest.raises(StoreError, match="did not answer in time: give it more seconds"):
        QdrantServer(qdrant.url, seconds=1).size(S, A)
    over.set()


def test_a_collection_of_another_form_is_left_alone(qdrant: Qdrant, index: QdrantServer) -> None:
    """Somebody else made it: the sentence says how it differs, and nothing is written."""
    index.add(S, [R])
    (name,) = qdrant.collections
    for size, distance in ((3, "Cosine"), (2, "Dot")):
        qdrant.collections[name][1].update(size=size, distance=distance)
        with pytest.raises(StoreError, match=f"is for vectors of {size} numbers by {distance}, not of 2 by Cosine"):
            index.add(S, [RunPoint("s", A, (0.0, 1.0))])
    assert index.size(S, A) == 1


def test_a_collection_that_somebody_removed_is_empty(qdrant: Qdrant, index: QdrantServer) -> None:
    """It is made anew by the next `add`, as after the first one."""
    index.add(S, [R])
    qdrant.collections.popitem()[1][0].close()
    qdrant.folder = qdrant.folder / "again"
    assert index.size(S, A) == 0
    assert index.near(S, [1, 0], 3, A) == ()
    index.add(S, [R])
    assert index.size(S, A) == 1


def test_a_client_that_was_given_is_left_open() -> None:
    """What somebody else opened, they close; and its own refusals are sentences, too."""
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    index = QdrantServer.of(client)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index.add(S, [R])
    index.close()
    assert index.size(S, A) == 1
    client.close()
    with pytest.raises(StoreError, match="'the client that was given'"):
        index.size(S, A)


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_what_is_no_address_is_refused(url: str) -> None:
    """At once, with an example; a password in it is not shown."""
    with pytest.raises(ConfigError, match=r"give one such as 'http://127\.0\.0\.1:6333'") as refused:
        QdrantServer(url)
    assert "secret" not in str(refused.value)


def test_without_the_library_the_line_of_pip_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module needs it not, using it does."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[qdrant\]"'):
        QdrantServer("http://127.0.0.1:6333").size(S, A)


def test_the_loopback_refuses_as_a_server_does(qdrant: Qdrant, index: QdrantServer) -> None:
    """What it answers for a collection that is not there, or a call that it does not know, is what Qdrant answers."""
    host, _, port = qdrant.url.removeprefix("http://").partition(":")

    def status(method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(host, int(port))
        connection.request(method, path)
        answer = connection.getresponse()
        got: Any = answer.status, answer.read()
        connection.close()
        return got

    assert status("GET", "/nothing")[0] == 404
    code, body = status("GET", "/collections/none")
    assert code == 404
    assert b"Not found: Collection `none` doesn't exist!" in body
    index.add(S, [R])
    (name,) = qdrant.collections
    assert status("DELETE", f"/collections/{name}")[0] == 404
