"""Structured output works over every engine that calls tools, whichever method is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Message, Release, Routes, ToolCall
from langgraph_learnloop.serving.hosted_engine import HostedEngine
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.testing import MemoryEngine
from tests.serving.test_standard import Butler, OneRelease

ARGS = {"city": "Oslo", "days": 3}
QUESTION = "the weather in 'Oslo' for 3 days"
METHODS = ("json_schema", "function_calling", "json_mode")


class Weather(BaseModel):
    """Ask for the weather."""

    city: str = Field(description="Where.")
    days: int


class Forecast(TypedDict):
    """Ask for the weather."""

    city: str
    days: int


class Provider(BaseChatModel):
    """Call the one tool that is offered, in chunks where it streams."""

    @property
    def _llm_type(self) -> str:
        return "provider"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        (tool,) = kwargs["tools"]
        call: Any = {"name": tool["function"]["name"], "args": ARGS, "id": "c1", "type": "tool_call"}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=[call]))])

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        (tool,) = kwargs["tools"]
        text = json.dumps(ARGS)
        for name, args in ((tool["function"]["name"], text[:9]), (None, text[9:])):
            part = tool_call_chunk(name=name, args=args, id="c1" if name else None, index=0)
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[part]))


class Named(OneRelease):
    """Route everybody to a release that is loaded."""

    def __init__(self, release_id: str) -> None:
        self.release_id = release_id

    def routes(self) -> Routes:
        return Routes(self.release_id)


def memory(name: str) -> Engine:
    call = ToolCall(name=name, args=ARGS, id="c1")
    return MemoryEngine({QUESTION: Message(role="assistant", tool_calls=(call,))})


@pytest.fixture(params=["memory", "hosted", "one that writes calls as text"])
def model(request: pytest.FixtureRequest) -> Callable[[str], LiveModel]:
    """Give a function that makes a model over an engine, for a schema of a name."""

    def made(name: str) -> LiveModel:
        engines = {"memory": lambda: memory(name), "hosted": lambda: HostedEngine({"p": Provider()}, base_model="p")}
        engine: Any = engines.get(request.param, Butler)()
        release = Release(base_model=engine.base_model, made_at=datetime(2026, 1, 1, tzinfo=UTC))
        engine.load(release)
        return LiveModel(engine=engine, router=Router(Named(release.release_id), OneRelease()))

    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_class_comes_back_filled(model: Any, method: str) -> None:
    """Whole and streamed, and checked by the class itself."""
    structured = model("Weather").with_structured_output(Weather, method=method)
    assert structured.invoke(QUESTION) == Weather(**ARGS)
    assert list(structured.stream(QUESTION))[-1] == Weather(**ARGS)


async def test_dictionaries_come_back_for_other_schemas(model: Any) -> None:
    """A TypedDict and a JSON schema say what is in them, and the raw answer can be had as well."""
    schema = {**Weather.model_json_schema(), "title": "Weather"}
    assert await model("Forecast").with_structured_output(Forecast).ainvoke(QUESTION) == ARGS
    found = await model("Weather").with_structured_output(schema, include_raw=True).ainvoke(QUESTION)
    assert (found["parsed"], found["parsing_error"]) == (ARGS, None)
    assert found["raw"].response_metadata["learnloop_release"]


def test_an_answer_that_does_not_fit_is_told(model: Any) -> None:
    """With the raw answer asked for, what is wrong is data; else it is raised."""

    class Strict(BaseModel):
        """Ask for the weather."""

        city: int
        days: int

    strict = model("Strict")
    if isinstance(strict.engine, Butler):
        pytest.skip("it fills in what the schema asks for")
    found = strict.with_structured_output(Strict, include_raw=True).invoke(QUESTION)
    assert (found["parsed"], type(found["parsing_error"]).__name__) == (None, "ValidationError")
