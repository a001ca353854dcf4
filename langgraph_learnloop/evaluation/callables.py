"""Make an evaluator of any function in the form of openevals, agentevals and LangSmith."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pydantic import BaseModel

from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.evaluation.evaluators import right
from langgraph_learnloop.ports import Evaluator
from langgraph_learnloop.records import Case, Judged, Message, Score

GIVEN = ("inputs", "outputs", "reference_outputs")
"""What a function is given, by keyword."""


def from_callable(
    function: Callable[..., Any], *, name: str, version: str, key: str | None = None, whole: bool = False
) -> Evaluator:
    """Return an evaluator that asks `function`, which may be async; raise ConfigError when it cannot be called.

    The function gets those of `inputs` (the conversation), `outputs` (what was answered) and `reference_outputs` (what
    would be right, or None) that its signature takes, each a list of OpenAI message dicts; ids of calls are counted
    through, because random ones are never equal. With `whole`, that is the whole run and `case.reference`.

    It returns a bool, a number from 0 to 1, None, a dict with "score" and perhaps "key" and "comment", or several of
    those. `key` names the score that decides; without it there must be one result, and it gets the name `name`. What
    the function raises is raised.
    """
    return _Called(function, name, version, key, whole)


class _Result(NamedTuple):
    key: str | None
    score: Score
    comment: str | None


class _Called:
    """Ask a function and read what it returns."""

    def __init__(self, function: Callable[..., Any], name: str, version: str, key: str | None, whole: bool) -> None:
        self.name = f"{name}/{version}"
        self._function = function
        self._key = key
        self._takes = _takes(function, self.name)
        self.target = self.guard = key or name
        self.whole = whole

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the function's scores; raise DataError when they are none, or when the deciding one is missing."""
        reference = right(case, whole=self.whole)
        given = {
            "inputs": _openai(case.messages),
            "outputs": _openai(got if self.whole else got[:1]),
            "reference_outputs": _openai(reference) if reference else None,
        }
        returned = self._function(**{what: given[what] for what in self._takes})
        results = _results(_awaited(returned) if inspect.isawaitable(returned) else returned, self.name)
        scores = self._named(results)
        return Judged(scores, " ".join(result.comment for result in results if result.comment) or None)

    def _named(self, results: Sequence[_Result]) -> dict[str, Score]:
        """Return the scores by name: a lone one is the target if it has no key, or if no key was asked for."""
        if len(results) == 1 and (self._key is None or results[0].key is None):
            return {self.target: results[0].score}
        scores = {result.key or self.target: result.score for result in results}
        if self.target not in scores or len(scores) < len(results):
            keys = ", ".join(repr(result.key) for result in results) or "none"
            raise DataError(
                f"The evaluator {self.name!r} returned the scores {keys}; name one of them with key=, each only once."
            )
        return scores


def _takes(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Return which of the keywords a function takes."""
    try:
        signature = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The evaluator {name!r} needs a function whose signature can be read ({error}): wrap it in one of "
            "your own."
        ) from error
    for one in signature:
        needed = one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        if needed and (one.name not in GIVEN or one.kind is one.POSITIONAL_ONLY):
            raise ConfigError(
                f"The function of the evaluator {name!r} wants {one.name!r}, and it gets {', '.join(GIVEN)} "
                "by keyword: give the rest a default."
            )
    if any(one.kind is one.VAR_KEYWORD for one in signature):
        return GIVEN
    named = {one.name for one in signature if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    return tuple(what for what in GIVEN if what in named)


def _openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return OpenAI message dicts as an API takes them, arguments as JSON texts, ids of calls counted through."""
    ids: dict[str | None, str] = {}
    counted = 0
    dicts = []
    for message in messages:
        out = message.openai()
        for call, told in zip(message.tool_calls, out.get("tool_calls", ()), strict=True):
            told["id"] = ids[call.id] = f"call_{counted}"
            told["function"]["arguments"] = json.dumps(call.args, ensure_ascii=False, default=str)
            counted += 1
        if message.role == "tool":
            out["tool_call_id"] = ids.get(message.tool_call_id, out["tool_call_id"])
        dicts.append(out)
    return dicts


def _awaited(returned: Awaitable[Any]) -> Any:
    """Return what an async function comes to, also where this thread runs an event loop already."""

    async def wait() -> Any:
        return await returned

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with ThreadPoolExecutor(1) as beside:
        return beside.submit(lambda: asyncio.run(wait())).result()


def _results(returned: Any, name: str) -> list[_Result]:
    """Read a result, or a list or a LangSmith batch of them."""
    if isinstance(returned, BaseModel):
        returned = returned.model_dump()
    if isinstance(returned, Mapping) and "results" in returned and "score" not in returned:
        returned = returned["results"]
    if isinstance(returned, list | tuple):
        return [_result(one.model_dump() if isinstance(one, BaseModel) else one, name) for one in returned]
    return [_result(returned, name)]


def _result(returned: Any, name: str) -> _Result:
    if not isinstance(returned, Mapping):
        return _Result(None, _score(returned, name), None)
    if "score" not in returned:
        keys = ", ".join(map(repr, list(returned)[:5])) or "nothing"
        raise DataError(f'The evaluator {name!r} returned a dict without "score" (it holds {keys}): let it return one.')
    key, comment = returned.get("key"), returned.get("comment")
    return _Result(
        str(key) if key is not None else None,
        _score(returned["score"], name),
        str(comment) if comment is not None else None,
    )


def _score(value: Any, name: str) -> Score:
    if value is None or isinstance(value, bool):
        return value
    if hasattr(value, "item") and callable(value.item):
        return _score(value.item(), name)  # a number of numpy or torch
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"The evaluator {name!r} returned {value!r:.80}; a score must be a bool, a number from 0 to 1, or None."
        )
    return float(value)
