"""Begin: with settings for an agent that is there, with a whole agent from a template, or by looking at the demo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from langgraph_learnloop.cli.app import Review, app
from langgraph_learnloop.cli.opened import whoever
from langgraph_learnloop.cli.terminal import console, say
from langgraph_learnloop.errors import ConfigError, needing
from langgraph_learnloop.files import whole_file

TEMPLATES = Path(__file__).parents[1] / "templates"
"""One folder a template; in a checkout it is `examples/templates`."""
_LEFT = shutil.ignore_patterns("__pycache__", ".*", "*.db*", "report-*.html")
"""What running a template in place leaves there."""
_NEXT = 'Next: loop = LearnLoop("learnloop.db"); agent = loop.watch(agent). `learnloop runs` shows what it did.'
_SETTINGS = """# Settings of LearnLoop; `docs/settings.md` has all of them. What is commented out is the default.
agent = "agent"             # the name that its runs are kept under
# app = "my_agent:loop"     # your LearnLoop as "module:attribute", for `learnloop cycle` and `learnloop serve`
# autonomy = "guarded"      # "manual": nothing new serves before a person says so
# after_gate = "promote"    # "rollout": what passed gets a few percent of the threads first
# redact = true             # mask addresses, numbers and keys before anything is stored
"""


@app.command()
def init(
    folder: Annotated[str, typer.Argument(help="Where to begin (default: here).")] = ".",
    template: Annotated[
        str | None, typer.Option("--template", "-t", help="An agent to start from; `--template list` lists them.")
    ] = None,
) -> None:
    """Write settings for an agent that you have, or with --template a whole agent into a new folder."""
    if template == "list":
        for name, about in templates().items():
            say(f"{name:16}{about}")
    elif template is not None:
        _copy(template, Path(folder))
        say(f"The template {template} is in {folder}. Next: cd {folder} && python story.py; README.md has the rest.")
    else:
        say(f"The settings are in {_write_settings(Path(folder))}. {_NEXT}")


@app.command()
def demo(
    data: Annotated[
        str | None, typer.Option("--data", help="Your own requests, JSON lines, instead of the sample.")
    ] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Tool the base must not see (repeatable).")
    ] = None,
    ask: Review = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    home: Annotated[str, typer.Option("--home", help="Folder for everything the demo writes.")] = "learnloop-demo",
    rebuild_base: Annotated[bool, typer.Option("--rebuild-base", help="Train the shipped base model again.")] = False,
) -> None:
    """Show the whole circle on this machine: no key, no GPU, no download of weights."""
    with needing("The demo", "langgraph-learnloop[demo]"):
        from langgraph_learnloop.demo.play import play
    found = play(
        console, Path(home), data=data, hold_out=hold_out, ask=whoever() if ask else None, rebuild=rebuild_base
    )
    if json_file is not None:
        Path(json_file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if not found.get("promoted", True):
        raise typer.Exit(1)


def templates() -> dict[str, str]:
    """Return each template's name with what it is, in order of name."""
    folders = sorted(path.parent for path in TEMPLATES.glob("*/README.md"))
    return {folder.name: _about(folder) for folder in folders}


def _copy(template: str, folder: Path) -> None:
    """Copy a template into a folder that is not there or empty; raise ConfigError when there is something in it."""
    names = templates()
    if template not in names:
        raise ConfigError(f"There is no template {template!r}; name one of these: {', '.join(names)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} is there already: name a new or empty folder for the template.")
    shutil.copytree(TEMPLATES / template, folder, ignore=_LEFT, dirs_exist_ok=True)


def _write_settings(folder: Path) -> Path:
    """Write a learnloop.toml into a folder and return where; raise ConfigError when there is one."""
    target = folder / "learnloop.toml"
    if target.exists():
        raise ConfigError(f"{str(target)!r} is there already: edit it, or name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as beside:
        beside.write_text(_SETTINGS, encoding="utf-8")
    return target


def _about(folder: Path) -> str:
    """Return the first sentence under a README's title."""
    text = (folder / "README.md").read_text(encoding="utf-8").split("\n\n", 2)[1]
    return " ".join(text.split()).partition(". ")[0].rstrip(".") + "."
