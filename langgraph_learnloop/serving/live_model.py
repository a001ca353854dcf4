"""A LangChain chat model whose inside is swapped while it serves.

The release that answers is chosen for each call: `learnloop_release` in the config's metadata, else the release that
the call's thread started with, else the champion. The thread is `thread_id` in the config's metadata, where LangGraph
puts it; LangChain shows a model nothing else of the config, so who calls the model bare must put it there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, SkipValidation

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.router import Router
from langgraph_learnloop.serving.toolcalls import is_malformed, new_call_id

RELEASE_KEY = "learnloop_release"
"""Key of the config's metadata that names the release to use."""

AT_KEY = "learnloop_release_at"
"""Key of the config's metadata that names the releases to use in single nodes of the graph."""

WARMER = (0.4, 0.8)
"""Added to the temperature at each further try to write a tool call that can be read: greedily, the same would come.

A call that cannot be read after these is handed on as text."""

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
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; `tool_choice` "none" or a tool's name narrows the offer, a call is never forced."""
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=schemas, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        release_id, answer = self._ask(messages, stop, run_manager, kwargs)
        message = AIMessage(
            content=answer.message.content,
            tool_calls=[
                {"name": call.name, "args": call.args, "id": call.id or new_call_id(), "type": "tool_call"}
                for call in answer.message.tool_calls
            ],
            **self._about(release_id, answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the whole answer as one chunk: engines answer whole."""
        result = self._generate(messages, stop, run_manager, **kwargs)
        message = result.generations[0].message
        if not isinstance(message, AIMessage):  # _generate makes nothing else; this tells mypy
            raise TypeError(f"Expected an AIMessage, got {type(message).__name__}.")
        chunk = ChatGenerationChunk(message=_as_chunk(message))
        if run_manager is not None:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _ask(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        options: Mapping[str, Any],
    ) -> tuple[str, Generated]:
        release_id = self._release_id(run_manager)
        release = self.find_release(release_id) if self.find_release is not None else None
        if release is not None:
            self.engine.load(release)
        request = Generation(
            release_id=release_id,
            messages=_with_instructions(to_messages(messages), release.instructions if release else None),
            tools=tuple(_offered(options.get("tools") or (), options.get("tool_choice"))),
            sampling=_sampling(release.sampling if release else Sampling(), options),
            stop=tuple(stop or ()),
        )
        return release_id, self._answer(request)

    def _answer(self, request: Generation) -> Generated:
        """Return the engine's answer; a call that nobody could read is written again, a little less predictably."""
        answer = self.engine.generate(request)
        for warmer in WARMER:
            if not is_malformed(answer.message):
                break
            temperature = request.sampling.temperature + warmer
            sampling = request.sampling.model_copy(update={"temperature": temperature})
            again = self.engine.generate(request.model_copy(update={"sampling": sampling}))
            tokens = {name: getattr(answer, name) + getattr(again, name) for name in ("input_tokens", "output_tokens")}
            answer = again.model_copy(update=tokens)
        return answer

    def _release_id(self, run_manager: CallbackManagerForLLMRun | None) -> str:
        own = (run_manager.metadata or {}) if run_manager is not None else {}
        metadata = {**ensure_config().get("metadata", {}), **own}
        at = metadata.get(AT_KEY) or {}
        if chosen := at.get(metadata.get("langgraph_node"), metadata.get(RELEASE_KEY)):
            return str(chosen)
        thread_id = metadata.get("thread_id")
        return self.router.release_for(None if thread_id is None else str(thread_id))

    def _about(self, release_id: str, answer: Generated) -> dict[str, Any]:
        return {
            "additional_kwargs": {"reasoning_content": answer.reasoning} if answer.reasoning else {},
            "response_metadata": {
                "model_name": self.model_name,
                "model_provider": "learnloop",
                "finish_reason": answer.finish_reason,
                RELEASE_KEY: release_id,
            },
            "usage_metadata": {
                "input_tokens": answer.input_tokens,
                "output_tokens": answer.output_tokens,
                "total_tokens": answer.input_tokens + answer.output_tokens,
            },
        }


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
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return Message(
        role=role,
        content=message.text,
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


def _offered(tools: Sequence[dict[str, Any]], choice: str | None) -> Sequence[dict[str, Any]]:
    if choice == "none":
        return ()
    named = [tool for tool in tools if tool.get("function", {}).get("name") == choice]
    return named or tools


def _sampling(given: Sampling, options: Mapping[str, Any]) -> Sampling:
    """Return the release's sampling with what the call itself asks for."""
    asked = {name: options[name] for name in Sampling.model_fields if options.get(name) is not None}
    return Sampling.model_validate({**given.model_dump(), **asked}) if asked else given


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    return AIMessageChunk(
        content=message.content,
        tool_call_chunks=[
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(message.tool_calls)
        ],
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
