"""Set the stage: the base model, the tools, who asks what on which day, and what was known before.

There are two worlds: the sample data that ships with the package, and a file of the user's own requests.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.demo.grammar import base_rows, target_rows, traffic
from langgraph_learnloop.demo.rows import Row, read_rows, split_tools
from langgraph_learnloop.demo.toolbox import Home, tools_for_rows
from langgraph_learnloop.demo.words import ENGLISH
from langgraph_learnloop.records import Example, Message, Recipe, Sampling, Split, ToolCall, content_hash

SHIPPED_BASE = Path(__file__).parent / "base_model"


@dataclass(frozen=True)
class Request:
    """One thing a simulated user asks, with the right call: users are simulated from the known right answers."""

    text: str
    call: ToolCall
    target: bool
    """Is it of the slice that the base never saw."""

    @property
    def expected(self) -> Message:
        """Return the right assistant message."""
        return Message(role="assistant", tool_calls=(self.call,))


@dataclass(frozen=True)
class World:
    """Everything the story needs, and nothing it measures."""

    name: str
    base: Path
    """Folder of the base model; a file's world builds it first."""
    tools: Sequence[BaseTool]
    day1: Sequence[Request]
    swap: Sequence[Request]
    """Asked while the model is swapped."""
    day2: Sequence[Request]
    exam: Sequence[Request]
    """Held-out cases for the figures; nothing in the loop ever sees them."""
    past: Sequence[Example]
    """What the base was trained on: replay, and the gate's retention cases."""
    config: LoopConfig
    new: str
    """What the base never saw, in words."""
    source: str | None = None
    """The file of requests that the base is trained on; None for the sample data, whose base is shipped."""
    held_out: Sequence[str] = ()
    """Tools of the file that the base must not see."""


def sample_world() -> World:
    """Return the world of the shipped sample data."""
    tools = Home().tools()
    return World(
        name="sample",
        base=SHIPPED_BASE,
        tools=tools,
        day1=_requests(traffic(DAY, seed=1000)),
        swap=_requests(traffic(120, seed=2000)),
        day2=_requests(traffic(DAY // 4, seed=3000)),
        exam=_requests([*target_rows(200, seed=4000), *base_rows(300, seed=5000)]),
        past=_past(base_rows(1440, seed=6000), base_rows(480, seed=7000), tools),
        config=SAMPLE_CONFIG,
        new="a recipe finder, and people who talk slang",
    )


DAY = 640
"""Requests of one day with the sample data."""
THREADS = 32
"""Conversations, and cases of an examination, at the same time: as many as the engine answers together."""
SAMPLE_CONFIG = LoopConfig(
    agent="assistant",
    recipe=Recipe(
        rank=16, alpha=32, learning_rate=2e-3, steps=250, batch=24, replay=28.0, strength=0.85, max_length=160
    ),
    heldout=0.25,
    variations=8,
    retention_cases=50,
    category_margin=0.15,  # fifty cases of a tool cannot rule out less
    sampling=Sampling(max_tokens=40),
    eval_threads=THREADS,
)
FILE_CONFIG = LoopConfig(
    agent="assistant",
    recipe=Recipe(
        rank=32, alpha=64, learning_rate=2.5e-3, steps=850, batch=48, replay=9.0, strength=0.98, max_length=200
    ),
    heldout=0.1,
    variations=6,
    retention_cases=200,
    category_margin=0.1,
    sampling=Sampling(max_tokens=64),
    eval_threads=THREADS,
)
FILE_BASE: dict[str, Any] = {"vocabulary": 4000, "steps": 1100}
"""What differs in the recipe of a file's base from that of the shipped one: tokens, and optimiser steps."""
ANSWERED = 8
"""One in so many past calls is remembered with its answer too."""


def file_world(path: str | Path, cache: Path, hold_out: Sequence[str] | None = None) -> World:
    """Return the world of a file of requests; raise DataError with the line that cannot be used.

    The base of the tools that are not held out is trained once and kept in `cache` under the hash of what it learns.
    """
    rows = split_tools(read_rows(path), hold_out)
    rng = random.Random("file 0")
    new, old, known = (_shuffled(part, rng) for part in (rows.target_train, rows.base_fresh, rows.base_train))
    kept, old = old[: len(old) * 5 // 7], old[len(old) * 5 // 7 :]
    busy = min(3400, max(len(new) - 150, len(new) * 4 // 5))
    day1 = [*new[:busy], *old[:200]]
    rng.shuffle(day1)
    swap, day2 = [*new[busy : busy + 50], *old[200:250]], [*new[busy + 50 : busy + 150], *old[250:350]]
    rng.shuffle(swap)
    rng.shuffle(day2)
    tools = tools_for_rows([*rows.base_train, *rows.base_fresh, *rows.target_train])
    return World(
        name=f"file {Path(path).name}",
        base=cache / content_hash([rows.base_train, rows.base_test, ENGLISH, FILE_BASE]),
        tools=tools,
        day1=_requests(day1, rows.held_out),
        swap=_requests(swap, rows.held_out),
        day2=_requests(day2, rows.held_out),
        exam=_requests([*rows.target_test, *rows.base_test], rows.held_out),
        past=_past(known[:8000], kept, tools),
        config=FILE_CONFIG,
        new=" and ".join(rows.held_out),
        source=str(path),
        held_out=rows.held_out,
    )


def _requests(rows: Sequence[Any], held_out: Sequence[str] = ()) -> list[Request]:
    """Return rows as requests; new is what asks for a tool of `held_out`, and the sample data say it of each row."""
    return [
        Request(
            r["text"], ToolCall(name=r["tool"], args=r["args"]), r.get("slice") == "target" or r["tool"] in held_out
        )
        for r in rows
    ]


def _past(train: Sequence[Any], heldout: Sequence[Any], tools: Sequence[BaseTool]) -> list[Example]:
    """Return what the base learned: the call each row asks for, and for some the answer after the tool's result."""
    by_name = {tool.name: tool for tool in tools}
    calls = [*(_call(row, "train") for row in train), *(_call(row, "heldout") for row in heldout)]
    return [*calls, *(_answer(call, by_name[call.category]) for call in calls[::ANSWERED])]


def _call(row: Any, split: Split) -> Example:
    return Example(
        messages=(Message(role="user", content=row["text"]),),
        chosen=Message(role="assistant", tool_calls=(ToolCall(name=row["tool"], args=row["args"], id="call_0"),)),
        origin="replay",
        review="approved",
        split=split,
    )


def _answer(call: Example, tool: BaseTool) -> Example:
    result = str(tool.invoke(call.chosen.tool_calls[0].args))
    messages = (*call.messages, call.chosen, Message(role="tool", content=result, tool_call_id="call_0"))
    return call.model_copy(update={"messages": messages, "chosen": Message(role="assistant", content=result)})


def _shuffled(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    copy = list(rows)
    rng.shuffle(copy)
    return copy
