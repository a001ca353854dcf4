"""Join events to traces: a trace is one root with everything that happened in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langgraph_learnloop.capture.events import Event

EVALUATION = "learnloop_evaluation"
"""A tag, or a key of the metadata, of roots that are examinations and not an agent's work."""

_OPEN_TRACES = 10_000
"""Traces that may be open at once; beyond it the oldest is given up: its agent was killed, or never ends."""
_ENDED_IDS = 50_000
"""Ids of ended work that are remembered, to tell what comes late from what begins a trace."""


@dataclass(slots=True, eq=False)
class Work:
    """One piece of work, from its first event to its last."""

    start: Event
    parent: Work | None
    trace: Trace
    end: Event | None = None
    first_token: float | None = None
    """time.perf_counter() at the first token."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Return what LangChain, LangGraph and the caller say of it."""
        return self.start.details.get("metadata") or {}


@dataclass(slots=True, eq=False)
class Trace:
    """One root with its work, in order of start."""

    agent: str
    ignored: bool
    torn: bool
    """An event was lost, so that the trace would be told wrongly."""
    works: list[Work] = field(default_factory=list)
    paused: bool = False
    """The graph stopped for somebody to answer."""
    wanted: bool = True
    """Somebody wants it recorded."""
    reasons: list[str] = field(default_factory=list)
    """Why the agent's own graph flagged it."""
    resumes: UUID | None = None
    """The interrupted run of the same conversation that this one goes on with."""
    beside: str | None = None
    """The trace that another tracer keeps of it."""

    @property
    def root(self) -> Work:
        """Return the piece of work that holds all the others."""
        return self.works[0]

    @property
    def thread(self) -> str | None:
        """Return the conversation's id as the caller gave it."""
        thread_id = self.root.metadata.get("thread_id")
        return None if thread_id is None else str(thread_id)


class Tracker:
    """Follow the open traces of one agent, in one thread.

    A root is work whose parent was never seen here: an agent that is watched inside a larger graph has a parent too.
    """

    def __init__(self, dropped: Counter[str]) -> None:
        """Start without traces; `dropped` counts the traces that are given up, by reason."""
        self._open: dict[UUID, Work] = {}
        self._traces: dict[UUID, Trace] = {}
        self._ended: dict[UUID, None] = {}
        self._interrupted: dict[str, UUID] = {}
        self._dropped = dropped

    @property
    def traces(self) -> int:
        """Return how many traces are open."""
        return len(self._traces)

    def take(self, event: Event, lost: bool = False) -> Trace | None:
        """Take the next event, or news that it was lost; return the trace that it ended, if that is to be kept."""
        work = self._open.get(event.run_id)
        if event.kind in ("chain", "model", "tool"):
            if work is None:
                self._begin(event, lost)
            return None
        if work is None:
            return None
        work.trace.torn |= lost
        if event.kind not in ("end", "error"):
            self._note(event, work)
            return None
        work.end = event
        return self._finish(work.trace) if work is work.trace.root else None

    def _begin(self, event: Event, lost: bool) -> None:
        parent = self._open.get(event.parent_id) if event.parent_id else None
        if parent is None and event.parent_id in self._ended:
            self._dropped["steps that began after their run had ended"] += 1
            self._remember(event.run_id)
            return
        trace = parent.trace if parent else self._begin_trace(event)
        trace.torn |= lost
        work = Work(event._replace(payload=None, details={}) if trace.ignored else event, parent, trace)
        trace.works.append(work)
        self._open[event.run_id] = work

    def _begin_trace(self, event: Event) -> Trace:
        while len(self._traces) >= _OPEN_TRACES:
            self._dropped["runs that never ended"] += 1
            self._forget(next(iter(self._traces.values())))
        wanted = not event.details.get("only_wanted")
        trace = Trace(event.agent, ignored=_is_evaluation(event), torn=False, wanted=wanted)
        self._traces[event.run_id] = trace
        return trace

    def _note(self, event: Event, work: Work) -> None:
        """Take in an event that neither begins nor ends anything."""
        trace = work.trace
        if event.kind == "token":
            work.first_token = event.clock
        elif event.kind == "want":
            trace.wanted = True
        elif event.kind == "flag":
            trace.reasons.extend([event.payload] if event.payload not in trace.reasons else [])
        elif event.kind == "traced":
            trace.beside = event.payload
        elif work is trace.root and event.kind == "interrupt":
            trace.paused = True
        elif work is trace.root:
            trace.resumes = self._interrupted.get(trace.thread or "")

    def _finish(self, trace: Trace) -> Trace | None:
        self._forget(trace)
        if not trace.wanted:
            return None
        if trace.paused and trace.thread is not None:
            self._interrupted.pop(trace.thread, None)
            self._interrupted[trace.thread] = trace.root.start.run_id
            if len(self._interrupted) > _OPEN_TRACES:
                del self._interrupted[next(iter(self._interrupted))]
        if trace.torn and not trace.ignored:
            self._dropped["runs that lost an event to a full queue"] += 1
        return None if trace.torn or trace.ignored else trace

    def _forget(self, trace: Trace) -> None:
        del self._traces[trace.root.start.run_id]
        for work in trace.works:
            self._open.pop(work.start.run_id, None)
            self._remember(work.start.run_id)

    def _remember(self, run_id: UUID) -> None:
        self._ended[run_id] = None
        if len(self._ended) > _ENDED_IDS:
            del self._ended[next(iter(self._ended))]


def _is_evaluation(event: Event) -> bool:
    return EVALUATION in (event.details.get("tags") or ()) or EVALUATION in (event.details.get("metadata") or ())
