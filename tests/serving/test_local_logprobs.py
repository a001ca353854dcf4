"""How likely each token was, as a plain forward pass says it; only for those who asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling
from langgraph_learnloop.serving.detokenizer import kept_tokens, token_logprobs

TEXTS = ("weather in oslo", "weather in far away rome", "lima", "weather in bern or kyiv")


def request(release: Release, text: str, warmth: float = 0.0, **more: Any) -> Generation:
    asked = (Message(role="user", content=text),)
    sampling = Sampling(max_tokens=10, temperature=warmth)
    return Generation(release_id=release.release_id, messages=asked, sampling=sampling, **more)


class Plain:
    """transformers, one conversation at a time."""

    def __init__(self, release: Release) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.known: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self.tokenizer: Any = AutoTokenizer.from_pretrained(release.base_model)
        self.model: Any = AutoModelForCausalLM.from_pretrained(release.base_model)
        if release.adapter:
            self.model = PeftModel.from_pretrained(self.model, release.adapter)

    def logprobs(self, text: str, written: list[int]) -> torch.Tensor:
        """Return the log-probabilities in the place of each written token: tokens x vocabulary."""
        if (found := self.known.get((text, tuple(written)))) is not None:
            return found
        chat = [{"role": "user", "content": text}]
        prompt = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *written]])).logits[0]
        logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        return self.known.setdefault((text, tuple(written)), logprobs)


@pytest.mark.parametrize("warmth", [0.0, 1.5])
def test_logprobs_are_those_of_a_plain_forward_pass(engine, models, warmth: float, monkeypatch: pytest.MonkeyPatch):
    """For each written token and the likeliest in its place, beside rows that did not ask, of every release."""
    plain = {release.release_id: Plain(release) for release in models}
    work = [(release, text, count) for release in models for text in TEXTS for count in (None, 0, 3)]
    read, tokens_of = engine._read, {}

    def reading(waiting: Any) -> Generated:
        got = read(waiting)
        tokens_of[id(got)] = list(waiting.tokens)
        return got

    monkeypatch.setattr(engine, "_read", reading)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: engine.generate(request(*one[:2], warmth, logprobs=one[2])), work))
    for (release, text, count), got in zip(work, answers, strict=True):
        if count is None:
            assert got.logprobs == ()
            continue
        tokens = tokens_of[id(got)]
        expected = plain[release.release_id].logprobs(text, tokens)
        assert len(got.logprobs) == len(tokens) == got.output_tokens
        for place, (token, told) in enumerate(zip(tokens, got.logprobs, strict=True)):
            assert told.logprob == pytest.approx(float(expected[place, token]), abs=2e-3)
            best = expected[place].topk(count).values.tolist() if count else []
            assert [likely for _, likely in told.top] == pytest.approx(best, abs=2e-3)


def test_the_tokens_are_the_answers_text(engine, models):
    """Greedy answers are the likeliest tokens, and those add up to what was written; the end is left out."""
    got = engine.generate(request(models.one, "weather in oslo", logprobs=1))
    assert [told.top[0] for told in got.logprobs] == [(told.token, told.logprob) for told in got.logprobs]
    assert "".join(told.token for told in got.logprobs).strip() == got.message.content
    *_, streamed = engine.stream(request(models.one, "weather in oslo", logprobs=1))
    assert streamed.logprobs == got.logprobs


def test_what_a_stop_text_cuts_is_not_told(engine, models):
    """The tokens that are told reach as far as the text does."""
    whole = engine.generate(request(models.one, "weather in oslo")).message.content
    got = engine.generate(request(models.one, "weather in oslo", stop=(whole[3:5],), logprobs=0))
    text = "".join(told.token for told in got.logprobs)
    assert text.strip().startswith(got.message.content)
    assert len(got.logprobs) <= got.output_tokens


def test_nobody_asks_nothing_is_computed(engine, models, monkeypatch: pytest.MonkeyPatch):
    """Without a request for them no log-probabilities are made."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed for nobody")

    monkeypatch.setattr(torch, "log_softmax", never)
    assert engine.generate(request(models.one, "weather in oslo")).logprobs == ()


TOKENS = {1: "Hello", 2: " there", 3: ".ST", 4: "OP", 5: "\ufffd"}


def decode(tokens: Any) -> str:
    """Decode as SentencePiece does, which leaves the first blank out."""
    return "".join(TOKENS[token] for token in tokens).removeprefix(" ")


@pytest.mark.parametrize(
    ("tokens", "stops", "kept"),
    [([1, 2, 3, 4], ("STOP",), 3), ([1, 2], (), 2), ([1, 2], ("Hello",), 0), ([], ("x",), 0), ([1, 2], ("x",), 2)],
)
def test_tokens_with_a_share_in_the_text_are_kept(tokens: list[int], stops: tuple[str, ...], kept: int):
    """A token whose text the stop text cuts in two was written; one that is wholly behind it was not."""
    assert kept_tokens(decode, tokens, stops) == kept


def test_blanks_are_told():
    """A token's text is what it adds where it stands, its neighbours' in the same place."""
    told = token_logprobs(decode, [1, 2], [(-0.5, [(2, -0.1)]), (-0.7, [(2, -0.7), (5, -3.0)])])
    assert [(one.token, one.top) for one in told] == [
        ("Hello", (("there", -0.1),)),
        (" there", ((" there", -0.7), ("\ufffd", -3.0))),
    ]
