"""What goes wrong at the loopback Langfuse, by the dice of a seed and only where it is ordered."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.integrations.loopback_langfuse_http import Answer, Request, said

KINDS = re.compile("[45][0-9]{2}(_before|_after)?|close_(before|after)|hang(_after)?|half")
"""How a request fails: by a status, silence, or half of its answer. What ends in `_after` and "half" carry it out."""
EVERYTHING = ("/api/public/",)


@dataclass
class Rule:
    """Which requests fail, how and how many more of them."""

    kinds: tuple[str, ...]
    share: float
    paths: tuple[str, ...]
    times: int | None
    turns: deque[str | None] = field(default_factory=deque)

    def reach(self, method: str, path: str) -> int:
        """Return how much of a request is named, -1 if it is another one."""
        asked = (path, f"{method} {path}")
        return max((len(prefix) for prefix in self.paths if any(one.startswith(prefix) for one in asked)), default=-1)

    def draw(self, dice: random.Random) -> str | None:
        """Return how the next request fails, None if it does not."""
        if self.turns:
            return self.turns.popleft()
        if self.times == 0 or dice.random() >= self.share:
            return None
        if self.times is not None:
            self.times -= 1
        return dice.choice(self.kinds)


class Faults:
    """Hold the orders; everything may be changed while the server runs."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.retry_after: float | None = None
        self.retry_statuses: Container[int] = {429}
        self.hang_seconds: float | None = None
        self.largest_body: int | None = None
        self.reject_spans: Callable[[Any], bool] | None = None
        self.faults: Counter[str] = Counter()
        self.over = threading.Event()
        self._rules: list[Rule] = []
        self._slow: dict[str, float] = {}
        self._dice = threading.Lock()

    def fail(
        self,
        share: float,
        kinds: Iterable[str] = ("500_before",),
        paths: Iterable[str] = EVERYTHING,
        times: int | None = None,
    ) -> None:
        """Let a share of the requests fail, the first `times` of them; a new order about the same paths replaces.

        A path is a beginning, of "/api/public/scores" or of "POST /api/public/scores".
        """
        self._order(Rule(_known(kinds), share, tuple(paths), times))

    def fail_in_turn(self, kinds: Iterable[str | None], paths: Iterable[str] = EVERYTHING) -> None:
        """Let the next requests fail so, one after the other; None is an answer, and so is all that comes after."""
        turns = deque(kinds)
        _known(one for one in turns if one is not None)
        self._order(Rule((), 0.0, tuple(paths), 0, turns))

    def _order(self, rule: Rule) -> None:
        with self._dice:
            self._rules = [one for one in self._rules if one.paths != rule.paths]
            if rule.share > 0 or rule.turns:
                self._rules.append(rule)

    def slow(self, seconds: float, paths: Iterable[str] = EVERYTHING) -> None:
        """Wait before each answer."""
        self._slow = {**self._slow, **dict.fromkeys(paths, seconds)}

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._dice:
            self._rules = []
        self._slow = {}
        self.largest_body = self.reject_spans = None

    def draw(self, request: Request) -> str | None:
        """Return how this request fails: the order that names most of it decides."""
        asked = request.method, request.path
        with self._dice:
            rule = max(self._rules, key=lambda one: one.reach(*asked), default=None)
            kind = None if rule is None or rule.reach(*asked) < 0 else rule.draw(self.random)
            if kind is not None:
                self.faults[kind] += 1
            return kind

    def delay(self, path: str) -> None:
        reached = [prefix for prefix in self._slow if path.startswith(prefix)]
        if reached:
            self.over.wait(self._slow[max(reached, key=len)])

    def spoilt(self, kind: str, over: threading.Event) -> Answer | None:
        """Return what is answered instead, None for a connection that is closed."""
        if kind.startswith("hang"):
            over.wait(self.hang_seconds)
        if kind.startswith(("hang", "close")):
            return None
        status = int(kind[:3])
        waits = self.retry_after is not None and status in self.retry_statuses
        headers = (("Retry-After", f"{self.retry_after:g}"),) if waits else ()
        body = said(status, {"message": "It was told to fail", "error": kind})
        return Answer(status, body.body, headers=headers)

    def too_large(self, request: Request) -> bool:
        return self.largest_body is not None and len(request.raw) > self.largest_body


def _known(kinds: Iterable[str]) -> tuple[str, ...]:
    given = tuple(kinds)
    if unknown := [kind for kind in given if not KINDS.fullmatch(kind)]:
        raise ValueError(f"There are no faults {sorted(unknown)}; there are {KINDS.pattern}.")
    return given
