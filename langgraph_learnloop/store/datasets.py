"""Keep the versions of what is to be learned."""

from __future__ import annotations

from sqlalchemy import select

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Dataset
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.outbox import note
from langgraph_learnloop.store.tables import datasets as datasets_table


class Datasets:
    """Store dataset versions; a version never changes."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def add(self, dataset: Dataset) -> None:
        """Store a version; one that is there already stays."""
        row = {"version": dataset.version, "body": dataset.model_dump_json()}
        with self._database.writing() as connection:
            if self._database.is_new(connection, datasets_table, row):
                note(connection, "dataset", [(dataset.version, None)])

    def get(self, version: str) -> Dataset:
        """Return a version, or raise NotFoundError."""
        found = next((dataset for dataset in self.all() if dataset.version == version), None)
        if found is None:
            raise NotFoundError(
                f"The dataset version {version!r} is not in the store {self._database.where!r}. "
                "`learnloop cycle` makes versions; `learnloop log` names those that were made."
            )
        return found

    def latest(self) -> Dataset:
        """Return the version that was added last, or raise NotFoundError when there is none."""
        versions = self.all()
        if not versions:
            raise NotFoundError(
                f"The store {self._database.where!r} holds no dataset yet. `learnloop cycle` makes one "
                "from flagged runs that were corrected."
            )
        return versions[-1]

    def all(self) -> tuple[Dataset, ...]:
        """Return all versions, oldest first."""
        query = select(datasets_table.c.body).order_by(datasets_table.c.seq)
        with self._database.reading() as connection:
            return tuple(Dataset.model_validate_json(body) for body in connection.execute(query).scalars())
