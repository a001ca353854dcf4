"""Whatever servers do, a release is answered by itself or not at all; the servers here speak vLLM's protocol."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.toolcalls import parse_answer

pytest.importorskip("openai", reason="the openai extra is not installed")

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
CHAT, LOAD, UNLOAD = "POST /v1/chat/completions", "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter"
MODELS = "GET /v1/models"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Örö"}}</tool_call>'
Fault = Callable[["Speaker"], bool]
"""Spoils an answer; returns whether the request is to be carried out all the same."""


class Server(ThreadingHTTPServer):
    """Hold a base and adapters as vLLM does, and answer with the name of the model that was asked."""

    daemon_threads = True

    def __init__(self, root: str) -> None:
        super().__init__(("127.0.0.1", 0), Speaker)
        self.root = root
        self.adapters: dict[str, str] = {}
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.faults: list[tuple[str, Fault]] = []
        self.says: dict[str, Any] = {}
        self.ending: str | None = "stop"
        self.name: str | None = None
        self.pieces: list[dict[str, Any]] | None = None
        self.holds = True
        self.over = threading.Event()
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spoil(self, request: str, *faults: Fault) -> None:
        """Let the next such requests go wrong, one fault each."""
        self.faults += [(request, fault) for fault in faults]

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.asked.append(request)
            at = next((i for i, (wanted, _) in enumerate(self.faults) if wanted == request), None)
            return None if at is None else self.faults.pop(at)[1]

    def times(self, request: str) -> int:
        return self.asked.count(request)

    def answer(self, request: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body.get("lora_name", "")
        match request:
            case "GET /health":
                return 200, b""
            case "GET /v1/models":
                base = {"id": "base", "object": "model", "root": self.root, "max_model_len": 256}
                cards = [{"id": n, "object": "model", "root": p, "parent": "base"} for n, p in self.adapters.items()]
                return 200, {"object": "list", "data": [base, *cards]}
            case "POST /v1/load_lora_adapter":
                return self.load(name, body["lora_path"])
            case "POST /v1/unload_lora_adapter":
                if self.adapters.pop(name, None) is None:
                    return 404, refusal(f"The lora adapter '{name}' cannot be found.")
                return 200, f"Success: LoRA adapter '{name}' removed successfully.".encode()
            case "POST /v1/chat/completions":
                self.bodies.append(body)
                if body["model"] not in ("base", *self.adapters):
                    return 404, refusal(f"The model `{body['model']}` does not exist.")
                return 200, self.said(body["model"])
        return 404, {"detail": "Not Found"}

    def load(self, name: str, path: str) -> tuple[int, Any]:
        if name in self.adapters:
            return 400, refusal(f"The lora adapter '{name}' has already been loaded.")
        if not Path(path).is_dir():
            return 404, refusal(f"Loading lora {name} failed: No adapter found for {path}")
        if self.holds:
            self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully.".encode()

    def said(self, model: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"I am {model}.", **self.says}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": self.name or model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.ending}],
            "usage": USAGE,
        }


class Speaker(BaseHTTPRequestHandler):
    """Carry requests to the server, with the faults that a test ordered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart: it would hold the body back for 40 ms
    server: Server

    def handle_one(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        request = f"{self.command} {self.path}"
        server = self.server
        server.keys.add(self.headers.get("authorization"))
        fault = server.fault(request)
        if fault is not None and not fault(self):
            return
        with server.lock:
            status, answer = server.answer(request, body)
        if fault is not None:
            return
        if body.get("stream") and status == 200:
            self.stream(answer)
        else:
            self.send(status, answer)

    do_GET = do_POST = handle_one

    def send(self, status: int, answer: Any, cut: int | None = None) -> None:
        text = json.dumps(answer).encode() if not isinstance(answer, bytes) else answer
        self.send_response(status)
        kind = "text/plain" if isinstance(answer, bytes) else "application/json"
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:cut])
        if cut is not None:
            self.close_connection = True

    def stream(self, answer: dict[str, Any]) -> None:
        """Send an answer word by word, then how it ended, then what it took."""
        self.begin()
        message = answer["choices"][0]["message"]
        words = [{"content": word} for word in re.findall(r"\s*\S+", message["content"] or "")]
        deltas = words if self.server.pieces is None else self.server.pieces
        for delta in deltas:
            self.event(piece(answer, delta))
        if self.server.ending is not None:
            self.event(piece(answer, {}, self.server.ending))
        self.event({**piece(answer, {}), "choices": [], "usage": USAGE})
        self.end()

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def event(self, value: Any) -> None:
        said = b"data: %s\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())
        self.wfile.write(b"%x\r\n%s\r\n" % (len(said), said))
        self.wfile.flush()

    def end(self) -> None:
        self.event(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def piece(answer: dict[str, Any], delta: dict[str, Any], ending: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": ending}
    return {"id": answer["id"], "object": "chat.completion.chunk", "created": 0, "model": answer["model"]} | {
        "choices": [choice]
    }


def refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}


def refuse(status: int, message: str = "no") -> Fault:
    return lambda speaker: bool(speaker.send(status, refusal(message)))


def drop(speaker: Speaker) -> bool:
    """Die in the middle of an answer."""
    speaker.send(200, {"id": "half an answer"}, cut=9)
    return False


def vanish(speaker: Speaker) -> bool:
    """Hang up without a word."""
    speaker.close_connection = True
    return False


def hang(speaker: Speaker) -> bool:
    """Say nothing until the test is over."""
    speaker.server.over.wait(30)
    speaker.close_connection = True
    return False


def page(speaker: Speaker) -> bool:
    """Answer as a proxy that has trouble does."""
    speaker.send(200, b"<html>Try again</html>")
    return False


def empty(speaker: Speaker) -> bool:
    """Answer with JSON that is none of the protocol's."""
    speaker.send(200, {})
    return False


def aborted(speaker: Speaker) -> bool:
    """Break an answer off, as a server that is shut down does."""
    answer = speaker.server.said(next(iter(speaker.server.adapters)))
    answer["choices"][0]["finish_reason"] = "abort"
    speaker.send(200, answer)
    return False


def begin(speaker: Speaker) -> None:
    """Send the first words of a stream, as whoever is loaded."""
    speaker.begin()
    speaker.event(piece(speaker.server.said(next(iter(speaker.server.adapters))), {"content": "I am"}))


def torn(speaker: Speaker) -> bool:
    """Die after the first words of a stream."""
    begin(speaker)
    speaker.close_connection = True
    return False


def silent(speaker: Speaker) -> bool:
    """Begin a stream and fall silent."""
    begin(speaker)
    return hang(speaker)


def broken(speaker: Speaker) -> bool:
    """Report an error in the middle of a stream."""
    begin(speaker)
    speaker.event({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}})
    speaker.end()
    return False


def unfinished(speaker: Speaker) -> bool:
    """End a stream in good order, but before the answer has ended."""
    begin(speaker)
    speaker.end()
    return False


@pytest.fixture
def make_servers(monkeypatch: pytest.MonkeyPatch, base: Path) -> Iterator[Callable[[int], list[Server]]]:
    monkeypatch.setenv("NO_PROXY", "*")
    with ExitStack() as stack:

        def make(number: int) -> list[Server]:
            servers = [stack.enter_context(Server(str(base))) for _ in range(number)]
            for server in servers:
                threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
                stack.callback(server.shutdown)
                stack.callback(server.over.set)
            return servers

        yield make


@pytest.fixture
def servers(make_servers: Callable[[int], list[Server]]) -> list[Server]:
    return make_servers(2)


@pytest.fixture
def server(make_servers: Callable[[int], list[Server]]) -> Server:
    return make_servers(1)[0]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_weights(folder / "model.safetensors", {f"{layer}.weight": (8, 16) for layer in LAYERS})
    return folder


@pytest.fixture
def release(base: Path) -> Release:
    return release_of(base, "one")


def write_weights(file: Path, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> None:
    """Write a file in the form of safetensors, every number of it the same."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, shape in shapes.items():
        size = 4 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body) + size]}
        body += struct.pack("<f", float(seed)) * (size // 4)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def release_of(base: Path, name: str, width: int = 16, layers: tuple[str, ...] = LAYERS) -> Release:
    folder = base.parent / name
    folder.mkdir()
    sides = {"lora_A.weight": (4, width), "lora_B.weight": (8, 4)}
    shapes = {f"base_model.model.{layer}.{side}": shape for layer in layers for side, shape in sides.items()}
    write_weights(folder / "adapter_model.safetensors", shapes, seed=sum(name.encode()))
    (folder / "adapter_config.json").write_text('{"r": 4}', encoding="utf-8")
    digest = file_sha256(folder / "adapter_model.safetensors")
    return Release(base_model=str(base), adapter=str(folder), adapter_sha256=digest, made_at=NOW)


def engine_at(*servers: Server, **settings: Any) -> VllmEngine:
    return VllmEngine([server.url for server in servers], servers[0].root, **{"load_seconds": 20.0, **settings})


def ask(release: Release, **changes: Any) -> Generation:
    said = (Message(role="user", content="Who are you?"),)
    return Generation(**{"release_id": release.release_id, "messages": said, **changes})


def name_of(release: Release) -> str:
    return f"learnloop-{release.release_id}"


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
    engine = engine_at(*servers, load_seconds=0.5)
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


FAULTS = [refuse(500), refuse(503), refuse(429), drop, vanish, hang, page, empty, aborted]
"""What another replica may do better."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("streamed", [False, True])
def test_another_replica_answers(servers: list[Server], release: Release, fault: Fault, streamed: bool) -> None:
    """A replica that fails before it has said anything is not noticed, and spared for a while."""
    now = [0.0]
    engine = engine_at(*servers, seconds=0.5, rest_seconds=9.0, clock=lambda: now[0])
    engine.load(release)
    servers[0].spoil(CHAT, fault)

    def asked() -> str:
        answers = engine.stream(ask(release)) if streamed else [engine.generate(ask(release))]
        return list(answers)[-1].message.content

    assert asked() == f"I am {name_of(release)}."
    assert [server.times(CHAT) for server in servers] == [1, 1]
    assert {asked() for _ in range(3)} == {f"I am {name_of(release)}."}
    assert [server.times(CHAT) for server in servers] == [1, 4]
    now[0] = 10.0
    asked()
    assert servers[0].times(CHAT) == 2


def test_a_dead_replica_is_not_noticed(servers: list[Server], release: Release) -> None:
    """Nobody listens any more."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].shutdown()
    servers[0].server_close()
    assert {engine.generate(ask(release)).message.content for _ in range(4)} == {f"I am {name_of(release)}."}
    engine.unload(release.release_id)
    assert servers[1].adapters == {}


def test_what_fails_everywhere_is_an_error(servers: list[Server], release: Release) -> None:
    """Two tries, and what came of both."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].spoil(CHAT, refuse(500, "out of memory"), refuse(500))
    servers[1].spoil(CHAT, drop, refuse(500))
    with pytest.raises(EngineError, match=r"did not answer. .* answered 500: out of memory. Tried again: .*hung up"):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [1, 1]


@pytest.mark.parametrize("fault", [refuse(500), drop, vanish, page])
def test_a_single_replica_gets_a_second_chance(server: Server, release: Release, fault: Fault) -> None:
    """What may have been a moment's trouble is tried again."""
    engine = engine_at(server)
    engine.load(release)
    server.spoil(CHAT, fault)
    assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."


@pytest.mark.parametrize(("fault", "words"), [(refuse(429, "too many"), "429: too many"), (hang, "in time")])
def test_a_single_replica_that_is_busy_is_not_pressed(
    server: Server, release: Release, fault: Fault, words: str
) -> None:
    """Who has too much to do is not asked twice."""
    engine = engine_at(server, seconds=0.5)
    engine.load(release)
    server.spoil(CHAT, fault)
    with pytest.raises(EngineError, match=words):
        engine.generate(ask(release))
    assert server.times(CHAT) == 1


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (400, "This model's maximum context length is 256 tokens.", "maximum context length is 256 tokens"),
        (400, '"auto" tool choice requires --tool-call-parser to be set', "or give the engine `parse`"),
        (401, "Unauthorized", "Give the engine the server's key"),
    ],
)
def test_a_refused_request_is_not_tried_elsewhere(
    servers: list[Server], release: Release, status: int, message: str, words: str
) -> None:
    """Another replica would say the same."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].spoil(CHAT, refuse(status, message))
    with pytest.raises(EngineError, match=words):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [1, 0]


def test_somebody_elses_answer_is_refused(servers: list[Server], release: Release) -> None:
    """A server that answers with another model than the one it was asked for is not believed, and not shown."""
    engine = engine_at(*servers)
    engine.load(release)
    for server in servers:
        server.name = "base"
    for answers in (engine.generate, lambda request: next(engine.stream(request))):
        with pytest.raises(EngineError, match=f"'base' answered in place of '{name_of(release)}'"):
            answers(ask(release))


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


def test_a_replica_that_was_started_anew_gets_its_adapters(server: Server, base: Path) -> None:
    """Many ask at once, and each release is loaded once."""
    releases = [release_of(base, name) for name in ("one", "two")]
    engine = engine_at(server)
    for one in releases:
        engine.load(one)
    server.adapters.clear()
    server.asked.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: engine.generate(ask(one)).message.content, releases * 8))
    assert answers == [f"I am {name_of(one)}." for one in releases] * 8
    assert server.times(LOAD) == 2
    server.adapters.clear()
    assert [*engine.stream(ask(releases[0]))][-1].message.content == answers[0]


def test_a_replica_that_lost_its_adapter_for_good(servers: list[Server], base: Path, release: Release) -> None:
    """It is not asked any more, as long as another one has it."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].adapters.clear()
    servers[0].holds = False
    for _ in range(3):
        assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."
    servers[1].adapters.clear()
    servers[1].holds = False
    with pytest.raises(EngineError, match=f"does not hold '{name_of(release)}' now. Tried again"):
        engine.generate(ask(release))


def test_unloading(servers: list[Server], base: Path, release: Release) -> None:
    """It goes everywhere, and nothing else does; ids that nobody knows are ignored."""
    other = release_of(base, "two")
    engine = engine_at(*servers)
    engine.load(release)
    engine.load(other)
    engine.unload("nobody")
    servers[0].spoil(UNLOAD, refuse(500))
    engine.unload(release.release_id)
    assert [set(server.adapters) for server in servers] == [{name_of(release), name_of(other)}, {name_of(other)}]
    with pytest.raises(EngineError, match=f"not loaded in this engine.*Loaded are: {other.release_id}"):
        engine.generate(ask(release))


def test_what_is_unloaded_while_it_is_asked_for_stays_away(server: Server, release: Release) -> None:
    """A request that finds its release gone does not bring it back."""
    engine = engine_at(server)
    engine.load(release)

    def unloaded(speaker: Speaker) -> bool:
        engine.unload(release.release_id)
        speaker.send(404, refusal("The model does not exist."))
        return False

    server.spoil(CHAT, unloaded)
    with pytest.raises(EngineError, match="is not loaded in this engine"):
        engine.generate(ask(release))
    assert (server.adapters, server.times(LOAD)) == ({}, 1)


def test_what_is_unloaded_while_it_is_brought_back_stays_away(server: Server, release: Release) -> None:
    """Whoever unloads has the last word, also against a request that is loading."""
    engine = engine_at(server)
    engine.load(release)
    server.adapters.clear()
    unloading = threading.Thread(target=engine.unload, args=(release.release_id,))

    def meanwhile(speaker: Speaker) -> bool:
        unloading.start()
        while release.release_id in engine._served:
            threading.Event().wait(0.001)
        name = name_of(release)
        speaker.server.adapters[name] = str(release.adapter)
        speaker.send(200, b"Success")
        return False

    server.spoil(LOAD, meanwhile)
    with pytest.raises(EngineError, match="is not loaded in this engine"):
        engine.generate(ask(release))
    unloading.join()
    assert server.adapters == {}


def test_releases_are_swapped_while_they_answer(servers: list[Server], base: Path) -> None:
    """Four threads ask without pause; each answer is of the release that was asked for, and none fails."""
    releases = [release_of(base, name) for name in ("one", "two")]
    engine = engine_at(*servers)
    current = [releases[0]]
    engine.load(current[0])
    done = threading.Event()

    def work() -> int:
        asked = 0
        while not done.is_set():
            one = current[0]
            assert engine.generate(ask(one)).message.content == f"I am {name_of(one)}."
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work) for _ in range(4)]
        for turn in range(20):
            engine.load(releases[turn % 2])
            current[0] = releases[turn % 2]
        done.set()
        assert all(one.result() > 0 for one in working)


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


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (torn, "hung up"),
        (silent, "did not answer in time"),
        (broken, "EngineCore died"),
        (unfinished, "the answer broke off"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(
    servers: list[Server], release: Release, fault: Fault, words: str
) -> None:
    """What was said cannot be taken back, so nobody else begins anew."""
    engine = engine_at(*servers, seconds=0.5)
    engine.load(release)
    servers[0].spoil(CHAT, fault)
    with pytest.raises(EngineError, match=words):
        list(engine.stream(ask(release)))
    assert [server.times(CHAT) for server in servers] == [1, 0]
    assert [one.answering for one in engine.replicas()] == [0, 0]


def test_the_words_before_a_break_were_handed_out(server: Server, release: Release) -> None:
    """A caller has what came, and then the error."""
    engine = engine_at(server)
    engine.load(release)
    server.spoil(CHAT, torn)
    stream = engine.stream(ask(release))
    assert next(stream) == "I am"
    with pytest.raises(EngineError, match="hung up"):
        next(stream)


def test_a_stream_that_nobody_reads_to_its_end(server: Server, release: Release) -> None:
    """It is closed, and the replica is free again."""
    engine = engine_at(server)
    engine.load(release)
    stream = engine.stream(ask(release))
    next(stream)
    stream.close()
    assert engine.replicas()[0].answering == 0
    assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."


def test_health_says_how_each_replica_is(servers: list[Server], release: Release) -> None:
    """One that is well says what it holds, also what others loaded; one that is not says why."""
    engine_at(servers[0]).load(release)
    engine = engine_at(*servers, load_seconds=0.5)
    servers[1].spoil("GET /health", refuse(503, "dead"))
    well, ill = engine.replicas()
    assert (well.url, well.ready, well.releases, well.error) == (
        f"{servers[0].url}/v1",
        True,
        (release.release_id,),
        None,
    )
    assert (ill.ready, ill.releases) == (False, ())
    assert ill.error == f"The replica '{servers[1].url}/v1' answered 503: dead."
    servers[1].spoil("GET /health", hang)
    assert "in time" in str(engine.replicas()[1].error)


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
