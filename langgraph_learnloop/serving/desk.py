"""Have a model answer those who call over HTTP: so many at once, each in a thread, and no longer than allowed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, suppress
from functools import partial

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langgraph_learnloop.errors import DataError, LearnLoopError
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.openai_form import Asked, Refusal
from langgraph_learnloop.serving.relay import from_thread

_log = logging.getLogger(__name__)


class Desk:
    """Ask the model in so many threads at once; an answer that nobody waits for keeps its place until it is written.

    The threads are daemons: a model that never answers must not keep the process from ending.
    """

    def __init__(self, model: LiveModel, seconds: float, places: int) -> None:
        self._model = model
        self._seconds = seconds
        self._number = places
        self._places = asyncio.Semaphore(places)

    async def answer(self, asked: Asked, metadata: Mapping[str, str]) -> AsyncGenerator[AIMessage, None]:
        """Yield an answer's pieces; raise Refusal when no place is free in time, TimeoutError when it takes longer.

        What the model raises is raised. Who closes this gives the answer up.
        """
        until = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(until):
                await self._places.acquire()
        except TimeoutError as error:
            sentence = f"All {self._number} places are taken by requests that are being answered: try again later."
            raise Refusal(503, sentence, "busy") from error
        written = self._pieces(asked, {"metadata": dict(metadata)})
        async with aclosing(from_thread(written, partial(self._start, asyncio.get_running_loop()))) as pieces:
            while True:
                async with asyncio.timeout_at(until):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece

    def _start(self, loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
        """Have an answer written; its place is free again when it is, whether anybody still reads it or not."""

        def write() -> None:
            work()
            with suppress(RuntimeError):  # the server was closed meanwhile
                loop.call_soon_threadsafe(self._places.release)

        try:
            threading.Thread(target=write, name="learnloop-endpoint", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise Refusal(503, "No further thread can be started here: try again later.", "busy") from error

    def _pieces(self, asked: Asked, config: RunnableConfig) -> Generator[AIMessage]:
        model: Runnable[LanguageModelInput, AIMessage] = self._model
        if asked.tools:
            tools = [tool.model_dump(exclude_none=True) for tool in asked.tools]
            model = self._model.bind_tools(tools, tool_choice=asked.tool_choice)
        messages = asked.conversation()
        if asked.stream:
            yield from model.stream(messages, config, **asked.options)
        else:
            yield model.invoke(messages, config, **asked.options)


def refusal_of(error: Exception, seconds: float) -> Refusal:
    """Return what the caller is told of an error; what is no error of ours is not described to anybody."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(
            504, f"The model did not answer within {seconds:g} seconds: try again, or ask for fewer tokens.", "timeout"
        )
    if isinstance(error, DataError):
        return Refusal(400, str(error), "invalid_value")
    if isinstance(error, LearnLoopError):
        return Refusal(503, str(error), "unavailable")
    _log.error("A request failed: %s.", type(error).__name__)  # its text may hold what was asked
    return Refusal(
        500,
        f"The model failed ({type(error).__name__}): try again later; the server's log names it, too.",
        "internal_error",
    )
