"""Where Unsloth is, for the tests that need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("UNSLOTH_PYTHON", str(ROOT / ".venv-unsloth" / "bin" / "python"))
NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with Unsloth: `make unsloth` makes it"),
    pytest.mark.usefixtures("this_package"),
]


@pytest.fixture(scope="module")
def this_package() -> Iterator[None]:
    """Let the worker run the package that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
