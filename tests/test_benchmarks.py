"""Every benchmark runs, and writes its figures where it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(p for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text(encoding="utf-8"))
UNSLOTH = os.environ.get("UNSLOTH_PYTHON", str(ROOT / ".venv-unsloth" / "bin" / "python"))


@pytest.mark.slow
@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs(script: Path, tmp_path: Path) -> None:
    """A smoke run ends well and writes figures and what they meet; how fast it was is nobody's business here."""
    python = UNSLOTH if script.stem == "gpu" else sys.executable
    if not Path(python).exists():
        pytest.skip("no environment with Unsloth: `make unsloth` makes it")
    out = tmp_path / "figures.json"
    command = [python, str(script), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["figures"]
    assert set(found["met"].values()) <= {True, False}
