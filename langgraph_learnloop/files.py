"""Write files and folders whole or not at all, beside their place first, then under their name; know them by hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ASIDE = re.compile(r"\.(.+)-[0-9a-f]{8}\.tmp")
"""Names of what is beside its place: not yet there, or not any more."""


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


def remove_folder(target: Path) -> None:
    """Take a folder from its place at once, then remove it: what a crash leaves does not pass for the whole.

    Links in it are removed, not followed; raise OSError when it cannot be taken.
    """
    aside = target if beside_what(target.name) is not None else _beside(target)
    target.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def beside_what(name: str) -> str | None:
    """Return the name whose place a file or folder lies beside, as a crash leaves it; None for one in its place."""
    found = _ASIDE.fullmatch(name)
    return found[1] if found is not None else None


def folder_size(folder: Path) -> int:
    """Return the bytes of the files in a folder; links are not followed."""
    size = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # it went meanwhile
                size += os.lstat(os.path.join(where, name)).st_size
    return size


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def same_model(one: str, other: str) -> bool:
    """Tell whether two names are of one model: folders may be reached by several paths."""
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other))


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}.tmp")
