"""A server that takes spans and scores as Langfuse does, in a process of its own, and counts each id; it can fail.

It keeps no contents: what is measured beside it is how fast it is told, and whether each thing arrives once. Langfuse
does not recognise an observation that comes a second time, and neither does it.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

FAILURES = ("refused", "lost answer", "busy", "gone before", "gone after")
"""How a request fails: 500 and nothing kept, kept and then 500, 429, and the connection closed before and after."""


class _State:
    """What outlives a restart."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.spans: dict[str, Counter[str]] = defaultdict(Counter)
        self.scores: dict[str, Any] = {}
        self.requests: Counter[str] = Counter()
        self.restarts = threading.Semaphore(0)
        self.fails = 0.0
        self.draw = random.Random(0)

    def failure(self) -> str | None:
        with self.lock:
            return self.draw.choice(FAILURES) if self.draw.random() < self.fails else None

    def keep(self, path: str, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        if path.endswith("/scores"):
            told = json.loads(body)
            with self.lock:
                self.scores.update((one["id"], one) for one in (told if isinstance(told, list) else [told]))
            return
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body))
        with self.lock:
            for resource in request.resource_spans:
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    self.spans[span.trace_id.hex()][span.span_id.hex()] += 1

    def seen(self) -> dict[str, Any]:
        with self.lock:
            counts = [count for trace in self.spans.values() for count in trace.values()]
            return {
                "traces": len(self.spans),
                "spans": len(counts),
                "twice": sum(count > 1 for count in counts),
                "scores": len(self.scores),
                "requests": dict(self.requests),
            }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        failure = self.state.failure()
        self.state.requests[failure or "taken"] += 1
        if failure in (None, "lost answer", "gone after"):
            self.state.keep(self.path, body)
        if failure in ("gone before", "gone after"):
            self.close_connection = True
            return
        self._answer({None: 200, "busy": 429}.get(failure, 500), {})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/seen":
            self._answer(200, self.state.seen())
        elif url.path == "/fail":
            self.state.fails = float(parse_qs(url.query)["share"][0])
            self._answer(200, {})
        elif url.path == "/restart":
            self._answer(200, {})
            self.state.restarts.release()
        elif self.state.failure():
            self._answer(503, {})
        else:
            trace = parse_qs(url.query)["traceId"][0]
            with self.state.lock:
                ids = list(self.state.spans.get(trace, {}))
            common = {"traceId": trace, "startTime": "2026-01-01T00:00:00Z", "projectId": "p", "type": "SPAN"}
            self._answer(200, {"data": [{"id": one, **common} for one in ids], "meta": {}})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def serve() -> None:
    """Serve at the port that is printed; at each restart nobody listens for a moment, and what was taken stays."""
    state, port = _State(), 0
    handler = type("Handler", (_Handler,), {"state": state})
    while True:
        server = _Server(("127.0.0.1", port), handler)
        port = server.server_port
        print(port, flush=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        state.restarts.acquire()
        server.shutdown()
        server.server_close()
        time.sleep(0.5)


class Running:
    """The server as a benchmark sees it."""

    def __init__(self, url: str) -> None:
        """Hold its address."""
        self.url = url

    def seen(self) -> dict[str, Any]:
        """Return what arrived; while it restarts, ask again."""
        while True:
            try:
                return dict(httpx.get(f"{self.url}/seen", timeout=30).json())
            except httpx.HTTPError:
                time.sleep(0.1)

    def fail(self, share: float) -> None:
        """Let a share of the requests fail from now on."""
        httpx.get(f"{self.url}/fail", params={"share": share}, timeout=30)

    def restart(self) -> None:
        """Go away for a moment."""
        httpx.get(f"{self.url}/restart", timeout=30)


@contextmanager
def running() -> Iterator[Running]:
    """Yield a server that has nothing."""
    command = [sys.executable, "-c", "import langfuse_server; langfuse_server.serve()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        try:
            yield Running(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()
