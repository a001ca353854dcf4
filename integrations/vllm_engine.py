"""Serve releases by vLLM: each server holds the base once, and beside it the adapters it is given while it runs.

    engine = VllmEngine(["http://gpu-1:8000", "http://gpu-2:8000"], "Qwen/Qwen3-8B", key=os.environ["VLLM_API_KEY"])
    agent = create_agent(loop.model(engine), tools)

Needs `pip install "langgraph-learnloop[openai]"`, and servers started as `integrations/vllm/README.md` says. An adapter
is loaded under a name that is made of its release's id and never given to other weights.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from langgraph_learnloop.errors import ConfigError, EngineError, MissingExtraError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.jobs import CONFIG, WEIGHTS
from langgraph_learnloop.records import Generated, Generation, Message, Release, ToolCall
from langgraph_learnloop.texts import short, visible

T = TypeVar("T")
Parse = Callable[[str], tuple[str, str | None, tuple[ToolCall, ...]]]
"""Take a model's text apart: what it says, its chain of thought, and the tools it asks for."""

PREFIX = "learnloop-"
"""What the names of adapters on the servers begin with; the release's id follows."""

_CONNECT_SECONDS = 5.0
_LONGEST_REASON = 300
"""Characters of what a server says."""
_LARGEST_HEADER = 100_000_000
"""Bytes; no safetensors file has a longer one."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of weights whose shape is that of the layer; quantised ones are packed."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_MARK = re.compile(r"<(?=[/\w]|\Z)")
"""Where a call or a chain of thought may begin."""
_ENDINGS: dict[str, Literal["stop", "length"]] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
}
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
    error: str | None
    """What is wrong with it."""


class VllmEngine:
    """Serve releases of one base model from one or more vLLM servers ("replicas"), all of which hold every release.

    `replicas` are their addresses, `served_name` is the base's name there. Where the servers themselves load it from
    another place than `base_model` names, such as a folder in a container or a quantised copy, `served_root` says so.
    Adapters are read by the servers from the folder that the release names; where they see it elsewhere,
    `adapters_root` is the folder in which they find it under its last name.

    Servers that take tool calls apart need nothing more. For others `parse` does that, in the form of Hermes and Qwen
    `langgraph_learnloop.serving.toolcalls.parse_answer`.

    A request goes to the replica with the fewest of this process's requests. One that does not answer, or not within
    `seconds` (in a stream: that falls silent for so long), is spared for `rest_seconds`, and the request is tried once
    more, elsewhere if there is another. A replica that was started anew gets its adapters when it is asked for them.
    Several processes can share the replicas; what one of them unloads, another loads again when it needs it.
    """

    def __init__(
        self,
        replicas: Sequence[str],
        base_model: str | Path,
        served_name: str = "base",
        key: str | None = None,
        adapters_root: str | Path | None = None,
        *,
        served_root: str | None = None,
        parse: Parse | None = None,
        seconds: float = 120.0,
        load_seconds: float = 60.0,
        rest_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        urls = list(dict.fromkeys(_api(url) for url in replicas))
        if not urls:
            raise ConfigError(
                "VllmEngine needs the address of one vLLM server at least, such as http://localhost:8000."
            )
        self.base_model = str(base_model)
        self._adapters_root = None if adapters_root is None else str(adapters_root).rstrip("/")
        self._rest_seconds, self._clock = rest_seconds, clock
        base = _Base(self.base_model, served_name, served_root)
        self._replicas = [_Replica(url, base, parse, *_clients(url, key, seconds, load_seconds)) for url in urls]
        self._served_name = served_name
        self._served: dict[str, _Served] = {}
        self._loading, self._choosing = threading.Lock(), threading.Lock()

    def load(self, release: Release) -> None:
        """Make every replica hold a release, or none of them, and raise EngineError with what went wrong."""
        release_id = release.release_id
        if release_id in self._served:  # asked before every answer
            return
        with self._loading:
            if release_id in self._served:
                return
            served = self._checked(release)
            outcomes = self._everywhere(lambda replica: replica.hold(served))
            if failed := [outcome for outcome in outcomes if isinstance(outcome, EngineError)]:
                fresh = [replica for replica, took in zip(self._replicas, outcomes, strict=True) if took is True]
                _at_once(lambda replica: replica.drop(served), fresh)
                raise EngineError(f"Release {release_id!r} is not loaded. {' '.join(map(str, failed))}")
            self._served[release_id] = served

    def unload(self, release_id: str) -> None:
        """Forget a release, here and on the replicas; unknown ids are ignored, and so are replicas out of reach."""
        with self._loading:
            served = self._served.pop(release_id, None)
            if served is not None and served.path is not None:
                self._everywhere(lambda replica: replica.drop(served))

    def generate(self, request: Generation) -> Generated:
        """Answer with exactly the release that was asked for, or raise EngineError."""
        (answer,) = (said for said in self._answers(request, _Replica.whole) if isinstance(said, Generated))
        return answer

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield texts as they are written, in order, and at last the whole answer; raise EngineError at any time.

        With `parse`, what follows the first mark such as "<tool_call>" is held back until it can be taken apart.
        """
        return self._answers(request, _Replica.pieces)

    def health(self) -> tuple[ReplicaHealth, ...]:
        """Return how each replica is, in the order they were given; it takes as long as the slowest."""
        said = self._everywhere(lambda replica: replica.look())
        return tuple(
            ReplicaHealth(replica.url, False, (), replica.answering, str(one))
            if isinstance(one, EngineError)
            else ReplicaHealth(replica.url, True, one, replica.answering, None)
            for replica, one in zip(self._replicas, said, strict=True)
        )

    def close(self) -> None:
        """Close the connections; the servers keep what they hold."""
        for replica in self._replicas:
            replica.client.close()

    def _everywhere(self, work: Callable[[_Replica], T]) -> list[T | EngineError]:
        return _at_once(work, self._replicas)

    def _checked(self, release: Release) -> _Served:
        """Return what a release is on the servers, once it is the one it says it is."""
        if not _same_model(release.base_model, self.base_model):
            raise EngineError(
                f"Release {release.release_id!r} belongs to the base model {release.base_model!r}, "
                f"but this engine's servers hold {self.base_model!r}: make an engine for that base."
            )
        if release.adapter is None:
            return _Served(release.release_id, self._served_name, None)
        folder = Path(os.path.abspath(release.adapter))
        _check_adapter(folder, release, Path(self.base_model))
        path = str(folder) if self._adapters_root is None else f"{self._adapters_root}/{folder.name}"
        return _Served(release.release_id, PREFIX + release.release_id, path)

    def _answers(self, request: Generation, ask: _Ask) -> Iterator[str | Generated]:
        """Yield what a replica says; one that fails before it has said anything is not the last one."""
        failed: dict[str, _ReplicaError] = {}
        while True:
            begun = False
            with self._chosen(failed) as replica:
                try:
                    for said in self._asked(replica, request, ask):
                        begun = True
                        yield said
                    replica.rests_until = -math.inf
                    return
                except _ReplicaError as error:
                    if error.rests:
                        replica.rests_until = self._clock() + self._rest_seconds
                    others = len(self._replicas) > 1
                    if begun or failed or not (error.elsewhere if others else error.here):
                        first = [f"{one} Tried again:" for one in failed.values()]
                        raise EngineError(" ".join([_not_answered(request), *first, str(error)])) from error
                    failed[replica.url] = error

    def _asked(self, replica: _Replica, request: Generation, ask: _Ask) -> Iterator[str | Generated]:
        """Ask a replica; one that has lost the release, as after a restart, is given it again."""
        served = self._known(request.release_id)
        try:
            yield from ask(replica, served, request)
        except _ReplicaError as error:
            if error.status != 404:
                raise
            with replica.lock:  # who unloads it meanwhile comes after, and has the last word
                replica.hold(self._known(request.release_id))
            yield from ask(replica, self._known(request.release_id), request)

    def _known(self, release_id: str) -> _Served:
        if (served := self._served.get(release_id)) is None:
            raise EngineError(
                f"Release {release_id!r} is not loaded in this engine; load it first. "
                f"Loaded are: {', '.join(sorted(self._served)) or 'none'}."
            )
        return served

    @contextmanager
    def _chosen(self, failed: dict[str, _ReplicaError]) -> Iterator[_Replica]:
        """Give the least busy replica that has not failed this request; of equals the one that waited longest."""
        with self._choosing:
            now = self._clock()
            left = [replica for replica in self._replicas if replica.url not in failed] or self._replicas
            replica = min(left, key=lambda one: (one.rests_until > now, one.answering, one.asked))
            replica.answering += 1
            replica.asked = 1 + max(one.asked for one in self._replicas)
        try:
            yield replica
        finally:
            with self._choosing:
                replica.answering -= 1


class _Base(NamedTuple):
    """The base as the servers should have it."""

    model: str
    name: str
    root: str | None

    def wrong(self, root: str | None) -> bool:
        """Tell whether a server has another model under the base's name, as far as one can know."""
        if self.root is not None:
            return root != self.root
        if root is None or _same_model(root, self.model):
            return False
        both_here = Path(root).is_dir() and Path(self.model).is_dir()
        return both_here or not (_is_path(root) or _is_path(self.model))


class _Served(NamedTuple):
    """A release as the servers know it."""

    release_id: str
    name: str
    """The model to ask for."""
    path: str | None
    """Where the servers find the adapter; None for the bare base."""


class _ReplicaError(EngineError):
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


@dataclass(eq=False)
class _Replica:
    """One vLLM server."""

    url: str
    base: _Base
    parse: Parse | None
    client: Any
    loads: Any
    """The same client with another patience, for adapters."""
    answering: int = 0
    asked: int = 0
    """Its last turn."""
    rests_until: float = -math.inf
    limit: int | None = None
    """Tokens that it reads and writes at most, as far as it said so: it refuses requests that ask for more."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held by whoever gives it adapters, or takes them away."""

    def hold(self, served: _Served) -> bool:
        """Load a release if it is not there, and see that it is; return whether it was this call that loaded it."""
        with self.lock:
            listed = self._listed()
            if served.path is None or served.name in listed:
                return False
            said, took = self._load(served.name, served.path)
            try:
                if served.name in self._listed():
                    return took
            except _ReplicaError as error:
                said = str(error)
            self._drop(served)
            raise _ReplicaError(f"{said} It does not hold {served.name!r} now.", elsewhere=True)

    def drop(self, served: _Served) -> None:
        """Unload a release; whether it was there, or the server is, makes no difference."""
        with self.lock:
            self._drop(served)

    def look(self) -> tuple[str, ...]:
        """Return the ids of the releases that are there; raise EngineError if anything is wrong with the server."""
        with _heard(self.url):
            self.loads.get(f"{self.url.removesuffix('/v1')}/health", cast_to=str)
        return tuple(sorted(name.removeprefix(PREFIX) for name in self._listed() if name.startswith(PREFIX)))

    def whole(self, served: _Served, request: Generation) -> Iterator[Generated]:
        """Yield the answer."""
        with _heard(self.url):
            answer = self.client.chat.completions.create(**self._body(served, request))
            said = _Said(served, self.parse)
            said.add(answer, [(choice.message, choice.finish_reason) for choice in _choices(answer)])
            generated = said.generated()
        yield generated

    def pieces(self, served: _Served, request: Generation) -> Iterator[str | Generated]:
        """Yield the answer bit by bit, and at last whole."""
        wanted = {"stream": True, "stream_options": {"include_usage": True}}
        said, shown = _Said(served, self.parse), 0
        with (
            _heard(self.url),
            self.client.chat.completions.create(**self._body(served, request), **wanted) as chunks,
        ):
            for chunk in chunks:
                said.add(chunk, [(choice.delta, choice.finish_reason) for choice in _choices(chunk)])
                text = said.settled()
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
            generated = said.generated()
        content, begun = generated.message.content, said.settled()[:shown]
        if len(content) > shown and content.startswith(begun):
            yield content[shown:]
        yield generated

    def _load(self, name: str, path: str) -> tuple[str, bool]:
        """Ask for a load; return what came of it, and whether it was the one that loaded."""
        try:
            said = self._post("load_lora_adapter", {"lora_name": name, "lora_path": path})
        except _ReplicaError as error:
            return f"{error}{_why_not(error)}", error.status is None  # what was cut off may have been done
        return f"The replica {self.url!r} answered 200 ({_one_line(said)}).", True

    def _drop(self, served: _Served) -> None:
        if served.path is not None:
            with suppress(_ReplicaError):
                self._post("unload_lora_adapter", {"lora_name": served.name})

    def _post(self, path: str, body: dict[str, str]) -> str:
        with _heard(self.url):
            return str(self.loads.post(f"/{path}", cast_to=str, body=body))

    def _listed(self) -> set[str]:
        """Return the names of what is there; raise EngineError if that is not the base."""
        with _heard(self.url):
            cards = {card.id: card for card in _of(self.loads.models.list(), "data")}
        base = cards.get(self.base.name)
        if base is None:
            raise _ReplicaError(
                f"The replica {self.url!r} does not serve {self.base.name!r}, but {', '.join(cards) or 'nothing'}: "
                "start it with that --served-model-name, or set served_name.",
                elsewhere=True,
            )
        root = getattr(base, "root", None)
        if self.base.wrong(root):
            raise _ReplicaError(
                f"The replica {self.url!r} serves {root!r} as {self.base.name!r}, and not {self.base.model!r}: "
                "start it with that model, or say in served_root that this is the same.",
                elsewhere=True,
            )
        self.limit = getattr(base, "max_model_len", None)
        return set(cards)

    def _body(self, served: _Served, request: Generation) -> dict[str, Any]:
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
        return body


_Ask = Callable[[_Replica, _Served, Generation], Iterator[str | Generated]]


@dataclass
class _Call:
    """A tool call as it comes in."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def read(self) -> ToolCall | None:
        """Return the call, or None where nobody could carry it out."""
        try:
            args = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return None
        return ToolCall(name=self.name, args=args, id=self.id or None) if isinstance(args, dict) and self.name else None

    def __str__(self) -> str:
        """Return the call as text, in the form of those that nobody could read."""
        return f'<tool_call>{{"name": {json.dumps(self.name)}, "arguments": {self.arguments}}}</tool_call>'


@dataclass
class _Said:
    """An answer as it comes in, in one piece or in many."""

    served: _Served
    parse: Parse | None
    content: str = ""
    reasoning: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)
    ending: str | None = None
    usage: Any = None

    def add(self, answer: Any, said: list[tuple[Any, str | None]]) -> None:
        """Take in a whole answer, or one more piece of it; raise ValueError when it is not from whom it should be."""
        if self.served.path is not None and answer.model != self.served.name:
            raise ValueError(f"{answer.model!r} answered in place of {self.served.name!r}")
        self.usage = getattr(answer, "usage", None) or self.usage
        for message, ending in said:
            self.content += message.content or ""
            self.reasoning += getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
            self.ending = ending or self.ending
            for at, call in enumerate(message.tool_calls or ()):
                known = self.calls.setdefault(getattr(call, "index", at), _Call())
                known.id = call.id or known.id
                known.name += call.function.name or ""
                known.arguments += call.function.arguments or ""

    def settled(self) -> str:
        """Return the beginning of the text that will be part of the answer, whatever comes."""
        if self.parse is None:
            return self.content
        mark = _MARK.search(self.content)
        return (self.content if mark is None else self.content[: mark.start()]).strip()

    def generated(self) -> Generated:
        """Return the answer; raise ValueError when it is not whole."""
        if self.ending not in _ENDINGS:
            raise ValueError(f"the answer broke off (finish_reason {self.ending!r})")
        if self.usage is None:
            raise ValueError("the answer does not say how many tokens it took")
        content, thought, more = self.parse(self.content) if self.parse is not None else (self.content, None, ())
        read = [(call, call.read()) for _, call in sorted(self.calls.items())]
        lost = "".join(str(call) for call, made in read if made is None)
        return Generated(
            message=Message(
                role="assistant",
                content=content + lost,
                tool_calls=(*(made for _, made in read if made is not None), *more),
            ),
            reasoning=self.reasoning.strip() or thought,
            input_tokens=self.usage.prompt_tokens,
            output_tokens=self.usage.completion_tokens,
            finish_reason=_ENDINGS[self.ending],
        )


@contextmanager
def _heard(url: str) -> Iterator[None]:
    """Make one sentence of the many ways in which a server fails to answer."""
    import openai

    who = f"The replica {url!r}"
    try:
        yield
    except openai.APIStatusError as error:
        status, said = error.status_code, _one_line(_message(error))
        worth = status in (404, 408, 429) or status >= 500
        raise _ReplicaError(
            f"{who} answered {status}: {said}.{_way_out(status, said)}", status, here=status >= 500, elsewhere=worth
        ) from error
    except openai.APITimeoutError as error:
        raise _ReplicaError(f"{who} did not answer in time.", elsewhere=True) from error
    except openai.APIConnectionError as error:
        cause = _one_line(error.__cause__ or error)
        raise _ReplicaError(f"{who} cannot be reached, or hung up: {cause}.", here=True) from error
    except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:  # no JSON, or not of this form
        said = "it has another form" if isinstance(error, AttributeError | TypeError) else _one_line(error)
        raise _ReplicaError(f"{who} sent what is no answer: {said}.", here=True) from error


def _api(url: str) -> str:
    """Return a server's address with the path of its API."""
    return f"{url.rstrip('/').removesuffix('/v1')}/v1"


def _clients(url: str, key: str | None, seconds: float, load_seconds: float) -> tuple[Any, Any]:
    """Return a client for answers and one for adapters, which share their connections."""
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            f'Serving by vLLM needs the library of its protocol ({error}): pip install "langgraph-learnloop[openai]".'
        ) from error
    answers, loads = (openai.Timeout(most, connect=min(most, _CONNECT_SECONDS)) for most in (seconds, load_seconds))
    # A key must be given: without one the library would send OPENAI_API_KEY to the server.
    client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=answers)
    return client, client.with_options(timeout=loads)


def _at_once(work: Callable[[_Replica], T], replicas: Sequence[_Replica]) -> list[T | EngineError]:
    """Do work with several replicas at the same time; return for each what came of it."""
    with ThreadPoolExecutor(max(1, len(replicas)), "learnloop-vllm") as pool:
        return list(pool.map(partial(_outcome, work), replicas))


def _outcome(work: Callable[[_Replica], T], replica: _Replica) -> T | EngineError:
    try:
        return work(replica)
    except EngineError as error:
        return error


def _not_answered(request: Generation) -> str:
    return f"Release {request.release_id!r} did not answer."


def _of(answer: Any, name: str) -> list[Any]:
    """Return a list of an answer; what is no JSON the library hands out as text, and it has none."""
    entries = getattr(answer, name, None)
    if not isinstance(entries, list):
        raise ValueError(f"it holds no {name}")
    return entries


def _choices(answer: Any) -> list[Any]:
    return _of(answer, "choices")


def _message(error: Any) -> str:
    body = error.body
    return str((body.get("message") or body.get("detail") if isinstance(body, dict) else None) or error)


def _one_line(said: object) -> str:
    """Return what somebody says on one line, without its full stop."""
    return short(visible(" ".join(str(said).split()).rstrip(".")), _LONGEST_REASON)


def _way_out(status: int, said: str) -> str:
    """Return what to do about a refusal, where that is not in the server's own words."""
    if status == 401:
        return " Give the engine the server's key."
    return " Do that, or give the engine `parse`." if "--tool-call-parser" in said else ""


def _why_not(error: _ReplicaError) -> str:
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


def _same_model(one: str, other: str) -> bool:
    """Tell whether two names are of one model: folders may be reached by several paths."""
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other))


def _is_path(model: str) -> bool:
    """Tell whether a model is named by a folder, of this machine or another, and not by its name on the hub."""
    return Path(model).is_dir() or model.startswith(("/", ".", "~"))


def _check_adapter(folder: Path, release: Release, base: Path) -> None:
    """Raise EngineError for an adapter that is not the release's or does not fit the base: vLLM looks at neither."""
    who = f"The adapter of release {release.release_id!r} in {str(folder)!r}"
    try:
        found = file_sha256(folder / WEIGHTS)
        json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise EngineError(f"{who} cannot be read: {_one_line(error)}.") from error
    if found != release.adapter_sha256:
        raise EngineError(
            f"{who} has SHA-256 {found[:12]}..., but the release names {str(release.adapter_sha256)[:12]}...: "
            "the file was changed; train it again."
        )
    if (misfit := _misfit(_shapes(folder / WEIGHTS), _layers(base))) is not None:
        raise EngineError(f"{who} does not fit {str(base)!r}: {misfit}.")


def _shapes(file: Path) -> dict[str, list[int]]:
    """Return the shapes of a safetensors file's weights by name, of those that are not packed."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, _LARGEST_HEADER)))
        return {name: list(about["shape"]) for name, about in header.items() if about.get("dtype") in _FLOATS}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        raise EngineError(f"{str(file)!r} cannot be read as safetensors: {_one_line(error)}.") from error


def _layers(base: Path) -> dict[str, list[int]]:
    """Return the shapes of a base's layers, as far as it is a folder on this machine: else none is known."""
    shapes = [_shapes(file) for file in sorted(base.glob("*.safetensors"))] if base.is_dir() else []
    return {name.removesuffix(".weight"): shape for one in shapes for name, shape in one.items()}


def _misfit(adapter: dict[str, list[int]], layers: dict[str, list[int]]) -> str | None:
    """Return why an adapter is not one of these layers, or None where nothing speaks against it.

    `lora_A` is rank x in, `lora_B` out x rank. A layer that the base has nowhere may have another name there.
    """
    kinds = {_NUMBER.sub("*", layer) for layer in layers}
    for key, shape in adapter.items():
        layer, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        if side not in ("A.weight", "B.weight") or len(shape) != 2:
            continue
        width = shape[1] if side == "A.weight" else shape[0]
        if layer in layers and width not in layers[layer]:
            return f"{key!r} is for a layer of width {width}, and the base's has the shape {layers[layer]}"
        if layer not in layers and _NUMBER.sub("*", layer) in kinds:
            return f"the base has no layer {layer!r}"
    return None
