"""Hold one job on a node of a Ray cluster. A part of `ray_jobs`: Ray imports it there."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import WORKER, end, environment, last_words, result_in

PART = 16 * 1024 * 1024
"""Bytes of a file that travel at once."""


class Bench:
    """Hold one job on a node: its folder and its worker. The worker ends with this process."""

    def __init__(self) -> None:
        self._folder = Path()
        self._worker: subprocess.Popen[bytes] | None = None

    def open(self, storage: str | None, job_id: str) -> tuple[str, str]:
        """Make the job's folder, or find the one that an earlier node left; return the node's name and the folder."""
        if storage is None:
            self._folder = Path(tempfile.mkdtemp(prefix="learnloop-"))
        else:
            self._folder = Path(storage) / job_id
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return platform.node(), str(self._folder)

    def holds(self, place: str, sha256: str) -> bool:
        """Return whether a file lies here with that content; `place` may lie outside the job's folder."""
        try:
            return file_sha256(self._folder / place) == sha256
        except OSError:
            return False

    def write(self, place: str, mode: Literal["wb", "ab"], part: bytes) -> None:
        """Begin a file of the job's folder with a part, or add a part to it."""
        path = self._folder / place
        path.parent.mkdir(exist_ok=True)
        with path.open(mode) as stream:
            stream.write(part)

    def begin(self, python: str | None, job: str, offline: bool) -> None:
        """Start the worker, unless the adapter is there: an earlier node may have been lost after the last step."""
        if result_in(self._folder / "adapter") is not None:
            return
        described = self._folder / "job.json"
        described.write_text(job, encoding="utf-8")
        with (self._folder / "worker.log").open("wb") as errors:
            self._worker = subprocess.Popen(
                [python or sys.executable, "-m", WORKER, str(described)],
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that this process is gone
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # a group of its own, to be ended as a whole
                env=environment(offline=offline),
            )

    def line(self) -> bytes:
        """Return what the worker says next; nothing when it has ended."""
        worker = self._worker
        return worker.stdout.readline() if worker is not None and worker.stdout is not None else b""

    def end(self) -> tuple[int, bool, list[str]]:
        """Return the worker's exit code, whether an adapter is there, and the last lines of its log."""
        code = 0 if self._worker is None else self._worker.wait()
        there = result_in(self._folder / "adapter") is not None
        return code, there, last_words(self._folder / "worker.log")

    def read(self, name: str, offset: int) -> bytes:
        """Return a part of one of the adapter's files; nothing at its end."""
        with (self._folder / "adapter" / name).open("rb") as stream:
            stream.seek(offset)
            return stream.read(PART)

    def close(self, keep: bool) -> None:
        """End the worker and whatever it started; remove the folder unless it is to be gone on from."""
        worker = self._worker
        if worker is not None and worker.poll() is None:
            end(worker)
            worker.wait()
        if not keep and self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
