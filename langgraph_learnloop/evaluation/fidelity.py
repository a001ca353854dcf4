"""Re-run a recorded run, and say whether the same happened again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.evaluators import canonical
from langgraph_learnloop.evaluation.recording import Mask
from langgraph_learnloop.ports import RunReader
from langgraph_learnloop.records import Case, Judged, Message, Run, content_hash


class SameTrajectory:
    """Compare what a replay did with what its case refers to: the same messages, tool calls and tool answers.

    What was recorded is masked; `mask` does the same to what is replayed.
    """

    name = "same-trajectory/1"
    target = guard = "same"
    whole = True

    def __init__(self, mask: Mask | None = None) -> None:
        """Compare after masking."""
        self._mask: Mask = mask or (lambda value: value)

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return the score "same"; the comment names the first message that differs. Ids of calls are not compared."""
        recorded = [_plainly(message) for message in case.reference]
        replayed = [_plainly(message, self._mask) for message in got]
        if recorded == replayed:
            return Judged({"same": True})
        pairs = zip(recorded, replayed, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(recorded), len(replayed)))
        return Judged({"same": False}, f"Message {first + 1} of {len(recorded)} is another one.")


def case_of(run: Run, runs: RunReader, step_id: str | None = None) -> Case:
    """Return a run as a case, from one of its model calls on (default: its first), with what happened as reference.

    Raise DataError when the run holds no such call, or its messages were not kept.
    """
    calls = [step for step in run.steps if step.kind == "model" and step.input is not None]
    step = next((step for step in calls if step_id in (None, step.step_id)), None)
    if step is None:
        what = "no model call whose messages were kept" if step_id is None else f"no such model call as {step_id!r}"
        raise DataError(
            f"The run {run.run_id!r} holds {what}, so it cannot be replayed from there. "
            "`learnloop runs show` lists its steps."
        )
    read = runs.conversation(step.input)
    left = runs.conversation(run.messages)
    # What the model was given may begin with messages that the conversation does not hold, such as a system message.
    spoken = [message for message in read if message.role != "system"]
    kept = [message for message in left if message.role != "system"]
    after = kept[len(spoken) :] if _begins(kept, spoken) else list(runs.messages(step.output))
    return Case(
        case_id=content_hash([run.run_id, step.step_id]),
        suite="retention",
        category=after[0].tool_calls[0].name if after and after[0].tool_calls else "answer",
        messages=read,
        expected=after[0] if after else None,
        reference=tuple(after),
        run_id=run.run_id,
        step_id=step.step_id,
    )


def _begins(conversation: Sequence[Message], start: Sequence[Message]) -> bool:
    return [_plainly(m) for m in conversation[: len(start)]] == [_plainly(m) for m in start]


def _plainly(message: Message, mask: Mask = lambda value: value) -> list[Any]:
    calls = [[call.name, canonical(mask(call.args))] for call in message.tool_calls]
    return [message.role, mask(message.content), calls]
