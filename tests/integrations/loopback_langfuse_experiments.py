"""Experiments as the loopback Langfuse derives them from spans and scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.integrations.loopback_langfuse_http import RefusalError, Request, cursor_of, iso_of, place_of, routes
from tests.integrations.loopback_langfuse_observations import (
    Observation,
    dict_of,
    groups_of,
    order,
    parameters,
    readable,
)

ROUTES, route = routes()
_EXPERIMENT = "langfuse.experiment."


def experiment_id(project_id: str, dataset_id: str, name: str) -> str:
    """Return the id that the server gives to an experiment on a dataset."""
    made_of = json.dumps(["langfuse-experiment-v1", project_id, dataset_id, name], separators=(",", ":"))
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def _is_item(span: Observation) -> bool:
    return span.attributes.get(_EXPERIMENT + "item.root_observation_id") == span.id


def _items(state: Any, request: Request) -> list[Observation]:
    """Return the items of experiments in the time that is asked for, the latest first."""
    if request.one("fromStartTime") is None:
        raise RefusalError(400, "fromStartTime is required")
    inside = [one for one in parameters(request) if one.column == "startTime"]
    items = [span for span in readable(state, inside) if _is_item(span)]
    asked = {
        "id": request.many("experimentId") or request.many("id"),
        "name": request.many("experimentName") or request.many("name"),
        "item.id": request.many("experimentItemId"),
        "dataset.id": request.many("datasetId"),
    }
    wanted = {_EXPERIMENT + name: values for name, values in asked.items() if values}
    fitting = [one for one in items if all(one.attributes.get(name) in values for name, values in wanted.items())]
    return sorted(fitting, key=order, reverse=True)


def _slice(request: Request, rows: list[dict[str, Any]]) -> dict[str, Any]:
    limit = request.number("limit", 50, 100)
    start = int(place_of(cursor)["start"]) if (cursor := request.one("cursor")) is not None else 0
    meta = {"cursor": cursor_of({"start": start + limit})} if len(rows) > start + limit else {}
    return {"data": rows[start : start + limit], "meta": meta}


@route("GET", "experiments")
def experiments(state: Any, request: Request) -> dict[str, Any]:
    """Return the experiments whose items are there, the latest first."""
    groups = groups_of(request, ("core", "metadata", "scores"), "core")
    found: dict[str, list[Observation]] = {}
    for item in _items(state, request):
        found.setdefault(item.attributes[_EXPERIMENT + "id"], []).append(item)
    return _slice(request, [_experiment(state, id_, items, groups) for id_, items in found.items()])


def _experiment(state: Any, id_: str, items: list[Observation], groups: list[str]) -> dict[str, Any]:
    put = items[0].attributes
    shown = {
        "id": id_,
        "name": put.get(_EXPERIMENT + "name"),
        "description": put.get(_EXPERIMENT + "description"),
        "startTime": iso_of(min(item.span.start_time_unix_nano for item in items)),
        "endTime": iso_of(max(item.span.end_time_unix_nano for item in items)),
        "itemCount": len({item.id for item in items}),
        "datasetId": put.get(_EXPERIMENT + "dataset.id"),
    }
    if "metadata" in groups:
        shown["metadata"] = dict_of(put.get(_EXPERIMENT + "metadata"))
    if "scores" in groups:
        shown["scores"] = state.scores_of("datasetRunId", id_)
    return shown


@route("GET", "experiment-items")
def experiment_items(state: Any, request: Request) -> dict[str, Any]:
    """Return the items of experiments, the latest first."""
    known = ("core", "dataset", "io", "metadata", "itemMetadata", "experimentMetadata", "scores")
    groups = groups_of(request, known, "core,dataset")
    return _slice(request, [_item(state, item, groups) for item in _items(state, request)])


def _item(state: Any, item: Observation, groups: list[str]) -> dict[str, Any]:
    row, put = item.row, {key.removeprefix(_EXPERIMENT): value for key, value in item.attributes.items()}
    shown = {name: row[name] for name in ("id", "traceId", "startTime", "endTime", "level", "environment")}
    shown |= {"experimentId": put["id"], "experimentName": put.get("name"), "experimentItemId": put.get("item.id")}
    more: dict[str, Callable[[], dict[str, Any]]] = {
        "dataset": lambda: {
            "experimentDatasetId": put.get("dataset.id"),
            "experimentItemVersion": put.get("item.version"),
        },
        "io": lambda: {
            "input": row["input"],
            "output": row["output"],
            "expectedOutput": put.get("item.expected_output"),
        },
        "metadata": lambda: {"metadata": item.metadata},
        "itemMetadata": lambda: {"experimentItemMetadata": dict_of(put.get("item.metadata"))},
        "experimentMetadata": lambda: {
            "experimentMetadata": dict_of(put.get("metadata")),
            "experimentDescription": put.get("description"),
        },
        "scores": lambda: {"scores": state.scores_of("traceId", item.trace_id)},
    }
    for group in groups:
        if group in more:
            shown |= more[group]()
    return shown
