"""A LangChain chat model whose inside is swapped while it serves.

The release that answers is chosen for each call: `learnloop_release` in the config's metadata, else the release that
the call's thread started with, else the champion. The thread is `thread_id` in the config's metadata, where LangGraph
puts it; LangChain shows a model nothing else of the config, so who calls the model bare must put it there.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, PrivateAttr, SkipValidation

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.jobs import why_removed
from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Generated, Generation, Release
from langgraph_learnloop.serving.langchain_form import chunk, last_chunk, to_messages, whole
from langgraph_learnloop.serving.relay import from_thread, in_thread, nobody_listens, relayed
from langgraph_learnloop.serving.request import (
    GREEDY,
    Preamble,
    choice_of,
    logprobs_of,
    must_call,
    offered,
    preamble_of,
    sampling_of,
)
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.shadow_traffic import ShadowTraffic
from langgraph_learnloop.serving.toolcalls import AnswerReader, is_malformed, offered_names

RELEASE_KEY = "learnloop_release"
"""Key of the config's metadata that names the release to use."""

THREAD_KEY = "learnloop_thread"
"""Key of the call's own options that names the thread whose release was chosen for it, beside RELEASE_KEY."""

AT_KEY = "learnloop_release_at"
"""Key of the config's metadata that names the releases to use in single nodes of the graph."""

WARMER = (0.4, 0.8)
"""Added to the temperature at each further try to write a tool call that can be read: greedily, the same would come.

A call that cannot be read after these is handed on as text."""

_KEPT = 64
"""Releases whose preambles are kept ready."""


class _Call(NamedTuple):
    """What a call of the model asks, and who answers it."""

    messages: tuple[BaseMessage, ...]
    stop: list[str] | None
    options: Mapping[str, Any]
    release_id: str
    thread_id: str | None
    """The thread that began with this release; None where the caller named the release, or no thread."""
    began: float
    """When it came in, in seconds of `time.perf_counter`."""


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _signed(method: _Method) -> _Method:
    """Keep a method's signature: LangChain asks for it at every call, and making it takes longer than our own part."""
    method.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return method


class LiveModel(BaseChatModel):
    """Answer with the release that the call's thread belongs to."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: SkipValidation[Engine]
    """Who generates."""
    router: SkipValidation[Router]
    """Who knows a thread's release."""
    model_name: str = "learnloop"
    """Name in traces."""
    find_release: SkipValidation[Callable[[str], Release] | None] = None
    """Give the release of an id: its instructions and sampling are applied, and it is loaded if it is not yet there.

    None: the engine holds all it needs, releases have no words of their own and sample greedily."""
    shadow: SkipValidation[ShadowTraffic | None] = None
    """Asks the candidate of a rollout in the shadow what its champion was asked."""
    _preambles: dict[str, Preamble] = PrivateAttr(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "learnloop"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return what traces show of a call; LangChain's own way silences warnings for all threads meanwhile."""
        return {**self._identifying_params, "_type": self._llm_type, "stop": stop, **kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Return what LangSmith calls the model, and how it is asked."""
        return {**super()._get_ls_params(stop, **kwargs), "ls_provider": "learnloop"}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; `tool_choice` "none" or a tool's name narrows the offer.

        No engine can be forced to write a call: with "any", True or a name, an answer without one is written again,
        twice at most, and then handed on as it is.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        choice = choice_of(tool_choice, offered_names(schemas))
        if choice is not None:
            kwargs["tool_choice"] = choice
        return self.bind(tools=schemas, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the answer as it is written; LangChain does not show `_stream` the config, so it is read here."""
        yield from super().stream(input, config, stop=stop, **self._with_release(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the answer as it is written, as `stream` does."""
        chunks = super().astream(input, config, stop=stop, **self._with_release(config, kwargs))
        async with aclosing(cast("AsyncGenerator[AIMessageChunk, None]", chunks)):
            async for chunk in chunks:
                yield chunk

    @_signed
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, run_manager, kwargs)
        request = self._request(call)
        answer = self._usable(self.engine.generate(request), request, call)
        self._offer(call, answer)
        return ChatResult(generations=[ChatGeneration(message=whole(answer, self._about(request)))])

    @_signed
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Generate in a thread; who is cancelled goes at once, and the answer is thrown away."""
        manager = run_manager.get_sync() if run_manager is not None else None
        return await in_thread(partial(self._generate, messages, stop, manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Yield words as the engine writes them; what begins to look like a call is held back until it can be read."""
        call = self._call(messages, stop, run_manager, kwargs)
        request = self._request(call)
        about = self._about(request)
        for message in self._written(call, request):
            message.response_metadata = {**about, **message.response_metadata}
            about = {}  # metadata of several chunks would be strung together
            written = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(written.text, chunk=written)
            yield written

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Stream in a thread; when the caller goes away the engine is told with its next word."""
        manager = run_manager.get_sync() if run_manager is not None else None
        async with aclosing(from_thread(self._stream(messages, stop, manager, **kwargs))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _written(self, call: _Call, request: Generation) -> Iterator[AIMessageChunk]:
        """Yield an answer's chunks: words, and at last what was held back, the calls and the usage."""
        stream: Callable[[Generation], Iterator[str | Generated]] | None = getattr(self.engine, "stream", None)
        reader = AnswerReader(offered=bool(request.tools), silent=must_call(call.options))
        written: Generated | None = None
        with closing(relayed(stream(request) if stream else iter([self.engine.generate(request)]))) as pieces:
            for piece in pieces:
                if isinstance(piece, Generated):
                    written = piece
                    break
                for part in reader.read(piece):
                    yield chunk(part)
                if nobody_listens():  # while a call is held back there is no chunk at which this could be closed
                    return
        if written is None:
            raise EngineError(
                f"The engine of {self.engine.base_model!r} ended its stream without the answer of release "
                f"{request.release_id!r}: its stream() must yield a Generated at last."
            )
        answer = self._usable(written, request, call)
        self._offer(call, answer)
        yield last_chunk(answer, reader)

    def _with_release(self, config: RunnableConfig | None, options: Mapping[str, Any]) -> dict[str, Any]:
        if RELEASE_KEY in options:
            return dict(options)
        metadata = {**ensure_config(config).get("metadata", {}), **(self.metadata or {})}
        return {**options, **dict(zip((RELEASE_KEY, THREAD_KEY), self._chosen(metadata), strict=True))}

    def _request(self, call: _Call) -> Generation:
        release = self.find_release(call.release_id) if self.find_release is not None else None
        if release is not None:
            self._load(release)
        preamble = self._preamble(release) if release is not None else Preamble()
        return Generation(
            release_id=call.release_id,
            messages=preamble.before(to_messages(call.messages)),
            tools=offered(call.options),
            sampling=sampling_of(release.sampling if release is not None else GREEDY, call.options),
            stop=tuple(call.stop or ()),
            logprobs=logprobs_of(call.options),
        )

    def _load(self, release: Release) -> None:
        try:
            self.engine.load(release)
        except Exception as error:
            if (why := why_removed(release)) is not None:
                raise EngineError(why) from error
            raise

    def _preamble(self, release: Release) -> Preamble:
        """Return what a release says before every conversation; it is put together once."""
        known = self._preambles.get(release.release_id)
        if known is None:
            if len(self._preambles) >= _KEPT:
                self._preambles.clear()
            known = self._preambles[release.release_id] = preamble_of(release)
        return known

    def _usable(self, answer: Generated, request: Generation, call: _Call) -> Generated:
        """Return an answer; one whose call nobody can read, or is missing, is written again, a little less predictably.

        The tokens of every try are counted.
        """
        names = offered_names(request.tools)
        for warmer in WARMER:
            is_missing = must_call(call.options) and bool(names) and not answer.message.tool_calls
            if not is_missing and not is_malformed(answer.message, names):
                break
            temperature = request.sampling.temperature + warmer
            sampling = request.sampling.model_copy(update={"temperature": temperature})
            again = self.engine.generate(request.model_copy(update={"sampling": sampling}))
            tokens = {name: getattr(answer, name) + getattr(again, name) for name in ("input_tokens", "output_tokens")}
            answer = again.model_copy(update=tokens)
        return answer

    def _offer(self, call: _Call, answer: Generated) -> None:
        """Put to a candidate in the shadow what the champion has just answered; nobody waits for that."""
        if self.shadow is None or call.thread_id is None or (routes := self.router.unseen()) is None:
            return
        if call.release_id == routes.champion:
            ask = partial(self._unseen, call._replace(release_id=str(routes.candidate)))
            seconds = time.perf_counter() - call.began
            self.shadow.offer(str(routes.shadow), call.thread_id, ask, answer.message, seconds)

    def _unseen(self, call: _Call) -> Generated:
        """Return what a release answers; raise EngineError for a call that nobody can read."""
        request = self._request(call)
        answer = self._usable(self.engine.generate(request), request, call)
        if is_malformed(answer.message, offered_names(request.tools)):
            raise EngineError(
                f"Release {call.release_id!r} wrote a tool call that cannot be read: raise its sampling's max_tokens, "
                "or train it on calls."
            )
        return answer

    def _call(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        options: Mapping[str, Any],
    ) -> _Call:
        """Return a call that comes in now, with who answers it."""
        began = time.perf_counter()
        if release_id := options.get(RELEASE_KEY):
            chosen = release_id, options.get(THREAD_KEY)
        else:
            own = (run_manager.metadata or {}) if run_manager is not None else {}
            # Outside of a graph or a chain there is no more to know.
            known = {} if var_child_runnable_config.get() is None else ensure_config().get("metadata", {})
            chosen = self._chosen({**known, **own})
        return _Call(tuple(messages), stop, options, *chosen, began)

    def _chosen(self, metadata: Mapping[str, Any]) -> tuple[str, str | None]:
        """Return the release that metadata ask for, and the thread that began with it."""
        at = metadata.get(AT_KEY) or {}
        if chosen := at.get(metadata.get("langgraph_node"), metadata.get(RELEASE_KEY)):
            return str(chosen), None
        thread_id = metadata.get("thread_id")
        thread_id = None if thread_id is None else str(thread_id)
        return self.router.release_for(thread_id), thread_id

    def _about(self, request: Generation) -> dict[str, Any]:
        """Return what is known of an answer before it is written."""
        return {"model_name": self.model_name, "model_provider": "learnloop", RELEASE_KEY: request.release_id}
