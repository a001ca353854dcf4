"""What every index of runs keeps to: the one in a folder, the one on a server, and the fake."""

from __future__ import annotations

import math
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langgraph_learnloop.errors import DataError, StoreError
from langgraph_learnloop.integrations.qdrant_server import QdrantServer
from langgraph_learnloop.ports import RunIndex
from langgraph_learnloop.records import Near, RunPoint
from langgraph_learnloop.store.run_index import EdgeIndex
from langgraph_learnloop.testing import MemoryIndex
from tests.integrations.loopback_qdrant import Qdrant

CLOSE = 2e-3
"""How far a cosine may be off: the index in a folder keeps vectors at half precision."""
KINDS = ("memory", "folder", "client", "http", "real")
A, B = "support", "sales"


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunIndex]:
    """Yield each kind; a space of one test is not another's."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "memory":
        yield MemoryIndex()
    elif request.param == "folder":
        made = EdgeIndex(folder)
        yield made
        made.close()
    elif request.param == "client":
        from qdrant_client import QdrantClient

        yield QdrantServer.of(QdrantClient(":memory:"))
    elif request.param == "http":
        with pytest.MonkeyPatch.context() as patch, Qdrant(folder) as server:
            patch.setenv("NO_PROXY", "*")
            yield QdrantServer(server.url)
    else:
        yield from _real()


def _real() -> Iterator[RunIndex]:
    """Yield the index on a real server, whose address QDRANT_URL says, and its key QDRANT_API_KEY."""
    if not (url := os.environ.get("QDRANT_URL")):
        pytest.skip("no Qdrant server: set QDRANT_URL, and QDRANT_API_KEY where it has a key")
    from qdrant_client import QdrantClient

    prefix = f"learnloop-test-{uuid.uuid4().hex[:8]}"
    key = os.environ.get("QDRANT_API_KEY")
    yield QdrantServer(url, key, prefix)
    client = QdrantClient(url, api_key=key)
    for one in client.get_collections().collections:
        if one.name.startswith(prefix):
            client.delete_collection(one.name)


@pytest.fixture
def space() -> str:
    return f"a space/of: its own \u00fc {uuid.uuid4()}"


def point(run_id: str, *vector: float, agent: str = A) -> RunPoint:
    return RunPoint(run_id, agent, vector)


def ids(found: tuple[Near, ...]) -> list[str]:
    return [one.run_id for one in found]


def test_the_nearest_come_first(index: RunIndex, space: str) -> None:
    """By cosine, of which the length of a vector is no part."""
    index.add(space, [point("up", 0, 1), point("right", 3, 0), point("between", 1, 1), point("down", 0, -1)])
    found = index.near(space, [0, 5], 4, A)
    assert ids(found) == ["up", "between", "right", "down"]
    assert [one.cosine for one in found] == pytest.approx([1, math.sqrt(0.5), 0, -1], abs=CLOSE)
    assert all(-1 <= one.cosine <= 1 for one in found)
    assert ids(index.near(space, [0, 5], 2, A)) == ["up", "between"]


def test_agents_and_spaces_are_kept_apart(index: RunIndex, space: str) -> None:
    """A run of one agent is not another's, also where they have one id; spaces may differ in length."""
    index.add(space, [point("r", 1, 0), point("r", 0, 1, agent=B), point("s", 0, 1, agent=B)])
    index.add(f"{space}!", [point("t", 1, 0, 0)])
    assert ids(index.near(space, [1, 0], 9, A)) == ["r"]
    assert sorted(ids(index.near(space, [1, 0], 9, B))) == ["r", "s"]
    assert (index.size(space, A), index.size(space, B), index.size(f"{space}!", A)) == (1, 2, 1)
    assert index.near(space, [1, 0], 9, "nobody") == ()
    assert index.size(space, "nobody") == 0


def test_an_empty_space_is_not_an_error(index: RunIndex, space: str) -> None:
    """Nothing is near, and nothing is made by asking, or by adding nothing."""
    index.add(space, [])
    assert index.near(space, [1, 0], 3, A) == ()
    assert index.size(space, A) == 0


def test_adding_again_replaces(index: RunIndex, space: str) -> None:
    """A run has one point: the last that was given, within a call, too."""
    index.add(space, [point("r", 1, 0), point("r", 0, 1)])
    assert index.near(space, [0, 1], 3, A)[0].cosine == pytest.approx(1, abs=CLOSE)
    index.add(space, [point("r", 1, 0), point("s", 1, 1)])
    assert index.size(space, A) == 2
    assert ids(index.near(space, [1, 0], 3, A)) == ["r", "s"]


def test_it_can_be_closed_and_used_again(index: RunIndex, space: str) -> None:
    """What was added is there after `close`, which may be called twice."""
    index.add(space, [point("r", 1, 0)])
    index.close()
    index.close()
    assert ids(index.near(space, [1, 0], 1, A)) == ["r"]
    assert index.size(space, A) == 1


BAD: dict[str, tuple[Any, ...]] = {
    "not a number": (math.nan, 1),
    "infinite": (math.inf, 1),
    "all zeros": (0, 0),
    "empty": (),
    "no number": ("a", 1),
    "nothing": (None, 1),
}


@pytest.mark.parametrize("vector", BAD.values(), ids=BAD)
def test_a_vector_without_direction_is_refused(index: RunIndex, space: str, vector: tuple[Any, ...]) -> None:
    """In one sentence, which names its run, and before anything of the call is kept."""
    with pytest.raises(DataError, match="The vector of the run 'bad'"):
        index.add(space, [point("good", 1, 0), RunPoint("bad", A, vector)])
    assert index.size(space, A) == 0
    with pytest.raises(DataError, match="what is looked for"):
        index.near(space, vector, 3, A)


def test_vectors_of_two_lengths_are_refused(index: RunIndex, space: str) -> None:
    """Whether in one call or in two; what was there stays as it was."""
    with pytest.raises(DataError, match="has 3 numbers"):
        index.add(space, [point("r", 1, 0), point("s", 1, 0, 0)])
    assert index.size(space, A) == 0
    index.add(space, [point("r", 1, 0)])
    refusal = StoreError if isinstance(index, QdrantServer) else DataError
    for attempt in (lambda: index.add(space, [point("s", 1, 0, 0)]), lambda: index.near(space, [1, 0, 0], 3, A)):
        with pytest.raises(refusal):
            attempt()
    assert ids(index.near(space, [1, 0], 3, A)) == ["r"]


def test_less_than_one_cannot_be_asked_for(index: RunIndex, space: str) -> None:
    """And more than there is can."""
    with pytest.raises(DataError, match="at least 1"):
        index.near(space, [1, 0], 0, A)
    index.add(space, [point("r", 1, 0)])
    assert ids(index.near(space, [1, 0], 10_000, A)) == ["r"]


def test_half_a_character_is_refused(index: RunIndex, space: str) -> None:
    """No engine can keep it."""
    with pytest.raises(DataError, match="half a character"):
        index.add(space, [point("\ud800", 1, 0)])


@pytest.mark.parametrize("vector", [(1e-300, 0), (5e-324, 5e-324), (1e300, -1e300), (1e-30, 0)])
def test_no_number_is_too_small_or_too_large(index: RunIndex, space: str, vector: tuple[float, ...]) -> None:
    """Vectors are brought to the length 1 before the engine, which counts in few bits, sees them."""
    index.add(space, [RunPoint("r", A, vector)])
    assert index.near(space, vector, 1, A)[0].cosine == pytest.approx(1, abs=CLOSE)


def test_threads_may_add_and_look_at_once(index: RunIndex, space: str) -> None:
    """Nothing is lost, and nobody is refused."""
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(5):
                index.add(space, [point(f"{number}-{i}", number + 1, i)])
                assert index.near(space, [1, 0], 3, A)
        except BaseException as error:  # noqa: BLE001 - whatever it is fails the test
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert index.size(space, A) == 30


vectors = st.lists(st.tuples(*[st.integers(-4, 4)] * 6).filter(any), min_size=1, max_size=40)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=vectors, asked=st.integers(0, 39), limit=st.integers(1, 12))
def test_the_order_is_that_of_brute_force(index: RunIndex, rows: list[Any], asked: int, limit: int) -> None:
    """Whatever the vectors: the cosines are the largest there are, and each is that of its run; twice is once."""
    space = f"brute {uuid.uuid4()}"
    points = [RunPoint(str(i), A, row) for i, row in enumerate(rows)]
    index.add(space, points)
    index.add(space, points[: asked + 1])
    assert index.size(space, A) == len(rows)
    matrix = np.array(rows, dtype=float)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines = matrix @ matrix[asked % len(rows)]
    found = index.near(space, rows[asked % len(rows)], limit, A)
    assert len({one.run_id for one in found}) == len(found) == min(limit, len(rows))
    assert [one.cosine for one in found] == pytest.approx([cosines[int(one.run_id)] for one in found], abs=CLOSE)
    assert [one.cosine for one in found] == pytest.approx(sorted(cosines, reverse=True)[: len(found)], abs=CLOSE)
