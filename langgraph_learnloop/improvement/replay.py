"""How much of the old to replay beside the new, by what evaluation saw forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_learnloop.records import Gate, Scorecard

_UP, _DOWN = 2.0, 1.5
"""What the ratio is multiplied with after a loss, and divided by after none: quick to protect, slow to forget why."""
_MOST = 8.0
"""Times the configured ratio, at most."""


def replay_ratio(configured: float, cards: Sequence[Scorecard], margin: float) -> float:
    """Return replayed examples for each new one, given the scorecards so far, oldest first.

    It doubles after a candidate that lost more than half of `margin` on the old slice, and goes back towards what is
    configured after one that lost nothing. A recipe without replay stays without.
    """
    ratio = configured
    for card in cards:
        lost = _lost(card)
        if lost is not None and lost > margin / 2:
            ratio = min(ratio * _UP, configured * _MOST)
        elif lost is not None and lost <= 0:
            ratio = max(ratio / _DOWN, configured)
    return ratio


def _lost(card: Scorecard) -> float | None:
    """Return the share of the old slice that a candidate lost; None where nobody looked."""
    gate: Gate | None = next((gate for gate in card.gates if gate.name == "retention"), None)
    if gate is None or gate.champion is None or gate.candidate is None:
        return None
    return gate.champion - gate.candidate
