"""What a release still knows of every lesson that was learned before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from langgraph_learnloop.records import CaseResult, Remembered


class Lesson(NamedTuple):
    """A lesson that was learned and shipped."""

    dataset: str
    """Version of the dataset that taught it."""
    release: str
    """The release that learned it."""
    cases: Sequence[str]
    """Ids of the held-out cases that were new with it."""


def ledger(
    lessons: Sequence[Lesson], results: Mapping[str, Mapping[str, CaseResult]], release_id: str, score: str
) -> tuple[Remembered, ...]:
    """Return how a release does on the cases of each lesson, beside the release that learned it.

    `results` holds what each release was asked, by release and case. Only cases that both were asked and that could be
    judged by the score of that name are counted; with none of them the shares are None.
    """
    now = results.get(release_id, {})
    rows = []
    for lesson in lessons:
        then = results.get(lesson.release, {})
        pairs = [(then[c].scores.get(score), now[c].scores.get(score)) for c in lesson.cases if c in then and c in now]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        rows.append(
            Remembered(
                dataset=lesson.dataset,
                learned_by=lesson.release,
                cases=len(both),
                then=sum(a for a, _ in both) / len(both) if both else None,
                now=sum(b for _, b in both) / len(both) if both else None,
            )
        )
    return tuple(rows)
