"""Order the observations of a Langfuse trace: which is in which, and which of them are an agent's runs.

Whatever wrote them is not trusted: what has no id, no time or no end of parents makes its trace unusable, with a
reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.integrations.langfuse_messages import Seen, date_of, filled, parsed
from langgraph_learnloop.mirrors import span_of, trace_of

MOST_OBSERVATIONS = 10_000
"""Observations of one trace."""
LARGEST_TRACE = 200_000_000
"""Characters of what went in and came out in one trace, all told."""
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that Langfuse saw."""

    id: str
    parent: str | None
    kind: str
    """Langfuse's type, in capitals."""
    name: str
    began: datetime
    ended: datetime | None
    failed: bool
    said: str | None
    """The status message."""
    facts: Mapping[str, Any]
    """Metadata."""
    seen: Seen
    """All of it, as it was sent."""

    @property
    def seconds(self) -> float | None:
        """Return the wall time."""
        return None if self.ended is None else max(0.0, (self.ended - self.began).total_seconds())

    @property
    def step_id(self) -> str | None:
        """Return the id of the step that our mirror told here; None for what another tracer wrote."""
        known = self.fact("step_id")
        return known if known is not None and span_of(known) == self.id else None

    def fact(self, name: str) -> str | None:
        """Return a piece of metadata as a text; None where it is not there."""
        value = self.facts.get(name)
        return None if value is None or isinstance(value, dict | list) else str(value)


class Traced(NamedTuple):
    """One run of a trace: its root, and what is in it, parents first."""

    trace: str
    root: Observation
    members: Sequence[Observation]
    resumes: Observation | None
    """The root of the run that it goes on with."""

    @property
    def ours(self) -> str | None:
        """Return the id of the run that a mirror of ours told here; None where another tracer wrote it."""
        return _ours(self.trace, self.root)


def ordered(trace: str, seen: Iterable[Seen]) -> list[Traced]:
    """Return the runs of a trace, in order of start; raise DataError where it has none, or is in no order."""
    by_id: dict[str, Observation] = {}
    size = 0
    for one in seen:
        size += sum(len(text) for text in (one.get("input"), one.get("output")) if isinstance(text, str))
        if len(by_id) >= MOST_OBSERVATIONS or size > LARGEST_TRACE:
            raise DataError(f"It has more than {MOST_OBSERVATIONS:,} observations, or {LARGEST_TRACE:,} characters.")
        read = _observation(one)
        by_id.setdefault(read.id, read)  # sent twice after a failure, it stands there twice
    found = _parents_first(by_id)
    return _with_members(trace, _roots(trace, found, by_id), found)


def _ours(trace: str, root: Observation) -> str | None:
    run_id = root.fact("run_id")
    return run_id if run_id is not None and root.step_id is None and trace_of(run_id) == trace else None


def _observation(seen: Seen) -> Observation:
    own_id, ended = seen.get("id"), seen.get("endTime")
    if not isinstance(own_id, str) or not 0 < len(own_id) <= _LONGEST_ID:
        raise DataError("It has an observation without an id.")
    metadata = parsed(seen.get("metadata"))
    facts = {str(key): _fact(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Observation(
        id=own_id,
        parent=filled(seen.get("parentObservationId")),
        kind=str(seen.get("type") or "SPAN").upper(),
        name=str(seen.get("name") or ""),
        began=date_of(seen.get("startTime")),
        ended=None if ended is None else date_of(ended),
        failed=seen.get("level") == "ERROR",
        said=filled(seen.get("statusMessage")),
        facts=facts,
        seen=seen,
    )


def _fact(value: Any) -> Any:
    """Return a value of metadata; what is no text is kept as JSON by some servers, and by some even texts are."""
    quoted = isinstance(value, str) and (value[:1] in ('"', "[", "{") or value in ("true", "false", "null"))
    return parsed(value) if quoted else value


def _parents_first(by_id: Mapping[str, Observation]) -> list[Observation]:
    """Return each observation before those in it, and those before the next one; raise DataError when it has no top.

    Servers keep milliseconds, in which a node may end and the next one begin: what is in the first still comes first.
    """
    inside: defaultdict[str | None, list[Observation]] = defaultdict(list)
    for one in sorted(by_id.values(), key=_by_time, reverse=True):
        inside[one.parent if one.parent in by_id else None].append(one)
    waiting, found = inside[None], list[Observation]()
    while waiting:
        found.append(waiting.pop())
        waiting.extend(inside[found[-1].id])
    if len(found) < len(by_id):
        raise DataError("Its observations are their own parents.")
    return found


def _by_time(one: Observation) -> tuple[Any, ...]:
    return one.began, one.ended is None, one.ended or one.began, one.step_id or one.id


def _roots(trace: str, found: Sequence[Observation], by_id: Mapping[str, Observation]) -> dict[str, Observation | None]:
    """Return the ids of runs' roots, each with the root of the run that it goes on with."""
    marked = [one for one in found if one.facts.get("is_langchain_root") is True or _ours(trace, one)]
    tops = marked or [one for one in found if one.parent is None or one.seen.get("isRootObservation") is True]
    if not tops:
        raise DataError("Its root is missing: the process that was traced ended before it was sent.")
    roots: dict[str, Observation | None] = {}
    for one in tops:
        above = _above(one, roots, by_id)
        if above is None or (above.ended is not None and one.began >= above.ended):
            roots[one.id] = above
    return roots


def _above(one: Observation, roots: Mapping[str, Any], by_id: Mapping[str, Observation]) -> Observation | None:
    at = by_id.get(one.parent or "")
    while at is not None and at.id not in roots:
        at = by_id.get(at.parent or "")
    return at


def _with_members(trace: str, roots: Mapping[str, Observation | None], found: Sequence[Observation]) -> list[Traced]:
    """Return the runs that have a model call."""
    home: dict[str, str] = {}
    members: dict[str, list[Observation]] = {root: [] for root in roots}
    by_start = sorted((one for one in found if one.id in roots), key=lambda one: one.began)
    known = {one.id for one in found}
    for one in found:
        if one.id in roots:
            home[one.id] = one.id
        elif one.parent in home:
            home[one.id] = home[one.parent]
        elif one.parent is not None and one.parent not in known:  # its parent was lost
            home[one.id] = next((r.id for r in reversed(by_start) if r.began <= one.began), by_start[0].id)
        if one.id in home:
            members[home[one.id]].append(one)
    runs = [Traced(trace, root, members[root.id], roots[root.id]) for root in by_start]
    runs = [one for one in runs if any(member.kind == "GENERATION" for member in one.members)]
    if not runs:
        raise DataError("It holds no model call, so it is no agent's.")
    return runs
