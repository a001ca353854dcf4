"""The applications that commands are added to."""

from __future__ import annotations

from langgraph_learnloop.errors import needing

with needing("The command line"):
    import typer

app = typer.Typer(
    help="Agents that get better by themselves, safely.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
runs_app = typer.Typer(add_completion=False, rich_markup_mode=None)
