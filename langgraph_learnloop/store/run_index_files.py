"""What an index of runs needs of the machine: a claim on its folder, room on its disk, and a process that builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.texts import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ROOM = 256_000_000
"""Bytes that must be free whatever is done: the engine's files are that large before anything is in them."""
_BUILDS = (
    "import sys; from qdrant_edge import EdgeShard; shard = EdgeShard.load(sys.argv[1]); "
    "shard.optimize(); shard.flush(); shard.close()"
)
_BUILD_SECONDS = 3_600.0
"""How long building may take."""


class Claim:
    """A lock on a folder, held until it is closed or the process ends."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        """Of the open file; None where the system has no such locks."""

    def close(self) -> None:
        """Give it up."""
        if self.number is not None:
            os.close(self.number)
            self.number = None


def claimed(place: Path) -> Claim | None:
    """Return a claim on a folder by a file beside it; None while somebody else has one."""
    if fcntl is None:
        return Claim(None)
    number = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    except OSError:  # a disk without locks, as some networks' are: the engine refuses a second process itself
        os.close(number)
        return Claim(None)
    return Claim(number)


def has_room(folder: Path, most: int) -> None:
    """Raise StoreError unless so many bytes, and what the engine always needs, are free where a folder will be."""
    there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    free, needed = shutil.disk_usage(there).free, most + _ROOM
    if free < needed:
        raise StoreError(
            f"The index of similar runs in {str(folder)!r} needs {needed / 1e6:,.0f} MB on its disk, which has "
            f"{free / 1e6:,.0f} MB left: make room there, or choose another folder."
        )


def optimized(shard: Path, claim: Claim) -> str | None:
    """Have a shard that is closed here optimised by a process of its own; return why it was not, or None.

    The claim is handed on: were this process killed, nobody else may open the shard before the other one ends.
    """
    held = () if claim.number is None else (claim.number,)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _BUILDS, str(shard)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BUILD_SECONDS,
            pass_fds=held,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return one_line(error)
    return one_line(done.stderr[-300:] or f"it ended with {done.returncode}") if done.returncode else None
