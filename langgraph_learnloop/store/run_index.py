"""Find similar runs in a folder of this machine, by the engine of Qdrant in this process.

The engine, `qdrant-edge-py`, has manners of its own, which this file makes up for:

- A call of it lets no other thread of the process run until it is done: points are handed over some at a time, and the
  one act that takes seconds, building the graph for fast search, is done by a process of its own.
- Two processes that open one shard at once may harm it, even though one of them is refused: a lock of ours comes first.
- A full disk ends the process, with no error to catch: what will be needed must be free before anything is written.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph_learnloop.errors import LearnLoopError, StoreError, needing
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.points import at_least_one, point_id, same_length, space_id, unit, units, within
from langgraph_learnloop.records import Near, RunPoint
from langgraph_learnloop.store.run_index_files import Claim, claimed, has_room, optimized
from langgraph_learnloop.texts import one_line

_AT_ONCE = 131_072
"""Numbers that are handed to the engine in one call: some ten milliseconds in which nothing else runs."""
_SCANNED = 60_000_000
"""Numbers that are compared one by one rather than by a graph, some ten milliseconds: exact, and nothing to build."""
_BYTES = 2
"""Of a number as it is kept: half precision moves a cosine by less than 0.001, and halves disk, memory and time."""
_MANY = 1_000
"""Points in one call from which on it may take seconds to build the graph."""
_WRITTEN = 16
"""Bytes on the disk for each number that is added, at the worst: log, vector, and the graph while it is built."""
_NAME = "name"
_SAYS = "space.json"
"""What a space is, written when its shard is whole."""
_WAIT = 0.05
"""Seconds between two looks at what another process holds."""
_log = logging.getLogger(__name__)


@dataclass
class _Shard:
    """The shard of a space, open in this process."""

    place: Path
    length: int
    """Numbers in a vector."""
    claim: Claim
    engine: Any

    def close(self) -> None:
        """Let go of it; the claim goes last."""
        with suppress(Exception):
            self.engine.close()
        self.claim.close()


class EdgeIndex:
    """Find the nearest runs in a folder; one process at a time may have a space of it open, its threads all at once.

    The folder holds nothing that is not in the store: what is damaged there can be removed, and is made anew.
    """

    def __init__(
        self,
        folder: str | Path,
        patience: float = 10.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use a folder, which is made when it is needed; wait `patience` seconds for other processes."""
        self._folder = Path(folder)
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._open: dict[str, _Shard] = {}
        self._lock = threading.RLock()

    @property
    def place(self) -> str:
        """Return what names this folder, wherever it is moved to or mounted; raise StoreError if it takes no file.

        It is written when it is first asked for: a folder that was removed and made anew is another place.
        """
        named = self._folder / _NAME
        try:
            if not named.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                with whole_file(named) as beside:
                    beside.write_text(uuid.uuid4().hex, encoding="utf-8")
            return named.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise StoreError(
                f"The index of similar runs in {str(self._folder)!r} cannot be used: {error.strerror or error}. See "
                "that the folder may be written, or choose another one."
            ) from error

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        """Keep points of a space, on the disk when this returns; raise DataError and StoreError, and keep nothing then.

        From 1,000 points on, a call may take seconds longer, so that searches among very many stay fast.
        """
        if not points:
            return
        rows = units(space, points)
        with self._lock:
            with self._told(space):
                has_room(self._folder, _WRITTEN * len(rows) * len(rows[0]))
            shard = self._made(space, len(rows[0]))
            same_length(space, shard.length, len(rows[0]), f"the run {points[0].run_id!r}")
            with self._told(space):
                _added(shard.engine, points, rows)
            if len(points) >= _MANY:
                self._optimize(space, shard)

    def near(self, space: str, vector: Sequence[float], limit: int, agent: str) -> tuple[Near, ...]:
        """Return an agent's nearest points, the nearest first; raise DataError and StoreError."""
        at_least_one(limit)
        row = unit(vector, "what is looked for")
        with self._lock:
            if (shard := self._there(space)) is None:
                return ()
            same_length(space, shard.length, len(row), "what is looked for")
            with self._told(space):
                most = min(limit, max(1, shard.engine.info().points_count))
                found = shard.engine.query(_query(row, most, agent))
                near = [Near(one.payload["run_id"], within(one.score)) for one in found]
        return tuple(sorted(near, key=lambda one: (-one.cosine, one.run_id)))

    def size(self, space: str, agent: str) -> int:
        """Return how many points of an agent a space holds, exactly; raise StoreError."""
        edge = _library()
        with self._lock:
            if (shard := self._there(space)) is None:
                return 0
            with self._told(space):
                return int(shard.engine.count(edge.CountRequest(filter=_of(agent), exact=True)))

    def close(self) -> None:
        """Let go of every space, for other processes; the next call opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _place(self, space: str) -> Path:
        return self._folder / space_id(space)

    def _there(self, space: str) -> _Shard | None:
        """Return the shard of a space; None where there is none, or none that was made to the end."""
        says = self._place(space) / _SAYS
        with self._told(space):
            there = says.exists()
        if not there:
            self._forget(space)  # somebody removed it, as our errors advise
            return None
        return self._open.get(space) or self._opened(space)

    def _made(self, space: str, length: int) -> _Shard:
        """Return the shard of a space; a new one where there is none."""
        if (shard := self._there(space)) is not None:
            return shard
        place = self._place(space)
        with self._told(space):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._claim(place) as claim:
                if not (place / _SAYS).exists():  # no other process was faster
                    has_room(self._folder, 0)
                    _make(place, space, length)
                return self._keep(space, claim)

    def _opened(self, space: str) -> _Shard:
        place = self._place(space)
        with self._told(space), self._claim(place) as claim:
            has_room(self._folder, 0)
            return self._keep(space, claim)

    def _keep(self, space: str, claim: Claim) -> _Shard:
        """Load what is claimed, and keep it and the claim."""
        place = self._place(space)
        length = int(json.loads((place / _SAYS).read_text(encoding="utf-8"))["length"])
        engine = _library().EdgeShard.load(str(place / "shard"))
        self._open[space] = shard = _Shard(place, length, claim, engine)
        return shard

    @contextmanager
    def _claim(self, place: Path) -> Iterator[Claim]:
        """Claim a space for this process, within `patience` seconds; the claim stays unless the block raises."""
        until = self._clock() + self._patience
        while (claim := claimed(place)) is None:
            if self._clock() >= until:
                raise StoreError(
                    f"The index of similar runs in {str(place)!r} was in use for {self._patience:g} seconds: close it "
                    "in the other process, or use a Qdrant server, which several may use at once."
                )
            self._sleep(_WAIT)
        try:
            yield claim
        except BaseException:
            claim.close()
            raise

    @contextmanager
    def _told(self, space: str) -> Iterator[None]:
        """Make one sentence of what the engine raises: plain exceptions, and panics, which are none."""
        try:
            yield
        except LearnLoopError:
            raise
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            self._forget(space)
            raise StoreError(
                f"The index of similar runs in {str(self._place(space))!r} cannot be used: {one_line(error)}. See that "
                "the folder may be written; else remove it: what it holds is in the store, and it is built anew."
            ) from error

    def _forget(self, space: str) -> None:
        if (shard := self._open.pop(space, None)) is not None:
            shard.close()

    def _optimize(self, space: str, shard: _Shard) -> None:
        """Have the graph built where so much was added that it pays; without it, all is found as well, more slowly."""
        with self._told(space):
            info = shard.engine.info()
            if (info.points_count - info.indexed_vectors_count) * shard.length < _SCANNED:
                return
            shard.engine.close()
            why = optimized(shard.place / "shard", shard.claim)
            shard.engine = _library().EdgeShard.load(str(shard.place / "shard"))
        if why:
            _log.warning("Similar runs in %r take longer to find: %s. See that memory is free.", str(shard.place), why)


def _library() -> Any:
    with needing("Finding similar runs"):
        import qdrant_edge
    return qdrant_edge


def _make(place: Path, space: str, length: int) -> None:
    """Make the shard of a space; what was cut off when it was made goes first, and what it is is said last."""
    edge = _library()
    if place.exists():
        shutil.rmtree(place)
    (place / "shard").mkdir(parents=True)
    engine = edge.EdgeShard.create(str(place / "shard"), _config(edge, length))
    engine.update(edge.UpdateOperation.create_field_index("agent", edge.PayloadSchemaType.Keyword))
    engine.flush()
    engine.close()
    with whole_file(place / _SAYS) as beside:
        beside.write_text(json.dumps({"space": space, "length": length}), encoding="utf-8")


def _config(edge: Any, length: int) -> Any:
    """Return how vectors are kept: at half precision, and from some size on with a graph over numbers of 8 bits.

    Building the graph over those takes an eighth of the time, and what it finds is compared anew with the vectors.
    """
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=length, distance=edge.Distance.Cosine, datatype=edge.VectorStorageDatatype.Float16
        ),
        hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
        quantization_config=edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8, quantile=0.99, memory=edge.Memory.Pinned
        ),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=_SCANNED * _BYTES // 1024, default_segment_number=1),
    )


def _added(engine: Any, points: Sequence[RunPoint], rows: list[list[float]]) -> None:
    """Hand points over, and see them onto the disk."""
    edge = _library()
    step = max(1, _AT_ONCE // len(rows[0]))
    for start in range(0, len(rows), step):
        some = zip(points[start : start + step], rows[start : start + step], strict=True)
        given = [
            edge.Point(point_id(one.agent, one.run_id), row, {"run_id": one.run_id, "agent": one.agent})
            for one, row in some
        ]
        engine.update(edge.UpdateOperation.upsert_points(given))
    engine.flush()


def _query(row: list[float], limit: int, agent: str) -> Any:
    edge = _library()
    again = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
    return edge.QueryRequest(
        limit=limit,
        query=edge.Query.Nearest(row),
        filter=_of(agent),
        params=edge.SearchParams(hnsw_ef=max(256, 2 * limit), quantization=again),
        with_payload=["run_id"],
    )


def _of(agent: str) -> Any:
    edge = _library()
    return edge.Filter(must=[edge.FieldCondition(key="agent", match=edge.MatchValue(agent))])
