"""An agent whose model is scripted and whose words are random, so that only recording it costs. For `capture.py`."""

from __future__ import annotations

import random
import uuid
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

TURNS = 6
"""Tool turns in a run."""
PAYLOAD = 2_000
"""Characters of a tool's result."""

rng = random.Random(0)
_texts: dict[int, list[str]] = {}


def words(count: int) -> str:
    """Return random words of `count` characters in all, each text once: nothing that compression could find twice."""
    if not _texts.get(count):
        prepare(count, 200)
    return _texts[count].pop()


def prepare(count: int, times: int) -> None:
    """Make texts beforehand: writing one takes as long as what is measured."""
    letters = "abcdefghijklmnopqrstuvwxyz"

    def one() -> str:
        return " ".join("".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(count // 4))[:count]

    known = _texts.setdefault(count, [])
    known += [one() for _ in range(times - len(known))]


def look_up(topic: str) -> str:
    """Return what is known about a topic."""
    return words(PAYLOAD)


class Scripted(BaseChatModel):
    """Ask for the tool a number of times, then answer."""

    turns: int = TURNS

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        since = next(i for i, message in enumerate(reversed(messages)) if message.type == "human")
        done = since // 2
        call = {"name": "look_up", "args": {"topic": words(20)}, "id": uuid.uuid4().hex}
        usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
        told = (
            AIMessage("", tool_calls=[call], usage_metadata=usage)
            if done < self.turns
            else AIMessage(words(100), usage_metadata=usage)
        )
        return ChatResult(generations=[ChatGeneration(message=told)])

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Bind tools as a provider does."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])
