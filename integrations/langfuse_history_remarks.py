"""Turn what people said in Langfuse, scores and comments, into remarks.

A number becomes -1 to 1 by the score's configuration, from its least to its greatest value. Without one, 0 to 1 is
bad to good and what lies from -1 to 0 stays as it is; what is beyond is not judged, for nobody knows its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.integrations.langfuse_messages import Reading, Seen, date_of, filled, is_message, parsed
from langgraph_learnloop.integrations.langfuse_traces import THEIRS
from langgraph_learnloop.mirrors import Remark
from langgraph_learnloop.records import Message

_CHANGED = timedelta(seconds=1)
"""How long after a score was made it must have been written to count as changed."""
Configured = Callable[[str], Seen]
"""Returns a score's configuration by its id; empty where there is none any more."""


def remark_of_score(score: Seen, configured: Configured) -> Remark:
    """Return a score as a remark; raise DataError, with the reason, where it is about no run or says nothing."""
    trace, observation = _subject(score)
    kind, value, name = str(score.get("dataType")).upper(), score.get("value"), filled(score.get("name")) or "score"
    configuration = configured(str(score["configId"])) if score.get("configId") else {}
    judged, categories, correction, words = _verdict(kind, value, name, configuration)
    said = [text for text in (words, filled(score.get("comment"))) if text]
    facts = score.get("metadata")
    by = facts.get("by") if isinstance(facts, dict) else None
    return Remark(
        remark_id=_id(score),
        trace=trace,
        observation=observation,
        name=name,
        score=judged,
        text="\n".join(said) or None,
        correction=correction,
        categories=categories,
        by=filled(score.get("authorUserId")) or filled(by),
        at=date_of(score.get("timestamp") or score.get("createdAt")),
        origin="reviewer" if score.get("source") == "ANNOTATION" else "explicit",
    )


def remark_of_comment(comment: Seen, trace_of: Callable[[str], str | None]) -> Remark:
    """Return a comment as a remark; `trace_of` finds an observation's trace. Raise DataError with the reason."""
    about = comment.get("objectId")
    if not isinstance(about, str) or not about:
        raise DataError("It is a comment on nothing.")
    is_trace = str(comment.get("objectType")).upper() == "TRACE"
    trace = about if is_trace else trace_of(about)
    if trace is None:
        raise DataError("It is a comment on an observation that Langfuse does not find.")
    text = filled(comment.get("content"))
    if text is None:
        raise DataError("It is a comment without words.")
    return Remark(
        remark_id=_id(comment),
        trace=trace,
        observation=None if is_trace else about,
        name="comment",
        score=None,
        text=text,
        correction=None,
        categories=(),
        by=filled(comment.get("authorUserId")),
        at=date_of(comment.get("createdAt")),
    )


def _id(said: Seen) -> str:
    """Return an id that changes when what was said is changed."""
    if not filled(said.get("id")):
        raise DataError("It has no id.")
    own_id = f"{THEIRS}{said['id']}"
    made, changed = said.get("createdAt"), said.get("updatedAt")
    if made is None or changed is None or date_of(changed) - date_of(made) < _CHANGED:
        return own_id
    return f"{own_id}:{date_of(changed).isoformat(timespec='milliseconds')}"


def _subject(score: Seen) -> tuple[str, str | None]:
    subject = score.get("subject")
    about: Seen = subject if isinstance(subject, dict) else {}
    if about.get("kind") == "trace" and (trace := filled(about.get("id"))):
        return trace, None
    if about.get("kind") == "observation" and (trace := filled(about.get("traceId"))):
        return trace, str(about.get("id"))
    raise DataError("It is about a session or an experiment, not about a run.")


Verdict = tuple[float | None, tuple[str, ...], object, str | None]
"""Score, labels, correction and words."""


def _verdict(kind: str, value: Any, name: str, configuration: Seen) -> Verdict:
    if kind == "BOOLEAN":
        return (1.0 if value in (True, 1, "true", "True") else -1.0), (), None, None
    if kind == "NUMERIC":
        score = _judged(value, configuration.get("minValue"), configuration.get("maxValue"))
        return score, (), None, None if score is not None else f"{name}: {value}"
    if kind == "CATEGORICAL":
        return _judged_category(str(value), configuration), (str(value),), None, None
    if kind == "CORRECTION":
        return None, (), correction_of(value), None
    return None, (), None, filled(value)


def _judged(value: Any, least: Any, most: Any) -> float | None:
    """Return a number as -1 to 1; None where its scale is not known."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(least, int | float) and isinstance(most, int | float) and least < most:
        return 2 * (value - least) / (most - least) - 1 if least <= value <= most else None
    if 0 <= value <= 1:
        return 2.0 * value - 1
    return float(value) if -1 <= value < 0 else None


def _judged_category(label: str, configuration: Seen) -> float | None:
    """Return a label's score, where its configuration puts the labels on a scale."""
    found = configuration.get("categories")
    scale = {str(one.get("label")): one.get("value") for one in found or () if isinstance(one, dict)}
    values = [value for value in scale.values() if isinstance(value, int | float)]
    if label not in scale or len(values) < len(scale) or min(values) == max(values):
        return None
    return _judged(scale[label], min(values), max(values))


def correction_of(value: Any) -> object:
    """Return a corrected output as feedback takes it: a text, calls as {"tool", "args"}, or a message.

    Langfuse offers the output as JSON to be edited; of a conversation the assistant's last message counts.
    """
    read = parsed(value)
    if isinstance(read, dict) and isinstance(read.get("messages"), list):
        read = read["messages"]
    if isinstance(read, dict) and "tool" in read:
        return read
    if isinstance(read, list) and read and all(isinstance(one, dict) and "tool" in one for one in read):
        return read
    values: Sequence[Any] = read if isinstance(read, list) else [read]
    if not values or not all(is_message(one) for one in values):
        return value if isinstance(value, str) else str(value)
    said = next((one for one in reversed(Reading().all(values)) if one.role == "assistant"), None)
    if said is None:
        raise DataError("It is a correction without an answer of the assistant.")
    return Message(role="assistant", content=said.content, tool_calls=said.tool_calls)
