"""Scores, their configurations, comments and annotation queues of the loopback Langfuse."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from tests.integrations.loopback_langfuse_http import (
    Answer,
    RefusalError,
    Request,
    cursor_of,
    iso,
    moment,
    paged,
    place_of,
    routes,
    said,
)
from tests.integrations.loopback_langfuse_observations import Condition, groups_of, readable

ROUTES, route = routes()
TYPES = ("NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION")
_SUBJECTS = ("traceId", "sessionId", "datasetRunId")
_FIXED = ("id", "projectId", "timestamp", "traceId", "createdAt", "environment")
"""What stays as it first came when a score is written again."""
_GROUPS = {"details": ("comment", "configId", "metadata"), "annotation": ("authorUserId", "queueId")}
_CORE = (
    "id",
    "projectId",
    "name",
    "value",
    "dataType",
    "source",
    "timestamp",
    "environment",
    "createdAt",
    "updatedAt",
)
_LISTS = {
    "id": "id",
    "name": "name",
    "environment": "environment",
    "configId": "configId",
    "queueId": "queueId",
    "authorUserId": "authorUserId",
    "traceId": "traceId",
    "sessionId": "sessionId",
    "observationId": "observationId",
    "experimentId": "datasetRunId",
}
_LONGEST_TEXT = 500


def now() -> str:
    return iso(datetime.now(UTC))


def new(state: Any, **facts: Any) -> dict[str, Any]:
    """Return a record with an id and its times."""
    at = now()
    return {"id": str(uuid.uuid4()), "projectId": state.project_id, "createdAt": at, "updatedAt": at, **facts}


def needed(body: Any, *names: str) -> dict[str, Any]:
    """Return a body that holds what it must; raise RefusalError."""
    if not isinstance(body, dict):
        raise _invalid("object", "array" if isinstance(body, list) else type(body).__name__)
    for name in names:
        if body.get(name) is None:
            raise RefusalError(400, f"Invalid request data: {name} is required")
    return body


def _invalid(wanted: str, got: str) -> RefusalError:
    message = f"Invalid input: expected {wanted}, received {got}"
    return RefusalError(
        400, "Invalid request data", [{"expected": wanted, "code": "invalid_type", "path": [], "message": message}]
    )


def found(records: dict[str, Any], key: str, what: str) -> Any:
    if key not in records:
        raise RefusalError(404, f"{what} not found within authorized project", "LangfuseNotFoundError")
    return records[key]


def latest_first(records: dict[str, Any]) -> list[Any]:
    return list(reversed(records.values()))


@route("POST", "scores")
def take_scores(state: Any, request: Request) -> Answer | dict[str, Any]:
    """Keep one score; a list of them only where the server is new enough."""
    told = request.json
    if not isinstance(told, list) or state.score_arrays == "refused":
        return {"id": keep_score(state, needed(told, "name", "value"))}
    errors = [message for one in told if (message := _refusal(state, one)) is not None]
    if not errors:
        return said(202, {"message": "Accepted"})
    results = {"accepted": len(told) - len(errors), "rejected": len(errors)}
    return said(207, results | {"errors": [{"message": one} for one in errors]})


def _refusal(state: Any, body: Any) -> str | None:
    try:
        keep_score(state, needed(body, "name", "value"))
    except RefusalError as error:
        return str(error)
    return None


@route("POST", "ingestion")
def ingest(state: Any, request: Request) -> Answer:
    """Take scores as older clients send them."""
    successes, errors = [], []
    for event in needed(request.json, "batch")["batch"]:
        known = event.get("type") == "score-create"
        message = _refusal(state, event.get("body")) if known else "Not available in events_only mode"
        if message is None:
            successes.append({"id": event.get("id"), "status": 201})
        else:
            errors.append({"id": event.get("id"), "status": 400, "message": message})
    return said(207, {"successes": successes, "errors": errors})


def keep_score(state: Any, body: dict[str, Any], source: str = "API") -> str:
    """Keep a score, in the place of the one with its id, and return the id; raise RefusalError."""
    kind = _kind(state, body)
    given = {name: body.get(name) for name in ("comment", "configId", "metadata", "queueId", "authorUserId")}
    subject = {name: body.get(name) for name in (*_SUBJECTS, "observationId")}
    score = new(
        state,
        id=str(body.get("id") or uuid.uuid4()),
        name="output" if kind == "CORRECTION" else body["name"],
        value=_valued(kind, body["value"]),
        dataType=kind,
        source=body.get("source") or source,
        timestamp=iso(moment(body["timestamp"])) if body.get("timestamp") else now(),
        environment=body.get("environment") or "default",
        **given,
        **subject,
    )
    with state.lock:
        before = state.scores.pop(score["id"], None)
        if before is not None:
            kept = {name: value for name, value in score.items() if value is not None and name not in _FIXED}
            score = before | kept
        state.scores[score["id"]] = score
    return str(score["id"])


def _kind(state: Any, body: dict[str, Any]) -> str:
    """Return the type of a score; raise RefusalError if the score is not right."""
    if sum(bool(body.get(name)) for name in _SUBJECTS) != 1:
        raise RefusalError(400, f"Provide exactly one of the following: {', '.join(_SUBJECTS)}")
    if body.get("observationId") and not body.get("traceId"):
        raise RefusalError(400, "An observationId needs a traceId")
    if not isinstance(body["name"], str) or not body["name"]:
        raise RefusalError(400, "Invalid request data: name must be text")
    config = found(state.score_configs, body["configId"], "Score config") if body.get("configId") else None
    kind = body.get("dataType") or (config or {}).get("dataType")
    kind = kind or ("CATEGORICAL" if isinstance(body["value"], str) else "NUMERIC")
    if kind not in TYPES:
        raise RefusalError(400, f"Invalid request data: dataType must be one of {', '.join(TYPES)}")
    _check_value(kind, body["value"])
    if config is not None:
        _check_config(config, kind, body)
    return str(kind)


def _check_value(kind: str, value: Any) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("NUMERIC", "BOOLEAN") and not numeric:
        raise RefusalError(400, f"Expected the value of a {kind} score to be a number, received {value!r}")
    if kind == "BOOLEAN" and value not in (0, 1):
        raise RefusalError(400, f"Value must be either 0 or 1 for BOOLEAN data type, received {value!r}")
    if kind in ("CATEGORICAL", "TEXT", "CORRECTION") and not isinstance(value, str):
        raise RefusalError(400, f"Expected the value of a {kind} score to be a string, received {value!r}")
    if kind == "TEXT" and not 1 <= len(value) <= _LONGEST_TEXT:
        raise RefusalError(400, f"A TEXT score must have between 1 and {_LONGEST_TEXT} characters")


def _check_config(config: dict[str, Any], kind: str, body: dict[str, Any]) -> None:
    value, labels = body["value"], [one["label"] for one in config["categories"] or ()]
    if (config["name"], config["dataType"]) != (body["name"], kind):
        raise RefusalError(400, f"The score {body['name']!r} ({kind}) does not match its config {config['name']!r}")
    if kind == "CATEGORICAL" and value not in labels:
        raise RefusalError(400, f"Value {value!r} is not one of the config's categories {labels}")
    least, most = config["minValue"], config["maxValue"]
    if kind == "NUMERIC" and not (least is None or value >= least) & (most is None or value <= most):
        raise RefusalError(400, f"Value {value!r} is outside of the config's range")


def _valued(kind: str, value: Any) -> Any:
    read: dict[str, Callable[[Any], Any]] = {"BOOLEAN": bool, "NUMERIC": _number}
    return read.get(kind, str)(value)


def _number(value: float) -> int | float:
    """Return a number as JavaScript writes it: one that is whole has no point."""
    return int(value) if isinstance(value, int) or value.is_integer() else value


@route("DELETE", "scores/([^/]+)")
def delete_score(state: Any, request: Request, score_id: str) -> Answer:
    with state.lock:
        state.scores.pop(score_id, None)
    return said(202, {"message": "Score deletion request accepted."})


@route("GET", "v3/scores")
def scores(state: Any, request: Request) -> dict[str, Any]:
    """Return a page of scores, the latest first."""
    groups = groups_of(request, ("details", "subject", "annotation"), "")
    limit = request.number("limit", 50, 100)
    _check_question(request)
    tests = list(_tests(request))
    if (cursor := request.one("cursor")) is not None:
        place = place_of(cursor)
        last = (place["lastTimestamp"], place["lastId"])
        tests.append(lambda score: _order(score) < last)
    with state.lock:
        rows = [score for score in state.scores.values() if all(test(score) for test in tests)]
    rows.sort(key=_order, reverse=True)
    meta: dict[str, Any] = {"limit": limit}
    if len(rows) > limit:
        timestamp, id_ = _order(rows[limit - 1])
        meta["cursor"] = cursor_of({"lastTimestamp": timestamp, "lastId": id_})
    return {"data": [shown(score, groups) for score in rows[:limit]], "meta": meta}


def _order(score: dict[str, Any]) -> tuple[str, str]:
    return score["timestamp"], score["id"]


def _check_question(request: Request) -> None:
    asked = [name for name in ("traceId", "sessionId", "experimentId") if request.one(name)]
    if len(asked) > 1:
        raise RefusalError(400, f"{' and '.join(asked)} are mutually exclusive")
    if request.one("observationId") and not request.one("traceId"):
        raise RefusalError(400, "observationId requires traceId")
    kinds = [one.upper() for one in request.many("dataType") or ()]
    if request.one("value") is not None and (len(kinds) != 1 or kinds[0] not in TYPES[:3]):
        raise RefusalError(400, "value requires a single dataType from NUMERIC, BOOLEAN, or CATEGORICAL")
    if (request.one("valueMin") or request.one("valueMax")) and kinds != ["NUMERIC"]:
        raise RefusalError(400, "valueMin and valueMax require dataType=NUMERIC")


def _tests(request: Request) -> Iterator[Callable[[dict[str, Any]], bool]]:
    for name, field in _LISTS.items():
        if listed := request.many(name):
            yield lambda score, field=field, listed=listed: score[field] in listed
    for field in ("source", "dataType"):
        if listed := [one.upper() for one in request.many(field) or ()]:
            yield lambda score, field=field, listed=listed: score[field] in listed
    if values := request.many("value"):
        yield lambda score: _written(score["value"]) in values
    if (least := request.one("valueMin")) is not None:
        yield lambda score: score["value"] >= float(least)
    if (most := request.one("valueMax")) is not None:
        yield lambda score: score["value"] <= float(most)
    if (since := request.time("fromTimestamp")) is not None:
        yield lambda score: moment(score["timestamp"]) >= since
    if (until := request.time("toTimestamp")) is not None:
        yield lambda score: moment(score["timestamp"]) < until


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, int | float) else value


def shown(score: dict[str, Any], groups: list[str]) -> dict[str, Any]:
    """Return a score with the groups of fields that are asked for."""
    out = {field: score[field] for field in _CORE}
    for group in groups:
        out |= {field: score[field] for field in _GROUPS.get(group, ())}
    if "subject" in groups:
        out["subject"] = _subject(score)
    return out


def _subject(score: dict[str, Any]) -> dict[str, Any]:
    if score["observationId"]:
        return {"kind": "observation", "id": score["observationId"], "traceId": score["traceId"]}
    kinds = {"traceId": "trace", "sessionId": "session", "datasetRunId": "experiment"}
    return next({"kind": kind, "id": score[field]} for field, kind in kinds.items() if score[field])


@route("POST", "score-configs")
def create_config(state: Any, request: Request) -> dict[str, Any]:
    body = needed(request.json, "name", "dataType")
    if body["dataType"] not in TYPES[:4]:
        raise RefusalError(400, "Invalid request data: dataType")
    categories = body.get("categories")
    if body["dataType"] == "BOOLEAN":
        categories = [{"label": "True", "value": 1}, {"label": "False", "value": 0}]
    if body["dataType"] == "CATEGORICAL" and not categories:
        raise RefusalError(400, "Category must be an array of objects with label value pairs")
    limits = {name: body.get(name) for name in ("minValue", "maxValue", "description")}
    config = new(state, name=body["name"], dataType=body["dataType"], isArchived=False, categories=categories, **limits)
    state.score_configs[config["id"]] = config
    return config


@route("GET", "score-configs")
def configs(state: Any, request: Request) -> dict[str, Any]:
    return paged(request, latest_first(state.score_configs))


@route("GET", "score-configs/([^/]+)")
def config(state: Any, request: Request, config_id: str) -> Any:
    return found(state.score_configs, config_id, "Score config")


@route("POST", "comments")
def create_comment(state: Any, request: Request) -> dict[str, str]:
    """Keep a comment on something that can be seen by now."""
    body = needed(request.json, "projectId", "objectType", "objectId", "content")
    kind, object_id = body["objectType"], body["objectId"]
    if kind not in ("TRACE", "OBSERVATION", "SESSION", "PROMPT"):
        raise RefusalError(400, "Invalid request data: objectType")
    column = {"TRACE": "traceId", "OBSERVATION": "id"}.get(kind)
    if column is not None and not any(readable(state, [Condition(column, "=", object_id)])):
        raise RefusalError(404, f"Reference object, {kind}: {object_id} not found", "LangfuseNotFoundError")
    return {"id": keep_comment(state, kind, object_id, body["content"], body.get("authorUserId"))}


def keep_comment(state: Any, kind: str, object_id: str, content: str, author: str | None) -> str:
    comment = new(state, objectType=kind, objectId=object_id, content=content, authorUserId=author)
    state.comments[comment["id"]] = comment
    return str(comment["id"])


@route("GET", "comments")
def comments(state: Any, request: Request) -> dict[str, Any]:
    asked = {name: request.one(name) for name in ("objectType", "objectId", "authorUserId")}
    wanted = {name: value for name, value in asked.items() if value is not None}
    rows = [one for one in list(state.comments.values()) if all(one[name] == value for name, value in wanted.items())]
    return paged(request, rows)


@route("GET", "comments/([^/]+)")
def comment(state: Any, request: Request, comment_id: str) -> Any:
    return found(state.comments, comment_id, "Comment")


@route("POST", "annotation-queues")
def create_queue(state: Any, request: Request) -> dict[str, Any]:
    body = needed(request.json, "name", "scoreConfigIds")
    if any(one["name"] == body["name"] for one in state.queues.values()):
        raise RefusalError(400, "A queue with this name already exists in the project")
    if not set(body["scoreConfigIds"]) <= set(state.score_configs):
        raise RefusalError(400, "At least one of the score config IDs cannot be found for the given project")
    facts = {name: body.get(name) for name in ("name", "description", "scoreConfigIds")}
    queue = new(state, **facts)
    state.queues[queue["id"]] = queue
    state.queue_items[queue["id"]] = {}
    return queue


@route("GET", "annotation-queues")
def queues(state: Any, request: Request) -> dict[str, Any]:
    return paged(request, latest_first(state.queues))


@route("GET", "annotation-queues/([^/]+)")
def queue(state: Any, request: Request, queue_id: str) -> Any:
    return found(state.queues, queue_id, "Annotation queue")


@route("POST", "annotation-queues/([^/]+)/items")
def create_item(state: Any, request: Request, queue_id: str) -> dict[str, Any]:
    """Put something into a queue; the same thing can stand there twice."""
    items = found(state.queue_items, queue_id, "Annotation queue")
    body = needed(request.json, "objectId", "objectType")
    if body["objectType"] not in ("TRACE", "OBSERVATION", "SESSION"):
        raise RefusalError(400, "Invalid request data: objectType")
    item = new(state, queueId=queue_id, objectId=body["objectId"], objectType=body["objectType"])
    item |= _status(body.get("status") or "PENDING")
    items[item["id"]] = item
    return item


def _status(status: str) -> dict[str, Any]:
    if status not in ("PENDING", "COMPLETED"):
        raise RefusalError(400, "Invalid request data: status")
    return {"status": status, "completedAt": now() if status == "COMPLETED" else None}


@route("GET", "annotation-queues/([^/]+)/items")
def items(state: Any, request: Request, queue_id: str) -> dict[str, Any]:
    asked = request.one("status")
    rows = latest_first(found(state.queue_items, queue_id, "Annotation queue"))
    return paged(request, [one for one in rows if asked in (None, one["status"])])


@route("GET", "annotation-queues/([^/]+)/items/([^/]+)")
def item(state: Any, request: Request, queue_id: str, item_id: str) -> Any:
    return found(found(state.queue_items, queue_id, "Annotation queue"), item_id, "Annotation queue item")


@route("PATCH", "annotation-queues/([^/]+)/items/([^/]+)")
def update_item(state: Any, request: Request, queue_id: str, item_id: str) -> Any:
    kept = item(state, request, queue_id, item_id)
    if status := needed(request.json).get("status"):
        changed = _status(status)
        if status == "PENDING":
            del changed["completedAt"]  # that it was completed once stays
        kept |= changed | {"updatedAt": now()}
    return kept


@route("DELETE", "annotation-queues/([^/]+)/items/([^/]+)")
def delete_item(state: Any, request: Request, queue_id: str, item_id: str) -> dict[str, Any]:
    del state.queue_items[queue_id][item(state, request, queue_id, item_id)["id"]]
    return {"success": True, "message": "Annotation queue item deleted successfully"}
