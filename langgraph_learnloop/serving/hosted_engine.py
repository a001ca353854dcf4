"""Serve releases from models that run elsewhere: any LangChain chat model behind the engine's port.

A release is then the name of a model (`base_model`) with its instructions and sampling; what a provider has fine-tuned
is such a name too. What the wrapped model retries it retries; nothing is tried again here.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig

from langgraph_learnloop.errors import EngineError, not_loaded
from langgraph_learnloop.records import EngineHealth, Generated, Generation, Message, Release, Sampling, TokenLogprob
from langgraph_learnloop.serving.relay import relayed
from langgraph_learnloop.serving.toolcalls import THINK_CLOSE, THINK_OPEN, offered_names, parse_answer

_LENGTH = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
"""How providers say that an answer was cut."""
_ALONE: RunnableConfig = {"callbacks": [], "metadata": {"learnloop_evaluation": True}}
"""The agent's traces show the call of the model that wraps this one; a second one would be counted twice."""


def plain_options(sampling: Sampling) -> dict[str, Any]:
    """Return the names that most chat models give to how tokens are drawn."""
    return {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}


class HostedEngine:
    """Answer with the chat model that a release names.

    `models` gives a chat model by its name, or makes one; `base_model` is the name that the first release gets.
    `options` gives what a model is called with, for one that refuses a temperature, say, or names things otherwise.
    Tokens count as 0 where the model does not tell them; in a stream some tell them only if asked, such as `ChatOpenAI`
    with `stream_usage=True`. Log-probabilities are asked for where a call wants them, as `ChatOpenAI` is asked, unless
    `logprobs` says that the provider refuses the question.
    """

    def __init__(
        self,
        models: Mapping[str, BaseChatModel] | Callable[[str], BaseChatModel],
        base_model: str,
        options: Callable[[Sampling], Mapping[str, Any]] = plain_options,
        logprobs: bool = True,
    ) -> None:
        self.base_model = base_model
        self._models = models
        self._options = options
        self._logprobs = logprobs
        self._made: dict[str, BaseChatModel] = {}
        self._loaded: dict[str, str] = {}
        self._loading = threading.Lock()

    def load(self, release: Release) -> None:
        """Make a release servable; raise EngineError when there is no model of its name, or it has an adapter."""
        if release.release_id in self._loaded:
            return
        if release.adapter is not None:
            raise EngineError(
                f"Release {release.release_id!r} has an adapter, which the hosted model {release.base_model!r} cannot "
                "take: serve it with a LocalEngine, or train it at the provider."
            )
        with self._loading:
            if release.base_model not in self._made:
                self._made[release.base_model] = self._find(release.base_model)
            self._loaded[release.release_id] = release.base_model

    def unload(self, release_id: str) -> None:
        """Forget a release; unknown ids are ignored."""
        self._loaded.pop(release_id, None)

    def generate(self, request: Generation) -> Generated:
        """Answer with the model of exactly the release that was asked for, or raise EngineError."""
        model, asked, options = self._call(request)
        with self._in_a_sentence(request):
            return _generated(model.invoke(asked, _ALONE, **options), request)

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield texts as they come, a chain of thought in its marks, and at last the whole answer."""
        model, asked, options = self._call(request)
        whole: BaseMessage | None = None
        thinks = False
        with self._in_a_sentence(request), contextlib.closing(relayed(model.stream(asked, _ALONE, **options))) as come:
            for chunk in come:
                whole = chunk if whole is None else whole + chunk  # type: ignore[assignment]  # a sum of chunks is one
                text, thought = chunk.text, _reasoning(chunk)
                if thought:
                    yield thought if thinks else f"{THINK_OPEN}{thought}"
                    thinks = True
                if text:
                    yield f"{THINK_CLOSE}{text}" if thinks else str(text)
                    thinks = False
        if whole is None:
            raise self._error(request, "the stream ended before it began")
        yield _generated(whole, request)

    def health(self) -> EngineHealth:
        """Return what is loaded; whether the provider answers is not tried, for every try is paid for."""
        return EngineHealth(loaded=tuple(self._loaded))

    def _find(self, name: str) -> BaseChatModel:
        if not callable(self._models):
            model = self._models.get(name)
            if model is None:
                known = ", ".join(sorted(self._models)) or "none"
                raise EngineError(f"There is no model {name!r} in this engine; name one of these: {known}.")
            return model
        try:
            return self._models(name)
        except Exception as error:  # whatever a provider's library raises about a name or a key
            raise EngineError(
                f"The model {name!r} cannot be made: {_sentence(error)}. Check its name and the "
                "provider's library and key."
            ) from error

    def _call(self, request: Generation) -> tuple[Runnable[Any, AIMessage], list[BaseMessage], dict[str, Any]]:
        """Return the model with its tools, what it is asked and how."""
        name = self._loaded.get(request.release_id)
        if name is None:
            raise not_loaded(request.release_id, self._loaded)
        model: Runnable[Any, AIMessage] = self._made[name]
        if request.tools:
            with self._in_a_sentence(request):
                model = self._made[name].bind_tools(request.tools)
        options = dict(self._options(request.sampling))
        if request.stop:
            options["stop"] = list(request.stop)
        if request.logprobs is not None and self._logprobs:
            options |= {"logprobs": True, **({"top_logprobs": request.logprobs} if request.logprobs else {})}
        return model, convert_to_messages([message.openai() for message in request.messages]), options

    @contextlib.contextmanager
    def _in_a_sentence(self, request: Generation) -> Iterator[None]:
        """Make one kind of error of all that providers, their libraries and the network raise."""
        try:
            yield
        except Exception as error:
            raise self._error(request, _sentence(error)) from error

    def _error(self, request: Generation, what: str) -> EngineError:
        name = self._loaded.get(request.release_id)
        return EngineError(
            f"The model {name!r} of release {request.release_id!r} did not answer: {what}. "
            "Check the provider, and try again."
        )


def _generated(message: BaseMessage, request: Generation) -> Generated:
    """Return a whole answer as a record; calls and thoughts that the provider left in the text are taken out of it."""
    calls = getattr(message, "tool_calls", None) or []
    text = str(message.text) + "".join(_torn(call) for call in getattr(message, "invalid_tool_calls", None) or ())
    read = parse_answer(text, offered=offered_names(request.tools))
    usage: Mapping[str, int] = getattr(message, "usage_metadata", None) or {}
    about = message.response_metadata
    ended = about.get("finish_reason") or about.get("stop_reason") or about.get("done_reason")
    said = [{"name": call["name"], "args": call["args"], "id": call["id"]} for call in calls]
    return Generated(
        message=Message.model_validate(
            {"role": "assistant", "content": read.content, "tool_calls": (*said, *read.tool_calls)}
        ),
        reasoning="\n\n".join(filter(None, (_reasoning(message).strip(), read.reasoning))) or None,
        input_tokens=usage.get("input_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
        finish_reason="length" if str(ended).lower() in _LENGTH else "stop",
        logprobs=_logprobs(message) if request.logprobs is not None else (),
    )


def _logprobs(message: BaseMessage) -> tuple[TokenLogprob, ...]:
    """Return the log-probabilities that a provider told in OpenAI's form; none where it told none, or otherwise."""
    told = message.response_metadata.get("logprobs")
    tokens = told.get("content") if isinstance(told, Mapping) else None
    try:
        return tuple(
            TokenLogprob(
                token=one["token"],
                logprob=one["logprob"],
                top=tuple((likely["token"], likely["logprob"]) for likely in one.get("top_logprobs") or ()),
            )
            for one in tokens or ()
        )
    except (KeyError, TypeError, ValueError):
        return ()


def _reasoning(message: BaseMessage) -> str:
    """Return the chain of thought that a message or a chunk of one carries; "thinking" is Anthropic's own word."""
    said = message.additional_kwargs.get("reasoning_content")
    if isinstance(said, str):
        return said
    if isinstance(message.content, str):
        return ""
    blocks = [block for block in message.content_blocks if block["type"] == "reasoning"]
    return "".join(str(block.get("reasoning", "")) for block in blocks)


def _torn(call: Mapping[str, Any]) -> str:
    """Return a call whose arguments are no JSON in the form that is recognised, and written again."""
    return f'\n<tool_call>{{"name": {json.dumps(call.get("name"))}, "arguments": {call.get("args")}'


def _sentence(error: Exception) -> str:
    """Return the provider's own words, where it has sent some, and what kind of error it is."""
    body: Any = getattr(error, "body", None)
    for key in ("error", "message"):
        body = body.get(key, body) if isinstance(body, Mapping) else body
    said = body if isinstance(body, str) and body.strip() else str(error)
    status = getattr(error, "status_code", None)
    kind = type(error).__name__ + (f" {status}" if isinstance(status, int) else "")
    return f"{kind}: {said.strip().rstrip('.')}"
