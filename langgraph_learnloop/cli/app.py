"""The applications that commands are added to, and the options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

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

Store = Annotated[
    str, typer.Option("--store", "-s", envvar="LEARNLOOP_STORE", help="File or database URL of the store.")
]
App = Annotated[str | None, typer.Option("--app", help='Your LearnLoop, as "module:attribute".')]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows to show.")]
Agent = Annotated[str | None, typer.Option("--agent", help="Only this agent's.")]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of it.")]
Release = Annotated[str, typer.Argument(help="A release, or the beginning of its id.")]
MaybeRelease = Annotated[str | None, typer.Argument(help="A release, or the beginning of its id.")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")]
Review = Annotated[bool, typer.Option("--review", help="Ask me about each correction.")]
