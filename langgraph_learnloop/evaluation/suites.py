"""Make the cases that a candidate is examined on, and refuse those it has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.evaluators import plain
from langgraph_learnloop.records import Case, Example, Message, content_hash

_Suite = Literal["target", "retention"]


def cases_from(examples: Iterable[Example]) -> tuple[Case, ...]:
    """Return the held-out examples that somebody vouches for as cases, each once: first the target, then retention.

    The target, which is to get better, is what reviewers approved or edited of corrections; retention, which is not to
    get worse, is what users approved or what is replayed of old. Variations, unreviewed and rejected examples are in
    neither.
    """
    made = (_case(example, suite) for example in examples if (suite := _suite(example)) is not None)
    once = {(case.suite, case.case_id): case for case in made}
    return tuple(sorted(once.values(), key=lambda case: (case.suite != "target", case.category, case.case_id)))


def refuse_leaks(cases: Sequence[Case], train_examples: Iterable[Example]) -> tuple[Case, ...]:
    """Return the cases, or raise DataError when one asks what a training example already answers.

    Conversations are compared without system messages, in plain form. Held-out examples among `train_examples` are
    passed over, so that a whole data set can be given.
    """
    seen = {_request(example.messages) for example in train_examples if example.split != "heldout"}
    leaked = [case for case in cases if _request(case.messages) in seen]
    if leaked:
        raise DataError(
            f"{len(leaked)} of {len(cases)} held-out cases are also in the training examples, the first is "
            f"{_question(leaked[0])!r} (case {leaked[0].case_id!r}). A model cannot be examined on what it was "
            "taught: make the dataset again, with near-duplicates in one group."
        )
    return tuple(cases)


def _suite(example: Example) -> _Suite | None:
    """Return where an example belongs; None when nobody vouches for it or a model may have seen it."""
    if example.split != "heldout" or example.origin == "variation" or example.review == "rejected":
        return None
    if example.origin in ("replay", "approved"):
        return "retention"
    return "target" if example.review in ("approved", "edited") else None


def _case(example: Example, suite: _Suite) -> Case:
    content = {
        "messages": [m.model_dump(mode="json") for m in example.messages],
        "expected": example.chosen.model_dump(mode="json"),
    }
    return Case(
        case_id=content_hash(content),
        suite=suite,
        category=example.category,
        messages=example.messages,
        expected=example.chosen,
    )


def _request(messages: Sequence[Message]) -> str:
    """Return what a conversation asks, in a form that blanks, case and call ids do not change."""
    return content_hash([_said(message) for message in messages if message.role != "system"])


def _said(message: Message) -> list[Any]:
    calls = [[call.name, call.args] for call in message.tool_calls]
    return [message.role, plain(message.content).rstrip(" .!?"), calls]


def _question(case: Case) -> str:
    asked = [message.content for message in case.messages if message.role == "user"]
    return asked[-1] if asked else ""
