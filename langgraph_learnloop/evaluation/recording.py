"""Answer tools from what was recorded, so that a replay can go on past them without touching the world.

Three doors lead to a tool, and a replay stands in each of them: a graph's `ToolNode` is exchanged in the shadow copy;
tools that nodes run by hand can be made `recordable`; and whatever LangChain tool starts elsewhere is stopped before
it does anything. What replays is known by a context variable, which LangGraph carries into its threads and tasks.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from pydantic import SkipValidation

from langgraph_learnloop.evaluation.evaluators import canonical
from langgraph_learnloop.evaluation.replaying import PURE, REPLAYING
from langgraph_learnloop.records import Message, Run, Step, ToolCall

Mask = Callable[[Any], Any]
"""How arguments and texts are redacted before they are stored."""


class Recorded(NamedTuple):
    """One tool call of the past, with what came back."""

    call: ToolCall
    """What was asked for."""
    answer: ToolMessage | None
    """What the tool answered; None where that cannot be given again."""
    why_not: str | None = None
    """Why it cannot, as the rest of a sentence that begins with the tool's name."""


class Recording:
    """Give each recorded answer once, in the order in which they were recorded."""

    def __init__(self, recorded: Iterable[Recorded] = (), mask: Mask | None = None) -> None:
        """Take the tool calls of a run in order; `mask` is how stored arguments were redacted."""
        self._left: dict[str, list[Recorded]] = defaultdict(list)
        self._mask = mask
        self._lock = threading.Lock()
        for one in recorded:
            self._left[_key(one.call.name, one.call.args)].append(one)

    def take(self, name: str, args: Mapping[str, Any], call_id: str | None) -> Recorded | None:
        """Return what was recorded for such a call: the one of that id, else the next; None when there is none left.

        Arguments are compared in their canonical form, and as they would have been stored.
        """
        keys = [_key(name, args)]
        if self._mask is not None:
            keys.append(_key(name, self._mask(dict(args))))
        with self._lock:
            left = next((self._left[key] for key in keys if self._left.get(key)), None)
            if left is None:
                return None
            same = next((one for one in left if call_id is not None and one.call.id == call_id), left[0])
            left.remove(same)
            return same


class RecordableTool(BaseTool):
    """Do what another tool does, and in a replay answer what it answered."""

    inner: SkipValidation[BaseTool]
    """The tool itself."""

    @classmethod
    def of(cls, tool: BaseTool, *, pure: bool = False) -> Self:
        """Wrap a tool; a pure one runs in replays too."""
        return cls(
            name=tool.name,
            description=tool.description,
            args_schema=tool.args_schema if tool.args_schema is not None else tool.get_input_schema(),
            return_direct=tool.return_direct,
            response_format=tool.response_format,
            tags=tool.tags,
            metadata={**(tool.metadata or {}), **({PURE: True} if pure else {})},
            inner=tool,
        )

    def invoke(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> Any:
        """Answer from the recording in a replay, else run the tool."""
        answer = self._recorded(input)
        return self.inner.invoke(input, config, **more) if answer is None else answer

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **more: Any) -> Any:
        """Do the same in an event loop."""
        answer = self._recorded(input)
        return await self.inner.ainvoke(input, config, **more) if answer is None else answer

    def run(self, tool_input: str | dict[str, Any], *args: Any, **more: Any) -> Any:
        """Do what `invoke` does with bare arguments."""
        answer = self._recorded(tool_input)
        return self.inner.run(tool_input, *args, **more) if answer is None else answer

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **more: Any) -> Any:
        """Do the same in an event loop."""
        answer = self._recorded(tool_input)
        return await self.inner.arun(tool_input, *args, **more) if answer is None else answer

    def _run(self, *args: Any, **more: Any) -> Any:
        """Go through the same door, where somebody calls what LangChain calls."""
        more.pop("run_manager", None)
        return self.run(more or args[0])

    def _recorded(self, given: Any) -> Any:
        """Return what is to be returned: a message for a tool call, else the content; None to run the tool."""
        if (replaying := REPLAYING.get()) is None:
            return None
        is_call = isinstance(given, dict) and given.get("type") == "tool_call"
        args = given["args"] if is_call else given if isinstance(given, dict) else {"input": given}
        known = self.inner.args if is_call else args  # without what a ToolNode injects
        call = {"name": self.name, "args": {k: v for k, v in args.items() if k in known}}
        answer = replaying.recorded({**call, "id": given.get("id") if is_call else None}, self)
        return answer if is_call or answer is None else answer.content


def recordable(tools: Sequence[BaseTool | Callable[..., Any]], *, pure: Collection[str] = ()) -> list[BaseTool]:
    """Return tools that answer from the recording in a replay, and work as ever elsewhere.

    Tools whose names are in `pure` act on nothing outside of the graph: they run in replays as well. Functions are
    made tools as LangChain does.
    """
    made = [one if isinstance(one, BaseTool) else as_tool(one) for one in tools]
    return [RecordableTool.of(one, pure=one.name in pure) for one in made]


def recorded_in(
    run: Run, since: Step | None, stored: Callable[[Step], Message | None], live: Sequence[BaseMessage]
) -> list[Recorded]:
    """Return the tool calls of a run from a step on, with their answers, in order of start.

    `stored` reads the answer that a step gave, `live` what the thread's own state holds: the
    originals, unmasked, where they are still there.
    """
    answers = _unique((m.tool_call_id, m) for m in live if isinstance(m, ToolMessage))
    asked = _unique((call.id, call.args) for step in run.steps if step.kind == "model" for call in step.tool_calls)
    asked |= _unique((call["id"], call["args"]) for m in live if isinstance(m, AIMessage) for call in m.tool_calls)
    steps = [step for step in run.steps if step.kind == "tool" and step.tool_calls]
    later = [step for step in steps if since is None or step.started_at >= since.started_at]
    found = []
    for step in later:
        call = step.tool_calls[0]
        call = call.model_copy(update={"args": asked.get(call.id, call.args)})
        found.append(_recorded(step, call, answers.get(call.id), stored))
    return found


def recorded_as(trajectory: Sequence[Message]) -> list[Recorded]:
    """Return the tool calls of a reference, with the tool messages that answer them."""
    answers = {m.tool_call_id: m for m in trajectory if m.role == "tool"}
    calls = [call for m in trajectory for call in m.tool_calls]
    return [Recorded(call, _as_tool_message(answers[call.id], call.name)) for call in calls if call.id in answers]


def _unique(pairs: Iterable[tuple[str | None, Any]]) -> dict[str | None, Any]:
    """Return values by id without those whose id is used twice: some models number each answer's calls anew."""
    found = list(pairs)
    counts = Counter(key for key, _ in found)
    return {key: value for key, value in found if counts[key] == 1}


def _recorded(
    step: Step, call: ToolCall, live: ToolMessage | None, stored: Callable[[Step], Message | None]
) -> Recorded:
    if step.steered:
        return Recorded(call, None, "changed the state of the graph, which its answer does not hold.")
    if live is not None:
        return Recorded(call, live)
    kept = stored(step)
    if kept is None:
        return Recorded(call, None, f"gave no answer when it was recorded: {step.error or 'it never ended'}.")
    return Recorded(call, _as_tool_message(kept, call.name))


def _as_tool_message(stored: Message, name: str) -> ToolMessage:
    return ToolMessage(stored.content, tool_call_id=stored.tool_call_id or "", name=stored.name or name)


def _key(name: str, args: Any) -> str:
    return f"{name}\n{json.dumps(canonical(args), sort_keys=True, default=str)}"
