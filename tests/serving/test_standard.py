"""LangChain's own standard tests for chat models, over an engine with a small behaviour of its own.

What they switch off by themselves is what the model cannot do: images, sound, files, a response format of JSON, another
model by name, recorded traffic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langgraph_learnloop.records import Generated, Generation, Message, Release, Routes
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.toolcalls import offered_names, parse_answer

PIECE = 3
"""Characters of a piece of the stream: marks are torn as a real model's tokens tear them."""
QUOTED = re.compile(r"'([^']+)'")


class Butler:
    """Call the tool whose words the question has; fill its arguments with what the question quotes and counts.

    Where no tool fits it answers in words, and so it does when it must call one, until it is asked again, warmer.
    """

    base_model = "butler"

    def load(self, release: Release) -> None: ...

    def unload(self, release_id: str) -> None: ...

    def generate(self, request: Generation) -> Generated:
        text = min((self.say(request).split(stop)[0] for stop in request.stop), key=len, default=self.say(request))
        answer = parse_answer(text, offered=offered_names(request.tools))
        return Generated(
            message=Message(role="assistant", content=answer.content, tool_calls=answer.tool_calls),
            reasoning=answer.reasoning,
            input_tokens=sum(len(message.content.split()) for message in request.messages),
            output_tokens=len(text.split()),
        )

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        text = self.say(request)
        yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))
        yield self.generate(request)

    def say(self, request: Generation) -> str:
        last = request.messages[-1]
        if last.role == "tool":
            return f"It says: {last.content}"
        question = last.content
        fitting = [tool["function"] for tool in request.tools if words(str(tool)) & words(question)]
        eager = [tool["function"] for tool in request.tools] if request.sampling.temperature > 0 else []
        for tool in fitting or eager:
            call = {"name": tool["name"], "arguments": filled(tool.get("parameters", {}), question)}
            return f"I shall see.\n<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"
        return f"<think>They wrote: {question}</think>You wrote: {question}"


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]{4,}", text.lower()) if word not in {"what", "tool", "with", "hello"}}


def filled(schema: dict[str, Any], question: str) -> dict[str, Any]:
    """Return arguments: numbers as the question names them, texts as it quotes them, else the whole question."""
    numbers, texts = iter(re.findall(r"-?\d+", question)), iter(QUOTED.findall(question))

    def value(about: dict[str, Any]) -> Any:
        kind = about.get("type") or next(one["type"] for one in about["anyOf"])
        if kind in ("integer", "number"):
            return int(next(numbers, "0"))
        return next(texts, question) if kind == "string" else {"array": [], "object": {}, "boolean": True}[kind]

    return {name: value(about) for name, about in schema.get("properties", {}).items()}


class OneRelease:
    """Route everybody to one release."""

    def routes(self) -> Routes:
        return Routes("butler")

    def pin(self, thread_id: str, release_id: str) -> str:
        return release_id

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        return release_id


class _LiveModel:
    """Say what is tested."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        """Test this class."""
        return LiveModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """Use the butler."""
        return {"engine": Butler(), "router": Router(OneRelease(), OneRelease())}

    @property
    def supports_model_override(self) -> bool:
        """The model of a call is its release, not a name."""
        return False


class TestUnit(_LiveModel, ChatModelUnitTests):
    """The form: what can be bound, what is told of itself."""


class TestIntegration(_LiveModel, ChatModelIntegrationTests):
    """The behaviour: whole and streamed, one and many, with tools and structures, in coroutines."""


def test_every_suite_is_run_with_all_that_can_be_done() -> None:
    """Tools, a choice of them, structured output and usage are on: none of their tests may be skipped."""
    suite = TestIntegration()
    assert suite.has_tool_calling
    assert suite.has_tool_choice
    assert suite.has_structured_output
    assert suite.returns_usage_metadata
