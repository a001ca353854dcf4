"""Score how much an answer resembles the right one, where the same can be said in many words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from langgraph_learnloop.errors import ConfigError, MissingExtraError
from langgraph_learnloop.evaluation.evaluators import NOTHING_EXPECTED, plain, right, type_and_name
from langgraph_learnloop.records import Case, Judged, Message, Score, content_hash

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

LONGEST_TEXT = 100_000
"""Characters of a text beyond which its end is left out of the comparison."""
_WIDTH = 2048


class Similarity:
    """Compare the text of a run's last answer with the right one by the cosine of their embeddings.

    The right text is the last one of `case.reference`, or else the expected message's. Likeness is not truth: "before"
    and "after" are close in any embedding. Look at what a threshold lets pass before you gate on it.
    """

    def __init__(self, embeddings: Embeddings | None = None, *, at_least: float | None = None) -> None:
        """Embed by any LangChain embeddings; a cosine of `at_least` makes the score an assertion.

        Without embeddings: hashed character n-grams of 3 to 5 within words, which know spelling and no meaning.
        """
        if at_least is not None and not 0 < at_least <= 1:
            raise ConfigError(f"A similarity is at least a number over 0, at most 1, not {at_least!r}.")
        self._embeddings = embeddings
        self._at_least = at_least
        embedding = "hashed" if embeddings is None else type_and_name(embeddings)
        self.name = f"similarity-{content_hash([embedding, at_least])[:8]}/1"
        """Name and version, with a mark of the embeddings and the threshold; part of a result's identity."""
        self.target = self.guard = "similarity"
        """0 to 1, or whether it is enough."""
        self.whole = True
        """The last answer of the whole run is looked at."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the score; None without a right text, or where the embeddings say nothing.

        A cosine below 0 counts as 0, and so does an answer without a text.
        """
        expected, answer = _last_text(right(case, whole=True)), _last_text(got)
        if not expected:
            return Judged({self.target: None}, NOTHING_EXPECTED)
        if not answer:
            return Judged({self.target: self._score(0.0)}, "The last answer has no text.")
        cosine = _cosine(*self._embedded([answer, expected]))
        if cosine is None:
            return Judged({self.target: None}, f"The embeddings of {self.name!r} are zero or no numbers.")
        return Judged({self.target: self._score(cosine)}, f"The cosine is {cosine:.3f}.")

    def _embedded(self, texts: list[str]) -> Sequence[Sequence[float]]:
        return self._embeddings.embed_documents(texts) if self._embeddings is not None else _hashed(texts)

    def _score(self, cosine: float) -> Score:
        return cosine if self._at_least is None else cosine >= self._at_least


def _last_text(messages: Sequence[Message]) -> str:
    said = [message.content.strip() for message in messages if message.role == "assistant"]
    return said[-1][:LONGEST_TEXT] if said else ""


def _cosine(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the cosine of two vectors, 0 to 1; None when one of them has no direction."""
    lengths = math.hypot(*one) * math.hypot(*other)
    if not math.isfinite(lengths) or lengths == 0:
        return None
    product = math.fsum(left * right for left, right in zip(one, other, strict=True))
    return min(1.0, max(0.0, product / lengths))


def _hashed(texts: list[str]) -> list[list[float]]:
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise MissingExtraError(
            'Comparing texts without embeddings needs scikit-learn: pip install "langgraph-learnloop[loop]".'
        ) from error
    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=_WIDTH)
    return cast("list[list[float]]", hashing.transform([plain(text) for text in texts]).toarray().tolist())
