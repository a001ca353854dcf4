"""Put an answer together from what a vLLM server sends, in one piece or in many. A part of `vllm_engine`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_learnloop.records import Generated, Message, TokenLogprob, ToolCall

Parse = Callable[[str], tuple[str, str | None, tuple[ToolCall, ...]]]
"""Take a model's text apart: what it says, its chain of thought, and the tools it asks for."""

_MARK = re.compile(r"<(?=[/\w]|\Z)")
"""Where a call or a chain of thought may begin."""
_ENDINGS: dict[str, Literal["stop", "length"]] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
}


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
class Said:
    """An answer as it comes in, in one piece or in many."""

    sender: str | None
    """The model that must have said it; None where any may."""
    parse: Parse | None
    likeliest: int | None = None
    """How many of the likeliest tokens to keep beside each one that was written; None: no probabilities at all."""
    content: str = ""
    reasoning: str = ""
    calls: dict[int, _Call] = field(default_factory=dict)
    ending: str | None = None
    usage: Any = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def add(self, answer: Any) -> None:
        """Take in a whole answer, or one more piece of it; raise ValueError when it is not from whom it should be."""
        if self.sender is not None and answer.model != self.sender:
            raise ValueError(f"{answer.model!r} answered in place of {self.sender!r}")
        self.usage = getattr(answer, "usage", None) or self.usage
        for choice in listed_in(answer, "choices"):
            self._add_message(choice.delta if hasattr(choice, "delta") else choice.message)
            self.ending = choice.finish_reason or self.ending
            if self.likeliest is not None and choice.logprobs is not None:
                self.logprobs += [_logprob(token, self.likeliest) for token in choice.logprobs.content or ()]

    def _add_message(self, message: Any) -> None:
        self.content += message.content or ""
        self.reasoning += getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""
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
            logprobs=tuple(self.logprobs),
        )


def _logprob(said: Any, likeliest: int) -> TokenLogprob:
    """Return a token's probability; servers put the token that was written before likelier ones."""
    top = sorted(((one.token, one.logprob) for one in said.top_logprobs or ()), key=lambda one: -one[1])
    return TokenLogprob(token=said.token, logprob=said.logprob, top=tuple(top[:likeliest]))


def listed_in(answer: Any, name: str) -> list[Any]:
    """Return a list of an answer; what is no JSON the library hands out as text, and it has none."""
    entries = getattr(answer, name, None)
    if not isinstance(entries, list):
        raise ValueError(f"it holds no {name}")
    return entries
