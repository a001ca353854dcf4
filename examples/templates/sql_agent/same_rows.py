"""What makes an answer right here: two queries are the same if they find the same rows, however they are written."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bookshop import Refused, Rows, run

from langgraph_learnloop.evaluation.evaluators import ToolCallMatch
from langgraph_learnloop.records import Case, Judged, Message

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_INSIDE = re.compile(r"\([^()]*\)")


class SameRows:
    """Run the expected and the given SQL, and compare what they find; other calls are compared as they stand.

    The rows' order counts where the expected SQL orders them, the columns' names do not. Results are kept by the
    evaluator's name: judge on a database that stays as it is, and raise the version when you put another in its place.
    """

    name = "same-rows/1"
    """Name and version; part of a result's identity."""
    target = "same_rows"
    """The same rows."""
    guard = "same_rows"
    """The same: SQL that runs and finds something else is just what must not happen."""
    whole = False
    """The next message is enough."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the score; None when the expected SQL cannot tell what is right."""
        expected = _sql(case.expected)
        if expected is None:
            judged = ToolCallMatch().judge(case, got)
            return Judged({self.target: judged.scores["fully_right"]}, judged.comment)
        try:
            right = run(expected)
        except Refused as error:
            return Judged({self.target: None}, f"The expected SQL is of no use. {error}")
        if right.more:
            return Judged({self.target: None}, f"The expected SQL finds more than {len(right.rows)} rows.")
        given = _sql(got[0])
        if given is None:
            return Judged({self.target: False}, "There is no query.")
        try:
            found = run(given)
        except Refused as error:
            return Judged({self.target: False}, str(error))
        if found.more or _comparable(found, expected) != _comparable(right, expected):
            return Judged({self.target: False}, f"It finds other rows ({len(found.rows)}; {len(right.rows)} expected).")
        return Judged({self.target: True})


def _sql(message: Message | None) -> str | None:
    """Return the SQL of a message that asks for one query and nothing else."""
    calls = message.tool_calls if message is not None else ()
    if len(calls) != 1 or calls[0].name != "query":
        return None
    return str(calls[0].args.get("sql", ""))


def _comparable(found: Rows, expected: str) -> Any:
    # Sums of the same numbers in another order differ in their last digits.
    rows = [tuple(round(value, 6) if isinstance(value, float) else value for value in row) for row in found.rows]
    return rows if _orders(expected) else Counter(rows)


def _orders(sql: str) -> bool:
    """Return whether a query orders what it finds; what it does inside of brackets is its own business."""
    sql, inside = _QUOTED.sub(" ", sql), 1
    while inside:
        sql, inside = _INSIDE.subn(" ", sql)
    return re.search(r"\border\s+by\b", sql, re.IGNORECASE) is not None
