"""Tell the whole circle, once, for real: an agent fails, people correct it, it learns, and a bad lesson is stopped.

Every chapter writes down its result when it is done, so a story that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_learnloop.curation.dataset import build
from langgraph_learnloop.demo.figures import figures, share
from langgraph_learnloop.demo.telling import Step, Telling
from langgraph_learnloop.demo.users import Crowd, Seen, give_feedback, mixed_threads
from langgraph_learnloop.demo.worlds import THREADS, Request, World
from langgraph_learnloop.errors import EngineError, StoreError
from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.evaluation.replay import GraphReplay
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.ports import Engine, Reviewer, Trainer
from langgraph_learnloop.records import (
    Case,
    Dataset,
    Example,
    Message,
    Recipe,
    Release,
    Run,
    ToolCall,
    content_hash,
)

CYCLE = "demo"
BAD_STEPS = 40
"""Optimizer steps of the two candidates that are meant to be stopped: enough to do their harm."""
TALKERS = 8
"""Conversations at the same time while the model is swapped."""
CANDIDATES = {
    "good": "trained on the reviewed corrections, with replay",
    "no_replay": "trained without replay",
    "hostile": "trained on the refused corrections",
}

Chapter = dict[str, Any]


class Story:
    """Play the story of one world in a folder of its own."""

    def __init__(
        self,
        world: World,
        home: Path,
        telling: Telling,
        engine: Callable[[], Engine],
        reviewer: Reviewer | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        """Play `world` in `home`; `engine` is called when the base model is there; `reviewer` stands for the checks."""
        self.world = world
        self.home = home
        self.tell = telling
        self._make_engine = engine
        self._reviewer = reviewer
        self._trainer = trainer
        self._file = home / "progress.json"
        self._done: dict[str, Any] = {}

    def play(self) -> dict[str, Any]:
        """Play every chapter that is not done yet; return the figures."""
        self._open()
        began = time.monotonic()
        with LearnLoop(self.home / "learnloop.db", config=self.world.config, trainer=self._trainer) as loop:
            self.loop = loop
            self.agent = self._agent()
            for chapter in (
                self.day1,
                self.exam_before,
                self.lesson,
                self.training,
                self.good,
                self.swap,
                self.day2,
                self.exam_after,
                self.back,
            ):
                self._chapter(chapter)
                if chapter == self.good and not self._done["good"]["passed"]:
                    break
        self._add_seconds(time.monotonic() - began)
        return figures(self._done)

    # -- the chapters --------------------------------------------------------------------------------------------------

    def day1(self) -> Chapter:
        """Serve a day with the base model, and let people say what was wrong."""
        seen = self._serve(self.world.day1, "day1", "Day 1")
        self._flush()
        said = give_feedback(self.loop, seen)
        worst = [{"label": one.label, "runs": len(one.run_ids)} for one in self.loop.weaknesses()[:3]]
        flagged = len(self.loop.flagged())
        return {**_summary(seen), "at_a_time": THREADS, "said": dict(said), "flagged": flagged, "worst": worst}

    def exam_before(self) -> Chapter:
        """Ask the base what nobody in the loop will ever see."""
        return self._exam(self.loop.champion, "Exam before")

    def lesson(self) -> Chapter:
        """Curate what was flagged into a dataset."""
        self.loop.store.cycles.start(CYCLE, self.loop._now())
        if not self.loop.store.datasets.all():
            self.loop.remember(self.world.past)
        dataset = self.loop.curate(self._reviewer, CYCLE)
        if dataset is None:
            raise EngineError(
                f"{len(self.loop.pending(CYCLE))} proposals still wait for review: run the same command again."
            )
        verdicts = self.loop.lessons.decided(CYCLE)
        refused = [p for p, v in verdicts if v.action == "reject"]
        return {
            "dataset": dataset.version,
            "counts": dataset.counts,
            "proposals": len(verdicts),
            "refused": len(refused),
            "why": sorted({p.problems[0] for p in refused if p.problems})[:3],
        }

    def training(self) -> Chapter:
        """Train what the loop proposes, and meanwhile train and examine two candidates that are meant to be stopped.

        One learns from the corrections alone and forgets; one learns what the checks refused, from liars.
        """
        recipe = self.world.config.recipe
        bad = recipe.model_copy(update={"steps": BAD_STEPS})
        plans = {
            "good": (self._dataset, recipe),
            "no_replay": (self._dataset, bad.model_copy(update={"replay": 0.0})),
            "hostile": (self._hostile_dataset(), bad),
        }
        with self.tell.bars() as bar:
            steps = {name: bar(CANDIDATES[name], plan.steps) for name, (_, plan) in plans.items()}

            def stopped() -> dict[str, Chapter]:
                names = ("no_replay", "hostile")
                return {name: self._examined(self._train(*plans[name], steps[name]), steps[name]) for name in names}

            lanes: dict[str, Callable[[], Chapter]] = {
                "good": lambda: self._train(*plans["good"], steps["good"]),
                "stopped": stopped,
            }
            done = side_by_side(lanes)
        return {"good": done["good"], **done["stopped"]}

    def good(self) -> Chapter:
        """Examine the candidate that the loop proposes."""
        with self.tell.bar(f"Examining the candidate {CANDIDATES['good']}", 1) as step:
            return self._examined(self._done["training"]["good"], step)

    def swap(self) -> Chapter:
        """Put the good candidate in service while people talk to the agent."""
        seen: list[Seen] = []
        crowd = Crowd(self.agent, judge, "swap", TALKERS)
        under_way = threading.Event()
        requests = self.world.swap

        def on_seen(one: Seen) -> None:
            seen.append(one)
            if len(seen) >= len(requests) // 4:
                under_way.set()

        talking = threading.Thread(target=crowd.ask, args=(requests, on_seen), name="crowd", daemon=True)
        talking.start()
        under_way.wait()
        began = time.time()
        self.loop.promote(self._done["good"]["release"], CYCLE)
        ended = time.time()
        talking.join()
        self._flush()
        return {
            **_summary(seen),
            "mixed_threads": mixed_threads(seen),
            "by_release": {r: sum(s.release == r for s in seen) for r in sorted({str(s.release) for s in seen})},
            "seconds_to_swap": ended - began,
            **pauses(
                [call for one in seen for call in model_calls(self.loop.store.runs.run(one.run_id))], began, ended
            ),
        }

    def day2(self) -> Chapter:
        """Serve the same kind of day with the new release."""
        return _summary(self._serve(self.world.day2, "day2", "Day 2"))

    def exam_after(self) -> Chapter:
        """Ask the new release what the base was asked."""
        return self._exam(self.loop.store.releases.get(self._done["good"]["release"]), "Exam after")

    def back(self) -> Chapter:
        """Roll back, see that a new conversation gets the old release, and go forward again."""
        new = self.loop.champion.release_id
        old = self.loop.rollback("To show that it works.", actor="demo").release_id
        served = Crowd(self.agent, judge, "back").ask(self.world.swap[:1])[0].release
        self.loop.promote(new, CYCLE, actor="demo")
        return {"from": new, "to": old, "served": served, "again": self.loop.champion.release_id}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _chapter(self, chapter: Callable[[], Chapter]) -> None:
        name = chapter.__name__
        if name not in self._done:
            self._save(name, chapter())
        getattr(self.tell, name)(self._done)

    def _open(self) -> None:
        """Take up an unfinished story, or begin a new one in an empty folder."""
        world = content_hash([self.world.name, self.world.config.model_dump(mode="json"), str(self.world.base)])
        if self._file.exists():
            self._done = json.loads(self._file.read_text(encoding="utf-8"))
        if self._done.get("world") != world or "back" in self._done:
            shutil.rmtree(self.home, ignore_errors=True)
            self._done = {}
        self.home.mkdir(parents=True, exist_ok=True)
        self._save("world", world)

    def _save(self, name: str, value: Any) -> None:
        self._done[name] = value
        with whole_file(self._file) as beside:
            beside.write_text(json.dumps(self._done, indent=1), encoding="utf-8")

    def _add_seconds(self, seconds: float) -> None:
        self._save("seconds", self._done.get("seconds", 0.0) + seconds)

    @property
    def _dataset(self) -> Dataset:
        return self.loop.store.datasets.get(self._done["lesson"]["dataset"])

    def _agent(self) -> Any:
        model = self.loop.model(self._make_engine())
        return self.loop.watch(create_agent(model, list(self.world.tools), checkpointer=InMemorySaver()))

    def _flush(self) -> None:
        if not self.loop.flush():
            raise StoreError(self.loop.health().problem or "The store did not take the day's runs in time; try again.")

    def _serve(self, requests: Sequence[Request], day: str, title: str) -> list[Seen]:
        with self.tell.bar(title, len(requests)) as step:
            return Crowd(self.agent, judge, day).ask(requests, lambda _: step())

    def _hostile_dataset(self) -> Dataset:
        """Build what a loop without checks would have learned: only what was refused, and no replay fewer."""
        refused = [p.example for p, v in self.loop.lessons.decided(CYCLE) if v.action == "reject"]
        config = self.world.config
        dataset, _ = build(
            [e.model_copy(update={"review": "approved"}) for e in refused],
            self.world.past,
            folder=self.home / "hostile",
            heldout=0.01,
            variations=config.variations,
            replay_ratio=config.recipe.replay,
        )
        self.loop.store.datasets.add(dataset)
        return dataset

    def _train(self, dataset: Dataset, recipe: Recipe, step: Step) -> Chapter:
        began = time.monotonic()
        release = self.loop.train(dataset, recipe, step.progress, CYCLE)
        return {"release": release.release_id, "seconds": time.monotonic() - began}

    def _examined(self, trained: Chapter, step: Step) -> Chapter:
        release = self.loop.store.releases.get(trained["release"])
        began = time.monotonic()
        card = self.loop.evaluate(release, self._dataset, step.progress, CYCLE)
        return {
            "release": release.release_id,
            "passed": card.passed,
            "because": card.because,
            "gates": [gate.model_dump(mode="json") for gate in card.gates],
            "seconds": {"train": trained["seconds"], "gate": time.monotonic() - began},
        }

    def _exam(self, release: Release, title: str) -> Chapter:
        cases = [exam_case(request) for request in self.world.exam]
        with self.tell.bar(title, len(cases)) as step:
            replay = GraphReplay(self.agent, ToolCallMatch(), threads=THREADS)
            results = replay.run(release.release_id, cases, on_progress=step.progress)
        scores = {result.case_id: result.scores for result in results}
        slices = {"target": [c for c in cases if c.suite == "target"], "old": [c for c in cases if c.suite != "target"]}
        tools = {tool: [c for c in slices["old"] if c.category == tool] for tool in {c.category for c in slices["old"]}}

        def shares(metric: str, parts: Mapping[str, Sequence[Case]]) -> Chapter:
            return {name: share([scores[c.case_id].get(metric) for c in parts[name]]) for name in sorted(parts)}

        return {
            **{metric: shares(metric, slices) for metric in ("fully_right", "right_tool")},
            "old_tools": shares("right_tool", tools),
        }


_JUDGE = ToolCallMatch()


def judge(request: Request, call: ToolCall | None) -> tuple[bool, bool]:
    """Say whether a call has the right tool, and whether it is fully right."""
    got = Message(role="assistant", tool_calls=(call,) if call else ())
    scores = _JUDGE.judge(exam_case(request), [got]).scores
    return bool(scores["right_tool"]), bool(scores["fully_right"])


def exam_case(request: Request) -> Case:
    """Return a request as a case."""
    suite: Literal["target", "retention"] = "target" if request.target else "retention"
    example = Example(messages=(Message(role="user", content=request.text),), chosen=request.expected, origin="replay")
    return Case(
        case_id=content_hash([example.example_id, suite]),
        suite=suite,
        category=example.category,
        messages=example.messages,
        expected=request.expected,
    )


def side_by_side(works: Mapping[str, Callable[[], Chapter]]) -> dict[str, Chapter]:
    """Do pieces of work in threads and return what came of each; raise the first error.

    The threads are daemons: after ctrl-C the interpreter does not wait for them, and a training process ends with it.
    """
    found, errors = dict[str, Chapter](), list[Exception]()

    def work(name: str) -> None:
        try:
            found[name] = works[name]()
        except Exception as error:  # noqa: BLE001 - carried over to the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,), name=f"lane-{name}", daemon=True) for name in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def model_calls(run: Run) -> list[tuple[float, float]]:
    """Return when each model call of a run began and ended, in seconds since the epoch, as it was recorded."""
    began = [(step.started_at.timestamp(), step.seconds) for step in run.steps if step.kind == "model"]
    return [(start, start + seconds) for start, seconds in began if seconds is not None]


def pauses(calls: Sequence[tuple[float, float]], began: float, ended: float) -> dict[str, float]:
    """Return the longest generation that overlapped the swap, the longest other one, and their difference if any.

    A request pauses for as long as its generation takes longer than the longest one that no swap disturbed.
    """
    during = [end - begin for begin, end in calls if begin < ended and end > began]
    other = [end - begin for begin, end in calls if not (begin < ended and end > began)]
    longest, usual = max(during, default=0.0), max(other, default=0.0)
    return {
        "longest_generation_during": longest,
        "longest_generation_else": usual,
        "longest_pause_seconds": max(0.0, longest - usual),
    }


def _summary(seen: Sequence[Seen]) -> Chapter:
    target, old = ([s for s in seen if s.request.target == side] for side in (True, False))
    return {
        "asked": len(seen),
        "conversations": len({s.thread_id for s in seen}),
        "errors": sum(s.error is not None for s in seen),
        "error": next((s.error for s in seen if s.error), None),
        "target": share([s.fully_right for s in target]),
        "old": share([s.fully_right for s in old]),
        "seconds": max((s.began + s.seconds for s in seen), default=0.0) - min((s.began for s in seen), default=0.0),
    }
