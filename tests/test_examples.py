"""Every example runs offline and prints its ending."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ENDINGS = {
    "01_watch.py": "recorded 1 run, dropped 0",
    "02_feedback.py": "The user asked nearly the same again: 'so when does order 8 arrive'.",
    "03_cycle.py": "decisions are in the log; the last: rollback",
}


@pytest.mark.parametrize("name", sorted(ENDINGS))
def test_example(name: str, tmp_path: Path) -> None:
    """An example ends as its docstring says, in an empty folder, with an empty home and no network."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1].endswith(ENDINGS[name]), done.stdout
    assert not done.stderr.strip()


def test_all_examples_are_listed() -> None:
    """A new example needs an ending here."""
    assert {file.name for file in EXAMPLES.glob("*.py")} == ENDINGS.keys()
