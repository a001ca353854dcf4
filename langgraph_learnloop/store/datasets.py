"""Keep the versions of what is to be learned."""

from __future__ import annotations

from sqlalchemy import select

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Dataset
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer
from langgraph_learnloop.store.outbox import note


class Datasets(Drawer):
    """Store dataset versions; a version never changes."""

    def add(self, dataset: Dataset) -> None:
        """Store a version; one that is there already stays."""
        row = {"version": dataset.version, "body": dataset.model_dump_json()}
        with self._database.writing() as connection:
            if self._database.is_new(connection, tables.datasets, row):
                note(connection, "dataset", [(dataset.version, None)])

    def get(self, version: str) -> Dataset:
        """Return a version, or raise NotFoundError."""
        query = select(tables.datasets.c.body).where(tables.datasets.c.version == version)
        found = self._record(Dataset, query)
        if found is None:
            raise NotFoundError(
                f"The dataset version {version!r} is not in the store {self._database.where!r}. "
                "`learnloop cycle` makes versions; `learnloop log` names those that were made."
            )
        return found

    def latest(self) -> Dataset:
        """Return the version that was added last, or raise NotFoundError when there is none."""
        query = select(tables.datasets.c.body).order_by(tables.datasets.c.seq.desc()).limit(1)
        found = self._record(Dataset, query)
        if found is None:
            raise NotFoundError(
                f"The store {self._database.where!r} holds no dataset yet. `learnloop cycle` makes one "
                "from flagged runs that were corrected."
            )
        return found

    def all(self) -> tuple[Dataset, ...]:
        """Return all versions, oldest first."""
        return self._records(Dataset, select(tables.datasets.c.body).order_by(tables.datasets.c.seq))
