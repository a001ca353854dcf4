"""`learnloop demo`: the whole circle on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from langgraph_learnloop.cli.app import app
from langgraph_learnloop.cli.opened import whoever
from langgraph_learnloop.cli.terminal import console
from langgraph_learnloop.errors import MissingExtraError, needing

with needing("The command line"):
    import typer


@app.command()
def demo(
    data: Annotated[
        str | None, typer.Option("--data", help="Your own requests, JSON lines, instead of the sample.")
    ] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Tool the base must not see (repeatable).")
    ] = None,
    ask: Annotated[bool, typer.Option("--review", help="Ask me about each correction.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    home: Annotated[str, typer.Option("--home", help="Folder for everything the demo writes.")] = "learnloop-demo",
    rebuild_base: Annotated[bool, typer.Option("--rebuild-base", help="Train the shipped base model again.")] = False,
) -> None:
    """Show the whole circle on this machine: no key, no GPU, no download of weights."""
    try:
        from langgraph_learnloop.demo.play import play
    except ImportError as error:
        raise MissingExtraError(f'The demo needs {error.name!r}: pip install "langgraph-learnloop[demo]".') from error
    found = play(
        console, Path(home), data=data, hold_out=hold_out, ask=whoever() if ask else None, rebuild=rebuild_base
    )
    if json_file is not None:
        Path(json_file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if not found.get("promoted", True):
        raise typer.Exit(1)
