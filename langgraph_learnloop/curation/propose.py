"""Turn corrected runs into proposals, and well-liked runs into examples to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from langgraph_learnloop.curation.flag import flag
from langgraph_learnloop.errors import DataError, NotFoundError
from langgraph_learnloop.ports import RunReader
from langgraph_learnloop.records import Example, Feedback, Message, Proposal, Run, Step

_OTHERS = "Curate without this run: dismiss its flag."


def propose(runs: Sequence[Run], reader: RunReader) -> list[Proposal]:
    """Return a proposal for each run and rater who corrected it: what the model read, said, and should have said.

    The newest correction of each rater counts. Raters who agree make proposals of one id, which `check` merges after
    it has counted the raters. A run without a model call, or whose messages were erased, makes none.
    """
    found = (_corrected(run, said, reader) for run in runs for said in _newest(reader.feedback(run.run_id)))
    return [Proposal(proposal_id=e.example_id, example=e) for e in found if e is not None]


def replayable(runs: Sequence[Run], reader: RunReader) -> list[Example]:
    """Return what the agent does well as "approved" examples: the first model call of each good run's last turn.

    A run is good when it finished, nothing flags it, nobody scored it below 0 and somebody scored it above 0: silence
    is no approval.
    """
    found = (_approved(run, reader) for run in runs)
    return [example for example in found if example is not None]


def _newest(feedback: Sequence[Feedback]) -> list[Feedback]:
    newest: dict[str | None, Feedback] = {}
    for said in sorted(feedback, key=lambda f: f.at):
        if said.correction is not None:
            newest[said.by] = said
    return list(newest.values())


def _corrected(run: Run, said: Feedback, reader: RunReader) -> Example | None:
    with suppress(NotFoundError):
        step = _blamed(run, said, reader)
        if step is not None and said.correction is not None:
            chosen, rejected = _without_ids(said.correction), _answer(step, reader)
            return _example(run, step, reader, chosen=chosen, rejected=rejected, origin="correction", by=said.by)
    return None


def _approved(run: Run, reader: RunReader) -> Example | None:
    feedback = reader.feedback(run.run_id)
    scores = {f.by: f.score for f in sorted(feedback, key=lambda f: f.at) if f.score is not None}
    fans = [by for by, score in scores.items() if score > 0]
    if run.outcome != "finished" or flag(run, feedback) or any(s < 0 for s in scores.values()) or not fans:
        return None
    with suppress(NotFoundError):
        step = _first_of_turn(run, reader)
        if step is not None and (chosen := _answer(step, reader)) is not None:
            return _example(run, step, reader, chosen=chosen, origin="approved", by=fans[0])
    return None


def _example(run: Run, step: Step, reader: RunReader, **facts: Any) -> Example:
    """Return what a model call of a run read, with what it said, or should have said, and why that is known."""
    return Example(
        messages=reader.conversation(step.input),
        tools=_tools(step, reader),
        group=run.thread_id or run.run_id,
        run_id=run.run_id,
        **facts,
    )


def _blamed(run: Run, said: Feedback, reader: RunReader) -> Step | None:
    """Return the model call that should have answered differently."""
    if said.step_id is not None:
        return next((s for s in run.steps if s.step_id == said.step_id and s.kind == "model" and s.input), None)
    if said.correction is not None and said.correction.tool_calls:
        return _first_of_turn(run, reader)
    return next((s for s in reversed(run.steps) if s.kind == "model" and s.input), None)


def _first_of_turn(run: Run, reader: RunReader) -> Step | None:
    """Return the first model call that read the run's last user message; one that was offered tools, if any was."""
    calls = [step for step in run.steps if step.kind == "model" and step.input]
    if not calls:
        return None
    turns = [_turn(reader.conversation(step.input)) for step in calls]
    # A run that was resumed, or holds a nested chat, has several turns: the last is the one with most user messages.
    last = max(turns, key=lambda turn: turn[0])
    in_turn = [step for step, turn in zip(calls, turns, strict=True) if turn == last]
    return next((step for step in in_turn if step.tools is not None), in_turn[0])


def _turn(messages: Sequence[Message]) -> tuple[int, str]:
    asked = [m.content for m in messages if m.role == "user"]
    return len(asked), asked[-1] if asked else ""


def _answer(step: Step, reader: RunReader) -> Message | None:
    """Return what a model call answered; None when it ended without an answer."""
    said = [m for m in reader.messages(step.output) if m.role == "assistant" and (m.content or m.tool_calls)]
    return _without_ids(said[-1]) if said else None


def _without_ids(message: Message) -> Message:
    # Call ids are random: with them, the same lesson would be another example each time.
    calls = tuple(call.model_copy(update={"id": None}) for call in message.tool_calls)
    return message.model_copy(update={"tool_calls": calls, "name": None, "tool_call_id": None})


def _tools(step: Step, reader: RunReader) -> tuple[dict[str, Any], ...]:
    if step.tools is None:
        return ()
    where = f"The tool schemas {step.tools!r} of step {step.step_id!r}"
    try:
        tools = json.loads(reader.blob(step.tools))
    except ValueError as error:
        raise DataError(f"{where} are no JSON: {error}. {_OTHERS}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{where} are no list of mappings. {_OTHERS}")
    return tuple(tools)
