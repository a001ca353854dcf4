"""A Langfuse project for tests of reading: takes spans by OTLP, and gives back observations, scores and comments."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PREFIX = "langfuse.observation."
_GROUPS = {
    "basic": ("name", "level", "statusMessage", "userId", "sessionId", "isRootObservation", "environment"),
    "time": ("completionStartTime",),
    "io": ("input", "output"),
    "metadata": ("metadata",),
    "model": ("model", "modelParameters"),
    "usage": ("usageDetails", "costDetails", "totalCost"),
    "trace_context": ("tags", "release", "traceName"),
}
_CORE = ("id", "traceId", "startTime", "endTime", "projectId", "parentObservationId", "type")
_CUT = 200


class Project(ThreadingHTTPServer):
    """Answer as a Langfuse server of version 4 does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.key = f"pk-{uuid.uuid4()}"
        self.observations: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.configurations: dict[str, dict[str, Any]] = {}
        self.faults: list[int | str] = []
        """What the next requests for pages get instead: a status, "hang up" or "half"; 0 is an answer."""
        self.retry_after: str | None = None
        self.asked: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def score(self, trace: str, value: Any, kind: str, observation: str | None = None, **more: Any) -> dict[str, Any]:
        """Let somebody judge a trace, or an observation of it."""
        about = {"kind": "trace", "id": trace}
        if observation is not None:
            about = {"kind": "observation", "id": observation, "traceId": trace}
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        dated = {"timestamp": at, "createdAt": at, "updatedAt": at}
        made = {"id": uuid.uuid4().hex, "projectId": "p1", "name": "quality", "source": "ANNOTATION", "dataType": kind}
        score = {**made, **dated, "environment": "default", "value": value, "subject": about, **more}
        self.scores.append(score)
        return score

    def comment(self, kind: str, about: str, content: str) -> None:
        """Let somebody comment."""
        at = datetime.now(UTC).isoformat()
        one = {"id": uuid.uuid4().hex, "createdAt": at, "updatedAt": at, "objectType": kind, "objectId": about}
        self.comments.append({**one, "content": content, "authorUserId": "ada"})


class Answer(BaseHTTPRequestHandler):
    """Answer one request."""

    server: Project

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/traces"):
            with self.server.lock:
                self.server.observations.extend(_observations(body))
        self.send(200, {})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.asked.append(self.path)
        right = "Basic " + base64.b64encode(f"{self.server.key}:sk".encode()).decode()
        fault = self.server.faults.pop(0) if self.server.faults else 0
        if self.headers["Authorization"] != right:
            self.send(401, {"message": "Invalid credentials"})
        elif fault == "hang up":
            self.close_connection = True
        elif isinstance(fault, int) and fault:
            self.send(fault, {"message": "Not now"}, {"Retry-After": self.server.retry_after})
        elif url.path == "/api/public/v2/observations":
            self.answer(_wanted(self.server.observations, asked), asked, half=fault == "half")
        elif url.path == "/api/public/v3/scores":
            since = asked.get("fromTimestamp", "")
            sources = asked["source"].split(",")
            self.answer([s for s in self.server.scores if s["source"] in sources and s["timestamp"] >= since], asked)
        elif url.path == "/api/public/comments":
            found = [one for one in self.server.comments if one["objectType"] == asked["objectType"]]
            page, limit = int(asked["page"]), int(asked["limit"])
            pages = max(1, -(-len(found) // limit))
            self.send(200, {"data": found[(page - 1) * limit : page * limit], "meta": {"totalPages": pages}})
        elif url.path.rpartition("/")[2] in self.server.configurations:
            self.send(200, self.server.configurations[url.path.rpartition("/")[2]])
        else:
            self.send(404, {"message": "Not found"})

    def answer(self, found: list[dict[str, Any]], asked: dict[str, str], half: bool = False) -> None:
        start, limit = int(asked.get("cursor", 0)), int(asked.get("limit", 50))
        page = found[start : start + limit]
        if self.path.startswith("/api/public/v2/"):
            page = _shown(page, asked)
        meta = {"cursor": str(start + limit)} if start + limit < len(found) else {}
        self.send(200, {"data": page, "meta": meta}, half=half)

    def send(self, status: int, body: Any, headers: dict[str, str | None] | None = None, half: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = half

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _wanted(observations: list[dict[str, Any]], asked: dict[str, str]) -> list[dict[str, Any]]:
    """Return the observations that are asked for, newest first."""
    found = observations
    if "filter" in asked:
        wanted = json.loads(asked["filter"])[0]
        found = [one for one in found if one[wanted["column"]] == wanted["value"]]
    if "traceId" in asked:
        found = [one for one in found if one["traceId"] == asked["traceId"]]
    if asked.get("isRootObservation") == "true":
        found = [one for one in found if one["isRootObservation"]]
    since, until = asked.get("fromStartTime", ""), asked.get("toStartTime", "~")
    found = [one for one in found if since <= one["startTime"] < until]
    return sorted(found, key=lambda one: str(one["startTime"]), reverse=True)


def _shown(observations: list[dict[str, Any]], asked: dict[str, str]) -> list[dict[str, Any]]:
    """Return observations with the fields that are asked for."""
    names = [*_CORE, *(name for group in asked["fields"].split(",") for name in _GROUPS.get(group, ()))]
    whole = asked.get("expandMetadata", "").split(",")
    return [_cut({name: one[name] for name in names if name in one}, whole) for one in observations]


def _cut(one: dict[str, Any], whole: list[str]) -> dict[str, Any]:
    if not isinstance(one.get("metadata"), dict):
        return one
    facts = {
        name: value[:_CUT] if isinstance(value, str) and name not in whole else value
        for name, value in one["metadata"].items()
    }
    return {**one, "metadata": facts}


def _observations(body: bytes) -> list[dict[str, Any]]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    return [_observation(span) for all_ in request.resource_spans for scope in all_.scope_spans for span in scope.spans]


def _observation(span: Any) -> dict[str, Any]:
    said = {one.key: _value(one.value) for one in span.attributes}
    metadata = {}
    for key, value in said.items():
        if key.startswith(_PREFIX + "metadata."):
            metadata[key.removeprefix(_PREFIX + "metadata.")] = _json(value)
    usage, costs = _json(said.get(_PREFIX + "usage_details")), _json(said.get(_PREFIX + "cost_details")) or {}
    return {
        "id": span.span_id.hex(),
        "traceId": span.trace_id.hex(),
        "startTime": _date(span.start_time_unix_nano),
        "endTime": _date(span.end_time_unix_nano),
        "projectId": "p1",
        "parentObservationId": span.parent_span_id.hex() or None,
        "isRootObservation": not span.parent_span_id or bool(said.get("langfuse.internal.is_app_root")),
        "type": said.get(_PREFIX + "type", "span").upper(),
        "name": span.name,
        "environment": said.get("langfuse.environment", "default"),
        "level": said.get(_PREFIX + "level", "DEFAULT"),
        "statusMessage": said.get(_PREFIX + "status_message", ""),
        "userId": said.get("user.id"),
        "sessionId": said.get("session.id"),
        "completionStartTime": _json(said.get(_PREFIX + "completion_start_time")),
        "input": said.get(_PREFIX + "input"),
        "output": said.get(_PREFIX + "output"),
        "metadata": metadata,
        "model": said.get(_PREFIX + "model.name"),
        "modelParameters": said.get(_PREFIX + "model.parameters"),
        "usageDetails": usage or {},
        "costDetails": costs,
        "totalCost": costs.get("total", 0),
        "tags": said.get("langfuse.trace.tags") or [],
        "release": said.get("langfuse.release"),
        "traceName": said.get("langfuse.trace.name", span.name),
    }


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def _json(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _date(nanoseconds: int) -> str:
    at = datetime.fromtimestamp(nanoseconds // 1000 / 1_000_000, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
