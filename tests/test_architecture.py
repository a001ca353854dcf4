"""The rules of the house, held by tests: who imports whom, and what stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "openai",
    "langfuse",
    "qdrant_client",
    "langgraph.graph",
    "sklearn",
    "scipy",
)


def _fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    """The agent's process pays for no library that only training, evaluation or a vendor needs."""
    code = f"import sys, langgraph_learnloop; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert _fresh(code).strip() == "[]"


def test_the_callback_loads_nothing_heavy() -> None:
    """Making a loop loads no model library and builds no graph; flagging, inside of a run, imports nothing of ours."""
    code = (
        "import sys, tempfile, pathlib; from langgraph_learnloop import LearnLoop;"
        "loop = LearnLoop(pathlib.Path(tempfile.mkdtemp()) / 'l.db'); loop.recorder; before = set(sys.modules);"
        "loop.flag('it is wrong'); print([m for m in set(sys.modules) - before if m.startswith('langgraph')]);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert _fresh(code).splitlines() == ["[]", "[]"]


def test_help_imports_no_more_than_it_writes_with() -> None:
    """`learnloop --help` is there at once: it needs typer, and nothing of what the commands need."""
    code = (
        "import sys; from langgraph_learnloop.cli import app; app(['--help'], standalone_mode=False);"
        "print({m.partition('.')[0] for m in sys.modules} & {'pydantic', 'sqlalchemy', 'langchain_core', 'langgraph',"
        " 'numpy', 'orjson'})"
    )
    assert _fresh(code).splitlines()[-1] == "set()"


def test_public_names_are_sorted_and_load() -> None:
    """Every public name is in order and is what it says."""
    import langgraph_learnloop

    assert langgraph_learnloop.__all__ == sorted(langgraph_learnloop.__all__)
    for name in langgraph_learnloop.__all__:
        assert getattr(langgraph_learnloop, name).__name__ == name or callable(getattr(langgraph_learnloop, name))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A slip in a public name says which one."""
    import langgraph_learnloop

    with pytest.raises(AttributeError, match="no attribute 'Loop'"):
        langgraph_learnloop.Loop


def test_rooms_keep_to_themselves() -> None:
    """The import rules of pyproject.toml hold."""
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([script, "--config", "pyproject.toml"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_pickle_no_eval() -> None:
    """Nothing that is loaded can run code: no pickle, eval, exec or torch.load in the sources."""
    words = ("import pickle", "pickle.load", " eval(", " exec(", "torch.load(")
    files = [*(ROOT / "langgraph_learnloop").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]
    found = [f"{f.name}: {w}" for f in files for w in words if w in f.read_text(encoding="utf-8")]
    assert not found
