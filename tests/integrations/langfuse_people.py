"""What people and other programs do at a Langfuse of the tests: traces that they tell, and what they decide there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx

from langgraph_learnloop.integrations.langfuse_review import VERDICT
from langgraph_learnloop.integrations.langfuse_wire import SPANS, Wire
from tests.integrations.loopback_langfuse import Langfuse
from tests.integrations.loopback_langfuse_http import nanoseconds_of

ROOT = "0" * 16
_OBSERVATION = "langfuse.observation."


def wire_to(server: Langfuse, seconds: float = 5.0) -> Wire:
    """Return connections of our own to it."""
    return Wire(server.public_key, server.secret_key, server.url, seconds=seconds)


# -- traces ------------------------------------------------------------------------------------------------------------


def seen(trace: str, own_id: str = ROOT, **told: Any) -> dict[str, Any]:
    """Return what a program tells of an observation; what no program could tell stands under `odd`, as it is shown."""
    whole = {"traceId": trace, "id": own_id, "name": "agent", "type": "span", "at": datetime.now(UTC)}
    return whole | {"parent": None, "environment": "default", "metadata": {}, "odd": {}} | told


def generation(trace: str, parent: str = ROOT, own_id: str = "1" * 16, **told: Any) -> dict[str, Any]:
    """Return what a program tells of a model call."""
    said = {"input": '[{"role": "user", "content": "Hi"}]', "output": '{"role": "assistant", "content": "Ho"}'}
    return seen(trace, own_id, **{"parent": parent, "type": "generation", "name": "model", **said, **told})


def tell(server: Langfuse, *observations: dict[str, Any]) -> None:
    """Tell of observations as any program does, in one request."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for one in observations:
        at = nanoseconds_of(one["at"])
        span = scope.spans.add(name=one["name"], start_time_unix_nano=at, end_time_unix_nano=at)
        span.trace_id, span.span_id = bytes.fromhex(one["traceId"]), bytes.fromhex(one["id"])
        span.parent_span_id = bytes.fromhex(one["parent"] or "")
        for key, text in _attributes(one):
            span.attributes.add(key=key).value.string_value = text
        if one["odd"]:
            server.odd[one["traceId"], one["id"]] = one["odd"]
    headers = {"content-type": "application/x-protobuf"}
    with httpx.Client(auth=(server.public_key, server.secret_key), verify=False) as client:
        client.post(server.url + SPANS, content=request.SerializeToString(), headers=headers).raise_for_status()


def _attributes(one: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "langfuse.environment", one["environment"]
    for name in ("type", "input", "output"):
        if name in one:
            yield _OBSERVATION + name, one[name]
    for name, text in one["metadata"].items():
        yield f"{_OBSERVATION}metadata.{name}", text


# -- an annotation queue -----------------------------------------------------------------------------------------------


def decides(server: Langfuse, trace: str, value: str, **more: Any) -> str:
    """Have somebody give the verdict on a trace, and return the score's id."""
    facts: dict[str, Any] = {"name": VERDICT, "data_type": "CATEGORICAL", "author": "user-ann", **more}
    return server.annotate(trace, value=value, **facts)


def corrects(server: Langfuse, trace: str, value: str, **more: Any) -> str:
    """Have somebody correct a trace's output, and return the score's id."""
    return decides(server, trace, value, name="output", data_type="CORRECTION", **more)


def queued(server: Langfuse) -> list[dict[str, Any]]:
    """Return what waits or waited in all the queues."""
    return [item for items in server.queue_items.values() for item in items.values()]


def completes(server: Langfuse, trace: str | None = None) -> None:
    """Have somebody be done with an item of a queue, or with all."""
    for item in queued(server):
        if trace in (None, item["objectId"]):
            item.update(status="COMPLETED", completedAt=item["createdAt"])
