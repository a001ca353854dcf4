"""What an analyzer finds is masked, overlaps and doubts included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph_learnloop.integrations.presidio_redaction import PresidioRedaction


@dataclass
class Found:
    """What Presidio's RecognizerResult holds of interest."""

    entity_type: str
    start: int
    end: int
    score: float


class Analyzer:
    """Answer as an AnalyzerEngine does, with what it was given."""

    def __init__(self, *found: Found) -> None:
        self.found = found
        self.asked: dict[str, Any] = {}

    def analyze(self, **asked: Any) -> list[Found]:
        self.asked = asked
        return list(self.found)


def test_what_is_found_is_masked() -> None:
    """Each find is replaced by its kind; what the analyzer doubts, and what another find covers, is not."""
    text = "Ann Lee lives in Oslo, maybe"
    analyzer = Analyzer(
        Found("PERSON", 0, 7, 0.9),
        Found("PERSON", 0, 3, 0.8),
        Found("LOCATION", 17, 21, 0.85),
        Found("DATE_TIME", 23, 28, 0.1),
    )
    redact = PresidioRedaction(analyzer, language="en", entities=["PERSON", "LOCATION"])
    assert redact(text) == "[person] lives in [location], maybe"
    assert analyzer.asked == {"text": text, "language": "en", "entities": ["PERSON", "LOCATION"]}
