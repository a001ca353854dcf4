"""What others build on does not change by accident, and what nobody calls is not there."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from vulture import Vulture

from tests.surface import COMMAND, GOLDEN, surface

ROOT = Path(__file__).parent.parent
CALLED_BY_OTHERS = (
    *("on_*", "ignore_*", "raise_error", "run_inline", "_agenerate", "_astream", "_get_*_params", "__signature__"),
    *("wrap_*", "awrap_*"),  # these and those above: LangChain
    *(
        "model_config",
        "_edit_has_text",
        "_says_something",
        "_can_be_said",
        "_fits_its_method",
        "_is_whole",
        "_asks_*",
        "_chooses_*",
    ),
    *("should_*", "_prepare_dataset", "training_step", "pre_tokenizer", "decoder"),  # Transformers; above, pydantic
    *("revision", "down_revision", "isolation_level", "string_value", "frame"),  # alembic, sqlite3, protobuf, signal
    *("no_wrap", "overflow", "caption_justify", "pytest_*", "learnloop_case", "__getattr__", "__dir__"),
)
"""Names that a framework looks up, or that we tell it."""
READ_BY_NAME = (
    *("sampled_out", "handed_over", "champion_bad", "candidate_bad"),  # each one by what a table calls it
    *("approve", "ticks", "domain", "slice"),  # by a command's word, by a template, by data files
)
"""Names that are looked up as text."""


def test_the_public_surface_is_as_it_is_written_down() -> None:
    """A name, a parameter or a default that others build on changes only where somebody says so."""
    was, now = GOLDEN.read_text(encoding="utf-8").splitlines(), surface().splitlines()
    changed = [line for line in difflib.unified_diff(was, now, lineterm="", n=0) if not line.startswith(("---", "+++"))]
    assert not changed, f"Public names changed: if that is meant, run `{COMMAND}` and say so in the changelog."


def test_nothing_is_there_that_nobody_uses() -> None:
    """What no file of the product uses is either promised to others or called by a framework."""
    promised = re.findall(r"^(?:    |[\w.]+\.)(\w+)", GOLDEN.read_text(encoding="utf-8"), re.MULTILINE)
    found = Vulture(ignore_names=[*CALLED_BY_OTHERS, *READ_BY_NAME], ignore_decorators=["@*app.*"])
    found.scavenge([str(ROOT / "langgraph_learnloop"), str(ROOT / "integrations")], exclude=["*/templates/*"])
    unused = [one.get_report() for one in found.get_unused_code(min_confidence=60) if one.name not in promised]
    assert not unused, "\n".join(unused)
