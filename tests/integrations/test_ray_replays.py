"""A release is examined on a real Ray as it is here, and whatever goes wrong on a worker is a reason or a sentence."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, EngineError, MissingExtraError
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.integrations import ray_replays
from langgraph_learnloop.integrations.ray_replays import RayReplay
from langgraph_learnloop.records import Case, CaseResult, Progress
from langgraph_learnloop.testing import FixedJudge
from tests.evaluation.scripted import case

ray = pytest.importorskip("ray", reason="Ray is not installed")

APP = """
    import os, pathlib, signal, time
    from langgraph_learnloop.records import CaseResult, Message

    here = pathlib.Path(__file__).parent


    class Loop:
        def examine(self, release_id, cases):
            with (here / "asked").open("a") as asked:
                asked.write(" ".join([str(os.getpid()), release_id, *(c.messages[0].content for c in cases)]) + "\\n")
            return tuple(self.one(release_id, case) for case in cases)

        def one(self, release_id, case):
            question = case.messages[0].content
            if question == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if question == "die-once" and not (here / "died").exists():
                (here / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if question == "hang":
                time.sleep(600)
            if question == "raise":
                raise OwnError("no such order")
            return CaseResult(
                release_id="another" if question == "another" else release_id,
                case_id=case.case_id,
                evaluator="other/1" if question == "judge" else "tool-call-match/1",
                scores={"right_tool": True, "fully_right": question != "wrong"},
                got=(Message(role="assistant", content=question),),
                error="unclear" if question == "unclear" else None,
            )


    class OwnError(Exception):
        def __reduce__(self):
            return (print, ("somebody else's code runs here",))


    loop = Loop()
    nothing = 5


    def make():
        (here / "made").open("a").write(".")
        return Loop()


    def fail():
        raise OwnError("no database")
"""


@pytest.fixture
def replay(cluster: None, tmp_path: Path) -> Callable[..., RayReplay]:
    """Return who makes a replay of an app that only the workers can import."""
    (tmp_path / "agent.py").write_text(textwrap.dedent(APP))

    def make(app: str = "agent:loop", **options: Any) -> RayReplay:
        env = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}}
        return RayReplay(app, **{"evaluator": ToolCallMatch(), "runtime_env": env, "batch": 1, "at_once": 2} | options)

    return make


class Cache:
    """Keep results by case."""

    def __init__(self) -> None:
        self.kept: dict[str, CaseResult] = {}

    def results(self, release_id: str, evaluator: str) -> dict[str, CaseResult]:
        assert (release_id, evaluator) == ("r1", "tool-call-match/1")
        return dict(self.kept)

    def add_results(self, results: Any) -> None:
        self.kept.update({result.case_id: result for result in results})


def cases(*questions: str) -> list[Case]:
    """Return a case for each question."""
    return [case(question) for question in questions]


def asked(folder: Path) -> list[list[str]]:
    """Return what the workers were asked: process, release and questions."""
    path = folder / "asked"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def said(results: tuple[CaseResult, ...]) -> list[str | None]:
    """Return the answers, or why there is none."""
    return [result.error or result.got[0].content for result in results]


# -- it asks -----------------------------------------------------------------------------------------------------------


def test_batches_are_asked_and_come_back_in_order(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """Each case once, whatever its batch; what is judged is kept; progress is told on the way."""
    seen: list[Progress] = []
    cache = Cache()
    exam = cases("a", "b", "c", "unclear", "a")
    results = replay(batch=2).run("r1", exam, cache, seen.append)
    assert said(results) == ["a", "b", "c", "unclear"]
    assert [result.case_id for result in results] == [one.case_id for one in exam[:4]]
    assert {result.scores["fully_right"] for result in results} == {True}
    assert set(cache.kept) == {one.case_id for one in exam[:3]}
    assert sorted(line[1:] for line in asked(tmp_path)) == [["r1", "a", "b"], ["r1", "c", "unclear"]]
    assert [(p.stage, p.done, p.total) for p in seen] == [("evaluate", done, 4) for done in (0, 2, 4)]


def test_what_is_known_is_not_asked(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """Neither a second time, nor is a cluster needed where all is known."""
    cache = Cache()
    replay().run("r1", cases("a"), cache)
    assert said(replay().run("r1", cases("a", "b"), cache)) == ["a", "b"]
    assert sorted(line[2] for line in asked(tmp_path)) == ["a", "b"]
    nowhere = RayReplay("agent:loop", evaluator=ToolCallMatch(), address="127.0.0.1:1")
    assert said(nowhere.run("r1", cases("b", "a"), cache)) == ["b", "a"]
    assert nowhere.run("r1", []) == ()


def test_a_function_makes_the_app_once_a_process(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """A model that is loaded with it is loaded once, not once a batch."""
    assert said(replay("agent:make", at_once=1).run("r1", cases("a", "b", "c"))) == ["a", "b", "c"]
    assert len((tmp_path / "made").read_text()) == len({line[0] for line in asked(tmp_path)}) == 1


def test_enough_is_enough(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """Who has seen enough stops the rest, and has seen every result of the batch; known results count too."""
    seen: list[str] = []

    def enough(result: CaseResult) -> bool:
        seen.append(result.got[0].content)
        return result.scores["fully_right"] is False

    cache = Cache()
    exam = cases("a", "wrong", "b", "hang", "hang too")
    results = replay(batch=3, at_once=1).run("r1", exam, cache, enough=enough)
    assert said(results) == seen == ["a", "wrong", "b"]
    assert said(replay().run("r1", exam, cache, enough=enough)) == ["a", "wrong", "b"]
    assert len(asked(tmp_path)) == 1


AGENT = """
    import pathlib
    from langchain.agents import create_agent
    from langchain_core.messages import AIMessage
    from langgraph_learnloop import LearnLoop
    from langgraph_learnloop.records import Message, ToolCall
    from langgraph_learnloop.testing import MemoryEngine

    RIGHT = Message(role="assistant", tool_calls=(ToolCall(name="set_timer", args={"minutes": 5}, id="c1"),))


    def set_timer(minutes: int) -> str:
        \"\"\"Set a timer.\"\"\"
        raise AssertionError("no replay acts")


    def make():
        loop = LearnLoop(pathlib.Path(__file__).parent / "loop.db", agent="timers")
        model = loop.model(MemoryEngine({"wake me in five minutes": RIGHT}))
        loop.watch(create_agent(model, [set_timer]))
        return loop
"""


@pytest.mark.slow
def test_an_agent_is_examined_as_it_is_here(
    replay: Callable[..., RayReplay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers, scores and reasons as in this process, and no tool runs."""
    (tmp_path / "timers.py").write_text(textwrap.dedent(AGENT))
    monkeypatch.syspath_prepend(tmp_path)
    import timers  # type: ignore[import-not-found]

    exam = cases("wake me in five minutes", "wake me in five minutes, please", "how are you?")
    with timers.make() as loop:
        here = loop.examine(loop.champion.release_id, exam)
        there = replay("timers:make", batch=2).run(loop.champion.release_id, exam)
    untimed = {"seconds": None, "model_seconds": None}
    assert [one.model_copy(update=untimed) for one in there] == [one.model_copy(update=untimed) for one in here]
    assert [one.scores["fully_right"] for one in there] == [True, True, False]


# -- it goes wrong -----------------------------------------------------------------------------------------------------


def test_a_batch_whose_worker_dies_is_tried_once_more(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """A process that is lost costs nothing but time."""
    assert said(replay().run("r1", cases("die-once", "a"))) == ["die-once", "a"]
    assert sorted(line[2] for line in asked(tmp_path)) == ["a", "die-once", "die-once"]


def test_a_batch_whose_workers_die_is_not_judged(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """Twice, and no more; the reason is Ray's, the others are judged, and nothing of it is kept."""
    cache = Cache()
    results = replay().run("r1", cases("die", "a"), cache)
    assert said(results)[1] == "a"
    assert "The worker on the Ray cluster died, 2 times: " in str(results[0].error)
    assert results[0].scores == {}
    assert [line[2] for line in asked(tmp_path)].count("die") == 2
    assert list(cache.kept) == [results[1].case_id]


def test_a_batch_has_a_deadline(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """A worker that hangs is ended, and costs the others nothing: the next run gets all the processors."""
    replay().run("r1", cases("b", "c"))  # workers are there, so that the time is that of the batch
    results = replay(timeout_seconds=4).run("r1", cases("hang", "a"))
    assert said(results) == ["No result of its batch within 4 seconds, the wait for a free worker included.", "a"]
    assert said(replay(num_cpus=2).run("r1", cases("d"))) == ["d"]


def test_an_exception_is_a_reason_and_stays_there(replay: Callable[..., RayReplay], capfd: Any) -> None:
    """Its text comes back; the object, which could bring code along, does not."""
    results = replay(batch=2).run("r1", cases("raise", "a", "b"))
    assert said(results) == ["OwnError: no such order", "OwnError: no such order", "b"]
    assert "somebody else's code" not in capfd.readouterr().out


def test_a_result_of_another_release_is_none(replay: Callable[..., RayReplay]) -> None:
    """What was not asked for is not believed."""
    results = replay(batch=2).run("r1", cases("another", "a"))
    assert said(results) == ["The worker gave no result for it.", "a"]


def test_an_app_that_judges_otherwise_is_refused(replay: Callable[..., RayReplay]) -> None:
    """Scores of two evaluators never mix."""
    with pytest.raises(ConfigError, match=r"'agent:loop' judges with 'other/1', and 'tool-call-match/1' was asked for"):
        replay().run("r1", cases("judge"))


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("nowhere:loop", "ModuleNotFoundError: No module named 'nowhere'"),
        ("agent:nobody", "AttributeError: .* no attribute 'nobody'"),
        ("agent:nothing", "TypeError: 'int' object is not callable"),
        ("agent:OwnError", "ConfigError: it is a OwnError, not a LearnLoop or a function that returns one"),
        ("agent:fail", "OwnError: no database"),
    ],
)
def test_an_app_that_cannot_be_made_is_a_sentence(replay: Callable[..., RayReplay], app: str, reason: str) -> None:
    """Every batch would fail alike, so the first says it."""
    with pytest.raises(ConfigError, match=rf"cannot load the app '{app}': {reason}.* See that they find it"):
        replay(app).run("r1", cases("a"))


def test_an_interrupted_caller_leaves_nothing_running(replay: Callable[..., RayReplay], tmp_path: Path) -> None:
    """Ctrl-C (here: an exception in the callback) frees the workers: the next run gets them."""

    def interrupt(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(at_once=2).run("r1", cases("hang", "a"), on_progress=interrupt)
    assert said(replay(num_cpus=2, timeout_seconds=60).run("r1", cases("b"))) == ["b"]


@pytest.mark.parametrize(
    ("app", "options", "reason"),
    [
        ("agent", {}, "must be named as \"module:attribute\", not 'agent'"),
        (":loop", {}, "must be named as"),
        ("agent:loop", {"at_once": 0}, "not 0 batches of 16 cases"),
        ("agent:loop", {"batch": 0}, "not 4 batches of 0 cases"),
        ("agent:loop", {"timeout_seconds": 0}, "and 0 seconds"),
    ],
)
def test_arguments_that_cannot_be(app: str, options: dict[str, Any], reason: str) -> None:
    """They are refused before anything is started."""
    with pytest.raises(ConfigError, match=reason):
        RayReplay(app, evaluator=ToolCallMatch(), **options)


def test_resources_that_ray_does_not_take(replay: Callable[..., RayReplay]) -> None:
    """An argument that Ray refuses is a sentence, too."""
    with pytest.raises(ConfigError, match="Ray takes no such request"):
        replay(num_cpus=-1).run("r1", cases("a"))


def test_a_runtime_env_that_cannot_be(replay: Callable[..., RayReplay]) -> None:
    """What Ray cannot set up is said once, not once a case."""
    env = {"working_dir": "/no/such/folder"}
    with pytest.raises((ConfigError, EngineError), match="Mend"):
        replay(runtime_env=env).run("r1", cases("a"))


def test_a_result_that_is_none(tmp_path: Path) -> None:
    """A worker of another version may write what this one cannot read."""
    order = ray_replays._Order("agent:loop", "r1", "tool-call-match/1", 1, 1, 1.0)
    errand = ray_replays._Errand(None, None, order)
    (result,) = errand._read(json.dumps({"results": [{"case_id": 5}]}), cases("a"))
    assert str(result.error).startswith("The worker's results cannot be read: ")


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens is said at once."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    replay = RayReplay("agent:loop", evaluator=FixedJudge(), address="127.0.0.1:1")
    with pytest.raises(EngineError, match=r"No Ray cluster can be used at '127\.0\.0\.1:1': .*refused"):
        replay.run("r1", cases("a"))


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the pip command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[ray\]"'):
        RayReplay("agent:loop", evaluator=FixedJudge()).run("r1", cases("a"))
