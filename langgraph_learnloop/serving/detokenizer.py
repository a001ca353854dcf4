"""Make text of the tokens that a model writes, while it writes them and afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langgraph_learnloop.records import TokenLogprob
from langgraph_learnloop.serving.toolcalls import may_begin

Decode = Callable[[Sequence[int]], str]
Told = tuple[float, Sequence[tuple[int, float]]]
"""How likely a token was, and the likeliest in its place with theirs."""
_HALF = "\ufffd"
"""What the bytes of half a character decode to."""


class Detokenizer:
    """Decode tokens as they come: no half characters, nothing of a text that ends the answer, nothing after it."""

    def __init__(self, decode: Decode, stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._held = ""
        self._from = self._upto = 0

    def take(self, tokens: Sequence[int], is_all: bool = False) -> str:
        """Return the text that the tokens beyond those of the last time add, as far as it is certain.

        Only the last few are decoded, with those before them that their blanks may depend on.
        """
        recent = self._decode(tokens[self._from :])
        if is_all or not recent.endswith(_HALF):
            self._held += recent[len(self._decode(tokens[self._from : self._upto])) :]
            self._from, self._upto = self._upto, len(tokens)
        text = cut(self._held, self._stops)
        sure = len(text) if is_all or text != self._held else may_begin(text, self._stops)
        self._held = self._held[sure:]
        return text[:sure]


def cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def kept_tokens(decode: Decode, tokens: Sequence[int], stops: Sequence[str]) -> int:
    """Return how many tokens have a share in the text before the first of the stop texts."""
    length, count = len(cut(decode(tokens), stops)), len(tokens)
    while stops and count and len(decode(tokens[: count - 1])) >= length:
        count -= 1
    return count


def token_logprobs(decode: Decode, tokens: Sequence[int], told: Sequence[Told]) -> tuple[TokenLogprob, ...]:
    """Return what was told of each token, in words; blanks are as they are in the text."""
    return tuple(
        TokenLogprob(
            token=_piece(decode, tokens[:at][-1:], token),
            logprob=logprob,
            top=tuple((_piece(decode, tokens[:at][-1:], other), likely) for other, likely in top),
        )
        for at, (token, (logprob, top)) in enumerate(zip(tokens, told, strict=False))
    )


def _piece(decode: Decode, before: Sequence[int], token: int) -> str:
    """Return a token's own text: some tokenizers leave the blank before a word out where nothing stands before it."""
    start, both = decode(before), decode([*before, token])
    return both[len(start) :] if both.startswith(start) else decode([token])
