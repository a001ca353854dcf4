"""Ask a release every question of a suite, through the user's own compiled graph, without a side effect.

Every case has a thread that the interpreter does not wait for, so that a case that hangs costs its deadline and
nothing else. An answer is the assistant's next message: what it says, or the tools it asks for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, cast
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.evaluation.shadow import Graph, Watch, only_async, shadow_of
from langgraph_learnloop.ports import Evaluator, OnProgress, ResultCache
from langgraph_learnloop.records import Case, CaseResult, Message, Progress, ToolCall

Answers = queue.SimpleQueue[tuple[int, CaseResult]]
"""Where the threads of the cases leave their results, with the number of the case."""

_ASKED = "learnloop-asked-"
"""Ids of the messages of the case begin with this; the others are new."""


class GraphReplay:
    """Run cases through a compiled graph, or through a bare chat model."""

    def __init__(
        self,
        graph: Graph | Runnable[Any, Any],
        evaluator: Evaluator,
        *,
        threads: int = 16,
        timeout_seconds: float = 60,
        stop_before: Sequence[str] | None = None,
    ) -> None:
        """Prepare a copy of the graph; raise ConfigError when nothing would keep its tools from running.

        The nodes that hold a `ToolNode` are found; `stop_before` names further nodes that act on the world.
        """
        if threads < 1 or timeout_seconds <= 0:
            raise ConfigError(f"A replay needs threads and time, not {threads} threads and {timeout_seconds} seconds.")
        self._asker = _GraphAsker(graph, stop_before) if isinstance(graph, CompiledStateGraph) else _ModelAsker(graph)
        self.evaluator = evaluator
        """Judges the answers."""
        self._threads = threads
        self._timeout = timeout_seconds

    def run(
        self,
        release_id: str,
        cases: Sequence[Case],
        cache: ResultCache | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[CaseResult, ...]:
        """Return one result for each case, in order; a case that is given twice is asked once.

        What went wrong (an exception, a deadline, an evaluator that cannot tell) is a result that is not judged, with
        the reason; it is never dropped and never cached, so that the next run tries again.
        """
        known = cache.results(release_id, self.evaluator.name) if cache is not None else {}
        unique = {case.case_id: case for case in cases}
        done = {case_id: known[case_id] for case_id in unique if case_id in known}
        report = on_progress or _silent
        report(_progress(done, unique, f"{len(done)} of {len(unique)} results are known from before."))
        for result in self._examine(release_id, [case for case in unique.values() if case.case_id not in done]):
            done[result.case_id] = result
            if cache is not None and result.error is None:
                cache.add_results([result])
            report(_progress(done, unique, result.error))
        return tuple(done[case_id] for case_id in unique)

    def _examine(self, release_id: str, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """Yield results as they come, so many cases at a time; a case is given up at its deadline."""
        answers: Answers = queue.SimpleQueue()
        deadlines: dict[int, float] = {}
        started = 0
        while started < len(cases) or deadlines:
            while started < len(cases) and len(deadlines) < self._threads:
                deadlines[started] = time.monotonic() + self._timeout
                self._start(started, release_id, cases[started], answers)
                started += 1
            number, result = _next(answers, deadlines)
            if deadlines.pop(number, None) is not None:  # an answer after its deadline comes too late
                yield result or self._late(release_id, cases[number])

    def _start(self, number: int, release_id: str, case: Case, answers: Answers) -> None:
        def work() -> None:
            answers.put((number, self._one(release_id, case)))

        threading.Thread(target=work, name=f"case-{case.case_id[:8]}", daemon=True).start()

    def _one(self, release_id: str, case: Case) -> CaseResult:
        began = time.monotonic()
        try:
            got = self._asker.ask(release_id, case.messages)
            return self._judged(release_id, case, got, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - the boundary of the user's code: whatever leaves it is a result
            return self._unjudged(release_id, case, _reason(error), time.monotonic() - began)

    def _judged(self, release_id: str, case: Case, got: Message, seconds: float) -> CaseResult:
        right_tool, fully_right = self.evaluator.judge(case, got)
        unclear = right_tool is None or fully_right is None
        return CaseResult(
            release_id=release_id,
            case_id=case.case_id,
            evaluator=self.evaluator.name,
            right_tool=right_tool,
            fully_right=fully_right,
            got=got,
            seconds=seconds,
            error=f"The evaluator {self.evaluator.name!r} could not judge this case." if unclear else None,
        )

    def _late(self, release_id: str, case: Case) -> CaseResult:
        return self._unjudged(release_id, case, f"No answer within {self._timeout:g} seconds.", self._timeout)

    def _unjudged(self, release_id: str, case: Case, error: str, seconds: float) -> CaseResult:
        return CaseResult(
            release_id=release_id,
            case_id=case.case_id,
            evaluator=self.evaluator.name,
            right_tool=None,
            fully_right=None,
            error=error,
            seconds=seconds,
        )


class _ModelAsker:
    """Ask a runnable that takes messages and returns one."""

    def __init__(self, model: Runnable[Any, Any]) -> None:
        self._model = model

    def ask(self, release_id: str, messages: Sequence[Message]) -> Message:
        return _message(self._model.invoke(_asked(messages), _config(release_id, Watch())))


class _GraphAsker:
    """Ask a graph, on a copy that cannot act."""

    def __init__(self, graph: Graph, stop_before: Sequence[str] | None) -> None:
        self._shadow, self._stops = shadow_of(graph, stop_before)
        self._async = only_async(graph)
        self._needs_system = False

    def ask(self, release_id: str, messages: Sequence[Message]) -> Message:
        """Return the answer; the case's own system message goes in only if the graph does not say one itself.

        Recorded conversations begin with what the graph put before the model, and it will put it there again.
        """
        bare = _without_leading_system(messages)
        if len(bare) == len(messages) or self._needs_system:
            return self._answer(release_id, messages, Watch())
        watch = Watch()
        answer = self._answer(release_id, bare, watch)
        if watch.system or not watch.models:
            return answer
        self._needs_system = True
        return self._answer(release_id, messages, Watch())

    def _answer(self, release_id: str, messages: Sequence[Message], watch: Watch) -> Message:
        asked = _asked(messages)
        config = _config(release_id, watch)
        state = asyncio.run(self._arun(asked, config)) if self._async else self._run(asked, config)
        if watch.stopped is not None:
            raise ConfigError(watch.sentence())
        new = [m for m in state.get("messages", ()) if _is_answer(m)]
        if not new:
            raise EngineError("The graph stopped before an assistant message was there.")
        return _message(new[-1])

    def _run(self, asked: list[BaseMessage], config: RunnableConfig) -> dict[str, Any]:
        state: Any = {}
        for state in self._shadow.stream(
            {"messages": asked}, config, stream_mode="values", interrupt_before=self._stops
        ):
            if self._enough(state):
                break
        return cast(dict[str, Any], state)

    async def _arun(self, asked: list[BaseMessage], config: RunnableConfig) -> dict[str, Any]:
        state: Any = {}
        async for state in self._shadow.astream(
            {"messages": asked}, config, stream_mode="values", interrupt_before=self._stops
        ):
            if self._enough(state):
                break
        return cast(dict[str, Any], state)

    def _enough(self, state: dict[str, Any]) -> bool:
        """Return whether to stop here: where no node is known to act, nothing runs after a call for a tool."""
        last = (state.get("messages") or [None])[-1]
        return not self._stops and _is_answer(last) and bool(last.tool_calls or last.invalid_tool_calls)


def _is_answer(message: Any) -> TypeGuard[AIMessage]:
    return isinstance(message, AIMessage) and not (message.id or "").startswith(_ASKED)


def _next(answers: Answers, deadlines: dict[int, float]) -> tuple[int, CaseResult | None]:
    """Return the next result, or the case whose deadline passed first."""
    number = min(deadlines, key=deadlines.__getitem__)
    try:
        return answers.get(timeout=max(0.0, deadlines[number] - time.monotonic()))
    except queue.Empty:
        return number, None


def _asked(messages: Sequence[Message]) -> list[BaseMessage]:
    """Return LangChain messages with ids, so that the answer can be told from the conversation."""
    asked = convert_to_messages([message.openai() for message in messages])
    for number, message in enumerate(asked):
        message.id = f"{_ASKED}{number}"
    return asked


def _without_leading_system(messages: Sequence[Message]) -> Sequence[Message]:
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[first:]


def _config(release_id: str, watch: Watch) -> RunnableConfig:
    return {
        "metadata": {"learnloop_release": release_id, "learnloop_evaluation": True},
        "configurable": {"thread_id": f"learnloop-evaluation-{uuid4()}"},
        "callbacks": [watch],
    }


def _message(answer: Any) -> Message:
    """Return a model's answer as a record; a call whose arguments are not JSON keeps them as a text."""
    if not isinstance(answer, AIMessage):
        raise EngineError(f"The model answered with {type(answer).__name__}, not with an assistant message.")
    calls = [ToolCall(name=call["name"], args=call["args"], id=call["id"]) for call in answer.tool_calls]
    broken = [
        ToolCall(name=call["name"] or "", args={"unreadable": call["args"] or ""}, id=call["id"])
        for call in answer.invalid_tool_calls
    ]
    return Message(role="assistant", content=str(answer.text), tool_calls=(*calls, *broken))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _progress(done: dict[str, CaseResult], cases: dict[str, Case], note: str | None) -> Progress:
    return Progress(stage="evaluate", done=len(done), total=len(cases), note=note)


def _silent(progress: Progress) -> None:
    """Take progress that nobody wants to see."""
