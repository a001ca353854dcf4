"""`learnloop init` begins: settings for an agent that is there, or a template in a new folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from langgraph_learnloop.cli import app
from langgraph_learnloop.config import LoopConfig, load_config
from langgraph_learnloop.errors import ConfigError


def _init(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["init", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_every_template_is_listed_and_copied(tmp_path: Path) -> None:
    """Each template is named with what it is, and comes without what running it left behind."""
    lines = _init("--template", "list").splitlines()
    assert lines
    for name, about in (line.split(maxsplit=1) for line in lines):
        assert about.endswith(".")
        assert f"cd {tmp_path / name} && python story.py" in _init(str(tmp_path / name), "-t", name)
        there = {path.name for path in (tmp_path / name).iterdir()}
        assert there >= {"README.md", "agent.py", "langgraph.json", "learnloop.toml", "model.py", "story.py", "suites"}
        assert not [
            path for path in (tmp_path / name).rglob("*") if path.name.startswith((".", "__")) or ".db" in path.name
        ]
        assert load_config(tmp_path / name / "learnloop.toml").app == "agent:loop"


def test_a_folder_that_is_in_use_stays_as_it_is(tmp_path: Path) -> None:
    """Neither a template nor settings are written over what is there."""
    (tmp_path / "learnloop.toml").write_text("mine")
    for arguments in ([], ["-t", "support_agent"]):
        with pytest.raises(ConfigError, match="is there already"):
            _init(str(tmp_path), *arguments)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_template_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """The way out is in the sentence, and nothing is made."""
    with pytest.raises(ConfigError, match=r"no template 'support'; name one of these: .*support_agent"):
        _init(str(tmp_path / "new"), "-t", "support")
    assert not (tmp_path / "new").exists()


def test_the_settings_that_are_written_are_the_defaults(tmp_path: Path) -> None:
    """What is written can be loaded, and changes nothing; so would what is commented out, but for `app`."""
    _init(str(tmp_path / "new"))
    file = tmp_path / "new" / "learnloop.toml"
    assert load_config(file, environ={}) == LoopConfig()
    head, *lines = file.read_text().splitlines()
    assert head.startswith("#")
    file.write_text("\n".join(line.removeprefix("# ") for line in lines))
    assert load_config(file, environ={}) == LoopConfig(app="my_agent:loop")
