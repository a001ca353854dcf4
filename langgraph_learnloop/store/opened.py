"""Open a store: one database behind a drawer for each family of records."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from langgraph_learnloop.store.cycles import Cycles
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.datasets import Datasets
from langgraph_learnloop.store.decisions import Decisions
from langgraph_learnloop.store.feedback import Feedbacks
from langgraph_learnloop.store.flags import Flags
from langgraph_learnloop.store.outbox import Outbox
from langgraph_learnloop.store.releases import Releases
from langgraph_learnloop.store.rollouts import Rollouts
from langgraph_learnloop.store.runs import Runs
from langgraph_learnloop.store.scorecards import Scorecards


class Store:
    """Hold the drawers of one open database; close it, or use it as a context manager."""

    def __init__(self, database: Database, folder: Path) -> None:
        """Put the drawers on a database; `folder` takes what is too large for it."""
        self._database = database
        self.url = database.address
        self.path = database.path
        self.folder = folder
        self.feedback = Feedbacks(database)
        self.runs = Runs(database, self.feedback.of_run, folder / "blobs")
        self.flags = Flags(database)
        self.datasets = Datasets(database)
        self.releases = Releases(database)
        self.rollouts = Rollouts(database)
        self.scorecards = Scorecards(database)
        self.decisions = Decisions(database)
        self.cycles = Cycles(database)
        self.outbox = Outbox(database)

    def close(self) -> None:
        """Close the connections; the store can be opened again."""
        self._database.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()


def open_store(path_or_url: str | Path, folder: str | Path | None = None) -> Store:
    """Open a store, making the file and its tables if need be; raise StoreError with the way out.

    `folder` takes blobs and other large files (default: "<file>.files" beside the store, "learnloop.files" for a URL).
    """
    database = Database(path_or_url)
    return Store(database, Path(folder or (f"{database.path}.files" if database.path else "learnloop.files")))
