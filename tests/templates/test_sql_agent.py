"""The agent with a database: its story, its own tests, what hostile SQL cannot do, and how rows are compared."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.records import Case, Message, ToolCall
from tests.templates.conftest import Templates

README = Path(__file__).parents[2] / "examples" / "templates" / "sql_agent" / "README.md"
RELEASE = re.compile(r"\b[0-9a-f]{12}\b")
GRAPH = (
    "import json; from importlib import import_module; from langgraph.pregel import Pregel;"
    "path = json.load(open('langgraph.json'))['graphs']['sales'];"
    "module, name = path.removeprefix('./').split('.py:');"
    "assert isinstance(getattr(import_module(module), name), Pregel)"
)
RIGHT = (
    "SELECT sum(copies * euros) FROM orders JOIN order_lines ON order_id = orders.id JOIN books ON book_id = books.id"
    " WHERE customer_id = (SELECT id FROM customers WHERE name = 'Jonas Varga')"
)
RIGHT_TOO = (
    "SELECT sum(l.copies * b.euros) AS spent FROM customers c, orders o, order_lines l, books b"
    " WHERE o.customer_id = c.id AND l.order_id = o.id AND b.id = l.book_id AND c.name = 'Jonas Varga'"
)
WRONG = RIGHT_TOO.replace("o.customer_id = c.id", "o.id = c.id")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


def test_the_story_is_the_one_that_is_told(template: Templates) -> None:
    """The story prints what the README shows, but for the release's id."""
    printed = template.run(template.copied("sql_agent"), "story.py")
    shown = re.search(r"```text\n(asked:.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert RELEASE.sub("", printed) == RELEASE.sub("", shown[1])


def test_letter_by_letter_the_gate_would_stop_it(template: Templates) -> None:
    """What was learned is the same; who compares the SQL itself does not see it."""
    folder = template.copied("sql_agent")
    agent = folder / "agent.py"
    agent.write_text(agent.read_text(encoding="utf-8").replace(", evaluator=SameRows()", ""), encoding="utf-8")
    assert "the gate: stopped" in template.run(folder, "story.py")


def test_its_own_tests_pass_and_its_graph_is_found(template: Templates) -> None:
    """Whoever copies the template gets tests that pass and a graph where langgraph.json says."""
    folder = template.copied("sql_agent")
    assert " passed" in template.run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    template.run(folder, "-c", GRAPH)


@pytest.fixture
def shop(template: Templates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the template's database from a copy, and forget its modules afterwards."""
    folder = template.copied("sql_agent")
    monkeypatch.syspath_prepend(folder)
    names = [file.stem for file in folder.glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield import_module("bookshop")
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def judge(shop: Any) -> Any:
    """Return a function that judges a given SQL against an expected one."""
    evaluator = import_module("same_rows").SameRows()

    def judged(expected: Message, given: Message) -> Any:
        asked = (Message(role="user", content="how much did Jonas Varga spend with us"),)
        case = Case(case_id="1", suite="target", category="query", messages=asked, expected=expected)
        return evaluator.judge(case, [given])

    return judged


def asks(sql: str) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="query", args={"sql": sql}),))


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM books",
        "INSERT INTO books VALUES (99, 'Mine', 0, 0)",
        "DROP TABLE books",
        "CREATE TEMP TABLE mine (id)",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "PRAGMA query_only = 0",
        "SELECT 1; DELETE FROM books",
        "BEGIN",
    ],
)
def test_only_select_runs(shop: Any, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would write, attach or set something is refused in a sentence, and nothing has changed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(shop.Refused):
        shop.run(sql)
    assert shop.query.invoke({"sql": sql}).startswith(("Refused", "The query did not run"))
    assert shop.run("SELECT count(*) FROM books").rows == [(len(shop.titles),)]
    assert {path.name for path in tmp_path.iterdir()} == {"sql_agent"}


def test_the_file_itself_is_read_only(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the authorizer lets a write through, the connection does not."""
    monkeypatch.setattr(shop, "_ALLOWED", {*range(100)})
    assert "readonly" in shop.query.invoke({"sql": "DELETE FROM books"})


@pytest.mark.parametrize("sql", [f"{ENDLESS} SELECT count(*) FROM n", f"{ENDLESS} SELECT i FROM n WHERE i < 0"])
def test_a_runaway_query_is_stopped(shop: Any, sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query without an end ends when its time is up."""
    monkeypatch.setattr(shop, "SECONDS", 0.1)
    began = time.monotonic()
    assert shop.query.invoke({"sql": sql}).startswith("Stopped")
    assert time.monotonic() - began < 60  # it would run for ever


def test_rows_are_limited(shop: Any) -> None:
    """An endless result is cut, and says so."""
    told = shop.query.invoke({"sql": f"{ENDLESS} SELECT i FROM n"}).splitlines()
    assert told[:-1] == [f"i: {number + 1}" for number in range(shop.MOST_ROWS)]
    assert told[-1].startswith("There is more")


def test_sizes_are_limited(shop: Any) -> None:
    """Neither one value nor many of them fill the memory or the answer."""
    assert "too big" in shop.query.invoke({"sql": "SELECT zeroblob(1000000000)"})
    wide = ", ".join(["hex(zeroblob(4000))"] * 40)
    assert len(shop.query.invoke({"sql": f"SELECT {wide} FROM orders"})) < shop.MOST_CHARACTERS + 100


@pytest.mark.parametrize("sql", ["", "-- nothing", "SELECT nope", "SELECT ?", "SELECT '\0'", "SELECT '\ud800'", "("])
def test_errors_are_sentences(shop: Any, sql: str) -> None:
    """What cannot run is told, never raised."""
    assert shop.query.invoke({"sql": sql}).endswith(".")


def test_the_tables_are_shown(shop: Any) -> None:
    """The model can read which key belongs to which table."""
    assert "customer_id INTEGER REFERENCES customers" in shop.list_tables.invoke({})


def test_the_numbers_of_the_story_are_true(shop: Any) -> None:
    """Counted without SQL, everybody spent what the right SQL finds, and nobody what the wrong SQL finds."""
    data = shop._data()
    price = {book: euros for book, _, euros, _ in data["books"]}
    customer_of = {order: customer for order, customer, _ in data["orders"]}
    spent: dict[int, int] = dict.fromkeys(range(1, len(shop.customers) + 1), 0)
    for order, book, copies in data["order_lines"]:
        spent[customer_of[order]] += copies * price[book]
    assert spent[len(shop.customers)] == 321
    for number, name in enumerate(shop.customers, 1):
        for right in (RIGHT, RIGHT_TOO):
            assert shop.run(right.replace("Jonas Varga", name)).rows == [(spent[number],)]
        assert shop.run(WRONG.replace("Jonas Varga", name)).rows != [(spent[number],)]


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [
        (RIGHT, RIGHT_TOO, True),
        (RIGHT, WRONG, False),
        (RIGHT, "SELECT nope", False),
        (RIGHT, f"{ENDLESS} SELECT i FROM n", False),
        ("SELECT nope", RIGHT, None),
        (f"{ENDLESS} SELECT i FROM n", RIGHT, None),
        ("SELECT title FROM books", "SELECT title AS t FROM books ORDER BY title DESC", True),
        ("SELECT title FROM books ORDER BY title", "SELECT title FROM books ORDER BY title DESC", False),
        ("SELECT title FROM (SELECT * FROM books ORDER BY id)", "SELECT title FROM books ORDER BY title", True),
        ("SELECT title FROM books WHERE title <> ' order by '", "SELECT title FROM books ORDER BY title", True),
        ("SELECT title FROM (SELECT * FROM books)order by title", "SELECT title FROM books ORDER BY title DESC", False),
        ("SELECT city FROM customers LIMIT 1", "SELECT city FROM customers LIMIT 2", False),
        ("SELECT DISTINCT city FROM customers", "SELECT city FROM customers WHERE id < 9", False),
        ("SELECT 0.1 + 0.2", "SELECT 0.3", True),
        ("SELECT 1, 2", "SELECT 2, 1", False),
    ],
)
def test_rows_decide(judge: Any, expected: str, given: str, same: bool | None) -> None:
    """Two queries are the same if they find the same rows; without an expected result nothing can be judged."""
    judged = judge(asks(expected), asks(given))
    assert judged.scores == {"same_rows": same}
    assert (judged.comment is None) == (same is True)


def test_other_answers_are_compared_as_they_stand(judge: Any) -> None:
    """A text, another tool or two queries are no query; where none is expected, calls are compared."""
    tables = Message(role="assistant", tool_calls=(ToolCall(name="list_tables", args={}),))
    twice = Message(role="assistant", tool_calls=asks(RIGHT).tool_calls * 2)
    for given in (tables, twice, Message(role="assistant", content="321")):
        assert judge(asks(RIGHT), given).scores == {"same_rows": False}
    assert judge(tables, tables).scores == {"same_rows": True}
    assert judge(tables, asks(RIGHT)).scores == {"same_rows": False}


def test_corrections_with_sql_are_learned(shop: Any) -> None:
    """The tool's schema says that SQL has a form of its own, so that the checks do not look for it in the question."""
    from langchain_core.utils.function_calling import convert_to_openai_tool

    schema = convert_to_openai_tool(shop.query)["function"]["parameters"]
    assert schema["properties"]["sql"] == {"type": "string", "format": "sql"}
