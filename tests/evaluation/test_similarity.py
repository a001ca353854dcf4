"""Likeness is a cosine of texts, and no likeness where nothing can be compared."""

from __future__ import annotations

import pytest
from langchain_core.embeddings import Embeddings

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.evaluation.similarity import Similarity
from langgraph_learnloop.records import Case, Message, Score
from tests.evaluation.scripted import case


class Scripted(Embeddings):
    """Embed each text as the script says."""

    def __init__(self, vectors: dict[str, list[float]], model: str = "scripted") -> None:
        self.vectors = vectors
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vectors[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.vectors[text]


def says(content: str) -> Message:
    """Return an assistant message in words."""
    return Message(role="assistant", content=content)


def score(of: Case, *got: Message, embeddings: Embeddings | None = None, at_least: float | None = None) -> Score:
    """Return the one score."""
    return Similarity(embeddings, at_least=at_least).judge(of, got).scores["similarity"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [([2.0, 0.0], 1.0), ([1.0, 1.0], 0.5**0.5), ([0.0, 3.0], 0.0), ([-1.0, 0.0], 0.0)],
)
def test_the_score_is_the_cosine(answer: list[float], expected: float) -> None:
    """Length makes no difference, and what points the other way is as unlike as can be."""
    embeddings = Scripted({"yes": [1.0, 0.0], "got": answer})
    assert score(case("q", says("yes")), says("got"), embeddings=embeddings) == pytest.approx(expected)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_an_embedding_without_a_direction_is_no_verdict(vector: list[float]) -> None:
    """Zero and what is no number have no cosine."""
    embeddings = Scripted({"yes": [1.0, 0.0], "got": vector})
    assert score(case("q", says("yes")), says("got"), embeddings=embeddings) is None


def test_without_embeddings_spelling_is_compared() -> None:
    """The same words are alike, some of them are somewhat alike, others are not."""
    of = case("q", says("Your parcel arrives on Tuesday morning."))
    near = score(of, says("Your parcel will arrive on Tuesday."))
    far = score(of, says("I do not know."))
    assert score(of, says("your parcel  arrives on tuesday morning.")) == pytest.approx(1.0)
    assert score(of, says("Your parcel arrives on \uff34uesday morning.")) == pytest.approx(1.0)
    assert isinstance(near, float)
    assert isinstance(far, float)
    assert 0 <= far < 0.2 < 0.5 < near < 1


def test_a_threshold_makes_an_assertion() -> None:
    """With `at_least` the score says whether it is enough."""
    of = case("q", says("Tuesday"))
    assert score(of, says("Tuesday"), at_least=0.9) is True
    assert score(of, says("Friday"), at_least=0.9) is False


def test_the_last_answers_are_compared() -> None:
    """Of a whole run the last text counts, of a reference as well."""
    reference = (says("Let me see."), Message(role="tool", content="3"), says("It is three."))
    of = case("q", says("Let me see.")).model_copy(update={"reference": reference})
    assert score(of, says("Hm."), Message(role="tool", content="3"), says("It is three.")) == pytest.approx(1.0)


def test_silence_is_unlike_and_no_expectation_is_no_verdict() -> None:
    """An answer without a text is wrong; a case that expects a tool call has no text to be like."""
    assert score(case("q", says("Tuesday")), Message(role="assistant")) == 0.0
    assert score(case("q", says("Tuesday")), Message(role="assistant"), at_least=0.5) is False
    assert score(case("q"), says("Tuesday")) is None


def test_other_embeddings_are_another_evaluator() -> None:
    """Model and threshold are in the name."""
    names = [Similarity(), Similarity(at_least=0.5), Similarity(Scripted({})), Similarity(Scripted({}, model="b"))]
    assert len({one.name for one in names}) == 4


@pytest.mark.parametrize("at_least", [0, -1, 1.1, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(at_least: float) -> None:
    """From 0 everything would pass."""
    with pytest.raises(ConfigError, match="at least a number"):
        Similarity(at_least=at_least)
