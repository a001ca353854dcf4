"""Ways of recording an agent, and the sink on this machine that the others send to. For `capture.py`."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from capture_agent import Scripted, look_up, words
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_learnloop import LearnLoop


class Side(NamedTuple):
    """One way of recording."""

    callbacks: list[BaseCallbackHandler]
    flush: Callable[[], object] = lambda: None


def langfuse_side(url: str) -> Side:
    """Return Langfuse's handler."""
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

    key = f"pk-lf-{uuid.uuid4().hex}"  # there is one client for each key, with the address it was first made with
    client = Langfuse(public_key=key, secret_key="sk-lf-1", host=url, tracing_enabled=True)
    return Side([CallbackHandler(public_key=key)], client.flush)


def langsmith_side(url: str) -> Side:
    """Return LangSmith's tracer."""
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client

    client = Client(api_url=url, api_key="key")
    return Side([LangChainTracer(client=client, project_name="bench")], client.flush)


def sides(loop: LearnLoop, silent: LearnLoop, url: str) -> dict[str, Side]:
    """Return every side by its name; `silent` looks for no signals."""

    class Empty(BaseCallbackHandler):
        run_inline = True

    return {
        "untraced": Side([]),
        "empty handler": Side([Empty()]),
        "learnloop": Side([loop.recorder], loop.flush),
        "learnloop, no signals": Side([silent.recorder], silent.flush),
        "langfuse": langfuse_side(url),
        "langsmith": langsmith_side(url),
    }


def conversation(side: Side) -> Callable[[], list[BaseMessage]]:
    """Return what takes the next turn of a conversation, recorded and flushed, and gives all its messages."""
    agent = create_agent(Scripted(turns=1), [look_up], checkpointer=InMemorySaver())
    config: Any = {"callbacks": list(side.callbacks), "configurable": {"thread_id": "t"}}

    def turn() -> list[BaseMessage]:
        state = agent.invoke({"messages": [HumanMessage(words(200))]}, config)
        side.flush()
        return list(state["messages"])

    return turn


@contextmanager
def sink() -> Iterator[tuple[str, Any]]:
    """Yield the address of a sink in a process of its own, and its count of bytes."""
    context = multiprocessing.get_context("spawn")
    port, received = context.Value("i", 0), context.Value("q", 0)
    process = context.Process(target=_sink, args=(port, received), daemon=True)
    process.start()
    while port.value == 0:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}", received
    finally:
        process.terminate()


def _sink(port: Any, received: Any) -> None:
    """Answer every request at once, and count its bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                self.rfile.read(length)
            elif self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    length += size
                    self.rfile.read(size + 2)
                self.rfile.readline()
            with received.get_lock():
                received.value += length
            body = b"{}"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()
