"""Keep what candidates scored, case by case and as a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, delete, insert, select

from langgraph_learnloop.records import CaseResult, Scorecard
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.outbox import note
from langgraph_learnloop.store.tables import results as results_table
from langgraph_learnloop.store.tables import scorecards as scorecards_table


class Scorecards:
    """Store scorecards, and the results of single cases so that a champion is examined once."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def add(self, scorecard: Scorecard) -> None:
        """Store a scorecard beside the earlier ones."""
        with self._database.writing() as connection:
            new = insert(scorecards_table).values(candidate=scorecard.candidate, body=scorecard.model_dump_json())
            number = connection.execute(new.returning(scorecards_table.c.seq)).scalar_one()
            note(connection, "examination", [(str(number), None)])

    def numbered(self, number: str) -> Scorecard:
        """Return a scorecard by the number that mirrors know it under."""
        with self._database.reading() as connection:
            mine = scorecards_table.c.seq == int(number)
            body = connection.execute(select(scorecards_table.c.body).where(mine)).scalar_one()
        return Scorecard.model_validate_json(body)

    def of(self, candidate: str) -> Scorecard | None:
        """Return a candidate's latest scorecard, or None if it was never examined."""
        found = self._read(select(scorecards_table.c.body).where(scorecards_table.c.candidate == candidate))
        return found[-1] if found else None

    def all(self) -> tuple[Scorecard, ...]:
        """Return all scorecards, oldest first."""
        return self._read(select(scorecards_table.c.body))

    def results(self, release_id: str, evaluator: str) -> dict[str, CaseResult]:
        """Return what is known of a release, by case id."""
        mine = (results_table.c.release_id == release_id) & (results_table.c.evaluator == evaluator)
        with self._database.reading() as connection:
            bodies = connection.execute(select(results_table.c.body).where(mine)).scalars().all()
        found = (CaseResult.model_validate_json(body) for body in bodies)
        return {result.case_id: result for result in found}

    def add_results(self, results: Sequence[CaseResult]) -> None:
        """Store results; a result that is there already stays."""
        rows = [
            {"release_id": r.release_id, "evaluator": r.evaluator, "case_id": r.case_id, "body": r.model_dump_json()}
            for r in results
        ]
        if rows:
            with self._database.writing() as connection:
                connection.execute(self._database.insert_new(results_table), rows)

    def forget_results(self, release_id: str, evaluator: str) -> None:
        """Forget what is known of a release, so that it is asked again."""
        mine = (results_table.c.release_id == release_id) & (results_table.c.evaluator == evaluator)
        with self._database.writing() as connection:
            connection.execute(delete(results_table).where(mine))

    def _read(self, query: Select[str]) -> tuple[Scorecard, ...]:
        with self._database.reading() as connection:
            bodies = connection.execute(query.order_by(scorecards_table.c.seq)).scalars().all()
        return tuple(Scorecard.model_validate_json(body) for body in bodies)
