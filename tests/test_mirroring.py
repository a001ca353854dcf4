"""A mirror is told what is stored: all of it, once, whatever fails in between, and never in the agent's way."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.mirror_process import MirrorProcess
from langgraph_learnloop.mirroring import Mirroring
from langgraph_learnloop.mirrors import DeliveryError, ToldChampion, ToldDataset, ToldExamination, ToldLabel, ToldRun
from langgraph_learnloop.testing import MemoryMirror, ScriptedModel
from tests.shop import ASK_HOURS, Shop

GONE = DeliveryError("It is away.")
SILENT = DeliveryError("It did not answer.", arrived=None)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


class Told:
    """A shop whose runs a mirror in memory is told of."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.shop = Shop(folder / "l.db")
        self.loop = self.shop.loop
        self.mirror = MemoryMirror(**settings)
        self.clock = Clock()
        self.mirroring = self.another()

    def another(self, **settings: Any) -> Mirroring:
        """Return one more process's view, so to speak."""
        loop = self.loop
        return Mirroring(
            loop.store, self.mirror, loop.agent, loop.exams.asked, now=self.clock, draw=lambda: 1.0, **settings
        )

    def runs(self, number: int, first: int = 0) -> list[str]:
        """Run the agent so often, and return the ids."""
        for one in range(first, first + number):
            self.shop.ask(f"t {one}", ASK_HOURS[one % len(ASK_HOURS)])
        self.loop.flush()
        return [self.loop.store.runs.last_of_thread(f"t {one}").run_id for one in range(first, first + number)]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path)
    with made.loop:
        yield made


def test_what_is_stored_is_told_once_in_order(told: Told) -> None:
    """Runs with their messages, feedback and flags, each once, oldest first."""
    runs = told.runs(3)
    told.loop.feedback(runs[0], score=-1, text="no", feedback_id="f1")
    assert told.mirroring.step() == 5
    assert told.mirroring.step() == 0
    assert told.mirror.subjects("run") == runs
    assert told.mirror.subjects("feedback") == ["f1"]
    what = told.mirror.told[0].what
    assert isinstance(what, ToldRun)
    assert [message.role for message in what.texts.conversation(what.run.messages)] == ["user", "assistant"]
    assert what.flag is not None
    label = next(one.what for one in told.mirror.told if one.kind == "label")
    assert isinstance(label, ToldLabel)
    assert (label.label.name, label.label.value, label.label.run_id) == ("flag", "open", runs[0])


def test_what_was_there_before_is_told_when_it_is_asked_for(told: Told) -> None:
    """A second mirror hears of what comes; a third of everything, and of nothing twice when it is named again."""
    runs = told.runs(2)
    told.loop.feedback(runs[0], score=-1, feedback_id="f1")
    late = MemoryMirror("late")
    everything = MemoryMirror("everything")
    store = told.loop.store
    assert Mirroring(store, late, "shop").step() == 0
    assert Mirroring(store, everything, "shop", everything=True).step() == 5
    assert Mirroring(store, everything, "shop", everything=True).step() == 0
    assert (everything.subjects("run"), everything.subjects("label")) == (runs, [f"{runs[0]}:flag"])
    assert store.outbox.names() == ("everything", "late", "memory")


def test_a_mirror_that_is_away_is_told_later(told: Told) -> None:
    """It is asked again after a while that grows, and after what it asks for; all arrives once."""
    runs = told.runs(2)
    told.mirror.failures = [GONE, GONE, DeliveryError("Not so fast.", retry_after=100.0)]
    told.mirror.kinds = ("run",)
    waits = []
    for _ in range(3):
        assert told.mirroring.step() == 0
        waits.append(told.mirroring._pauses["run"].until - told.clock())
        assert told.mirroring.step() == 0
        told.clock.at += waits[-1]
    assert waits == pytest.approx([0.5, 1.0, 100.0])
    assert told.mirror.tries == 3
    assert "Not so fast" in (told.mirroring.health().problem or "")
    assert told.mirroring.step() == 2
    assert told.mirror.subjects("run") == runs
    assert told.mirroring.health().problem is None


@pytest.mark.parametrize("arrived", [True, False])
def test_what_nobody_knows_of_is_looked_for_first(tmp_path: Path, arrived: bool) -> None:
    """After silence it is told again only when it could be seen by then, as doubtful; so it stands there once."""
    made = Told(tmp_path, kinds=("run",), settles=30.0)
    with made.loop:
        runs = made.runs(2)
        made.mirror.failures, made.mirror.arrives_all_the_same = [SILENT], arrived
        assert made.mirroring.step() == 0
        made.clock.at += 20.0
        more = made.runs(1, first=5)
        assert made.mirroring.step() == 1  # the others do not wait for it
        made.clock.at += 11.0
        assert made.mirroring.step() == 2
        assert sorted(made.mirror.subjects("run")) == sorted([*runs, *more])
        assert made.mirroring.step() == 0


def test_what_was_doubtful_stays_so(tmp_path: Path) -> None:
    """A second try that surely did not arrive says nothing of the first."""
    made = Told(tmp_path, kinds=("run",), settles=30.0)
    with made.loop:
        runs = made.runs(2)
        made.mirror.failures, made.mirror.arrives_all_the_same = [SILENT], True
        made.mirroring.step()
        made.mirror.failures, made.mirror.arrives_all_the_same = [GONE], False
        made.clock.at += 31.0
        runs += made.runs(1, first=5)
        assert made.mirroring.step() == 0
        made.clock.at += 5.0
        assert made.mirroring.step() == 3
        assert made.mirror.subjects("run") == runs


def test_a_process_that_was_killed_leaves_a_mark(tmp_path: Path) -> None:
    """What was being told when a process died is doubtful to the next one, and is told once."""
    made = Told(tmp_path, kinds=("run",), settles=30.0)
    with made.loop:
        runs = made.runs(2)
        made.mirror.arrives_all_the_same = True
        made.mirror.failures = [KeyboardInterrupt()]  # type: ignore[list-item]  # it ends a process
        with pytest.raises(KeyboardInterrupt):
            made.mirroring.step()
        made.clock.at += 61.0  # its lease has ended
        assert made.another().step() == 2
        assert made.mirror.subjects("run") == runs


def test_one_process_tells_a_mirror(told: Told) -> None:
    """Another one waits until the first lets go or its lease ends."""
    told.runs(1)
    assert told.mirroring.step() > 0
    told.runs(1, first=1)
    other = told.another()
    assert other.step() == 0
    told.clock.at += 61.0
    assert other.step() == 1
    assert told.mirroring.step() == 0
    told.runs(1, first=2)
    assert told.mirroring.step() == 0
    assert told.mirroring.health().problem == "Another process tells it at the moment."
    other.let_go()
    assert told.mirroring.step() == 0  # it asks again after a while
    told.clock.at += 6.0
    assert told.mirroring.step() == 1
    assert told.mirroring.health().problem is None


def test_what_is_never_taken_is_set_aside_with_the_reason(told: Told) -> None:
    """One bad run among many does not keep the others; it can be tried again."""
    runs = told.runs(9)
    told.mirror.never = {runs[4]}
    told.mirror.kinds = ("run",)
    assert told.mirroring.step() == 9
    assert told.mirror.subjects("run") == [run for run in runs if run != runs[4]]
    health = told.mirroring.health()
    assert (health.refused, runs[4] in (health.problem or "")) == (1, True)
    told.mirror.never = set()
    assert told.loop.store.outbox.retry("memory") == 1
    assert told.mirroring.step() == 1
    assert sorted(told.mirror.subjects("run")) == sorted(runs)


def test_a_mirror_that_breaks_is_told_again(told: Told) -> None:
    """An error that is not the mirror's own sets aside what it fails on, and nothing else, once that is certain."""
    runs = told.runs(4)
    told.mirror.kinds = ("run",)
    told.mirror.failures = [ValueError("a bug")]
    assert told.mirroring.step() == 0
    told.clock.at += 1.0
    assert told.mirroring.step() == 4
    assert len(told.mirror.subjects("run")) == 4
    more = told.runs(4, first=4)
    send = told.mirror.send

    def breaks(what: Any) -> None:
        if any(one.subject == more[2] for one in what):
            raise TypeError("a bug")
        send(what)

    told.mirror.send = breaks  # type: ignore[method-assign]
    for _ in range(3):
        told.mirroring.step()
        told.clock.at += 2.0
    assert sorted(told.mirror.subjects("run")) == sorted([*runs, *more[:2], more[3]])
    assert told.mirroring.health()[2:] == (1, "The mirror 'memory' failed: TypeError: a bug. Mend its send().")


def test_what_arrived_in_part_is_looked_for_before_it_is_set_aside(tmp_path: Path) -> None:
    """A refusal of one thing, after others of the same try arrived, doubles none of them."""
    made = Told(tmp_path, kinds=("run",), settles=30.0)
    with made.loop:
        runs = made.runs(4)
        made.mirror.never, made.mirror.arrives_in_part = {runs[3]}, True
        assert made.mirroring.step() == 0
        made.clock.at += 31.0
        assert made.mirroring.step() == 4
        assert made.mirror.subjects("run") == runs[:3]
        assert made.mirroring.health().refused == 1


def test_erased_messages_are_not_waited_for(told: Told) -> None:
    """A run whose messages are gone is left out; the others are told."""
    runs = told.runs(3)
    with told.loop.store._database.writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM lists WHERE hash = '{told.loop.store.runs.run(runs[1]).messages}'")
    told.mirroring.step()
    assert told.mirror.subjects("run") == [runs[0], runs[2]]
    assert told.mirroring.health().waiting == 0


def test_a_whole_cycle_is_told(told: Told) -> None:
    """What was learned from, how the candidate did, and which release serves."""
    told.shop.remember()
    told.shop.bad_day()
    report = told.loop.cycle()
    assert report.outcome == "promoted"
    told.mirroring.step()
    what = {one.kind: one.what for one in told.mirror.told}
    dataset, examination, champion = what["dataset"], what["examination"], what["champion"]
    assert isinstance(dataset, ToldDataset)
    assert dataset.dataset.version == report.dataset
    assert isinstance(examination, ToldExamination)
    assert {len(results) for results in examination.results.values()} == {len(examination.cases)}
    assert isinstance(champion, ToldChampion)
    assert champion.release.release_id == report.candidate


def test_a_dataset_that_is_gone_is_set_aside(told: Told, tmp_path: Path) -> None:
    """A file that somebody deleted is a sentence in the mirror's health, and stops nothing."""
    told.shop.remember()
    dataset = told.loop.store.datasets.latest()
    Path(dataset.path).unlink()
    told.runs(1)
    told.mirroring.step()
    health = told.mirroring.health()
    assert (health.waiting, health.refused) == (0, 1)
    assert dataset.version in (health.problem or "")


def test_it_tells_in_the_background_and_what_is_left_at_the_end(told: Told) -> None:
    """Nobody waits for it; closing tells what is left."""
    mirror = MemoryMirror("background")
    told.loop.mirror(mirror)
    told.runs(2)
    told.loop.close()
    assert len(mirror.subjects("run")) == 2


def test_a_hanging_mirror_delays_the_end_by_little(tmp_path: Path) -> None:
    """A process ends without waiting for the mirror, whatever that does; nothing is lost."""
    code = """
import sys, threading, time
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.testing import MemoryMirror
asked = threading.Event()
class Hanging(MemoryMirror):
    def send(self, told):
        asked.set()
        time.sleep(60)
loop = LearnLoop(sys.argv[1], agent="shop")
graph = StateGraph(MessagesState).add_node("answer", lambda state: {"messages": [("ai", "Soon.")]})
loop.watch(graph.add_edge(START, "answer").add_edge("answer", END).compile()).invoke({"messages": [("user", "Hi")]})
loop.flush()
loop.mirror(Hanging("hanging"), everything=True)
assert asked.wait(30)
print(time.time(), flush=True)
"""
    line = [sys.executable, "-c", code, str(tmp_path / "l.db")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    ended = time.time()
    assert done.returncode == 0, done.stderr[-2000:]
    assert ended - float(done.stdout) < 30.0  # not the minute that it hangs; much of it is a busy machine
    with LearnLoop(tmp_path / "l.db", agent="shop") as loop:
        assert loop.store.outbox.backlog("hanging").waiting > 0


def test_what_many_threads_store_is_told_once(tmp_path: Path) -> None:
    """The outbox is written with what it is about, from any thread."""
    made = Told(tmp_path, kinds=("run", "feedback"))
    with made.loop as loop:

        def work(thread: int) -> None:
            for one in range(10):
                made.shop.ask(f"{thread}-{one}", ASK_HOURS[one])
                loop.feedback(thread=f"{thread}-{one}", score=1)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.mirroring.step()
        assert len(made.mirror.subjects("run")) == len(set(made.mirror.subjects("run"))) == 40
        assert len(set(made.mirror.subjects("feedback"))) == len(made.mirror.subjects("feedback")) == 40


def test_the_mirror_of_the_settings(tmp_path: Path) -> None:
    """Processes that run the agent tell it; those that only look do not."""
    config = LoopConfig(agent="shop", mirror="tests.test_mirroring:SETTINGS")
    with LearnLoop(tmp_path / "l.db", config=config) as loop:
        assert loop.store.outbox.names() == ()
    with Shop(tmp_path / "l.db", {"mirror": "tests.test_mirroring:SETTINGS"}).loop as loop:
        assert loop.store.outbox.names() == ("settings",)


def test_a_witness_is_asked_once_and_may_fail(tmp_path: Path) -> None:
    """Parallel tools ask once, and whatever a witness raises, the run is recorded whole."""
    asked: list[Any] = []

    class Broken(MemoryMirror):
        def trace_beside(self, handlers: Any, run_id: Any) -> str | None:
            asked.append(run_id)
            raise RuntimeError("It looked where there is nothing.")

    def look(topic: int) -> str:
        """Look."""
        return "here"

    calls = [{"name": "look", "args": {"topic": number}, "id": f"c{number}"} for number in range(8)]
    with LearnLoop(tmp_path / "l.db", agent="shop") as loop:
        loop.mirror(Broken())
        agent = loop.watch(create_agent(ScriptedModel(script=[AIMessage("", tool_calls=calls), "Done."]), [look]))
        agent.invoke({"messages": [("user", "Look.")]})
        run = loop.runs()[0]
        assert [str(one) for one in asked] == [run.run_id]
        assert sum(step.kind == "tool" for step in run.steps) == 8
        assert loop.health().dropped == {}


def test_a_mirror_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    """No mirror, and one that is not there, each say what to do."""
    with LearnLoop(tmp_path / "l.db", agent="shop") as loop, pytest.raises(ConfigError, match="mirror"):
        loop.trace_url("nobody")
    with (
        LearnLoop(tmp_path / "l.db", config=LoopConfig(mirror="no.such:thing")) as loop,
        pytest.raises(ConfigError, match="The mirror"),
    ):
        loop.mirroring()


SETTINGS = MemoryMirror("settings")


@pytest.mark.parametrize(
    ("program", "says"), [("/there/is/none", "No process tells the mirror 'm'"), ("false", "ended with 1")]
)
def test_a_process_that_does_not_begin_or_ends_is_said(
    program: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a line in the log, and tried again."""
    monkeypatch.setattr("langgraph_learnloop.mirror_process._LOOK", 0.01)
    monkeypatch.setattr("langgraph_learnloop.mirror_process.sys.executable", program)
    with LearnLoop(tmp_path / "l.db", agent="shop") as loop:
        beside = MirrorProcess(loop.store, MemoryMirror("m"), "tests.test_mirroring:SETTINGS", "shop")
        deadline = time.monotonic() + 30
        while says not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        beside.stop()
    assert says in caplog.text
