"""Notice that a run went wrong where nobody said so: the user asks again, or objects; the agent gives up.

A detector takes a `Turn` and returns what it noticed, or None. What is noticed is a guess, and stored as feedback
without a score: it flags the run, unless those who judged it liked it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from langgraph_learnloop.calls import leaves
from langgraph_learnloop.config import named
from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.records import Feedback, Run, Step
from langgraph_learnloop.signals.phrases import gives_up, objects
from langgraph_learnloop.texts import quoted

_log = logging.getLogger(__name__)

_SOON = timedelta(minutes=30)
"""After it, the same request is a new one: somebody who asks for the weather each morning is no complaint."""
_ALIKE = 0.8
"""Similarity (0 to 1) at which a request is the one before in other words, where words are all there is to compare."""
_ALIKE_IN_DEED = 0.65
"""The same where the arguments of tool calls say that nothing else was asked for."""
_LEAST_WORDS = 3
"""Words of a request below which nothing follows from its coming twice: "go on", "next page"."""
_STEM = 5
"""Letters in which two words must agree, so that "orders" is "order"."""
_REPEATED = 3
"""Model calls that ask for the same tool with the same arguments."""
_LONGEST = 2_000
"""Characters of a request that are compared."""
_MOST_VALUES = 200
"""Values of a run's tool calls that are looked for in what was asked."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
"""A word, or one sign of a script that has no spaces between them."""


class Turn(NamedTuple):
    """One turn of a conversation, as detectors see it."""

    run: Run
    """The turn's run."""
    before: Run | None = None
    """The run before it in the same thread; None where there is none."""
    offered: frozenset[str] | None = None
    """Names of the tools that the model was given; None where they are not known."""


class Noticed(NamedTuple):
    """What a detector noticed."""

    run: Run
    """The run that went wrong: the turn's, or the one before."""
    why: str
    """What was seen, as a sentence for people."""


Detector = Callable[[Turn], Noticed | None]
"""Return what speaks against a turn's run or the one before; None where nothing does."""


def notice(turn: Turn, detectors: Sequence[tuple[str, Detector]], now: datetime) -> Iterator[tuple[Run, Feedback]]:
    """Yield what detectors notice as feedback, each with the run that it is about; seen twice, it has one id."""
    for name, detect in detectors:
        try:
            found = detect(turn)
            said = None if found is None else _said(name, found, now)
        except Exception:  # noqa: BLE001 - somebody's own function may do anything, and the others are still to be asked
            _log.exception("The signal %r could not be looked for in the run %s", name, turn.run.run_id)
            continue
        if found is not None and said is not None:
            yield found.run, said


def detectors_of(names: Iterable[str], excluded: Collection[str] = ()) -> tuple[tuple[str, Detector], ...]:
    """Return the detectors of some names, one's own by "module:function"; raise ConfigError where there is none.

    Parts of runs in `excluded` are not recorded: what needs them is left out, for their lack says nothing.
    """
    found = []
    for name in names:
        detect = _DETECTORS.get(name) or _own(name)
        if not _NEEDS.get(name, frozenset()) & frozenset(excluded):
            found.append((name.rpartition(":")[2], detect))
    return tuple(found)


def asked_again(turn: Turn) -> Noticed | None:
    """Notice that the user asks for the same once more, in nearly the same words, within half an hour."""
    run, before = turn.run, turn.before
    if before is None or before.outcome != "finished" or not run.question or not before.question or run.resumes:
        return None
    if run.started_at - before.started_at - timedelta(seconds=before.seconds or 0.0) > _SOON:
        return None
    words, others = _words(run.question), _words(before.question)
    if min(len(set(words)), len(set(others))) < _LEAST_WORDS:
        return None
    alike = similarity(words, others)
    if alike < _ALIKE_IN_DEED or _asks_for_else(run, words, others) or _asks_for_else(before, others, words):
        return None
    if alike < _ALIKE and not (_taken(run, words) or _taken(before, others)):
        return None
    return Noticed(before, f"The user asked nearly the same again: {quoted(run.question)}.")


def objected(turn: Turn) -> Noticed | None:
    """Notice that the user says that the last answer was not right; in five languages."""
    run, before = turn.run, turn.before
    if before is None or before.outcome != "finished" or not run.question or run.resumes:
        return None
    if not objects(run.question, before.answer or ""):
        return None
    return Noticed(before, f"The user objected to the answer: {quoted(run.question)}.")


def gave_up(turn: Turn) -> Noticed | None:
    """Notice that the agent says that it cannot do what it was asked; in five languages."""
    run = turn.run
    if run.outcome != "finished" or not run.answer or not gives_up(run.answer):
        return None
    return Noticed(run, f"The agent gave up: {quoted(run.answer)}.")


def repeated_call(turn: Turn) -> Noticed | None:
    """Notice that the agent asks for the same tool with the same arguments again and again."""
    asked: Counter[tuple[str, str]] = Counter()
    for step in _model_steps(turn.run):
        asked.update({(call.name, repr(sorted(call.args.items()))) for call in step.tool_calls})
    for (name, _), times in asked.most_common(1):
        if times >= _REPEATED:
            return Noticed(turn.run, f"The agent called {quoted(name)} with the same arguments {times} times.")
    return None


def unknown_tool(turn: Turn) -> Noticed | None:
    """Notice that the model asked for a tool that it was not given."""
    if turn.offered is None:
        return None
    asked = (call.name for step in _model_steps(turn.run) for call in step.tool_calls)
    made_up = next((name for name in asked if name not in turn.offered), None)
    return (made_up and Noticed(turn.run, f"The agent called {quoted(made_up)}, a tool that it was not given.")) or None


def no_answer(turn: Turn) -> Noticed | None:
    """Notice that the agent ended a turn without a word, and without a tool call that says it all."""
    run = turn.run
    if run.outcome != "finished" or not run.question or (run.answer or "").strip():
        return None
    last = max(_model_steps(run), key=lambda step: step.started_at, default=None)
    if last is None or last.tool_calls or last.error is not None:
        return None
    return Noticed(run, "The agent ended its turn without an answer.")


_DETECTORS: dict[str, Detector] = {
    "asked_again": asked_again,
    "objected": objected,
    "gave_up": gave_up,
    "repeated_call": repeated_call,
    "unknown_tool": unknown_tool,
    "no_answer": no_answer,
}
_NEEDS = {"no_answer": frozenset({"answer", "tool_calls"})}
"""Parts of runs without which a detector would be wrong; the others notice nothing then."""


def similarity(words: Sequence[str], others: Sequence[str]) -> float:
    """Return how much of two requests is the same, from 0 to 1: the mean share of the words that both have.

    A word counts by the square of its length, for long words carry what is asked for, in any language. Where each has
    a number that the other has not, it is 0.
    """
    ours, theirs = set(words), set(others)
    known, meant = {word[:_STEM] for word in ours}, {word[:_STEM] for word in theirs}
    odd, strange = [w for w in ours if w[:_STEM] not in meant], [w for w in theirs if w[:_STEM] not in known]
    if not ours or not theirs or (_has_number(odd) and _has_number(strange)):
        return 0.0
    return 1.0 - (_weight(odd) / _weight(ours) + _weight(strange) / _weight(theirs)) / 2


def _said(name: str, found: Noticed, now: datetime) -> Feedback:
    run_id = found.run.run_id
    return Feedback(
        feedback_id=f"{name}:{run_id}",
        run_id=run_id,
        name=name,
        origin="implicit",
        categories=(name,),
        text=found.why,
        at=now,
    )


def _own(name: str) -> Detector:
    if ":" not in name:
        known = ", ".join(map(repr, _DETECTORS))
        raise ConfigError(f"The setting signals cannot hold {name!r}: name {known}, or your own as 'module:function'.")
    found: Detector = named(name, "The signal")
    if not callable(found):
        raise ConfigError(
            f"The setting signals names {name!r}, which is a {type(found).__name__}: name a function that takes a Turn."
        )
    return found


def _model_steps(run: Run) -> list[Step]:
    return [step for step in run.steps if step.kind == "model"]


def _words(text: str) -> list[str]:
    return _WORD.findall(text[:_LONGEST].casefold())


def _has_number(words: Iterable[str]) -> bool:
    return any(any(sign.isdigit() for sign in word) for word in words)


def _weight(words: Iterable[str]) -> int:
    return sum(len(word) ** 2 for word in words)


def _asks_for_else(run: Run, words: Sequence[str], others: Sequence[str]) -> bool:
    """Tell whether a tool was called with something that stands in this request, and not in the other one."""
    there = f" {' '.join(others)} "
    return any(value not in there for value in _taken(run, words))


def _taken(run: Run, words: Sequence[str]) -> list[str]:
    """Return the values of a run's tool calls that were taken from what was asked, each between spaces."""
    here, found = f" {' '.join(words)} ", []
    values = (value for step in _model_steps(run) for call in step.tool_calls for value in leaves(call.args))
    for _, value in zip(range(_MOST_VALUES), values, strict=False):
        text = f" {' '.join(_words(str(value)))} "
        if text.strip() and text in here:
            found.append(text)
    return found
