"""A small shop whose agent does not know about returns: the loop's tests play in it."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from langchain.agents import create_agent

from langgraph_learnloop import Example, LearnLoop, LoopConfig, Message, Release
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer

HOURS = "We are open from nine to five."
RETURNS = "You have thirty days to send it back."
_OPENINGS = (
    "please tell me",
    "hello",
    "a question",
    "quick one",
    "sorry to ask",
    "my wife asks",
    "good morning",
    "say",
)
_DAYS = ("monday", "tuesday", "friday", "sunday", "new year", "easter")
_THINGS = ("shoes", "a lamp", "the blue coat", "two books", "my order", "a broken cup")
ASK_HOURS = [f"{opening}, what are the opening hours on {day}" for opening in _OPENINGS for day in _DAYS]
ASK_RETURNS = [f"{opening}, how long can I return {thing} to you" for opening in _OPENINGS for thing in _THINGS]
Past = Literal["corrected", "examined", "promoted"]
"""What a shop has behind it: a bad day, a candidate that passed its gates, or a cycle that promoted one."""
CONFIG = LoopConfig(agent="shop", heldout=0.4, retention_margin=0.2, category_margin=0.2)


def engine() -> MemoryEngine:
    """Return an engine that knows the opening hours."""
    return MemoryEngine({"what are the opening hours on": HOURS}, alike=0.4)


class Shop:
    """A loop, its agent, and people who ask."""

    def __init__(self, store: Path, settings: Mapping[str, Any] | None = None, **parts: Any) -> None:
        config = CONFIG.model_copy(update=settings or {})
        self.loop = LearnLoop(store, config=config, **{"trainer": TinyTrainer(), **parts})
        self.agent = self.loop.watch(create_agent(self.loop.model(engine()), []))

    @classmethod
    def after(cls, past: Past, folder: Path, settings: Mapping[str, Any] | None = None, **parts: Any) -> Shop:
        """Open a shop with such a past in a folder; it is lived once, and copied."""
        _copy(_lived(past), folder)
        return cls(folder / "l.db", settings, **parts)

    def ask(self, thread: str, question: str) -> str:
        """Ask in a thread and return the answer."""
        config: Any = {"configurable": {"thread_id": thread}}
        return str(self.agent.invoke({"messages": [("user", question)]}, config)["messages"][-1].content)

    def bad_day(self, correction: str = RETURNS, people: int = 5) -> None:
        """Ask what it does not know, and correct every answer."""
        for number, question in enumerate(ASK_RETURNS):
            self.ask(str(number), question)
            self.loop.feedback(thread=str(number), score=-1, correction=correction, by=f"user-{number % people}")

    def remember(self) -> None:
        """Store what the base knows."""
        self.loop.remember([_known(question) for question in ASK_HOURS])

    def candidate(self) -> Release:
        """Learn from what was corrected, and return a release that passed its gates."""
        dataset = self.loop.curate()
        assert dataset is not None
        trained = self.loop.train(dataset)
        card = self.loop.evaluate(trained, dataset)
        assert card.passed, card.because
        return trained


@cache
def _lived(past: Past) -> Path:
    """Return the folder of a shop with a past, closed."""
    folder = Path(tempfile.mkdtemp(prefix="shop-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with (shop := Shop(folder / "l.db") if past == "corrected" else Shop.after("corrected", folder)).loop:
        if past == "corrected":
            shop.remember()
            shop.bad_day()
        elif past == "examined":
            shop.candidate()
        else:
            report = shop.loop.cycle()
            assert report.outcome == "promoted", report.because
    return folder


def _copy(old: Path, new: Path) -> None:
    """Copy a closed shop; where its files lie stands in its datasets and releases."""
    shutil.copytree(old, new, dirs_exist_ok=True)
    database = sqlite3.connect(new / "l.db")
    for table in ("datasets", "releases"):
        database.execute(f"UPDATE {table} SET body = replace(body, ?, ?)", (str(old), str(new)))
    database.commit()
    database.close()


def _known(question: str) -> Example:
    answer = Message(role="assistant", content=HOURS)
    return Example(
        messages=(Message(role="user", content=question),), chosen=answer, origin="replay", review="approved"
    )
