"""HTTP as the loopback Langfuse speaks it: requests, answers, pages, cursors and times."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JSON, PROTOBUF = "application/json", "application/x-protobuf"


class RefusalError(Exception):
    """What is answered instead of what was asked for."""

    def __init__(self, status: int, message: str, error: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"message": message, "error": error or HTTPStatus(status).phrase}


@dataclass(frozen=True)
class Answer:
    """A status, a body and headers of its own."""

    status: int
    body: bytes = b""
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    torn: bool = False
    """Whether only half of the body goes out before the connection is closed."""

    def wire(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"Content-Type: {self.kind}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, ("Content-Length", str(len(self.body))))]
        body = self.body[: len(self.body) // 2] if self.torn else self.body
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def said(status: int, body: Any) -> Answer:
    try:
        return Answer(status, orjson.dumps(body))
    except TypeError:  # half a character, and numbers of any size
        return Answer(status, json.dumps(body).encode())


@dataclass
class Request:
    """One request, its body as it came."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes

    @cached_property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @cached_property
    def body(self) -> bytes:
        """Return the body, unpacked if it is said to be packed; raise RefusalError."""
        if "gzip" not in self.headers.get("content-encoding", ""):
            return self.raw
        try:
            return gzip.decompress(self.raw)
        except (OSError, EOFError) as error:
            raise RefusalError(400, "Failed to decompress request body") from error

    @cached_property
    def json(self) -> Any:
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(self.body)
        try:  # half a character, and numbers of any size
            return json.loads(self.body)
        except ValueError as error:
            raise RefusalError(400, "Invalid JSON") from error

    def one(self, name: str) -> str | None:
        return self.query.get(name, [None])[0]

    def many(self, name: str) -> list[str] | None:
        """Return what a parameter lists, by commas."""
        asked = self.one(name)
        return None if asked is None else [one.strip() for one in asked.split(",")]

    def number(self, name: str, default: int, largest: int | None = None) -> int:
        try:
            number = int(self.one(name) or default)
        except ValueError as error:
            raise RefusalError(400, f"{name} must be a number") from error
        if number < 1 or (largest is not None and number > largest):
            raise RefusalError(400, f"Invalid request data: {name} must be between 1 and {largest}")
        return number

    def time(self, name: str) -> datetime | None:
        asked = self.one(name)
        return None if asked is None else moment(asked)


Route = tuple[str, re.Pattern[str], Callable[..., Any]]


def routes() -> tuple[list[Route], Callable[[str, str], Callable[[Any], Any]]]:
    """Return an empty table, and the decorator that fills it."""
    table: list[Route] = []

    def route(method: str, pattern: str) -> Callable[[Any], Any]:
        def keep(function: Any) -> Any:
            table.append((method, re.compile(f"/api/public/{pattern}"), function))
            return function

        return keep

    return table, route


def dispatch(table: Iterable[Route], state: Any, request: Request) -> Answer:
    """Answer by the first route that fits; raise RefusalError."""
    known = False
    for method, pattern, function in table:
        if found := pattern.fullmatch(request.path):
            known = True
            if method == request.method:
                answer = function(state, request, *map(unquote, found.groups()))
                return answer if isinstance(answer, Answer) else said(200, answer)
    if known:
        raise RefusalError(405, "Method not allowed")
    raise RefusalError(404, f"Not found: {request.path}")


def paged(request: Request, rows: Sequence[Any]) -> dict[str, Any]:
    """Return the page that is asked for, as the older part of the API numbers them."""
    page, limit = request.number("page", 1), request.number("limit", 50, 100)
    meta = {"page": page, "limit": limit, "totalItems": len(rows), "totalPages": -(-len(rows) // limit)}
    return {"data": rows[(page - 1) * limit : page * limit], "meta": meta}


def cursor_of(place: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode()


def place_of(cursor: str) -> dict[str, Any]:
    try:
        return dict(orjson.loads(base64.urlsafe_b64decode(cursor)))
    except ValueError as error:
        raise RefusalError(400, "Invalid cursor format") from error


def moment(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise RefusalError(400, f"Invalid datetime {text!r}") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def iso(time: datetime) -> str:
    """Return a time as the server writes it: milliseconds, the rest cut off."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_of(nanoseconds: int) -> str:
    return iso(EPOCH + timedelta(microseconds=nanoseconds // 1000))


def nanoseconds_of(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1) * 1000


class Listener(socketserver.ThreadingTCPServer):
    """Hold the port, and hand each request to `respond`; it returns None to hang up."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, port: int, respond: Callable[[Request], Answer | None]) -> None:
        super().__init__(("127.0.0.1", port), Connection, bind_and_activate=False)
        self.respond = respond
        self.connections: set[socket.socket] = set()
        self.lives = False
        self.server_bind()  # whoever connects before `live` is refused

    def live(self) -> None:
        self.lives = True
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def die(self) -> None:
        """Listen no more, and hang up on everybody in the middle of whatever they are told."""
        if self.lives:
            self.shutdown()  # it would wait for good for a thread that never ran
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients may hang up
            super().handle_error(request, client_address)


class Connection(socketserver.StreamRequestHandler):
    """Read requests and write answers as long as the connection lives; `http.server` would take most of the time."""

    server: Listener
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while (request := self.read()) is not None:
            answer = self.server.respond(request)
            if answer is None:
                return
            self.wfile.write(answer.wire())
            if answer.torn or request.headers.get("connection", "").lower() == "close":
                return

    def read(self) -> Request | None:
        words = self.rfile.readline(65_537).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(65_537)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        return Request(words[0], words[1], headers, raw) if len(raw) == length else None
