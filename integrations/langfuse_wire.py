"""Speak with a Langfuse server: spans and scores out, with what is known of each failure; its ids for our runs.

Spans go out by OTLP and scores by the public API, over connections of our own: the SDK drops what a server does not
take. Needs `pip install langfuse`, for its API client and for OpenTelemetry's messages.
"""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from langgraph_learnloop.errors import ConfigError, EngineError, MissingExtraError, NotFoundError
from langgraph_learnloop.mirrors import DeliveryError
from langgraph_learnloop.mirrors import run_of as run_of
from langgraph_learnloop.mirrors import span_of as span_of
from langgraph_learnloop.mirrors import trace_of as trace_of
from langgraph_learnloop.texts import one_line

if TYPE_CHECKING:
    import httpx
    from langfuse.api import LangfuseAPI
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

OURS = "learnloop-"
"""What the ids, names and environments of all that is sent and is no run begin with."""
SPANS = "/api/public/otel/v1/traces"
SCORES = "/api/public/scores"
LARGEST_REQUEST = 2_000_000
"""Bytes of spans in one request, before they are compressed."""
_SCOPE = "langgraph-learnloop"
_NOT_TAKEN = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 408, 425, 429, 503})
"""What a server answers that kept nothing, and may keep it later."""
_NEVER = frozenset({400, 413, 415, 422})
"""What it answers to what it will never keep."""
_SCORES_A_REQUEST = 100
_PATIENCE = (0.1, 0.2, 0.4)
"""Seconds between the tries of a request: of many for one thing none is to fail by chance."""
PAGE = 100
"""Things on a page of a list that is asked for."""
ONCE: Any = {"max_retries": 0}
"""Options of a request that the SDK is not to try again: whoever asks has a patience of their own."""
_UP = "See that LANGFUSE_BASE_URL is right and the server is up."
_SERVER = "See that LANGFUSE_BASE_URL is right and the server is up; it is tried again."
_NOT_AGAIN = "It is not tried again: see the server's log."
_Answer = TypeVar("_Answer")


class Wire:
    """Hold the connections to one project of a Langfuse server; safe for threads."""

    def __init__(
        self,
        public_key: str | None = None,
        secret_key: str | None = None,
        base_url: str | None = None,
        *,
        seconds: float = 10.0,
        spans: str = SPANS,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Take what is not given from LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_BASE_URL.

        `seconds` is how long an answer may take, `spans` where spans go to, `headers` go along with each request. Raise
        ConfigError where a key is missing; nothing is sent yet.
        """
        try:
            import httpx
            from langfuse.api import LangfuseAPI
        except ImportError as error:
            raise MissingExtraError(
                f'Langfuse needs its SDK ({error}): pip install "langgraph-learnloop[langfuse]".'
            ) from error
        auth = _keys(public_key, secret_key)
        self.url = _address(base_url)
        self._spans = spans
        self._one_by_one = False
        self._client = httpx.Client(base_url=self.url, auth=auth, timeout=seconds, headers=headers)
        self.api: LangfuseAPI = LangfuseAPI(
            base_url=self.url, username=auth[0], password=auth[1], httpx_client=self._client
        )

    @cached_property
    def project(self) -> str:
        """Return the id of the project that the keys belong to; raise ConfigError or EngineError."""
        with answering("the project of the keys"):
            return str(self.api.projects.get(request_options={"max_retries": 0, "timeout_in_seconds": 2}).data[0].id)

    def send_spans(self, spans: Sequence[Span]) -> None:
        """Send spans, in as many requests as their size takes; raise DeliveryError with what is known of them."""
        arrived = False
        for batch in _batches(spans):
            try:
                self._post(self._spans, _wrapped(batch), "application/x-protobuf")
            except DeliveryError as error:
                if arrived and error.arrived is False:
                    error.arrived = None  # a part of them did
                raise
            arrived = True

    def send_scores(self, scores: Sequence[dict[str, Any]]) -> None:
        """Send scores with ids of their own: one that is there is replaced; raise DeliveryError.

        Servers differ: newer ones take lists, others one object at a time and refuse the list as a whole.
        """
        for start in range(0, len(scores), _SCORES_A_REQUEST):
            batch = list(scores[start : start + _SCORES_A_REQUEST])
            if not self._one_by_one:
                try:
                    self._send_list(batch)
                    continue
                except DeliveryError as error:
                    if not error.forever:
                        raise
            for score in batch:
                self._post_scores(score)
            self._one_by_one = True  # it took as objects what it refused as a list

    def observations(self, trace_id: str) -> frozenset[str]:
        """Return the ids of the observations of a trace that can be seen by now; raise EngineError."""

        def page(cursor: str | None) -> Any:
            with answering(f"the trace {trace_id!r}"):
                return self.api.observations.get_many(
                    trace_id=trace_id, limit=1_000, cursor=cursor, request_options=ONCE
                )

        return frozenset(one.id for one in followed(lambda cursor: _patiently(lambda: page(cursor))))

    def get(self, path: str, asked: Mapping[str, str | int]) -> httpx.Response:
        """Return what the public API answers to a question, whatever it is; raise httpx.HTTPError without an answer."""
        return self._client.get(path, params=asked)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _send_list(self, scores: list[dict[str, Any]]) -> None:
        answer = self._post_scores(scores)
        try:
            told = orjson.loads(answer)
        except orjson.JSONDecodeError:
            return
        if isinstance(told, dict) and told.get("rejected"):
            errors = told.get("errors") or []
            said = "; ".join(str(one.get("message")) for one in errors if isinstance(one, dict))
            # Which of them it was is not said; one at a time they are told apart.
            raise DeliveryError(
                f"Langfuse refused {told['rejected']} scores: {one_line(said)}. See which score configuration of the "
                "project forbids them, and change it there.",
                forever=True,
            )

    def _post_scores(self, scores: object) -> bytes:
        return _patiently(lambda: self._post(SCORES, orjson.dumps(scores), "application/json"))

    def _post(self, path: str, body: bytes, kind: str) -> bytes:
        headers = {"content-type": kind, "x-langfuse-ingestion-version": "4"}
        if kind == "application/x-protobuf":
            body, headers["content-encoding"] = gzip.compress(body, 1), "gzip"
        what = f"what goes to {self.url}{path}"
        with delivering(what):
            answer = self._client.post(path, content=body, headers=headers)
        if not answer.is_success:
            lost = answer.status_code == 404 or answer.is_redirect
            way_out = "See that LANGFUSE_BASE_URL is right." if lost else None
            raise _undelivered(what, answer.status_code, answer.text, answer.headers, way_out)
        return answer.content


def _keys(public_key: str | None, secret_key: str | None) -> tuple[str, str]:
    public_key = public_key or os.environ.get("LANGFUSE_PUBLIC_KEY")
    secret_key = secret_key or os.environ.get("LANGFUSE_SECRET_KEY")
    if not public_key or not secret_key:
        raise ConfigError("There are no keys for Langfuse: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY.")
    return public_key, secret_key


def _address(base_url: str | None) -> str:
    environ = os.environ.get("LANGFUSE_BASE_URL") or os.environ.get("LANGFUSE_HOST")
    url = (base_url or environ or "https://cloud.langfuse.com").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"Langfuse's address must begin with https://, and not be {url!r}.")
    return url


@contextmanager
def answering(what: str, way_out: str | None = None) -> Iterator[None]:
    """Turn what Langfuse's API client raises into ConfigError, NotFoundError or EngineError about what is asked for."""
    import httpx
    from langfuse.api.core import ApiError

    try:
        yield
    except ApiError as error:
        raise refused(what, error.status_code, error.body) from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # what pydantic cannot read is a ValueError too
        raise EngineError(f"Langfuse did not give {what}: {reason_of(error)}. {way_out or _UP}") from error


def refused(what: str, status: int | None, body: object) -> ConfigError | NotFoundError | EngineError:
    """Return what an answer other than 200 means."""
    if status in (401, 403):
        return ConfigError(
            f"Langfuse refused {what} ({status}): see that its keys are those of the right project and that "
            "LANGFUSE_BASE_URL is its server."
        )
    if status == 404:
        return NotFoundError(
            f"Langfuse knows no such thing as {what}, in the project that the keys belong to: use the keys of "
            "its project."
        )
    return EngineError(f"Langfuse did not give {what} ({status}: {one_line(body)}). Try again later.")


def _batches(spans: Sequence[Span]) -> Iterator[list[Span]]:
    batch: list[Span] = []
    size = 0
    for span in spans:
        bytes_ = span.ByteSize()
        if batch and size + bytes_ > LARGEST_REQUEST:
            yield batch
            batch, size = [], 0
        batch.append(span)
        size += bytes_
    if batch:
        yield batch


def _wrapped(spans: Sequence[Span]) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.scope.name = _SCOPE
    scope.spans.extend(spans)
    sent: bytes = request.SerializeToString()
    return sent


def seconds_of(header: str | None) -> float | None:
    """Return the seconds of a Retry-After; a date is left to our own patience."""
    try:
        return None if header is None else min(3600.0, max(0.0, float(header)))
    except ValueError:
        return None


def reason_of(error: Exception) -> str:
    """Return what a library said, for a sentence."""
    return one_line(f"{type(error).__name__}: {error}".rstrip(": "))


@contextmanager
def delivering(what: str) -> Iterator[None]:
    """Turn what Langfuse's API client raises into DeliveryError about what it was to take, with what is known of it."""
    import httpx
    from langfuse.api.core import ApiError

    try:
        yield
    except ApiError as error:
        raise _undelivered(what, error.status_code or 0, error.body, error.headers or {}) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise DeliveryError(f"Langfuse cannot be reached to take {what}: {reason_of(error)}. {_SERVER}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # what pydantic cannot read is a ValueError too
        sentence = f"Langfuse did not say whether it took {what}: {reason_of(error)}. {_SERVER}"
        raise DeliveryError(sentence, arrived=None) from error


def pages(ask: Callable[[int], Any]) -> Iterator[Any]:
    """Yield what is on all the pages of a list; `ask` returns the page of a number, from 1."""
    for number in count(1):
        page = ask(number)
        yield from page.data
        if not page.data or number >= page.meta.total_pages:
            return


def followed(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield what is on all the pages of a list; `ask` returns the page behind a cursor, None for the first."""
    page = ask(None)
    yield from page.data
    while page.meta.cursor:
        page = ask(page.meta.cursor)
        yield from page.data


def _patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Ask at once again where that failed by chance; raise what is raised in the end, or can only be raised again."""
    for wait in _PATIENCE:
        try:
            return ask()
        except EngineError:
            time.sleep(wait)
        except DeliveryError as error:
            if error.forever or error.retry_after:
                raise
            time.sleep(wait)
    return ask()


def _undelivered(
    what: str, status: int, body: object, headers: Mapping[str, str], way_out: str | None = None
) -> DeliveryError:
    said = one_line(body) or "nothing more"
    if status in (401, 403):
        way_out = "See that its keys are those of the right project."
    wait = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    return DeliveryError(
        f"Langfuse did not take {what} ({status}: {said}). {way_out or (_NOT_AGAIN if status in _NEVER else _SERVER)}",
        arrived=False if status in _NOT_TAKEN | _NEVER else None,
        forever=status in _NEVER,
        retry_after=seconds_of(wait),
    )
