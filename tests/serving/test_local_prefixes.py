"""A thread's next turn reads only what is new, and every answer is what it was when all was read."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langgraph_learnloop.records import Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.local_engine import LocalEngine

RULES = Message(role="system", content="You know the weather in oslo, rome, lima, bern, kyiv, riga, doha and baku.")
Talk = tuple[Message, ...]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def ask(engine: LocalEngine, release: Release, talk: Talk, tokens: int = 10) -> Message:
    sampling = Sampling(max_tokens=tokens)
    return engine.generate(Generation(release_id=release.release_id, messages=talk, sampling=sampling)).message


def turns(engine: LocalEngine, release: Release, *texts: str) -> tuple[Talk, list[Message]]:
    """Return a conversation, and what was answered in it."""
    talk: Talk = (RULES,)
    answers = []
    for text in texts:
        talk = (*talk, user(text))
        answers.append(ask(engine, release, talk))
        talk = (*talk, answers[-1])
    return talk, answers


def forgetful(models: Any) -> LocalEngine:
    engine = LocalEngine(models.base.base_model, prefix_mb=0)
    for release in models:
        engine.load(release)
    return engine


def held_bytes(engine: LocalEngine) -> int:
    """Return what is kept, once the worker is through with what it was asked: an answer is kept after it is given."""
    left = engine._generation.drop("nobody")
    assert left is not None
    left.result(30)
    return engine._generation.prefixes.held_bytes


@pytest.fixture
def plain(models: Any, adapters: str) -> Iterator[LocalEngine]:
    """Give an engine that reads everything."""
    engine = forgetful(models)
    yield engine
    engine.close()


@pytest.fixture
def read(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many tokens a row the engine reads in each step."""
    widths: list[int] = []
    step = engine._generation._step

    def noted(rows: Any) -> None:
        widths.append(rows.ids.shape[1])
        step(rows)

    monkeypatch.setattr(engine._generation, "_step", noted)
    return widths


def test_a_next_turn_reads_what_is_new(engine, plain, models, read):
    """The first turn is read in whole, the next ones from where they differ, and the answers are the same."""
    got = turns(engine, models.one, "weather in oslo", "and in rome", "and in lima")
    assert got == turns(plain, models.one, "weather in oslo", "and in rome", "and in lima")
    first, *later = [width for width in read if width > 1]
    assert first > 40
    assert len(later) == 2
    assert max(later) < 40


def test_a_prompt_whose_answer_is_one_token_is_kept_too(engine, plain, models, read):
    """What was read for a single word need not be read again."""
    for text in ("weather in oslo", "weather in rome"):
        talk = (RULES, user(text))
        assert ask(engine, models.one, talk, 1) == ask(plain, models.one, talk, 1)
    assert read[1] < 30 < read[0]


def test_threads_share_their_beginning(engine, plain, models, read):
    """Another thread with the same instructions reads only its own words; another release reads everything."""
    ask(engine, models.one, (RULES, user("weather in oslo")))
    alike = (RULES, user("is it cold in rome"))
    assert ask(engine, models.one, alike) == ask(plain, models.one, alike)
    assert ask(engine, models.two, alike) == ask(plain, models.two, alike)
    first, second, other = [width for width in read if width > 1]
    assert second < 30 < first <= other + 10


def test_a_prompt_that_is_known_in_whole_is_answered(engine, models):
    """The same question again, and one that breaks off in the middle of a known conversation."""
    talk, answers = turns(engine, models.one, "weather in oslo", "and in rome")
    assert ask(engine, models.one, talk[:2]) == answers[0]
    assert ask(engine, models.one, talk[:4]) == answers[1]
    assert ask(engine, models.one, talk[:4]) == answers[1]


def test_a_history_that_was_edited_is_read_from_there(engine, plain, models):
    """A message changed, cut out or put in between changes the answer as it would without any memory."""
    talk, _ = turns(engine, models.one, "weather in oslo", "and in rome", "and in lima")
    called = Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": "oslo"}),))
    for edited in (
        (*talk[:2], Message(role="assistant", content="It rains."), *talk[3:], user("why")),
        (*talk[:2], called, Message(role="tool", content="rain", tool_call_id="call_0"), *talk[3:], user("why")),
        (*talk[:3], *talk[5:], user("why")),
        (user("hello"), *talk[1:], user("why")),
        (*talk[:4], *talk[2:], user("why")),
    ):
        assert ask(engine, models.one, edited) == ask(plain, models.one, edited)


def test_an_answer_that_is_rendered_otherwise_is_read_again(engine, plain, models):
    """Where the tokens of the rendered history are not those that were written, only the same beginning is used."""
    talk, answers = turns(engine, models.one, "weather in oslo")
    torn = Message(role="assistant", content=f"  {answers[0].content}\n")
    assert ask(engine, models.one, (*talk[:2], torn, user("why"))) == ask(
        plain, models.one, (*talk[:2], torn, user("why"))
    )


def test_known_and_unknown_prompts_share_a_batch(engine, plain, models):
    """Eight callers with talks of every length and release, known, unknown and half known, who join and leave."""
    rng = random.Random(3)
    cities = ("oslo", "rome", "lima", "bern", "kyiv")
    work = []
    for number in range(48):
        talk: Talk = (RULES,) if number % 3 else ()
        for turn in range(rng.randrange(1, 5)):
            talk = (*talk, user(f"weather in {cities[(number + turn) % 5]}"), Message(role="assistant", content="Sun."))
        work.append((models[number % 3], (*talk, user("why")), 1 + number % 17))
    expected = [ask(plain, *one) for one in work]
    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda one: ask(engine, *one), work)) == expected


def test_unloading_forgets_what_was_read(engine, models):
    """A release's keys and values go with it, those of the bare base too, and the others' stay."""
    for release in models:
        turns(engine, release, "weather in oslo")
    held = [held_bytes(engine)]
    for release in models:
        engine.unload(release.release_id)
        held.append(held_bytes(engine))
    assert held == sorted(set(held), reverse=True)
    assert held[-1] == 0


def test_a_release_that_is_unloaded_while_it_answers_leaves_nothing(engine, models, monkeypatch: pytest.MonkeyPatch):
    """The answer is written to its end, then the release goes with all that was kept of it; others go on meanwhile."""
    step, begun = engine._generation._step, threading.Event()

    def watched(rows: Any) -> None:
        begun.set()
        step(rows)

    talk = (RULES, user("weather in oslo"))
    alone = ask(engine, models.one, talk, 200)
    monkeypatch.setattr(engine._generation, "_step", watched)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(ask, engine, models.one, talk, 200)
        assert begun.wait(30)
        leaving = pool.submit(engine.unload, models.one.release_id)
        ask(engine, models.two, talk, 3)
        leaving.result(60)
        assert long.result() == alone
    assert engine._generation.prefixes.find(models.one.release_id, [*range(99)]).count == 0
    engine.unload(models.two.release_id)
    assert held_bytes(engine) == 0


def test_no_more_is_kept_than_was_allowed(models, adapters):
    """However much is asked, what is kept stays below the limit, and answers stay right."""
    engine = LocalEngine(models.base.base_model, prefix_mb=1)
    plain = forgetful(models)
    engine.load(models.one)
    for number in range(30):
        talk = (user(f"{number} " * 60),)
        assert ask(engine, models.one, talk, 2) == ask(plain, models.one, talk, 2)
        assert 0 < held_bytes(engine) <= 2**20
    engine.close()
    plain.close()
