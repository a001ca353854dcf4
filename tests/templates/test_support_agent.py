"""The help desk: its story ends as its README says, its own tests pass, a server finds its graph."""

from __future__ import annotations

import re
from pathlib import Path

from tests.templates.conftest import Templates

README = Path(__file__).parents[2] / "examples" / "templates" / "support_agent" / "README.md"
RELEASE = re.compile(r"\b[0-9a-f]{12}\b")
GRAPH = (
    "import json; from importlib import import_module; from langgraph.pregel import Pregel;"
    "path = json.load(open('langgraph.json'))['graphs']['support'];"
    "module, name = path.removeprefix('./').split('.py:');"
    "assert isinstance(getattr(import_module(module), name), Pregel)"
)


def test_the_story_is_the_one_that_is_told(template: Templates) -> None:
    """The story prints what the README shows, but for the release's id."""
    folder = template.copied("support_agent")
    printed = template.run(folder, "story.py")
    shown = re.search(r"```text\n(before:.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert RELEASE.sub("", printed) == RELEASE.sub("", shown[1])


def test_its_own_tests_pass_and_its_graph_is_found(template: Templates) -> None:
    """Whoever copies the template gets tests that pass and a graph where langgraph.json says."""
    folder = template.copied("support_agent")
    assert " passed" in template.run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    template.run(folder, "-c", GRAPH)
