"""A LangChain chat model whose inside is swapped while it serves.

The release that answers is chosen for each call: `learnloop_release` in the config's metadata, else the release that
the call's thread started with, else the champion. The thread is `thread_id` in the config's metadata, where LangGraph
puts it; LangChain shows a model nothing else of the config, so who calls the model bare must put it there.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from contextvars import ContextVar, copy_context
from functools import lru_cache, partial
from typing import Any, Literal, TypeVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, SkipValidation

from langgraph_learnloop.errors import ConfigError, DataError, EngineError
from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.toolcalls import Part, Reader, is_malformed, new_call_id, offered_names

RELEASE_KEY = "learnloop_release"
"""Key of the config's metadata that names the release to use."""

AT_KEY = "learnloop_release_at"
"""Key of the config's metadata that names the releases to use in single nodes of the graph."""

WARMER = (0.4, 0.8)
"""Added to the temperature at each further try to write a tool call that can be read: greedily, the same would come.

A call that cannot be read after these is handed on as text."""

_ANY = ("any", "required")
_GREEDY = Sampling()
_MOST_THREADS = 256
"""Coroutines that are answered at once; asyncio would lend a handful of threads, fewer than an engine's batch."""
_GONE: ContextVar[threading.Event | None] = ContextVar("learnloop_gone", default=None)
"""Set when the one who listens to this thread's items went away."""
_Item = TypeVar("_Item")
_Role = Literal["system", "user", "assistant", "tool"]
_ROLES: Mapping[str, _Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "tool": "tool",
    "user": "user",
    "assistant": "assistant",
}


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

    None: the engine holds all it needs, releases have no instructions and sample greedily."""

    @property
    def _llm_type(self) -> str:
        return "learnloop"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

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
        choice = _choice(tool_choice, offered_names(schemas))
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

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, run_manager, kwargs)
        answer = self._usable(self.engine.generate(request), request, kwargs)
        message = AIMessage(
            content=answer.message.content,
            tool_calls=[
                {"name": call.name, "args": call.args, "id": call.id or new_call_id(), "type": "tool_call"}
                for call in answer.message.tool_calls
            ],
            additional_kwargs={"reasoning_content": answer.reasoning} if answer.reasoning else {},
            response_metadata={**self._first(request), "finish_reason": answer.finish_reason},
            usage_metadata=_usage(answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Generate in a thread; who is cancelled goes at once, and the answer is thrown away."""
        manager = run_manager.get_sync() if run_manager is not None else None
        work = partial(copy_context().run, partial(self._generate, messages, stop, manager, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), work)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Yield words as the engine writes them; what begins to look like a call is held back until it can be read."""
        request = self._request(messages, stop, run_manager, kwargs)
        about = self._first(request)
        for message in self._written(request, kwargs):
            message.response_metadata = {**about, **message.response_metadata}
            about = {}  # metadata of several chunks would be strung together
            chunk = ChatGenerationChunk(message=message)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

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

    def _written(self, request: Generation, options: Mapping[str, Any]) -> Iterator[AIMessageChunk]:
        """Yield an answer's chunks: words, and at last what was held back, the calls and the usage."""
        stream: Callable[[Generation], Iterator[str | Generated]] | None = getattr(self.engine, "stream", None)
        if stream is None:
            yield _last_chunk(self._usable(self.engine.generate(request), request, options))
            return
        reader = Reader(offered=bool(request.tools), silent=_must_call(options))
        answer: Generated | None = None
        with closing(_relayed(stream(request))) as pieces:
            for piece in pieces:
                if isinstance(piece, Generated):
                    answer = piece
                    break
                for part in reader.read(piece):
                    yield _chunk(part)
                if _nobody_listens():  # while a call is held back there is no chunk at which this could be closed
                    return
        if answer is None:
            raise EngineError(
                f"The engine of {self.engine.base_model!r} ended its stream without the answer of release "
                f"{request.release_id!r}: its stream() must yield a Generated at last."
            )
        yield _last_chunk(self._usable(answer, request, options), reader)

    def _with_release(self, config: RunnableConfig | None, options: Mapping[str, Any]) -> dict[str, Any]:
        if RELEASE_KEY in options:
            return dict(options)
        metadata = {**ensure_config(config).get("metadata", {}), **(self.metadata or {})}
        return {**options, RELEASE_KEY: self._chosen(metadata)}

    def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        options: Mapping[str, Any],
    ) -> Generation:
        release_id = options.get(RELEASE_KEY) or self._release_id(run_manager)
        release = self.find_release(release_id) if self.find_release is not None else None
        if release is not None:
            self.engine.load(release)
        return Generation(
            release_id=release_id,
            messages=_with_instructions(to_messages(messages), release.instructions if release else None),
            tools=tuple(_offered(options.get("tools") or (), options.get("tool_choice"))),
            sampling=_sampling(release.sampling if release else _GREEDY, options),
            stop=tuple(stop or ()),
        )

    def _usable(self, answer: Generated, request: Generation, options: Mapping[str, Any]) -> Generated:
        """Return an answer; one whose call nobody can read, or is missing, is written again, a little less predictably.

        The tokens of every try are counted.
        """
        offered = offered_names(request.tools)
        for warmer in WARMER:
            is_missing = _must_call(options) and bool(offered) and not answer.message.tool_calls
            if not is_missing and not is_malformed(answer.message, offered):
                break
            temperature = request.sampling.temperature + warmer
            sampling = request.sampling.model_copy(update={"temperature": temperature})
            again = self.engine.generate(request.model_copy(update={"sampling": sampling}))
            tokens = {name: getattr(answer, name) + getattr(again, name) for name in ("input_tokens", "output_tokens")}
            answer = again.model_copy(update=tokens)
        return answer

    def _release_id(self, run_manager: CallbackManagerForLLMRun | None) -> str:
        own = (run_manager.metadata or {}) if run_manager is not None else {}
        return self._chosen({**ensure_config().get("metadata", {}), **own})

    def _chosen(self, metadata: Mapping[str, Any]) -> str:
        at = metadata.get(AT_KEY) or {}
        if chosen := at.get(metadata.get("langgraph_node"), metadata.get(RELEASE_KEY)):
            return str(chosen)
        thread_id = metadata.get("thread_id")
        return self.router.release_for(None if thread_id is None else str(thread_id))

    def _first(self, request: Generation) -> dict[str, Any]:
        """Return what is known of an answer before it is written."""
        return {"model_name": self.model_name, "model_provider": "learnloop", RELEASE_KEY: request.release_id}


def to_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Return LangChain messages as records; blocks that are not text are left out."""
    return tuple(_to_message(message) for message in messages)


def _to_message(message: BaseMessage) -> Message:
    kind = message.role if isinstance(message, ChatMessage) else message.type
    role = _ROLES.get(kind)
    if role is None:
        raise DataError(
            f"A message of type {kind!r} cannot be given to the model: use system, human, AI or tool messages."
        )
    content = message.content if isinstance(message.content, str) else str(message.text)
    if role == "user" and message.name is None:
        return Message(role=role, content=content)
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return Message(
        role=role,
        content=content,
        tool_calls=tuple(ToolCall(name=c["name"], args=c["args"], id=c["id"]) for c in calls),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name,
    )


def _with_instructions(messages: tuple[Message, ...], instructions: str | None) -> tuple[Message, ...]:
    """Put a release's instructions before the agent's own system prompt, in one system message."""
    if not instructions:
        return messages
    if messages and messages[0].role == "system":
        first = messages[0].model_copy(update={"content": f"{instructions}\n\n{messages[0].content}"})
        return (first, *messages[1:])
    return (Message(role="system", content=instructions), *messages)


def _choice(choice: str | bool | dict[str, Any] | None, names: Collection[str]) -> str | None:
    """Return "any", "none", a tool's name, or None where the model is free; raise ConfigError for any other choice."""
    if isinstance(choice, dict):
        inner = choice["function"] if isinstance(choice.get("function"), Mapping) else choice
        choice = str(inner.get("name") or choice.get("type"))
    if choice in names:
        return str(choice)
    if choice in (None, False, "auto"):
        return None
    if choice in (True, *_ANY):
        return "any"
    if choice == "none":
        return "none"
    raise ConfigError(
        f"The tool_choice {choice!r} names none of the tools {', '.join(sorted(names)) or '(there are none)'}; "
        'take one of these, "any", "auto" or "none".'
    )


def _must_call(options: Mapping[str, Any]) -> bool:
    return options.get("tool_choice") not in (None, "auto", "none")


def _offered(tools: Sequence[dict[str, Any]], choice: str | None) -> Sequence[dict[str, Any]]:
    if choice is None:
        return tools
    if choice == "none":
        return ()
    named = [tool for tool in tools if tool.get("function", {}).get("name") == choice]
    return named or tools


def _sampling(given: Sampling, options: Mapping[str, Any]) -> Sampling:
    """Return the release's sampling with what the call itself asks for."""
    asked = {name: options[name] for name in Sampling.model_fields if options.get(name) is not None}
    return Sampling.model_validate({**given.model_dump(), **asked}) if asked else given


def _usage(answer: Generated) -> UsageMetadata | None:
    """Return the tokens; None where the engine does not tell them, for no call reads nothing and writes nothing."""
    total = answer.input_tokens + answer.output_tokens
    if not total:
        return None
    return {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens, "total_tokens": total}


def _chunk(part: Part) -> AIMessageChunk:
    if part.is_reasoning:
        return AIMessageChunk(content="", additional_kwargs={"reasoning_content": part.text})
    return AIMessageChunk(content=part.text)


def _last_chunk(answer: Generated, reader: Reader | None = None) -> AIMessageChunk:
    """Return what a stream has not yet shown of an answer, its calls and its usage."""
    said, thought = (reader.content, reader.reasoning) if reader is not None else ("", "")
    reasoning = _unsaid(answer.reasoning or "", thought)
    return AIMessageChunk(
        content=_unsaid(answer.message.content, said),
        tool_call_chunks=[
            tool_call_chunk(
                name=call.name,
                args=json.dumps(call.args, ensure_ascii=False),
                id=call.id or new_call_id(),
                index=index,
            )
            for index, call in enumerate(answer.message.tool_calls)
        ],
        additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
        response_metadata={"finish_reason": answer.finish_reason},
        usage_metadata=_usage(answer),
        chunk_position="last",
    )


def _unsaid(whole: str, said: str) -> str:
    """Return the rest of a text; all of it, in a line of its own, when something else was said in an earlier try."""
    if whole.startswith(said):
        return whole[len(said) :]
    return f"\n{whole}" if whole and whole not in said else ""


@lru_cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """Return a process's threads for coroutines; a forked process has none of its parent's."""
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="learnloop-model")


def _nobody_listens() -> bool:
    gone = _GONE.get()
    return gone is not None and gone.is_set()


def _relayed(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """Yield what an iterator gives; it is closed with this one, if it is of a kind that can be."""
    yield from items


async def from_thread(items: Iterator[_Item]) -> AsyncGenerator[_Item, None]:
    """Yield what an iterator gives in another thread; who stops listening closes it at its next item."""
    loop = asyncio.get_running_loop()
    given: asyncio.Queue[tuple[_Item] | BaseException | None] = asyncio.Queue()
    gone = threading.Event()

    def hand(what: tuple[_Item] | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop was closed: nobody listens
            loop.call_soon_threadsafe(given.put_nowait, what)

    def work() -> None:
        _GONE.set(gone)
        try:
            with closing(_relayed(items)) as relayed:
                for item in relayed:
                    hand((item,))
                    if gone.is_set():
                        return
            hand(None)
        except BaseException as error:  # noqa: BLE001 - raised where the items are waited for
            hand(error)

    _threads(os.getpid()).submit(copy_context().run, work)
    try:
        while (what := await given.get()) is not None:
            if isinstance(what, BaseException):
                raise what
            yield what[0]
    finally:
        gone.set()
