"""Servers on the loopback that speak vLLM's protocol, and go wrong when a test orders it."""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generation, Message, Release

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

    def __init__(self, root: str, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Speaker)
        self.root = root
        self.connections: list[socket.socket] = []
        self.adapters: dict[str, str] = {}
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.faults: list[tuple[str, Fault]] = []
        self.says: dict[str, Any] = {}
        self.ending: str | None = "stop"
        self.name: str | None = None
        self.pieces: list[dict[str, Any]] | None = None
        self.logprobs: list[dict[str, Any]] | None = None
        self.metrics: str | None = None
        self.holds = True
        self.over = threading.Event()
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may hang up
            super().handle_error(request, client_address)

    def live(self) -> None:
        """Listen, in a thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> None:
        """Hang up on everybody, in the middle of whatever they are being told, and listen no more."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

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
            case "GET /metrics" if self.metrics is not None:
                return 200, self.metrics.encode()
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
        choice = {"index": 0, "message": message, "finish_reason": self.ending, "logprobs": told(self.logprobs)}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": self.name or model,
            "choices": [choice],
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
        for at, delta in enumerate(deltas):
            chunk = piece(answer, delta)
            if self.server.logprobs is not None:
                chunk["choices"][0]["logprobs"] = told(self.server.logprobs[at : at + 1])
            self.event(chunk)
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


def told(logprobs: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": logprobs}


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


def mute(speaker: Speaker) -> bool:
    """Begin a stream and die before its first word."""
    speaker.begin()
    speaker.event(piece(speaker.server.said(next(iter(speaker.server.adapters))), {"role": "assistant", "content": ""}))
    speaker.close_connection = True
    return False


def failing(speaker: Speaker) -> bool:
    """Begin a stream in which the first thing said is an error."""
    speaker.begin()
    speaker.event({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}})
    speaker.end()
    return False


def garbled(speaker: Speaker) -> bool:
    """Send a stream of which nobody can read the first event."""
    speaker.begin()
    speaker.event(b'{"id": "chatcmpl')
    speaker.end()
    return False


def usurped(speaker: Speaker) -> bool:
    """Begin a stream as the one who was asked, and go on as the base."""
    begin(speaker)
    speaker.event(piece(speaker.server.said("base"), {"content": " base"}))
    speaker.end()
    return False


def unfinished(speaker: Speaker) -> bool:
    """End a stream in good order, but before the answer has ended."""
    begin(speaker)
    speaker.end()
    return False


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
    return VllmEngine(
        [server.url for server in servers], servers[0].root, **{"load_seconds": 20.0, "look_seconds": 20.0, **settings}
    )


def ask(release: Release, **changes: Any) -> Generation:
    said = (Message(role="user", content="Who are you?"),)
    return Generation(**{"release_id": release.release_id, "messages": said, **changes})


def name_of(release: Release) -> str:
    return f"learnloop-{release.release_id}"
