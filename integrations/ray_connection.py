"""Hold the one connection to Ray that a process has, and say in a line what Ray says in many."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langgraph_learnloop.errors import LearnLoopError, needing

_REACH_SECONDS = 10.0
"""How long the head of a cluster may take to answer."""


class Connection:
    """The one connection to Ray that a process has: the first who needs it opens it, the last one closes it.

    A connection that somebody else opened is used and left alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._own = False

    @contextmanager
    def open(self, ray: Any, address: str | None, refusal: type[LearnLoopError]) -> Iterator[None]:
        """Be connected for the time of a piece of work; raise `refusal` when no cluster answers."""
        with self._lock:
            if self._users == 0 and not ray.is_initialized():
                connect(ray, address, refusal)
                self._own = True
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._own:
                    self._own = False
                    ray.shutdown()


CONNECTION = Connection()
"""That of this process."""


def library(doing: str) -> Any:
    """Return the module `ray`; raise MissingExtraError, with what it is needed for, when it is not installed."""
    with needing(f"{doing} on Ray", "langgraph-learnloop[ray]"):
        import ray
        import ray.exceptions
    return ray


def connect(ray: Any, address: str | None, refusal: type[LearnLoopError]) -> None:
    """Start a Ray here, or join the cluster at an address; raise `refusal` when neither can be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that you use it
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = "on this machine" if address is None else f"at {address!r}"
        raise refusal(
            f"No Ray cluster can be used {where}: {first_line(error)} Check the address, that the cluster is up and "
            "that it runs the same version of Ray."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, as a sentence."""
    return f"{lines_of(error)[0].rstrip('.')}."


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says, as a sentence: after a traceback, that is the reason."""
    return f"{lines_of(error)[-1].rstrip('.')}."


def lines_of(error: BaseException) -> list[str]:
    """Return what an error says, line by line; its type where it says nothing."""
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _knock(address: str) -> None:
    """Raise OSError when nobody listens there: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
