"""Give coroutines what threads write: a model's answers are written in threads of the model's own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import ContextVar, copy_context
from functools import lru_cache, partial
from typing import TypeVar

_MOST_THREADS = 256
"""Coroutines that are answered at once; asyncio would lend a handful of threads, fewer than an engine's batch."""
_GONE: ContextVar[threading.Event | None] = ContextVar("learnloop_gone", default=None)
"""Set when the one who listens to this thread's items went away."""
_Item = TypeVar("_Item")


def nobody_listens() -> bool:
    """Return whether the one who listens to this thread's items went away."""
    gone = _GONE.get()
    return gone is not None and gone.is_set()


def relayed(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """Yield what an iterator gives; it is closed with this one, if it is of a kind that can be."""
    yield from items


@lru_cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """Return a process's threads for coroutines; a forked process has none of its parent's."""
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="learnloop-model")


async def in_thread(work: Callable[[], _Item]) -> _Item:
    """Return what is done in a thread; who is cancelled goes at once, and what comes of it is thrown away."""
    return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), partial(copy_context().run, work))


async def from_thread(
    items: Iterator[_Item],
    start: Callable[[Callable[[], object]], object] = lambda work: _threads(os.getpid()).submit(work),
) -> AsyncGenerator[_Item, None]:
    """Yield what an iterator gives in another thread; who stops listening closes it at its next item.

    `start` has the work done in a thread: one of those that are lent to coroutines, if nothing else is said.
    """
    loop = asyncio.get_running_loop()
    given: asyncio.Queue[tuple[_Item] | BaseException | None] = asyncio.Queue()
    gone = threading.Event()

    def hand(what: tuple[_Item] | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody listens
            loop.call_soon_threadsafe(given.put_nowait, what)

    def work() -> None:
        _GONE.set(gone)
        try:
            with closing(relayed(items)) as come:
                for item in come:
                    hand((item,))
                    if gone.is_set():
                        return
            hand(None)
        except BaseException as error:  # noqa: BLE001 - raised where the items are waited for
            hand(error)

    start(partial(copy_context().run, work))
    try:
        while (what := await given.get()) is not None:
            if isinstance(what, BaseException):
                raise what
            yield what[0]
    finally:
        gone.set()
