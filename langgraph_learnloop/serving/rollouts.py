"""What a rollout sees and what it asks: a finished thread, the limits, and what all the threads say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from langgraph_learnloop.errors import ConfigError

Move = Literal["advance", "hold", "rollback"]
Verdict = tuple[Move, str]
"""What to do, and why, as a sentence."""

_LEAST_MARGIN = 0.01
"""The smallest difference that the bets can rule out in a rollout that ends."""


class Seen(NamedTuple):
    """A finished thread of a rollout."""

    candidate: bool
    """Was it the candidate's; else it was the champion's."""
    bad: float
    """The primary metric, 0 to 1: whether any run of it was flagged, or a score of one's own; less is better."""
    error: bool = False
    """Did any run of it end with an error."""
    seconds: float | None = None
    """Mean time of its model calls."""
    usd: float | None = None
    """What it cost."""
    unsafe: bool = False
    """Was any answer of it unsafe."""
    handed_over: bool = False
    """Did a person take it over."""
    percent: float | None = None
    """Percent of new threads that went to the candidate when this one began; None for the percent of now."""


@dataclass(frozen=True)
class Limits:
    """What a rollout asks of the candidate; raise ConfigError for what no rollout could show."""

    alpha_rollback: float = 0.05
    """The chance that a release that is no worse is ever taken back, over the whole rollout and all its tests."""
    alpha_promote: float = 0.01
    """The chance that a release that is worse by `margin` is ever called not worse."""
    alpha_routing: float = 0.001
    """The chance that a right routing is ever called wrong, in one stage."""
    margin: float = 0.05
    """To be promoted, the candidate must be shown to be worse by less than this; a difference of bad shares."""
    least_threads: int = 20
    """Threads that the candidate must have finished in a stage."""
    errors: float | None = 0.0
    """Its share of threads with an error may be higher by this; None does not look."""
    handed_over: float | None = 0.0
    """Its share of threads that a person took over may be higher by this; None does not look."""
    latency_ratio: float | None = 1.25
    """Its seconds may be so many times the champion's; None does not look."""
    cost_ratio: float | None = 1.25
    """Its dollars may be so many times the champion's; None does not look."""
    unsafe: float | None = 0.001
    """Its share of unsafe threads may be so high, whatever the champion's is; 0.0 allows none, None does not look."""

    def __post_init__(self) -> None:
        """Check each limit."""
        for name in ("alpha_rollback", "alpha_promote", "alpha_routing", "margin"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"The limit {name} must be above 0 and below 1, not {getattr(self, name)!r}.")
        if self.margin < _LEAST_MARGIN:
            raise ConfigError(
                f"The limit margin must be at least {_LEAST_MARGIN}, not {self.margin!r}: no rollout ends."
            )
        for name in ("errors", "handed_over", "unsafe"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise ConfigError(f"The limit {name} must be a share from 0 to below 1, or None, not {share!r}.")
        for name in ("latency_ratio", "cost_ratio"):
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio < math.inf:
                raise ConfigError(f"The limit {name} must be a ratio above 0, or None, not {ratio!r}.")
        if self.least_threads < 1:
            raise ConfigError(f"The limit least_threads must be at least 1, not {self.least_threads!r}.")


@dataclass(frozen=True)
class Evidence:
    """What the threads of a rollout say so far."""

    move: Move
    """To the next percent, nowhere, or back to the champion."""
    because: str
    """Why, as a sentence."""
    champion_bad: float | None
    """The champion's mean of `bad` over all its threads; None without any."""
    candidate_bad: float | None
    """The candidate's."""
    low: float
    """Lower end of the difference, candidate minus champion, that holds however often one looks."""
    high: float
    """Upper end; both miss the truth with the chance `alpha_rollback` at most."""
    e_values: Mapping[str, float]
    """The highest e-value of each test so far: what a bet against its hypothesis made of 1; and of "not_worse"."""
    threads: tuple[int, int]
    """Finished threads of the champion and of the candidate."""
    routing_p: float
    """The p-value, safe to look at any time, of "the stage's threads were shared out as its percent says"."""
