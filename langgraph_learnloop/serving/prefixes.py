"""Keep the keys and values of conversations that were read, so that their next turn need not read them again; heavy.

A tree, as in SGLang's RadixAttention (Zheng et al. 2024, section 3): what conversations have in common at their
beginning, such as instructions and tools, is held once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer: heads x tokens x size."""


@dataclass(eq=False)
class _Piece:
    """Tokens that follow each other in one or more conversations."""

    tokens: list[int]
    layers: Layers
    before: _Piece | None
    after: dict[int, _Piece] = field(default_factory=dict)
    """What follows, by its first token."""


@dataclass(frozen=True)
class Known:
    """What is known of the beginning of a conversation."""

    count: int = 0
    """Tokens."""
    pieces: Sequence[_Piece] = ()

    def layers(self, count: int) -> list[Layers]:
        """Return the keys and values of the first so many tokens, piece by piece."""
        found: list[Layers] = []
        for piece in self.pieces:
            part = min(count, len(piece.tokens))
            if part:
                found.append([(keys[:, :part], values[:, :part]) for keys, values in piece.layers])
            count -= part
        return found


NOTHING = Known()


class Prefixes:
    """Hold up to so many bytes of keys and values, by release; what was not used for longest goes first.

    It belongs to one thread. `least` is the fewest tokens that are worth it: below, reading them again is as fast.
    """

    def __init__(self, most_bytes: int, least: int) -> None:
        self.held_bytes = 0
        self._most_bytes = most_bytes
        self._least = least
        self._roots: dict[str, _Piece] = {}
        self._pieces: OrderedDict[_Piece, None] = OrderedDict()
        """Least recently used first; a piece is older than those before it, so that leaves go first."""

    def worth(self, tokens: int) -> bool:
        """Tell whether so many tokens are kept at all."""
        return self._most_bytes > 0 and tokens >= self._least

    def find(self, release_id: str, tokens: list[int]) -> Known:
        """Return what is known of a prompt's beginning; never all of it, for its last token says what comes next."""
        root = self._roots.get(release_id)
        if root is None:
            return NOTHING
        pieces, count = self._walk(root, tokens[:-1])
        if count < self._least:
            return NOTHING
        self._touch(pieces[-1])
        return Known(count, pieces)

    def keep(self, release_id: str, tokens: list[int], layers: Layers) -> None:
        """Keep a conversation; only what is new of it is copied."""
        if not self.worth(len(tokens)) or _size(layers) > self._most_bytes:
            return
        root = self._roots.setdefault(release_id, _Piece([], (), None))
        pieces, count = self._walk(root, tokens)
        last = pieces[-1] if pieces else root
        over = sum(len(piece.tokens) for piece in pieces) - count
        if over and count < len(tokens):
            last = self._split(last, len(last.tokens) - over)
        if count < len(tokens):
            last = self._add(_Piece(list(tokens[count:]), _copied(layers, count, len(tokens)), last))
        self._touch(last)
        self._shrink()

    def drop(self, release_id: str) -> None:
        """Forget what was kept of a release."""
        root = self._roots.pop(release_id, None)
        left = [*root.after.values()] if root is not None else []
        while left:
            piece = left.pop()
            left += piece.after.values()
            del self._pieces[piece]
            self.held_bytes -= _size(piece.layers)

    def _walk(self, root: _Piece, tokens: list[int]) -> tuple[list[_Piece], int]:
        """Return the pieces that tokens begin with, the last of them perhaps in part, and how many tokens that are."""
        pieces: list[_Piece] = []
        count, at = 0, root
        while count < len(tokens) and (piece := at.after.get(tokens[count])):
            same = _common(piece.tokens, tokens[count : count + len(piece.tokens)])
            pieces.append(piece)
            count += same
            if same < len(piece.tokens):
                break
            at = piece
        return pieces, count

    def _add(self, piece: _Piece) -> _Piece:
        if piece.before is not None:
            piece.before.after[piece.tokens[0]] = piece
        self._pieces[piece] = None
        self.held_bytes += _size(piece.layers)
        return piece

    def _split(self, piece: _Piece, at: int) -> _Piece:
        """Cut a piece in two, and return the first; copies, so that neither holds the other's memory."""
        first = _Piece(piece.tokens[:at], _copied(piece.layers, 0, at), piece.before)
        self.held_bytes -= _size(piece.layers)
        piece.layers = _copied(piece.layers, at, len(piece.tokens))
        self.held_bytes += _size(piece.layers)
        piece.tokens, piece.before = piece.tokens[at:], self._add(first)
        first.after[piece.tokens[0]] = piece
        return first

    def _touch(self, piece: _Piece | None) -> None:
        while piece is not None and piece.before is not None:
            self._pieces.move_to_end(piece)
            piece = piece.before

    def _shrink(self) -> None:
        while self.held_bytes > self._most_bytes:
            oldest, _ = self._pieces.popitem(last=False)
            self.held_bytes -= _size(oldest.layers)
            if oldest.before is not None:
                del oldest.before.after[oldest.tokens[0]]


def _common(some: list[int], others: list[int]) -> int:
    """Return how many tokens are the same at the beginning."""
    if some == others:
        return len(some)
    return next((at for at, (one, other) in enumerate(zip(some, others, strict=False)) if one != other), len(others))


def _copied(layers: Layers, start: int, stop: int) -> Layers:
    return [(keys[:, start:stop].clone(), values[:, start:stop].clone()) for keys, values in layers]


def _size(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)
