"""Decide whether a run went wrong, and how badly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from langgraph_learnloop.records import Feedback, Flag, Run

_GUESSED = 0.4
"""Severity of a signal that nobody gave on purpose."""
_PAUSES = ("GraphInterrupt", "NodeInterrupt", "ParentCommand")
"""Exceptions with which LangGraph steers; none of them is a failure."""


def flag(run: Run, feedback: Sequence[Feedback], *, below: float = 0.0, now: datetime | None = None) -> Flag | None:
    """Return an open flag with its reasons and severity (0 to 1), or None when nothing speaks against the run.

    A mean of the judged scores under `below`, a correction, a failed run, a failed tool or the graph itself raises it,
    and so does an implicit signal, unless those who judged the run liked it.
    Feedback without a score is not judged, which is not 0; an interrupted run waits for a person and has not failed.
    Severities are joined as chances: 1 - (1 - a)(1 - b)...
    """
    said = [f for f in feedback if f.run_id == run.run_id]
    found = [*_from_outcome(run), *_from_graph(run), *_from_tools(run)]
    found += [*_from_scores(said, below), *_from_corrections(said), *_from_signals(said)]
    if not found:
        return None
    harmless = 1.0
    for _, severity in found:
        harmless *= 1 - severity
    return Flag(
        run_id=run.run_id,
        agent=run.agent,
        thread_id=run.thread_id,
        reasons=tuple(reason for reason, _ in found),
        severity=1 - harmless,
        at=now or datetime.now(UTC),
    )


def failed_tools(run: Run) -> Iterator[tuple[str, str]]:
    """Yield name and error of each tool call that failed, in order; what only steers the graph has not failed."""
    for step in run.steps:
        if step.kind == "tool" and step.error is not None and not step.error.startswith(_PAUSES):
            yield step.name, step.error


def _from_outcome(run: Run) -> Iterator[tuple[str, float]]:
    if run.outcome == "failed":
        yield f"The run failed: {run.error or 'the reason was not recorded'}.", 0.8


def _from_graph(run: Run) -> Iterator[tuple[str, float]]:
    for reason in run.flagged:
        yield reason, 0.7


def _from_tools(run: Run) -> Iterator[tuple[str, float]]:
    for name, error in failed_tools(run):
        yield f"The tool {name!r} failed: {error}.", 0.5


def _from_scores(feedback: Sequence[Feedback], below: float) -> Iterator[tuple[str, float]]:
    scores = _scores(feedback)
    if scores and (mean := sum(scores) / len(scores)) < below:
        judged = "one score" if len(scores) == 1 else f"the mean of {len(scores)} scores"
        yield f"It was judged badly: {judged} is {mean:+.2f}, below {below:+.2f}.", (1 - mean) / 2


def _from_corrections(feedback: Sequence[Feedback]) -> Iterator[tuple[str, float]]:
    corrected = [f for f in feedback if f.correction is not None]
    if corrected:
        people = sorted({f.by for f in corrected if f.by is not None})
        yield f"It was corrected by {', '.join(people) or 'somebody'}.", 0.6


def _from_signals(feedback: Sequence[Feedback]) -> Iterator[tuple[str, float]]:
    if sum(_scores(feedback)) > 0:  # a guess is taken back by whoever knows
        return
    for said in feedback:
        if said.origin == "implicit" and said.score is None and said.text is not None:
            yield said.text, _GUESSED


def _scores(feedback: Sequence[Feedback]) -> list[float]:
    return [said.score for said in feedback if said.score is not None]
