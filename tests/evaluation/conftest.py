"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import pytest

from tests.evaluation.scripted import Timers


@pytest.fixture
def timers() -> Timers:
    """Return timers, none of them set."""
    return Timers()
