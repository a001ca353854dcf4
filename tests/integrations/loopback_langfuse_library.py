"""Datasets, their items and prompts of the loopback Langfuse."""

from __future__ import annotations

from typing import Any

from tests.integrations.loopback_langfuse_http import RefusalError, Request, moment, paged, routes
from tests.integrations.loopback_langfuse_scores import found, latest_first, needed, new, now

ROUTES, route = routes()
_ITEM = ("input", "expectedOutput", "metadata", "sourceTraceId", "sourceObservationId")


@route("POST", "v2/datasets")
def create_dataset(state: Any, request: Request) -> dict[str, Any]:
    """Create a dataset, or change the one of this name."""
    body = needed(request.json, "name")
    told = {name: body.get(name) for name in ("description", "metadata", "inputSchema", "expectedOutputSchema")}
    with state.lock:
        before = state.datasets.get(body["name"]) or new(state, name=body["name"])
        state.datasets[body["name"]] = before | told | {"updatedAt": now()}
        return dict(state.datasets[body["name"]])


@route("GET", "v2/datasets")
def datasets(state: Any, request: Request) -> dict[str, Any]:
    return paged(request, latest_first(state.datasets))


@route("GET", "v2/datasets/(.+)")
def dataset(state: Any, request: Request, name: str) -> Any:
    return _dataset(state, name)


def _dataset(state: Any, name: str) -> Any:
    if name not in state.datasets:
        raise RefusalError(404, "Dataset not found", "LangfuseNotFoundError")
    return state.datasets[name]


@route("POST", "dataset-items")
def create_item(state: Any, request: Request) -> dict[str, Any]:
    """Create an item, or change the one with this id; what is not given stays."""
    body = needed(request.json, "datasetName")
    with state.lock:
        owner = _dataset(state, body["datasetName"])
        before = state.dataset_items.get(body.get("id"))
        if before is not None and before["datasetId"] != owner["id"]:
            raise RefusalError(404, f"Dataset item with id {body['id']} not found for project", "LangfuseNotFoundError")
        fresh = new(state, datasetId=owner["id"], datasetName=owner["name"], status="ACTIVE", mediaReferences=[])
        told = {name: body[name] for name in (*_ITEM, "id", "status") if body.get(name) is not None}
        item = (before or {**fresh, **dict.fromkeys(_ITEM)}) | told | {"updatedAt": now()}
        if item["status"] not in ("ACTIVE", "ARCHIVED"):
            raise RefusalError(400, "Invalid request data: status")
        state.dataset_items[item["id"]] = item
        return item


@route("GET", "dataset-items")
def items(state: Any, request: Request) -> dict[str, Any]:
    """Return a page of items, the newest first."""
    asked = {name: request.one(name) for name in ("datasetName", "sourceTraceId", "sourceObservationId")}
    wanted = {name: value for name, value in asked.items() if value is not None}
    if "datasetName" in wanted:
        _dataset(state, str(wanted["datasetName"]))
    rows = latest_first(state.dataset_items)
    return paged(request, [one for one in rows if all(one[name] == value for name, value in wanted.items())])


@route("GET", "dataset-items/([^/]+)")
def item(state: Any, request: Request, item_id: str) -> Any:
    return found(state.dataset_items, item_id, "Dataset item")


@route("DELETE", "dataset-items/([^/]+)")
def delete_item(state: Any, request: Request, item_id: str) -> dict[str, str]:
    del state.dataset_items[found(state.dataset_items, item_id, "Dataset item")["id"]]
    return {"message": "Dataset item successfully deleted"}


@route("POST", "v2/prompts")
def create_prompt(state: Any, request: Request) -> dict[str, Any]:
    """Create a prompt's next version: it is the latest, and takes its labels from the others."""
    body = needed(request.json, "name", "prompt")
    kind = body.get("type") or "text"
    if kind != ("text" if isinstance(body["prompt"], str) else "chat"):
        raise RefusalError(400, f"Invalid request data: a {kind} prompt cannot be {type(body['prompt']).__name__}")
    with state.lock:
        versions = state.prompts.setdefault(body["name"], [])
        if versions and versions[0]["type"] != kind:
            raise RefusalError(400, "Previous versions have different prompt type. Create a new prompt instead.")
        tags = body.get("tags") or (versions[-1]["tags"] if versions else [])
        facts = {"name": body["name"], "prompt": body["prompt"], "type": kind, "config": body.get("config") or {}}
        prompt = new(state, version=len(versions) + 1, labels=[], commitMessage=body.get("commitMessage"), **facts)
        versions.append(prompt)
        for one in versions:
            one["tags"] = tags
        _label(versions, prompt, [*(body.get("labels") or ()), "latest"])
        return dict(prompt)


def _label(versions: list[dict[str, Any]], prompt: dict[str, Any], labels: list[str]) -> None:
    """Give labels to one version: each stands on one at most."""
    for one in versions:
        if one is prompt:
            one["labels"] = list(dict.fromkeys([*labels, *one["labels"]]))
        else:
            one["labels"] = [label for label in one["labels"] if label not in labels]
    prompt["updatedAt"] = now()


@route("PATCH", "v2/prompts/(.+)/versions/([0-9]+)")
def label_prompt(state: Any, request: Request, name: str, version: str) -> dict[str, Any]:
    labels = needed(request.json, "newLabels")["newLabels"]
    if "latest" in labels:
        raise RefusalError(400, "The label 'latest' is reserved")
    with state.lock:
        versions = state.prompts.get(name, [])
        prompt = next((one for one in versions if one["version"] == int(version)), None)
        if prompt is None:
            raise RefusalError(404, f"Prompt not found: {name}", "LangfuseNotFoundError")
        _label(versions, prompt, labels)
        return dict(prompt)


@route("GET", "v2/prompts/(.+)")
def prompt(state: Any, request: Request, name: str) -> Any:
    """Return the version that is asked for, else the one in production."""
    version, label = request.one("version"), request.one("label")
    if version is not None and label is not None:
        raise RefusalError(400, "Cannot specify both version and label")
    label = label or "production"
    for one in state.prompts.get(name, ()):
        if one["version"] == int(version) if version is not None else label in one["labels"]:
            return {**one, "resolutionGraph": None}
    what = f"version {version}" if version is not None else f"label '{label}'"
    raise RefusalError(404, f"Prompt not found: '{name}' with {what}", "LangfuseNotFoundError")


@route("GET", "v2/prompts")
def prompts(state: Any, request: Request) -> dict[str, Any]:
    name, label, tag = (request.one(one) for one in ("name", "label", "tag"))
    rows = []
    for versions in latest_first(state.prompts):
        chosen = [one for one in versions if _fits(request, one, label)]
        if chosen and name in (None, chosen[0]["name"]) and (tag is None or tag in chosen[0]["tags"]):
            rows.append(_meta(chosen))
    return paged(request, rows)


def _fits(request: Request, prompt: dict[str, Any], label: str | None) -> bool:
    since, until = request.time("fromUpdatedAt"), request.time("toUpdatedAt")
    at = moment(prompt["updatedAt"])
    return (
        (label is None or label in prompt["labels"])
        and (since is None or at >= since)
        and (until is None or at < until)
    )


def _meta(versions: list[dict[str, Any]]) -> dict[str, Any]:
    last = versions[-1]
    return {
        "name": last["name"],
        "type": last["type"],
        "versions": [one["version"] for one in versions],
        "labels": list(dict.fromkeys(label for one in versions for label in one["labels"])),
        "tags": last["tags"],
        "lastUpdatedAt": max(one["updatedAt"] for one in versions),
        "lastConfig": last["config"],
    }
