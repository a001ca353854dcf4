"""A Qdrant server on this machine: the REST calls that the index makes, answered by Qdrant's own engine in a folder.

It speaks as the real one does, as far as qdrant-client 1.20 looks: statuses, the form of answers and the words of its
refusals. `fault` is asked first, and may answer in its place, or None to hang up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from tests.integrations.loopback_langfuse_http import Answer, Listener, Request, said

Fault = Callable[[Request], Answer | None]
Collection = tuple[Any, dict[str, Any]]
"""A shard and the vectors that it was made for."""


class Qdrant:
    """Serve collections from a folder until it is left."""

    def __init__(self, folder: Path, key: str | None = None) -> None:
        self.folder = folder
        self.key = key
        self.fault: Fault | None = None
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.collections: dict[str, Collection] = {}
        self._lock = threading.Lock()
        self._listener = Listener(0, self._respond)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> Qdrant:
        self._listener.live()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.die()
        for shard, _params in self.collections.values():
            shard.close()

    def die(self) -> None:
        """Listen no more."""
        self._listener.die()

    def _respond(self, request: Request) -> Answer | None:
        self.asked.append((request.method, request.path))
        if self.fault is not None:
            return self.fault(request)
        if self.key is not None and request.headers.get("api-key") != self.key:
            return Answer(401, b"Must provide an API key or an Authorization bearer token", "text/plain")
        with self._lock:
            try:
                return self._answered(request)
            except Exception as error:  # noqa: BLE001 - the engine says of a wrong vector what the server says
                return _refused(400, f"Wrong input: {error}")

    def _answered(self, request: Request) -> Answer:
        _, root, name, *rest = [*request.path.split("/"), ""]
        what = (request.method, *(part for part in rest if part))
        if root != "collections":
            return Answer(404)
        if what == ("GET", "exists"):
            return _done({"exists": name in self.collections})
        if what == ("PUT",):
            return self._make(name, request.json["vectors"])
        if name not in self.collections:
            return _refused(404, f"Not found: Collection `{name}` doesn't exist!")
        shard, params = self.collections[name]
        answers: dict[tuple[str, ...], Callable[[], Any]] = {
            ("GET",): lambda: _info(params),
            ("PUT", "index"): lambda: _indexed(shard, request.json),
            ("PUT", "points"): lambda: _upserted(shard, request),
            ("POST", "points", "query"): lambda: _found(shard, request.json),
            ("POST", "points", "count"): lambda: {"count": _counted(shard, request.json)},
        }
        return _done(answers[what]()) if what in answers else Answer(404)

    def _make(self, name: str, vectors: dict[str, Any]) -> Answer:
        if name in self.collections:
            return _refused(409, f"Wrong input: Collection `{name}` already exists!")
        place = self.folder / name
        place.mkdir(parents=True)
        distance = getattr(edge.Distance, vectors["distance"])
        params = edge.EdgeVectorParams(size=vectors["size"], distance=distance)
        self.collections[name] = edge.EdgeShard.create(str(place), edge.EdgeConfig(vectors=params)), vectors
        return _done(True)


def _done(result: Any) -> Answer:
    return said(200, {"result": result, "status": "ok", "time": 0.001})


def _refused(status: int, why: str) -> Answer:
    return said(status, {"status": {"error": why}, "time": 0.001})


def _info(vectors: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "points_count": 0,
        "indexed_vectors_count": 0,
        "payload_schema": {},
        "config": {
            "params": {"vectors": vectors, "shard_number": 1, "replication_factor": 1, "on_disk_payload": True},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        },
    }


def _indexed(shard: Any, body: dict[str, Any]) -> dict[str, Any]:
    assert body["field_schema"] == "keyword"
    shard.update(edge.UpdateOperation.create_field_index(body["field_name"], edge.PayloadSchemaType.Keyword))
    return {"operation_id": 1, "status": "completed"}


def _upserted(shard: Any, request: Request) -> dict[str, Any]:
    assert request.one("wait") == "true"
    points = [edge.Point(one["id"], one["vector"], one["payload"]) for one in request.json["points"]]
    shard.update(edge.UpdateOperation.upsert_points(points))
    return {"operation_id": 2, "status": "completed"}


def _found(shard: Any, body: dict[str, Any]) -> dict[str, Any]:
    query = edge.QueryRequest(
        limit=body["limit"],
        query=edge.Query.Nearest(body["query"]["nearest"]),
        filter=_filter(body["filter"]),
        with_payload=body["with_payload"],
    )
    found = shard.query(query)
    return {"points": [{"id": str(one.id), "version": 1, "score": one.score, "payload": one.payload} for one in found]}


def _counted(shard: Any, body: dict[str, Any]) -> int:
    assert body["exact"] is True
    return int(shard.count(edge.CountRequest(filter=_filter(body["filter"]), exact=True)))


def _filter(given: dict[str, Any]) -> Any:
    (condition,) = given["must"]
    match = edge.MatchValue(condition["match"]["value"])
    return edge.Filter(must=[edge.FieldCondition(key=condition["key"], match=match)])
