"""The options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

from langgraph_learnloop.errors import needing

with needing("The command line"):
    import typer

Store = Annotated[
    str, typer.Option("--store", "-s", envvar="LEARNLOOP_STORE", help="File or database URL of the store.")
]
App = Annotated[str | None, typer.Option("--app", help='Your LearnLoop, as "module:attribute".')]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows to show.")]
Agent = Annotated[str | None, typer.Option("--agent", help="Only this agent's.")]
By = Annotated[str, typer.Option("--by", help="Who decides (default: your name on this machine).")]
Release = Annotated[str, typer.Argument(help="A release, or the beginning of its id.")]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of it.")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")]
