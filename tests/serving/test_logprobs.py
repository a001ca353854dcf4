"""Log-probabilities come as ChatOpenAI tells them, from engines that know them, and only where they are asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.records import Generated, Generation, Message, TokenLogprob
from langgraph_learnloop.serving.hosted_engine import HostedEngine
from langgraph_learnloop.serving.live_model import LiveModel
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.testing import MemoryEngine
from tests.serving.test_hosted_engine import SMALL, Spoken, request
from tests.serving.test_standard import OneRelease
from tests.serving.test_streaming import Scripted, summed


def live(engine: Any = None) -> LiveModel:
    made = MemoryEngine({"hello": "Hi there."}) if engine is None else engine
    made._loaded["butler"] = []
    return LiveModel(engine=made, router=Router(OneRelease(), OneRelease()))


def tokens(message: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message.response_metadata["logprobs"]["content"]
    return found


def test_each_token_comes_with_its_probability() -> None:
    """Token, bytes, logarithm, and as many likely ones as were asked for, the token itself first."""
    hi, there = tokens(live().invoke("hello", logprobs=True, top_logprobs=2))
    assert (hi["token"], bytes(hi["bytes"]), len(hi["top_logprobs"])) == ("Hi", b"Hi", 2)
    assert there["token"] == " there."
    assert hi["top_logprobs"][0] == {key: hi[key] for key in ("token", "bytes", "logprob")}
    assert hi["top_logprobs"][0]["logprob"] > hi["top_logprobs"][1]["logprob"]


async def test_every_way_of_asking_tells_the_same() -> None:
    """Whole, streamed and in coroutines; a stream tells them once, in its last chunk."""
    model = live().bind(logprobs=True, top_logprobs=1)
    expected = tokens(model.invoke("hello"))
    chunks = list(model.stream("hello"))
    assert ["logprobs" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert tokens(summed(chunks)) == expected
    assert tokens(await model.ainvoke("hello")) == expected
    assert tokens(summed([chunk async for chunk in model.astream("hello")])) == expected


def test_nobody_is_told_who_does_not_ask() -> None:
    """Without the question, and from an engine that knows none, there is none, and no error."""
    assert "logprobs" not in live().invoke("hello").response_metadata
    assert "logprobs" not in live().invoke("hello", logprobs=False).response_metadata
    scripted = LiveModel(engine=Scripted(["Hi."]), router=Router(OneRelease(), OneRelease()))
    assert "logprobs" not in scripted.invoke("hello", logprobs=True).response_metadata
    assert "logprobs" not in summed(list(scripted.stream("hello", logprobs=True))).response_metadata


@pytest.mark.parametrize("top", [21, -1, "many", 1.5])
def test_a_number_that_cannot_be_is_refused(top: Any) -> None:
    """One sentence says which numbers can be."""
    with pytest.raises(ConfigError, match="from 0 to 20"):
        live().invoke("hello", logprobs=True, top_logprobs=top)


def test_the_likeliest_alone_are_not_told() -> None:
    """OpenAI wants both, and so do we."""
    with pytest.raises(ConfigError, match="set both"):
        live().invoke("hello", top_logprobs=2)


class Unsure(MemoryEngine):
    """Tell what JSON cannot say."""

    def generate(self, request: Generation) -> Generated:
        odd = (float("-inf"), float("nan"))
        told = tuple(TokenLogprob(token="\ufffd", logprob=one, top=(("a", one),)) for one in odd)
        return Generated(message=Message(role="assistant", content="x"), input_tokens=1, output_tokens=2, logprobs=told)


def test_impossible_tokens_can_be_written_as_json() -> None:
    """A logarithm of 0 is OpenAI's -9999, and the bytes of a part of a character are not known."""
    told = tokens(live(Unsure()).invoke("hello", logprobs=True))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {one["logprob"] for one in told} == {-9999.0}
    assert {one["bytes"] for one in told} == {None}


def _openai(words: Sequence[str]) -> dict[str, Any]:
    likely = {"token": "other", "bytes": None, "logprob": -3.0}
    content = [
        {"token": word, "bytes": list(word.encode()), "logprob": -0.5, "top_logprobs": [likely]} for word in words
    ]
    return {"logprobs": {"content": content, "refusal": None}}


def hosted(model: Spoken, **given: Any) -> HostedEngine:
    engine = HostedEngine({"small": model}, base_model="small", **given)
    engine.load(SMALL)
    return engine


def test_a_hosted_model_is_asked_the_same_way() -> None:
    """The provider gets the question in OpenAI's words, and its answer is read back, whole and streamed."""
    model = Spoken(
        whole=AIMessage("Hi you", response_metadata=_openai(["Hi", " you"])),
        chunks=[AIMessageChunk(word, response_metadata=_openai([word])) for word in ("Hi", " you")],
        asked=[],
    )
    engine = hosted(model)
    expected = tuple(TokenLogprob(token=w, logprob=-0.5, top=(("other", -3.0),)) for w in ("Hi", " you"))
    assert engine.generate(request(logprobs=1)).logprobs == expected
    assert list(engine.stream(request(logprobs=1)))[-1].logprobs == expected  # type: ignore[union-attr]
    assert engine.generate(request(logprobs=0)).logprobs == expected
    assert engine.generate(request()).logprobs == ()
    asked = [{key: value for key, value in one[2].items() if "logprobs" in key} for one in model.asked]
    assert asked == [{"logprobs": True, "top_logprobs": 1}, {"logprobs": True}, {}]


@pytest.mark.parametrize(
    "told",
    [{}, {"logprobs": None}, {"logprobs": {"content": None}}, {"logprobs": [1]}, {"logprobs": {"content": [{}]}}],
)
def test_a_provider_that_tells_none_is_no_error(told: dict[str, Any]) -> None:
    """What it says instead, in whatever form, is not told."""
    engine = hosted(Spoken(whole=AIMessage("Hi", response_metadata=told), asked=[]))
    assert engine.generate(request(logprobs=2)).logprobs == ()


def test_a_provider_that_refuses_the_question_is_not_asked() -> None:
    """Who hosts it says so once."""
    model = Spoken(whole=AIMessage("Hi"), asked=[])
    assert hosted(model, logprobs=False).generate(request(logprobs=2)).logprobs == ()
    assert "logprobs" not in model.asked[0][2]
