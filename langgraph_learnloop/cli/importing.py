"""`learnloop import`: learn from what another tracer saw, before LearnLoop was there, and what people said there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_learnloop.cli.app import Store, app
from langgraph_learnloop.cli.terminal import say
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.texts import visible

if TYPE_CHECKING:
    from langgraph_learnloop.importing import Heard, Imported
    from langgraph_learnloop.loop import LearnLoop
    from langgraph_learnloop.mirrors import History

SOURCES = {"langfuse": "langgraph_learnloop.integrations.langfuse_history:LangfuseHistory"}
"""Short names of histories that come with the package."""
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN = 8
"""Reasons that are shown."""
_EVERY = 5.0
"""Seconds between two lines of progress."""


@app.command("import")
def import_history(
    source: Annotated[str, typer.Argument(help='"langfuse", or your own history as "module:attribute".')],
    since: Annotated[str, typer.Option("--since", help="How long back, such as 30d or 12h, or a date.")] = "30d",
    until: Annotated[str | None, typer.Option("--until", help="The same, for the end (default: now).")] = None,
    store: Store = "learnloop.db",
    agent: Annotated[str | None, typer.Option("--agent", help="The agent whose runs they are.")] = None,
    remarks_only: Annotated[
        bool, typer.Option("--remarks-only", help="Only what people said of runs that are here.")
    ] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="Do it again each so many seconds, until ctrl-C.")
    ] = None,
) -> None:
    """Take runs, scores, corrections and comments from another place; what is here already is left alone."""
    from langgraph_learnloop.config import load_config, made, named
    from langgraph_learnloop.loop import LearnLoop

    if every is not None and until is not None:
        raise ConfigError("With --every there is no --until, for it goes on: leave one of them out.")
    between(since, until)  # a slip is said before anything is opened
    spec = SOURCES.get(source, source)
    if ":" not in spec:
        raise ConfigError(f'There is no history {source!r}: name {", ".join(SOURCES)}, or "module:attribute".')
    history: History = made(named(spec, "The history"), "runs")
    with LearnLoop(store, agent=agent, config=load_config(agent=agent)) as loop:
        while True:
            try:
                _take(loop, history, *between(since, until), remarks_only)
            except EngineError as error:
                if every is None:
                    raise
                say(str(error))
            if every is None:
                return
            time.sleep(every)


def _take(loop: LearnLoop, history: History, begin: datetime, end: datetime, remarks_only: bool) -> None:
    if not remarks_only:
        say(runs_in_words(loop.import_runs(history, begin, end, _Progress()), history.name))
    say(remarks_in_words(loop.import_remarks(history, begin, _Progress())))


def between(since: str, until: str | None) -> tuple[datetime, datetime]:
    """Return the two times that were named, seen from now; raise ConfigError."""
    now = datetime.now(UTC)
    begin, end = moment(since, now, "--since"), now if until is None else moment(until, now, "--until")
    if begin >= end:
        raise ConfigError(f"--since {since!r} must be before --until {until or 'now'!r}.")
    return begin, end


def moment(text: str, now: datetime, option: str) -> datetime:
    """Return the time that a text names: so long ago, or a date; raise ConfigError."""
    ago = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{option} {text!r} is no time: write how long ago, such as 30d, 12h or 45m, or a date such as 2026-11-01."
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def runs_in_words(imported: Imported, name: str) -> str:
    """Return what became of a history's runs."""
    skipped = sum(imported.skipped.values())
    sentence = f"{imported.new} runs were imported from {name}, {imported.known} were here already"
    return f"{sentence}, {skipped} traces were skipped.{_reasons(imported.skipped)}"


def remarks_in_words(heard: Heard) -> str:
    """Return what became of a history's remarks."""
    refused = sum(heard.refused.values())
    sentence = f"{heard.new} scores, corrections and comments are new, {heard.known} were here already"
    lost = f"{heard.without_run} are about runs that are not here"
    return f"{sentence}, {lost}, {refused} cannot be used.{_reasons(heard.refused)}"


def _reasons(counted: Mapping[str, int]) -> str:
    pairs = sorted(counted.items(), key=lambda pair: -pair[1])
    lines = [f"\n  {count} times: {visible(why)}" for why, count in pairs[:_SHOWN]]
    return "".join([*lines, *(["\n  ..."] if len(pairs) > _SHOWN else [])])


class _Progress:
    """Say how far it is, now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, so_far: Imported | Heard) -> None:
        if time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            say(f"{so_far.new} new, {so_far.known} known so far ...")
