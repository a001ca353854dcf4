"""Take feedback that somebody gave on purpose: a score, a comment, labels, or the answer that would have been right."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from langgraph_learnloop.calls import clean_text, misfit, read_message
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.records import Feedback, Message, Run

MOST_CATEGORIES = 32
"""Labels on one feedback."""
LONGEST_NAME = 200
"""Characters of an id, a label or a rater's name."""


def make_feedback(
    run: Run,
    *,
    score: float | None = None,
    text: str | None = None,
    categories: Sequence[str] = (),
    correction: object = None,
    by: str | None = None,
    step_id: str | None = None,
    feedback_id: str | None = None,
    tools: Sequence[dict[str, Any]] = (),
    now: datetime | None = None,
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
) -> Feedback:
    """Check what somebody said of a run and return it as Feedback; everything but `run` and `tools` is untrusted.

    `correction` is the right answer as text, a tool call ({"tool": name, "args": {...}} or ToolCall), a list of calls,
    or a Message; calls are held against `tools` (OpenAI function form) when there are any. A `feedback_id` of the
    caller's own makes sending twice harmless. Raises DataError naming the run, the field and what is allowed.
    """
    try:
        return Feedback(
            feedback_id=new_id() if feedback_id is None else clean_text(feedback_id, "the feedback_id", LONGEST_NAME),
            run_id=run.run_id,
            step_id=_model_step(run, step_id),
            score=_score(score),
            text=None if text is None else clean_text(text, "the text"),
            categories=_categories(categories),
            correction=None if correction is None else _correction(correction, tools),
            by=None if by is None else clean_text(by, "the rater (by)", LONGEST_NAME),
            at=now or datetime.now(UTC),
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise DataError(f"The feedback on run {run.run_id!r} was refused: {reason}.") from error
    except DataError as error:
        raise DataError(f"The feedback on run {run.run_id!r} was refused: {error}") from error


def _score(score: object) -> float | None:
    if score is None:
        return None
    # NaN is in no range, so the comparison refuses it too.
    if isinstance(score, bool) or not isinstance(score, int | float) or not -1 <= score <= 1:
        raise DataError(f"the score is {repr(score)[:40]}; it must be a number from -1 (bad) to 1 (good).")
    return float(score)


def _categories(categories: Sequence[str]) -> tuple[str, ...]:
    if isinstance(categories, str) or not isinstance(categories, Sequence):
        raise DataError("the categories must be a list of labels.")
    if len(categories) > MOST_CATEGORIES:
        raise DataError(f"there are {len(categories)} categories; at most {MOST_CATEGORIES} are allowed.")
    return tuple(dict.fromkeys(clean_text(label, "a category", LONGEST_NAME) for label in categories))


def _model_step(run: Run, step_id: str | None) -> str | None:
    if step_id is None:
        return None
    calls = [step.step_id for step in run.steps if step.kind == "model"]
    if step_id not in calls:
        known = ", ".join(calls) or "none"
        raise DataError(f"the step_id {str(step_id)[:80]!r} is no model call of it; its model calls are: {known}.")
    return step_id


def _correction(correction: object, tools: Sequence[dict[str, Any]]) -> Message:
    message = read_message(correction)
    if problem := misfit(message, tools):
        raise DataError(f"the correction does not fit. {problem}")
    return message
