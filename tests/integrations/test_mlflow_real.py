"""A receiver that nobody here wrote reads what we send: a real MLflow takes Langfuse's spans by OTLP.

`make mlflow` sets it up; without it these tests are skipped.
"""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces, trace_of
from langgraph_learnloop.integrations.langfuse_wire import Wire, span_of
from langgraph_learnloop.testing import ScriptedModel

MLFLOW = Path(os.environ.get("LEARNLOOP_MLFLOW", ".venv-mlflow")).absolute() / "bin" / "mlflow"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MLFLOW.exists(), reason="there is no MLflow: make mlflow sets it up"),
]


def find_order(order: int) -> str:
    """Return where an order is."""
    return f"Order {order} is on its way."


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an MLflow server of one process."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "kept")]
    words = [str(MLFLOW), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *place]
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{MLFLOW.parent}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True)
        try:
            _wait(f"http://127.0.0.1:{port}", server, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            if httpx.get(f"{address}/health", timeout=1).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"MLflow did not start: {log.read_text()[-2000:]}")


def test_a_run_is_read_as_it_was(address: str, tmp_path: Path) -> None:
    """Agent, nodes, model calls and tools stand there under their parents, with what went in and came out."""
    script = [
        AIMessage("", tool_calls=[{"name": "find_order", "args": {"order": 5}, "id": "c1"}]),
        AIMessage("On its way.", usage_metadata={"input_tokens": 30, "output_tokens": 4, "total_tokens": 34}),
    ]
    wire = Wire("pk", "sk", address, spans="/v1/traces", headers={"x-mlflow-experiment-id": "0"})
    with LearnLoop(tmp_path / "l.db", agent="support") as loop:
        agent = loop.watch(create_agent(ScriptedModel(script=script), [find_order]))
        mirroring = loop.mirroring(LangfuseTraces(wire, kinds=("run",)))
        settings: Any = {"configurable": {"thread_id": "t1"}, "metadata": {"user": "ann", "shop": "north"}}
        agent.invoke({"messages": [("user", "Where is order 5?")]}, settings)
        loop.flush()
        assert mirroring.step() == 1
        run = loop.runs()[0]
    told = httpx.get(f"{address}/api/3.0/mlflow/traces/get", params={"trace_id": f"tr-{trace_of(run.run_id)}"})
    trace = told.json()["trace"]
    assert trace["trace_info"]["trace_metadata"] == {"mlflow.trace.session": "t1", "mlflow.trace.user": "ann"}
    spans = {_hex(span["span_id"]): span for span in trace["spans"]}
    assert set(spans) == {span_of(one) for one in [run.run_id, *(step.step_id for step in run.steps)]}
    for step in run.steps:
        assert _hex(spans[span_of(step.step_id)]["parent_span_id"]) == span_of(str(step.parent_id))
    kinds = [_said(span)["mlflow.spanType"] for span in trace["spans"]]
    assert sorted(kinds) == ["AGENT", "CHAIN", "CHAIN", "CHAIN", "LLM", "LLM", "TOOL"]
    tool = next(step for step in run.steps if step.kind == "tool")
    said = _said(spans[span_of(tool.step_id)])
    assert (said["mlflow.spanInputs"], said["mlflow.spanOutputs"]) == ({"order": 5}, "Order 5 is on its way.")
    root = _said(spans[span_of(run.run_id)])
    assert root["mlflow.spanOutputs"] == {"role": "assistant", "content": "On its way."}
    last = _said(spans[span_of([step for step in run.steps if step.kind == "model"][-1].step_id)])
    assert last["langfuse.observation.usage_details"] == {"input": 30, "output": 4, "total": 34}


def _hex(encoded: str) -> str:
    return base64.b64decode(encoded).hex()


def _said(span: Any) -> dict[str, Any]:
    return {one["key"]: _value(one["value"]) for one in span["attributes"]}


def _value(value: Any) -> Any:
    """Return an OTLP value as JSON wrote it."""
    ((kind, inner),) = value.items()
    if kind == "kvlist_value":
        return {one["key"]: _value(one["value"]) for one in inner.get("values", [])}
    if kind == "array_value":
        return [_value(one) for one in inner.get("values", [])]
    return int(inner) if kind == "int_value" else inner
