"""Read LangChain's messages, and show an engine's answer as its chat models do: whole, or chunk by chunk."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk

from langgraph_learnloop.messages import from_langchain
from langgraph_learnloop.records import Generated, Message
from langgraph_learnloop.serving.toolcalls import AnswerReader, Part, new_call_id

LEAST_LOGPROB = -9999.0
"""What stands for a probability of 0, whose logarithm JSON cannot write; OpenAI's number."""


def to_messages(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """Return LangChain messages as records; blocks that are not text are left out, and so are calls that were broken.

    Nobody answered such a call, and a conversation with a call that has no answer is refused by providers.
    """
    return tuple(from_langchain(message, broken=False) for message in messages)


def whole(answer: Generated, about: dict[str, Any]) -> AIMessage:
    """Return an answer as one message; `about` is what is known of it besides."""
    return AIMessage(
        content=answer.message.content,
        tool_calls=[
            {"name": call.name, "args": call.args, "id": call.id or new_call_id(), "type": "tool_call"}
            for call in answer.message.tool_calls
        ],
        additional_kwargs={"reasoning_content": answer.reasoning} if answer.reasoning else {},
        response_metadata={**about, **_ending(answer)},
        usage_metadata=_usage(answer),
    )


def chunk(part: Part) -> AIMessageChunk:
    """Return a piece of an answer that is still being written."""
    if part.is_reasoning:
        return AIMessageChunk(content="", additional_kwargs={"reasoning_content": part.text})
    return AIMessageChunk(content=part.text)


def last_chunk(answer: Generated, shown: AnswerReader) -> AIMessageChunk:
    """Return what a stream has not yet shown of an answer, its calls and its usage."""
    reasoning = _unsaid(answer.reasoning or "", shown.reasoning)
    return AIMessageChunk(
        content=_unsaid(answer.message.content, shown.content),
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
        response_metadata=_ending(answer),
        usage_metadata=_usage(answer),
        chunk_position="last",
    )


def _ending(answer: Generated) -> dict[str, Any]:
    """Return why an answer ended, and what was told of its tokens in OpenAI's form."""
    if not answer.logprobs:
        return {"finish_reason": answer.finish_reason}
    told = [
        {**_likely(one.token, one.logprob), "top_logprobs": [_likely(*other) for other in one.top]}
        for one in answer.logprobs
    ]
    return {"finish_reason": answer.finish_reason, "logprobs": {"content": told}}


def _likely(token: str, logprob: float) -> dict[str, Any]:
    # A token may be a part of a character, whose bytes its text does not tell.
    known = None if "�" in token else list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "bytes": known, "logprob": logprob if math.isfinite(logprob) else LEAST_LOGPROB}


def _usage(answer: Generated) -> UsageMetadata | None:
    """Return the tokens; None where the engine does not tell them, for no call reads nothing and writes nothing."""
    total = answer.input_tokens + answer.output_tokens
    if not total:
        return None
    return {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens, "total_tokens": total}


def _unsaid(whole: str, said: str) -> str:
    """Return the rest of a text; all of it, in a line of its own, when something else was said in an earlier try."""
    if whole.startswith(said):
        return whole[len(said) :]
    return f"\n{whole}" if whole and whole not in said else ""
