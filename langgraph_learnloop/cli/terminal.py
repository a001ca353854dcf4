"""What the command line writes: tables, cells and sentences, on whatever terminal there is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from langgraph_learnloop.errors import ConfigError, needing
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.texts import short, visible

with needing("The command line"):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

ID = 18
"""Characters of a run's id that are shown: of a UUID, its time and some of its chance."""
SHORT = 8
"""Characters of a release's id that are shown where it is one thing among others."""
_LONGEST = 300
"""Characters of a cell."""
_FOLDED = frozenset({"because", "reasons"})
"""Columns of sentences, which are shown whole, on several lines."""
_CUT = frozenset({"thread", "question", "answer"})
"""Columns that give way where the terminal is narrow, and are cut where they end."""
console = Console()


def say(sentence: str) -> None:
    """Write a sentence as it is: no markup, no colours, and no breaks of ours."""
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def show_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], nothing: str = "") -> None:
    """Write rows as a table, or a sentence if there are none."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in _FOLDED | _CUT)
    for row in rows:
        table.add_row(*map(_cell, columns, row))
    console.print(table if table.row_count else nothing, highlight=False)


def _cell(column: str, value: Any) -> Text:
    """Show captured text as it is, without markup or control characters."""
    shown = Text("-" if value is None else short(visible(str(value).replace("\n", " ")), _LONGEST))
    if column in _CUT:
        shown.no_wrap, shown.overflow = True, "ellipsis"
    return shown


@contextmanager
def written(what: str, target: Path) -> Iterator[Path]:
    """Give a path whose file takes the target's place, whole; raise ConfigError when it cannot be written."""
    try:
        with whole_file(target) as beside:
            yield beside
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"{what} cannot be written to {str(target)!r}: {why}. Name a file in a folder that is there."
        ) from error


def refuse(sentence: str) -> NoReturn:
    """Write a sentence to standard error, and end with exit code 2."""
    stop(f"learnloop: {sentence}", 2)


def stop(sentence: str, code: int) -> NoReturn:
    """Write a sentence to standard error, and end."""
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
