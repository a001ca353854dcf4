"""Queue requests for one worker, and hand them out in batches that are fair between releases."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Task = Callable[[], None]
"""A piece of work that is no request; it goes before them."""


class Line(Generic[Item]):
    """Keep items by whose they are, and hand out one of each in turn."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[Item]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._items.values() for item in items)

    def append(self, whose: str, item: Item) -> None:
        """Add an item."""
        self._items.setdefault(whose, deque()).append(item)

    def pop(self) -> Item:
        """Return the next item; whose it was comes last from now on."""
        whose, items = self._items.popitem(last=False)
        item = items.popleft()
        if items:
            self._items[whose] = items
        return item


class FairQueue(Generic[Item]):
    """Keep items by key; a batch holds one key's items, and keys take turns; so do the owners of a key's items.

    `linger_seconds` is how long `take` waits for callers of the last batch to come back: those who ask again and again
    then share a batch instead of running in two half-empty shifts. A caller who is alone never waits.
    """

    def __init__(self, linger_seconds: float = 0.003) -> None:
        self._linger_seconds = linger_seconds
        self._waiting: OrderedDict[str, Line[Item]] = OrderedDict()
        self._tasks: deque[Task] = deque()
        self._count = 0
        self._expected = 1
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many items wait."""
        return self._count

    @property
    def closed(self) -> bool:
        """Tell whether the queue takes no more."""
        return self._closed

    def put(self, key: str, item: Item, whose: str = "") -> bool:
        """Add an item and return True, or False when the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            self._waiting.setdefault(key, Line()).append(whose, item)
            self._count += 1
            self._changed.notify_all()
            return True

    def put_task(self, task: Task) -> bool:
        """Add a piece of work that goes before all items, and return True, or False when the queue is closed."""
        with self._changed:
            if not self._closed:
                self._tasks.append(task)
                self._changed.notify_all()
            return not self._closed

    def take(self, most: int) -> list[Item] | Task | None:
        """Wait for work: a task, or up to `most` items of one key; None when the queue is closed and empty of tasks."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._count or self._closed)
            enough = min(most, self._expected)
            self._changed.wait_for(
                lambda: self._count >= enough or self._tasks or self._closed, timeout=self._linger_seconds
            )
            if self._tasks:
                return self._tasks.popleft()
            if self._closed:
                return None
            self._expected = self._count
            return self._pop(next(iter(self._waiting)), most)

    def take_more(self, key: str, most: int) -> list[Item]:
        """Return up to `most` further items of a key that is being served, at once."""
        with self._changed:
            if self._closed or key not in self._waiting or most < 1:
                return []
            return self._pop(key, most)

    def take_others(self, busy: Collection[str], most: int) -> list[list[Item]]:
        """Return up to `most` items of each key that is not being served, at once."""
        with self._changed:
            if self._closed:
                return []
            return [self._pop(key, most) for key in list(self._waiting) if key not in busy]

    def take_tasks(self) -> list[Task]:
        """Return the pieces of work that wait, at once."""
        with self._changed:
            tasks = list(self._tasks)
            self._tasks.clear()
            return tasks

    def close(self) -> list[Item]:
        """Refuse further work and return the items that nobody will take."""
        with self._changed:
            self._closed = True
            left = [item for line in self._waiting.values() for item in line]
            self._waiting.clear()
            self._count = 0
            self._changed.notify_all()
            return left

    def _pop(self, key: str, most: int) -> list[Item]:
        """Return the next items of a key; what is left of it goes to the end of the line: the other keys come first."""
        line = self._waiting.pop(key)
        batch: list[Item] = []
        while line and len(batch) < most:
            batch.append(line.pop())
        if line:
            self._waiting[key] = line
        self._count -= len(batch)
        return batch
