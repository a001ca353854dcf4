"""Lay requests side by side for a model that answers them together; heavy, for the in-process engine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generation
from langgraph_learnloop.serving.detokenizer import Told
from langgraph_learnloop.serving.prefixes import Known, Layers
from langgraph_learnloop.serving.toolcalls import THINK_OPEN


@dataclass(eq=False)
class Waiting:
    """A request in the queue, and while it is being answered."""

    request: Generation
    prompt: str
    ids: list[int]
    """The prompt's tokens."""
    written: Future[Literal["stop", "length"]] = field(default_factory=Future)
    """Why the answer ended, when it has."""
    room: int = 0
    tokens: list[int] = field(default_factory=list)
    """Those of the answer, as far as it is written."""
    told: list[Told] = field(default_factory=list)
    """Of each token, where the request asks for that; the token that ends an answer may be there too."""
    heard: SimpleQueue[bool] | None = None
    """Gets True for each token, where somebody listens to the answer as it is written, and False after the last."""
    gone: bool = False
    """Nobody wants the answer any more."""

    @property
    def opening(self) -> str:
        """Return what the template has begun the answer with: a chain of thought, for some models."""
        return THINK_OPEN if self.prompt.rstrip().endswith(THINK_OPEN) else ""

    @property
    def release_id(self) -> str:
        """Return the release that must answer."""
        return self.request.release_id

    def fail(self, reason: str) -> None:
        """Tell whoever waits, if nobody has told them anything yet."""
        if not self.written.done():
            self.written.set_exception(EngineError(reason))


@dataclass
class Rows:
    """Requests that are being answered together, one row each; what is shorter is padded on the left."""

    group: str
    """Only requests of one group may be answered together."""
    waiting: list[Waiting]
    ids: torch.Tensor
    """What the model reads next: rows x tokens."""
    mask: torch.Tensor
    """What of it, and of all that is in the cache, is no padding: rows x (cached + next) tokens."""
    positions: torch.Tensor
    """Where the next tokens stand in their conversation: rows x tokens."""
    temperatures: torch.Tensor
    cache: Any = None
    padded: bool = True
    """Without a mask a step is an eighth faster."""

    @classmethod
    def of(cls, group: str, waiting: list[Waiting], known: Sequence[Known], device: torch.device) -> Rows:
        """Begin with whole prompts, of which so many tokens at the beginning are known already.

        Every row reads as many tokens as the one that must read most: instead of padding it reads some that are known.
        """
        new = max(len(one.ids) - some.count for one, some in zip(waiting, known, strict=True))
        taken = [max(0, len(one.ids) - new) for one in waiting]
        cached = max(taken)
        ids = _left([one.ids[start:] for one, start in zip(waiting, taken, strict=True)], new, device)
        mask = _left([[1] * len(one.ids) for one in waiting], cached + new, device)
        return cls(
            group,
            waiting,
            ids,
            mask,
            (mask.cumsum(1) - 1).clamp(min=0)[:, cached:],
            torch.tensor([one.request.sampling.temperature for one in waiting], device=device),
            cache=_filled(known, taken, cached) if cached else None,
            padded=not bool(mask.all()),
        )

    @property
    def release_ids(self) -> tuple[str, ...]:
        """Return the release that each row is for."""
        return tuple(one.release_id for one in self.waiting)

    @property
    def done(self) -> bool:
        """Tell whether every answer is written."""
        return all(one.written.done() for one in self.waiting)

    @property
    def joinable(self) -> bool:
        """Tell whether the cache is the plain kind, which holds every token once and in order."""
        return is_plain(self.cache)

    def advance(self, drawn: torch.Tensor) -> None:
        """Go on with one drawn token a row."""
        self.ids, self.positions = drawn[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)

    def conversation(self, row: int) -> tuple[list[int], Layers]:
        """Return what a row has read and written, as far as it is in the cache, with its keys and values."""
        read = int(self.mask[row].sum()) - 1
        tokens = [*self.waiting[row].ids, *self.waiting[row].tokens][:read]
        first = self.mask.shape[1] - 1 - read
        upto = first + len(tokens)
        layers = [(layer.keys[row, :, first:upto], layer.values[row, :, first:upto]) for layer in self.cache.layers]
        return tokens, layers

    def shed(self) -> None:
        """Drop the rows that are done, which cost as much as the others, and the padding that is in every row left."""
        left = [row for row, one in enumerate(self.waiting) if not one.written.done()]
        if len(left) == len(self.waiting):
            return
        rows = torch.tensor(left, device=self.ids.device)
        self.cache.batch_select_indices(rows)
        self.waiting = [self.waiting[row] for row in left]
        self.ids, self.positions, self.temperatures = self.ids[rows], self.positions[rows], self.temperatures[rows]
        first = int(self.mask[rows].any(0).int().argmax()) if self.joinable else 0
        self.mask = self.mask[rows, first:]
        for layer in self.cache.layers if first else ():
            layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
        self.padded = not bool(self.mask.all())

    def join(self, others: Rows) -> None:
        """Add rows whose prompts were read meanwhile."""
        self.waiting = [*self.waiting, *others.waiting]  # first: should the rest fail, they must hear of it
        width = max(self.mask.shape[1], others.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, others.cache.layers, strict=True):
            mine.keys = _stacked(mine.keys, theirs.keys, width - 1)
            mine.values = _stacked(mine.values, theirs.values, width - 1)
        masks = [pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, others.mask)]
        self.mask = torch.cat(masks)
        self.padded = not bool(self.mask.all())
        self.ids, self.positions = torch.cat([self.ids, others.ids]), torch.cat([self.positions, others.positions])
        self.temperatures = torch.cat([self.temperatures, others.temperatures])


def is_plain(cache: Any) -> bool:
    """Tell whether a cache holds every token once and in order: no window that slides, no state of another kind."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def read_together(waiting: Sequence[Waiting], known: Sequence[Known]) -> list[list[int]]:
    """Return which requests to read in one go each: none reads twice what it must, and more than a few tokens more."""
    new = [len(one.ids) - some.count for one, some in zip(waiting, known, strict=True)]
    parts: list[list[int]] = []
    for row in sorted(range(len(new)), key=lambda row: -new[row]):
        if parts and new[parts[-1][0]] <= max(2 * new[row], new[row] + _APART):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


_APART = 48
"""Tokens that a request may read for nothing before it is cheaper to read it apart: what calling the model costs."""


def _left(rows: list[list[int]], width: int, device: torch.device) -> torch.Tensor:
    """Return rows x width, filled with zeros on the left, where a mask hides them."""
    return torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)


def _filled(known: Sequence[Known], taken: Sequence[int], width: int) -> DynamicCache:
    """Return a cache of the first tokens of each row, padded on the left to `width` tokens."""
    like = next(some for some in known if some.pieces)
    rows = [some.layers(count) for some, count in zip(known, taken, strict=True)]
    data = []
    for at, kind in enumerate(like.pieces[0].layers):
        pair = tuple(one.new_zeros(len(known), one.shape[0], width, one.shape[2]) for one in kind)
        for row, pieces in enumerate(rows):
            start = width - taken[row]
            for piece in pieces:
                upto = start + piece[at][0].shape[1]
                for whole, part in zip(pair, piece[at], strict=True):
                    whole[row, :, start:upto] = part
                start = upto
        data.append(pair)
    return DynamicCache(data)


def _stacked(some: torch.Tensor, more: torch.Tensor, width: int) -> torch.Tensor:
    """Return keys or values (rows x heads x tokens x size) below each other, padded on the left to `width` tokens."""
    return torch.cat([pad(one, (0, 0, width - one.shape[2], 0)) for one in (some, more)])
