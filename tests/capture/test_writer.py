"""The writer in bad weather: a full queue, a store that refuses, an interpreter that ends."""

import gc
import inspect
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_learnloop.capture import spool
from langgraph_learnloop.capture import writer as module
from langgraph_learnloop.capture.attach import watch
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Writer
from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Recorded, Run
from langgraph_learnloop.store.opened import open_store


@pytest.fixture
def say(writer: Writer) -> Callable[[str], None]:
    """Return a watched graph of one node that is run in a thread of that name."""
    return _speaker(writer)


def _speaker(writer: Writer) -> Callable[[str], None]:
    graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [AIMessage("yes")]})
    watched = watch(graph.add_edge(START, "say").compile(), Recorder(writer, "support"))
    return lambda thread: watched.invoke({"messages": [("user", "ok?")]}, {"configurable": {"thread_id": thread}})


def _threads(runs: dict[str, Run]) -> list[str | None]:
    return [run.thread_id for run in runs.values()]


def test_32_threads_lose_nothing(scripted: Any, calls: Any, tmp_path: Path) -> None:
    """The agent counts what it does; the store agrees, run by run, thread by thread, tool by tool."""
    did: list[tuple[str, int]] = []

    def note(thread: str, turn: int) -> str:
        """Count."""
        did.append((thread, turn))
        return f"{thread}/{turn}"

    def answer(told: list[Any]) -> AIMessage:
        if told[-1].type == "tool":
            return AIMessage(f"noted {told[-1].content}")
        thread, turn = str(told[-1].content).split()
        return calls("note", {"thread": thread, "turn": int(turn)})

    with open_store(tmp_path / "learnloop.db") as store:
        writer = Writer(store.runs)
        agent = watch(create_agent(scripted(answer=answer), [note]), Recorder(writer, "support"))

        def work(number: int) -> None:
            for turn in range(10):
                question = {"messages": [("user", f"t{number} {turn}")]}
                agent.invoke(question, {"configurable": {"thread_id": f"t{number}"}})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.flush(60)
        writer.close()
        runs = store.runs.recent(limit=1000)
    assert len(did) == len(runs) == 320
    seen = [
        (step.tool_calls[0].args["thread"], step.tool_calls[0].args["turn"])
        for run in runs
        for step in run.steps
        if step.kind == "tool"
    ]
    assert sorted(seen) == sorted(did)
    for run in runs:
        assert len(run.steps) == 6
        assert run.question is not None
        assert run.question.split()[0] == run.thread_id
        assert run.answer == "noted " + run.question.replace(" ", "/")
    assert writer.health().dropped == {}


@pytest.fixture
def accounted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set when the writer has learned that the end of a run was lost."""
    learned = threading.Event()

    class Watching(module.Tracker):
        def take(self, event: Any, lost: bool = False) -> Any:
            if lost and event.kind == "end" and event.parent_id is None:
                learned.set()
            return super().take(event, lost)

    monkeypatch.setattr(module, "Tracker", Watching)
    return learned


class _GatedSink:
    """Block in the first batch until told to go on."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.entered, self.gate = threading.Event(), threading.Event()

    def add_runs(self, recorded: Sequence[Recorded]) -> None:
        self.entered.set()
        assert self.gate.wait(30)
        self.runs.update((run.run_id, run) for run, _ in recorded)


def test_a_full_queue_drops_whole_runs_and_counts_them(sink: Any, accounted: threading.Event) -> None:
    """The agent never waits; a run that lost an event is not told by halves; later runs are whole again."""
    entered, gate = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        entered.set()
        assert gate.wait(30)
        return text

    writer = Writer(sink, queue_size=40, policy=Policy(redaction=slow))
    say = _speaker(writer)
    say("first")
    assert entered.wait(10)
    for number in range(50):
        say(f"burst {number}")
    assert writer.health().queued <= 41
    gate.set()
    assert accounted.wait(10)
    assert writer.flush()
    say("after")
    assert writer.flush()
    writer.close()
    kept = [run for run in sink.runs.values() if str(run.thread_id).startswith("burst")]
    assert 0 < len(kept) < 50
    assert writer.health().dropped == {"runs that lost an event to a full queue": 50 - len(kept)}
    assert {"first", "after"} <= set(_threads(sink.runs))
    assert all((run.answer, len(run.steps)) == ("yes", 1) for run in sink.runs.values())
    assert writer.health().open == 0


def test_a_lost_event_wakes_the_writer(sink: Any, accounted: threading.Event) -> None:
    """What was lost while the writer slept is accounted for without another event."""
    writer = Writer(sink, queue_size=0)
    _speaker(writer)("1")
    assert accounted.wait(10)
    writer.close()
    assert writer.health().dropped == {"runs that lost an event to a full queue": 1}


def test_a_loss_that_the_writer_had_not_seen_wakes_it(sink: Any, accounted: threading.Event) -> None:
    """A thread may find the queue overflowing when the writer has just emptied it and sleeps: later runs are whole."""
    writer = Writer(sink)
    say = _speaker(writer)
    say("1")
    assert writer.flush()
    writer._overflowing = True
    say("2")
    assert accounted.wait(10)
    say("3")
    assert writer.flush()
    writer.close()
    assert "3" in _threads(sink.runs)
    assert "2" not in _threads(sink.runs)


def test_a_run_that_cannot_be_told_costs_no_other(sink: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A redaction that fails on one run is logged and counted, and nothing of that run reaches the store."""

    def redact(text: str) -> str:
        if text == "no":
            raise KeyError("a bug of the caller's")
        return text

    writer = Writer(sink, policy=Policy(redaction=redact))
    graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [AIMessage("yes")]})
    agent = watch(graph.add_edge(START, "say").compile(), Recorder(writer, "support"))
    for said in ("1", "no", "2"):
        agent.invoke({"messages": [("user", said)]})
    assert writer.flush()
    writer.close()
    assert [run.question for run in sink.runs.values()] == ["1", "2"]
    assert writer.health().dropped == {"runs that could not be told": 1}
    assert "could not be told" in caplog.text


def test_what_was_lost_before_the_end_is_counted() -> None:
    """Closing while the queue overflows leaves no run unaccounted for."""
    sink = _GatedSink()
    writer = Writer(sink, queue_size=1)
    say = _speaker(writer)
    say("1")
    say("2")
    sink.gate.set()
    writer.close()
    assert writer.health().dropped == {"runs that lost an event to a full queue": 2}
    assert sink.runs == {}


def test_a_store_that_refuses_is_tried_again(
    say: Any, writer: Writer, sink: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While the store refuses, runs are kept, the agent is not hurt, and the log says it once."""
    sink.failure = StoreError("the disk is full")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            say(str(number))
            assert not writer.flush()
    health = writer.health()
    assert (health.pending, health.recorded, health.problem) == (3, 0, "the disk is full")
    assert health.failed_writes >= 3
    assert len(caplog.records) == 1
    sink.failure = None
    assert writer.flush()
    assert _threads(sink.runs) == ["0", "1", "2"]
    assert (writer.health().pending, writer.health().problem, writer.health().dropped) == (0, None, {})


def test_the_writer_tries_again_by_itself(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has come back gets its runs without another event."""
    monkeypatch.setattr(spool, "_LONGEST_PAUSE", 0.05)
    committed = threading.Event()
    announcing = Writer(sink, on_runs=lambda runs: committed.set())
    sink.failure = StoreError("gone")
    _speaker(announcing)("1")
    assert not announcing.flush()
    sink.failure = None
    assert committed.wait(10)
    announcing.close()


def test_what_waits_for_the_store_is_bounded(
    say: Any, writer: Writer, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder to spill into, runs beyond the bound go, and are counted."""
    monkeypatch.setattr(spool, "_PENDING_RUNS", 2)
    sink.failure = StoreError("gone")
    say("0")
    assert not writer.flush()
    for number in range(1, 5):
        say(str(number))
    assert not writer.flush()
    sink.failure = None
    assert writer.flush()
    assert _threads(sink.runs) == ["0", "1"]
    assert writer.health().dropped == {"runs that neither store nor disk took": 3}


def test_one_bad_run_does_not_hold_up_the_others(say: Any, writer: Writer, sink: Any) -> None:
    """A run that the sink cannot take is dropped and counted; its neighbours are stored."""
    sink.refused.add("bad")
    for thread in ("1", "bad", "2"):
        say(thread)
    assert writer.flush()
    assert _threads(sink.runs) == ["1", "2"]
    assert writer.health().dropped == {"runs that could not be stored": 1}


def test_on_runs_is_told_after_the_commit(sink: Any) -> None:
    """Whoever is told of a run finds it in the store; flush waits for them; their errors end nothing."""
    told: list[tuple[str, bool]] = []

    def tell(runs: Sequence[Run]) -> None:
        told.extend((str(run.thread_id), run.run_id in sink.runs) for run in runs)
        raise KeyError("a bug of the caller's")

    writer = Writer(sink, on_runs=tell)
    say = _speaker(writer)
    for thread in ("1", "2"):
        say(thread)
        assert writer.flush()
    writer.close()
    assert told == [("1", True), ("2", True)]
    assert writer.health().dropped == {"calls of on_runs that failed": 2}


def test_who_could_not_write_about_a_run_is_told_of_it_again(sink: Any) -> None:
    """A store that takes the runs and then refuses what is written of them (their flags) gets both once more."""
    told: list[str] = []

    def tell(runs: Sequence[Run]) -> None:
        told.extend(str(run.thread_id) for run in runs)
        if len(told) == 1:
            raise StoreError("the disk is full")

    writer = Writer(sink, on_runs=tell)
    _speaker(writer)("1")
    assert writer.flush() or writer.flush()  # the refused attempt may come before the first flush, or after
    writer.close()
    assert told == ["1", "1"]
    assert (writer.health().recorded, writer.health().dropped) == (1, {})


def test_flush_gives_up_in_time() -> None:
    """A store that hangs costs the caller of flush no more than the deadline."""
    sink = _GatedSink()
    writer = Writer(sink)
    _speaker(writer)("1")
    assert not writer.flush(timeout=0.05)
    sink.gate.set()
    assert writer.flush()
    writer.close()


def test_nothing_is_started_for_nothing(sink: Any) -> None:
    """A writer without events has no thread; flush and close are at once done."""
    before = threading.active_count()
    writer = Writer(sink)
    assert writer.flush()
    writer.close()
    assert threading.active_count() == before


def test_events_after_close_are_counted(say: Any, writer: Writer, sink: Any) -> None:
    """An agent that outlives its recorder goes on, and what is not recorded shows."""
    say("1")
    writer.close()
    writer.close()
    say("2")
    assert _threads(sink.runs) == ["1"]
    assert writer.flush()
    assert writer.health().dropped["events after the recorder was closed"] == 4


def test_the_first_event_is_not_lost(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue is open from the beginning, also before the writer's thread looks at it."""
    monkeypatch.setattr(Writer, "_start", lambda self: None)
    writer = Writer(sink)
    _speaker(writer)("1")
    assert writer.health().queued == 4


def test_who_was_closed_is_held_by_nobody(sink: Any) -> None:
    """The interpreter's end, at which an open writer is flushed, does not keep a closed one until then."""
    writer = Writer(sink)
    _speaker(writer)("1")
    writer.close()
    gone = weakref.ref(writer)
    del writer
    gc.collect()
    assert gone() is None


def test_what_nobody_sets(say: Any, writer: Writer) -> None:
    """Ten thousand events may wait; flush takes ten seconds at most and closing five; threads say whose they are."""
    assert inspect.signature(Writer).parameters["queue_size"].default == 10_000
    assert inspect.signature(writer.flush).parameters["timeout"].default == 10.0
    assert inspect.signature(writer.close).parameters["timeout"].default == 5.0
    say("1")
    assert writer.flush()
    assert {"learnloop-writer", "learnloop-store"} <= {thread.name for thread in threading.enumerate()}


def _sampled(sink: Any, rate: float, **more: Any) -> Writer:
    return Writer(sink, policy=Policy(rate=rate), **more)


def test_what_sampling_left_out_is_kept_a_while(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last few can be rescued: by their id, or the last one of a thread; each once, and no other with it."""
    monkeypatch.setattr(module, "_HELD_RUNS", 3)
    writer = _sampled(sink, 0.0)
    say = _speaker(writer)
    for thread in ("1", "2", "3", "3", "4"):
        say(thread)
    writer.rescue(None, None)
    assert (sink.runs, writer.health().sampled_out) == ({}, 5)
    assert len(writer._held) == 3
    last = list(writer._held.values())[1].recorded.run
    assert last.thread_id == "3"
    for asked in ((None, "1"), ("nobody", None), (None, "3")):
        writer.rescue(*asked)
    assert writer.flush()
    assert list(sink.runs) == [last.run_id]
    writer.rescue(next(iter(writer._held)), None)
    assert writer.flush()
    assert _threads(sink.runs) == ["3", "3"]
    assert [entry.recorded.run.thread_id for entry in writer._held.values()] == ["4"]
    writer.close()
    assert writer.health().recorded == 2


def test_a_run_is_rescued_that_the_writer_has_not_told_yet(sink: Any) -> None:
    """Whoever speaks of a run at once finds it, though its events still wait; where all are kept nothing is done."""
    writer = _sampled(sink, 0.0)
    _speaker(writer)("1")
    writer.rescue(None, "1")
    assert writer.flush()
    assert _threads(sink.runs) == ["1"]
    writer.close()
    whole = _sampled(sink, 1.0)
    whole.rescue(None, "1")
    assert whole._thread is None
    whole.close()


def test_a_run_that_two_recorders_saw_is_told_once(sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last ids so many are remembered, and not one more."""
    monkeypatch.setattr(module, "_TOLD", 2)
    writer = Writer(sink)
    graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [AIMessage("yes")]})
    first, second = Recorder(writer, "support"), Recorder(writer, "support")
    agent = watch(watch(graph.add_edge(START, "say").compile(), first), second)
    for turn in range(3):
        agent.invoke({"messages": [("user", str(turn))]})
    assert writer.flush()
    assert (len(sink.runs), writer.health().recorded) == (3, 3)
    assert len(writer._told) == 2
    writer.close()


def test_a_flush_that_the_writer_does_not_reach_says_so(sink: Any) -> None:
    """While the writer is held up nothing is confirmed, whatever the store does."""
    entered, gate = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        entered.set()
        assert gate.wait(30)
        return text

    writer = Writer(sink, policy=Policy(redaction=slow))
    _speaker(writer)("1")
    assert entered.wait(10)
    assert writer.flush(timeout=0.01) is False
    gate.set()
    assert writer.flush()
    writer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system knows no fork")
def test_a_forked_child_begins_anew(sink: Any) -> None:
    """Nothing that waited or was counted in the parent is the child's; a writer that was closed stays closed."""
    writer, closed = Writer(sink), Writer(sink)
    closed.close()
    _speaker(writer)("1")
    assert writer.flush()
    child = os.fork()
    if not child:
        begun = (writer._thread, writer.health().recorded, closed._closed) == (None, 0, True)
        _speaker(writer)("2")
        os._exit(0 if begun and writer.flush() and writer.health().recorded == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (writer.health().recorded, _threads(sink.runs)) == (1, ["1"])
    writer.close()


_AGENT = """
import os, sys
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_learnloop.capture.attach import watch
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Writer
from langgraph_learnloop.store.opened import open_store
writer = Writer(open_store(sys.argv[1]).runs)
graph = StateGraph(MessagesState).add_node("say", lambda state: {"messages": [AIMessage("yes")]})
agent = watch(graph.add_edge(START, "say").compile(), Recorder(writer, "support"))
for turn in range(50):
    agent.invoke({"messages": [("user", str(turn))]})
"""


def _python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_what_flush_confirmed_survives_a_kill(tmp_path: Path) -> None:
    """A process that is killed after flush returned has lost none of those runs, and left none by halves."""
    path = tmp_path / "learnloop.db"
    more = "print(writer.flush(), flush=True)\nwhile True: agent.invoke({'messages': [('user', 'more')]})"
    process = _python(_AGENT + more, str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    with open_store(path) as store:
        runs = store.runs.recent(limit=100_000)
        assert {str(turn) for turn in range(50)} <= {run.question for run in runs}
        for run in runs:
            assert (run.answer, len(run.steps)) == ("yes", 1)
            assert len(store.runs.conversation(run.messages)) == 2


def test_an_interpreter_that_ends_flushes_first(tmp_path: Path) -> None:
    """A script that never calls flush has its runs in the store when it has ended."""
    path = tmp_path / "learnloop.db"
    process = _python(_AGENT, str(path))
    process.communicate(timeout=60)
    assert process.returncode == 0
    with open_store(path) as store:
        assert store.runs.count() == 50


def test_the_recorder_is_light() -> None:
    """Whoever imports the recorder imports no database, no graph builder and no model library with it."""
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'alembic', 'langgraph.graph', 'openai', 'langchain'}"
    code = f"import sys, langgraph_learnloop.capture.attach; print(sorted({heavy} & set(sys.modules)))"
    assert _python(code).communicate(timeout=60)[0] == "[]\n"
