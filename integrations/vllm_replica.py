"""Speak with one vLLM server: give it adapters, take them away, ask it. A part of `vllm_engine`."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from langgraph_learnloop.errors import EngineError, MissingExtraError
from langgraph_learnloop.files import same_model
from langgraph_learnloop.integrations.vllm_adapter import check_adapter
from langgraph_learnloop.integrations.vllm_answer import Parse, Said, listed_in
from langgraph_learnloop.records import Generated, Generation, Message, Release
from langgraph_learnloop.texts import one_line

PREFIX = "learnloop-"
"""What the names of adapters on the servers begin with; the release's id follows."""

_CONNECT_SECONDS = 5.0
_MOST_LOGPROBS = 20
_PLAIN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "spaces_between_special_tokens": False,
}
"""What vLLM would else take from the model's generation_config.json: a release is examined without."""
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{.*\})? (\S+)$", re.MULTILINE)
"""How vLLM's metrics say how many requests wait, one line for each of its engines."""


class Base(NamedTuple):
    """The base as the servers should have it."""

    model: str
    name: str
    root: str | None

    def wrong(self, root: str | None) -> bool:
        """Tell whether a server has another model under the base's name, as far as one can know."""
        if self.root is not None:
            return root != self.root
        if root is None or same_model(root, self.model):
            return False
        both_here = Path(root).is_dir() and Path(self.model).is_dir()
        return both_here or not (_is_path(root) or _is_path(self.model))


class Served(NamedTuple):
    """A release as the servers know it."""

    release: Release
    """What it is."""
    name: str
    """The model to ask for."""
    path: str | None
    """Where the servers find the adapter; None for the bare base."""


class ReplicaHealth(NamedTuple):
    """How one server is."""

    url: str
    """The server."""
    ready: bool
    """It answers, its engine runs and it serves the base."""
    releases: tuple[str, ...]
    """Ids of the releases that it holds, also those that other processes gave it."""
    answering: int
    """Requests of this process that it is answering now."""
    waiting: int | None
    """Requests of whoever, which wait there for their turn; None where it does not say."""
    error: str | None
    """What is wrong with it."""


class ReplicaError(EngineError):
    """Say what one replica did wrong, and whether that is worth another try."""

    def __init__(self, message: str, status: int | None = None, *, here: bool = False, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None where there was none."""
        self.here = here
        """The same replica may do better at once."""
        self.elsewhere = elsewhere or here
        """Another replica may do better."""

    @property
    def rests(self) -> bool:
        """Return whether the replica had better be spared for a while."""
        return self.elsewhere and self.status != 404


class Clients(NamedTuple):
    """Clients of one server, of different patience; they share their connections."""

    answers: Any
    loads: Any
    """For adapters."""
    looks: Any
    """For how it is."""


@dataclass(eq=False)
class Replica:
    """One vLLM server."""

    url: str
    base: Base
    parse: Parse | None
    clients: Clients
    answering: int = 0
    asked: int = 0
    """Its last turn."""
    trouble: str | None = None
    """What was wrong with it when it was last looked at."""
    rests_until: float = -math.inf
    limit: int | None = None
    """Tokens that it reads and writes at most, as far as it said so: it refuses requests that ask for more."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held by whoever gives it adapters, or takes them away."""

    def hold(self, served: Served, *, again: bool = False) -> bool:
        """Load a release if it is not there, and see that it is; return whether it was this call that loaded it.

        Where it was lost and is loaded `again`, its adapter must still be what it was: the server reads it anew.
        """
        with self.lock:
            listed = self._listed(self.clients.loads)
            if served.path is None or served.name in listed:
                return False
            if again:
                try:
                    check_adapter(served.release, Path(self.base.model))
                except EngineError as error:
                    sentence = f"The replica {self.url!r} lost {served.name!r}. {error}"
                    raise ReplicaError(sentence, elsewhere=True) from error
            said, took = self._load(served.name, served.path)
            try:
                if served.name in self._listed(self.clients.loads):
                    return took
            except ReplicaError as error:
                said = str(error)
            self.drop(served.name)
            raise ReplicaError(f"{said} It does not hold {served.name!r} now: see its log.", elsewhere=True)

    def drop(self, name: str) -> None:
        """Unload what has a name; whether it was there, or the server is, makes no difference."""
        with self.lock, suppress(ReplicaError):
            self._post("unload_lora_adapter", {"lora_name": name})

    def look(self) -> ReplicaHealth:
        """Return how the server is; raise EngineError if anything is wrong with it."""
        self._told("health")
        held = sorted(name for name in self._listed(self.clients.looks) if name.startswith(PREFIX))
        releases = tuple(name.removeprefix(PREFIX) for name in held)
        return ReplicaHealth(self.url, True, releases, self.answering, self._waiting(), None)

    def whole(self, served: Served, request: Generation) -> Iterator[Generated]:
        """Yield the answer."""
        with heard(self.url):
            said = self._said(served, request)
            said.add(self.clients.answers.chat.completions.create(**self._body(served, request)))
            generated = said.generated()
        yield generated

    def pieces(self, served: Served, request: Generation) -> Iterator[str | Generated]:
        """Yield the answer bit by bit, and at last whole."""
        wanted = {"stream": True, "stream_options": {"include_usage": True}}
        said, shown = self._said(served, request), 0
        with (
            heard(self.url),
            self.clients.answers.chat.completions.create(**self._body(served, request), **wanted) as chunks,
        ):
            for chunk in chunks:
                said.add(chunk)
                text = said.settled()
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
            generated = said.generated()
        content, begun = generated.message.content, said.settled()[:shown]
        if len(content) > shown and content.startswith(begun):
            yield content[shown:]
        yield generated

    def _said(self, served: Served, request: Generation) -> Said:
        return Said(served.name if served.path is not None else None, self.parse, request.logprobs)

    def _load(self, name: str, path: str) -> tuple[str, bool]:
        """Ask for a load; return what came of it, and whether it was the one that loaded."""
        try:
            said = self._post("load_lora_adapter", {"lora_name": name, "lora_path": path})
        except ReplicaError as error:
            return f"{error}{_why_not(error)}", error.status is None  # what was cut off may have been done
        return f"The replica {self.url!r} answered 200 ({one_line(said)}).", True

    def _post(self, path: str, body: dict[str, str]) -> str:
        with heard(self.url):
            return str(self.clients.loads.post(f"/{path}", cast_to=str, body=body))

    def _told(self, what: str) -> str:
        """Return what the server says beside its API."""
        with heard(self.url):
            return str(self.clients.looks.get(f"{self.url.removesuffix('/v1')}/{what}", cast_to=str))

    def _waiting(self) -> int | None:
        try:
            counts = [float(count) for count in _WAITING.findall(self._told("metrics"))]
        except (ReplicaError, ValueError):
            return None
        return int(sum(counts)) if counts else None

    def _listed(self, client: Any) -> set[str]:
        """Return the names of what is there; raise EngineError if that is not the base."""
        with heard(self.url):
            cards = {card.id: card for card in listed_in(client.models.list(), "data")}
        base = cards.get(self.base.name)
        if base is None:
            raise ReplicaError(
                f"The replica {self.url!r} does not serve {self.base.name!r}, but {', '.join(cards) or 'nothing'}: "
                "start it with that --served-model-name, or set served_name.",
                elsewhere=True,
            )
        root = getattr(base, "root", None)
        if self.base.wrong(root):
            raise ReplicaError(
                f"The replica {self.url!r} serves {root!r} as {self.base.name!r}, and not {self.base.model!r}: "
                "start it with that model, or say in served_root that this is the same.",
                elsewhere=True,
            )
        self.limit = getattr(base, "max_model_len", None)
        return set(cards)

    def _body(self, served: Served, request: Generation) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": served.name,
            "messages": [_chat(message) for message in request.messages],
            "temperature": sampling.temperature,
            "max_tokens": min(sampling.max_tokens, self.limit or sampling.max_tokens),
            "extra_body": _PLAIN | {"skip_special_tokens": self.parse is None},  # <tool_call> may be a special token
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.tools:
            body["tools"] = list(request.tools)
            if self.parse is not None:  # the prompt names the tools all the same; "auto" needs a parser on the server
                body["tool_choice"] = "none"
        if request.logprobs is not None:  # one more: vLLM puts the token that was written before the likeliest ones
            more = min(request.logprobs + 1, _MOST_LOGPROBS) if request.logprobs else 0
            body |= {"logprobs": True, "top_logprobs": more}
        return body


def api(url: str) -> str:
    """Return a server's address with the path of its API."""
    return f"{url.rstrip('/').removesuffix('/v1')}/v1"


def clients(url: str, key: str | None, *seconds: float) -> Clients:
    """Return clients that wait so many seconds for answers, for adapters, and to hear how the server is."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            f'Serving by vLLM needs the library of its protocol ({error}): pip install "langgraph-learnloop[openai]".'
        ) from error
    times = [openai.Timeout(most, connect=min(most, _CONNECT_SECONDS)) for most in seconds]
    # A key must be given: without one the library would send OPENAI_API_KEY to the server.
    client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0)
    return Clients(*(client.with_options(timeout=time) for time in times))


def _is_path(model: str) -> bool:
    """Tell whether a model is named by a folder, of this machine or another, and not by its name on the hub."""
    return Path(model).is_dir() or model.startswith(("/", ".", "~"))


def _why_not(error: ReplicaError) -> str:
    """Return what to do about a refused load."""
    if error.status != 404:
        return ""
    if "Not Found" in str(error):
        return " Start it with --enable-lora, and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment."
    return " Let it see the adapter's folder under that path, or set adapters_root."


def _chat(message: Message) -> dict[str, Any]:
    """Return a message in the server's form, with arguments as JSON."""
    said = message.openai()
    for call in said.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return said


@contextmanager
def heard(url: str) -> Iterator[None]:
    """Make one sentence of the many ways in which a server fails to answer."""
    import openai

    who = f"The replica {url!r}"
    try:
        yield
    except openai.APIStatusError as error:
        status, said = error.status_code, one_line(_message(error))
        worth = status in (404, 408, 429) or status >= 500
        raise ReplicaError(
            f"{who} answered {status}: {said}.{_way_out(status, said)}", status, here=status >= 500, elsewhere=worth
        ) from error
    except openai.APITimeoutError as error:
        raise ReplicaError(
            f"{who} did not answer in time: give the engine more seconds, or add a replica.", elsewhere=True
        ) from error
    except openai.APIConnectionError as error:
        cause = one_line(error.__cause__ or error)
        raise ReplicaError(
            f"{who} cannot be reached, or hung up ({cause}): see that it runs there.", here=True
        ) from error
    except RuntimeError as error:  # the client was closed
        raise ReplicaError(f"{who} cannot be asked: {one_line(error)}. Make a new engine.") from error
    except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:  # no JSON, or not of this form
        said = "it has another form" if isinstance(error, AttributeError | TypeError) else one_line(error)
        raise ReplicaError(
            f"{who} sent what is no answer: {said}. See that a vLLM server runs there.", here=True
        ) from error


def _message(error: Any) -> str:
    body = error.body
    return str((body.get("message") or body.get("detail") if isinstance(body, dict) else None) or error)


def _way_out(status: int, said: str) -> str:
    """Return what to do about a refusal, where that is not in the server's own words."""
    if status == 401:
        return " Give the engine the server's key."
    if "--tool-call-parser" in said:
        return " Do that, or give the engine `parse`."
    return "" if status == 404 else " See the server's log."
