"""What the tests of the evaluation share: cases, results, and a model whose answers are scripted by release."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, tool
from pydantic import PrivateAttr

from langgraph_learnloop.records import Case, CaseResult, Message, ToolCall, content_hash

Answer = Callable[[str | None, list[BaseMessage]], AIMessage]


class ReleaseModel(BaseChatModel):
    """Answer as the script says for the release that the run's metadata names."""

    answer: Any
    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "release-model"

    @property
    def asked(self) -> list[list[BaseMessage]]:
        """Return every conversation the model was given."""
        return self._asked

    def bind_tools(self, tools: Any, **settings: Any) -> Runnable[Any, Any]:
        return self.bind(tools=[item.name for item in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **settings: Any,
    ) -> ChatResult:
        with self._lock:
            self._asked.append(messages)
        release = (run_manager.metadata or {}).get("learnloop_release") if run_manager else None
        return ChatResult(generations=[ChatGeneration(message=self.answer(release, messages))])


def calls(name: str, **args: Any) -> AIMessage:
    """Return an assistant message that asks for one tool."""
    return AIMessage(content="", tool_calls=[{"name": name, "args": args, "id": "call_1"}])


def case(question: str, expected: Message | None = None, suite: Any = "target", category: str = "timer") -> Case:
    """Return a case that expects a timer of five minutes unless told otherwise."""
    right = expected or Message(role="assistant", tool_calls=(ToolCall(name="set_timer", args={"minutes": 5}),))
    return Case(
        case_id=content_hash([question, right.model_dump()]),
        suite=suite,
        category=category,
        messages=(Message(role="user", content=question),),
        expected=right,
    )


def result(release: str, of: Case, right_tool: bool | None, fully_right: bool | None = None) -> CaseResult:
    """Return a result; fully right follows the right tool unless told otherwise."""
    fully = right_tool if fully_right is None else fully_right
    return CaseResult(
        release_id=release,
        case_id=of.case_id,
        evaluator="tool-call-match/1",
        scores={"right_tool": right_tool, "fully_right": fully},
        error="no answer" if right_tool is None else None,
    )


class Timers:
    """A real tool with a real effect, so that a test can prove it had none."""

    def __init__(self) -> None:
        self.set: list[int] = []

    @property
    def tool(self) -> BaseTool:
        @tool
        def set_timer(minutes: int) -> str:
            """Set a timer."""
            self.set.append(minutes)
            return "set"

        return set_timer
