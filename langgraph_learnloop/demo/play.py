"""Put the pieces of the demo together: world, base model, engine, story."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from langgraph_learnloop.curation.review import TerminalReviewer
from langgraph_learnloop.demo.story import Story
from langgraph_learnloop.demo.telling import Telling
from langgraph_learnloop.demo.worlds import World, file_world, sample_world
from langgraph_learnloop.ports import Engine

_GOAL = 600
"""Seconds that the longest wait, a base model's training, may take; said beforehand."""


def play(
    console: Console,
    home: Path,
    *,
    data: str | None = None,
    hold_out: Sequence[str] | None = None,
    ask: str | None = None,
    rebuild: bool = False,
) -> dict[str, Any]:
    """Play the story in `home` and return its figures; `ask` is the name of a person who reviews at the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    world = sample_world() if data is None else file_world(data, _cache(), hold_out)
    telling = Telling(console, world)
    seconds = _base(world, telling, rebuild)
    if rebuild:
        return {"seconds": {"base": seconds}, "manifest": _manifest(world)}
    telling.opening(_manifest(world))
    reviewer = TerminalReviewer(console, ask) if ask is not None else None
    figures = Story(world, home, telling, lambda: _engine(world), reviewer).play()
    figures["seconds"]["base"] = seconds
    telling.closing(str(home / "learnloop.db"))
    return figures


def _engine(world: World) -> Engine:
    from transformers.utils import logging

    from langgraph_learnloop.serving.local_engine import LocalEngine

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the story has its own bars
    return LocalEngine(world.base)


def _base(world: World, telling: Telling, rebuild: bool) -> float:
    """Train the base model if it is not there, or if it is asked for; return the seconds it took."""
    if (world.base / "model.safetensors").exists() and not rebuild:
        return 0.0
    from langgraph_learnloop.demo.base import train_file_base, train_sample_base

    telling.say(f"The base model is trained from scratch, once: up to {_GOAL // 60} minutes on two cores.")
    with telling.bar("Base model", 1) as step:
        if world.source is None:
            manifest = train_sample_base(world.base, step.progress)
        else:
            manifest = train_file_base(world.source, world.held_out, world.base, step.progress)
    return float(manifest["seconds"])


def _manifest(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.base / "manifest.json").read_text(encoding="utf-8"))
    return found


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "langgraph_learnloop" / "bases"
