"""Record an agent made with `create_agent` from the inside, as one of its middlewares.

    agent = create_agent(model, tools, middleware=[LearnLoopMiddleware(loop)])

The run is the same that `loop.watch(agent)` records, failures and pauses included. Nothing else of the process is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse


class Wants(Protocol):
    """Whoever can have the run around the caller recorded: a LearnLoop."""

    def want(self) -> Callable[[], None]:
        """Return the function to call inside of the run."""
        ...


class LearnLoopMiddleware(AgentMiddleware[Any, Any]):
    """Have every run of the agent recorded."""

    def __init__(self, loop: Wants) -> None:
        """Record into a loop."""
        super().__init__()
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
