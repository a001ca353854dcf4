"""Spans as the loopback Langfuse keeps them, and observations as it reads them back."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import orjson

from tests.integrations.loopback_langfuse_http import (
    PROTOBUF,
    Answer,
    RefusalError,
    Request,
    cursor_of,
    iso_of,
    moment,
    nanoseconds_of,
    place_of,
    routes,
)

ROUTES, route = routes()
_OBSERVATION = "langfuse.observation."
_METADATA = ("langfuse.trace.metadata.", "langfuse.observation.metadata.")
_LONGEST_METADATA = 200
_PRICES = dict.fromkeys(("modelId", "inputPrice", "outputPrice", "totalPrice"))
_CORE = ("id", "traceId", "startTime", "endTime", "projectId", "parentObservationId", "type")
GROUPS: dict[str, tuple[str, ...]] = {
    "core": _CORE,
    "basic": (
        "name",
        "level",
        "statusMessage",
        "version",
        "environment",
        "bookmarked",
        "public",
        "userId",
        "sessionId",
        "isRootObservation",
    ),
    "time": ("completionStartTime", "createdAt", "updatedAt"),
    "io": ("input", "output"),
    "metadata": ("metadata",),
    "model": ("model", "internalModelId", "modelParameters"),
    "usage": ("usageDetails", "costDetails", "totalCost", "usagePricingTierName"),
    "prompt": ("promptId", "promptName", "promptVersion"),
    "metrics": ("latency", "timeToFirstToken"),
    "trace_context": ("tags", "release", "traceName"),
}
"""The fields that each group of `fields` adds."""


class Observation:
    """One span as it came; what it says is decoded when somebody reads it."""

    def __init__(self, span: Any, resource: Any, at: float, decodes: bool, number: int) -> None:
        self.span = span
        self.began = span.start_time_unix_nano
        self.resource = resource
        self.at = at
        self.decodes = decodes
        self.number = number

    def __repr__(self) -> str:
        return f"Observation({self.type} {self.name!r}, id={self.id}, trace_id={self.trace_id})"

    @property
    def id(self) -> str:
        return str(self.span.span_id.hex())

    @property
    def trace_id(self) -> str:
        return str(self.span.trace_id.hex())

    @property
    def parent_id(self) -> str | None:
        return self.span.parent_span_id.hex() or None

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def type(self) -> str:
        return str(self.row["type"])

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Return the span's attributes; those of its resource do not count."""
        return {one.key: _value(one.value) for one in self.span.attributes}

    @cached_property
    def metadata(self) -> dict[str, Any]:
        found = {}
        for prefix in _METADATA:
            whole = self.attributes.get(prefix[:-1])
            if isinstance(whole, str) and isinstance(read := parsed(whole), dict):
                found.update(read)
            for key, value in self.attributes.items():
                if key.startswith(prefix):
                    found[key[len(prefix) :]] = parsed(value) if self.decodes else value
        return found

    @cached_property
    def row(self) -> dict[str, Any]:
        """Return all its fields but the project's id, as the API names them."""
        return {**self._core(), **self._basic(), **self._generation(), **self._context(), "metadata": self.metadata}

    def said(self, name: str) -> Any:
        return self.attributes.get(_OBSERVATION + name)

    def _core(self) -> dict[str, Any]:
        kind = self.said("type") or ("generation" if self.said("model.name") else "span")
        return {
            "id": self.id,
            "traceId": self.trace_id,
            "startTime": iso_of(self.span.start_time_unix_nano),
            "endTime": iso_of(self.span.end_time_unix_nano) if self.span.end_time_unix_nano else None,
            "parentObservationId": self.parent_id,
            "type": str(kind).upper(),
        }

    def _basic(self) -> dict[str, Any]:
        put, failed = self.attributes, self.span.status.code == 2
        return {
            "name": self.name,
            "level": self.said("level") or ("ERROR" if failed else "DEFAULT"),
            "statusMessage": self.said("status_message") or self.span.status.message or None,
            "version": put.get("langfuse.version"),
            "environment": self._anywhere("langfuse.environment") or "default",
            "bookmarked": False,
            "public": bool(put.get("langfuse.trace.public", False)),
            "userId": put.get("user.id"),
            "sessionId": put.get("session.id"),
            "isRootObservation": not self.parent_id or bool(put.get("langfuse.internal.is_app_root")),
            "createdAt": iso_of(int(self.at * 1e9)),
            "updatedAt": iso_of(int(self.at * 1e9)),
            "input": text_of(self.said("input")),
            "output": text_of(self.said("output")),
        }

    def _generation(self) -> dict[str, Any]:
        costs = dict_of(self.said("cost_details"))
        first = parsed(self.said("completion_start_time"))
        started, ended = self.span.start_time_unix_nano, self.span.end_time_unix_nano
        version = self.said("prompt.version")
        return {
            "model": self.said("model.name"),
            "internalModelId": None,
            "modelParameters": dict_of(self.said("model.parameters")),
            "usageDetails": dict_of(self.said("usage_details")),
            "costDetails": costs,
            "totalCost": costs.get("total", sum(costs.values()) if costs else None),
            "usagePricingTierName": None,
            "promptId": None,
            "promptName": self.said("prompt.name"),
            "promptVersion": None if version is None else int(version),
            "completionStartTime": first,
            "latency": (ended - started) / 1e9 if ended else None,
            "timeToFirstToken": None if not first else (nanoseconds_of(moment(first)) - started) / 1e9,
        }

    def _context(self) -> dict[str, Any]:
        tags = self.attributes.get("langfuse.trace.tags") or []
        return {
            "tags": parsed(tags) if isinstance(tags, str) else list(tags),
            "release": self._anywhere("langfuse.release"),
            "traceName": self.attributes.get("langfuse.trace.name") or (None if self.parent_id else self.name),
        }

    def _anywhere(self, key: str) -> Any:
        resource = (_value(one.value) for one in self.resource.attributes if one.key == key)
        return self.attributes.get(key) or next(resource, None)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    if kind == "kvlist_value":
        return {one.key: _value(one.value) for one in value.kvlist_value.values}
    return None if kind is None else getattr(value, kind)


def parsed(text: Any) -> Any:
    """Return what is written as JSON, and as it is what is not."""
    try:
        return orjson.loads(text) if isinstance(text, str | bytes) else text
    except orjson.JSONDecodeError:
        return text


def dict_of(text: Any) -> dict[str, Any]:
    read = parsed(text)
    return read if isinstance(read, dict) else {}


def text_of(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


@route("POST", "otel/v1/traces")
def take_spans(state: Any, request: Request) -> Answer:
    """Keep every span of a request, or none."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    if PROTOBUF not in request.headers.get("content-type", ""):
        raise RefusalError(400, "Invalid content type")
    try:
        told = ExportTraceServiceRequest.FromString(request.body)
    except DecodeError as error:
        raise RefusalError(400, "Failed to parse OTel Protobuf Trace") from error
    at, decodes = time.time(), _decodes(request.headers.get("x-langfuse-sdk-version", ""))
    with state.lock:
        taken = [
            Observation(span, one.resource, at, decodes, number)
            for number, (one, span) in enumerate(_spans(told), state.came)
        ]
        if state.reject_spans is not None and any(map(state.reject_spans, taken)):
            raise RefusalError(400, "A span was told to be refused")
        state.came += len(taken)
        state.spans += taken
        for span in taken:
            state.by_trace[span.span.trace_id].append(span)
    return Answer(200, b"", PROTOBUF)  # an ExportTraceServiceResponse without a partial success has no bytes


def _spans(told: Any) -> Iterator[tuple[Any, Any]]:
    return ((one, span) for one in told.resource_spans for scope in one.scope_spans for span in scope.spans)


def _decodes(version: str) -> bool:
    """Return whether a client of this version writes each value of its metadata as JSON."""
    major = version.partition(".")[0]
    return major.isdigit() and int(major) >= 5


_EXACT = ("name", "userId", "sessionId", "type", "traceId", "level", "version")
_ALIASES = {"traceTags": "tags", "providedModelName": "model"}
_NEGATIVE = frozenset({"<>", "none of", "does not contain", "is null", "is not set"})
"""What is true of a value that is not there."""
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda is_, asked: is_ == asked,
    "<>": lambda is_, asked: is_ != asked,
    ">": lambda is_, asked: is_ > asked,
    "<": lambda is_, asked: is_ < asked,
    ">=": lambda is_, asked: is_ >= asked,
    "<=": lambda is_, asked: is_ <= asked,
    "contains": lambda is_, asked: asked in is_,
    "does not contain": lambda is_, asked: asked not in is_,
    "starts with": lambda is_, asked: is_.startswith(asked),
    "ends with": lambda is_, asked: is_.endswith(asked),
    "matches": lambda is_, asked: asked.lower() in is_.lower(),
    "any of": lambda is_, asked: bool(set(_listed(is_)) & set(asked)),
    "none of": lambda is_, asked: not set(_listed(is_)) & set(asked),
    "all of": lambda is_, asked: set(asked) <= set(_listed(is_)),
    "is null": lambda is_, asked: False,
    "is not null": lambda is_, asked: True,
    "is set": lambda is_, asked: True,
    "is not set": lambda is_, asked: False,
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Condition:
    """One condition on observations, as the parameter `filter` writes it."""

    def __init__(self, column: str, operator: str, value: Any, kind: str = "string", key: str | None = None) -> None:
        if operator not in OPERATORS:
            raise RefusalError(400, f"Invalid filter: there is no operator {operator!r}")
        self.column = _ALIASES.get(column, column)
        self.operator = operator
        self.value = nanoseconds_of(moment(value)) if kind == "datetime" else value
        self.key = key
        if self.column not in _COLUMNS and self.column not in {"metadata", "startTime", "endTime"}:
            raise RefusalError(400, f"Invalid filter: there is no column {column!r}")

    def holds(self, span: Observation) -> bool:
        value = self._of(span)
        if value is None:
            return self.operator in _NEGATIVE
        try:
            return OPERATORS[self.operator](value, self.value)
        except (TypeError, AttributeError) as error:
            raise RefusalError(400, f"Invalid filter: {self.operator!r} of {self.column!r}") from error

    def traces(self) -> list[str] | None:
        """Return the traces that it leaves, if it is about them."""
        if self.column != "traceId" or self.operator not in ("=", "any of"):
            return None
        return _listed(self.value)

    def _of(self, span: Observation) -> Any:
        match self.column:
            case "startTime":
                return span.began
            case "endTime":
                return span.span.end_time_unix_nano or None
            case "name":
                return span.name
            case "traceId":
                return span.trace_id
            case "metadata":
                return text_of(span.metadata.get(self.key or ""))
        return span.row[self.column]


_COLUMNS = frozenset(field for fields in GROUPS.values() for field in fields) - {"projectId"}


def _conditions(request: Request) -> list[Condition]:
    """Return what is asked for; `filter` decides about the columns that it names."""
    try:
        filters = [
            Condition(one["column"], one["operator"], one.get("value"), one["type"], one.get("key"))
            for one in orjson.loads(request.one("filter") or "[]")
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RefusalError(400, "Invalid filter: it must be a JSON list of conditions") from error
    named = {one.column for one in filters}
    return filters + [one for one in parameters(request) if one.column not in named]


def parameters(request: Request) -> Iterator[Condition]:
    for name in _EXACT:
        if (asked := request.one(name)) is not None:
            yield Condition(name, "=", asked)
    if (asked := request.one("parentObservationId")) is not None:
        yield Condition("parentObservationId", "=" if asked else "is null", asked)
    if (asked := request.one("isRootObservation")) is not None:
        yield Condition("isRootObservation", "=", asked == "true")
    if environments := request.query.get("environment"):
        yield Condition("environment", "any of", environments)
    for name, operator in (("fromStartTime", ">="), ("toStartTime", "<")):
        if (asked := request.one(name)) is not None:
            yield Condition("startTime", operator, asked, "datetime")


def readable(state: Any, conditions: Iterable[Condition] = ()) -> Iterator[Observation]:
    """Yield what can be seen by now."""
    conditions = list(conditions)
    named = next((one for one in conditions if one.traces() is not None), None)
    with state.lock:
        if named is None:
            spans = list(state.spans)
        else:
            conditions.remove(named)
            spans = [span for one in set(named.traces() or ()) for span in _of_trace(state, one)]
        deleted = dict(state.deleted)
    until = time.time() - state.ingest_delay
    for span in spans:
        hidden = span.at > until or (deleted and span.number < deleted.get(span.span.trace_id, 0))
        if not hidden and all(one.holds(span) for one in conditions):
            yield span


def _of_trace(state: Any, trace_id: str) -> list[Observation]:
    try:
        return list(state.by_trace.get(bytes.fromhex(trace_id), ()))
    except ValueError:
        return []


def groups_of(request: Request, known: Iterable[str], default: str) -> list[str]:
    """Return the groups of fields that are asked for; raise RefusalError for one that is none."""
    asked = [one.strip() for one in (request.one("fields") or default).split(",") if one.strip()]
    if unknown := set(asked) - set(known):
        raise RefusalError(400, f"Invalid request data: there are no fields {sorted(unknown)}")
    return asked


@route("GET", "v2/observations")
def observations(state: Any, request: Request) -> dict[str, Any]:
    """Return a page of observations, the latest first; one that came twice is there twice."""
    if request.one("parseIoAsJson") == "true":
        raise RefusalError(400, "parseIoAsJson is not supported any more: input and output are strings")
    groups = ["core", *groups_of(request, GROUPS, "core,basic")]
    expanded = set(request.many("expandMetadata") or ())
    limit = request.number("limit", 50, 1000)
    found: Iterator[Observation] = readable(state, _conditions(request))
    if (cursor := request.one("cursor")) is not None:
        place = place_of(cursor)
        last = (place["lastStartTimeTo"], place["lastNumber"])
        found = (span for span in found if order(span) < last)
    page = heapq.nlargest(limit + 1, found, key=order)
    meta = {}
    if len(page) > limit:
        started, number = order(page[limit - 1])
        meta["cursor"] = cursor_of({"lastStartTimeTo": started, "lastNumber": number})
    return {"data": [_shown(state, span, groups, expanded) for span in page[:limit]], "meta": meta}


def order(span: Observation) -> tuple[int, int]:
    return span.began, span.number


def _shown(state: Any, span: Observation, groups: Iterable[str], expanded: set[str]) -> dict[str, Any]:
    row = {**span.row, "projectId": state.project_id}
    shown = {field: row[field] for group in groups for field in GROUPS[group]} | _PRICES
    if "metadata" in shown:
        shown["metadata"] = {key: _cut(value, key in expanded) for key, value in span.metadata.items()}
    odd = state.odd.get((span.trace_id, span.id), {})
    return shown | {field: odd[field] for field in odd.keys() & shown.keys()}


def _cut(value: Any, whole: bool) -> Any:
    text = text_of(value) or ""
    return value if whole or len(text) <= _LONGEST_METADATA else text[:_LONGEST_METADATA]


@route("DELETE", "traces")
def delete_traces(state: Any, request: Request) -> dict[str, str]:
    return _deleted(state, [str(one) for one in dict_of(request.body).get("traceIds", ())])


@route("DELETE", "traces/([^/]+)")
def delete_trace(state: Any, request: Request, trace_id: str) -> dict[str, str]:
    return _deleted(state, [trace_id])


def _deleted(state: Any, trace_ids: list[str]) -> dict[str, str]:
    """Let traces and their scores be seen no more; `spans` keeps what ever came."""
    with state.lock:
        state.deleted.update((bytes.fromhex(one), state.came) for one in trace_ids)
        for key in [key for key, score in state.scores.items() if score["traceId"] in trace_ids]:
            del state.scores[key]
    return {"message": "Traces deleted successfully"}
