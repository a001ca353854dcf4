"""Stores on a temporary file, and records to put into them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from langgraph_learnloop.records import Run, Step
from langgraph_learnloop.store.opened import Store, open_store
from tests.postgres import server

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


postgres = pytest.fixture(scope="module")(server)


@pytest.fixture
def noon() -> datetime:
    """Return a fixed moment."""
    return NOON


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Yield an empty store."""
    with open_store(tmp_path / "learnloop.db") as opened:
        yield opened


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """Return a maker of runs; `minute` sets when one began."""

    def make(run_id: str, minute: int = 0, **fields: object) -> Run:
        at = NOON + timedelta(minutes=minute)
        step = Step(step_id=f"{run_id}-1", parent_id=run_id, kind="tool", name="search", started_at=at)
        given = {"agent": "support", "outcome": "finished", "steps": (step,), "started_at": at} | fields
        return Run.model_validate({"run_id": run_id} | given)

    return make


@pytest.fixture
def plain_user_folder() -> Iterator[Path]:
    """Yield a folder while this process has no more rights than an ordinary user: root may write anywhere."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    was_root = os.geteuid() == 0
    if was_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o777)
        shutil.rmtree(folder)
