"""Settings come from arguments, environment, file and defaults, in that order."""

from __future__ import annotations

from pathlib import Path

import pytest

from langgraph_learnloop.config import load_config
from langgraph_learnloop.errors import ConfigError


def test_arguments_beat_environment_beats_file(tmp_path: Path) -> None:
    """The nearer setting wins."""
    file = tmp_path / "learnloop.toml"
    file.write_text('agent = "file"\nalpha = 0.01\nvariations = 3\n')
    config = load_config(file, {"LEARNLOOP_AGENT": "env", "LEARNLOOP_ALPHA": "0.02"}, agent="given")
    assert (config.agent, config.alpha, config.variations) == ("given", 0.02, 3)


def test_a_missing_file_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    """A typo in a path is not a default."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "no.toml", {})


@pytest.mark.parametrize("text", ["alpha = 2\n", "alfa = 0.1\n", "[recipe]\nrank = 0\n"])
def test_a_bad_setting_is_named(tmp_path: Path, text: str) -> None:
    """The error names the setting and where to mend it."""
    file = tmp_path / "learnloop.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"The setting '(alpha|alfa|recipe.rank)' is not usable.*learnloop.toml"):
        load_config(file, {})


def test_a_broken_file_is_a_sentence(tmp_path: Path) -> None:
    """TOML that does not parse is a ConfigError with the place."""
    file = tmp_path / "learnloop.toml"
    file.write_text("agent = \n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(file, {})
