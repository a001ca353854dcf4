"""The same checks against every Langfuse there is: the one of these tests, and yours.

With LANGFUSE_BASE_URL, LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY set:

    pytest tests/integrations/test_langfuse_servers.py -s       # on another host: --allow-hosts=HOST

They write into the project of the keys, under names that begin with "learnloop", and read back by the public API only.
Which version passed which check is printed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop, LoopConfig, Message
from langgraph_learnloop.integrations.langfuse_history import LangfuseHistory
from langgraph_learnloop.integrations.langfuse_review import VERDICT, LangfuseReviewer
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces, trace_of
from langgraph_learnloop.integrations.langfuse_wire import Wire, span_of
from langgraph_learnloop.records import Example, Proposal, Run
from langgraph_learnloop.testing import ScriptedModel
from tests.integrations.loopback_langfuse import Langfuse
from tests.shop import Shop

CALL = {"name": "find_order", "args": {"order": 5}, "id": "c1"}
USED: Any = {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
KEYS = ("LANGFUSE_BASE_URL", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
PATIENCE = 60.0
"""Seconds until what a real server took must be readable."""
ONCE: Any = {"max_retries": 0}


def find_order(order: int) -> str:
    """Return where an order is."""
    return f"Order {order} is on its way."


@pytest.fixture(params=["loopback", "yours"])
def wire(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Wire]:
    """Yield connections to a server, and say at the end what its version passed."""
    if request.param == "loopback":
        with Langfuse() as server:
            yield Wire(server.public_key, server.secret_key, server.url)
        return
    if not all(os.environ.get(name) for name in KEYS):
        pytest.skip(f"there is no Langfuse of yours: set {', '.join(KEYS)}")
    made = Wire()
    version = made.api.health.health().version
    yield made
    with capsys.disabled():
        sys.stdout.write(f"\nLangfuse {version} at {made.url}: {request.node.originalname}\n")


def seen(look: Callable[[], Any]) -> Any:
    """Return what a look gives as soon as it gives something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "It cannot be read."
        time.sleep(0.5)
    return found


def observations(wire: Wire, trace: str, number: int) -> dict[str, Any]:
    """Return the observations of a trace, when there are so many."""
    fields = "core,basic,time,io,metadata,model,usage,trace_context"

    def look() -> Any:
        page = wire.api.observations.get_many(trace_id=trace, fields=fields, limit=1_000)
        return page.data if len(page.data) >= number else None

    found = seen(look)
    assert len(found) == number
    return {one.id: one for one in found}


def scores(wire: Wire, trace: str, number: int) -> list[Any]:
    """Return the scores of a trace, when there are so many."""

    def look() -> Any:
        page = wire.api.scores.get_many(trace_id=trace, fields="details,subject")
        return page.data if len(page.data) >= number else None

    return list(seen(look))


class Support:
    """An agent whose runs a server is shown."""

    def __init__(self, folder: Path, wire: Wire) -> None:
        script = [AIMessage("", tool_calls=[CALL], usage_metadata=USED), AIMessage("It is on its way.")]
        self.loop = LearnLoop(folder / "l.db", config=LoopConfig(agent="learnloop-check"))
        self.agent = self.loop.watch(create_agent(ScriptedModel(script=script), [find_order]))
        self.mirror = LangfuseTraces(wire, settles=0.0)
        self.mirroring = self.loop.mirroring(self.mirror)

    def ask(self) -> Run:
        """Ask in a new thread and return the run."""
        thread = f"learnloop-{uuid.uuid4().hex}"
        settings: Any = {"configurable": {"thread_id": thread}, "metadata": {"user": "ann"}, "tags": ["learnloop"]}
        self.agent.invoke({"messages": [("user", "Where is order 5?")]}, settings)
        self.loop.flush()
        return self.loop.store.runs.last_of_thread(thread)

    def tell(self) -> None:
        """Tell what waits; nothing may be refused."""
        self.mirroring.step()
        health = self.mirroring.health()
        assert (health.waiting, health.refused) == (0, 0), health


@pytest.fixture
def support(tmp_path: Path, wire: Wire) -> Iterator[Support]:
    """Yield an agent whose runs the server is shown."""
    made = Support(tmp_path, wire)
    with made.loop:
        yield made


def test_a_run_is_shown(support: Support, wire: Wire) -> None:
    """Whole, nested, with its user, session, usage and texts; told again in doubt it is not doubled."""
    run = support.ask()
    support.tell()
    found = observations(wire, trace_of(run.run_id), len(run.steps) + 1)
    root = found[span_of(run.run_id)]
    assert (root.type, root.user_id, root.session_id) == ("AGENT", "ann", run.thread_id)
    assert "learnloop" in root.tags
    assert json.loads(root.output)["content"] == "It is on its way."
    for step in run.steps:
        assert found[span_of(step.step_id)].parent_observation_id == span_of(str(step.parent_id))
    model = next(step for step in run.steps if step.kind == "model")
    assert found[span_of(model.step_id)].usage_details["input"] == 30
    assert json.loads(found[span_of(model.step_id)].input)["messages"][0]["content"] == "Where is order 5?"
    told = next(support.mirroring._read("run", [_waiting(run)]))
    support.mirror.send([told._replace(doubtful=True)])
    time.sleep(2.0 if "127.0.0.1" not in wire.url else 0.0)
    observations(wire, trace_of(run.run_id), len(run.steps) + 1)


def _waiting(run: Run) -> Any:
    from langgraph_learnloop.store.outbox import Waiting

    return Waiting(0, "run", run.run_id, None, None)


def test_what_was_said_is_shown(support: Support, wire: Wire) -> None:
    """A score, a text and a correction arrive, whether the server takes lists or not; told again they are replaced."""
    run = support.ask()
    support.loop.feedback(run.run_id, score=-1, text="No!", by="ann", feedback_id=f"f-{run.run_id}")
    support.loop.feedback(run.run_id, text="Hm.", feedback_id=f"g-{run.run_id}")
    support.loop.feedback(run.run_id, correction="It is lost.", feedback_id=f"h-{run.run_id}")
    support.tell()
    found = scores(wire, trace_of(run.run_id), 4)  # and the flag
    assert {one.data_type for one in found} == {"NUMERIC", "TEXT", "CORRECTION", "CATEGORICAL"}
    number = next(one for one in found if one.data_type == "NUMERIC")
    assert (number.value, number.comment) == (-1, "No!")
    support.loop.store.flags.move([run.run_id], "dismissed")
    support.tell()
    flag = seen(lambda: [one for one in scores(wire, trace_of(run.run_id), 4) if one.value == "dismissed"])
    assert len(flag) == 1


def test_a_cycle_is_shown(tmp_path: Path, wire: Wire) -> None:
    """A dataset with its items, both sides of an examination, and the instructions that serve."""
    with (shop := Shop(tmp_path / "l.db", {"agent": f"learnloop-{uuid.uuid4().hex[:8]}"})).loop as loop:
        mirroring = loop.mirroring(LangfuseTraces(wire, settles=0.0))
        shop.remember()
        shop.bad_day()
        report = loop.cycle()
        better = loop.draft(instructions="Answer in one sentence.")
        loop.store.releases.point(better.release_id, "A check.", "tests")
        mirroring.step()
        health = mirroring.health()
        assert (health.waiting, health.refused) == (0, 0), health
    name = f"learnloop-{str(report.dataset)[:12]}"
    items = wire.api.dataset_items.list(dataset_name=name, limit=100)
    assert items.meta.total_items > 20
    assert all(one.source_trace_id for one in items.data if one.metadata["origin"] == "correction")
    card = report.scorecard
    assert card is not None
    for release in (card.candidate, card.champion):
        page = seen(lambda release=release: wire.api.observations.get_many(version=release, limit=10).data)
        assert page
    prompt = wire.api.prompts.get(f"{loop.agent}-instructions", label="production", request_options=ONCE)
    assert prompt.prompt == "Answer in one sentence."


def test_people_decide_in_a_queue(wire: Wire) -> None:
    """A proposal waits in the queue; what an annotator says there is its verdict."""
    name = f"learnloop-{uuid.uuid4().hex[:8]}"
    example = Example(
        messages=(Message(role="user", content=f"How long can I return it? {name}"),),
        chosen=Message(role="assistant", content="Thirty days."),
        origin="correction",
    )
    proposal = Proposal(proposal_id=example.example_id, example=example)
    reviewer = LangfuseReviewer(wire, queue=name, settles=0.0)
    assert reviewer.review([proposal]) == []
    trace = trace_of(proposal.proposal_id)
    observations(wire, trace, 1)
    queue = next(one for one in wire.api.annotation_queues.list_queues(limit=100).data if one.name == name)
    item = next(one for one in wire.api.annotation_queues.list_queue_items(queue.id).data if one.object_id == trace)
    score = {"id": f"learnloop-check-{name}", "traceId": trace, "name": VERDICT, "value": "approve"}
    more = {"dataType": "CATEGORICAL", "source": "ANNOTATION", "configId": queue.score_config_ids[0]}
    wire.send_scores([score | more])
    scores(wire, trace, 1)
    wire.api.annotation_queues.update_queue_item(queue.id, item.id, status="COMPLETED")
    verdicts = seen(lambda: reviewer.review([proposal]))
    assert [(one.proposal_id, one.action) for one in verdicts] == [(proposal.proposal_id, "approve")]


def test_all_of_it_comes_back(support: Support, wire: Wire, tmp_path: Path) -> None:
    """An empty store takes the run and what was said of it from the server, once."""
    run = support.ask()
    support.tell()
    observations(wire, trace_of(run.run_id), len(run.steps) + 1)
    said = f"check-{uuid.uuid4().hex}"
    wire.send_scores(
        [{"id": said, "traceId": trace_of(run.run_id), "name": "thumbs", "value": 1, "dataType": "BOOLEAN"}]
    )
    scores(wire, trace_of(run.run_id), 1)
    since = datetime.now(UTC) - timedelta(hours=1)
    with LearnLoop(tmp_path / "again.db", agent="learnloop-check") as loop:
        for _ in range(2):
            loop.import_runs(LangfuseHistory(wire, agents=["learnloop-check"], settles=0.0), since)
            loop.import_remarks(LangfuseHistory(wire), since)
        again = loop.store.runs.run(run.run_id)
        told = [(step.step_id, step.kind, step.name, step.parent_id, step.tool_calls) for step in run.steps]
        assert [(step.step_id, step.kind, step.name, step.parent_id, step.tool_calls) for step in again.steps] == told
        assert (again.question, again.answer, again.thread_id) == (run.question, run.answer, run.thread_id)
        assert [one.score for one in loop.store.runs.feedback(run.run_id)] == [1.0]
