"""The story's chapters, with a model that remembers in place of one that learns."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.demo import worlds
from langgraph_learnloop.demo.play import play
from langgraph_learnloop.demo.story import Story, side_by_side
from langgraph_learnloop.demo.telling import Telling
from langgraph_learnloop.demo.toolbox import tools_for_rows
from langgraph_learnloop.demo.worlds import World, file_world
from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Message, Proposal, Recipe, Verdict
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer

CITIES = "Oslo Rome Lima Bern Kyiv Riga Doha Baku Accra Cairo Dakar Hanoi Minsk Quito Seoul Tokyo Tunis Lyon".split()  # noqa: SIM905


def rows(tool: str, start: int, count: int, split: str = "train") -> list[dict[str, Any]]:
    """Return different requests of one kind and their calls; those of one number are about one city."""
    text = {"book_table": "book me a table for {} in {}", "get_weather": "what is the weather on day {} in {}"}[tool]
    return [
        {"text": text.format(n, city), "tool": tool, "args": {"number": n, "city": city}, "split": split}
        for n, city in ((n, CITIES[n % len(CITIES)]) for n in range(start, start + count))
    ]


def known(past: Sequence[Any]) -> dict[str, Message | str]:
    """Return what the base has learned, for a `MemoryEngine`."""
    return {e.messages[-1].content: e.chosen for e in past if e.split == "train" and e.messages[-1].role == "user"}


@pytest.fixture(scope="module")
def world() -> World:
    """Set a small stage: the base knows the weather, and people want tables."""
    mixed = [*rows("book_table", 100, 100), *rows("get_weather", 100, 20)]
    random.Random(0).shuffle(mixed)
    tools = tools_for_rows(mixed)

    def requests(*parts: Sequence[Any]) -> list[worlds.Request]:
        return worlds._requests([row for part in parts for row in part], ["book_table"])

    return World(
        name="toy",
        base=Path("memory"),
        tools=tools,
        day1=requests(mixed),
        swap=requests(rows("book_table", 300, 12), rows("get_weather", 300, 12)),
        day2=requests(rows("book_table", 330, 6), rows("get_weather", 330, 6)),
        exam=requests(rows("book_table", 700, 20), rows("get_weather", 700, 20)),
        past=worlds._past(rows("get_weather", 400, 24), rows("get_weather", 600, 40), tools),
        config=LoopConfig(
            agent="assistant",
            recipe=Recipe(replay=1.0, steps=10, batch=4),
            variations=0,
            retention_cases=40,
            retention_margin=0.2,
            category_margin=0.5,
            eval_threads=4,
        ),
        new="tables",
    )


class Leaving:
    """Leave the review as a person does who presses ctrl-C."""

    def review(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Raise what ctrl-C raises."""
        raise KeyboardInterrupt


class Miser:
    """Approve two proposals and reject the others, or leave them undecided."""

    def __init__(self, decides: int | None = None) -> None:
        self.decides = decides

    def review(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Return verdicts for the first ones."""
        actions = ["approve" if number < 2 else "reject" for number in range(len(proposals))]
        said = zip(proposals, actions, strict=True)
        found = [Verdict(proposal_id=p.proposal_id, action=action, by="miser") for p, action in said]
        return found[: self.decides]


def story(world: World, home: Path, out: io.StringIO, **parts: Any) -> Story:
    """Return the story of a world whose candidates remember what they are taught."""
    engine = MemoryEngine(known(world.past))
    return Story(
        world, home, Telling(Console(file=out, width=200), world), lambda: engine, trainer=TinyTrainer(), **parts
    )


@pytest.fixture(scope="module")
def left(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Play the story until somebody leaves its review; return its folder."""
    home = tmp_path_factory.mktemp("story") / "home"
    with pytest.raises(KeyboardInterrupt):
        story(world, home, io.StringIO(), reviewer=Leaving()).play()
    return home


def test_a_story_goes_on_where_it_was_left(world: World, left: Path, tmp_path: Path) -> None:
    """What was done is not done again, the good candidate ships, the hostile one is stopped, and the way back works."""
    home, out = shutil.copytree(left, tmp_path / "home"), io.StringIO()
    day1 = json.loads((home / "progress.json").read_text())["day1"]
    assert (day1["asked"], day1["errors"], day1["target"]["share"], day1["old"]["share"]) == (120, 0, 0.0, 1.0)
    told = story(world, home, out)
    found = told.play()
    assert told._done["day1"] == day1
    assert (found["target"]["before"], found["old"]["before"], found["old"]["after"]) == (0.0, 1.0, 1.0)
    assert found["target"]["after"] >= 0.9
    assert (found["promoted"], "hostile" in found["stopped"]) == (True, True)
    assert (found["swap"]["errors"], found["swap"]["mixed_threads"], found["swap"]["asked"]) == (0, 0, 24)
    assert found["swap"]["longest_generation_else"] > 0
    back = told._done["back"]
    assert (back["served"], back["again"]) == (back["to"], back["from"])
    said = " ".join(out.getvalue().split())
    for words in ("120 requests in 40 conversations", "stopped by the gate", "passed by the gate", "And back"):
        assert words in said
    told.tell.opening({"parameters": 3_800_000})
    told.tell.closing("learnloop.db")
    assert "2 tools runs on a model of 3.8 million parameters" in out.getvalue()
    assert "learnloop rollback --store learnloop.db" in out.getvalue()


def test_a_story_ends_where_the_good_candidate_is_stopped(world: World, left: Path, tmp_path: Path) -> None:
    """Where too little was learned for the gate to let it pass, there is no swap, and no figure after it."""
    found = story(world, shutil.copytree(left, tmp_path / "home"), io.StringIO(), reviewer=Miser()).play()
    assert (found["promoted"], found["swap"], found["target"]["after"], found["old_tools"]) == (False, None, None, {})


def test_a_story_waits_for_its_reviewer(world: World, left: Path, tmp_path: Path) -> None:
    """Who leaves proposals undecided is told how to go on."""
    waiting = story(world, shutil.copytree(left, tmp_path / "home"), io.StringIO(), reviewer=Miser(decides=1))
    with pytest.raises(EngineError, match="proposals still wait for review: run the same command again"):
        waiting.play()


def test_work_side_by_side_raises_the_first_error() -> None:
    """A lane that fails fails the whole, in the thread that waits."""
    assert side_by_side({"a": lambda: {"n": 1}, "b": lambda: {"n": 2}}) == {"a": {"n": 1}, "b": {"n": 2}}
    with pytest.raises(EngineError, match="lost"):
        side_by_side({"a": lambda: {}, "b": lambda: (_ for _ in ()).throw(EngineError("It was lost."))})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a file of requests for two tools."""
    made = [*rows("book_table", 0, 40), *rows("get_weather", 0, 140)]
    made += [*rows("book_table", 900, 9, "test"), *rows("get_weather", 900, 9, "test")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def test_the_base_of_a_file_is_built_once_and_again_when_asked(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns the tools that are not held out and lies in the cache; the figures of a rebuilding are its manifest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(worlds.FILE_BASE, "steps", 1)
    out = io.StringIO()
    built = play(Console(file=out), tmp_path / "home", data=str(file), hold_out=["book_table"], rebuild=True)
    assert built["seconds"]["base"] > 0
    assert built["manifest"]["data"]["source"] == "rows.jsonl without book_table"
    assert (built["manifest"]["recipe"]["steps"], built["manifest"]["held_out"]["n"]) == (1, 9)
    assert "trained from scratch, once: up to 10 minutes" in " ".join(out.getvalue().split())
    (base,) = (tmp_path / "cache" / "langgraph_learnloop" / "bases").iterdir()
    assert base == file_world(file, base.parent, ["book_table"]).base
    assert not (tmp_path / "home").exists()


def test_a_file_is_a_world(file: Path, tmp_path: Path) -> None:
    """Its held-out tool is new, the others are old; nothing is asked twice; its base is named by what it reads."""
    found = file_world(file, tmp_path / "cache", ["book_table"])
    assert (found.held_out, found.new, found.source) == (["book_table"], "book_table", str(file))
    assert found.base.parent == tmp_path / "cache"
    assert all(request.target == (request.call.name == "book_table") for request in [*found.day1, *found.exam])
    assert len(found.exam) == 18
    asked = [request.text for part in (found.day1, found.swap, found.day2) for request in part]
    assert len(set(asked)) == len(asked)
    assert file_world(file, tmp_path / "cache", ["book_table"]).base == found.base
    assert {tool.name for tool in found.tools} == {"book_table", "get_weather"}
