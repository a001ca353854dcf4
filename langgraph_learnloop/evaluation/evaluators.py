"""Judge an answer against a case, after both were brought to one canonical form."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any, Literal, NoReturn, TypeGuard

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.messages import no_key_twice
from langgraph_learnloop.ports import Evaluator
from langgraph_learnloop.records import Case, Judged, Message, Score, content_hash

LONGEST_JSON = 1_000_000
"""Characters of a text beyond which it is not read as JSON."""
DEEPEST = 100
"""Levels of lists and mappings beyond which a value equals nothing: hostile nesting must not end the interpreter."""

GOOD = 0.5
"""Number from which a score counts as right, where there must be a right and a wrong."""

_NUMBER = re.compile(r"-?(0|[1-9]\d{0,299})(\.\d{1,300})?")
NOTHING_EXPECTED = "The case expects nothing to compare with."
"""The comment of a case that cannot be judged because nothing is known to be right."""
_NAMED = 5
"""Keys that a comment names."""


def plain(text: str) -> str:
    """Return a text stripped, casefolded, in Unicode form NFKC and with single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def canonical(value: Any, depth: int = 0) -> Any:
    """Return a JSON value, found `depth` levels down, in the form in which equal arguments are equal.

    Texts become plain (the Berkeley Function-Calling Leaderboard lowers them as well: a user's words are copied in
    any case); 5, 5.0 and "5" are one number, but "05" is a text and a truth value no number; a None in a mapping is as
    good as absent. What is nested too deep equals nothing, not even itself.
    """
    if depth > DEEPEST:
        return object()
    if value is None:
        return None
    if isinstance(value, bool):
        return ("truth", value)  # because Python holds True equal to 1
    if isinstance(value, str):
        text = plain(value)
        return _number(text) if _NUMBER.fullmatch(text) else text
    if isinstance(value, int | float):
        return _number(str(value))
    if isinstance(value, Mapping):
        return {str(key): canonical(item, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence):
        return [canonical(item, depth + 1) for item in value]
    return plain(str(value))


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal in canonical form."""
    return bool(canonical(one) == canonical(other))


def read_json(text: str) -> Any:
    """Return the JSON value that a text is; raise ValueError, with the reason, when it is none or is ambiguous."""
    if len(text) > LONGEST_JSON:
        raise ValueError(f"it has {len(text):,} characters; at most {LONGEST_JSON:,} are read")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=no_key_twice)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def comparable(message: Message | None) -> TypeGuard[Message]:
    """Return whether there is a message that says something or asks for a tool."""
    return message is not None and bool(message.tool_calls or message.content.strip())


def right(case: Case, *, whole: bool) -> tuple[Message, ...]:
    """Return what would be right: the next message, or as far as it is known the whole run; empty where nothing is."""
    expected = (case.expected,) if case.expected is not None else ()
    return (case.reference or expected) if whole else expected


def type_and_name(model: object) -> str:
    """Return what tells one model, or one embedding, from another."""
    return f"{type(model).__name__} {getattr(model, 'model_name', None) or getattr(model, 'model', None)}"


class ToolCallMatch:
    """Compare tool calls by name and by canonical arguments, and answers without a tool by their plain text."""

    name = "tool-call-match/1"
    """Name and version; part of a result's identity."""
    target = "fully_right"
    """Tool and arguments right."""
    guard = "right_tool"
    """The right tool: errors at it are rare where nothing is wrong, so that a small loss can be seen."""
    whole = False
    """The next message is enough."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the scores; None in both when the case expects nothing that could be compared.

        The right tool is the same sequence of tool names; for an expected text it is that no tool was asked for.
        Words beside an expected tool call are not compared.
        """
        expected, answer = case.expected, got[0]
        if not comparable(expected):
            return Judged({"right_tool": None, "fully_right": None}, NOTHING_EXPECTED)
        right_tool = _names(expected) == _names(answer)
        if expected.tool_calls:
            alike = _arguments(expected) == _arguments(answer)
        else:
            alike = plain(expected.content) == plain(answer.content)
        return Judged({"right_tool": right_tool, "fully_right": right_tool and alike})


class ExactMatch:
    """Compare the next message whole: its text in plain form and its tool calls, in order, in canonical form."""

    name = "exact-match/1"
    """Name and version; part of a result's identity."""
    target = guard = "exact_match"
    """Text and tool calls equal."""
    whole = False
    """The next message is enough."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the score; None when the case expects nothing that could be compared."""
        expected, answer = case.expected, got[0]
        if not comparable(expected):
            return Judged({self.target: None}, NOTHING_EXPECTED)
        calls = _names(expected) == _names(answer) and _arguments(expected) == _arguments(answer)
        return Judged({self.target: calls and plain(expected.content) == plain(answer.content)})


class JsonMatch:
    """Compare the next message's text with the expected one, both read as JSON, key by key in canonical form."""

    whole = False
    """The next message is enough."""

    def __init__(self, keys: Sequence[str] | None = None, aggregate: Literal["all", "mean"] = "all") -> None:
        """Compare `keys` of the outermost object, or all keys that either side has; "mean" scores the share right."""
        if aggregate not in ("all", "mean"):
            raise ConfigError(f'JsonMatch must put keys together by "all" or "mean", not by {aggregate!r}.')
        if isinstance(keys, str) or (keys is not None and not keys):
            raise ConfigError(f"JsonMatch's keys must be a list, or None for all of them, not {keys!r}.")
        self._keys = tuple(keys) if keys is not None else None
        self._mean = aggregate == "mean"
        mark = f"-{content_hash(self._keys)[:8]}" if self._keys is not None else ""
        self.name = f"json-match-{aggregate}{mark}/1"
        """Name and version, with a mark of the keys; part of a result's identity."""
        self.target = self.guard = "json_match"
        """All keys right, or the share of them."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the score, and one as "json_match:KEY" for each of the keys that were named.

        An answer that is no JSON, or not of the expected form, is wrong; where the expected text is no JSON, nothing
        can be judged.
        """
        try:
            expected = read_json(case.expected.content if case.expected is not None else "")
        except ValueError as error:
            return self._judged(self._each(None), f"The expected text is no JSON: {error}.")
        if self._keys is not None and not isinstance(expected, dict):
            return self._judged(self._each(None), "The expected JSON is no object, so it has no keys.")
        try:
            answer = read_json(got[0].content)
        except ValueError as error:
            return self._judged(self._each(False), f"The answer is no JSON: {error}.")
        right = self._compared(expected, answer)
        wrong = [key for key, good in right.items() if not good]
        return self._judged(right, f"Wrong: {_listed(wrong)}." if wrong else None)

    def _compared(self, expected: Any, answer: Any) -> dict[str, bool | None]:
        """Return which keys are right; values that are no objects are compared whole, under an empty key."""
        if not isinstance(expected, dict):
            return {"": same(expected, answer)}
        if not isinstance(answer, dict):
            return self._each(False)
        keys = self._keys or dict.fromkeys(key for side in (expected, answer) for key in side if side[key] is not None)
        return {key: same(expected.get(key), answer.get(key)) for key in keys}

    def _each(self, verdict: bool | None) -> dict[str, bool | None]:
        return dict.fromkeys(self._keys or ("",), verdict)

    def _judged(self, right: Mapping[str, bool | None], comment: str | None) -> Judged:
        # Keys that nobody named come from captured text: they become no names of scores.
        named: dict[str, Score] = {f"{self.target}:{key}": right[key] for key in self._keys or ()}
        return Judged({self.target: self._overall(right), **named}, comment)

    def _overall(self, right: Mapping[str, bool | None]) -> Score:
        verdicts = [good for good in right.values() if good is not None]
        if len(verdicts) < len(right):
            return None
        if self._mean:
            return sum(verdicts) / len(verdicts) if verdicts else 1.0  # two empty objects have no keys to differ in
        return all(verdicts)


class All:
    """Judge by several evaluators at once; the first one's target and guard decide."""

    def __init__(self, *evaluators: Evaluator) -> None:
        """Put evaluators together; raise ConfigError when there is none, or one twice."""
        names = [evaluator.name for evaluator in evaluators]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"Give All one evaluator or more, of different names, and not {names}.")
        self._evaluators = evaluators
        self.name = "+".join(names)
        """The names and versions of all; part of a result's identity."""
        self.target = evaluators[0].target
        """The first one's target."""
        self.guard = evaluators[0].guard
        """The first one's guard."""
        self.whole = any(evaluator.whole for evaluator in evaluators)
        """Whether any of them judges the whole run."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the scores of all; a name that is taken gets its evaluator's name before it: "json-match/1:score".

        What the first one raises is raised. Of another one it is a comment, and its scores are None: nothing hangs on
        them.
        """
        first, *others = self._evaluators
        judged = first.judge(case, got)
        scores, comments = dict(judged.scores), [judged.comment]
        for other in others:
            more = _if_it_can(other, case, got)
            clashes = {name: f"{other.name}:{name}" for name in more.scores if name in scores}
            scores |= {clashes.get(name, name): score for name, score in more.scores.items()}
            comments.append(more.comment)
        return Judged(scores, " ".join(comment for comment in comments if comment) or None)


def _if_it_can(evaluator: Evaluator, case: Case, got: Sequence[Message]) -> Judged:
    try:
        return evaluator.judge(case, got)
    except Exception as error:  # noqa: BLE001 - an evaluator that only informs must not cost the others' verdict
        unknown = dict.fromkeys((evaluator.target, evaluator.guard))
        return Judged(unknown, f"{evaluator.name!r} failed: {type(error).__name__}: {error}")


def _names(message: Message) -> list[str]:
    return [call.name.strip() for call in message.tool_calls]


def _arguments(message: Message) -> list[Any]:
    return [canonical(call.args) for call in message.tool_calls]


def _number(text: str) -> Decimal:
    # With the usual 28 digits, two long ids that differ at their ends would be one number.
    return Decimal(text).normalize(Context(prec=len(text)))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _listed(keys: Sequence[str]) -> str:
    if keys == [""]:
        return "the whole value"
    more = len(keys) - _NAMED
    return ", ".join(repr(key[:80]) for key in keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")
