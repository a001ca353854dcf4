"""Keep what candidates scored, case by case and as a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, delete, insert, select

from langgraph_learnloop.records import CaseResult, Scorecard
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer
from langgraph_learnloop.store.outbox import note


class Scorecards(Drawer):
    """Store scorecards, and the results of single cases so that a champion is examined once."""

    def add(self, scorecard: Scorecard) -> None:
        """Store a scorecard beside the earlier ones."""
        with self._database.writing() as connection:
            new = insert(tables.scorecards).values(candidate=scorecard.candidate, body=scorecard.model_dump_json())
            number = connection.execute(new.returning(tables.scorecards.c.seq)).scalar_one()
            note(connection, "examination", [(str(number), None)])

    def numbered(self, number: str) -> Scorecard:
        """Return a scorecard by the number that mirrors know it under."""
        query = select(tables.scorecards.c.body).where(tables.scorecards.c.seq == int(number))
        with self._database.reading() as connection:
            return Scorecard.model_validate_json(connection.execute(query).scalar_one())

    def of(self, candidate: str) -> Scorecard | None:
        """Return a candidate's latest scorecard, or None if it was never examined."""
        found = self._read(select(tables.scorecards.c.body).where(tables.scorecards.c.candidate == candidate))
        return found[-1] if found else None

    def all(self) -> tuple[Scorecard, ...]:
        """Return all scorecards, oldest first."""
        return self._read(select(tables.scorecards.c.body))

    def results(self, release_id: str, evaluator: str) -> dict[str, CaseResult]:
        """Return what is known of a release, by case id."""
        mine = (tables.results.c.release_id == release_id) & (tables.results.c.evaluator == evaluator)
        return {one.case_id: one for one in self._records(CaseResult, select(tables.results.c.body).where(mine))}

    def add_results(self, results: Sequence[CaseResult]) -> None:
        """Store results; a result that is there already stays."""
        rows = [
            {"release_id": r.release_id, "evaluator": r.evaluator, "case_id": r.case_id, "body": r.model_dump_json()}
            for r in results
        ]
        if rows:
            with self._database.writing() as connection:
                connection.execute(self._database.insert_new(tables.results), rows)

    def forget_results(self, release_id: str, evaluator: str) -> None:
        """Forget what is known of a release, so that it is asked again."""
        mine = (tables.results.c.release_id == release_id) & (tables.results.c.evaluator == evaluator)
        with self._database.writing() as connection:
            connection.execute(delete(tables.results).where(mine))

    def _read(self, query: Select[Any]) -> tuple[Scorecard, ...]:
        return self._records(Scorecard, query.order_by(tables.scorecards.c.seq))
