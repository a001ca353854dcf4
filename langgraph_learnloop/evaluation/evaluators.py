"""Judge an answer against a case, after both were brought to one canonical form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from langgraph_learnloop.records import Case, Message, ToolCall

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def plain(text: str) -> str:
    """Return a text stripped, casefolded, in Unicode form NFKC and with single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def canonical(value: Any) -> Any:
    """Return a JSON value in the form in which equal arguments are equal.

    Texts become plain (the Berkeley Function-Calling Leaderboard lowers them as well: a user's words are copied in
    any case); 5, 5.0 and "5" are one number, but "05" is a text; a None in a mapping is as good as absent.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = plain(value)
        return Decimal(text).normalize() if _NUMBER.fullmatch(text) else text
    if isinstance(value, int | float):
        return Decimal(str(value)).normalize()
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence):
        return [canonical(item) for item in value]
    return plain(str(value))


class ToolCallMatch:
    """Compare tool calls by name and by canonical arguments, and answers without a tool by their plain text."""

    name = "tool-call-match/1"
    """Name and version; part of a result's identity."""

    def judge(self, case: Case, got: Message) -> tuple[bool | None, bool | None]:
        """Return (right tool, fully right); (None, None) when the case expects nothing that could be compared.

        The right tool is the same sequence of tool names; for an expected text it is that no tool was asked for.
        Words beside an expected tool call are not compared.
        """
        expected = case.expected
        if not expected.tool_calls and not expected.content.strip():
            return None, None
        right_tool = _names(expected.tool_calls) == _names(got.tool_calls)
        if expected.tool_calls:
            same = _arguments(expected.tool_calls) == _arguments(got.tool_calls)
        else:
            same = plain(expected.content) == plain(got.content)
        return right_tool, right_tool and same


def _names(calls: Sequence[ToolCall]) -> list[str]:
    return [call.name.strip() for call in calls]


def _arguments(calls: Sequence[ToolCall]) -> list[Any]:
    return [_typed(canonical(call.args)) for call in calls]


def _typed(value: Any) -> Any:
    """Return the value with its truth values marked, because Python holds True equal to 1."""
    if isinstance(value, bool):
        return ("truth", value)
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return [_typed(item) for item in value] if isinstance(value, list) else value
