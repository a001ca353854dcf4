"""Make the cases that a candidate is examined on, read and write them as files, and refuse those it has seen.

A suite is a file of JSON lines, one case a line:

    {"question": "Where is order 5?", "expected": {"tool": "find_order", "args": {"order": 5}}}
    {"messages": [{"role": "user", "content": "Hi"}], "expected": "Hello!", "category": "small talk"}
    {"question": "Give me Ann's address.", "suite": "safety"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, get_args

from langgraph_learnloop.calls import clean_text, read_message
from langgraph_learnloop.cases import each_once, make_case
from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.evaluation.evaluators import plain
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.messages import (
    DEEPEST,
    LONGEST_NAME,
    check,
    conversation,
    from_openai,
    no_key_twice,
    question,
)
from langgraph_learnloop.records import Case, Example, Message, Suite, content_hash
from langgraph_learnloop.texts import quoted

LONGEST_LINE = 1_000_000
"""Bytes of one case: a longer one is no case but an attack or a slip."""
MOST_CASES = 100_000
"""Cases of one file."""

_KEYS = ("question", "messages", "expected", "reference", "suite", "category", "run_id")
_LESSON = 12
"""Characters of a dataset's version by which a lesson is known."""


def read_suite(path: str | Path) -> tuple[Case, ...]:
    """Return the cases of a file of JSON lines in order, each once; everything in it is untrusted.

    "question" is the user's only message, "messages" a whole conversation in OpenAI's form or in that of `Message`.
    "expected" is the right answer as text, as {"tool": name, "args": {...}} or a list of those, or as a message; only a
    case of the suite "safety" may leave it out. "reference" is the whole run as it should be, "suite" is "retention"
    if it is not named, "category" the right tool. Raises DataError naming file, line, field and the way out, and
    ConfigError when the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            made = [_case_of_line(line, number, path) for number, line in _lines(stream, path)]
    except OSError as error:
        raise ConfigError(
            f"The suite {str(path)!r} cannot be read ({error.strerror}): name a file of JSON lines, one case a line."
        ) from error
    if not made:
        raise DataError(
            f'The suite {str(path)!r} holds no case: write {{"question": ..., "expected": ...}}, one a line.'
        )
    return each_once(made)


def write_suite(cases: Sequence[Case], path: str | Path) -> None:
    """Write cases as a file that `read_suite` reads, each once, whole or not at all; ids are made anew from content.

    Raises DataError when there are none, or naming the case that cannot be written, and ConfigError when the file
    cannot be.
    """
    if not cases:
        raise DataError(f"There is no case to write to {str(path)!r}: curate corrections first, some are set aside.")
    lines = [_line(case) for case in each_once(cases)]
    try:
        with whole_file(Path(path)) as beside:
            beside.write_bytes(b"".join(lines))
    except OSError as error:
        raise ConfigError(
            f"The suite cannot be written to {str(path)!r} ({error.strerror}): name a file in a folder that is there."
        ) from error


def as_regression(cases: Sequence[Case], lesson: str) -> tuple[Case, ...]:
    """Return the target cases of a lesson that has shipped as cases of the suite "regression".

    Their category is the lesson: `lesson` is its dataset's version, of which the beginning is kept.
    """
    moved = {"suite": "regression", "category": lesson[:_LESSON]}
    return tuple(case.model_copy(update=moved) for case in cases if case.suite == "target")


def cases_from(examples: Iterable[Example]) -> tuple[Case, ...]:
    """Return the held-out examples that somebody vouches for as cases, each once: first the target, then retention.

    The target, which is to get better, is what reviewers approved or edited of corrections; retention, which is not to
    get worse, is what users approved or what is replayed of old. Variations, unreviewed and rejected examples are in
    neither.
    """
    made = each_once(
        make_case(suite, example.messages, example.chosen, run_id=example.run_id)
        for example in examples
        if (suite := _suite(example)) is not None
    )
    return tuple(sorted(made, key=lambda case: (case.suite != "target", case.category, case.case_id)))


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
            f"{question(leaked[0].messages)!r} (case {leaked[0].case_id!r}). A model cannot be examined on what it was "
            "taught: make the dataset again, with near-duplicates in one group."
        )
    return tuple(cases)


def _suite(example: Example) -> Suite | None:
    """Return where an example belongs; None when nobody vouches for it or a model may have seen it."""
    if example.split != "heldout" or example.origin == "variation" or example.review == "rejected":
        return None
    if example.origin in ("replay", "approved"):
        return "retention"
    return "target" if example.review in ("approved", "edited") else None


def _lines(stream: IO[bytes], path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that hold something, with their numbers; never more than a line is in memory."""
    number = found = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise _unusable(number, path, f"it has more than {LONGEST_LINE:,} bytes; write one case a line.")
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # some editors mark UTF-8 so
        if not line.strip():
            continue
        found += 1
        if found > MOST_CASES:
            raise _unusable(number, path, f"at most {MOST_CASES:,} cases are allowed; split the file.")
        yield number, line


def _unusable(number: int, path: str | Path, reason: object) -> DataError:
    return DataError(f"Line {number} of the suite {str(path)!r} cannot be used: {reason}")


def _case_of_line(line: bytes, number: int, path: str | Path) -> Case:
    try:
        return _case_of(_parsed(line))
    except DataError as error:
        raise _unusable(number, path, error) from error


def _parsed(line: bytes) -> dict[str, Any]:
    """Return the object of a line, its texts and numbers checked."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=no_key_twice)
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from error
    except RecursionError as error:
        raise DataError(f"it is nested deeper than the {DEEPEST} levels allowed; make it flatter.") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"it is not JSON ({error}); write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise DataError(f"it is a {type(row).__name__}; it must be an object with {', '.join(_KEYS)}.")
    check(row, "")
    return row


def _case_of(row: dict[str, Any]) -> Case:
    if unknown := [key for key in row if key not in _KEYS]:
        raise DataError(f"there is no key {quoted(unknown[0])}; use {', '.join(_KEYS)}.")
    suite = _suite_named(row.get("suite"))
    messages = _asked(row)
    expected = _expected(row.get("expected"), suite)
    reference = _reference(row.get("reference"))
    category, run_id = _name(row, "category"), _name(row, "run_id")
    return make_case(suite, messages, expected, category=category, reference=reference, run_id=run_id)


def _suite_named(value: object) -> Suite:
    if value is None:
        return "retention"
    found: Suite | None = next((name for name in get_args(Suite) if name == value), None)
    if found is None:
        raise DataError(f"'suite' is {quoted(value)}; it must be one of {', '.join(get_args(Suite))}.")
    return found


def _name(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else clean_text(value, repr(key), LONGEST_NAME)


def _asked(row: dict[str, Any]) -> tuple[Message, ...]:
    text, messages = row.get("question"), row.get("messages")
    if (text is None) == (messages is None):
        raise DataError("a case must have either a 'question' (text) or 'messages' (a list), and not both.")
    if text is not None:
        return (Message(role="user", content=clean_text(text, "'question'", LONGEST_LINE)),)
    return conversation(messages, "messages")


def _expected(value: object, suite: Suite) -> Message | None:
    if value is None:
        if suite == "safety":
            return None
        raise DataError(f"'expected' is missing; add the right answer, which a case of the suite {suite!r} needs.")
    if isinstance(value, dict) and "role" in value:
        return _answer(from_openai(value, "expected"))
    try:
        return read_message(value, "right answer")
    except DataError as error:
        raise DataError(f"'expected' cannot be used: {error}") from error


def _answer(message: Message) -> Message:
    if message.role != "assistant":
        raise DataError(f"'expected' must be what the assistant should say; its role is {message.role!r}.")
    if not message.content.strip() and not message.tool_calls:
        raise DataError("'expected' says nothing; give it a content or tool_calls.")
    return message


def _reference(value: object) -> tuple[Message, ...]:
    if value is None:
        return ()
    messages = conversation(value, "reference")
    if messages[0].role != "assistant" or {m.role for m in messages} - {"assistant", "tool"}:
        raise DataError(
            "'reference' must begin with the assistant's answer, and hold assistant and tool messages only."
        )
    return messages


def _line(case: Case) -> bytes:
    """Return a case as a line; raise DataError when the line would not be read as the same case."""
    row: dict[str, Any] = {**_asking(case.messages), "suite": case.suite, "category": case.category}
    row |= {} if case.expected is None else {"expected": _short_form(case.expected)}
    row |= {"reference": [_row(message) for message in case.reference]} if case.reference else {}
    row |= {} if case.run_id is None else {"run_id": case.run_id}
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        again = _case_of(_parsed(line)).model_copy(update={"case_id": case.case_id})
    except (ValueError, RecursionError) as error:
        raise _unwritable(case, str(error) or "It is nested too deeply.") from error
    if again != case:
        raise _unwritable(case, "It would be read as another.")
    if len(line) > LONGEST_LINE:
        raise _unwritable(case, f"It has {len(line):,} bytes; at most {LONGEST_LINE:,} are allowed.")
    return line


def _unwritable(case: Case, reason: str) -> DataError:
    return DataError(
        f"Case {case.case_id!r} ({question(case.messages)[:80]!r}) cannot be written to a suite: {reason} Leave it out."
    )


def _asking(messages: Sequence[Message]) -> dict[str, Any]:
    if len(messages) == 1 and messages[0] == Message(role="user", content=messages[0].content):
        return {"question": messages[0].content}
    return {"messages": [_row(message) for message in messages]}


def _short_form(expected: Message) -> Any:
    """Return an expected answer as text or as calls, if nothing is lost by that; else as a message."""
    calls = [{"tool": call.name, "args": call.args} for call in expected.tool_calls]
    short = (calls[0] if len(calls) == 1 else calls) if calls else expected.content
    try:
        return short if read_message(short) == expected else _row(expected)
    except DataError:
        return _row(expected)


def _row(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_defaults=True)


def _request(messages: Sequence[Message]) -> str:
    """Return what a conversation asks, in a form that blanks, case and call ids do not change."""
    return content_hash([_said(message) for message in messages if message.role != "system"])


def _said(message: Message) -> list[Any]:
    calls = [[call.name, call.args] for call in message.tool_calls]
    return [message.role, plain(message.content).rstrip(" .!?"), calls]
