"""Learn from what is in Langfuse already: runs that it saw before LearnLoop was there, and what people said of them.

    loop.import_runs(LangfuseHistory(), since)
    loop.import_remarks(LangfuseHistory(), since)

or `learnloop import langfuse --since 30d`. The keys are in LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and
LANGFUSE_BASE_URL. Nothing is written there.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from langgraph_learnloop.errors import DataError, EngineError, NotFoundError
from langgraph_learnloop.integrations.langfuse_history_remarks import remark_of_comment, remark_of_score
from langgraph_learnloop.integrations.langfuse_history_runs import foreign_runs
from langgraph_learnloop.integrations.langfuse_messages import Seen, date_of, filled, parsed
from langgraph_learnloop.integrations.langfuse_wire import OURS, Wire, reason_of, refused, seconds_of
from langgraph_learnloop.mirrors import ForeignRun, Remark, Untold
from langgraph_learnloop.texts import one_line

_OBSERVATIONS = "/api/public/v2/observations"
_SCORES = "/api/public/v3/scores"
_COMMENTS = "/api/public/comments"
_CONFIGURATIONS = "/api/public/score-configs"
_FIELDS = "core,basic,time,io,metadata,model,usage,trace_context"
_WHOLE = "run_id,step_id,thread_id,user,namespace,langgraph_checkpoint_ns,flagged,resumes,tags,lc_agent_name"
"""Metadata that is wanted whole; Langfuse cuts the rest after 200 characters."""
_AT_ONCE = 4
"""Traces that are asked for at the same time."""
_HELD = 8
"""Traces in memory at the same time."""
_LARGE_PAGE = 1_000
"""Observations a page, without what went in and came out."""
_PAGE = 100
Asked = Mapping[str, str | int]
_TRIES = 5
"""Times that a page is asked for before the server counts as gone."""
_LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, whatever the server asks for."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524})
"""What a server answers that may do better in a moment."""
_MOST_PAGES = 100_000
_log = logging.getLogger(__name__)


class LangfuseHistory:
    """Read runs and remarks from one project of Langfuse."""

    name = "langfuse"

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        agents: Collection[str] = (),
        settles: float = 30.0,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read over a wire (default: as the LANGFUSE_... variables say).

        With `agents`, only traces count whose name, or whose graph's or agent's, is among them. `settles` is how many
        seconds it takes until all of a trace can be read, at most. `sleep` waits between tries while the server is busy
        or away.
        """
        self._wire = wire or Wire()
        self._reader = _Reader(self._wire, sleep)
        self._agents = frozenset(agents)
        self._settles = timedelta(seconds=settles)
        self._now = now
        self._configurations: dict[str, Seen] = {}

    def runs(self, since: datetime, until: datetime) -> Iterator[ForeignRun | Untold]:
        """Yield the runs of traces that began in a time, oldest first, and why others are none.

        Raise ConfigError or EngineError, with the reason, when Langfuse does not answer.
        """
        traces = self._traces(since, until)
        with ThreadPoolExecutor(_AT_ONCE, "learnloop-langfuse") as pool:
            for start in range(0, len(traces), _HELD):
                for found in pool.map(self._of_trace, traces[start : start + _HELD]):
                    yield from found

    def remarks(self, since: datetime) -> Iterator[Remark | Untold]:
        """Yield what people said since a time, in scores and comments, but not what our mirror wrote."""
        asked: Asked = {"source": "ANNOTATION,API", "fields": "details,subject,annotation", "limit": _PAGE}
        dated = {**asked, "fromTimestamp": _written(since)}
        for score in self._reader.pages(_SCORES, dated, "the scores"):
            if not str(score.get("id")).startswith(OURS):
                yield _heard(remark_of_score, score, self._configured)
        for kind in ("TRACE", "OBSERVATION"):
            for comment in self._reader.numbered(_COMMENTS, {"objectType": kind, "limit": _PAGE}, "the comments"):
                if _is_since(comment, since):
                    yield _heard(remark_of_comment, comment, self._trace_of)

    def close(self) -> None:
        """Let go of the connections."""
        self._wire.close()

    def _traces(self, since: datetime, until: datetime) -> Sequence[str]:
        """Return the ids of the traces that began in a time, oldest first."""
        asked: Asked = {
            "fields": "core,basic",
            "isRootObservation": "true",
            "fromStartTime": _written(since),
            "toStartTime": _written(until),
            "limit": _LARGE_PAGE,
        }
        began: dict[str, str] = {}
        for root in self._reader.pages(_OBSERVATIONS, asked, "the list of traces"):
            trace, start = filled(root.get("traceId")), str(root.get("startTime"))
            if trace is not None:
                began[trace] = min(start, began.get(trace, start))
        return sorted(began, key=lambda trace: (began[trace], trace))

    def _of_trace(self, trace: str) -> Sequence[ForeignRun | Untold]:
        asked: Asked = {"traceId": trace, "fields": _FIELDS, "expandMetadata": _WHOLE, "limit": _PAGE}
        try:
            seen = self._reader.pages(_OBSERVATIONS, asked, f"the trace {trace!r}")
            found = foreign_runs(trace, seen, self._agents)
            ended = max(one.run.started_at + timedelta(seconds=one.run.seconds or 0.0) for one in found)
            if ended > self._now() - self._settles:
                raise DataError("It ended a moment ago and may not be whole yet: the next import takes it.")
            return found
        except DataError as error:
            _log.info("The trace %s of Langfuse is not taken: %s", trace, error, exc_info=error)
            return [Untold(trace, str(error))]

    def _configured(self, configuration: str) -> Seen:
        """Return a score's configuration; empty where it was taken away."""
        if configuration not in self._configurations:
            try:
                path = f"{_CONFIGURATIONS}/{quote(configuration, safe='')}"
                found = self._reader.one(path, {}, f"the score configuration {configuration!r}")
            except NotFoundError:
                found = {}
            self._configurations[configuration] = found
        return self._configurations[configuration]

    def _trace_of(self, observation: str) -> str | None:
        """Return the trace of an observation; None where the server does not find it."""
        wanted = [{"type": "string", "column": "id", "operator": "=", "value": observation}]
        asked: Asked = {"filter": json.dumps(wanted), "fields": "core", "limit": 2}
        found = self._reader.pages(_OBSERVATIONS, asked, f"the observation {observation!r}")
        traces = {filled(one.get("traceId")) for one in found if one.get("id") == observation}
        return traces.pop() if len(traces) == 1 else None


def _heard(read: Callable[[Seen, Any], Remark], said: Seen, ask: Callable[[str], Any]) -> Remark | Untold:
    try:
        return read(said, ask)
    except DataError as error:
        return Untold(str(said.get("id")), str(error))


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _is_since(comment: Seen, since: datetime) -> bool:
    try:
        return date_of(comment.get("createdAt")) >= since
    except DataError:
        return True  # it is counted as one that cannot be used


class _Reader:
    """Read the public API page by page, tried again while the server is busy or away.

    What it answers is checked here and not by the SDK's models: one odd value would make them refuse the whole page;
    here it costs the one trace that it is in.
    """

    def __init__(self, wire: Wire, sleep: Callable[[float], object]) -> None:
        """Ask over a wire, and wait between tries with `sleep`."""
        self._wire = wire
        self._sleep = sleep

    def pages(self, path: str, asked: Asked, what: str) -> Iterator[Seen]:
        """Yield what is in all the pages behind a cursor; raise ConfigError, NotFoundError or EngineError."""
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            found, meta = self._page(path, asked if cursor is None else {**asked, "cursor": cursor}, what)
            yield from found
            before, cursor = cursor, meta.get("cursor")
            if not cursor or cursor == before:
                return

    def numbered(self, path: str, asked: Asked, what: str) -> Iterator[Seen]:
        """Yield what is in all the pages of a list whose pages have numbers; raise as `pages` does."""
        for number in range(1, _MOST_PAGES):
            found, meta = self._page(path, {**asked, "page": number}, what)
            yield from found
            last = meta.get("totalPages")
            if not found or not isinstance(last, int) or number >= last:
                return

    def _page(self, path: str, asked: Asked, what: str) -> tuple[list[Seen], Seen]:
        """Return what is on a page, and what it says of the other pages."""
        page = self.one(path, asked, what)
        data, meta = page.get("data"), page.get("meta")
        if not isinstance(data, list):
            raise EngineError(
                f"Langfuse's answer about {what} holds no data: see that LANGFUSE_BASE_URL is a Langfuse's."
            )
        return [one for one in data if isinstance(one, dict)], meta if isinstance(meta, dict) else {}

    def one(self, path: str, asked: Asked, what: str) -> Seen:
        """Return one answer as an object; raise ConfigError, NotFoundError or EngineError."""
        import httpx

        said = ""
        for attempt in range(_TRIES):
            pause = min(_LONGEST_PAUSE, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)
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
                said = f"{answer.status_code}: {one_line(answer.text)}"
                pause = min(_LONGEST_PAUSE, seconds_of(answer.headers.get("retry-after")) or pause)
            if attempt + 1 < _TRIES:
                self._sleep(pause)
        raise EngineError(
            f"Langfuse at {self._wire.url} did not give {what}, in {_TRIES} tries: {said}. See that LANGFUSE_BASE_URL "
            "is right and the server is up, and run this again: nothing is stored twice."
        )
