"""`learnloop` runs the command line, or says in a sentence what that lacks."""

from __future__ import annotations

import sys

import pytest

import langgraph_learnloop
from langgraph_learnloop.__main__ import main


def test_it_runs_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what stands behind the name."""
    monkeypatch.setattr(sys, "argv", ["learnloop", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "flagged" in capsys.readouterr().out


def test_without_its_libraries_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with 2, as every refusal does."""
    for name in [name for name in sys.modules if name.startswith("langgraph_learnloop.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(langgraph_learnloop, "cli", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "needs 'typer'" in said
    assert "pip install" in said
