"""The pages of the manual, read as Markdown: blocks of code, run as a reader would paste them, links and anchors."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from langgraph_learnloop.config import LoopConfig

ROOT = Path(__file__).parent.parent
RUN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINKED = [
    *RUN,
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("examples/**/README.md")),
    *sorted(ROOT.glob("integrations/**/README.md")),
]
PRELUDE = """
from langchain.agents import create_agent
from langgraph_learnloop import LearnLoop
from langgraph_learnloop.testing import MemoryEngine, ScriptedModel, TinyTrainer
agent = create_agent(ScriptedModel(script=["Sydney."]), [])
question = {"messages": [("user", "Capital of Australia?")]}
engine, tools = MemoryEngine(), []
"""
STANDS_FOR = re.compile(r"<!-- here (\S+) is (.+?) -->")
"""In a page, before a block: a word of it, such as a run's id, and what it is in the names of the page's Python."""
NOT_RUN = {"text", "console"}


def parsed(page: Path) -> list[Token]:
    """Return a page's tokens; tables and bare HTML are read as GitHub reads them."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


@dataclass
class Reader:
    """Somebody who pastes all blocks of a page, one after the other, in one folder."""

    page: Path
    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        """Run the page; the failure of a block names its page and line."""
        exec(PRELUDE, self.names)
        self._install()
        try:
            for token in parsed(self.page):
                if token.type == "html_block":
                    self.words.update(STANDS_FOR.findall(token.content))
                elif token.type == "fence":
                    self._block(token)
        finally:
            if "loop" in self.names:
                self.names["loop"].close()

    def _block(self, token: Token) -> None:
        assert token.map is not None
        where, kind = f"{self.page.name}:{token.map[0] + 1}", token.info.strip()
        if kind == "python":
            lines = "\n" * (token.map[0] + 1)  # so that a traceback's lines are the page's
            exec(compile(lines + token.content, str(self.page), "exec"), self.names)
        elif kind == "sh":
            self._shell(token.content, where)
        elif kind == "toml":
            settings(token.content)
        else:
            assert kind in NOT_RUN, f"{where}: a block is python, sh or toml, or else text or console, and not {kind!r}"

    def _shell(self, script: str, where: str) -> None:
        for word, expression in self.words.items():
            script = script.replace(word, str(eval(expression, self.names)))
        done = subprocess.run(
            ["bash", "-eu", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"

    def _install(self) -> None:
        """Make the commands `learnloop` and `python` of this interpreter, for the tree under test."""
        self._commands.mkdir()
        for name, words in (("python", ""), ("learnloop", " -m langgraph_learnloop")):
            command = self._commands / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
            command.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
        path = f"{self._commands}{os.pathsep}{os.environ['PATH']}"
        offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "no_proxy": "127.0.0.1,localhost"}
        return {**os.environ, **nowhere, **offline, "PATH": path, "PYTHONPATH": str(ROOT)}

    @property
    def _commands(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-commands")


def settings(text: str) -> None:
    """Hold a block against the settings, unless it is a part of pyproject.toml."""
    values = tomllib.loads(text)
    if not values.keys() & {"tool", "project"}:
        LoopConfig.model_validate(values)


def broken(page: Path) -> Iterator[str]:
    """Yield a page's relative links that lead to no file, or to no heading of it."""
    for target in links(parsed(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists():
            yield f"{page.relative_to(ROOT)}: there is no file {target!r}"
        elif anchor and (there.suffix != ".md" or anchor not in set(anchors(there))):
            yield f"{page.relative_to(ROOT)}: there is no heading {target!r}"


def links(tokens: list[Token]) -> Iterator[str]:
    """Yield where links and pictures lead to."""
    for token in tokens:
        for name in ("href", "src"):
            if isinstance(target := token.attrGet(name), str):
                yield target
        if token.type in ("html_block", "html_inline"):
            yield from re.findall(r'\b(?:href|src)="([^"]+)"', token.content)
        yield from links(token.children or [])


def anchors(page: Path) -> Iterator[str]:
    """Yield the anchors of a page's headings as GitHub makes them, and those that stand in its HTML."""
    seen: dict[str, int] = {}
    tokens = parsed(page)
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            yield f"{slug}-{seen[slug]}" if slug in seen else slug
            seen[slug] = seen.get(slug, 0) + 1
        yield from re.findall(r'\bid="([^"]+)"', before.content if before.type == "html_block" else "")
