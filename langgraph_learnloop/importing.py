"""Take in what another tracer saw and what people said there, by the door that every run comes in by.

Texts are masked and cut, users hashed and excluded parts left out as the recorder does it. What is in the store
already is left alone, so that the same history may be imported again and again; what cannot be used is counted, with
the reason, and leaves nothing behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import ValidationError

from langgraph_learnloop.capture.interning import Interner
from langgraph_learnloop.capture.messages import clean, plain, reasoning_of, text_of
from langgraph_learnloop.capture.policy import Policy
from langgraph_learnloop.errors import DataError, LearnLoopError
from langgraph_learnloop.hearing import Hearing
from langgraph_learnloop.mirrors import ForeignRun, ForeignStep, History, Remark, Untold, run_of, span_of
from langgraph_learnloop.records import Message, Recorded, Run, Step, ToolCall
from langgraph_learnloop.store.opened import Store

_BATCH = 50
"""Runs in one transaction."""
_ERROR_LENGTH = 4000
"""Characters of an exception's message that are kept."""
_LONGEST_NAME = 1000
"""Characters of an id, a name or a tag."""
_REASONS = 50
"""Different reasons that are told apart."""
_REST = "Other reasons."
Progress = Callable[["Imported | Heard"], object]


class Imported(NamedTuple):
    """What became of the runs of a history."""

    new: int = 0
    """Runs that were stored."""
    known: int = 0
    """Runs that were in the store already."""
    skipped: Mapping[str, int] = {}
    """What could not be used, by reason."""


class Heard(NamedTuple):
    """What became of the remarks of a history."""

    new: int = 0
    """Remarks that were stored as feedback."""
    known: int = 0
    """Remarks that were stored before."""
    without_run: int = 0
    """Remarks on runs that are not in the store."""
    refused: Mapping[str, int] = {}
    """What could not be used, by reason."""


class Importing:
    """Take histories into one store, for one agent."""

    def __init__(self, store: Store, policy: Policy, agent: str, hearing: Hearing) -> None:
        """Keep of what is taken in what the policy allows; `hearing` takes what was said."""
        self._store = store
        self._policy = policy
        self._agent = agent
        self._hearing = hearing

    def runs(self, history: History, since: datetime, until: datetime, on_progress: Progress) -> Imported:
        """Store the runs of a time, and flag what failed; what was read is stored even if the history breaks off."""
        interner = Interner(self._policy.redaction, self._policy.longest_text, self._policy.largest_blob)
        batch: list[tuple[Recorded, Callable[[], None]]] = []
        new, known, skipped = 0, 0, Counter[str]()
        try:
            for one in self._unknown(history.runs(since, until)):
                if isinstance(one, ForeignRun):
                    try:
                        batch.append(self._recorded(one, interner))
                        new += 1
                    except _UNUSABLE as error:
                        interner.take()
                        _count(skipped, _sentence(error))
                elif one is None:
                    known += 1
                else:
                    _count(skipped, one.why)
                if len(batch) >= _BATCH:
                    self._store_batch(batch)
                    on_progress(Imported(new, known, skipped))
        finally:
            self._store_batch(batch)
        return Imported(new, known, dict(skipped))

    def remarks(self, history: History, since: datetime, on_progress: Progress) -> Heard:
        """Store what people said since a time as feedback on the runs that are in the store."""
        counts: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        for number, one in enumerate(history.remarks(since), 1):
            if isinstance(one, Untold):
                _count(refused, one.why)
                continue
            try:
                counts[self._hear(one)] += 1
            except _UNUSABLE as error:
                _count(refused, _sentence(error))
            if number % _BATCH == 0:
                on_progress(Heard(counts["new"], counts["known"], counts["lost"], refused))
        return Heard(counts["new"], counts["known"], counts["lost"], dict(refused))

    def _unknown(self, found: Iterable[ForeignRun | Untold]) -> Iterator[ForeignRun | Untold | None]:
        """Yield what is not in the store yet, None for a run that is."""
        for several in _by_trace(found):
            ids = [one.run.run_id for one in several if isinstance(one, ForeignRun)]
            trace = _trace(several[0])
            there = self._store.runs.many(ids).keys()
            # A recorder that watched beside has ids of its own for the trace's runs, and has them all.
            beside = () if trace is None else self._store.runs.of_trace(trace)
            recorded = bool(beside) and beside[0].run_id not in ids
            for one in several:
                is_known = isinstance(one, ForeignRun) and (recorded or one.run.run_id in there)
                yield None if is_known else one

    def _recorded(self, foreign: ForeignRun, interner: Interner) -> tuple[Recorded, Callable[[], None]]:
        run = _as_recorded(foreign, foreign.run.agent or self._agent, self._policy, interner)
        interned, confirm = interner.take()
        return Recorded(run, interned), confirm

    def _store_batch(self, batch: list[tuple[Recorded, Callable[[], None]]]) -> None:
        if batch:
            self._store.runs.add_runs([recorded for recorded, _ in batch])
            for _, confirm in batch:
                confirm()
            self._hearing.notice([recorded.run for recorded, _ in batch], in_order=False)
            batch.clear()

    def _hear(self, remark: Remark) -> str:
        """Store a remark and return what became of it."""
        about = self._about(remark)
        if about is None:
            return "lost"
        run, step_id = about
        said = self._hearing.make(
            run,
            score=remark.score,
            text=remark.text,
            categories=remark.categories,
            correction=remark.correction,
            by=remark.by,
            step_id=step_id,
            feedback_id=remark.remark_id,
            now=remark.at,
        )
        said = said.model_copy(update={"name": _name(remark.name), "origin": remark.origin})
        if not self._store.feedback.many([said.feedback_id]):
            return "new" if self._hearing.keep(run, said) else "known"
        if not self._store.flags.of([run.run_id]):  # it may have been stored a moment before the process was killed
            self._hearing.flag(run, self._store.runs.feedback(run.run_id))
        return "known"

    def _about(self, remark: Remark) -> tuple[Run, str | None] | None:
        """Return the run that a remark is about, the last of its trace if several are, and the model step."""
        found = self._store.runs.many([run_of(remark.trace)])
        found |= {run.run_id: run for run in self._store.runs.of_trace(remark.trace)}
        runs = sorted(found.values(), key=lambda run: run.started_at, reverse=True)
        if remark.observation is not None:
            for run in runs:
                steps = {span_of(step.step_id): step for step in run.steps}
                if remark.observation in steps:
                    return run, _model_of(steps[remark.observation], run)
                if remark.observation == span_of(run.run_id):
                    return run, None
        return (runs[0], None) if runs else None


_UNUSABLE = (DataError, ValidationError, RecursionError, TypeError, ValueError)
"""What is raised of a foreign run or remark that is in no usable form."""


def _by_trace(found: Iterable[ForeignRun | Untold]) -> Iterator[list[ForeignRun | Untold]]:
    """Yield what comes one after the other of the same trace; where it breaks off, what came before too."""
    broken: list[LearnLoopError] = []

    def until_it_breaks() -> Iterator[ForeignRun | Untold]:
        try:
            yield from found
        except LearnLoopError as error:
            broken.append(error)

    for _, together in groupby(until_it_breaks(), _trace):
        yield list(together)
    if broken:
        raise broken[0]


def _trace(one: ForeignRun | Untold) -> str | None:
    return one.run.trace if isinstance(one, ForeignRun) else None


def _count(reasons: Counter[str], why: str) -> None:
    reasons[why if why in reasons or len(reasons) < _REASONS else _REST] += 1


def _sentence(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    return f"It is in no form that can be stored ({type(error).__name__})."


def _model_of(step: Step, run: Run) -> str | None:
    """Return the model step that an observation speaks of: itself, who asked for the tool, or the last of a node."""
    if step.kind == "model":
        return step.step_id
    if step.kind == "tool":
        return step.asked_by
    inside = (one.step_id for one in reversed(run.steps) if one.kind == "model" and one.parent_id == step.step_id)
    return next(inside, None)


def _as_recorded(foreign: ForeignRun, agent: str, policy: Policy, interner: Interner) -> Run:
    """Return a foreign run as it may be stored; its messages are left in the interner."""
    run, known = foreign.run, dict[int, BaseMessage]()
    conversation = [_langchain(message, known) for message in foreign.conversation]
    steps = [_step(one, policy, interner, known) for one in foreign.steps if policy.shows(one.step.node)]
    costs = [step.usd for step in steps if step.usd is not None]
    return Run(
        run_id=_name(run.run_id),
        thread_id=_name(run.thread_id),
        agent=_name(agent),
        release=_name(run.release),
        user=policy.user(_name(run.user)),
        messages=interner.conversation(conversation) if policy.keeps("messages") else None,
        question=policy.kept("question", _spoken(run.question) or None),
        answer=policy.kept("answer", _spoken(run.answer)),
        steps=tuple(steps),
        outcome=run.outcome,
        error=_error(run.error, policy),
        started_at=run.started_at,
        seconds=run.seconds,
        usd=sum(costs) if costs else run.usd,
        tags=tuple(policy.fit(_name(tag)) for tag in run.tags),
        metadata=policy.kept("metadata", plain(run.metadata)) or {},
        flagged=tuple(policy.fit(clean(reason)) for reason in run.flagged),
        resumes=_name(run.resumes),
        trace=_name(run.trace),
    )


def _step(one: ForeignStep, policy: Policy, interner: Interner, known: dict[int, BaseMessage]) -> Step:
    step = one.step
    said = [_langchain(message, known) for message in one.said]
    thoughts = step.reasoning or "\n".join(filter(None, map(reasoning_of, said))) or None
    kept = policy.keeps("messages")
    usd = policy.usd(step.name, step.input_tokens, step.output_tokens) if step.usd is None else step.usd
    changes: dict[str, Any] = {
        "name": _name(step.name),
        "node": _name(step.node),
        "namespace": _name(step.namespace),
        "input": interner.conversation([_langchain(message, known) for message in one.asked]) if kept else None,
        "output": interner.all(said) if kept else (),
        "tools": interner.value(plain(list(one.tools))) if one.tools else None,
        "reasoning": policy.kept("reasoning", None if thoughts is None else clean(thoughts)),
        "tool_calls": tuple(_call(call, policy) for call in step.tool_calls) if policy.keeps("tool_calls") else (),
        "parameters": plain(step.parameters),
        "usd": usd if step.kind == "model" else None,
        "error": _error(step.error, policy),
    }
    return step.model_copy(update=changes)


def _langchain(message: Message, known: dict[int, BaseMessage]) -> BaseMessage:
    """Return a message as the interner takes it; a conversation that is read again and again is made once."""
    if id(message) not in known:
        known[id(message)] = _made(message)
    return known[id(message)]


def _made(message: Message) -> BaseMessage:
    content, name = clean(message.content), _name(message.name)
    if message.role == "assistant":
        calls = [{"name": clean(call.name), "args": plain(call.args), "id": call.id} for call in message.tool_calls]
        return AIMessage(content, tool_calls=calls, name=name)
    if message.role == "tool":
        return ToolMessage(content, tool_call_id=_name(message.tool_call_id) or "", name=name)
    kind = SystemMessage if message.role == "system" else HumanMessage
    return kind(content, name=name)


def _call(call: ToolCall, policy: Policy) -> ToolCall:
    return ToolCall(name=_name(call.name), args=policy.fit(plain(call.args)), id=_name(call.id))


def _spoken(text: str | None) -> str | None:
    """Return a message's text without reasoning that the model wrote into it."""
    return None if text is None else text_of(HumanMessage(text))


def _error(error: str | None, policy: Policy) -> str | None:
    kept: str | None = policy.kept("error", None if error is None else clean(error)[:_ERROR_LENGTH])
    return kept


def _name(text: Any) -> Any:
    """Return an id or a name as every database takes it; None for None."""
    return None if text is None else clean(str(text)).replace("\x00", "")[:_LONGEST_NAME]
