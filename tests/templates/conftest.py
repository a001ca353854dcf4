"""Templates as a newcomer meets them: copied to a folder of their own and run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Templates(NamedTuple):
    """What a test does with a template."""

    copied: Callable[[str], Path]
    """Copies a template by its name, and returns where it is."""
    run: Callable[..., str]
    """Runs a Python command in a folder, without network or home, and returns what it printed."""


@pytest.fixture
def template(tmp_path: Path) -> Templates:
    """Copy templates into the test's folder, and run them there."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }

    def copied(name: str) -> Path:
        ignored = shutil.ignore_patterns("__pycache__", ".*", "*.db*")
        return Path(shutil.copytree(ROOT / "examples" / "templates" / name, tmp_path / name, ignore=ignored))

    def run(folder: Path, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, cwd=folder, env=env, timeout=120
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return Templates(copied, run)
