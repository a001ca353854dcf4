"""Words before weights: a release drafted from the champion goes the same way as one that was trained."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import DataError, EngineError, NotFoundError
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.records import Dataset, Generated, Generation, Message, Sampling
from langgraph_learnloop.testing import MemoryEngine
from tests.shop import HOURS, RETURNS, Shop

QUESTION = "how long can I return a lamp to you"
SHOTS = (Message(role="user", content="how long can I return shoes to you"), Message(role="assistant", content=RETURNS))


class Reading(MemoryEngine):
    """Know what stands in the conversation, too: shots teach it, and facts."""

    def generate(self, request: Generation) -> Generated:
        answer = super().generate(request)
        spoken = request.messages
        if answer.message.content != "I do not know.":
            return answer
        for asked, said in pairwise(spoken):
            if "return" in asked.content and "return" in spoken[-1].content and said.role == "assistant":
                return answer.model_copy(update={"message": said})
        if spoken[0].role == "system" and RETURNS in spoken[0].content and "return" in spoken[-1].content:
            return answer.model_copy(update={"message": Message(role="assistant", content=RETURNS)})
        return answer


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every shop an engine that reads."""
    monkeypatch.setattr("tests.shop.engine", lambda: Reading({"what are the opening hours on": HOURS}, alike=0.4))


@pytest.fixture
def shop(tmp_path: Path, reading: None) -> Iterator[Shop]:
    """Open a shop that had a bad day."""
    with (shop := Shop.after("corrected", tmp_path)).loop:
        yield shop


@pytest.fixture
def promoted(tmp_path: Path, reading: None) -> Iterator[Shop]:
    """Open a shop that learned from its bad day."""
    with (shop := Shop.after("promoted", tmp_path)).loop:
        yield shop


def _curated(loop: LearnLoop) -> Dataset:
    dataset = loop.curate()
    assert dataset is not None
    return dataset


@pytest.mark.parametrize("words", [{"shots": SHOTS}, {"knowledge": [RETURNS]}], ids=["shots", "knowledge"])
def test_words_are_drafted_examined_and_promoted(shop: Shop, words: dict[str, Any]) -> None:
    """No weight is changed: the draft passes the same gates as a trained candidate, and serves."""
    loop, dataset = shop.loop, _curated(shop.loop)
    assert shop.ask("before", QUESTION) == "I do not know."
    candidate = loop.draft(**words, because="Cheaper than training.", actor="ann")
    assert (candidate.parent, candidate.adapter) == (loop.champion.release_id, None)
    assert loop.evaluate(candidate, dataset).passed
    loop.promote(candidate.release_id)
    assert shop.ask("after", QUESTION) == RETURNS
    (decision,) = [one for one in loop.log() if one.action == "draft"]
    assert (decision.subject, decision.because, decision.actor) == (
        candidate.release_id,
        "Cheaper than training.",
        "ann",
    )


def test_a_draft_keeps_the_adapter_and_what_is_trained_keeps_the_words(promoted: Shop) -> None:
    """What is not given stays: weights beneath other words, words above other weights."""
    loop = promoted.loop
    trained = loop.champion
    draft = loop.draft(instructions="Be kind.", shots=SHOTS, knowledge=["We are a shop."])
    assert (draft.adapter, draft.adapter_sha256, draft.dataset) == (
        trained.adapter,
        trained.adapter_sha256,
        trained.dataset,
    )
    loop.store.releases.point(draft.release_id, "test", "test")
    assert promoted.ask("with words", QUESTION) == RETURNS
    dataset = loop.store.datasets.get(str(trained.dataset))
    again = loop.train(dataset, loop.config.recipe.model_copy(update={"seed": 7}))
    assert (again.instructions, again.shots, again.knowledge) == ("Be kind.", SHOTS, ("We are a shop.",))


def test_the_same_draft_is_the_same_release(shop: Shop) -> None:
    """Drafting again changes nothing and is logged once."""
    one, other = (shop.loop.draft(instructions="Be kind.") for _ in range(2))
    assert one == other
    assert [entry.action for entry in shop.loop.log()].count("draft") == 1


def test_empty_takes_away_and_another_model_takes_no_adapter(promoted: Shop) -> None:
    """An adapter fits the model it was trained on; sampling and instructions come and go."""
    loop = promoted.loop
    draft = loop.draft(instructions="Be kind.", sampling=Sampling(max_tokens=7))
    loop.store.releases.point(draft.release_id, "test", "test")
    assert loop.draft(instructions="").instructions is None
    other = loop.draft(model="memory-2")
    assert (other.base_model, other.adapter, other.adapter_sha256, other.recipe, other.dataset) == (
        "memory-2",
        *([None] * 4),
    )
    assert (other.instructions, other.sampling.max_tokens) == ("Be kind.", 7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, "over again"),
        ({"instructions": " "}, "over again"),
        ({"model": "memory", "shots": []}, "over again"),
        ({"shots": SHOTS[:1]}, "end with the assistant's answer"),
        ({"shots": SHOTS * 33}, "keep the best ones"),
        ({"knowledge": ["x" * 50_001]}, "let a tool look up the rest"),
        ({"knowledge": [" "]}, "leave it out"),
    ],
)
def test_words_that_cannot_be_used_are_refused(shop: Shop, words: dict[str, Any], sentence: str) -> None:
    """One sentence with the way out, and nothing is stored."""
    with pytest.raises(DataError, match=sentence):
        shop.loop.draft(**words)
    assert len(shop.loop.store.releases.all()) == 1


def test_a_draft_that_learned_nothing_is_examined_on_a_dataset_that_is_named(shop: Shop) -> None:
    """The sentence says how."""
    with pytest.raises(DataError, match=r"loop\.evaluate\(release, dataset\)"):
        shop.loop.evaluate(shop.loop.draft(instructions="Be kind."))


def test_two_releases_are_held_side_by_side(promoted: Shop) -> None:
    """Words, weights, lessons, gates and times of service: what differs is said, what does not is not."""
    loop = promoted.loop
    found = loop.diff(loop.store.releases.previous()[:6], loop.champion.release_id)
    assert {change.field for change in found.changed} >= {"adapter_sha256", "dataset", "parent", "recipe.rank"}
    assert "sampling.temperature" not in {change.field for change in found.changed}
    assert found.examples_added is not None
    assert found.examples_added["correction"] > 10
    assert (found.examples_removed, found.instructions) == ({}, "")
    assert {name for name, _, _ in found.gates} >= {"target", "retention"}
    assert all(one is None for _, one, _ in found.gates)
    (first,), (second,) = found.served
    assert (first.until, second.until, second.percent) == (second.at, None, 100)


def test_words_are_compared_line_by_line(shop: Shop) -> None:
    """Instructions as a diff, shots and facts as added and removed; the champion is the default."""
    loop = shop.loop
    one = loop.draft(instructions="Be kind.\nBe brief.", shots=SHOTS, knowledge=["a", "b"])
    loop.store.releases.point(one.release_id, "test", "test")
    other = loop.draft(instructions="Be kind.\nBe quick.", shots=(), knowledge=["b", "c"])
    found = loop.diff(None, other.release_id)
    assert found.instructions.splitlines()[-3:] == [" Be kind.", "-Be brief.", "+Be quick."]
    assert (found.shots_added, found.shots_removed) == ((), SHOTS)
    assert (found.knowledge_added, found.knowledge_removed) == (("c",), ("a",))


def test_a_rollout_counts_as_service(shop: Shop) -> None:
    """A candidate that was taken back served a few percent, and why it went is said."""
    loop, dataset = shop.loop, _curated(shop.loop)
    candidate = loop.train(dataset)
    loop.evaluate(candidate, dataset)
    loop.rollout(candidate.release_id)
    loop.rolling.set_stage(5, "ann")
    loop.rolling.back("It lies.", "ann")
    ((served,),) = loop.diff(None, candidate.release_id).served[1:]
    assert (served.percent, served.because) == (5, "It lies.")
    assert served.until is not None


def test_a_dataset_that_went_is_not_known(promoted: Shop) -> None:
    """Unknown is None, never nothing."""
    loop = promoted.loop
    Path(loop.store.datasets.get(str(loop.champion.dataset)).path).unlink()
    assert loop.diff(loop.store.releases.previous(), loop.champion.release_id).examples_added is None


def test_a_release_that_is_not_there_is_named(shop: Shop) -> None:
    """One sentence says which."""
    with pytest.raises(NotFoundError, match="'zz' is not in the store"):
        shop.loop.diff(None, "zz")


def test_a_draft_with_another_model_is_for_engines_that_have_it(shop: Shop) -> None:
    """What the engine has not cannot be examined; the champion serves on."""
    draft = shop.loop.draft(model="memory-2")
    engine = shop.loop.engine
    load = engine.load

    def picky(release: Any) -> None:
        if release.base_model != "memory":
            raise EngineError(f"There is no model {release.base_model!r} here.")
        load(release)

    engine.load = picky  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="'memory-2'"):
        shop.loop.evaluate(draft, _curated(shop.loop))
    assert shop.ask("x", "what are the opening hours on monday") == HOURS
