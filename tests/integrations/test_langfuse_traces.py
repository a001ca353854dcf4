"""What the store holds stands in Langfuse: whole, once, and in the handler's trace where Langfuse watched itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.cli import main
from langgraph_learnloop.errors import ConfigError, MissingExtraError
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces, run_of, trace_of
from langgraph_learnloop.integrations.langfuse_wire import SCORES, SPANS, Wire, span_of
from langgraph_learnloop.mirroring import Mirroring
from langgraph_learnloop.mirrors import DeliveryError
from langgraph_learnloop.records import Run
from langgraph_learnloop.testing import ScriptedModel
from tests.integrations.loopback_langfuse import Langfuse
from tests.shop import Shop
from tests.test_mirroring import Clock

FIND = {"name": "find_order", "args": {"order": 5}, "id": "c1"}
ASKED: Any = {"messages": [("user", "Where is order 5?")]}


def find_order(order: int) -> str:
    """Return where an order is."""
    return f"Order {order} is on its way."


class Support:
    """An agent with a tool, its loop, and what tells Langfuse of it."""

    def __init__(self, folder: Path, server: Langfuse, script: list[AIMessage] | None = None, **settings: Any) -> None:
        self.server = server
        self.clock = Clock()
        self.loop = LearnLoop(folder / "l.db", config=LoopConfig(agent="support", **settings))
        self.wire = Wire(server.public_key, server.secret_key, server.url, seconds=2.0)
        self.mirror = LangfuseTraces(self.wire)
        self.loop.recorder.witness = self.mirror
        said = [AIMessage("", tool_calls=[FIND]), AIMessage("It is on its way.")]
        self.agent = self.loop.watch(create_agent(ScriptedModel(script=script or said), [find_order]))
        self.mirroring = Mirroring(
            self.loop.store, self.mirror, "support", self.loop.exams.asked, now=self.clock, draw=lambda: 1.0
        )

    def ask(self, thread: str = "t1", **config: Any) -> Run:
        """Ask in a thread and return the run."""
        given = {"configurable": {"thread_id": thread}, **config}
        self.agent.invoke(ASKED, given)  # type: ignore[arg-type]  # a plain dict
        self.loop.flush()
        return self.loop.store.runs.last_of_thread(thread)

    def tell(self) -> None:
        """Tell until nothing is left, as the hours pass."""
        for _ in range(30):
            self.mirroring.step()
            if not self.mirroring.health().waiting:
                return
            self.clock.at += 61.0
        raise AssertionError(self.mirroring.health())

    def seen(self, run: Run) -> dict[str, Any]:
        """Return the observations of a run as Langfuse's API gives them, by id."""
        fields = "core,basic,time,io,metadata,model,usage,trace_context"
        page = self.wire.api.observations.get_many(
            trace_id=run.trace or trace_of(run.run_id), fields=fields, limit=1_000, expand_metadata="run_id,step_id"
        )
        return {one.id: one for one in page.data}


@pytest.fixture
def server() -> Iterator[Langfuse]:
    """Yield a Langfuse that refuses lists of scores, as the real one does."""
    with Langfuse() as made:
        yield made


@pytest.fixture
def support(tmp_path: Path, server: Langfuse) -> Iterator[Support]:
    """Yield an agent that Langfuse is told of."""
    made = Support(tmp_path, server)
    with made.loop:
        yield made


def test_a_run_stands_there_whole(support: Support) -> None:
    """The agent, its nodes, model calls and tools, nested; questions, answers, user, session, tags."""
    run = support.ask("t1", tags=["beta"], metadata={"user": "ann", "shop": "north"})
    support.tell()
    seen = support.seen(run)
    assert set(seen) == {span_of(run.run_id), *(span_of(step.step_id) for step in run.steps)}
    root = seen[span_of(run.run_id)]
    assert (root.type, root.name, root.user_id, root.session_id) == ("AGENT", "support", "ann", "t1")
    assert json.loads(root.input) == [{"role": "user", "content": "Where is order 5?"}]
    assert json.loads(root.output) == {"role": "assistant", "content": "It is on its way."}
    assert root.tags == ["beta"]
    assert (root.metadata["run_id"], root.metadata["shop"], root.metadata["outcome"]) == (
        run.run_id,
        "north",
        "finished",
    )
    kinds = {"node": "CHAIN", "model": "GENERATION", "tool": "TOOL"}
    for step in run.steps:
        one = seen[span_of(step.step_id)]
        assert (one.type, one.name, one.parent_observation_id) == (
            kinds[step.kind],
            step.name,
            span_of(str(step.parent_id)),
        )
        assert one.metadata["step_id"] == step.step_id
        assert abs((one.start_time - step.started_at).total_seconds()) < 0.001


def test_a_generation_says_what_was_read_and_written(tmp_path: Path, server: Langfuse) -> None:
    """Messages and tools on offer, tool calls, chain of thought, tokens, cost, and the model's parameters."""
    usage: Any = {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
    thought = {"reasoning_content": "I must look."}
    script = [AIMessage("", tool_calls=[FIND], usage_metadata=usage, additional_kwargs=thought), AIMessage("Soon.")]
    prices: Any = {"ScriptedModel": {"input": 1.0, "output": 10.0}}
    with (support := Support(tmp_path, server, script, prices=prices)).loop:
        run = support.ask()
        support.tell()
        first, second = (step for step in run.steps if step.kind == "model")
        one = support.seen(run)[span_of(first.step_id)]
        read = json.loads(one.input)
        assert [message["role"] for message in read["messages"]] == ["user"]
        assert [tool["function"]["name"] for tool in read["tools"]] == ["find_order"]
        said = json.loads(one.output)
        assert said["reasoning_content"] == "I must look."
        assert said["tool_calls"][0]["function"] == {"name": "find_order", "arguments": '{"order":5}'}
        assert one.usage_details == {"input": 30, "output": 4, "total": 34}
        assert one.total_cost == pytest.approx(0.00007)
        again = json.loads(support.seen(run)[span_of(second.step_id)].input)["messages"]
        assert [message["role"] for message in again] == ["user", "assistant", "tool"]
        tool = next(step for step in run.steps if step.kind == "tool")
        shown = support.seen(run)[span_of(tool.step_id)]
        assert (json.loads(shown.input), shown.output) == ({"order": 5}, "Order 5 is on its way.")


def test_a_failed_tool_is_an_error_there(tmp_path: Path, server: Langfuse) -> None:
    """The level and what was raised stand with the step and with the agent."""

    def broken(order: int) -> str:
        """Fail."""
        raise RuntimeError("The warehouse is away.")

    with (support := Support(tmp_path, server)).loop as loop:
        call = AIMessage("", tool_calls=[{**FIND, "name": "broken"}])
        agent = loop.watch(create_agent(ScriptedModel(script=[call]), [broken]))
        with pytest.raises(RuntimeError):
            agent.invoke(ASKED, {"configurable": {"thread_id": "t1"}})
        loop.flush()
        run = loop.store.runs.last_of_thread("t1")
        support.tell()
        seen = support.seen(run)
        assert seen[span_of(run.run_id)].level == "ERROR"
        assert "The warehouse is away." in seen[span_of(run.run_id)].status_message
        assert "flagged" in seen[span_of(run.run_id)].tags
        assert json.loads(seen[span_of(run.run_id)].input)[0]["content"] == "Where is order 5?"


def test_ids_lead_both_ways(support: Support) -> None:
    """A run's id is its trace's with dashes; an id that is no UUID has a trace all the same."""
    run = support.ask()
    assert run_of(trace_of(run.run_id)) == run.run_id
    assert len(trace_of("my run")) == 32
    assert trace_of("my run") == trace_of("my run")
    address = f"{support.server.url}/project/{support.server.project_id}/traces/{trace_of(run.run_id)}"
    assert support.mirror.where(run) == address
    support.server.stop()
    nowhere = Wire("pk", "sk", support.server.url, seconds=1.0)
    assert LangfuseTraces(nowhere).where(run) == f"{support.server.url}/trace/{trace_of(run.run_id)}"


@pytest.mark.parametrize("arrays", ["refused", "accepted"])
def test_feedback_becomes_scores(support: Support, arrays: str) -> None:
    """A score with its words, a correction, and a text where nothing was judged; on servers of both kinds."""
    support.server.score_arrays = arrays
    run = support.ask()
    model = next(step for step in run.steps if step.kind == "model")
    loop = support.loop
    loop.feedback(run.run_id, score=-1, text="No!", categories=["wrong_tool"], by="ann", feedback_id="f1")
    loop.feedback(run.run_id, text="I like the tone.", feedback_id="f2")
    loop.feedback(run.run_id, correction={"tool": "find_order", "args": {"order": 6}}, step=model.step_id)
    support.tell()
    found = {
        one["dataType"]: one
        for one in support.server.scores_of("traceId", trace_of(run.run_id))
        if one["name"] != "flag"
    }
    assert (found["NUMERIC"]["value"], found["NUMERIC"]["comment"]) == (-1, "No!; wrong_tool")
    assert found["NUMERIC"]["metadata"]["by"] == "ann"
    assert found["TEXT"]["value"] == "I like the tone."
    right = json.loads(found["CORRECTION"]["value"])
    assert right["tool_calls"][0]["function"]["name"] == "find_order"
    assert found["CORRECTION"]["subject"]["id"] == span_of(model.step_id)
    assert support.server.asked(SCORES, 400) == (arrays == "refused")


def test_what_becomes_of_a_run_is_a_score(support: Support) -> None:
    """A flag and its moves are one score; told again it is still one."""
    run = support.ask()
    support.loop.feedback(run.run_id, score=-1)
    support.tell()
    support.loop.store.flags.move([run.run_id], "dismissed")
    support.tell()
    flags = [one for one in support.server.scores_of("traceId", trace_of(run.run_id)) if one["name"] == "flag"]
    assert [(one["value"], one["dataType"]) for one in flags] == [("dismissed", "CATEGORICAL")]
    assert flags[0]["comment"]


def test_a_cycle_is_shown(tmp_path: Path, server: Langfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset with its runs, both sides of the examination, once each, however often something failed."""
    monkeypatch.setattr("langgraph_learnloop.integrations.langfuse_wire._PATIENCE", (0.0, 0.0, 0.0))
    server.fail(0.2, ("500_before", "500_after", "429", "close_before", "close_after"))
    with (shop := Shop(tmp_path / "l.db")).loop as loop:
        clock = Clock()
        wire = Wire(server.public_key, server.secret_key, server.url, seconds=2.0)
        mirroring = Mirroring(loop.store, LangfuseTraces(wire), "shop", loop.exams.asked, now=clock, draw=lambda: 1.0)
        shop.remember()
        shop.bad_day()
        report = loop.cycle()
        for _ in range(200):
            mirroring.step()
            clock.at += 61.0
            if not mirroring.health().waiting:
                break
        assert mirroring.health()[1:3] == (0, 0), mirroring.health()
    assert not server.duplicates()
    assert any(name.endswith(str(report.dataset)[:12]) for name in server.datasets)
    members = [one for one in server.scores.values() if one["name"] == "dataset"]
    assert {one["value"] for one in members} == {report.dataset}
    experiments = {one.attributes.get("langfuse.experiment.id") for one in server.spans} - {None}
    assert len(experiments) == 2


@pytest.mark.parametrize("order", ["handler first", "recorder first", "watched"])
def test_beside_langfuses_own_handler_nothing_is_doubled(support: Support, order: str) -> None:
    """The run stays in the handler's trace, and so does what is said of it; sync, async and many at once."""
    from langfuse.langchain import CallbackHandler

    client = support.server.client()
    handler, recorder = CallbackHandler(public_key=support.server.public_key), support.loop.recorder
    graph = create_agent(ScriptedModel(script=["Soon."]), [])
    callbacks: list[Any] = {"handler first": [handler, recorder], "recorder first": [recorder, handler]}.get(order, [])
    agent, callbacks = (graph, callbacks) if callbacks else (support.loop.watch(graph), [handler])

    async def many() -> None:
        threads = [{"callbacks": callbacks, "configurable": {"thread_id": f"async {n}"}} for n in range(5)]
        await asyncio.gather(*(agent.ainvoke(ASKED, one) for one in threads))

    agent.invoke(ASKED, {"callbacks": callbacks, "configurable": {"thread_id": "sync"}})
    asyncio.run(many())
    support.loop.flush()
    support.loop.feedback(thread="sync", score=1, feedback_id="f1")
    client.flush()
    support.tell()
    runs = support.loop.runs()
    assert len(runs) == 6
    assert {str(run.trace) for run in runs} == set(support.server.traces())
    said = support.loop.store.runs.last_of_thread("sync")
    assert [one["value"] for one in support.server.scores_of("traceId", str(said.trace))] == [1]
    assert str(said.trace) in support.mirror.where(said)


def test_a_handler_that_sees_only_a_part_does_not_take_the_run(support: Support) -> None:
    """Langfuse's handler on a model inside keeps no trace of the run: the run is shown as ever."""
    from langfuse.langchain import CallbackHandler

    support.server.client()
    handler = CallbackHandler(public_key=support.server.public_key)
    model = ScriptedModel(script=["Soon."], callbacks=[handler])
    agent = support.loop.watch(create_agent(model, []))
    for thread in ("t1", "t2"):
        agent.invoke(ASKED, {"configurable": {"thread_id": thread}})
    support.loop.flush()
    support.tell()
    runs = support.loop.runs()
    assert [run.trace for run in runs] == [None, None]
    assert {trace_of(run.run_id) for run in runs} <= set(support.server.traces())


def test_what_was_said_in_langfuse_does_not_go_back(support: Support) -> None:
    """Feedback that came from there is there."""
    run = support.ask()
    support.loop.feedback(run.run_id, score=1, feedback_id="langfuse:s1")
    support.tell()
    assert not support.server.scores


FAULTS = ("500_before", "500_after", "503", "429", "close_before", "close_after", "hang_after")


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_loses_nothing_and_doubles_nothing(support: Support, fault: str) -> None:
    """Whatever becomes of a request, in the end every observation and score stands there once."""
    support.wire._client.timeout = 0.3
    runs = [support.ask(f"t{number}") for number in range(3)]
    support.loop.feedback(runs[0].run_id, score=-1, feedback_id="f1")
    support.server.fail(1.0, [fault], times=2)
    support.tell()
    assert not support.server.duplicates()
    assert {trace: len(spans) for trace, spans in support.server.traces().items()} == {
        trace_of(run.run_id): len(run.steps) + 1 for run in runs
    }
    assert len(support.server.scores) == 2  # what was said, and the flag
    assert support.server.faults[fault] == 2


def test_a_server_that_comes_and_goes(support: Support) -> None:
    """Runs wait while nobody listens, through a restart, and behind a Retry-After."""
    first = support.ask("t1")
    support.server.stop()
    assert support.mirroring.step() == 0
    assert "cannot be reached" in (support.mirroring.health().problem or "")
    second = support.ask("t2")
    support.server.start()
    support.server.retry_after = 300.0
    support.server.fail(1.0, ["429"], times=1)
    support.clock.at += 61.0
    support.mirroring.step()
    assert support.mirroring._pauses["run"].until >= support.clock() + 299
    support.clock.at += 301.0
    support.tell()
    assert set(support.server.traces()) == {trace_of(run.run_id) for run in (first, second)}


def test_what_the_server_never_takes_is_set_aside(support: Support) -> None:
    """A run that it refuses as malformed stays, with the reason; the others are shown."""
    runs = [support.ask(f"t{number}") for number in range(4)]
    bad = trace_of(runs[2].run_id)
    support.server.reject_spans = lambda span: span.trace_id == bad
    support.tell()
    assert set(support.server.traces()) == {trace_of(run.run_id) for run in runs if run is not runs[2]}
    health = support.mirroring.health()
    assert (health.refused, "400" in (health.problem or "")) == (1, True)
    support.server.heal()
    support.loop.store.outbox.retry("langfuse")
    support.tell()
    assert len(support.server.traces()) == 4


def test_wrong_keys_wait_for_right_ones(tmp_path: Path, server: Langfuse) -> None:
    """A refusal of the keys is said, and nothing is thrown away for it."""
    with (support := Support(tmp_path, server)).loop as loop:
        support.ask()
        wrong = LangfuseTraces(Wire("pk-wrong", "sk", server.url))
        mirroring = Mirroring(loop.store, wrong, "support", now=support.clock, draw=lambda: 1.0)
        assert mirroring.step() == 0
        assert "keys" in (mirroring.health().problem or "")
        support.clock.at += 61.0
        support.tell()
        assert len(server.traces()) == 1


def test_a_long_conversation_is_shown_by_its_end(tmp_path: Path, server: Langfuse) -> None:
    """An observation stays within what a server takes; how much is left out is said."""
    script = [AIMessage("x" * 300_000) for _ in range(6)]
    with (support := Support(tmp_path, server, script)).loop:
        model: Any = None
        for _ in range(1):
            support.agent.invoke(
                {"messages": [("user", "y" * 300_000) for _ in range(6)]}, {"configurable": {"thread_id": "t1"}}
            )
        support.loop.flush()
        run = support.loop.store.runs.last_of_thread("t1")
        support.tell()
        model = next(step for step in run.steps if step.kind == "model")
        shown = json.loads(support.seen(run)[span_of(model.step_id)].input)["messages"]
        assert len(shown) < 6
        assert "earlier messages are not shown" in shown[0]["content"]


def test_strange_texts_and_names_are_shown(support: Support) -> None:
    """Half characters, control characters, huge numbers and long names neither break a trace nor are dropped."""
    run = support.ask(
        "s" * 500, metadata={"user": "ü" * 300, "big": 10**40, "text": "a\x00b\x1b[31m", "half": "\ud800"}
    )
    support.tell()
    root = support.seen(run)[span_of(run.run_id)]
    assert len(root.session_id) == 32
    assert len(root.user_id) == 32
    assert support.mirroring.health().refused == 0


def test_the_parts_can_be_switched_off(tmp_path: Path, server: Langfuse) -> None:
    """Only what is named is sent."""
    with (support := Support(tmp_path, server)).loop as loop:
        only = Mirroring(loop.store, LangfuseTraces(support.wire, name="scores", kinds=["feedback"]), "support")
        run = support.ask()
        loop.feedback(run.run_id, score=-1, feedback_id="f1")
        assert only.step() == 1
    assert (len(server.traces()), len(server.scores)) == (0, 1)


def test_the_command_tells_and_shows_the_address(
    tmp_path: Path, server: Langfuse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`learnloop mirror --once` and `learnloop runs show`, with the setting and the keys in the environment."""
    with (support := Support(tmp_path, server)).loop:
        run = support.ask()
    (tmp_path / "learnloop.toml").write_text(
        'mirror = "langgraph_learnloop.integrations.langfuse_traces:LangfuseTraces"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", server.public_key)
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", server.secret_key)
    monkeypatch.setenv("LANGFUSE_BASE_URL", server.url)

    def command(*words: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["learnloop", *words, "--store", "l.db"])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    code, said = command("mirror", "--all", "--once")
    assert (code, "0 waiting" in said) == (0, True), said
    assert set(server.traces()) == {trace_of(run.run_id)}
    assert command("mirror", "--forget")[0] == 0
    with LearnLoop(tmp_path / "l.db", agent="support") as loop:
        assert loop.store.outbox.names() == ()
    address = f"/project/{server.project_id}/traces/{trace_of(run.run_id)}"
    assert address in command("runs", "show", run.run_id)[1].replace("\n", "")
    server.stop()
    began = time.monotonic()
    assert f"/trace/{trace_of(run.run_id)}" in command("runs", "show", run.run_id)[1].replace("\n", "")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("fault", ["hang", "slow", "refused"])
def test_a_process_ends_when_it_wants_to(tmp_path: Path, server: Langfuse, fault: str) -> None:
    """A server that hangs, is slow or is away keeps a process for two seconds at most; the rest waits in the store."""
    if fault == "hang":
        server.fail(1.0, ["hang"])
    elif fault == "slow":
        server.slow(5.0)
    else:
        server.stop()
    code = """
import sys, time
from pathlib import Path
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.integrations.langfuse_traces import LangfuseTraces
loop = LearnLoop(Path(sys.argv[1]), agent="support")
graph = StateGraph(MessagesState).add_node("answer", lambda state: {"messages": [("ai", "Soon.")]})
loop.watch(graph.add_edge(START, "answer").add_edge("answer", END).compile()).invoke({"messages": [("user", "Hi")]})
loop.flush()
telling = loop.mirror(LangfuseTraces(), everything=True)
while telling.health().problem is None and loop.store.outbox.waiting("langfuse", "run", 1, 0.0):
    time.sleep(0.01)  # until it is being told, or could not be
began = time.monotonic()
import atexit
atexit._run_exitfuncs()
print(time.monotonic() - began, flush=True)
"""
    keys = {"LANGFUSE_PUBLIC_KEY": server.public_key, "LANGFUSE_SECRET_KEY": server.secret_key}
    environ = {**keys, "LANGFUSE_BASE_URL": server.url, "PATH": ""}
    line = [sys.executable, "-c", code, str(tmp_path / "l.db")]
    done = subprocess.run(line, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 2.0 + 1.0  # a busy machine takes its part
    with LearnLoop(tmp_path / "l.db", agent="support") as loop:
        assert loop.store.outbox.backlog("langfuse").waiting == 1


def test_without_keys_or_sdk_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one sentence."""
    for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY", "LANGFUSE_BASE_URL", "LANGFUSE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="LANGFUSE_PUBLIC_KEY"):
        LangfuseTraces()
    with pytest.raises(ConfigError, match="https://"):
        Wire("pk", "sk", "ftp://langfuse")
    monkeypatch.setitem(sys.modules, "langfuse.api", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        Wire("pk", "sk")


def test_scores_that_one_by_one_fail_say_which(support: Support) -> None:
    """A score that the server refuses for good is set aside; its neighbours arrive."""
    with pytest.raises(DeliveryError) as refused:
        support.wire.send_scores(
            [{"id": "x", "name": "n", "value": "no number", "dataType": "NUMERIC", "traceId": "t"}]
        )
    assert refused.value.forever
    assert support.server.asked(SPANS) == 0


def test_an_address_that_moved_is_a_sentence() -> None:
    """A redirect took nothing, and says what to mend; bodies are not sent on to where it leads."""
    wire = Wire("pk", "sk", "http://langfuse.example")
    answer = httpx.Response(308, headers={"location": "https://elsewhere.example"})
    wire._client = httpx.Client(transport=httpx.MockTransport(lambda _: answer), base_url=wire.url)
    with pytest.raises(DeliveryError, match="LANGFUSE_BASE_URL") as moved:
        wire.send_scores([{"id": "x", "name": "n", "value": 1, "dataType": "NUMERIC", "traceId": "t"}])
    assert (moved.value.arrived, moved.value.forever) == (False, False)


def test_a_list_of_which_some_are_rejected_is_told_one_by_one() -> None:
    """A server that took the list and rejected one of it does not say which: each is told by itself."""
    wire = Wire("pk", "sk", "http://langfuse.example")
    rejected = {"rejected": 1, "errors": [{"message": "The score config forbids it."}]}
    answers = [httpx.Response(207, json=rejected), httpx.Response(200, text="ok"), httpx.Response(200, text="ok")]
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return answers[len(asked) - 1]

    wire._client = httpx.Client(transport=httpx.MockTransport(answer), base_url=wire.url)
    wire.send_scores([{"id": "x"}, {"id": "y"}])
    assert asked == [[{"id": "x"}, {"id": "y"}], {"id": "x"}, {"id": "y"}]
