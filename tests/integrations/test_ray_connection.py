"""A process has one connection to Ray: the first opens it, the last closes it, and another's is left alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from langgraph_learnloop.errors import EngineError, LearnLoopError, MissingExtraError, TrainingError
from langgraph_learnloop.integrations.ray_connection import Connection, connect, first_line, last_line, library


class Ray:
    """Count what is asked of the library."""

    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self, there: bool = False) -> None:
        self.there = there
        self.asked: list[Any] = []

    def is_initialized(self) -> bool:
        """Return whether the process is connected."""
        return self.there

    def init(self, address: str, **_: Any) -> None:
        """Connect."""
        if address == "full":
            raise self.exceptions.RayError("No room.\nTry later.")
        self.asked.append(address)
        self.there = True

    def shutdown(self) -> None:
        """End the connection."""
        self.asked.append("shutdown")
        self.there = False


@contextmanager
def two(connection: Connection, ray: Ray) -> Iterator[None]:
    """Be connected twice at once."""
    with connection.open(ray, None, EngineError), connection.open(ray, None, EngineError):
        yield


def test_the_first_opens_and_the_last_closes() -> None:
    """Afterwards it can be opened again."""
    ray, connection = Ray(), Connection()
    for _ in range(2):
        with two(connection, ray):
            assert ray.there
        assert not ray.there
    assert ray.asked == ["local", "shutdown"] * 2


def test_somebody_elses_connection_is_left_alone() -> None:
    """It is neither opened nor closed."""
    ray = Ray(there=True)
    with two(Connection(), ray):
        pass
    assert (ray.there, ray.asked) == (True, [])


def test_a_failure_leaves_nothing_behind() -> None:
    """Who comes after one that was refused opens it."""
    ray, connection = Ray(), Connection()
    with pytest.raises(EngineError), connection.open(ray, "full", EngineError):
        pass
    with connection.open(ray, "auto", EngineError):
        pass
    assert ray.asked == ["auto", "shutdown"]


@pytest.mark.parametrize("refusal", [EngineError, TrainingError])
@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", r".*refused\."), ("ray://127.0.0.1:1", r".*refused\."), ("full", r"No room\.")],
)
def test_no_cluster_at_the_address(address: str, reason: str, refusal: type[LearnLoopError]) -> None:
    """It is said at once, as the kind of error that was asked for."""
    with pytest.raises(refusal, match=f"No Ray cluster can be used at '{address}': {reason} Check the address"):
        connect(Ray(), address, refusal)


def test_of_many_lines_one_is_said() -> None:
    """As a sentence; an error without a word is named by its type."""
    error = RuntimeError("First\n\n  last.\n")
    assert (first_line(error), last_line(error)) == ("First.", "last.")
    assert first_line(RuntimeError()) == "RuntimeError."


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what for, and holds the pip command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'^Training on Ray .*pip install "langgraph-learnloop\[ray\]"'):
        library("Training")
