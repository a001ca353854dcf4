"""Serve the live model over HTTP in the form of OpenAI's chat completions; needs FastAPI and uvicorn.

    serve(application(loop.model(engine), key="...", releases=loop.store.releases))

Agents in any process or language then get the release that their thread belongs to. The thread is the header
`x-thread-id`, else `thread_id` in the body's metadata; without one the champion answers. Each answer is written in a
thread of its own, which a coroutine reads: a caller who hangs up, or waits too long, stops it at the next piece.
Nothing of a request is logged.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import signal
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from langchain_core.messages import AIMessage

from langgraph_learnloop.calls import clean_text
from langgraph_learnloop.errors import ConfigError, DataError, LearnLoopError, NotFoundError, needing
from langgraph_learnloop.records import Release
from langgraph_learnloop.serving.desk import Desk, refusal_of
from langgraph_learnloop.serving.live_model import RELEASE_KEY, LiveModel
from langgraph_learnloop.serving.openai_form import Asked, Heard, Refusal, event, read_asked, release_of
from langgraph_learnloop.texts import quoted

with needing("Serving over HTTP", "langgraph-learnloop[serve]"):
    import uvicorn
    from fastapi import APIRouter, Depends, FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import StreamingResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

LIVE = "learnloop"
"""The name by which callers ask for the live model; "learnloop:ID" asks for one release, "learnloop-ID" for none."""
THREAD_HEADER, RELEASE_HEADER = "x-thread-id", "x-learnloop-release"
LARGEST_BODY = 4_000_000
"""Bytes of a request."""
LONGEST_THREAD_ID = 256
"""Characters."""
_BODY_SECONDS = 30.0
"""How long a caller may take to send a request."""
_DRAINED = 4 * LARGEST_BODY
"""Bytes up to which a request that is too large is read to its end: who still writes does not see the refusal."""
_PULSE_SECONDS, _PROBE_SECONDS = 5.0, 10.0
"""How long the model is taken to be well after it was asked for its health, and how long it may take to answer that."""
_CLOSING_SECONDS = 30
"""How long answers may go on being written after the server was told to stop."""
_MOST_CONNECTIONS = 1000
"""Callers who are connected at the same time; further ones get 503."""
_log = logging.getLogger(__name__)


class Pointed(Protocol):
    """One move of the champion's pointer."""

    @property
    def release_id(self) -> str:
        """Return where it went."""
        ...

    @property
    def at(self) -> datetime:
        """Return when, UTC."""
        ...


class Releases(Protocol):
    """Know the releases that may be asked for by name; the store's `releases` do."""

    def get(self, release_id: str) -> Release:
        """Return a release, or raise NotFoundError."""
        ...

    def history(self) -> Sequence[Pointed]:
        """Return every move of the champion's pointer, oldest first."""
        ...


class _Pulse:
    """Know whether the model answers; it is asked for one token, every few seconds at most.

    Everybody may ask that, without the key: what is wrong is told to the log.
    """

    def __init__(self, model: LiveModel, releases: Releases | None) -> None:
        self._desk = Desk(model, _PROBE_SECONDS, 1)
        self._releases = releases
        self._asked = Asked.model_validate(
            {"model": LIVE, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        )
        self._lock = asyncio.Lock()
        self._found: tuple[float, int, dict[str, Any]] | None = None

    async def feel(self) -> Response:
        """Return what serves, or 503 with the reason why nothing does."""
        async with self._lock:  # many ask at once, one looks
            now = asyncio.get_running_loop().time()
            if self._found is None or now - self._found[0] > _PULSE_SECONDS:
                self._found = (now, *await self._look())
        return _sent(self._found[2], self._found[1])

    async def _look(self) -> tuple[int, dict[str, Any]]:
        try:
            async with aclosing(self._desk.answer(self._asked, {})) as pieces:
                release = release_of(await anext(pieces))
            since = await run_in_threadpool(self._since, release)
        except Exception as error:  # noqa: BLE001 - whatever it was, the model does not answer
            _log.warning("The model does not answer: %s: %s", type(error).__name__, error)
            return 503, {"status": "down", "because": f"The model does not answer ({type(error).__name__})."}
        return 200, {"status": "ok", "release": release, "since": since}

    def _since(self, release: str | None) -> str | None:
        moves = self._releases.history() if self._releases is not None else ()
        return moves[-1].at.isoformat() if moves and moves[-1].release_id == release else None


async def _events(
    first: AIMessage, pieces: AsyncGenerator[AIMessage, None], heard: Heard, seconds: float
) -> AsyncIterator[str]:
    """Yield the events of a stream whose first piece is here; an error in its midst is its last event."""
    piece: AIMessage | None = first
    opening = {"role": "assistant", "content": ""}
    try:
        while piece is not None:
            said = heard.take(piece)
            if said or opening:
                yield heard.change({**opening, **said})
            opening = {}
            piece = await anext(pieces, None)
    except Exception as error:  # noqa: BLE001 - the status was sent long ago
        yield event(refusal_of(error, seconds).body)
        return
    for last in heard.end():
        yield last


class _Stream(StreamingResponse):
    """Send events; whatever ends that, a caller who hung up too, stops the answer."""

    def __init__(
        self, events: AsyncIterator[str], pieces: AsyncGenerator[AIMessage, None], headers: Mapping[str, str]
    ) -> None:
        super().__init__(events, headers={**headers, "cache-control": "no-cache"}, media_type="text/event-stream")
        self._pieces = pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()


@dataclass(eq=False)
class _Endpoint:
    """Answer requests that were let in."""

    model: LiveModel
    releases: Releases | None
    seconds: float
    desk: Desk
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    began: datetime

    async def complete(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        try:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise Refusal(400, "The header 'content-type' must be application/json.", "invalid_value")
            asked = read_asked(await _body(request))
            return await self._answer(asked, await self._metadata(request, asked))
        except Exception as error:  # noqa: BLE001 - told to the caller, and not to the log
            return _said_no(refusal_of(error, self.seconds))

    async def list_models(self) -> Response:
        """Answer GET /v1/models: the live name, and the releases that serve."""
        return _sent({"object": "list", "data": await run_in_threadpool(self._listed)})

    async def get_model(self, name: str) -> Response:
        """Answer GET /v1/models/NAME."""
        release = await self._release(name)
        return _sent(_described(name, self.began if release is None else release.made_at))

    async def _answer(self, asked: Asked, metadata: Mapping[str, str]) -> Response:
        pieces = self.desk.answer(asked, metadata)
        heard = Heard(asked, int(self.now().timestamp()), f"chatcmpl-{self.new_id()}")
        if (first := await anext(pieces, None)) is None:
            raise TypeError("The model said nothing.")
        release = release_of(first)
        headers = {} if release is None else {RELEASE_HEADER: release}
        if asked.stream:
            return _Stream(_events(first, pieces, heard, self.seconds), pieces, headers)
        await pieces.aclose()
        return _sent(heard.whole(first), headers=headers)

    async def _metadata(self, request: Request, asked: Asked) -> dict[str, str]:
        """Return what tells the model which release to take."""
        thread_id, release = _thread_id(request, asked), await self._release(asked.model)
        named = {} if release is None else {RELEASE_KEY: release.release_id}
        return named if thread_id is None else {**named, "thread_id": thread_id}

    async def _release(self, name: str) -> Release | None:
        """Return the release that a model's name asks for; None is the live model."""
        if name in (LIVE, self.model.model_name):
            return None
        prefix, _, release_id = name.partition(":")
        if prefix == LIVE and self.releases is not None:
            with suppress(NotFoundError):
                release: Release = await run_in_threadpool(self.releases.get, release_id)
                return release
        raise Refusal(404, f"There is no model {quoted(name)}: ask for {LIVE!r}.", "model_not_found", "model")

    def _listed(self) -> list[dict[str, Any]]:
        releases, router = self.releases, self.model.router
        serving = {router.release_for(None), *router.in_use()}
        loaded = [releases.get(release_id) for release_id in serving] if releases is not None else []
        loaded.sort(key=lambda release: release.made_at, reverse=True)
        named = [_described(f"{LIVE}:{release.release_id}", release.made_at) for release in loaded]
        return [_described(LIVE, self.began), *named]


def _described(name: str, made_at: datetime) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(made_at.timestamp()), "owned_by": LIVE}


def application(
    model: LiveModel,
    *,
    key: str | None = None,
    releases: Releases | None = None,
    seconds: float = 120.0,
    places: int = 64,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    new_id: Callable[[], str] = lambda: uuid4().hex,
) -> FastAPI:
    """Return the application; raise ConfigError when the key cannot be used.

    Callers must send `key` as a bearer token; None lets in everybody who reaches this machine by its number or as
    "localhost". `releases` (the store's) may be asked for by name; None has the live model only. An answer may take
    `seconds`, and `places` requests are answered at the same time.
    """
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise ConfigError("The key is empty, or holds blanks or other than ASCII: give another, or None for no key.")
    endpoint = _Endpoint(model, releases, seconds, Desk(model, seconds, places), now, new_id, began=now())
    pulse = _Pulse(model, releases)

    async def let_in(request: Request) -> None:
        _check(request, key)

    doors = APIRouter(dependencies=[Depends(let_in)])
    doors.add_api_route("/v1/chat/completions", endpoint.complete, methods=["POST"])
    doors.add_api_route("/v1/models", endpoint.list_models, methods=["GET"])
    doors.add_api_route("/v1/models/{name:path}", endpoint.get_model, methods=["GET"])
    app = FastAPI(title="learnloop", openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(doors)
    app.add_api_route("/health", pulse.feel, methods=["GET"])
    app.add_exception_handler(HTTPException, _no_such_door)
    app.add_exception_handler(Refusal, _say_no)
    app.add_exception_handler(LearnLoopError, _say_no)
    app.state.open = key is None
    return app


def serve(
    application: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_ready: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve until the process is told to stop (ctrl-C, SIGTERM), then let answers come to their end, and return.

    Raise ConfigError when the port cannot be had, or when everybody could reach an application without a key. Port 0 is
    a free one; `on_ready` is called with the address as soon as callers can connect.
    """
    number = _address(host)
    is_here = host == "localhost" if number is None else number.is_loopback
    if getattr(application.state, "open", True) and not is_here:
        raise ConfigError(f"Without a key it is not served on {host!r}, where others can reach it: give a key.")
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSING_SECONDS,
    )
    with closing(_listening(host, port)) as door, _returning():
        where = f"[{host}]" if ":" in host else host
        on_ready(f"http://{where}:{door.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[door])


def _check(request: Request, key: str | None) -> None:
    """Raise Refusal for a caller without the key; where there is none, for web pages that stand in for this machine.

    A page may have its own name lead to 127.0.0.1 and then read what is served there (DNS rebinding); it cannot hide
    that name.
    """
    if key is None:
        host = _hostname(request.headers.get("host", ""))
        if host != "localhost" and _address(host) is None:
            sentence = f"Without a key nobody is served who calls this machine {quoted(host)}"
            raise Refusal(403, f"{sentence}: serve with a key, or ask localhost.", "forbidden")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8"), key.encode("utf-8")):
        raise Refusal(401, "The key is missing or wrong: send it as 'Authorization: Bearer KEY'.", "invalid_api_key")


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the number that a host is named by; None for a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


async def _say_no(request: Request, error: Exception) -> Response:
    return _said_no(refusal_of(error, 0))


async def _no_such_door(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    known = "POST /v1/chat/completions, GET /v1/models and GET /health"
    return _said_no(Refusal(status, f"There is nothing at this address: use {known}.", "not_found"))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        door = socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Port {port} of {host!r} cannot be had ({error}): name another one.") from error
    # asyncio does so for sockets that it makes; without, the last part of every answer comes 40 milliseconds late.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


@contextmanager
def _returning() -> Iterator[None]:
    """Have `serve` return where uvicorn, after it has closed, raises again the signal that it was stopped with."""
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {one: signal.signal(one, lambda number, frame: None) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


async def _body(request: Request) -> bytes:
    """Return a request's body, or raise Refusal when it is too large or does not come to an end."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > _DRAINED:
                    break
                if size <= LARGEST_BODY:
                    parts.append(part)
    except ClientDisconnect as error:
        raise Refusal(400, "The body ended before its end: send all of it.", "invalid_json") from error  # to nobody
    except TimeoutError as error:
        raise Refusal(
            408, f"The body did not arrive within {_BODY_SECONDS:.0f} seconds: send it at once.", "timeout"
        ) from error
    if size > LARGEST_BODY:
        raise Refusal(413, f"The body is too large: at most {LARGEST_BODY:,} bytes are allowed.", "too_large")
    return b"".join(parts)


def _thread_id(request: Request, asked: Asked) -> str | None:
    """Return the thread that a request belongs to; None where it names none."""
    given, what = request.headers.get(THREAD_HEADER), f"The header {THREAD_HEADER!r}"
    if given is not None and not given.isascii():
        raise Refusal(400, f"The header {THREAD_HEADER!r} must be ASCII: else use 'metadata.thread_id'.")
    if given is None:
        given, what = (asked.metadata or {}).get("thread_id"), "The field 'metadata.thread_id'"
    if given is None:
        return None
    try:
        return clean_text(given, what, LONGEST_THREAD_ID)
    except DataError as error:
        raise Refusal(400, str(error), "invalid_value", "metadata.thread_id") from error


def _sent(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # Not orjson: a model may write half a character into a call's arguments, which only escapes can carry.
    return Response(json.dumps(body), status, headers, "application/json")


def _said_no(refusal: Refusal) -> Response:
    headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}
    if refusal.status == 504:
        headers["x-should-retry"] = "false"  # OpenAI's clients would ask the same again while it is being written
    return _sent(refusal.body, refusal.status, headers)
