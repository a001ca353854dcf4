"""Write files and folders whole or not at all, beside their place first, then under their name; know them by hash."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a path beside `target`; what is written there takes its place, on the disk, unless something is raised.

    The folder must be there: one that is named wrongly should not be made.
    """
    beside = _beside(target)
    try:
        yield beside
        with beside.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, which takes its place unless something is raised; what was there goes."""
    beside = _beside(target)
    beside.mkdir(parents=True)
    try:
        yield beside
        old = _beside(target)
        if target.exists():
            target.rename(old)
        beside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}.tmp")
