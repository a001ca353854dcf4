"""Runs on their way to the store."""

from __future__ import annotations

from datetime import UTC, datetime

from langgraph_learnloop.records import Interned, Recorded, Run


def recorded(*runs: Run, bodies: dict[str, bytes] | None = None) -> list[Recorded]:
    """Return runs with what must be stored for the first of them; for none, a run of no interest carries it."""
    carriers = runs or (
        Run(run_id="carrier", agent="x", outcome="finished", started_at=datetime(2026, 1, 1, tzinfo=UTC)),
    )
    return [Recorded(run, Interned(bodies=(bodies or {}) if i == 0 else {})) for i, run in enumerate(carriers)]
