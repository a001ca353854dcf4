"""A Langfuse for tests, on this machine: queues, score configurations, scores, datasets, prompts and observations.

It does what the real one does where that matters here: an observation that comes twice stands there twice, an item's id
belongs to one dataset of the project, a label to one version, pages hold a hundred things at most.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from langgraph_learnloop.integrations.langfuse_wire import Wire

Asked = dict[str, str]
Body = Any
PROJECT = "project-1"
_PAGE = 100


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, said: str = "It is refused") -> None:
        super().__init__(said)
        self.status = status


class Team:
    """A project of Langfuse, and the people who work in it."""

    def __init__(self) -> None:
        self.queues: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.configs: list[dict[str, Any]] = []
        self.scores: dict[str, dict[str, Any]] = {}
        self.spans: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.dataset_items: dict[str, dict[str, Any]] = {}
        self.prompts: list[dict[str, Any]] = []
        self.hides_spans = False
        self.key = f"pk-{uuid.uuid4()}"
        self.takes_lists = True
        self.faults: list[tuple[str, int | str, Asked]] = []
        """Requests that fail, once each: the beginning of "METHOD path", what is answered, with which headers."""
        self.asked: list[str] = []
        self._numbers = itertools.count(1)
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wire(self, seconds: float = 5.0) -> Wire:
        """Return connections to it."""
        return Wire(self.key, "sk", self.url, seconds=seconds)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- people --------------------------------------------------------------------------------------------------------

    def says(self, trace: str, value: str, name: str = "learnloop_verdict", **more: Any) -> None:
        """Have somebody give a score to a trace, as Langfuse's pages do."""
        kind = more.pop("kind", "CATEGORICAL")
        score = {"traceId": trace, "name": name, "value": value, "dataType": kind, "authorUserId": "user-ann", **more}
        self._keep({"id": f"s{next(self._numbers)}", "source": "ANNOTATION", **score})

    def corrects(self, trace: str, value: str, **more: Any) -> None:
        """Have somebody correct a trace's output."""
        self.says(trace, value, "output", kind="CORRECTION", **more)

    def completes(self, trace: str | None = None) -> None:
        """Have somebody be done with an item of a queue, or with all."""
        for item in self.items:
            if trace in (None, item["objectId"]):
                item.update(status="COMPLETED", completedAt=_now())

    def attributes(self, span: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = span["attributes"]
        return found

    # -- the API -------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, asked: Asked, body: Body) -> Any:
        for pattern, what in _ROUTES:
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return what(self, [unquote(part) for part in found.groups()], asked, body)
        raise Refused(404, "There is no such page")

    def take_spans(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for resource in ExportTraceServiceRequest.FromString(gzip.decompress(body)).resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                attributes = {
                    one.key: [item.string_value for item in one.value.array_value.values] or one.value.string_value
                    for one in span.attributes
                }
                own = {"id": span.span_id.hex(), "traceId": span.trace_id.hex(), "name": span.name}
                parent = span.parent_span_id.hex() or None
                start = datetime.fromtimestamp(span.start_time_unix_nano / 1e9, UTC)
                self.spans.append({**own, "parent": parent, "start": start, "attributes": attributes})

    def _keep(self, score: dict[str, Any]) -> None:
        now = _now()
        before = self.scores.get(score["id"], {"createdAt": now})
        common = {"projectId": PROJECT, "timestamp": now, "environment": "default", "comment": None, "source": "API"}
        self.scores[score["id"]] = {**common, **score, "createdAt": before["createdAt"], "updatedAt": now}

    def _take_scores(self, _: list[str], asked: Asked, body: Body) -> Any:
        if isinstance(body, list) and not self.takes_lists:
            raise Refused(400, "expected object, received array")
        for score in body if isinstance(body, list) else [body]:
            if not {"traceId", "sessionId", "datasetRunId"} & score.keys():
                raise Refused(400, "a score needs something that it is about")
            self._keep(score)
        return {"accepted": 1, "rejected": 0, "errors": []}

    def _get_scores(self, _: list[str], asked: Asked, body: Body) -> Any:
        if set(asked.get("fields", "").split(",")) - {"", "details", "subject", "annotation"}:
            raise Refused(400, "unknown fields")
        wanted = {"traceId": "traceId", "source": "source", "dataType": "dataType", "name": "name"}
        found = [
            score
            for score in self.scores.values()
            if all(score.get(own) in asked[key].split(",") for key, own in wanted.items() if key in asked)
        ]
        return _cursored([_score(one, asked.get("fields", "")) for one in found], asked, most=100)

    def _observations(self, _: list[str], asked: Asked, body: Body) -> Any:
        found = [] if self.hides_spans else [one for one in self.spans if _wanted(one, asked)]
        common = {"projectId": PROJECT, "type": "SPAN"}
        seen = [
            {"id": one["id"], "traceId": one["traceId"], "startTime": one["start"].isoformat(), **common}
            for one in found
        ]
        return _cursored(seen, asked, most=1_000)

    def _list_queues(self, _: list[str], asked: Asked, body: Body) -> Any:
        return _paged(self.queues, asked)

    def _new_queue(self, _: list[str], asked: Asked, body: Body) -> Any:
        if not body["scoreConfigIds"] or {*body["scoreConfigIds"]} - {one["id"] for one in self.configs}:
            raise Refused(400, "a queue needs score configurations")
        self.queues.insert(0, {**self._new("q"), **body})
        return self.queues[0]

    def _list_items(self, parts: list[str], asked: Asked, body: Body) -> Any:
        return _paged([one for one in self.items if one["queueId"] == parts[0]], asked)

    def _new_item(self, parts: list[str], asked: Asked, body: Body) -> Any:
        if parts[0] not in {one["id"] for one in self.queues}:
            raise Refused(404, "Annotation queue not found")
        self.items.insert(0, {**self._new("i"), "status": "PENDING", "completedAt": None, "queueId": parts[0], **body})
        return self.items[0]

    def _list_configs(self, _: list[str], asked: Asked, body: Body) -> Any:
        return _paged(self.configs, asked)

    def _new_config(self, _: list[str], asked: Asked, body: Body) -> Any:
        self.configs.append({**self._new("c"), "projectId": PROJECT, "isArchived": False, **body})
        return self.configs[-1]

    def _new_dataset(self, _: list[str], asked: Asked, body: Body) -> Any:
        known = self.datasets.get(body["name"], {**self._new("d"), "projectId": PROJECT, "metadata": None})
        self.datasets[body["name"]] = {**known, **body}
        return self.datasets[body["name"]]

    def _dataset(self, parts: list[str], asked: Asked, body: Body) -> Any:
        if parts[0] not in self.datasets:
            raise Refused(404, "Dataset not found")
        return self.datasets[parts[0]]

    def _new_dataset_item(self, _: list[str], asked: Asked, body: Body) -> Any:
        dataset = self._dataset([body["datasetName"]], asked, body)
        known = self.dataset_items.get(body["id"])
        if known and known["datasetId"] != dataset["id"]:
            raise Refused(404, "The dataset item already exists in another dataset")
        item = {
            "input": None,
            "expectedOutput": None,
            "metadata": None,
            "status": "ACTIVE",
            "mediaReferences": [],
            **self._new("di"),
        }
        self.dataset_items[body["id"]] = {**item, **(known or {}), **body, "datasetId": dataset["id"]}
        return self.dataset_items[body["id"]]

    def _list_dataset_items(self, _: list[str], asked: Asked, body: Body) -> Any:
        self._dataset([asked["datasetName"]], asked, body)
        found = [one for one in self.dataset_items.values() if one["datasetName"] == asked["datasetName"]]
        return _paged(found, asked)

    def _list_prompts(self, _: list[str], asked: Asked, body: Body) -> Any:
        names = {one["name"] for one in self.prompts if asked.get("name") in (None, one["name"])}
        return _paged([self._prompt_meta(name) for name in sorted(names)], asked)

    def _prompt_meta(self, name: str) -> dict[str, Any]:
        mine = [one for one in self.prompts if one["name"] == name]
        labels = sorted({label for one in mine for label in one["labels"]})
        common = {"type": mine[0]["type"], "tags": [], "lastUpdatedAt": _now(), "lastConfig": {}}
        return {"name": name, "versions": [one["version"] for one in mine], "labels": labels, **common}

    def _new_prompt(self, _: list[str], asked: Asked, body: Body) -> Any:
        mine = [one for one in self.prompts if one["name"] == body["name"]]
        if mine and mine[0]["type"] != body["type"]:
            raise Refused(400, "Previous versions have different prompt type")
        self.prompts.append({"config": {}, "tags": [], **body, "version": len(mine) + 1, "labels": []})
        return self._label(self.prompts[-1], [*body["labels"], "latest"])

    def _get_prompt(self, parts: list[str], asked: Asked, body: Body) -> Any:
        label = asked.get("label", "production")
        for one in self.prompts:
            right = asked["version"] == str(one["version"]) if "version" in asked else label in one["labels"]
            if one["name"] == parts[0] and right:
                return one
        raise Refused(404, "Prompt not found")

    def _label_prompt(self, parts: list[str], asked: Asked, body: Body) -> Any:
        if "latest" in body["newLabels"]:
            raise Refused(400, "Label 'latest' is always assigned to the latest prompt version")
        return self._label(self._get_prompt(parts[:1], {"version": parts[1]}, body), body["newLabels"])

    def _label(self, prompt: dict[str, Any], labels: list[str]) -> dict[str, Any]:
        for one in self.prompts:
            if one["name"] == prompt["name"] and one is not prompt:
                one["labels"] = [label for label in one["labels"] if label not in labels]
        prompt["labels"] = list(dict.fromkeys([*prompt["labels"], *labels]))
        return prompt

    def _projects(self, _: list[str], asked: Asked, body: Body) -> Any:
        common = {"name": "Shop", "organization": {"id": "o", "name": "O"}, "metadata": {}}
        return {"data": [{"id": PROJECT, **common}]}

    def _new(self, kind: str) -> dict[str, Any]:
        return {"id": f"{kind}{next(self._numbers)}", "createdAt": _now(), "updatedAt": _now()}


_Route = Callable[[Team, list[str], Asked, Body], Any]
_API = "/api/public"
_ROUTES: list[tuple[str, _Route]] = [
    (f"POST {_API}/scores", Team._take_scores),
    (f"GET {_API}/v3/scores", Team._get_scores),
    (f"GET {_API}/v2/observations", Team._observations),
    (f"GET {_API}/annotation-queues", Team._list_queues),
    (f"POST {_API}/annotation-queues", Team._new_queue),
    (f"GET {_API}/annotation-queues/([^/]+)/items", Team._list_items),
    (f"POST {_API}/annotation-queues/([^/]+)/items", Team._new_item),
    (f"GET {_API}/score-configs", Team._list_configs),
    (f"POST {_API}/score-configs", Team._new_config),
    (f"POST {_API}/v2/datasets", Team._new_dataset),
    (f"GET {_API}/v2/datasets/([^/]+)", Team._dataset),
    (f"POST {_API}/dataset-items", Team._new_dataset_item),
    (f"GET {_API}/dataset-items", Team._list_dataset_items),
    (f"GET {_API}/v2/prompts", Team._list_prompts),
    (f"POST {_API}/v2/prompts", Team._new_prompt),
    (f"GET {_API}/v2/prompts/([^/]+)", Team._get_prompt),
    (f"PATCH {_API}/v2/prompts/([^/]+)/versions/([0-9]+)", Team._label_prompt),
    (f"GET {_API}/projects", Team._projects),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, team: Team) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.team = team
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        with self.server.lock:
            self.server.team.asked.append(f"{self.command} {url.path}")
            fault = self._fault(f"{self.command} {url.path}")
            if fault and isinstance(fault[0], int) and fault[0] >= 400:
                self._send(fault[0], {"message": "It is broken"}, fault[1])
                return
            status, value = self._answer(url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, body)
        if fault and fault[0] == "lost":
            self.close_connection = True  # it was taken, and nobody hears of that
            return
        self._send(status, value, {})

    do_GET = do_POST = do_PATCH = _any

    def _fault(self, asked: str) -> tuple[int | str, Asked] | None:
        for number, (beginning, what, headers) in enumerate(self.server.team.faults):
            if asked.startswith(beginning):
                del self.server.team.faults[number]
                return what, headers
        return None

    def _answer(self, path: str, asked: Asked, body: bytes) -> tuple[int, Any]:
        if self.headers["Authorization"] != "Basic " + base64.b64encode(f"{self.server.team.key}:sk".encode()).decode():
            return 401, {"message": "Invalid credentials"}
        try:
            if path == f"{_API}/otel/v1/traces":
                self.server.team.take_spans(body)
                return 200, {}
            return 200, self.server.team.answer(self.command, path, asked, json.loads(body) if body else None)
        except Refused as refused:
            return refused.status, {"message": str(refused)}

    def _send(self, status: int, value: Any, headers: Asked) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def experiment_id(dataset_id: str, run_name: str) -> str:
    """Return the id that Langfuse's server gives to an experiment on a dataset."""
    array = json.dumps(["langfuse-experiment-v1", PROJECT, dataset_id, run_name], separators=(",", ":"))
    return hashlib.sha256(array.encode()).hexdigest()[:16]


def _score(one: dict[str, Any], fields: str) -> dict[str, Any]:
    """Return a score with the groups of fields that were asked for."""
    core = ("id", "projectId", "name", "value", "dataType", "source", "timestamp", "environment")
    shown = {key: one[key] for key in (*core, "createdAt", "updatedAt")}
    if "details" in fields:
        shown["comment"] = one["comment"]
    if "annotation" in fields:
        shown["authorUserId"] = one.get("authorUserId")
    if "subject" in fields:
        observation = one.get("observationId")
        trace = {"kind": "trace", "id": one.get("traceId")}
        shown["subject"] = (
            {"kind": "observation", "id": observation, "traceId": one["traceId"]} if observation else trace
        )
    return shown


def _wanted(span: dict[str, Any], asked: Asked) -> bool:
    attributes = span["attributes"]
    right = [
        asked.get("traceId") in (None, span["traceId"]),
        asked.get("version") in (None, attributes.get("langfuse.version")),
        asked.get("environment") in (None, attributes.get("langfuse.environment", "default")),
        "fromStartTime" not in asked or span["start"] >= datetime.fromisoformat(asked["fromStartTime"]),
        "toStartTime" not in asked or span["start"] < datetime.fromisoformat(asked["toStartTime"]),
    ]
    return all(right)


def _cursored(found: list[Any], asked: Asked, most: int) -> dict[str, Any]:
    limit, start = int(asked.get("limit", 50)), int(asked.get("cursor", 0))
    if limit > most:
        raise Refused(400, f"limit must be at most {most}")
    more = {"cursor": str(start + limit)} if len(found) > start + limit else {}
    return {"data": found[start : start + limit], "meta": {"limit": limit, **more}}


def _paged(found: list[Any], asked: Asked) -> dict[str, Any]:
    page, limit = int(asked.get("page", 1)), int(asked.get("limit", 50))
    if limit > _PAGE:
        raise Refused(400, f"limit must be at most {_PAGE}")
    last = -(-len(found) // limit)
    meta = {"page": page, "limit": limit, "totalItems": len(found), "totalPages": last}
    return {"data": found[(page - 1) * limit : page * limit], "meta": meta}


def _now() -> str:
    return datetime.now(UTC).isoformat()
