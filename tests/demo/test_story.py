"""The demo is the product's promise: play it whole, and interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.demo.figures import figures, share
from langgraph_learnloop.demo.story import pauses
from langgraph_learnloop.demo.users import Seen, mixed_threads
from langgraph_learnloop.demo.worlds import Request, sample_world
from langgraph_learnloop.records import ToolCall

SMALLER = """
import signal
from dataclasses import replace

from langgraph_learnloop import cli
from langgraph_learnloop.demo import play, worlds

signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores ctrl-C, and its children
world = worlds.sample_world()
smaller = replace(
    world,
    day1=[request for number, request in enumerate(world.day1) if request.target or number % 4 == 0],
    day2=world.day2[:30],
    exam=[*world.exam[:100], *world.exam[200:400]],
    config=world.config.model_copy(update={"retention_cases": 30, "category_margin": 0.25}),
)
play.sample_world = lambda: smaller
cli.main()
"""
"""Plays `learnloop demo` on the sample data with fewer requests and cases; what is learned, and how, stays."""


def _demo(home: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SMALLER, "demo", "--home", str(home / "demo"), *words]
    env = {**os.environ, "HOME": str(home), "COLUMNS": "120", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home, env=env)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_story_reaches_its_figures(tmp_path: Path) -> None:
    """The agent learns what it never saw, keeps the rest, both bad candidates are stopped, the swap hurts nobody.

    It is interrupted once on the way, and goes on where it was.
    """
    first = _demo(tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("The lesson"):
            first.send_signal(2)
            break
    first.communicate(timeout=60)
    assert first.returncode == 130
    done = json.loads((tmp_path / "demo" / "progress.json").read_text())
    assert "day1" in done

    second = _demo(tmp_path, "--json", str(tmp_path / "figures.json"))
    said, errors = second.communicate()
    assert second.returncode == 0, said + errors
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["target"]["before"] <= 0.25
    assert found["target"]["after"] >= 0.85
    assert found["old"]["after"] >= found["old"]["before"] - 0.01
    assert found["stopped"] == ["no-replay", "hostile"]
    assert (found["swap"]["errors"], found["swap"]["mixed_threads"]) == (0, 0)
    assert found["swap"]["longest_pause_seconds"] <= found["swap"]["longest_generation_else"]
    assert "stopped by the gate" in said
    assert "Traceback" not in errors


def test_days_share_no_request() -> None:
    """Nothing that is examined was asked before, on any day, or was part of what the model learned."""
    world = sample_world()
    parts: list[set[str]] = [{r.text for r in part} for part in (world.day1, world.swap, world.day2, world.exam)]
    parts.append({e.messages[0].content for e in world.past})
    exam = parts.pop(3)
    overlap = [len(exam & part) for part in parts]
    assert sum(overlap) <= 0.02 * len(exam), overlap


def test_a_share_knows_its_interval_and_counts_the_unjudged_as_wrong() -> None:
    """None is not right: a user would not have been served."""
    figure = share([True, True, None, False])
    assert (figure["share"], figure["right"], figure["cases"]) == (0.5, 2, 4)
    assert figure["low"] < 0.5 < figure["high"]
    assert share([])["share"] is None


def test_figures_of_an_unfinished_story_are_none() -> None:
    """What was not reached is None, not 0."""
    found = figures({"good": {"passed": False}})
    assert found["target"] == {"before": None, "after": None}
    assert (found["swap"], found["stopped"], found["promoted"]) == (None, [], False)


def test_a_pause_is_what_a_swap_adds_to_the_longest_generation() -> None:
    """Generations that overlap the swap are held against those that do not."""
    found = pauses([(0.0, 1.0), (2.0, 4.5), (9.0, 9.5)], began=3.0, ended=4.0)
    assert (found["longest_generation_during"], found["longest_generation_else"]) == (2.5, 1.0)
    assert found["longest_pause_seconds"] == 1.5


def test_a_thread_with_two_releases_is_mixed() -> None:
    """A conversation that changed its model midway is counted; a failed request is not an answer."""
    request = Request("q", ToolCall(name="t"), False)

    def seen(thread: str, release: str | None, error: str | None = None) -> Seen:
        facts: dict[str, Any] = {"call": None, "right_tool": False, "fully_right": False, "began": 0.0, "seconds": 0.0}
        return Seen(request, "run", thread, release, error=error, **facts)

    assert mixed_threads([seen("a", "1"), seen("a", "1"), seen("b", "1"), seen("b", "2")]) == 1
    assert mixed_threads([seen("a", "1"), seen("a", None, "lost")]) == 0
