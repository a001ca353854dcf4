"""Find personal data with Microsoft Presidio and mask it before anything is stored.

    loop = LearnLoop(policy=Policy(redaction=PresidioRedaction()))

Needs `pip install presidio-analyzer` and the language model that it asks for. It reads every new text in the writer's
thread: the agent does not wait for it, but the writer takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph_learnloop.errors import MissingExtraError


class PresidioRedaction:
    """Replace what Presidio recognises by the name of its kind, e.g. "[person]"."""

    def __init__(
        self,
        analyzer: Any = None,
        language: str = "en",
        entities: Sequence[str] | None = None,
        least_score: float = 0.4,
    ) -> None:
        """Use an `AnalyzerEngine` (default: Presidio's own); `entities` are its kinds, None is all it knows."""
        self._analyzer = analyzer if analyzer is not None else _engine()
        self._language = language
        self._entities = list(entities) if entities is not None else None
        self._least_score = least_score

    def __call__(self, text: str) -> str:
        """Return a text with what was recognised masked."""
        found = self._analyzer.analyze(text=text, language=self._language, entities=self._entities)
        sure = [one for one in found if one.score >= self._least_score]
        end = len(text)
        for one in sorted(sure, key=lambda one: (one.end, one.end - one.start), reverse=True):
            if one.end <= end:  # of two that overlap, the one that ends later
                text = f"{text[: one.start]}[{one.entity_type.lower()}]{text[one.end :]}"
                end = one.start
        return text


def _engine() -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
    except ImportError as error:
        raise MissingExtraError(
            "Redaction with Presidio needs presidio-analyzer: pip install presidio-analyzer."
        ) from error
    return AnalyzerEngine()
