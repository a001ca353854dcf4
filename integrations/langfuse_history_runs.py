"""Turn the traces of LangGraph agents into runs: those of Langfuse's own callback handler, and those of our mirror."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.integrations.langfuse_history_order import Observation, Traced, ordered
from langgraph_learnloop.integrations.langfuse_history_steps import model_step, texts_of, tool_step
from langgraph_learnloop.integrations.langfuse_messages import Reading, Seen, filled, is_message, parsed
from langgraph_learnloop.mirrors import ForeignRun, ForeignStep, run_of
from langgraph_learnloop.records import Message, Outcome, Run, Step

_NOT_OWN = frozenset(
    {
        *("thread_id", "user", "user_id", "langfuse_user_id", "checkpoint_ns", "lc_versions", "tags"),
        *("is_langchain_root", "resourceAttributes", "scope", "attributes"),
    }
)
"""Metadata that LangGraph or Langfuse put there."""
_OURS = frozenset({"run_id", "outcome", "resumes", "flagged"})
"""Metadata that our mirror put there."""
_INNER = ("langgraph_", "ls_", "lc_", "__")
_INNER_TAGS = ("seq:step:", "graph:step:", "map:key:")
_OUTCOMES: tuple[Outcome, ...] = ("finished", "failed", "interrupted")
_NO_PEOPLE = ("sdk-experiment", "langfuse-", "learnloop-")
"""Environments of experiments, of what Langfuse's own judges do, and of proposals that wait for review."""
_HEX = re.compile("[0-9a-f]{16}")


def foreign_runs(trace: str, seen: Iterable[Seen], agents: Collection[str] = ()) -> list[ForeignRun]:
    """Return the runs that a trace tells; raise DataError, with the reason, when it cannot be used.

    With `agents`, only traces count whose name, agent or graph is among them.
    """
    told = ordered(trace, seen)
    first = told[0].root
    names = {one.root.name for one in told} | {first.seen.get("traceName"), first.fact("lc_agent_name")}
    if agents and names.isdisjoint(agents):
        raise DataError("It is of another agent.")
    if str(first.seen.get("environment")).startswith(_NO_PEOPLE):
        raise DataError("It is of an experiment, a judge or a review, where nobody asked the agent anything.")
    reading = Reading()
    try:
        return [
            _run(one, one.ours or (run_of(trace) if one.root is first else _id(one, one.root)), reading) for one in told
        ]
    except ValidationError as error:
        what = error.errors()[0]
        raise DataError(f"Its {'.'.join(map(str, what['loc'])) or 'content'} cannot be used.") from error
    except RecursionError as error:
        raise DataError("It is nested too deeply.") from error


def _run(told: Traced, run_id: str, reading: Reading) -> ForeignRun:
    root, mine = told.root, told.ours is not None
    steps = _steps(told, run_id, reading)
    conversation = (_mirrored if mine else _left)(root, _last_call(steps), reading)
    costs = [one.step.usd for one in steps if one.step.usd is not None]
    question, answer = _question_and_answer(conversation)
    flagged = root.fact("flagged") if mine else None
    run = Run(
        run_id=run_id,
        thread_id=root.fact("thread_id") or filled(root.seen.get("sessionId")),
        agent=root.name if mine else "",
        release=filled(root.seen.get("release")) if mine else _release(told, reading),
        user=root.fact("user") or root.fact("user_id") or filled(root.seen.get("userId")),
        question=question,
        answer=answer,
        outcome=_outcome(told),
        error=(root.said or "Langfuse holds no reason.") if root.failed else None,
        started_at=root.began,
        seconds=root.seconds,
        usd=sum(costs) if costs else None,
        tags=_tags(told),
        metadata=_metadata(told),
        flagged=(flagged,) if flagged else (),
        resumes=root.fact("resumes") if mine else None if told.resumes is None else _id(told, told.resumes),
        trace=told.trace,
    )
    return ForeignRun(run, conversation, tuple(steps))


def _steps(told: Traced, run_id: str, reading: Reading) -> list[ForeignStep]:
    """Return the steps that are shown, in order of start; what they are built of is folded away."""
    home: dict[str, str] = {told.root.id: run_id}  # the step that an observation is or happened in, else the run
    by_id = {one.id: one for one in told.members}
    shown: list[tuple[Observation, ForeignStep]] = []
    for one in told.members:
        parent_id = home.get(one.parent or "", run_id)
        kind = None if one is told.root else _kind(one, by_id.get(one.parent or ""))
        if kind is None:
            home.setdefault(one.id, parent_id)
            continue
        home[one.id] = one.step_id or _id(told, one)
        common = {"step_id": home[one.id], "parent_id": parent_id, "kind": kind, **_common(one)}
        shown.append((one, _READ_BY[kind](one, common, reading)))
    shown.sort(key=lambda pair: pair[0].began)
    return _joined([step for _, step in shown])


def _common(one: Observation) -> dict[str, Any]:
    mine = one.step_id is not None  # else somebody else may have used our names for something else
    superstep = one.fact("superstep" if mine else "langgraph_step") or ""
    return {
        "name": one.name,
        "node": one.fact("node" if mine else "langgraph_node"),
        "superstep": int(superstep) if superstep.isdecimal() and len(superstep) < 10 else None,
        "namespace": one.fact("namespace" if mine else "langgraph_checkpoint_ns"),
        "checkpoint_id": one.fact("checkpoint_id") if mine else None,
        "asked_by": one.fact("asked_by") if mine else None,
        "cached": mine and one.facts.get("cached") is True,
        "started_at": one.began,
        "seconds": one.seconds,
        "error": (one.said or "Langfuse holds no reason.") if one.failed else None,
    }


def _node_step(one: Observation, common: dict[str, Any], reading: Reading) -> ForeignStep:
    return ForeignStep(Step(**common))


_READ_BY = {"model": model_step, "tool": tool_step, "node": _node_step}


def _kind(one: Observation, parent: Observation | None) -> str | None:
    """Return what kind of step an observation is; None for what nodes are built of."""
    if one.kind in ("GENERATION", "TOOL"):
        return "model" if one.kind == "GENERATION" else "tool"
    if one.step_id is not None:  # our mirror tells steps alone
        return "node"
    if one.name == "__start__" or not one.name or one.name != one.fact("langgraph_node"):
        return None
    # What a node is built of may bear its name, and shares its namespace.
    above = None if parent is None else parent.fact("langgraph_checkpoint_ns")
    return "node" if one.fact("langgraph_checkpoint_ns") != above else None


def _joined(steps: Sequence[ForeignStep]) -> list[ForeignStep]:
    """Say of each tool call which model step asked for it, and of each node which attempt it is."""
    asked = {
        call.id: one.step.step_id
        for one in steps
        if one.step.kind == "model"
        for call in one.step.tool_calls
        if call.id is not None
    }
    tried: Counter[tuple[str, int | None]] = Counter()
    joined: list[ForeignStep] = []
    for one in steps:
        step = one.step
        if step.kind == "tool" and step.asked_by is None and step.tool_calls:
            step = step.model_copy(update={"asked_by": asked.get(step.tool_calls[0].id or "")})
        if step.kind == "node" and step.namespace is not None:
            tried[step.namespace, step.superstep] += 1
            step = step.model_copy(update={"attempt": tried[step.namespace, step.superstep]})
        joined.append(one._replace(step=step))
    return joined


def _id(told: Traced, one: Observation) -> str:
    """Return the id of a step whose observation this would be."""
    return run_of(told.trace[:16] + one.id) if _HEX.fullmatch(one.id) else one.id


def _last_call(steps: Sequence[ForeignStep]) -> tuple[Message, ...]:
    """Return what the last model call read and said."""
    last = next((one for one in reversed(steps) if one.step.kind == "model"), None)
    return () if last is None else (*last.asked, *last.said)


def _left(root: Observation, last: tuple[Message, ...], reading: Reading) -> tuple[Message, ...]:
    """Return the messages that the root left; else, as in a failed run, those of its last model call."""
    left = parsed(root.seen.get("output"))
    found = left.get("messages") if isinstance(left, dict) else left
    if isinstance(found, list) and found and all(is_message(value) for value in found):
        return reading.all(found)
    return last


def _mirrored(root: Observation, last: tuple[Message, ...], reading: Reading) -> tuple[Message, ...]:
    """Return the conversation of a run that our mirror told: to the question, what the last call read, the answer."""
    asked = texts_of(parsed(root.seen.get("input")), "user", reading)
    answered = texts_of(parsed(root.seen.get("output")), "assistant", reading)
    place = max((number for number, one in enumerate(last) if one.role == "user"), default=None)
    after = last[place + 1 :] if place is not None and asked and last[place].alike(asked[-1]) else ()
    if answered and not (after and after[-1].alike(answered[-1])):
        after = answered if not after else (*after, *answered)
    return (*asked, *after)


def _question_and_answer(conversation: Sequence[Message]) -> tuple[str | None, str | None]:
    """Return the text of the last user message, and of the last assistant message after it."""
    answer: str | None = None
    for message in reversed(conversation):
        if message.role == "user":
            return message.content or None, answer
        if message.role == "assistant" and answer is None:
            answer = message.content
    return None, answer or None


def _outcome(told: Traced) -> Outcome:
    known = next((one for one in _OUTCOMES if one == told.root.fact("outcome")), None) if told.ours else None
    if known is not None or told.root.failed:
        return known or "failed"
    # A node that stopped for somebody to answer: Langfuse's handler keeps LangGraph's interrupt as words.
    paused = any(not one.failed and "Interrupt(" in (one.said or "")[:200] for one in told.members)
    return "interrupted" if paused else "finished"


def _release(told: Traced, reading: Reading) -> str | None:
    """Return the release of ours that answered last."""
    left = parsed(told.root.seen.get("output"))
    found = left.get("messages") if isinstance(left, dict) else None
    for message in reversed(found) if isinstance(found, list) else ():
        facts = message.get("response_metadata") if isinstance(message, dict) else None
        if isinstance(facts, dict) and facts.get("learnloop_release"):
            return str(facts["learnloop_release"])
    return None


def _tags(told: Traced) -> tuple[str, ...]:
    tags = told.root.seen.get("tags")
    kept = (str(tag) for tag in tags if not str(tag).startswith(_INNER_TAGS)) if isinstance(tags, list) else ()
    return tuple(tag for tag in kept if not (told.ours and tag == "flagged"))


def _metadata(told: Traced) -> dict[str, Any]:
    facts, left_out = told.root.facts.items(), _NOT_OWN | _OURS if told.ours else _NOT_OWN
    own = {name: value for name, value in facts if name not in left_out and not name.startswith(_INNER)}
    release = None if told.ours else filled(told.root.seen.get("release"))
    return {**own, "release": release} if release else own
