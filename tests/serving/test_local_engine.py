"""A real tiny model behind a queue: exact releases, exact answers, one sentence for every failure."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling
from langgraph_learnloop.serving.detokenizer import Detokenizer
from langgraph_learnloop.serving.local_engine import LocalEngine
from langgraph_learnloop.serving.swap import swap

QUESTIONS = [f"weather in {'far away ' * (i % 3)}{city}" for i, city in enumerate(("oslo", "rome", "lima", "bern") * 2)]


def request(release: Release, text: str, tokens: int = 12, **more: object) -> Generation:
    asked = (Message(role="user", content=text),)
    sampling = more.pop("sampling", Sampling(max_tokens=tokens))
    return Generation(release_id=release.release_id, messages=asked, sampling=sampling, **more)


def ask(engine: LocalEngine, release: Release, text: str, **more: object) -> Generated:
    return engine.generate(request(release, text, **more))


def serving(engine: LocalEngine, release: Release) -> Any:
    """Return the model that answers for a release."""
    return engine._models.model((release.release_id,))


def test_releases_answer_differently_and_always_the_same(engine, models):
    """Base and adapters have voices of their own, and greedy answers repeat."""
    first = [ask(engine, release, "weather in oslo").message.content for release in models]
    again = [ask(engine, release, "weather in oslo").message.content for release in models]
    assert first == again
    assert len(set(first)) == 3


def test_answers_equal_those_of_transformers(engine, models):
    """The loop with the cache writes the tokens that `generate` of transformers writes, base and adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.base.base_model)
    base = AutoModelForCausalLM.from_pretrained(models.base.base_model)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "weather in oslo"}], add_generation_prompt=True, return_tensors="pt"
    )

    def expected(model) -> str:
        out = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        return tokenizer.decode(out).split("<|im_end|>")[0].strip()

    plain = expected(base)
    adapted = expected(PeftModel.from_pretrained(base, models.one.adapter))
    assert ask(engine, models.base, "weather in oslo").message.content == plain
    assert ask(engine, models.one, "weather in oslo").message.content == adapted


def test_batched_answers_equal_single_ones(engine, models):
    """Eight callers at once, with prompts of unlike length, get what each would get alone."""
    alone = [ask(engine, models.one, text).message for text in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: ask(engine, models.one, text).message, QUESTIONS))
    assert together == alone


def test_newcomers_join_a_batch_and_change_nothing(models, adapters):
    """While one long answer is written, others come and go; each gets what it gets alone, and nobody waits for it."""
    engine = LocalEngine(models.base.base_model)
    engine.load(models.one)
    alone = [ask(engine, models.one, text).message for text in QUESTIONS]
    long_alone = ask(engine, models.one, "weather in oslo", tokens=60)
    order: list[str] = []
    begun = threading.Event()
    model = serving(engine, models.one)
    forward = model.forward

    def watched(*given, **named):
        begun.set()
        return forward(*given, **named)

    model.forward = watched
    joined: list[Message] = []
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(lambda: (ask(engine, models.one, "weather in oslo", tokens=60), order.append("long"))[0])
        assert begun.wait(30)
        for text in QUESTIONS:
            joined.append(ask(engine, models.one, text).message)
            order.append("short")
    engine.close()
    assert joined == alone
    assert long.result().message == long_alone.message
    assert order[0] == "short"


def test_nobody_waits_for_another_releases_answer(models, adapters):
    """While one release writes a long answer, another one's short answers come and go, and both are right."""
    engine = LocalEngine(models.base.base_model)
    for release in models:
        engine.load(release)
    alone = [ask(engine, models.two, text).message for text in QUESTIONS]
    long_alone = ask(engine, models.one, "weather in oslo", tokens=200).message
    order: list[str] = []
    begun = threading.Event()
    step = engine._generation._step

    def watched(rows):
        begun.set()
        step(rows)

    engine._generation._step = watched
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(lambda: (ask(engine, models.one, "weather in oslo", tokens=200), order.append("long"))[0])
        assert begun.wait(30)
        between = []
        for text in QUESTIONS:
            between.append(ask(engine, models.two, text).message)
            order.append("short")
    engine.close()
    assert between == alone
    assert long.result().message == long_alone
    assert order[0] == "short"


def test_a_flow_of_requests_grows_neither_cache_nor_batch(models, adapters):
    """However long requests keep joining, what is kept is as long as the longest conversation, not as the flow."""
    engine = LocalEngine(models.base.base_model, max_batch=4)
    engine.load(models.one)
    widths: list[int] = []
    sizes: list[int] = []
    model = serving(engine, models.one)
    forward, join = model.forward, engine._generation._join

    def watched(*given, **named):
        out = forward(*given, **named)
        widths.append(out.past_key_values.get_seq_length())
        return out

    def counted(rows):
        join(rows)
        sizes.append(len(rows.waiting))

    model.forward, engine._generation._join = watched, counted
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: ask(engine, models.one, QUESTIONS[number % 8], tokens=5 + number % 9), range(120)))
    engine.close()
    assert max(widths) < 80
    assert max(sizes) <= 4


def test_releases_never_mix_under_load(engine, models):
    """Three releases asked from eight threads at once: every answer is its own release's."""
    alone = {(r.release_id, text): ask(engine, r, text).message for r in models for text in QUESTIONS}
    work = [(r, text) for _ in range(3) for text in QUESTIONS for r in models]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda pair: ask(engine, *pair).message, work)
        wrong = [
            (r.release_id, text)
            for (r, text), got in zip(work, answers, strict=True)
            if got != alone[r.release_id, text]
        ]
    assert wrong == []


def test_a_swap_under_traffic(models, adapters):
    """Eight threads keep asking while a release is loaded and flipped to: no error, no answer of neither release."""
    engine = LocalEngine(models.base.base_model)
    for release in (models.base, models.one):
        engine.load(release)
    right = {r.release_id: [ask(engine, r, text).message for text in QUESTIONS] for r in (models.base, models.one)}
    pointer = [models.base.release_id]
    engine.unload(models.one.release_id)
    got: list[tuple[str, int, Message]] = []
    stop, flipped = threading.Event(), threading.Event()

    def traffic(number: int) -> None:
        while not stop.is_set():
            release_id = pointer[0]
            asked = Generation(
                release_id=release_id,
                messages=(Message(role="user", content=QUESTIONS[number]),),
                sampling=Sampling(max_tokens=12),
            )
            got.append((release_id, number, engine.generate(asked).message))
            if Counter(release for release, *_ in got)[models.one.release_id] > 40:
                stop.set()

    def flip() -> None:
        pointer[0] = models.one.release_id
        flipped.set()

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(traffic, number) for number in range(8)]
        swap(engine, models.one, lambda: ask(engine, models.one, QUESTIONS[0]), flip)
        errors = [error for thread in threads if (error := thread.exception()) is not None]
    engine.close()
    assert errors == []
    assert flipped.is_set()
    assert [entry for entry in got if entry[2] != right[entry[0]][entry[1]]] == []
    assert {release for release, *_ in got} == set(pointer) | {models.one.release_id} | {got[0][0]}


def test_length_and_usage(engine, models):
    """An answer that is cut says so, and its tokens are counted."""
    got = ask(engine, models.base, "weather in oslo", tokens=3)
    assert (got.finish_reason, got.output_tokens) == ("length", 3)
    assert got.input_tokens > 5


def test_stop_texts_end_the_answer(engine, models):
    """What follows a stop text is never written, and the stop text is left out."""
    whole = ask(engine, models.one, "weather in oslo").message.content
    stop = whole[3:5]
    got = ask(engine, models.one, "weather in oslo", stop=(stop,))
    assert (got.message.content, got.finish_reason) == (whole[: whole.find(stop)].strip(), "stop")


def test_sampling_is_seeded_and_rides_beside_greedy(models):
    """Two engines with one seed draw the same, another temperature draws otherwise, greedy neighbours are unmoved."""

    def drawn() -> list[str]:
        engine = LocalEngine(models.base.base_model, seed=7)
        engine.load(models.base)
        warm = [
            ask(engine, models.base, "weather in oslo", sampling=Sampling(temperature=1.5, max_tokens=12))
            for _ in range(3)
        ]
        engine.close()
        return [got.message.content for got in warm]

    first = drawn()
    assert first == drawn()
    assert len(set(first)) > 1


def test_an_unknown_release_is_refused(engine, models):
    """A release that was never loaded gives a sentence that names it and what is there."""
    stranger = models.base.model_copy(update={"instructions": "x"})
    with pytest.raises(EngineError, match=f"{stranger.release_id}.*not loaded.*{models.base.release_id}"):
        ask(engine, stranger, "hello")


def test_unloading_is_for_good_and_can_be_repeated(engine, models):
    """An unloaded release is refused, the others serve on, and it may be loaded again."""
    before = [ask(engine, r, "weather in rome").message.content for r in models]
    for _ in range(2):
        engine.unload(models.one.release_id)
    with pytest.raises(EngineError, match="not loaded"):
        ask(engine, models.one, "weather in rome")
    assert ask(engine, models.two, "weather in rome").message.content == before[2]
    engine.unload(models.two.release_id)
    assert ask(engine, models.base, "weather in rome").message.content == before[0]
    engine.load(models.one)
    assert ask(engine, models.one, "weather in rome").message.content == before[1]


def test_a_changed_adapter_is_refused(engine, models, tmp_path: Path):
    """A file whose hash is not the release's is never loaded."""
    shutil.copytree(models.one.adapter, tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = models.one.model_copy(update={"adapter": str(tmp_path / "a"), "instructions": "new id"})
    with pytest.raises(EngineError, match=r"has SHA-256 .* was changed"):
        engine.load(changed)


def test_an_adapter_that_does_not_fit_leaves_the_engine_as_it_was(models, adapters, tmp_path: Path):
    """An adapter of a larger model is refused, as the first one and as the second, and answers stay the same."""
    from tests.improvement.tiny_base import make_base
    from tests.serving.conftest import make_release

    foreign = make_release(str(make_base(tmp_path / "large", hidden=128)), tmp_path, 3)
    foreign = foreign.model_copy(update={"base_model": models.base.base_model})
    engine = LocalEngine(models.base.base_model)
    engine.load(models.base)
    before = ask(engine, models.base, "weather in oslo")
    with pytest.raises(EngineError, match=f"{foreign.release_id}.*does not fit"):
        engine.load(foreign)
    assert ask(engine, models.base, "weather in oslo") == before
    engine.load(models.one)
    adapted = ask(engine, models.one, "weather in oslo")
    with pytest.raises(EngineError, match="does not fit"):
        engine.load(foreign)
    assert ask(engine, models.one, "weather in oslo") == adapted
    assert ask(engine, models.base, "weather in oslo") == before
    engine.close()


def test_a_release_of_another_base_is_refused(engine, models):
    """An adapter for another base model must not be put on this one."""
    with pytest.raises(EngineError, match="belongs to the base model 'other'"):
        engine.load(models.one.model_copy(update={"base_model": "other"}))


def test_a_missing_adapter_is_refused(engine, models, tmp_path: Path):
    """A folder that is gone gives a sentence with its path."""
    gone = models.one.model_copy(update={"adapter": str(tmp_path / "gone"), "instructions": "new id"})
    with pytest.raises(EngineError, match=r"cannot be read: .*gone"):
        engine.load(gone)


def test_a_conversation_that_is_too_long_is_refused_alone(engine, models):
    """The model's limit of 512 tokens fails the long request; its neighbours are answered."""
    texts = ["word " * 2000, *QUESTIONS[:3]]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(ask, engine, models.base, text) for text in texts]
    assert isinstance(futures[0].exception(), EngineError)
    assert "at most 512" in str(futures[0].exception())
    assert [future.exception() for future in futures[1:]] == [None] * 3


def test_a_crash_fails_its_batch_and_no_other(engine, models, monkeypatch: pytest.MonkeyPatch):
    """A model that breaks once is an EngineError once, and the worker goes on."""
    step = engine._generation._step
    crashes = iter([RuntimeError("out of memory")])

    def broken(rows):
        for crash in crashes:
            raise crash
        step(rows)

    monkeypatch.setattr(engine._generation, "_step", broken)
    with pytest.raises(EngineError, match="RuntimeError: out of memory"):
        ask(engine, models.base, "weather in oslo")
    assert ask(engine, models.base, "weather in oslo").output_tokens > 0


def test_a_newcomer_that_breaks_breaks_nobody_else(engine, models, monkeypatch: pytest.MonkeyPatch):
    """Who cannot be read gets an EngineError; whom they wanted to join is answered."""
    alone = ask(engine, models.one, "weather in oslo", tokens=100).message
    read, step, begun = engine._generation._read_prompts, engine._generation._step, threading.Event()

    def watched(rows):
        begun.set()
        step(rows)

    def broken(batch):
        if batch[0].request.messages[0].content == "break":
            raise RuntimeError("cannot be read")
        return read(batch)

    monkeypatch.setattr(engine._generation, "_step", watched)
    monkeypatch.setattr(engine._generation, "_read_prompts", broken)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(ask, engine, models.one, "weather in oslo", tokens=100)
        assert begun.wait(30)
        with pytest.raises(EngineError, match="cannot be read"):
            ask(engine, models.one, "break")
        assert long.result().message == alone


def test_a_closed_engine_says_so(models):
    """After close nothing is answered and nothing hangs; closing twice is harmless."""
    engine = LocalEngine(models.base.base_model)
    engine.load(models.base)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        ask(engine, models.base, "weather in oslo")
    with pytest.raises(EngineError, match="closed"):
        engine.load(models.one)


@pytest.mark.parametrize("damage", ["weights", "nothing there", "template"])
def test_a_base_that_cannot_serve_is_refused(models, tmp_path: Path, damage: str):
    """Cut weights, a missing folder and a missing chat template are a sentence each."""
    folder = tmp_path / "base"
    if damage != "nothing there":
        shutil.copytree(models.base.base_model, folder)
    if damage == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    if damage == "template":
        (folder / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="no chat template" if damage == "template" else "cannot be loaded"):
        LocalEngine(folder)


def streamed(engine: LocalEngine, release: Release, text: str, **more: object) -> tuple[list[str], Generated]:
    *words, answer = engine.stream(request(release, text, **more))
    assert isinstance(answer, Generated)
    return words, answer


def test_a_stream_is_the_answer_piece_by_piece(engine, models):
    """Base and adapters stream the texts that they answer with, in several pieces, eight callers at once."""
    work = [(release, text) for release in models for text in QUESTIONS[:4]]
    alone = [ask(engine, *pair) for pair in work]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda pair: streamed(engine, *pair), work))
    assert [answer for _, answer in got] == alone
    assert ["".join(words).strip() for words, _ in got] == [answer.message.content for answer in alone]
    assert max(len(words) for words, _ in got) > 3


def test_a_stream_holds_stop_texts_back(engine, models):
    """Neither a stop text nor the beginning of one is ever shown."""
    whole = ask(engine, models.one, "weather in oslo").message.content
    for stop in (whole[3:5], whole[2:9], whole[-3:] + "never"):
        words, answer = streamed(engine, models.one, "weather in oslo", stop=(stop,))
        assert "".join(words).strip() == answer.message.content
        assert stop not in "".join(words)


@pytest.mark.parametrize("text", ["żółć 🙂 naïve", "日本語のテスト", "a 🧑‍🚀 b", "no such"])
def test_words_are_decoded_without_half_characters(text: str):
    """Bytes that come one by one are shown as whole characters only, and as all of them."""
    tokens = list(text.encode())
    words = Detokenizer(lambda some: bytes(some).decode(errors="replace"), ())
    shown = [words.take(tokens[: at + 1]) for at in range(len(tokens))]
    assert "".join(shown) == text
    assert [piece for piece in shown if piece] == list(text)


def test_bytes_that_are_no_text_are_shown_at_the_end():
    """What stays half a character is what the whole answer shows too."""
    words = Detokenizer(lambda some: bytes(some).decode(errors="replace"), ("stop",))
    tokens = [*b"a s", 0xF0, 0x9F]
    shown = [words.take(tokens[: at + 1]) for at in range(len(tokens))]
    assert shown == ["a", " ", "", "", ""]
    assert words.take(tokens, is_all=True) == "s\ufffd"


def test_who_stops_listening_frees_the_place(models, adapters):
    """A stream that is closed ends its row within a turn, and whoever waits for the place gets it."""
    engine = LocalEngine(models.base.base_model, max_batch=1)
    engine.load(models.one)
    steps: list[int] = []
    step = engine._generation._step

    def counted(rows):
        steps.append(len(rows.waiting))
        step(rows)

    engine._generation._step = counted
    first = engine.stream(request(models.one, "weather in oslo", tokens=400))
    next(first)
    first.close()
    ask(engine, models.one, "weather in lima", tokens=3)
    assert len(steps) < 100
    engine.close()


def test_a_request_that_nobody_waits_for_is_not_begun(engine, models):
    """One that was given up in the queue costs no step."""
    waiting = engine._waiting(request(models.base, "weather in oslo"))
    waiting.gone = True
    engine._put(waiting)
    with pytest.raises(EngineError, match="Nobody waits"):
        waiting.written.result(30)
    assert waiting.tokens == []


def test_an_error_reaches_who_listens(engine, models, monkeypatch: pytest.MonkeyPatch):
    """A crash in the middle of a stream is the listener's EngineError; so are a long prompt and a closed engine."""
    step, count = engine._generation._step, iter(range(100))

    def broken(rows):
        if next(count) == 5:
            raise RuntimeError("out of memory")
        step(rows)

    monkeypatch.setattr(engine._generation, "_step", broken)
    words: list[object] = []
    with pytest.raises(EngineError, match="out of memory"):
        words.extend(engine.stream(request(models.base, "weather in oslo", tokens=100)))
    with pytest.raises(EngineError, match="at most 512"):
        list(engine.stream(request(models.base, "word " * 2000)))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        list(engine.stream(request(models.base, "weather in oslo")))


def test_a_chain_of_thought_that_the_template_opens_is_one(models, tmp_path: Path):
    """Where the prompt ends in the opening mark, what is written first is reasoning, streamed or not, also if cut."""
    shutil.copytree(models.base.base_model, tmp_path / "base")
    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text(template.read_text() + "<think>\n")
    thinker = Release(base_model=str(tmp_path / "base"), made_at=models.base.made_at)
    engine = LocalEngine(thinker.base_model)
    engine.load(thinker)
    words, answer = streamed(engine, thinker, "weather in oslo")
    assert (words[0], answer.message.content) == ("<think>", "")
    assert answer.reasoning == "".join(words[1:]).strip()
    assert ask(engine, thinker, "weather in oslo") == answer
    engine.close()


def test_streams_that_are_left_change_nobody_elses_answer(engine, models):
    """Eight threads, every second of which leaves its stream after some words: the others get what they get alone."""
    work = [(release, text) for text in QUESTIONS for release in models] * 2
    alone = {(release.release_id, text): ask(engine, release, text) for release, text in work}

    def read(number: int) -> bool:
        release, text = work[number]
        stream = engine.stream(request(release, text, tokens=12 if number % 2 else 200))
        if number % 2:
            return list(stream)[-1] == alone[release.release_id, text]
        for _ in range(number % 5):
            next(stream)
        stream.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(len(work))))
