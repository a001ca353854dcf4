"""Runs that were asked something similar: the index catches up when it is asked, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.errors import ConfigError, DataError, NotFoundError, StoreError
from langgraph_learnloop.records import Interned, Recorded, Run, RunPoint
from langgraph_learnloop.testing import MemoryIndex

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = ("where is my parcel", "my parcel, where is it", "where is my parcel now", "refund my order please")


class Counting(MemoryIndex):
    """Remember what was brought in, and fail when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[str] = []
        self.fails = 0

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        if self.fails:
            self.fails -= 1
            raise StoreError("The index is away: start it.")
        self.added += [point.run_id for point in points]
        super().add(space, points)


class Numbers:
    """Embed a text by what it is about."""

    model = "numbers-1"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0, 0.1] if "money" in text else [0.0, 1.0, 0.1] for text in texts]


numbers = Numbers()


def add(loop: LearnLoop, *questions: str | None, agent: str = "a", first: int = 0) -> None:
    """Store a finished run for each question."""
    runs = [
        Run(
            run_id=f"{agent}{number}",
            agent=agent,
            outcome="finished",
            question=question,
            started_at=NOW + timedelta(seconds=number),
        )
        for number, question in enumerate(questions, first)
    ]
    loop.store.runs.add_runs([Recorded(run, Interned()) for run in runs])


def ids(loop: LearnLoop, run: str, limit: int = 10) -> list[str]:
    """Return the ids of similar runs, the nearest first."""
    return [one.run.run_id for one in loop.similar(run, limit)]


@pytest.fixture
def index() -> Counting:
    return Counting()


@pytest.fixture
def loop(tmp_path: Path, index: Counting) -> Iterator[LearnLoop]:
    with LearnLoop(tmp_path / "l.db", agent="a", index=index) as opened:
        add(opened, *ASKED)
        yield opened


def test_the_nearest_come_first_and_never_itself(loop: LearnLoop) -> None:
    """What was asked in the same words is nearer than what was not; the beginning of an id is enough."""
    found = loop.similar("a0")
    assert [one.run.run_id for one in found] == ["a1", "a2", "a3"]
    assert found[0].cosine > found[1].cosine > found[2].cosine
    assert ids(loop, "a0", limit=1) == ["a1"]


def test_flags_are_shown(loop: LearnLoop) -> None:
    """Somebody sees at once which of them nobody complained about."""
    loop.feedback("a1", score=-1)
    found = {one.run.run_id: one.flag for one in loop.similar("a0")}
    assert found["a1"] is not None
    assert found["a2"] is None


def test_other_agents_are_left_out(loop: LearnLoop) -> None:
    """One store holds several agents, and their requests are not alike."""
    add(loop, *ASKED, agent="b")
    assert all(one.startswith("a") for one in ids(loop, "a0"))
    assert ids(loop, "b0") == ["b1", "b2", "b3"]


def test_each_run_is_brought_in_once(loop: LearnLoop, index: Counting) -> None:
    """A look brings in what is new since the last one, and lets go of the index, even if it fails."""
    ids(loop, "a0")
    assert sorted(index.added) == ["a0", "a1", "a2", "a3"]
    add(loop, "where is my parcel today", first=9)
    assert "a9" in ids(loop, "a0")
    assert index.added[4:] == ["a9"]
    assert index.closed == 2


def test_progress_is_told(loop: LearnLoop) -> None:
    """Whoever waits hears how many runs are left."""
    left: list[int] = []
    loop.similar("a0", on_progress=left.append)
    assert left == [4]


def test_an_index_that_fails_loses_nothing(loop: LearnLoop, index: Counting) -> None:
    """Its reason is told, and the next look brings in what is missing."""
    index.fails = 1
    with pytest.raises(StoreError, match="The index is away"):
        loop.similar("a0")
    assert index.closed == 1
    assert ids(loop, "a0") == ["a1", "a2", "a3"]


def test_a_process_killed_between_index_and_store_brings_in_again(
    loop: LearnLoop, index: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store did not hear of is told twice, and is there once."""

    def killed(seqs: Sequence[int]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.store.outbox, "told", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.similar("a0")
    assert ids(loop, "a0") == ["a1", "a2", "a3"]
    assert sorted(index.added) == sorted(["a0", "a1", "a2", "a3"] * 2)


def test_an_index_that_was_removed_is_built_again(tmp_path: Path) -> None:
    """It holds nothing that is not in the store."""
    first, second = Counting(), Counting()
    for index in (first, second):
        with LearnLoop(tmp_path / "l.db", agent="a", index=index) as loop:
            add(loop, *ASKED)
            assert ids(loop, "a0") == ["a1", "a2", "a3"]
    assert sorted(second.added) == ["a0", "a1", "a2", "a3"]


def test_nothing_piles_up_for_an_index_of_before(tmp_path: Path) -> None:
    """With other embeddings there is another space, and the store no longer notes what the old one lacks."""
    for embeddings in (None, numbers):
        with LearnLoop(tmp_path / "l.db", agent="a", index=MemoryIndex(), embeddings=embeddings) as loop:  # type: ignore[arg-type]
            add(loop, *ASKED)
            loop.similar("a0")
            assert len([name for name in loop.store.outbox.names() if name.startswith("similar:")]) == 1


def test_an_index_that_nobody_asks_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another place keeps its notes for a while; who asks it again after that gets all runs anew."""
    monkeypatch.setattr("langgraph_learnloop.similar._MOST", 5)
    places = [Counting(), Counting()]
    for number, (index, noted) in enumerate(zip([*places, places[1], places[0]], [1, 2, 1, 2], strict=True)):
        index.place = f"place {places.index(index)}"
        with LearnLoop(tmp_path / "l.db", agent="a", index=index) as loop:
            add(loop, *ASKED, first=10 * number)
            assert len(loop.similar("a0", 50)) == 4 * number + 3
            assert len(loop.store.outbox.names()) == noted


def test_runs_without_a_question_are_left_out(loop: LearnLoop, index: Counting) -> None:
    """There is nothing to compare them by; asking about one is refused in a sentence."""
    add(loop, None, "", "?!", first=7)
    assert ids(loop, "a0") == ["a1", "a2", "a3"]
    assert {"a7", "a8", "a9"}.isdisjoint(index.added)
    for run in ("a7", "a8", "a9"):
        with pytest.raises(DataError, match=rf"The run '{run}' has no question that it could be compared by"):
            loop.similar(run)


def test_a_run_that_is_not_there_is_named(loop: LearnLoop) -> None:
    """As everywhere."""
    with pytest.raises(NotFoundError, match="The run 'zz' is not in the store"):
        loop.similar("zz")


def test_runs_that_left_the_store_are_left_out(loop: LearnLoop, index: Counting) -> None:
    """The store is what is true."""
    loop.similar("a0")
    index.add("hashed 512", [RunPoint("gone", "a", (1.0, *[0.0] * 511))])
    assert "gone" not in ids(loop, "a0", limit=50)


def test_your_own_embeddings_are_used(tmp_path: Path) -> None:
    """Given, or named in the settings, they decide what is near."""
    settings: list[dict[str, Any]] = [
        {"embeddings": numbers, "config": LoopConfig()},
        {"config": LoopConfig(embeddings="tests.test_similar:numbers")},
        {"config": LoopConfig(embeddings="tests.test_similar:Numbers")},
    ]
    for number, given in enumerate(settings):
        with LearnLoop(tmp_path / f"{number}.db", agent="a", index=MemoryIndex(), **given) as loop:
            add(loop, "money please", "where is my parcel", "my money")
            assert ids(loop, "a0") == ["a2", "a1"]
            loop.feedback("a0", score=-1)
            loop.feedback("a2", score=-1)
            assert [set(one.run_ids) for one in loop.weaknesses()] == [{"a0", "a2"}]


def test_an_index_of_the_settings_is_made(tmp_path: Path) -> None:
    """By name; one that is not there is named."""
    config = LoopConfig(index="langgraph_learnloop.testing:MemoryIndex")
    with LearnLoop(tmp_path / "l.db", agent="a", config=config) as loop:
        add(loop, *ASKED)
        assert ids(loop, "a0") == ["a1", "a2", "a3"]
    lost = LoopConfig(index="no_such:thing")
    with (
        LearnLoop(tmp_path / "l.db", agent="a", config=lost) as loop,
        pytest.raises(ConfigError, match="The index 'no_such:thing' cannot be loaded"),
    ):
        loop.similar("a0")


def test_the_default_is_a_folder_beside_the_store(tmp_path: Path) -> None:
    """Qdrant in this process, with nothing to start; a loop that is opened anew finds what is there."""
    for _ in range(2):
        with LearnLoop(tmp_path / "l.db", agent="a") as loop:
            add(loop, *ASKED)
            assert ids(loop, "a0") == ["a1", "a2", "a3"]
    assert (tmp_path / "l.db.files" / "similar").is_dir()
