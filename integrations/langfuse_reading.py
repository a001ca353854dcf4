"""Read Langfuse's public API page by page, with patience; what it answers is checked here, not by the SDK's models.

One odd value in a page would make the SDK refuse the whole page; here it costs the one trace that it is in.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.integrations.langfuse_messages import reason_of
from langgraph_learnloop.integrations.langfuse_wire import Wire, refused, seconds_of
from langgraph_learnloop.texts import short

Seen = dict[str, Any]
"""Something as the public API sends it."""
Asked = Mapping[str, str | int]
_TRIES = 5
"""Times that a page is asked for before the server counts as gone."""
_LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, whatever the server asks for."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""What a server answers that may do better in a moment."""
_MOST_PAGES = 100_000


class Reader:
    """Ask for pages; tried again while the server is busy or away."""

    def __init__(self, wire: Wire, sleep: Callable[[float], object] = time.sleep) -> None:
        """Ask over a wire, and wait between tries with `sleep`."""
        self._wire = wire
        self._sleep = sleep

    def pages(self, path: str, asked: Asked, what: str) -> Iterator[Seen]:
        """Yield what is in all the pages behind a cursor; raise ConfigError, NotFoundError or EngineError."""
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = self.one(path, asked if cursor is None else {**asked, "cursor": cursor}, what)
            yield from _data(page, what)
            before, cursor = cursor, _meta(page).get("cursor")
            if not cursor or cursor == before:
                return

    def numbered(self, path: str, asked: Asked, what: str) -> Iterator[Seen]:
        """Yield what is in all the pages of a list whose pages have numbers; raise as `pages` does."""
        for number in range(1, _MOST_PAGES):
            page = self.one(path, {**asked, "page": number}, what)
            found = _data(page, what)
            yield from found
            last = _meta(page).get("totalPages")
            if not found or not isinstance(last, int) or number >= last:
                return

    def one(self, path: str, asked: Asked, what: str) -> Seen:
        """Return one answer as an object; raise ConfigError, NotFoundError or EngineError."""
        import httpx

        said = ""
        for attempt in range(_TRIES):
            pause = _pause(attempt)
            try:
                answer = self._wire.get(path, asked)
            except httpx.InvalidURL as error:
                raise EngineError(
                    f"Langfuse did not give {what}: {reason_of(error)}. Set LANGFUSE_BASE_URL to the server's address."
                ) from error
            except httpx.HTTPError as error:
                said = reason_of(error)
            else:
                found = parsed(answer.text) if answer.is_success else None
                if isinstance(found, dict):
                    return found
                if not answer.is_success and answer.status_code not in _BUSY:
                    raise refused(what, answer.status_code, answer.text)
                said = f"{answer.status_code}: {short(' '.join(answer.text.split()), 200)}"
                pause = min(_LONGEST_PAUSE, seconds_of(answer.headers.get("retry-after")) or pause)
            if attempt + 1 < _TRIES:
                self._sleep(pause)
        raise EngineError(
            f"Langfuse at {self._wire.url} did not give {what}, in {_TRIES} tries: {said}. See that LANGFUSE_BASE_URL "
            "is right and the server is up, and run this again: nothing is stored twice."
        )


def parsed(text: object) -> Any:
    """Return the value that a JSON text holds; what is no JSON is returned as it is."""
    if not isinstance(text, str):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:  # half a character, and numbers of any size
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _data(page: Seen, what: str) -> list[Seen]:
    data = page.get("data")
    if not isinstance(data, list):
        raise EngineError(f"Langfuse's answer about {what} holds no data: see that LANGFUSE_BASE_URL is a Langfuse's.")
    return [one for one in data if isinstance(one, dict)]


def _meta(page: Seen) -> Seen:
    meta = page.get("meta")
    return meta if isinstance(meta, dict) else {}


def _pause(attempt: int) -> float:
    return min(_LONGEST_PAUSE, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)
