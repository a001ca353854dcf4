"""What the base install promises, with nothing there but what it brings: every other library is hidden from imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
ALONE = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        hidden = name in HIDDEN or name.partition(".")[0] in HIDDEN
        return None if hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
BEHIND_A_DOOR = re.compile(
    r"\.(demo|improvement\.lora|serving\.(prefixes|row_adapters|rows|weights|generation_loop))(\.|$)"
)
"""Modules which are imported only behind another one, or a function, that says what is missing."""
STORY = """
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
import langgraph_learnloop
from langgraph_learnloop import LearnLoop
builder = StateGraph(MessagesState)
builder.add_node("answer", lambda state: {"messages": [AIMessage("Sydney")]})
builder.add_edge(START, "answer")
with LearnLoop(sys.argv[1], agent="guide") as loop:
    agent = loop.watch(builder.compile())
    agent.invoke({"messages": [("user", "Capital?")]}, {"configurable": {"thread_id": "42"}})
    loop.feedback(thread="42", score=-1, correction="Canberra")
    flag, run = *loop.flagged(), *loop.runs()
    assert (run.question, run.answer, run.thread_id) == ("Capital?", "Sydney", "42")
    assert (flag.run_id, len(flag.reasons)) == (run.run_id, 2)
    assert loop.health().dropped == {}
    try:
        loop.curate()
    except langgraph_learnloop.LearnLoopError as error:
        print(error)
"""
IMPORTS = """
import importlib
from langgraph_learnloop.errors import MissingExtraError
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except MissingExtraError as error:
        assert "pip install" in str(error), error
    except ImportError as error:
        print(name, error)
"""


def _alone(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where only the base's libraries can be imported."""
    whole = f"HIDDEN = {sorted(_hidden())!r}\n{ALONE}\n{code}"
    return subprocess.run([sys.executable, "-c", whole, *words], capture_output=True, text=True, cwd=ROOT, timeout=120)


@cache
def _hidden() -> frozenset[str]:
    """Return the importable names of everything that is installed and that the base install would not bring."""
    base = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    brought: set[str] = {"langgraph-learnloop"}
    waiting = [Requirement(line) for line in base]
    while waiting:
        found = waiting.pop()
        name = _plain(found.name)
        if name in brought or (found.marker and not found.marker.evaluate({"extra": ""})):
            continue
        brought.add(name)
        try:
            waiting += map(Requirement, requires(name) or ())
        except PackageNotFoundError:  # an old library's that the others do without
            continue
    others = {name for name, owners in packages_distributions().items() if brought.isdisjoint(map(_plain, owners))}
    return frozenset(others | {"langgraph.checkpoint.sqlite"})  # a part of a name that several packages share


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_graph_is_watched_and_corrected(tmp_path: Path) -> None:
    """Watch, feedback, flagged, runs and health need the base only; curation says what it needs."""
    done = _alone(STORY, str(tmp_path / "l.db"))
    assert done.returncode == 0, done.stderr
    assert 'pip install "langgraph-learnloop[loop]"' in done.stdout


def test_the_command_line_says_what_it_needs() -> None:
    """Without typer or rich every command is one sentence and exit code 2."""
    code = "import runpy; sys.argv = ['learnloop', '--help']\n"
    done = _alone(f"{code}runpy.run_module('langgraph_learnloop', run_name='__main__')")
    sentence = "learnloop: The command line needs 'typer': pip install \"langgraph-learnloop[loop]\".\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


def test_every_module_says_what_it_needs() -> None:
    """Whatever is imported, a missing library is a MissingExtraError with the command that installs it."""
    names = []
    for top, package in (
        ("langgraph_learnloop", "langgraph_learnloop"),
        ("integrations", "langgraph_learnloop.integrations"),
    ):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT / top).with_suffix("").parts
            if not {"migrations", "templates", "integrations", "__init__", "__main__", "pytest_plugin"} & set(parts):
                names.append(".".join((package, *parts)))
    assert len(names) > 100
    done = _alone(IMPORTS, *(name for name in names if not BEHIND_A_DOOR.search(name)))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
