"""A tiny base model, made once for all training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.improvement.tiny_base import make_base
from tests.torch_threads import one_processor_thread

__all__ = ["one_processor_thread"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an untrained model."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny")
