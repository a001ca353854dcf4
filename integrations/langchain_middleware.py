"""Record an agent made with `create_agent` from the inside, as one of its middlewares.

    agent = create_agent(model, tools, middleware=[LearnLoopMiddleware(loop)])

The run is the same that `loop.watch(agent)` records, failures and pauses included. Nothing else of the process is.
In a replay its tools answer from the recording, also where the agent runs inside of another graph's node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command

from langgraph_learnloop.errors import needing

with needing("The middleware", "langchain"):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse


class Loop(Protocol):
    """A LearnLoop: it records the run around the caller, and knows whether that is a replay."""

    def want(self) -> Callable[[], None]:
        """Return the function to call inside of the run."""
        ...

    def recorded_answer(self, call: Mapping[str, Any], tool: BaseTool | None = None) -> ToolMessage | None:
        """Return a tool call's recorded answer inside of a replay; None when the tool is to run."""
        ...


class LearnLoopMiddleware(AgentMiddleware[Any, Any]):
    """Have every run of the agent recorded, and its tools answered from the recording in a replay."""

    def __init__(self, loop: Loop) -> None:
        """Record into a loop."""
        super().__init__()
        self._loop = loop
        self._want = loop.want()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Say that this run is wanted; the call itself goes on untouched."""
        self._want()
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Say that this run is wanted; the call itself goes on untouched."""
        self._want()
        return await handler(request)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Answer from the recording in a replay, else run the tool."""
        recorded = self._loop.recorded_answer(request.tool_call, request.tool)
        return handler(request) if recorded is None else recorded

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Do the same in an event loop."""
        recorded = self._loop.recorded_answer(request.tool_call, request.tool)
        return await handler(request) if recorded is None else recorded
