"""What is kept of a run, under which name, and what it cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from langgraph_learnloop import LearnLoop, LoopConfig
from langgraph_learnloop.capture.attach import watch
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Writer
from langgraph_learnloop.config import Price

MAIL = "ann@example.org"
CONFIG: dict[str, Any] = {"configurable": {"thread_id": "t"}, "metadata": {"user": "ann", "mail": MAIL}}


@pytest.fixture
def keep(sink: Any) -> Callable[..., Writer]:
    """Return a maker of writers into the sink under a policy."""
    return lambda **policy: Writer(sink, policy=Policy(**policy))


def _agent(scripted: Any, writer: Writer, answer: Any) -> Any:
    def note(mail: str) -> str:
        """Note an address."""
        if mail == "fail":
            raise ValueError(f"not {MAIL}")
        return f"noted {mail}"

    return watch(create_agent(scripted(answer=answer), [note]), Recorder(writer, "support"))


def _mailing(calls: Any) -> Callable[[list[Any]], AIMessage]:
    def answer(told: list[Any]) -> AIMessage:
        if told[-1].type == "tool":
            return AIMessage(f"wrote to {MAIL}", additional_kwargs={"reasoning_content": f"{MAIL} it is"})
        return calls("note", {"mail": MAIL})

    return answer


def test_nothing_private_reaches_the_store(scripted: Any, calls: Any, keep: Any, sink: Any) -> None:
    """Messages, arguments, results, thoughts, texts and metadata are masked, wherever the address turns up."""
    with_default = keep()
    _agent(scripted, with_default, _mailing(calls)).invoke({"messages": [("user", f"mail {MAIL}")]}, CONFIG)
    assert with_default.flush()
    run = sink.the_run()
    everything = run.model_dump_json() + "".join(sink.blob(key).decode() for key in sink.bodies)
    assert MAIL not in everything
    assert everything.count("[email]") >= 8


def test_an_error_is_masked_too(scripted: Any, calls: Any, keep: Any, sink: Any) -> None:
    """An exception's message is a text like any other."""
    writer = keep()
    with pytest.raises(ValueError, match="not ann"):
        _agent(scripted, writer, lambda told: calls("note", {"mail": "fail"})).invoke({"messages": [("user", "x")]})
    assert writer.flush()
    assert sink.the_run().error == "ValueError: not [email]"
    assert MAIL not in sink.the_run().model_dump_json()


def test_parts_can_be_left_out(scripted: Any, calls: Any, keep: Any, sink: Any) -> None:
    """What is excluded is not there: fields by name, and nodes with all that happened in them."""
    writer = keep(
        exclude_fields={"messages", "question", "answer", "reasoning", "tool_calls", "metadata"},
        exclude_nodes={"tools"},
    )
    _agent(scripted, writer, _mailing(calls)).invoke({"messages": [("user", "hi")]}, CONFIG)
    assert writer.flush()
    run = sink.the_run()
    assert (run.messages, run.question, run.answer, run.metadata) == (None, None, None, {})
    assert [step.name for step in run.steps] == ["model", "scripted-1"] * 2
    assert all((step.reasoning, step.tool_calls, step.input, step.output) == (None, (), None, ()) for step in run.steps)
    assert not any(MAIL.encode() in sink.blob(key) for key in sink.bodies)


def test_users_can_go_under_a_keyed_hash(scripted: Any, calls: Any, keep: Any, sink: Any) -> None:
    """The same user has the same name, which nobody without the key can make; another key gives another."""
    for key in ("k" * 16, "k" * 16, "x" * 16):
        writer = keep(user_key=key)
        _agent(scripted, writer, _mailing(calls)).invoke({"messages": [("user", "hi")]}, CONFIG)
        assert writer.flush()
    one, same, other = (run.user for run in sink.runs.values())
    assert one == same != other
    assert "ann" not in (one, other)


def test_a_call_has_a_price_where_it_is_known(adder: Any, keep: Any, sink: Any) -> None:
    """Tokens times price, summed over the run; a call without tokens has none, which is not 0."""
    writer = keep(prices={"scripted-1": Price(input=1_000, output=10_000)})
    watch(create_agent(adder, [add]), Recorder(writer, "a")).invoke({"messages": [("user", "1+2")]})
    assert writer.flush()
    run = sink.the_run()
    assert [step.usd for step in run.steps if step.kind == "model"] == [None, pytest.approx(0.049)]
    assert run.usd == pytest.approx(0.049)


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_sampling_keeps_what_matters(scripted: Any, calls: Any, keep: Any, sink: Any) -> None:
    """Ordinary runs are drawn; a failed run, and one with a tool that failed, are kept whatever the rate."""
    draws = iter([0.05, 0.5, 0.95])
    writer = keep(rate=0.1, draw=lambda: next(draws))
    for number in range(3):
        _agent(scripted, writer, lambda told: AIMessage("yes")).invoke({"messages": [("user", str(number))]})
    with pytest.raises(ValueError, match="not"):
        _agent(scripted, writer, lambda told: calls("note", {"mail": "fail"})).invoke({"messages": [("user", "x")]})
    assert writer.flush()
    assert [run.question for run in sink.runs.values()] == ["0", "x"]
    assert writer.health().sampled_out == 2


def test_feedback_brings_a_run_back(scripted: Any, tmp_path: Path) -> None:
    """A run that sampling left out is kept after all when somebody says something of it, by run or by thread."""
    config = LoopConfig(agent="a", sample_rate=0.0)
    with LearnLoop(tmp_path / "learnloop.db", config=config) as loop:
        agent = loop.watch(create_agent(scripted(answer=lambda told: AIMessage(f"no {len(told)}")), []))
        for thread in ("1", "2", "3"):
            agent.invoke({"messages": [("user", thread)]}, {"configurable": {"thread_id": thread}})
        loop.feedback(thread="2", score=-1, correction="yes")
        (run,) = loop.runs()
        assert (run.thread_id, run.question) == ("2", "2")
        assert [m.content for m in loop.store.runs.conversation(run.messages)] == ["2", "no 1"]
        assert [flag.run_id for flag in loop.flagged()] == [run.run_id]


def test_feedback_is_masked_like_the_run(scripted: Any, tmp_path: Path) -> None:
    """What people write about a run is captured text as well."""
    with LearnLoop(tmp_path / "learnloop.db", agent="a") as loop:
        loop.watch(create_agent(scripted(answer=lambda told: AIMessage("no")), [])).invoke(
            {"messages": [("user", "x")]}, {"configurable": {"thread_id": "t"}}
        )
        called = loop.feedback(thread="t", correction={"tool": "mail", "args": {"to": [MAIL]}})
        assert called.correction is not None
        assert called.correction.tool_calls[0].args == {"to": ["[email]"]}
        said = loop.feedback(thread="t", text=f"ask {MAIL}", correction=f"write to {MAIL}")
        assert said.text == "ask [email]"
        assert said.correction is not None
        assert said.correction.content == "write to [email]"
        assert loop.store.runs.feedback(said.run_id) == (called, said)


def test_tags_and_reasons_of_flags_are_masked_too(scripted: Any, tmp_path: Path) -> None:
    """A tool may name a person when it says what went wrong, and a caller may tag a run with one."""
    with LearnLoop(tmp_path / "learnloop.db", agent="a") as loop:

        def answer(told: Any) -> AIMessage:
            loop.flag(f"no order of {MAIL}")
            return AIMessage("no")

        agent = loop.watch(create_agent(scripted(answer=answer), []))
        agent.invoke({"messages": [("user", "x")]}, {"tags": [f"for {MAIL}"]})
        (run,) = loop.runs()
        assert (run.flagged, run.tags) == (("no order of [email]",), ("for [email]",))
        assert loop.flagged()[0].reasons == ("no order of [email]",)


def test_a_streaming_model_has_a_first_token(scripted: Any, keep: Any, sink: Any) -> None:
    """The time to the first token is known where tokens came, and None where they did not."""

    class Streaming(scripted):  # type: ignore[misc]
        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            for text in ("a", "b", "c"):
                chunk = ChatGenerationChunk(message=AIMessageChunk(text))
                if run_manager:
                    run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk

    writer = keep()
    model = Streaming(answer=lambda told: AIMessage("abc"))
    agent = watch(create_agent(model, []), Recorder(writer, "a"))
    list(agent.stream({"messages": [("user", "x")]}, stream_mode="messages"))
    agent.invoke({"messages": [("user", "x")]})
    assert writer.flush()
    first, second = (next(s for s in run.steps if s.kind == "model") for run in sink.runs.values())
    assert first.first_token_seconds is not None
    assert first.seconds is not None
    assert 0 <= first.first_token_seconds <= first.seconds
    assert second.first_token_seconds is None


def test_a_cached_answer_says_so(scripted: Any, keep: Any, sink: Any) -> None:
    """What LangChain's cache answered is told from what the model answered."""
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    model = scripted(answer=lambda told: AIMessage("yes", usage_metadata=usage), cache=InMemoryCache())
    writer = keep()
    recorder = Recorder(writer, "a")
    for _ in range(2):
        model.invoke("hi", {"callbacks": [recorder]})
    assert writer.flush()
    assert [run.steps[0].cached for run in sink.runs.values()] == [False, True]


def test_parameters_and_parallel_calls_are_told(scripted: Any, keep: Any, sink: Any) -> None:
    """Temperature and the like are kept as the caller named them."""
    writer = keep()
    model = scripted(answer=lambda told: AIMessage("yes")).bind(temperature=0.2, max_tokens=5, stop=["x"])
    model.invoke("hi", {"callbacks": [Recorder(writer, "a")]})
    assert writer.flush()
    assert sink.the_run().steps[0].parameters == {"temperature": 0.2, "max_tokens": 5}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_records_anew(scripted: Any, tmp_path: Path) -> None:
    """A worker that was forked after the start records into the same store, and the parent's runs stay whole."""
    with LearnLoop(tmp_path / "learnloop.db", agent="a") as loop:
        agent = loop.watch(create_agent(scripted(answer=lambda told: AIMessage("yes")), []))
        agent.invoke({"messages": [("user", "parent before")]})
        child = os.fork()
        if child == 0:
            try:
                agent.invoke({"messages": [("user", "child")]})
                told = json.dumps([loop.flush(), loop.health().recorded])
                (tmp_path / "told").write_text(told)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        agent.invoke({"messages": [("user", "parent after")]})
        assert {run.question for run in loop.runs()} == {"parent before", "child", "parent after"}
        assert json.loads((tmp_path / "told").read_text()) == [True, 1]
        assert loop.health().recorded == 2


@pytest.mark.parametrize("after", range(len(MAIL)))
def test_a_secret_across_a_cut_is_masked_whole(after: int) -> None:
    """What is cut is masked before, so that no half of a secret is left."""
    kept = Policy(longest_text=1_000).fit({"note": "x" * (99 - after) + " " + MAIL + " " + "y" * 200})["note"]
    assert "cut here" in kept
    assert not any(part in kept for part in ("ann", "example"))
