"""What the agent works with: a bookshop's database, and the tools that read it.

A model's SQL is hostile input. It runs on a connection that can only read, and may only select; rows, sizes and time
are limited. What is refused comes back as a sentence: the model reads it and can go another way.
"""

import os
import sqlite3
import tempfile
import time
from contextlib import closing
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from langchain_core.tools import tool
from pydantic import WithJsonSchema

DATABASE = Path(__file__).with_name("bookshop.db")
"""Made when it is first asked; a real shop has its own."""
MOST_ROWS = 50
"""Rows of one answer."""
MOST_CHARACTERS = 4_000
"""Characters of one answer."""
SECONDS = 1.0
"""Time of one query."""
Sql = Annotated[str, WithJsonSchema({"type": "string", "format": "sql"})]
"""SQL, marked by a format: a correction with values that stand nowhere in the request is refused by the checks, unless
their schema has a format or an enum. SQL is made of a question, not copied from it."""

_SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers, placed TEXT);
CREATE TABLE order_lines (order_id INTEGER REFERENCES orders, book_id INTEGER REFERENCES books, copies INTEGER);
CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT, euros INTEGER, stock INTEGER);
"""
_FIRST = ("Ada", "Bruno", "Celia", "Dmitri", "Esther", "Farid", "Greta", "Hugo", "Ines", "Jonas")
_LAST = ("Quill", "Marsh", "Okafor", "Lindqvist", "Tanaka", "Varga")
_CITIES = ("Bern", "Ghent", "Porto", "Turku", "Lyon")
titles = (
    "Salt Roads",
    "Winter Bees",
    "Paper Lanterns",
    "Northern Bread",
    "Glass Rivers",
    "Borrowed Hours",
    "Copper Moths",
    "Slow Thunder",
    "Empty Harbours",
    "Second Orchard",
    "Velvet Engines",
    "Distant Kitchens",
)
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_LIMITS = {  # a single step is never interrupted, so that values and patterns must be small, too
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 50,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
}

customers = [" ".join(name) for name in product(_FIRST, _LAST)]
"""Everybody who ever bought something."""


class Refused(Exception):
    """A query that did not run, and why."""


class Rows(NamedTuple):
    """What a query found."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool
    """There are more rows than these."""


def run(sql: str) -> Rows:
    """Run one SELECT on the database; raise Refused when it does not run, writes, or takes too long."""
    with closing(_connect()) as connection:
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchmany(MOST_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise Refused(_reason(error)) from None
        if cursor.description is None:
            raise Refused("There is no query in it.")
        return Rows([column[0] for column in cursor.description], rows[:MOST_ROWS], len(rows) > MOST_ROWS)


@tool
def list_tables() -> str:
    """Show the tables and their columns."""
    return "\n".join(row[0] for row in run("SELECT sql FROM sqlite_master WHERE type = 'table'").rows)


@tool
def query(sql: Sql) -> str:
    """Run one SELECT in SQLite's dialect, and show what it finds."""
    try:
        found = run(sql)
    except Refused as error:
        return str(error)
    named = (zip(found.columns, row, strict=True) for row in found.rows)
    text = "\n".join(", ".join(f"{column}: {value}" for column, value in row) for row in named) or "No rows."
    if found.more or len(text) > MOST_CHARACTERS:
        return f"{text[:MOST_CHARACTERS]}\nThere is more than is shown here: ask for less."
    return text


TOOLS = [list_tables, query]


def _connect() -> sqlite3.Connection:
    if not DATABASE.exists():
        _make()
    connection = sqlite3.connect(f"{DATABASE.resolve().as_uri()}?mode=ro", uri=True)
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    end = time.monotonic() + SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 1_000)
    return connection


def _reason(error: Exception) -> str:
    said = str(error)
    if said == "interrupted":
        return f"Stopped: the query took longer than {SECONDS:g} seconds. Ask for less."
    if said == "not authorized":
        return "Refused: only SELECT is allowed here."
    return f"The query did not run: {said}."


def _make() -> None:
    """Write the database aside and put it in place whole: another process may want it at the same time."""
    handle, made = tempfile.mkstemp(dir=DATABASE.parent)
    os.close(handle)
    with closing(sqlite3.connect(made)) as connection:
        connection.executescript(_SCHEMA)
        for table, rows in _data().items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        connection.commit()
    os.replace(made, DATABASE)


def _data() -> dict[str, list[tuple[Any, ...]]]:
    people, books, orders = len(customers), len(titles), range(1, 181)
    return {
        "customers": [(n + 1, name, _CITIES[n % len(_CITIES)]) for n, name in enumerate(customers)],
        "orders": [(n, n * 17 % people + 1, str(date(2026, 1, 5) + timedelta(n))) for n in orders],
        "order_lines": [(n, (n * 5 + k * 7) % books + 1, (n + k) % 3 + 1) for n in orders for k in range(n % 3 + 1)],
        "books": [(n + 1, title, 12 + n * 5 % 17, n * 11 % 23) for n, title in enumerate(titles)],
    }
