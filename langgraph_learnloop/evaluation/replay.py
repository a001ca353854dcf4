"""Ask a release every question of a suite, through the user's own compiled graph, without a side effect.

Every case has a thread that the interpreter does not wait for, so that a case that hangs costs its deadline and
nothing else. What is judged is the assistant's next message: what it says, or the tools it asks for. An evaluator that
judges whole runs gets all that came after it too, with the tools answered from the recording.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from functools import partial
from itertools import dropwhile
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from langgraph_learnloop.cases import ask_once, why
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.evaluation.recording import Mask
from langgraph_learnloop.evaluation.replaying import REPLAYING, Price, Replaying, ToolStopped
from langgraph_learnloop.evaluation.shadow import Graph, only_async, shadow_of
from langgraph_learnloop.evaluation.starts import Start, Starts
from langgraph_learnloop.messages import from_langchain
from langgraph_learnloop.ports import Evaluator, OnProgress, ResultCache, RunReader
from langgraph_learnloop.records import Case, CaseResult, Message

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
        pure: Collection[str] = (),
        context: Any = None,
        runs: RunReader | None = None,
        mask: Mask | None = None,
        price: Price | None = None,
        judge_diverged: bool = False,
    ) -> None:
        """Prepare a copy of the graph; raise ConfigError when nothing would keep its tools from running.

        The nodes that hold a `ToolNode` are found; `stop_before` names further nodes that act on the world, `pure`
        the tools that act on nothing and may run. `context` is what the graph's nodes get as runtime context. `runs`
        has the recorded runs that cases were made from: with it, a case starts from its run's checkpoint, where the
        graph has a saver, and tools answer as they did then; `mask` is how their arguments were redacted. A replay
        that leaves the recording is judged by what it did until then with `judge_diverged`, else not at all.
        """
        if threads < 1 or timeout_seconds <= 0:
            raise ConfigError(
                f"A replay needs at least one thread, and time, not {threads} threads and {timeout_seconds} seconds."
            )
        self._asker: _GraphAsker | _ModelAsker = (
            _GraphAsker(graph, stop_before, context, Starts(graph, runs, mask), whole=evaluator.whole)
            if isinstance(graph, CompiledStateGraph)
            else _ModelAsker(graph)
        )
        self._pure = frozenset(pure)
        self._price = price
        self._judge_diverged = judge_diverged
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
        enough: Callable[[CaseResult], object] | None = None,
        at: Mapping[str, str] | None = None,
    ) -> tuple[CaseResult, ...]:
        """Return one result for each case, in order; a case that is given twice is asked once.

        `enough` is shown every result and may say (with anything true) that the others need not be asked: these have
        no result then. `at` names other releases for single nodes of the graph; such results belong in no cache.

        What went wrong (an exception, a deadline, an evaluator that cannot tell) is a result that is not judged, with
        the reason; it is never dropped and never cached, so that the next run tries again.
        """
        known = cache.results(release_id, self.evaluator.name) if cache is not None else {}
        ask = partial(self._examine, _Who(release_id, at or {}))
        return ask_once(cases, known, ask, cache, on_progress, enough)

    def _examine(self, who: _Who, cases: Sequence[Case]) -> Generator[Sequence[CaseResult], None, None]:
        """Yield results as they come, so many cases at a time; a case is given up at its deadline."""
        answers: Answers = queue.SimpleQueue()
        deadlines: dict[int, float] = {}
        started = 0
        while started < len(cases) or deadlines:
            while started < len(cases) and len(deadlines) < self._threads:
                deadlines[started] = time.monotonic() + self._timeout
                self._start(started, who, cases[started], answers)
                started += 1
            number, result = _next(answers, deadlines)
            if deadlines.pop(number, None) is not None:  # an answer after its deadline comes too late
                late = f"No answer within {self._timeout:g} seconds."
                yield [result or self._result(who, cases[number], late, self._timeout)]

    def _start(self, number: int, who: _Who, case: Case, answers: Answers) -> None:
        def work() -> None:
            answers.put((number, self._one(who, case)))

        threading.Thread(target=work, name=f"case-{case.case_id[:8]}", daemon=True).start()

    def _one(self, who: _Who, case: Case) -> CaseResult:
        began = time.monotonic()
        try:
            attempt = self._asker.ask(who, case, self._replaying)
            seconds = time.monotonic() - began
            REPLAYING.set(None)  # an evaluator may ask models of its own
            return self._judged(who, case, attempt, seconds)
        except BaseException as error:  # noqa: BLE001 - the boundary of the user's code: whatever leaves it is a result
            return self._result(who, case, why(error), time.monotonic() - began)

    def _replaying(self, start: Start | None) -> Replaying:
        """Return who watches one try of a case, and put it where the tools look for it."""
        recording = start.recording if start is not None else None
        replaying = Replaying(recording, whole=self.evaluator.whole, pure=self._pure, price=self._price)
        REPLAYING.set(replaying)
        return replaying

    def _judged(self, who: _Who, case: Case, attempt: _Attempt, seconds: float) -> CaseResult:
        watch = attempt.watch
        if watch.diverged is None or self._judge_diverged:
            judged = self.evaluator.judge(case, attempt.got)
            scores, comment = dict(judged.scores), judged.comment
            unclear = any(scores[name] is None for name in (self.evaluator.target, self.evaluator.guard))
            error = f"The evaluator {self.evaluator.name!r} could not judge this case." if unclear else None
        else:
            scores, comment, error = {}, None, f"The replay diverged: {watch.diverged}"
        return self._result(
            who,
            case,
            error,
            seconds,
            scores=scores,
            comment=comment,
            got=attempt.got,
            started=attempt.started,
            diverged=watch.diverged,
            model_seconds=watch.seconds,
            tokens=watch.tokens,
            usd=watch.usd,
        )

    def _result(self, who: _Who, case: Case, error: str | None, seconds: float, **found: Any) -> CaseResult:
        name = self.evaluator.name
        return CaseResult(
            release_id=who.release_id, case_id=case.case_id, evaluator=name, error=error, seconds=seconds, **found
        )


class _Who(NamedTuple):
    """Who answers."""

    release_id: str
    """The release."""
    at: Mapping[str, str]
    """The releases of single nodes."""


class _Attempt(NamedTuple):
    """What came of asking one case."""

    got: tuple[Message, ...]
    """The next message; with a whole run, all that came after it too."""
    watch: Replaying
    """What was seen on the way."""
    started: Literal["messages", "checkpoint"]
    """Where it began."""


Watching = Callable[[Start | None], Replaying]
"""Makes whoever watches one try of a case."""


class _ModelAsker:
    """Ask a runnable that takes messages and returns one."""

    def __init__(self, model: Runnable[Any, Any]) -> None:
        self._model = model

    def ask(self, who: _Who, case: Case, watching: Watching) -> _Attempt:
        watch = watching(None)
        answer = self._model.invoke(_asked(case.messages), _config(who, watch, f"learnloop-evaluation-{uuid4()}"))
        if not isinstance(answer, AIMessage):
            raise EngineError(f"The model answered with {type(answer).__name__}; it must answer with an AIMessage.")
        return _Attempt((from_langchain(answer),), watch, "messages")


class _GraphAsker:
    """Ask a graph, on a copy that cannot act."""

    def __init__(
        self, graph: Graph, stop_before: Sequence[str] | None, context: Any, starts: Starts, *, whole: bool
    ) -> None:
        self._shadow, self._stops, self._knows_tools = shadow_of(graph, stop_before)
        self._async = only_async(graph)
        self._context = context
        self._starts = starts
        self._whole = whole
        self._needs_system = False

    def ask(self, who: _Who, case: Case, watching: Watching) -> _Attempt:
        """Return the answer; the case's own system message goes in only if the graph does not say one itself.

        Recorded conversations begin with what the graph put before the model, and it will put it there again.
        """
        bare = tuple(dropwhile(lambda message: message.role == "system", case.messages))
        if len(bare) == len(case.messages) or self._needs_system:
            return self._try(who, case, case.messages, watching)
        attempt = self._try(who, case, bare, watching)
        if attempt.watch.system or not attempt.watch.asked or attempt.started == "checkpoint":
            return attempt
        self._needs_system = True
        return self._try(who, case, case.messages, watching)

    def _try(self, who: _Who, case: Case, messages: Sequence[Message], watching: Watching) -> _Attempt:
        start = self._starts.of(case, whole=self._whole)
        watch = watching(start)
        resumed = start.known is not None
        given = None if resumed else {"messages": _asked(messages)}
        shadow = self._shadow.copy({"checkpointer": start.saver})
        # Named, the checkpoint is gone back to; else an inner graph with a memory would think that it is resumed.
        config = _config(who, watch, start.thread, start.checkpoint_id)
        trail = _Trail(watch, start.known, eager=not (self._whole or self._knows_tools or self._stops))
        try:
            if self._async:
                asyncio.run(self._arun(shadow, given, config, trail))
            else:
                self._run(shadow, given, config, trail)
        except ToolStopped:
            pass  # the watch knows why
        return _Attempt(trail.got(), watch, "checkpoint" if resumed else "messages")

    def _run(self, shadow: Graph, given: Any, config: RunnableConfig, trail: _Trail) -> None:
        for state in shadow.stream(given, config, context=self._context, interrupt_before=self._stops, **_HOW):
            if trail.add(state):
                break

    async def _arun(self, shadow: Graph, given: Any, config: RunnableConfig, trail: _Trail) -> None:
        async for state in shadow.astream(given, config, context=self._context, interrupt_before=self._stops, **_HOW):
            if trail.add(state):
                break


_HOW: Any = {"stream_mode": "values", "durability": "exit"}
"""Show the state after each step, and keep no checkpoint on the way."""


class _Trail:
    """Follow the state of a replay, and tell what is new in it."""

    def __init__(self, watch: Replaying, known: frozenset[str] | None, *, eager: bool) -> None:
        """Know the ids of the messages that were there before; None for those of the case."""
        self._watch = watch
        self._known = known
        self._eager = eager
        self._state: list[Any] = []

    def add(self, state: dict[str, Any]) -> bool:
        """Take the state after a step; return whether to stop here.

        Where no node is known to act, nothing runs after a call for a tool.
        """
        self._state = state.get("messages") or self._state
        last = self._state[-1] if self._state else None
        calls = self._is_new(last) and isinstance(last, AIMessage) and (last.tool_calls or last.invalid_tool_calls)
        return self._eager and bool(calls)

    def got(self) -> tuple[Message, ...]:
        """Return what is to be judged; raise EngineError when the graph stopped before there was an answer."""
        new = [m for m in self._state if self._is_new(m) and isinstance(m, AIMessage | ToolMessage)]
        new += self._cut_off(new)
        answers = [m for m in new if isinstance(m, AIMessage)]
        if self._watch.ended is not None:
            answers = [m for m in answers if any(call["id"] == self._watch.ended for call in m.tool_calls)][:1]
        if not answers:
            because = (
                self._watch.diverged
                or "The graph stopped before an assistant message was there: let it add one to 'messages'."
            )
            raise EngineError(because)
        return tuple(from_langchain(m) for m in (new if self._watch.whole else answers[-1:]))

    def _cut_off(self, new: Sequence[BaseMessage]) -> list[AIMessage]:
        """Return the message at which an inner graph was stopped: it had not yet given it to the graph around it."""
        stopped = self._watch.ended is not None or self._watch.diverged is not None
        seen = {call["id"] for m in new if isinstance(m, AIMessage) for call in m.tool_calls}
        last = self._watch.said[-1] if self._watch.said else None
        return [last] if stopped and last and last.tool_calls and last.tool_calls[0]["id"] not in seen else []

    def _is_new(self, message: Any) -> bool:
        if not isinstance(message, BaseMessage):
            return False
        if self._known is None:
            return not (message.id or "").startswith(_ASKED)
        return message.id not in self._known


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


def _config(who: _Who, watch: Replaying, thread: str, checkpoint_id: str | None = None) -> RunnableConfig:
    return {
        "metadata": {
            "learnloop_release": who.release_id,
            **({"learnloop_release_at": dict(who.at)} if who.at else {}),
            "learnloop_evaluation": True,
        },
        "configurable": {"thread_id": thread, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {})},
        "callbacks": [watch],
    }
