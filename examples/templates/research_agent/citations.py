"""What makes an answer one that can be believed, and what makes a plan the right one. Plain functions, no model."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from library import documents

_CITED = re.compile(r"\[([\w-]+)\]")
_AFTER_THE_STOP = re.compile(r"([.!?])((?:\s*\[[\w-]+\])+)")
_NOTHING = re.compile(r"No document is about [^,;:]+")
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def cited(text: str) -> list[str]:
    """Return the names of the documents that a text cites."""
    return _CITED.findall(text)


def problem(question: str, answer: str, found: Collection[str]) -> str | None:
    """Return the first reason not to believe an answer that had these documents to go by; None when there is none."""
    return next(_problems(question, answer, found), None)


def _problems(question: str, answer: str, found: Collection[str]) -> Iterator[str]:
    if not answer.strip():
        yield "It wrote nothing."
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", _AFTER_THE_STOP.sub(r"\2\1", answer.strip())):
        yield from _unbacked(sentence, found)
    for one in documents.values():
        name = one.title.removeprefix("The ")
        if re.search(rf"\b{re.escape(name)}\b", question, re.IGNORECASE) and one.name not in cited(answer):
            yield f"The question names {name}; nothing cites it."


def _unbacked(sentence: str, found: Collection[str]) -> Iterator[str]:
    names = cited(sentence)
    if not names and not _NOTHING.fullmatch(sentence):
        yield f"Nothing is cited for {sentence!r}."
    for name in names:
        if name not in found:
            yield f"It cites [{name}], which was not found."
    told = {figure for name in names if name in documents for figure in _FIGURE.findall(documents[name].text)}
    for figure in _FIGURE.findall(_CITED.sub("", sentence)):
        if names and figure not in told:
            yield f"The figure {figure} does not stand in [{'], ['.join(names)}]."


def same_topics(outputs: list[dict[str, Any]], reference_outputs: list[dict[str, Any]]) -> bool:
    """Return whether the same is searched, in whatever order and however many calls."""
    return _topics(outputs) == _topics(reference_outputs)


def _topics(messages: list[dict[str, Any]]) -> set[str]:
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    return {topic.casefold() for call in calls for topic in json.loads(call["arguments"])["topics"]}
