"""A release is loaded everywhere and answers as itself; the servers here speak vLLM's protocol."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generated, Message, Release, Sampling, TokenLogprob, ToolCall
from langgraph_learnloop.serving.toolcalls import parse_answer
from tests.integrations.loopback_vllm import (
    CALL,
    CHAT,
    LOAD,
    MODELS,
    NOW,
    TOOLS,
    UNLOAD,
    Fault,
    Server,
    Speaker,
    ask,
    drop,
    empty,
    engine_at,
    hang,
    name_of,
    page,
    refuse,
    release_of,
)

pytest.importorskip("openai", reason="the openai extra is not installed")


def test_a_release_is_loaded_on_every_replica(servers: list[Server], release: Release) -> None:
    """All of them hold it under a name of its own, and its answer says what it took."""
    engine = engine_at(*servers)
    engine.load(release)
    assert [server.adapters for server in servers] == [{name_of(release): release.adapter}] * 2
    assert engine.generate(ask(release)) == Generated(
        message=Message(role="assistant", content=f"I am {name_of(release)}."), input_tokens=7, output_tokens=3
    )


def test_loading_twice_changes_nothing(server: Server, release: Release) -> None:
    """What was loaded is not asked about again."""
    engine = engine_at(server)
    engine.load(release)
    before = list(server.asked)
    engine.load(release)
    assert server.asked == before


def test_the_bare_base_is_asked_by_its_own_name(server: Server, base: Path) -> None:
    """A release without adapter needs no load."""
    bare = Release(base_model=str(base), made_at=NOW)
    engine = engine_at(server)
    engine.load(bare)
    assert engine.generate(ask(bare)).message.content == "I am base."
    engine.unload(bare.release_id)
    assert (server.times(LOAD), server.times(UNLOAD)) == (0, 0)


def test_a_name_in_a_container_is_not_the_one_here(server: Server, base: Path, tmp_path: Path) -> None:
    """Servers that see the adapters elsewhere are told where."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    release = release_of(base, "one")
    (elsewhere / "one").mkdir()
    engine_at(server, adapters_root=f"{elsewhere}/").load(release)
    assert server.adapters == {name_of(release): str(elsewhere / "one")}


@pytest.mark.parametrize(
    ("request_", "fault", "words"),
    [
        (LOAD, refuse(500, "LoRA rank 16 is greater than max_lora_rank 8."), "answered 500: LoRA rank 16 is greater"),
        (LOAD, refuse(404, "No adapter found for <path>"), "No adapter found for <path>.*set adapters_root"),
        (LOAD, refuse(400, "The lora adapter has already been loaded."), "answered 400.*It does not hold"),
        (LOAD, lambda s: bool(s.send(404, {"detail": "Not Found"})), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        (LOAD, lambda s: bool(s.send(200, b"Success: added.")), r"answered 200 \(Success: added\). It does not hold"),
        (LOAD, hang, "did not answer in time"),
        (LOAD, drop, "hung up"),
        (MODELS, page, "sent what is no answer: it has another form"),
        (MODELS, empty, "sent what is no answer: it holds no data"),
        (MODELS, refuse(401, "Unauthorized"), "answered 401: Unauthorized. Give the engine the server's key"),
        (MODELS, lambda s: bool(s.send(200, {"data": [{"id": "qwen"}]})), "does not serve 'base', but qwen"),
    ],
)
def test_a_load_that_fails_anywhere_is_undone(
    servers: list[Server], release: Release, request_: str, fault: Fault, words: str
) -> None:
    """The error names the replica and what it answered; no replica keeps the release, and it can be tried again."""
    bad = servers[1]
    bad.spoil(request_, fault)
    engine = engine_at(*servers, load_seconds=0.5 if fault is hang else 20.0)
    with pytest.raises(
        EngineError, match=rf"'{release.release_id}' is not loaded. The replica '{bad.url}/v1'.*{words}"
    ):
        engine.load(release)
    assert [server.adapters for server in servers] == [{}, {}]
    with pytest.raises(EngineError, match=r"is not loaded in this engine; load it first\. Loaded are: none"):
        engine.generate(ask(release))
    engine.load(release)
    assert all(server.adapters for server in servers)


def test_a_load_that_was_done_and_not_answered_counts(server: Server, release: Release) -> None:
    """The list of what is there decides, not the answer to the request."""

    def lose(speaker: Speaker) -> bool:
        speaker.close_connection = True
        return True

    server.spoil(LOAD, lose)
    engine_at(server).load(release)
    assert list(server.adapters) == [name_of(release)]


def test_a_server_that_holds_nothing_of_what_it_loads(server: Server, release: Release) -> None:
    """Who answers 200 and does not list the adapter has not loaded it, however often it is asked."""
    server.holds = False
    engine = engine_at(server)
    for _ in range(2):
        with pytest.raises(EngineError, match=f"It does not hold '{name_of(release)}' now"):
            engine.load(release)


def test_what_others_have_loaded_stays(servers: list[Server], release: Release) -> None:
    """A load that fails here takes nothing away from another process that loaded the same release."""
    first, second = servers
    engine_at(first).load(release)
    second.spoil(LOAD, refuse(500))
    with pytest.raises(EngineError, match="answered 500"):
        engine_at(first, second).load(release)
    assert list(first.adapters) == [name_of(release)]
    engine_at(first, second).load(release)
    assert first.times(LOAD) == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"other"), "the file was changed; train it again"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be read.*No such file"),
        (lambda f: (f / "adapter_config.json").unlink(), "cannot be read.*No such file"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_adapter_is_not_sent(
    server: Server, release: Release, spoil: Callable[[Path], object], words: str
) -> None:
    """An adapter that is not the one the release names reaches no server."""
    spoil(Path(str(release.adapter)))
    with pytest.raises(EngineError, match=f"The adapter of release '{release.release_id}'.*{words}"):
        engine_at(server).load(release)
    assert server.asked == []


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"width": 32}, r"is for a layer of width 32, and the base's has the shape \[8, 16\]"),
        ({"layers": ("model.layers.7.self_attn.q_proj",)}, "the base has no layer 'model.layers.7.self_attn.q_proj'"),
    ],
)
def test_an_adapter_of_another_base_is_not_sent(server: Server, base: Path, shape: dict[str, Any], words: str) -> None:
    """Shapes are compared with the base's own files, which vLLM does not do."""
    with pytest.raises(EngineError, match=f"does not fit.*{words}"):
        engine_at(server).load(release_of(base, "foreign", **shape))
    assert server.asked == []


def test_layers_of_other_names_are_left_to_the_server(server: Server, base: Path) -> None:
    """A base may name its layers otherwise in its files: nothing is held against that."""
    odd = release_of(base, "odd", width=99, layers=("model.language_model.layers.0.q_proj",))
    engine_at(server).load(odd)
    assert name_of(odd) in server.adapters


def test_weights_that_are_none_are_named(server: Server, base: Path, release: Release) -> None:
    """A base's file that cannot be read is not the adapter's fault."""
    (base / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(EngineError, match=r"base/model.safetensors' cannot be read as safetensors"):
        engine_at(server).load(release)


def test_a_release_of_another_base_is_refused(server: Server, release: Release) -> None:
    """A release names its base."""
    with pytest.raises(EngineError, match=r"belongs to the base model 'other'.*make an engine for that base"):
        engine_at(server).load(release.model_copy(update={"base_model": "other"}))


@pytest.mark.parametrize(
    ("ours", "theirs", "told", "fits"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", None, True),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B", None, False),
        ("Qwen/Qwen3-8B", "/models/qwen", None, True),
        ("Qwen/Qwen3-8B", "/models/qwen", "/models/qwen", True),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B-AWQ", True),
        ("Qwen/Qwen3-8B", "/models/llama", "/models/qwen", False),
        ("/gone/qwen", "/models/qwen", None, True),
    ],
)
def test_servers_must_have_the_base(server: Server, ours: str, theirs: str, told: str | None, fits: bool) -> None:
    """Two names on the hub differ; a path on another machine says nothing, unless one says what it must be."""
    server.root = theirs
    engine = VllmEngine([server.url], ours, served_root=told)
    bare = Release(base_model=ours, made_at=NOW)
    if fits:
        engine.load(bare)
    else:
        with pytest.raises(EngineError, match=f"serves '{theirs}' as 'base'.*served_root"):
            engine.load(bare)


def test_two_folders_here_are_two_models(server: Server, tmp_path: Path) -> None:
    """Folders that both are on this machine are compared, whatever path leads there."""
    (tmp_path / "other").mkdir()
    server.root = str(tmp_path / "other")
    (tmp_path / "way").symlink_to(tmp_path / "other")
    engine_of_other = VllmEngine([server.url], tmp_path / "way")
    engine_of_other.load(Release(base_model=str(tmp_path / "way"), made_at=NOW))
    with pytest.raises(EngineError, match="start it with that model"):
        VllmEngine([server.url], tmp_path).load(Release(base_model=str(tmp_path), made_at=NOW))


def test_what_is_asked_of_the_server(server: Server, release: Release) -> None:
    """Sampling is what the release says and nothing else, arguments travel as JSON, tools are offered."""
    engine = engine_at(server)
    engine.load(release)
    call = ToolCall(name="weather", args={"city": "Örö"}, id="c1")
    said = (Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="rain", tool_call_id="c1"))
    sampling = Sampling(temperature=0.5, max_tokens=1000)
    engine.generate(ask(release, messages=said, tools=TOOLS, sampling=sampling, stop=("\n",)))
    function = {"name": "weather", "arguments": '{"city": "Örö"}'}
    assert server.bodies == [
        {
            "model": name_of(release),
            "messages": [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "c1", "type": "function", "function": function}],
                },
                {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            ],
            "temperature": 0.5,
            "max_tokens": 256,  # as many as the server says that it can
            "stop": ["\n"],
            "tools": list(TOOLS),
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "spaces_between_special_tokens": False,
            "skip_special_tokens": True,
        }
    ]


def test_without_a_parser_there_the_text_is_taken_apart_here(server: Server, release: Release) -> None:
    """Tools still stand in the prompt, and special tokens in the text: `<tool_call>` may be one."""
    server.says = {"content": f"<think>Where?</think>Let me see. {CALL}"}
    engine = engine_at(server, parse=parse_answer)
    engine.load(release)
    answer = engine.generate(ask(release, tools=TOOLS))
    assert (answer.message.content, answer.reasoning) == ("Let me see.", "Where?")
    assert [(c.name, c.args) for c in answer.message.tool_calls] == [("weather", {"city": "Örö"})]
    assert (server.bodies[0]["tool_choice"], server.bodies[0]["skip_special_tokens"]) == ("none", False)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_the_chain_of_thought_is_kept(server: Server, release: Release, field: str) -> None:
    """Both names under which servers send it are known, in one piece and in many."""
    server.says = {field: "Who am I?\n", "content": None}
    server.pieces = [{field: "Who am"}, {field: " I?\n"}, {"content": "Me."}]
    engine = engine_at(server)
    engine.load(release)
    assert engine.generate(ask(release)).reasoning == "Who am I?"
    *texts, answer = engine.stream(ask(release))
    assert (texts, answer.reasoning) == (["Me."], "Who am I?")


def test_tool_calls_come_as_calls(server: Server, release: Release) -> None:
    """What the server took apart is taken over; the end of a call is the end of the answer."""
    call = {"id": "c9", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    server.says, server.ending = {"content": None, "tool_calls": [call]}, "tool_calls"
    server.pieces = [
        {"tool_calls": [{"index": 0, "id": "c9", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
    ]
    engine = engine_at(server)
    engine.load(release)
    answer = engine.generate(ask(release, tools=TOOLS))
    assert answer.message.tool_calls == (ToolCall(name="weather", args={"city": "Oslo"}, id="c9"),)
    assert (answer.message.content, answer.finish_reason) == ("", "stop")
    assert list(engine.stream(ask(release, tools=TOOLS))) == [answer]


def test_a_call_that_nobody_can_read_stays_in_the_text(server: Server, release: Release) -> None:
    """So it is seen, and can be asked for again."""
    call = {"id": "c9", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
    server.says = {"content": "Well. ", "tool_calls": [call]}
    engine = engine_at(server)
    engine.load(release)
    message = engine.generate(ask(release, tools=TOOLS)).message
    assert message.tool_calls == ()
    assert message.content == 'Well. <tool_call>{"name": "weather", "arguments": {"city": }</tool_call>'


def test_an_answer_that_was_cut_says_so(server: Server, release: Release) -> None:
    """The most tokens were written."""
    server.ending = "length"
    engine = engine_at(server)
    engine.load(release)
    assert engine.generate(ask(release)).finish_reason == "length"


WORDS = ("I", " am", " one")
TOLD = [
    {
        "token": word,
        "logprob": -0.5 - at,
        "top_logprobs": [  # vLLM puts what was written first, however likely it was
            {"token": word, "logprob": -0.5 - at},
            {"token": "likelier", "logprob": -0.25},
            {"token": "third", "logprob": -3.0},
        ],
    }
    for at, word in enumerate(WORDS)
]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_probabilities_of_tokens_are_told(server: Server, release: Release, streamed: bool) -> None:
    """Of every token that was written, with the likeliest in its place, the likeliest first."""
    server.logprobs = TOLD
    engine = engine_at(server)
    engine.load(release)
    asked = ask(release, logprobs=2)
    answer = list(engine.stream(asked))[-1] if streamed else engine.generate(asked)
    assert isinstance(answer, Generated)
    assert answer.logprobs == tuple(
        TokenLogprob(token=word, logprob=-0.5 - at, top=(("likelier", -0.25), (word, -0.5 - at)))
        for at, word in enumerate(WORDS)
    )


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (None, {}),
        (0, {"logprobs": True, "top_logprobs": 0}),
        (2, {"logprobs": True, "top_logprobs": 3}),  # the first may be what was written and not one of the likeliest
        (20, {"logprobs": True, "top_logprobs": 20}),
    ],
)
def test_probabilities_are_asked_for_only_if_they_are_wanted(
    server: Server, release: Release, wanted: int | None, sent: dict[str, Any]
) -> None:
    """As many as it takes to know the likeliest, within what servers allow; a server that tells none is believed."""
    engine = engine_at(server)
    engine.load(release)
    assert engine.generate(ask(release, logprobs=wanted)).logprobs == ()
    assert {key: server.bodies[0][key] for key in ("logprobs", "top_logprobs") if key in server.bodies[0]} == sent


def test_the_least_busy_replica_is_asked(servers: list[Server], release: Release) -> None:
    """Who is still answering is spared; of equals, they take turns."""
    engine = engine_at(*servers)
    engine.load(release)
    stream = engine.stream(ask(release))
    next(stream)
    assert [one.answering for one in engine.replicas()] == [1, 0]
    for _ in range(3):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [1, 3]
    list(stream)
    for _ in range(4):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [3, 5]


def test_texts_come_as_they_are_written(server: Server, release: Release) -> None:
    """A stream's texts are the answer, and its last item is what `generate` returns."""
    engine = engine_at(server)
    engine.load(release)
    *texts, answer = engine.stream(ask(release))
    assert texts == ["I", " am", f" {name_of(release)}."]
    assert answer == engine.generate(ask(release))
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("pieces", "texts", "content"),
    [
        (["Let ", "me see. ", CALL[:5], CALL[5:]], ["Let", " me see."], "Let me see."),
        (["<think>Hm.", "</think>", "Oslo."], ["Oslo."], "Oslo."),
        (["If a <", " b then"], ["If a", " < b then"], "If a < b then"),
        (["Use <b>", "bold</b>."], ["Use", " <b>bold</b>."], "Use <b>bold</b>."),
        (["Well <tool_call>oops"], ["Well", " <tool_call>oops"], "Well <tool_call>oops"),
        (["Oslo. "], ["Oslo."], "Oslo."),
    ],
)
def test_marks_are_held_back(
    server: Server, release: Release, pieces: list[str], texts: list[str], content: str
) -> None:
    """Calls and thoughts in the text are never shown; what turns out to be none comes at the end."""
    server.pieces = [{"content": one} for one in pieces]
    engine = engine_at(server, parse=parse_answer)
    engine.load(release)
    *got, answer = engine.stream(ask(release))
    assert (got, answer.message.content) == (texts, content)


def test_a_stream_that_nobody_reads_to_its_end(server: Server, release: Release) -> None:
    """It is closed, and the replica is free again."""
    engine = engine_at(server)
    engine.load(release)
    stream = engine.stream(ask(release))
    next(stream)
    stream.close()
    assert engine.replicas()[0].answering == 0
    assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."


def test_the_key_of_another_provider_stays_here(
    server: Server, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_API_KEY is not for this server; the engine's own key is."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    engine_at(server).load(release)
    assert "Bearer sk-secret" not in server.keys
    engine_at(server, key="mine").load(release)
    assert "Bearer mine" in server.keys


def test_addresses(server: Server, release: Release) -> None:
    """With or without the API's path; the same server is asked once. None at all is refused."""
    engine = VllmEngine([f"{server.url}/v1/", server.url], server.root)
    assert len(engine.replicas()) == 1
    with pytest.raises(ConfigError, match="needs the address of one vLLM server at least"):
        VllmEngine([], "base")


def test_a_closed_engine_leaves_the_servers_as_they_are(server: Server, release: Release) -> None:
    """Other processes may use what is there."""
    engine = engine_at(server)
    engine.load(release)
    engine.close()
    assert list(server.adapters) == [name_of(release)]


def test_without_the_library_the_error_names_the_command() -> None:
    """The engine says what to install."""
    code = textwrap.dedent(
        """
        import sys
        sys.modules["openai"] = None
        from langgraph_learnloop.errors import MissingExtraError
        from langgraph_learnloop.integrations.vllm_engine import VllmEngine
        try:
            VllmEngine(["http://127.0.0.1:1"], "base")
        except MissingExtraError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "langgraph-learnloop[openai]"' in done.stdout
