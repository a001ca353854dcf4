"""Say what of a run is kept: which parts, under which user name, with what masked, and what its tokens cost."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph_learnloop.capture.messages import cut
from langgraph_learnloop.capture.redaction import mask, redacted
from langgraph_learnloop.config import LoopConfig, Price
from langgraph_learnloop.records import Feedback, Run


@dataclass(frozen=True)
class Policy:
    """What the writer keeps of what it is shown; decided before anything reaches a disk."""

    redaction: Callable[[str], str] | None = mask
    """Applied to every text; None keeps texts as they are."""
    exclude_nodes: Collection[str] = ()
    """Nodes of which no step is kept."""
    exclude_fields: Collection[str] = ()
    """Parts that are not kept: messages, question, answer, reasoning, tool_calls, error, metadata."""
    user_key: str | None = None
    """Users are stored as a keyed hash; None stores their names."""
    rate: float = 1.0
    """Share of the ordinary runs that is kept; what failed, was flagged or got feedback is kept whatever it is."""
    longest_text: int = 1_000_000
    """Bytes of a message or a value beyond which its long texts are cut."""
    largest_blob: int = 0
    """Bytes of an image, audio or file beyond which only its hash is kept; 0 is no limit."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """Price of each model by its name."""
    draw: Callable[[], float] = field(default=random.random)
    """Returns a number from 0 to 1 for each ordinary run."""

    def shows(self, node: str | None) -> bool:
        """Return whether steps of a node are kept."""
        return node not in self.exclude_nodes

    def keeps(self, part: str) -> bool:
        """Return whether a part of runs and steps is kept."""
        return part not in self.exclude_fields

    def kept(self, part: str, value: Any) -> Any:
        """Return a JSON-like value as it may be stored; None where its part is not kept."""
        return self.fit(value) if value is not None and self.keeps(part) else None

    def fit(self, value: Any) -> Any:
        """Return a JSON-like value with its texts cut and redacted."""
        short = cut(value, self.longest_text, self.redaction)
        return redacted(short, self.redaction) if self.redaction else short

    def feedback(self, said: Feedback) -> Feedback:
        """Return feedback as it may be stored: comment and correction are masked as the run is, and so is who said it.

        A correction that kept what its run had lost would not be found in the request that it corrects.
        """
        right = said.correction
        if right is not None:
            calls = tuple(call.model_copy(update={"args": self.fit(call.args)}) for call in right.tool_calls)
            right = right.model_copy(update={"content": self.fit(right.content), "tool_calls": calls})
        return said.model_copy(update={"text": self.fit(said.text), "correction": right, "by": self.user(said.by)})

    def user(self, name: str | None) -> str | None:
        """Return the name under which a user is stored: with a key, an HMAC-SHA-256 that only its owner can match."""
        if name is None or self.user_key is None:
            return name
        return hmac.new(self.user_key.encode(), name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]

    def usd(self, model: str, read: int | None, written: int | None) -> float | None:
        """Return what a model call cost; None where price or tokens are not known."""
        price = self.prices.get(model)
        if price is None or read is None or written is None:
            return None
        return (read * price.input + written * price.output) / 1_000_000

    def is_sampled(self, run: Run) -> bool:
        """Return whether a run is kept even if nobody says anything about it."""
        went_wrong = run.outcome == "failed" or bool(run.flagged) or any(step.error for step in run.steps)
        return went_wrong or self.rate >= 1 or self.draw() < self.rate


def policy_of(config: LoopConfig) -> Policy:
    """Return the policy that the settings describe."""
    return Policy(
        redaction=mask if config.redact else None,
        exclude_nodes=config.exclude_nodes,
        exclude_fields=config.exclude_fields,
        user_key=config.user_key,
        rate=config.sample_rate,
        longest_text=config.longest_text,
        largest_blob=config.largest_blob,
        prices=config.prices,
    )
