"""The loopback Langfuse answers what the SDK's own clients ask, and fails as it is told."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("langfuse", reason="Langfuse is not installed")

from langfuse.api import CreateScoreRequest
from langfuse.api.core import ApiError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integrations.loopback_langfuse import Langfuse

SPANS, SCORES, OBSERVATIONS = "/api/public/otel/v1/traces", "/api/public/scores", "/api/public/v2/observations"
ONCE: Any = {"max_retries": 0}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[Langfuse]:
    with Langfuse() as made:
        yield made


@pytest.fixture
def client(server: Langfuse) -> Any:
    return server.client(environment="staging", release="r1")


@pytest.fixture
def api(server: Langfuse) -> Any:
    return server.client(tracing_enabled=False).api


def ids() -> tuple[str, str]:
    return uuid.uuid4().hex, uuid.uuid4().hex[16:]


def spans(*pairs: tuple[str, str], **attributes: str) -> bytes:
    """Return a request that tells spans, named by trace and id."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for number, (trace, span) in enumerate(pairs):
        told = scope.spans.add(trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(span), name=f"span-{number}")
        told.start_time_unix_nano = time.time_ns()
        told.end_time_unix_nano = told.start_time_unix_nano + 5_000_000
        for key, value in attributes.items():
            told.attributes.add(key=key.replace("__", "."))
            told.attributes[-1].value.string_value = value
    return request.SerializeToString()


def post(server: Langfuse, path: str, body: Any, packed: bool = False, timeout: float = 5) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/x-protobuf" if path == SPANS else "application/json"}
    if packed:
        content, headers["content-encoding"] = gzip.compress(content), "gzip"
    keys = (server.public_key, server.secret_key)
    return httpx.post(server.url + path, content=content, headers=headers, auth=keys, timeout=timeout, verify=False)


def test_health_project_and_keys(server: Langfuse, api: Any) -> None:
    """The keys open one project; others open none."""
    assert api.health.health().version == "4.16.0"
    assert api.projects.get().data[0].id == server.project_id
    assert httpx.get(f"{server.url}/api/public/projects", auth=("pk", "sk")).status_code == 401
    assert server.requests["/api/public/projects", 401] == 1


@pytest.mark.parametrize("packed", [False, True])
def test_spans_are_kept_in_order_and_twice(server: Langfuse, packed: bool) -> None:
    """What comes twice is there twice, and is read back twice."""
    one, two = ids(), ids()
    for pairs in ((one, two), (one,)):
        assert post(server, SPANS, spans(*pairs), packed).status_code == 200
    assert [(span.trace_id, span.id) for span in server.spans] == [one, two, one]
    assert server.duplicates() == {one: 2}
    assert {trace: len(kept) for trace, kept in server.traces().items()} == {one[0]: 2, two[0]: 1}


def test_the_sdk_s_spans_are_read_back(server: Langfuse, client: Any) -> None:
    """Whole, with the groups of fields that are asked for."""
    with client.start_as_current_observation(name="ask", as_type="agent", input={"q": 1}) as root:
        root.update(output="ok", metadata={"long": "x" * 300, "n": 5, "text": "5"})
        made = client.start_observation(name="llm", as_type="generation", model="m", usage_details={"input": 3})
        made.update(cost_details={"total": 0.5}, model_parameters={"temperature": 0.1})
        made.end()
    client.flush()
    get = client.api.observations.get_many
    bare = {one.name: one for one in get(trace_id=root.trace_id).data}
    assert (bare["ask"].type, bare["ask"].environment, bare["ask"].is_root_observation) == ("AGENT", "staging", True)
    assert (bare["ask"].input, bare["llm"].usage_details, bare["ask"].release) == (None, None, None)
    groups = "core,basic,time,io,metadata,model,usage,prompt,metrics,trace_context"
    whole = {one.name: one for one in get(trace_id=root.trace_id, fields=groups, expand_metadata="n").data}
    assert (whole["ask"].input, whole["ask"].output) == ('{"q": 1}', "ok")
    assert whole["ask"].metadata == {"long": "x" * 200, "n": 5, "text": "5"}
    assert whole["ask"].release == "r1"
    assert (whole["llm"].model, whole["llm"].usage_details, whole["llm"].total_cost) == ("m", {"input": 3}, 0.5)
    assert whole["llm"].parent_observation_id == whole["ask"].id
    full = get(trace_id=root.trace_id, fields="metadata", expand_metadata="long", name="ask").data[0]
    assert full.metadata["long"] == "x" * 300


def test_observations_are_filtered(server: Langfuse, client: Any) -> None:
    """By parameters, and by conditions that decide about their columns."""
    get = client.api.observations.get_many
    began = datetime.now(UTC)
    kinds = {"user__id": "ann", "session__id": "s1", "langfuse__observation__type": "tool"}
    told = [ids() for _ in range(3)]
    post(server, SPANS, spans(*told, **{key.replace("__", "."): value for key, value in kinds.items()}))
    post(server, SPANS, spans(ids()))

    def count(**asked: Any) -> int:
        return len(get(**asked).data)

    assert (count(), count(user_id="ann"), count(session_id="s1", type="TOOL"), count(name="span-1")) == (4, 3, 3, 1)
    assert (count(from_start_time=began), count(to_start_time=began), count(environment=["a", "default"])) == (4, 0, 4)
    assert (count(is_root_observation=True), count(is_root_observation=False), count(level="ERROR")) == (4, 0, 0)
    any_of = {"type": "stringOptions", "column": "traceId", "operator": "any of", "value": [told[0][0], told[2][0]]}
    named = {"type": "string", "column": "name", "operator": "=", "value": "span-2"}
    assert count(filter=json.dumps([any_of])) == 2
    assert count(filter=json.dumps([any_of, named])) == 1
    assert count(filter=json.dumps([named]), name="span-0", user_id="ann") == 1
    with pytest.raises(ApiError, match="400"):
        get(filter='[{"type": "string", "column": "nothing", "operator": "=", "value": 1}]')


def test_observations_come_in_pages(server: Langfuse, api: Any) -> None:
    """The latest first, and doubles over the edge of a page too."""
    trace = uuid.uuid4().hex
    pairs = [(trace, f"{number:016x}") for number in range(1, 8)]
    post(server, SPANS, spans(*pairs, pairs[-1]))
    seen, cursor = [], None
    while True:
        page = api.observations.get_many(trace_id=trace, limit=3, cursor=cursor)
        seen += [one.id for one in page.data]
        if (cursor := page.meta.cursor) is None:
            break
    assert seen == [pairs[-1][1], *(span for _, span in reversed(pairs))]


def test_spans_are_seen_later(server: Langfuse, api: Any) -> None:
    """As long as ingestion takes there is nothing; the server has them all the same."""
    server.ingest_delay = 60.0
    pair = ids()
    post(server, SPANS, spans(pair))
    assert (len(server.spans), api.observations.get_many(trace_id=pair[0]).data) == (1, [])
    server.ingest_delay = 0.0
    assert len(api.observations.get_many(trace_id=pair[0]).data) == 1


def test_a_trace_is_deleted(server: Langfuse, api: Any) -> None:
    """It is seen no more, and its scores neither."""
    pair, other = ids(), ids()
    post(server, SPANS, spans(pair, other))
    server.annotate(pair[0], "quality", 1)
    api.trace.delete(pair[0])
    assert [one.trace_id for one in api.observations.get_many().data] == [other[0]]
    assert (server.scores, len(server.spans)) == ({}, 2)


@pytest.mark.parametrize("path", ["traces", "traces/t1", "sessions", "metrics", "observations", "scores/s1"])
def test_the_old_endpoints_are_gone(server: Langfuse, path: str) -> None:
    """They say why."""
    answer = httpx.get(f"{server.url}/api/public/{path}", auth=(server.public_key, server.secret_key), verify=False)
    assert answer.status_code == 404
    assert "not available on deployments running in Langfuse v4 events_only mode" in answer.json()["message"]


def test_lists_of_scores_are_refused(server: Langfuse, client: Any) -> None:
    """One object at a time is taken, and replaced by its id."""
    client.create_score(name="quality", value=1.0, trace_id="t1")
    client.flush()
    assert (server.scores, server.requests[SCORES, 400]) == ({}, 1)
    assert "expected object, received array" in post(server, SCORES, []).text
    for value in (0, 1):
        score = {"id": "s1", "traceId": "t1", "name": "quality", "value": value, "dataType": "BOOLEAN"}
        assert post(server, SCORES, score).json() == {"id": "s1"}
    assert [(one["value"], one["source"]) for one in server.scores.values()] == [(True, "API")]


def test_lists_of_scores_are_accepted(server: Langfuse, api: Any) -> None:
    """By a newer server, which counts what it did not take."""
    server.score_arrays = "accepted"
    good = CreateScoreRequest(name="a", value=1.0, trace_id="t1")
    assert api.scores.create(request=[good, good]).message == "Accepted"
    results = api.scores.create(request=[good, CreateScoreRequest(name="a", value=1.0)])
    assert (results.accepted, results.rejected) == (1, 1)
    assert "exactly one" in results.errors[0].message
    assert len(server.scores) == 3


def test_the_sdk_s_scores_arrive(server: Langfuse, client: Any) -> None:
    """Where lists are accepted."""
    server.score_arrays = "accepted"
    client.create_score(name="right", value="Canberra", trace_id="t1", data_type="CORRECTION", score_id="s1")
    client.flush()
    (score,) = client.api.scores.get_many(fields="subject").data
    assert (score.name, score.value, score.data_type, score.subject.id) == ("output", "Canberra", "CORRECTION", "t1")


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ({"traceId": None}, "exactly one"),
        ({"sessionId": "s"}, "exactly one"),
        ({"name": None}, "name is required"),
        ({"dataType": "NUMERIC", "value": "x"}, "to be a number"),
        ({"dataType": "BOOLEAN", "value": 2}, "either 0 or 1"),
        ({"dataType": "CATEGORICAL", "value": 2}, "to be a string"),
        ({"dataType": "CORRECTION", "value": 2}, "to be a string"),
        ({"dataType": "TEXT", "value": "x" * 501}, "500 characters"),
        ({"dataType": "STARS"}, "dataType must be one of"),
        ({"configId": "nowhere"}, "not found"),
    ],
)
def test_scores_that_are_wrong(server: Langfuse, score: dict[str, Any], reason: str) -> None:
    """The sentence says what is wrong, and nothing is kept."""
    answer = post(server, SCORES, {"traceId": "t1", "name": "quality", "value": 1} | score)
    assert answer.status_code in (400, 404)
    assert reason in answer.json()["message"]
    assert server.scores == {}


def test_scores_are_read_back(server: Langfuse, api: Any) -> None:
    """What people and programs said, with the fields that are asked for."""
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    server.annotate("t1", "right", "Canberra", data_type="CORRECTION", author="ann", comment="!", observation_id="o1")
    server.annotate("t1", "good", 0, data_type="BOOLEAN", timestamp=hour_ago)
    server.annotate("t2", "grade", 0.5, source="EVAL", author=None)
    post(server, SCORES, {"sessionId": "s1", "name": "mood", "value": "fine"})
    get = api.scores.get_many
    core = {one.name: one for one in get().data}
    assert {name: one.value for name, one in core.items()} == {
        "output": "Canberra",
        "good": False,
        "grade": 0.5,
        "mood": "fine",
    }
    assert (core["output"].comment, core["output"].subject, core["output"].author_user_id) == (None, None, None)
    (said,) = get(data_type="correction", fields="details,subject,annotation").data
    assert (said.comment, said.subject.kind, said.subject.trace_id) == ("!", "observation", "t1")
    assert (said.author_user_id, said.source) == ("ann", "ANNOTATION")
    assert [one.name for one in get(source="EVAL,api").data] == ["mood", "grade"]
    assert [one.name for one in get(trace_id="t1", to_timestamp=hour_ago + timedelta(minutes=1)).data] == ["good"]
    assert len(get(from_timestamp=hour_ago + timedelta(minutes=1)).data) == 3
    assert len(get(data_type="NUMERIC", value_min=0.5).data) == len(get(session_id="s1").data) == 1
    for asked in ({"fields": "all"}, {"limit": 101}, {"observation_id": "o"}, {"trace_id": "t", "session_id": "s"}):
        with pytest.raises(ApiError, match="400"):
            get(**asked)


def test_a_score_keeps_its_time(server: Langfuse, api: Any) -> None:
    """It is said anew, not again."""
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    score_id = server.annotate("t1", "good", 0, timestamp=hour_ago)
    assert server.annotate("t1", "good", 1, score_id=score_id) == score_id
    (score,) = api.scores.get_many().data
    assert score.value == 1
    assert abs(score.timestamp - hour_ago) < timedelta(seconds=1)


def test_scores_come_in_pages_and_go(server: Langfuse, api: Any) -> None:
    """Every one once, the latest first."""
    made = [server.annotate("t1", "good", number) for number in range(5)]
    page = api.scores.get_many(limit=3)
    rest = api.scores.get_many(limit=3, cursor=page.meta.cursor)
    assert {one.id for one in page.data + rest.data} == set(made)
    assert rest.meta.cursor is None
    api.scores.delete(made[0])
    assert made[0] not in server.scores


def test_comments(server: Langfuse, api: Any) -> None:
    """They stand at what they are about, and need something to be about."""
    pair = ids()
    post(server, SPANS, spans(pair))
    facts = {"project_id": server.project_id, "object_type": "TRACE", "content": "Wrong!"}
    made = api.comments.create(object_id=pair[0], author_user_id="ann", **facts).id
    server.comment("TRACE", pair[0], "Indeed.", "bob")
    said = api.comments.get(object_type="TRACE", object_id=pair[0]).data
    assert [(one.content, one.author_user_id) for one in said] == [("Wrong!", "ann"), ("Indeed.", "bob")]
    assert api.comments.get_by_id(made).content == "Wrong!"
    with pytest.raises(ApiError, match="404"):
        api.comments.create(object_id="nowhere", **facts)


def test_queues_and_their_items(server: Langfuse, api: Any) -> None:
    """From a config to an item that is done with."""
    config = api.score_configs.create(name="good", data_type="BOOLEAN")
    assert [one.label for one in config.categories] == ["True", "False"]
    assert [one.id for one in api.score_configs.get().data] == [config.id]
    queues = api.annotation_queues
    queue = queues.create_queue(name="review", score_config_ids=[config.id])
    assert queues.get_queue(queue.id).name == queues.list_queues().data[0].name == "review"
    first, second = (queues.create_queue_item(queue.id, object_id=t, object_type="TRACE") for t in ("t1", "t2"))
    assert [one.id for one in queues.list_queue_items(queue.id).data] == [second.id, first.id]
    assert queues.update_queue_item(queue.id, first.id, status="COMPLETED").completed_at is not None
    assert [one.object_id for one in queues.list_queue_items(queue.id, status="PENDING").data] == ["t2"]
    assert queues.get_queue_item(queue.id, first.id).status == "COMPLETED"
    assert queues.delete_queue_item(queue.id, first.id).success
    with pytest.raises(ApiError, match="404"):
        queues.get_queue_item(queue.id, first.id)
    with pytest.raises(ApiError, match="already exists"):
        queues.create_queue(name="review", score_config_ids=[config.id])


def test_scores_follow_their_config(server: Langfuse, api: Any) -> None:
    """In name, type and categories."""
    labels = [{"label": "fine", "value": 1}]
    config = api.score_configs.create(name="mood", data_type="CATEGORICAL", categories=labels)
    score = {"traceId": "t1", "name": "mood", "configId": config.id}
    assert [post(server, SCORES, score | {"value": value}).status_code for value in ("fine", "bad")] == [200, 400]


def test_datasets_and_their_items(server: Langfuse, client: Any) -> None:
    """Items are replaced by their ids, and know where they come from."""
    api = client.api
    made = api.datasets.create(name="team/refunds & co", metadata={"a": 1})
    assert api.datasets.create(name="team/refunds & co", description="d").id == made.id
    for expected in ("x", "y"):
        facts = {"input": {"q": 1}, "expected_output": expected, "source_trace_id": "t1"}
        api.dataset_items.create(dataset_name="team/refunds & co", id="i1", **facts)
    api.dataset_items.create(dataset_name="team/refunds & co", input="b")
    assert [one.name for one in api.datasets.list().data] == ["team/refunds & co"]
    assert api.dataset_items.get("i1").expected_output == "y"
    assert [one.id for one in api.dataset_items.list(source_trace_id="t1").data] == ["i1"]
    assert [item.input for item in client.get_dataset("team/refunds & co").items] == ["b", {"q": 1}]
    assert client.get_dataset("team/refunds & co").description == "d"
    with pytest.raises(ApiError, match="404"):
        api.datasets.get("nowhere", request_options=ONCE)


def test_prompts_and_their_labels(server: Langfuse, client: Any) -> None:
    """A label stands on one version; the latest is the latest."""
    client.create_prompt(name="answer", prompt="Be {{how}}.", labels=["production"], config={"t": 1})
    client.create_prompt(name="answer", prompt="Be quick.", tags=["x"])
    assert client.get_prompt("answer", cache_ttl_seconds=0).compile(how="kind") == "Be kind."
    assert client.api.prompts.get("answer", label="latest").version == 2
    updated = client.api.prompt_version.update("answer", 2, new_labels=["production"])
    assert sorted(updated.labels) == ["latest", "production"]
    assert client.api.prompts.get("answer").version == 2
    assert client.api.prompts.get("answer", version=1).labels == []
    (meta,) = client.api.prompts.list(name="answer").data
    assert (meta.versions, sorted(meta.labels), meta.tags) == ([1, 2], ["latest", "production"], ["x"])
    with pytest.raises(ApiError, match="404"):
        client.api.prompts.get("nowhere", request_options=ONCE)
    chat = client.create_prompt(name="chat", type="chat", prompt=[{"role": "system", "content": "Hi"}])
    assert chat.compile() == [{"role": "system", "content": "Hi"}]


def test_experiments(server: Langfuse, client: Any) -> None:
    """The SDK's own runner shows up with its items and scores."""
    server.score_arrays = "accepted"
    client.api.datasets.create(name="d")
    client.api.dataset_items.create(dataset_name="d", id="i1", input="2+2", expected_output="4")

    def right(*, output: Any, expected_output: Any, **_: Any) -> Any:
        from langfuse import Evaluation

        return Evaluation(name="right", value=float(output == expected_output))

    client.get_dataset("d").run_experiment(name="sums", run_name="r", task=lambda **_: "4", evaluators=[right])
    client.flush()
    (experiment,) = client.api.experiments.list(from_start_time=LONG_AGO, fields="core,scores").data
    assert (experiment.name, experiment.item_count) == ("r", 1)
    assert experiment.dataset_id == server.datasets["d"]["id"]
    found = client.api.experiments.list_items(from_start_time=LONG_AGO, fields="core,dataset,io,scores").data
    (item,) = found
    assert (item.experiment_id, item.experiment_item_id) == (experiment.id, "i1")
    assert (item.input, item.output, item.expected_output) == ("2+2", "4", "4")
    assert [(one.name, one.value) for one in item.scores] == [("right", 1.0)]


def test_langfuse_s_own_handler(server: Langfuse, client: Any) -> None:
    """A real agent, told by Langfuse's callback handler, is read back whole."""
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolCall
    from langfuse.langchain import CallbackHandler

    class Model(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    calls = [ToolCall(name="add", args={"a": 2, "b": 2}, id="c1")]
    says = iter([AIMessage("", tool_calls=calls), AIMessage("It is 4.")])
    agent = create_agent(Model(messages=says), [add])
    trace_id = client.create_trace_id(seed="run-1")
    handler = CallbackHandler(public_key=server.public_key, trace_context={"trace_id": trace_id})
    metadata = {"langfuse_user_id": "ann", "langfuse_session_id": "s1", "langfuse_tags": ["a"]}
    agent.invoke({"messages": [("user", "2+2?")]}, {"callbacks": [handler], "metadata": metadata})
    client.flush()
    told = client.api.observations.get_many(trace_id=trace_id, fields="basic,io,metadata,trace_context").data
    kinds = [one.type for one in told]
    assert (kinds.count("GENERATION"), kinds.count("TOOL"), server.duplicates()) == (2, 1, {})
    assert {(one.user_id, one.session_id) for one in told} == {("ann", "s1")}
    assert all(one.tags == ["a"] for one in told)
    tool = next(one for one in told if one.type == "TOOL")
    assert "4" in tool.output
    assert any("It is 4." in (one.output or "") for one in told if one.type == "GENERATION")
    nodes = {(one.metadata or {}).get("langgraph_node") for one in told}
    assert {"model", "tools"} <= nodes


@pytest.mark.parametrize(
    ("kind", "status", "kept"),
    [("500_before", 500, 0), ("500_after", 500, 1), ("503", 503, 0), ("429", 429, 0)],
)
def test_an_answer_that_is_an_error(server: Langfuse, kind: str, status: int, kept: int) -> None:
    """It is said whether the request was carried out; others are not touched."""
    server.retry_after = 7
    server.fail(1.0, (kind,), paths=(SPANS,), times=1)
    answer = post(server, SPANS, spans(ids()))
    assert (answer.status_code, len(server.spans)) == (status, kept)
    assert answer.headers.get("retry-after") == ("7" if kind == "429" else None)
    assert post(server, SPANS, spans(ids())).status_code == 200
    assert (server.requests[SPANS, status], server.faults[kind]) == (1, 1)


@pytest.mark.parametrize(("kind", "kept"), [("close_before", 0), ("close_after", 1), ("hang", 0), ("hang_after", 1)])
def test_no_answer_at_all(server: Langfuse, kind: str, kept: int) -> None:
    """The connection is closed, at once or after a while."""
    server.hang_seconds = 0.05
    server.fail(1.0, (kind,), paths=(SPANS,))
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, SPANS, spans(ids()))
    assert (len(server.spans), server.requests[SPANS, 0]) == (kept, 1)
    server.heal()
    assert post(server, SPANS, spans(ids())).status_code == 200


def test_requests_fail_in_turn_and_by_method(server: Langfuse, api: Any) -> None:
    """One after the other, and only those that are named; half an answer is none, though it is carried out."""
    server.fail_in_turn(["502", None, "half", "413"], paths=[f"POST {SPANS}"])
    assert [post(server, SPANS, spans(ids())).status_code for _ in range(2)] == [502, 200]
    assert api.observations.get_many().data
    server.fail(1.0, ["500"], paths=[f"GET {SCORES}"])
    post(server, SCORES, {"traceId": "t1", "name": "quality", "value": 1}).raise_for_status()
    assert [post(server, SPANS, spans(ids())).status_code for _ in range(3)] == [200, 413, 200]
    server.fail_in_turn(["half"], paths=["GET /api/public/projects"])
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/api/public/projects", auth=(server.public_key, server.secret_key))
    assert (server.faults["half"], server.log[-1]) == (2, "GET /api/public/projects")


def test_spans_are_odd_or_lost(server: Langfuse, api: Any) -> None:
    """A field is shown as nobody told it; what is lost never came, and its cursors still lead on."""
    pairs = [ids() for _ in range(3)]
    post(server, SPANS, spans(*pairs))
    server.odd[pairs[0]] = {"name": "other"}
    assert {one.name for one in api.observations.get_many().data} == {"other", "span-1", "span-2"}
    server.lose(server.spans[:2])
    assert [one.trace_id for one in api.observations.get_many().data] == [pairs[2][0]]
    post(server, SPANS, spans(pairs[0]))
    assert [span.trace_id for span in server.spans] == [pairs[2][0], pairs[0][0]]


def test_hanging_lasts_until_the_end(server: Langfuse) -> None:
    """The client's patience is over first; a stop sets everybody free."""
    server.fail(1.0, ("hang",))
    with pytest.raises(httpx.ReadTimeout):
        post(server, SPANS, spans(ids()), timeout=0.1)
    caught: list[Exception] = []

    def ask() -> None:
        try:
            post(server, SPANS, spans(ids()))
        except httpx.HTTPError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while server.faults["hang"] < 2:
        time.sleep(0.01)
    server.restart()
    thread.join(5)
    assert len(caught) == 1


def test_a_share_fails_by_the_seed() -> None:
    """The same seed gives the same failures."""
    drawn = []
    for _ in range(2):
        with Langfuse(seed=3) as server:
            server.fail(0.5, ("500_before", "503"))
            drawn.append([post(server, SCORES, {}).status_code for _ in range(20)])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {400, 500, 503}


def test_slow_large_and_refused(server: Langfuse) -> None:
    """The rest of what can be ordered."""
    server.slow(0.1, paths=(SPANS,))
    began = time.perf_counter()
    post(server, SPANS, spans(ids()))
    assert time.perf_counter() - began >= 0.1
    server.heal()
    server.largest_body = 100
    assert [post(server, SPANS, spans(*[ids()] * n)).status_code for n in (1, 9)] == [200, 413]
    server.largest_body = None
    server.reject_spans = lambda span: span.name == "span-1"
    assert [post(server, SPANS, spans(*[ids()] * n)).status_code for n in (1, 2)] == [200, 400]
    assert len(server.spans) == 3
    with pytest.raises(ValueError, match="no faults"):
        server.fail(1.0, ("sometimes",))


def test_what_it_has_outlives_a_restart(server: Langfuse) -> None:
    """Connections are dropped and refused meanwhile; the port is the same."""
    pair = ids()
    keys = (server.public_key, server.secret_key)
    with httpx.Client(base_url=server.url, auth=keys) as kept:
        headers = {"content-type": "application/x-protobuf"}
        assert kept.post(SPANS, content=spans(pair), headers=headers).status_code == 200
        server.stop()
        with pytest.raises(httpx.TransportError):
            kept.get(OBSERVATIONS)
        with pytest.raises(httpx.ConnectError):
            kept.get(OBSERVATIONS)
        server.start()
        assert len(kept.get(OBSERVATIONS).json()["data"]) == 1
        server.restart(down_for=0.05)
        assert len(kept.get(OBSERVATIONS).json()["data"]) == 1
    assert list(server.traces()) == [pair[0]]
    assert server.asked(OBSERVATIONS, 200) == 2


def test_a_plain_script_starts_it() -> None:
    """Without pytest, from the repository's root."""
    code = "from tests.integrations.loopback_langfuse import Langfuse\nwith Langfuse() as s: print(s.url)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("http://127.0.0.1:")
