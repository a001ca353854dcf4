"""The README and the manual say what is so: blocks run, links lead somewhere, every room and setting is named."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from langgraph_learnloop.cli import app
from tests.pages import LINKED, ROOT, RUN, Reader, anchors, broken, settings

DOCS = ROOT / "docs"
FETCHED = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+rel="?(?:stylesheet|preconnect)[^>]+https?:')


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, as a reader would paste them."""
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    reader = Reader(page, folder)
    reader.read()
    if "loop" in reader.names:
        assert reader.names["loop"].health().dropped == {}


@pytest.mark.parametrize(
    ("block", "failure"),
    [
        ("```sh\nfalse\ntrue\n```", "page.md:3 ended with 1"),
        ("```sh\necho $nothing\n```", "unbound variable"),
        ("```\nlearnloop runs\n```", "page.md:3: a block is python"),
        ("<!-- here 7 is 4 + 1 -->\n\n```sh\ntest 7 = 6\n```", "page.md:5 ended with 1"),
    ],
)
def test_a_block_that_fails_is_named(block: str, failure: str, tmp_path: Path) -> None:
    """What does not run, or is of no kind, fails with the page and the line."""
    page, folder = tmp_path / "page.md", tmp_path / "reader"
    folder.mkdir()
    page.write_text(f"# A page\n\n{block}\n")
    with pytest.raises(AssertionError, match=re.escape(failure)):
        Reader(page, folder).read()


def test_python_that_fails_is_found(tmp_path: Path) -> None:
    """The traceback of a block of Python ends at its line of the page."""
    page, folder = tmp_path / "page.md", tmp_path / "reader"
    folder.mkdir()
    page.write_text("# A page\n\n```python\none = 1\nassert one == 2\n```\n")
    with pytest.raises(AssertionError) as failed:
        Reader(page, folder).read()
    last = failed.traceback[-1]
    assert (last.path, last.lineno + 1) == (page, 5)


def test_settings_in_a_page_are_settings() -> None:
    """A block of TOML is held against the settings, unless it is of pyproject.toml."""
    settings('[tool.pytest.ini_options]\nmarkers = ["slow"]')
    with pytest.raises(ValueError, match="traget_gain"):
        settings("traget_gain = 0.1")


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links in the pages point at files and headings that exist."""
    assert list(broken(page)) == []


def test_broken_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and a heading that are not there are named, in words, pictures and tables."""
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three!\n\n# One\n\n# One\n\n[a](#one-two-three) [b](#one-1) `[c](d)` [e](https://f.g)\n"
    )
    assert list(anchors(page)) == ["one-two-three", "one", "one-1"]
    assert list(broken(page)) == []
    page.write_text("# One\n\n[a](#two) ![b](c.png)\n\n| d |\n|---|\n| [e](page.md#f) |\n")
    assert [line.split("'")[1] for line in broken(page)] == ["#two", "c.png", "page.md#f"]


def test_the_map_names_every_room() -> None:
    """A new room or top-level module needs its line in the README's map."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    package = ROOT / "langgraph_learnloop"
    rooms = {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists() and p.name != "integrations"}
    modules = {p.name for p in package.glob("*.py")} - {"__init__.py"}
    assert not {name for name in rooms | modules if name.removesuffix("/") not in text}


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["settings.md", "cli.md"])
def test_the_reference_is_of_today(page: str, reference: ModuleType) -> None:
    """What the manual says of settings and commands is what the code says."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert "<!-- generated: " in text
    assert text == reference.updated(DOCS / page), f"docs/{page} is out of date: run `{reference.COMMAND}`"


def test_an_old_reference_is_found_and_mended(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script says which page is out of date and what to run, writes it, and leaves the prose around it alone."""
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- generated: prices -->\nold\n<!-- end of generated -->\n\nAfter.\n")
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().err
    assert reference.main([]) == reference.main(["--check"]) == 0
    text = page.read_text()
    assert text.startswith("Before.\n\n<!-- generated: prices -->\n")
    assert text.endswith("<!-- end of generated -->\n\nAfter.\n")
    assert "| `input` | must be given | a number, ≥\u00a00 | Tokens that the model reads. |" in text


def test_every_setting_and_option_says_what_it_is(reference: ModuleType) -> None:
    """No row of the reference is without a meaning."""
    rows = [row for part in reference.PARTS.values() for row in part().splitlines() if row.startswith("| `")]
    assert len(rows) > 150
    assert not [row for row in rows if not row.split(" | ")[3].strip(" |")]


def test_every_command_is_documented() -> None:
    """The page of the command line has a heading for each command."""
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    commands: Any = typer.main.get_command(app)
    assert not [command for command in commands.commands if f"\n### learnloop {command}\n" not in text]


def named(nav: Any) -> list[str]:
    """Return the pages that a navigation names, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav if isinstance(nav, list) else nav.values()) for page in named(part)]


def test_the_navigation_names_every_page() -> None:
    """A page of the manual stands in the site's navigation and on its front page, and they name no other."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = {page.name for page in DOCS.glob("*.md")}
    assert sorted(named(site["project"]["nav"])) == sorted(pages)
    front = (DOCS / "index.md").read_text(encoding="utf-8")
    assert not [page for page in pages - {"index.md"} if f"]({page})" not in front]


def build(site: Path) -> subprocess.CompletedProcess[str]:
    """Build a copy of the site as `make site` does."""
    (site / "zensical.toml").write_bytes((ROOT / "zensical.toml").read_bytes())
    shutil.copytree(DOCS, site / "docs")
    return again(site)


def again(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=120)


def test_the_site_builds(tmp_path: Path) -> None:
    """The site builds without a warning, and its pages fetch nothing from elsewhere; a link to nowhere ends it."""
    done = build(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    built = {page.stem: page.read_text(encoding="utf-8") for page in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in DOCS.glob("*.md")} <= built.keys()
    assert not [page for page, text in built.items() if FETCHED.search(text)]

    with (tmp_path / "docs" / "signals.md").open("a") as page:
        page.write("\n[nowhere](capture.md#nowhere)\n")
    done = again(tmp_path)
    assert done.returncode != 0
    assert "anchor does not exist" in done.stdout + done.stderr


def test_the_site_has_the_anchors_of_github(tmp_path: Path) -> None:
    """A link to a heading holds on the site and on GitHub."""
    assert build(tmp_path).returncode == 0
    for page in DOCS.glob("*.md"):
        built = (tmp_path / "site" / f"{page.stem}.html").read_text(encoding="utf-8")
        assert not [anchor for anchor in anchors(page) if f'id="{anchor}"' not in built], page.name
