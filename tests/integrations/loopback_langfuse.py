"""A Langfuse on the loopback, as a self-hosted 4.16 seems through the SDK 5.0.4, and it goes wrong when it is told to.

    with Langfuse() as server:
        client = server.client()
        ...
        server.traces(), server.scores, server.requests

A script that is started from elsewhere has to put the repository's root on `sys.path` first.
"""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from tests.integrations import loopback_langfuse_experiments as experiments
from tests.integrations import loopback_langfuse_library as library
from tests.integrations import loopback_langfuse_observations as observations
from tests.integrations import loopback_langfuse_scores as scores
from tests.integrations.loopback_langfuse_faults import Faults
from tests.integrations.loopback_langfuse_http import (
    Answer,
    Listener,
    RefusalError,
    Request,
    dispatch,
    routes,
    said,
)
from tests.integrations.loopback_langfuse_observations import Observation

VERSION = "4.16.0"
_GONE = (
    "This endpoint is not available on deployments running in Langfuse v4 events_only mode. "
    "Use the v2 observations and v3 scores endpoints instead. Learn more at: https://langfuse.com/docs/v4"
)
_OWN, route = routes()


class Langfuse(Faults):
    """Serve one project; what it keeps outlives a restart."""

    def __init__(self, *, seed: int = 0, score_arrays: str = "refused", ingest_delay: float = 0.0) -> None:
        """Take the seed of the faults, whether lists of scores are "refused" or "accepted", and when spans are seen."""
        super().__init__(seed)
        self.public_key = f"pk-lf-{uuid.uuid4()}"
        self.secret_key = f"sk-lf-{uuid.uuid4()}"
        self.project_id = f"project-{uuid.uuid4()}"
        self.score_arrays = score_arrays
        self.ingest_delay = ingest_delay
        self.lock = threading.RLock()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.log: list[str] = []
        """Every request that came, as "METHOD target"."""
        self.came = 0
        """Spans that ever came, those that were lost too."""
        self.spans: list[Observation] = []
        self.by_trace: dict[bytes, list[Observation]] = defaultdict(list)
        self.deleted: dict[bytes, int] = {}
        self.odd: dict[tuple[str, str], dict[str, Any]] = {}
        """What fields are shown as, whatever was told of them, by trace and observation."""
        self.scores: dict[str, dict[str, Any]] = {}
        self.comments: dict[str, dict[str, Any]] = {}
        self.score_configs: dict[str, dict[str, Any]] = {}
        self.queues: dict[str, dict[str, Any]] = {}
        self.queue_items: dict[str, dict[str, dict[str, Any]]] = {}
        self.datasets: dict[str, dict[str, Any]] = {}
        self.dataset_items: dict[str, dict[str, Any]] = {}
        self.prompts: dict[str, list[dict[str, Any]]] = {}
        self._keys = "Basic " + base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        self._clients: list[Any] = []
        self._listener = Listener(0, self._respond)
        self._port = int(self._listener.server_address[1])

    # -- its life ------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen."""
        self._listener.live()
        return self

    def stop(self) -> None:
        """Listen no more and hang up on everybody; the port stays reserved, and whoever connects is refused."""
        over, self.over = self.over, threading.Event()
        over.set()
        self._listener.die()
        self._listener = Listener(self._port, self._respond)

    def restart(self, down_for: float = 0.0) -> None:
        """Go away for so many seconds, and return when it listens again."""
        self.stop()
        time.sleep(down_for)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.heal()
        for client in self._clients:
            client.shutdown()  # else it tries to flush when the process ends
        self.over.set()
        self._listener.die()
        if self._clients:
            from langfuse._client.resource_manager import LangfuseResourceManager

            LangfuseResourceManager._instances.pop(self.public_key, None)  # else `get_client()` sees two of them

    def client(self, **settings: Any) -> Any:
        """Return the SDK's client of this server; its spans go nowhere else. The first call's settings count."""
        import langfuse
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        names = {f"langfuse.{name}": settings[name] for name in ("environment", "release") if settings.get(name)}
        provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        keys = {"public_key": self.public_key, "secret_key": self.secret_key, "base_url": self.url}
        made = langfuse.Langfuse(**{**keys, "tracer_provider": provider, **settings})
        self._clients.append(made)
        return made

    # -- what it has ---------------------------------------------------------------------------------------------------

    def traces(self) -> dict[str, list[Observation]]:
        """Return every span that ever came, by trace and in their order."""
        with self.lock:
            return {trace.hex(): list(spans) for trace, spans in self.by_trace.items()}

    def duplicates(self) -> dict[tuple[str, str], int]:
        """Return how often each span came that came more than once, by trace and span."""
        with self.lock:
            counts = Counter((one.span.trace_id, one.span.span_id) for one in self.spans)
        return {(trace.hex(), span.hex()): count for (trace, span), count in counts.items() if count > 1}

    def lose(self, spans: Iterable[Observation]) -> None:
        """Let spans be as if they had never come."""
        with self.lock:
            for span in spans:
                self.spans.remove(span)
                self.by_trace[span.span.trace_id].remove(span)

    def asked(self, path: str, status: int | None = None) -> int:
        """Return how many requests came whose path begins so, answered so; 0 is no answer."""
        with self.lock:
            counts = dict(self.requests)
        return sum(n for (one, answer), n in counts.items() if one.startswith(path) and status in (None, answer))

    def scores_of(self, field: str, value: str) -> list[dict[str, Any]]:
        """Return the scores of a trace or an experiment, with all their fields."""
        with self.lock:
            kept = [one for one in self.scores.values() if one[field] == value]
        return [scores.shown(one, ["details", "subject", "annotation"]) for one in kept]

    # -- what people do at its pages -----------------------------------------------------------------------------------

    def annotate(
        self,
        trace_id: str | None,
        name: str,
        value: float | str,
        *,
        data_type: str | None = None,
        author: str | None = "user-1",
        comment: str | None = None,
        observation_id: str | None = None,
        session_id: str | None = None,
        config_id: str | None = None,
        queue_id: str | None = None,
        score_id: str | None = None,
        timestamp: datetime | None = None,
        source: str = "ANNOTATION",
    ) -> str:
        """Score something as a person, and return the score's id; with the id of a score, change that one.

        The source "EVAL" is that of an evaluator which the server runs.
        """
        body = {"id": score_id, "traceId": trace_id, "observationId": observation_id, "sessionId": session_id}
        body |= {"name": name, "value": value, "dataType": data_type, "configId": config_id, "queueId": queue_id}
        body |= {"comment": comment, "authorUserId": author, "timestamp": timestamp and timestamp.isoformat()}
        return scores.keep_score(self, body, source)

    def comment(self, object_type: str, object_id: str, text: str, author: str = "user-1") -> str:
        """Comment on a "TRACE", an "OBSERVATION", a "SESSION" or a "PROMPT", and return the comment's id."""
        return scores.keep_comment(self, object_type, object_id, text, author)

    # -- how it answers ------------------------------------------------------------------------------------------------

    def _respond(self, request: Request) -> Answer | None:
        over = self.over
        self.delay(request.path)
        kind = self.draw(request)
        if kind is None:
            answer: Answer | None = self._carry_out(request)
        elif kind == "half":
            answer = replace(self._carry_out(request), torn=True)
        else:
            if kind.endswith("_after"):
                self._carry_out(request)
            answer = self.spoilt(kind, over)
        with self.lock:
            self.log.append(f"{request.method} {request.target}")
            self.requests[request.path, 0 if answer is None else answer.status] += 1
        return answer

    def _carry_out(self, request: Request) -> Answer:
        try:
            if self.too_large(request):
                raise RefusalError(413, "Body exceeded the limit")
            if request.path != "/api/public/health" and request.headers.get("authorization") != self._keys:
                raise RefusalError(401, "Invalid credentials. Confirm that you've configured the correct host.")
            return dispatch(_ROUTES, self, request)
        except RefusalError as error:
            return said(error.status, error.body)


@route("GET", "health")
def health(state: Langfuse, request: Request) -> dict[str, str]:
    return {"status": "OK", "version": VERSION}


@route("GET", "projects")
def projects(state: Langfuse, request: Request) -> dict[str, Any]:
    organization = {"id": "organization-1", "name": "Loopback"}
    project = {"id": state.project_id, "name": "loopback", "organization": organization, "metadata": {}}
    return {"data": [{**project, "retentionDays": None}]}


@route("GET", "(?:traces|sessions|metrics|observations|scores|datasets|dataset-run-items)(?:/.*)?")
def gone(state: Langfuse, request: Request) -> None:
    raise RefusalError(404, _GONE, "LangfuseNotFoundError")


_ROUTES = [*observations.ROUTES, *scores.ROUTES, *_OWN, *library.ROUTES, *experiments.ROUTES]
