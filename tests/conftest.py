"""What every test shares. That no test leaves the machine is said in pyproject.toml (--allow-hosts)."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEARNLOOP_STORE", "LEARNLOOP_AGENT", "LEARNLOOP_APP"):
        monkeypatch.delenv(name, raising=False)
