"""What goes wrong at the loopback Langfuse, by the dice of a seed and only where it is ordered."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.integrations.loopback_langfuse_http import Answer, Request, said

KINDS = ("500_before", "500_after", "503", "429", "close_before", "close_after", "hang", "hang_after")
"""How a request fails; it is carried out all the same where the name ends in `_after`."""


@dataclass
class Rule:
    """Which requests fail, how and how many more of them."""

    share: float
    kinds: tuple[str, ...]
    paths: tuple[str, ...]
    times: int | None

    def reach(self, path: str) -> int:
        """Return how much of a path is named, -1 if it is another one."""
        return max((len(prefix) for prefix in self.paths if path.startswith(prefix)), default=-1)


class Faults:
    """Hold the orders; everything may be changed while the server runs."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.retry_after: float | None = None
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
        paths: Iterable[str] = ("/api/public/",),
        times: int | None = None,
    ) -> None:
        """Let a share of the requests fail, the first `times` of them; a new order about the same paths replaces."""
        rule = Rule(share, tuple(kinds), tuple(paths), times)
        if unknown := set(rule.kinds) - set(KINDS):
            raise ValueError(f"There are no faults {sorted(unknown)}; there are {KINDS}.")
        with self._dice:
            self._rules = [one for one in self._rules if one.paths != rule.paths] + [rule] * (share > 0)

    def slow(self, seconds: float, paths: Iterable[str] = ("/api/public/",)) -> None:
        """Wait before each answer."""
        self._slow = {**self._slow, **dict.fromkeys(paths, seconds)}

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._dice:
            self._rules = []
        self._slow = {}
        self.largest_body = self.reject_spans = None

    def draw(self, path: str) -> str | None:
        """Return how this request fails: the order that names most of its path decides."""
        with self._dice:
            rule = max(self._rules, key=lambda one: one.reach(path), default=None)
            if rule is None or rule.reach(path) < 0 or rule.times == 0 or self.random.random() >= rule.share:
                return None
            if rule.times is not None:
                rule.times -= 1
            kind = self.random.choice(rule.kinds)
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
        headers = (("Retry-After", f"{self.retry_after:g}"),) if status == 429 and self.retry_after is not None else ()
        body = said(status, {"message": "It was told to fail", "error": kind})
        return Answer(status, body.body, headers=headers)

    def too_large(self, request: Request) -> bool:
        return self.largest_body is not None and len(request.raw) > self.largest_body
