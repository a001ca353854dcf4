"""Keep what people and judges said of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Feedback
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer, parts
from langgraph_learnloop.store.outbox import note


class Feedbacks(Drawer):
    """Store feedback before the call returns, and give it back oldest first."""

    def add(self, feedback: Feedback) -> bool:
        """Store feedback and return True, or False if its id is there already; raise NotFoundError without its run."""
        row = {
            "feedback_id": feedback.feedback_id,
            "run_id": feedback.run_id,
            "at": feedback.at.timestamp(),
            "body": feedback.model_dump_json(),
        }
        with self._database.writing() as connection:
            if connection.execute(select(tables.runs.c.run_id).where(tables.runs.c.run_id == feedback.run_id)).first():
                new = self._database.is_new(connection, tables.feedback, row)
                if new:
                    note(connection, "feedback", [(feedback.feedback_id, None)])
                return new
        raise NotFoundError(
            f"Feedback {feedback.feedback_id!r} is about the run {feedback.run_id!r}, which is not in "
            f"the store {self._database.where!r}. Flush the recorder first, or mend the id."
        )

    def many(self, feedback_ids: Sequence[str]) -> tuple[Feedback, ...]:
        """Return those of some pieces of feedback that are stored, oldest first."""
        found: list[Feedback] = []
        for part in parts(feedback_ids):
            found += self._read(select(tables.feedback.c.body).where(tables.feedback.c.feedback_id.in_(part)))
        return tuple(found)

    def of_run(self, run_id: str) -> tuple[Feedback, ...]:
        """Return what was said of a run, oldest first."""
        return self._read(select(tables.feedback.c.body).where(tables.feedback.c.run_id == run_id))

    def among(self, run_ids: Sequence[str]) -> dict[str, list[Feedback]]:
        """Return what was said of some runs, oldest first, by run."""
        found: dict[str, list[Feedback]] = {}
        for part in parts(run_ids):
            for said in self._read(select(tables.feedback.c.body).where(tables.feedback.c.run_id.in_(part))):
                found.setdefault(said.run_id, []).append(said)
        return found

    def all(self, agent: str | None = None) -> tuple[Feedback, ...]:
        """Return all feedback, or that of one agent, oldest first."""
        query = select(tables.feedback.c.body)
        if agent is not None:
            joined = tables.runs.c.run_id == tables.feedback.c.run_id
            query = query.join(tables.runs, joined).where(tables.runs.c.agent == agent)
        return self._read(query)

    def _read(self, query: Select[Any]) -> tuple[Feedback, ...]:
        return self._records(Feedback, query.order_by(tables.feedback.c.at, tables.feedback.c.seq))
