"""Have a model answer in threads whose pieces coroutines read, so many at once and no longer than allowed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langgraph_learnloop.errors import DataError, LearnLoopError
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.openai_form import Asked, Refusal

_log = logging.getLogger(__name__)


class Reply:
    """An answer that a thread writes and a coroutine reads, piece by piece."""

    def __init__(self, pieces: Callable[[], Generator[AIMessage]], until: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces = pieces
        self._until = until
        self._written: asyncio.Queue[AIMessage | Exception | None] = asyncio.Queue()
        self._stopped = threading.Event()

    def write(self) -> None:
        """Write until the end, or until nobody reads any more; an error is a piece too."""
        try:
            with closing(self._pieces()) as pieces:
                for piece in pieces:
                    if self._stopped.is_set():
                        return
                    self.tell(self._written.put_nowait, piece)
            self.tell(self._written.put_nowait, None)
        except Exception as error:  # noqa: BLE001 - handed to whoever reads
            self.tell(self._written.put_nowait, error)

    async def next(self) -> AIMessage | None:
        """Return the next piece, None at the end; raise what the model raised, or TimeoutError."""
        async with asyncio.timeout_at(self._until):
            got = await self._written.get()
        if isinstance(got, Exception):
            raise got
        return got

    def stop(self) -> None:
        """Say that nobody reads any more."""
        self._stopped.set()

    def tell(self, what: Callable[..., object], *given: object) -> None:
        """Have something done where the answer is read."""
        with suppress(RuntimeError):  # the server was closed meanwhile
            self._loop.call_soon_threadsafe(what, *given)


class Desk:
    """Ask the model in so many threads at once; an answer that nobody waits for keeps its place until it is written.

    The threads are daemons: a model that never answers must not keep the process from ending.
    """

    def __init__(self, model: LiveModel, seconds: float, places: int) -> None:
        self._model = model
        self._seconds = seconds
        self._number = places
        self._places = asyncio.Semaphore(places)

    async def ask(self, asked: Asked, metadata: Mapping[str, str]) -> Reply:
        """Begin to answer; raise Refusal when no place is free for too long."""
        offered = asked.offered  # first: what is refused takes no place
        until = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(until):
                await self._places.acquire()
        except TimeoutError as error:
            sentence = f"All {self._number} places are taken by requests that are being answered: try again later."
            raise Refusal(503, sentence, "busy") from error
        reply = Reply(lambda: self._pieces(asked, offered, {"metadata": dict(metadata)}), until)
        thread = threading.Thread(target=self._write, args=(reply,), name="learnloop-endpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._places.release()
            raise Refusal(503, "No further thread can be started here: try again later.", "busy") from error
        return reply

    def _write(self, reply: Reply) -> None:
        try:
            reply.write()
        finally:
            reply.tell(self._places.release)

    def _pieces(self, asked: Asked, offered: list[dict[str, Any]], config: RunnableConfig) -> Generator[AIMessage]:
        model: Runnable[LanguageModelInput, AIMessage] = self._model
        if offered:
            model = self._model.bind_tools(offered, tool_choice="required" if asked.must_call else None)
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
