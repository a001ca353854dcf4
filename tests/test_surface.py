"""What others build on does not change by accident."""

from __future__ import annotations

import difflib

from tests.surface import COMMAND, GOLDEN, surface


def test_the_public_surface_is_as_it_is_written_down() -> None:
    """A name, a parameter or a default that others build on changes only where somebody says so."""
    was, now = GOLDEN.read_text(encoding="utf-8").splitlines(), surface().splitlines()
    changed = [line for line in difflib.unified_diff(was, now, lineterm="", n=0) if not line.startswith(("---", "+++"))]
    assert not changed, f"Public names changed: if that is meant, run `{COMMAND}` and say so in the changelog."
