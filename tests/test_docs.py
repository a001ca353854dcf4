"""The README and the manual say what is so: every snippet runs, every room and setting is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.config import LoopConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
PRELUDE = """
from langchain.agents import create_agent
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.testing import MemoryEngine, ScriptedModel, TinyTrainer
agent = create_agent(ScriptedModel(script=["Sydney."]), [])
question = {"messages": [("user", "Capital of Australia?")]}
engine, tools = MemoryEngine(), []
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a page run one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    for number, code in enumerate(SNIPPET.findall(page.read_text(encoding="utf-8")), 1):
        exec(compile(code, f"{page.name}, snippet {number}", "exec"), names)
    if "loop" in names:
        names["loop"].close()
        assert names["loop"].health().dropped == {}


def test_the_map_names_every_room() -> None:
    """A new room or top-level module needs its line in the README's map."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    package = ROOT / "langgraph_learnloop"
    rooms = {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists() and p.name != "integrations"}
    modules = {p.name for p in package.glob("*.py")} - {"__init__.py"}
    assert not {name for name in rooms | modules if name.removesuffix("/") not in text}


def test_every_setting_is_documented() -> None:
    """The settings page has a line for each setting."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert not [name for name in LoopConfig.model_fields if f"| `{name}` |" not in text]


def test_links_lead_somewhere() -> None:
    """Relative links in the pages point at files that exist."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
