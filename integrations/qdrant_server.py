"""Find similar runs on a Qdrant server, for several processes and machines: the port `RunIndex`.

    pip install "langgraph-learnloop[qdrant]"

    index = QdrantServer("http://127.0.0.1:6333")          # or "https://...", and key="..."
    loop = LearnLoop("learnloop.db", agent="support", index=index)
    loop.similar(run_id)

A space is a collection of its own, made when something is added to it; the prefix keeps those of several stores apart.
With a key, use https: over http it can be read on the way.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Self
from urllib.parse import urlsplit

from langgraph_learnloop.errors import ConfigError, LearnLoopError, StoreError, needing
from langgraph_learnloop.points import at_least_one, point_id, space_id, unit, units, within
from langgraph_learnloop.records import Near, RunPoint
from langgraph_learnloop.texts import one_line

_AT_ONCE = 500_000
"""Numbers in one request, some 10 MB of JSON: a server takes 32 MB."""


class QdrantServer:
    """Find the nearest runs on a Qdrant server; threads may share it."""

    def __init__(
        self, url: str | None = None, key: str | None = None, prefix: str = "learnloop", seconds: float = 10.0
    ) -> None:
        """Use the server at a URL, which has `seconds` for each answer; raise ConfigError for what is no URL.

        Without a URL, QDRANT_URL and QDRANT_API_KEY of the environment say which.
        """
        if url is None:
            url, key = os.environ.get("QDRANT_URL", ""), key or os.environ.get("QDRANT_API_KEY")
        self._where = re.sub(r"//.*@", "//", url)  # what stands there is a secret, and would not be sent
        if not _is_address(url):
            raise ConfigError(
                f"{self._where!r} is no address of a Qdrant server: give one such as 'http://127.0.0.1:6333', and what "
                "it asks for as `key`, or set QDRANT_URL and QDRANT_API_KEY."
            )
        self.place = f"{url.rstrip('/')} {prefix}"
        self._given: dict[str, Any] = {"url": url, "api_key": key, "timeout": seconds}
        self._prefix = prefix
        self._client: Any = None
        self._own = True
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = nullcontext()

    @classmethod
    def of(cls, client: Any, prefix: str = "learnloop") -> Self:
        """Use a `QdrantClient` that is there, such as `QdrantClient(":memory:")`; `close` leaves it open."""
        made = cls("http://client", prefix=prefix)
        made._client, made._own, made._where = client, False, "the client that was given"
        made.place = f"a client {prefix}"
        made._turn = threading.Lock()  # the one that needs no server bears one thread at a time
        return made

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        """Keep points of a space, which the server has taken when this returns; raise DataError and StoreError."""
        if not points:
            return
        rows = units(space, points)
        name = self._name(space)
        with self._asked() as (client, models):
            self._ready(client, models, name, len(rows[0]))
            step = max(1, _AT_ONCE // len(rows[0]))
            for start in range(0, len(rows), step):
                some = zip(points[start : start + step], rows[start : start + step], strict=True)
                client.upsert(name, [_point(models, one, row) for one, row in some], wait=True)

    def near(self, space: str, vector: Sequence[float], limit: int, agent: str) -> tuple[Near, ...]:
        """Return an agent's nearest points, the nearest first; raise DataError and StoreError."""
        at_least_one(limit)
        row = unit(vector, "what is looked for")
        name = self._name(space)
        with self._asked() as (client, models):
            if not client.collection_exists(name):
                return ()
            of = _of(models, agent)
            answer = client.query_points(name, query=row, query_filter=of, limit=limit, with_payload=["run_id"])
            near = [Near(str(one.payload["run_id"]), within(one.score)) for one in answer.points]
        return tuple(sorted(near, key=lambda one: (-one.cosine, one.run_id)))

    def size(self, space: str, agent: str) -> int:
        """Return how many points of an agent a space holds, exactly; raise StoreError."""
        name = self._name(space)
        with self._asked() as (client, models):
            if not client.collection_exists(name):
                return 0
            return int(client.count(name, count_filter=_of(models, agent), exact=True).count)

    def close(self) -> None:
        """Let go of the connections; the next call opens them again."""
        with self._lock:
            client = self._client if self._own else None
            if client is not None:
                self._client = None
                with suppress(Exception), _silent():
                    client.close()

    def _name(self, space: str) -> str:
        return f"{self._prefix}-{space_id(space)}"

    def _ready(self, client: Any, models: Any, name: str, length: int) -> None:
        """See that a space's collection is there, and as ours are: another process may make it at the same moment."""
        if not client.collection_exists(name):
            vectors = models.VectorParams(size=length, distance=models.Distance.COSINE)
            try:
                client.create_collection(name, vectors_config=vectors)
            except Exception:
                if not client.collection_exists(name):
                    raise
            with _silent():  # without a server, an index makes no difference, and the client says so
                client.create_payload_index(name, "agent", field_schema=models.PayloadSchemaType.KEYWORD)
        vectors = client.get_collection(name).config.params.vectors
        found = (getattr(vectors, "size", None), getattr(vectors, "distance", None))
        if found != (length, models.Distance.COSINE):
            size, distance = found
            raise StoreError(
                f"The collection {name!r} of {self._where!r} is for vectors of {size} numbers by {distance}, not of "
                f"{length} by Cosine: remove it there, or give another prefix, or name another space."
            )

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, Any]]:
        """Give the client and its models, and make one sentence of the many ways in which a server fails."""
        with needing("Finding similar runs on a Qdrant server", "langgraph-learnloop[qdrant]"):
            from qdrant_client import models
        try:
            with self._turn:
                yield self._connected(), models
        except LearnLoopError:
            raise
        except Exception as error:  # the boundary of the vendor: beside its own errors come httpx's and pydantic's
            raise StoreError(f"The Qdrant server {self._where!r} {_why(error)}") from error

    def _connected(self) -> Any:
        from qdrant_client import QdrantClient

        with self._lock:
            if self._client is None:
                with _silent():  # that a key goes over http, which may be this machine, is said in the manual
                    self._client = QdrantClient(**self._given, check_compatibility=False)
            return self._client


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in url
    except ValueError:
        return False


def _point(models: Any, one: RunPoint, row: list[float]) -> Any:
    payload = {"run_id": one.run_id, "agent": one.agent}
    return models.PointStruct(id=point_id(one.agent, one.run_id), vector=row, payload=payload)


def _of(models: Any, agent: str) -> Any:
    return models.Filter(must=[models.FieldCondition(key="agent", match=models.MatchValue(value=agent))])


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _why(error: Exception) -> str:
    """Return what a server did, and what to do about it."""
    source = getattr(error, "source", error)  # the client wraps what went wrong on the way
    status = getattr(error, "status_code", None)
    if status is not None:
        return f"answered {status}: {_said(error)}. {_way_out(status)}"
    if hasattr(error, "retry_after_s"):
        return f"is asked too much: {one_line(error)}. Wait {error.retry_after_s} seconds, or ask less at once."
    kind = type(source).__name__
    if "Timeout" in kind:
        return "did not answer in time: give it more seconds, or see what keeps it busy."
    if any(word in kind for word in ("Connect", "Network", "Read", "Write", "Protocol", "Proxy", "URL")):
        return f"cannot be reached, or hung up ({one_line(source)}): see that it runs there, and check the address."
    return f"sent what is no answer ({one_line(source)}): see that a Qdrant of the client's version runs there."


def _said(error: Any) -> str:
    """Return the server's own words, or the beginning of whatever it sent."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return one_line(error.structured()["status"]["error"])
    return one_line(bytes(error.content or b"").decode("utf-8", "replace") or error.reason_phrase or "nothing")


def _way_out(status: int) -> str:
    if status in (401, 403):
        return "Give it the server's key, one that may write."
    if status == 404:
        return "See that a Qdrant server runs there; add the runs again if somebody removed the collection."
    return "See the server's log." if status >= 500 else "Check the vectors, and that the client is not much newer."
