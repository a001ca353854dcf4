"""Find recorded runs that were asked something similar, in an index that catches up with the store when it is asked.

Nothing of it is in the agent's way: the store notes which runs the index does not have yet, and whoever looks for
similar runs brings them in first. The index holds nothing that is not in the store, so that it may be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.evaluators import type_and_name
from langgraph_learnloop.mirrors import Kind
from langgraph_learnloop.ports import RunIndex
from langgraph_learnloop.records import Run, RunPoint, Similar, content_hash
from langgraph_learnloop.store.opened import Store

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langgraph_learnloop.curation.texts import Vectors

_PREFIX = "similar:"
"""What the index is called in the store begins with."""
_KINDS: tuple[Kind, ...] = ("run",)
_BATCH = 1_000
"""Runs that are brought in at a time; an index may look after itself where so many come at once."""
_MOST = 100_000
"""Runs that are noted for an index that nobody asked for so long."""


class Embedding:
    """Make vectors of what was asked: by LangChain embeddings, or by hashed character n-grams.

    Those know spelling and no meaning, and need no download.
    """

    def __init__(self, embeddings: Embeddings | None) -> None:
        """Embed by these, or by hashing for None."""
        self._embeddings = embeddings
        self._name = "hashed" if embeddings is None else type_and_name(embeddings)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return a row of length 1 for each text, of zeros where there is nothing to embed; DataError if unusable."""
        from langgraph_learnloop.curation.texts import hashed, of_length_one

        return hashed(texts) if self._embeddings is None else of_length_one(self._embeddings.embed_documents, texts)

    def space(self, row: Vectors) -> str:
        """Return the name of the space that a row is in: vectors of another one are not comparable with it."""
        return f"{self._name} {len(row)}"


class SimilarRuns:
    """Keep an index of what agents were asked."""

    def __init__(self, store: Store, index: RunIndex, embed: Embedding) -> None:
        """Work on an open store; the index is opened for as long as somebody looks for something."""
        self._store = store
        self._index = index
        self._embed = embed

    def near(self, run: Run, limit: int, on_progress: Callable[[int], object]) -> tuple[Similar, ...]:
        """Return the runs of the same agent whose question is nearest to a run's, nearest first, without itself.

        Runs that the index does not have yet are brought in first; `on_progress` is told how many are left. Raise
        DataError for a run without a question, and StoreError when the index cannot be used.
        """
        (row,) = self._embed([run.question or ""])
        if not row.any():
            raise DataError(
                f"The run {run.run_id!r} has no question that it could be compared by: take a run with a user's "
                "message in words."
            )
        space = self._embed.space(row)
        with closing(self._index):
            self._catch_up(space, run.agent, on_progress)
            found = self._index.near(space, tuple(row.tolist()), limit + 1, run.agent)
        runs = self._store.runs.many([one.run_id for one in found])
        flags = self._store.flags.of(list(runs))
        similar = (Similar(runs[key], cosine, flags.get(key)) for key, cosine in found if key in runs)
        return tuple(one for one in similar if one.run.run_id != run.run_id)[:limit]

    def _catch_up(self, space: str, agent: str, on_progress: Callable[[int], object]) -> None:
        outbox = self._store.outbox
        here = _PREFIX + content_hash(self._index.place)[:12]
        name = f"{here}:{content_hash(space)[:12]}"
        if not self._index.size(space, agent):  # it is new, or was removed
            outbox.forget(name)
        for other in {one for one in outbox.names() if one.startswith(_PREFIX)} - {name}:
            # What is noted for an index that nobody asks would pile up; who asks it again gets all runs anew.
            if other.startswith(here) or outbox.backlog(other).waiting > _MOST:
                outbox.forget(other)
        outbox.register(name, _KINDS, everything=True)
        while waiting := outbox.waiting(name, "run", _BATCH, told_before=0.0):
            on_progress(outbox.backlog(name).waiting)
            runs = self._store.runs.many([one.subject for one in waiting])
            self._index.add(space, self._points(list(runs.values())))
            outbox.told([one.seq for one in waiting])  # after that: bringing a run in twice changes nothing

    def _points(self, runs: Sequence[Run]) -> list[RunPoint]:
        rows = self._embed([run.question or "" for run in runs])
        return [
            RunPoint(run.run_id, run.agent, tuple(row.tolist()))
            for run, row in zip(runs, rows, strict=True)
            if row.any()
        ]


def index_of(found: RunIndex | None, store: Store) -> RunIndex:
    """Return the index of the settings, or the one in a folder beside the store."""
    from langgraph_learnloop.store.run_index import EdgeIndex

    return found if found is not None else EdgeIndex(store.folder / "similar")
