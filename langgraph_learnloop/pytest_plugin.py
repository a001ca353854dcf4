"""Run suites in your own tests: a fixture hands a test one case after another.

    @pytest.mark.learnloop("suites/refunds.jsonl")
    def test_refunds(learnloop_case):
        learnloop_case.check(graph.invoke(learnloop_case.input))

The suites of a test are those of its mark; where it names none, those of the command line (`--learnloop-suite FILE`);
else those of the ini option `learnloop_suites`. Paths in a mark begin at pytest's root folder, paths in the ini file at
its folder.

Pytest loads this file in every run of whoever has the package installed: before a test asks for the fixture, nothing
but pytest and the standard library is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langgraph_learnloop.ports import Evaluator
    from langgraph_learnloop.records import Case, Judged, Message

_FIXTURE = "learnloop_case"
_MARK = "learnloop"
_OPTION = "--learnloop-suite"
_INI = "learnloop_suites"
_ASKED = "learnloop-asked-"
"""Ids of a case's own messages begin with this; the others in a graph's output are new."""
_WORDS = 6
"""Words of the question in the id of a test."""
_LONGEST_PART = 40
"""Characters of the category, and of the question's words, in the id of a test."""
_DIGITS = 8
"""Digits of the case's id in the id of a test."""
_REFUSED = pytest.StashKey[list[str]]()
"""Why suites cannot be used, a sentence each."""


@dataclass(frozen=True, repr=False)
class LearnLoopCase:
    """Hold one case of a suite, ask it and judge what comes back."""

    case: Case
    """The case."""

    def __repr__(self) -> str:
        return f"<{self._about}>"

    @property
    def messages(self) -> list[BaseMessage]:
        """Return the conversation before the answer as LangChain messages, with ids that no other call returns."""
        from langchain_core.messages import convert_to_messages

        made = convert_to_messages([message.openai() for message in self.case.messages])
        once = uuid4().hex
        for number, message in enumerate(made):
            message.id = f"{_ASKED}{once}-{number}"
        return made

    @property
    def input(self) -> dict[str, Any]:
        """Return what a graph is invoked with; give each case a thread of its own where there is a checkpointer."""
        return {"messages": self.messages}

    def check(
        self, output: Any, evaluator: Evaluator | None = None, *, score: str | None = None, at_least: float = 1.0
    ) -> Judged:
        """Judge an answer; raise AssertionError when it is not right, and fail the test when it cannot be judged.

        `output` is a graph's state, a message, a list of messages or a text; the assistant's next message after the
        case's own is judged, with what came after it if the evaluator wants the whole run. `evaluator` compares tool
        calls unless told otherwise; `score` names the figure that decides (default: the evaluator's target), and
        `at_least` what it must reach, 0 to 1.
        """
        __tracebackhide__ = True
        from langgraph_learnloop.evaluation.evaluators import ToolCallMatch

        judge = evaluator or ToolCallMatch()
        got = _answer(output, self.case)
        if not got:
            raise AssertionError(f"{self._about}: the output holds no message of the assistant after the case's own.")
        judged = self._judged(judge, got if judge.whole else got[:1])
        name = score or judge.target
        said = judged.scores.get(name)
        if said is None:
            known = ", ".join(sorted(judged.scores)) or "none"
            none = f"{judge.name!r} gives no score {name!r}; its scores are: {known}."
            reason = (judged.comment if name in judged.scores else None) or none
            pytest.fail(f"{self._about}: the answer could not be judged. {reason}", pytrace=False)
        if not said >= at_least:  # NaN reaches nothing
            raise AssertionError(self._difference(got[0], name, said, at_least, judged.comment))
        return judged

    @property
    def _about(self) -> str:
        return f"Case {self.case.case_id[:_DIGITS]} ({_question(self.case)!r})"

    def _judged(self, judge: Evaluator, got: Sequence[Message]) -> Judged:
        __tracebackhide__ = True
        try:
            return judge.judge(self.case, got)
        except Exception as error:  # noqa: BLE001 - the boundary of the user's evaluator: it may raise what it likes
            pytest.fail(f"{self._about}: {judge.name!r} raised {type(error).__name__}: {error}", pytrace=False)

    def _difference(self, got: Message, name: str, said: float, at_least: float, comment: str | None) -> str:
        figure = f"{name} is {said}" if isinstance(said, bool) else f"{name} is {said:g} of at least {at_least:g}"
        lines = [f"{self._about}: the answer is not right, {figure}."]
        if self.case.expected is not None:
            lines.append(f"  expected: {_shown(self.case.expected)}")
        lines.append(f"  got: {_shown(got)}")
        return "\n".join([*lines, *([f"  comment: {comment}"] if comment else [])])


@pytest.fixture
def learnloop_case(request: pytest.FixtureRequest) -> LearnLoopCase:
    """Return one case of the test's suites: `.input` for the graph, and `.check(output)`."""
    return LearnLoopCase(request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option and the setting that name suites."""
    parser.getgroup("learnloop").addoption(
        _OPTION,
        action="append",
        default=[],
        metavar="FILE",
        help="a suite for tests with the fixture learnloop_case whose mark names none (may be given repeatedly)",
    )
    parser.addini(_INI, type="paths", default=[], help="suites for tests whose mark and command line name none")


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", f"{_MARK}(*files): run the test with each case of these suites.")
    config.stash[_REFUSED] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for the fixture one case after another."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    try:
        cases = _cases(metafunc)
    except pytest.UsageError as error:
        refused = f"{metafunc.definition.nodeid}: {error}"
        # A process of pytest-xdist's takes no other error while it collects.
        if hasattr(metafunc.config, "workerinput"):
            raise pytest.Collector.CollectError(refused) from None
        metafunc.config.stash[_REFUSED].append(refused)
        cases = []
    metafunc.parametrize(_FIXTURE, cases, ids=[_id(case) for case in cases], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Raise UsageError when a test's suites cannot be used; raised while a file is collected, it is a traceback."""
    if refused := config.stash[_REFUSED]:
        raise pytest.UsageError(*dict.fromkeys(refused))


def _cases(metafunc: pytest.Metafunc) -> list[Case]:
    """Return the cases of a test, each once; raise UsageError when there are none or a suite cannot be read."""
    from langgraph_learnloop.errors import LearnLoopError
    from langgraph_learnloop.evaluation.suites import read_suite

    files = _files(metafunc)
    if not files:
        raise pytest.UsageError(
            f'No suite is named for {_FIXTURE}: mark the test with @pytest.mark.{_MARK}("suite.jsonl"), call pytest '
            f"with {_OPTION} FILE, or set {_INI} in the ini file."
        )
    try:
        return list({case.case_id: case for file in files for case in read_suite(file)}.values())
    except LearnLoopError as error:
        raise pytest.UsageError(str(error)) from error


def _files(metafunc: pytest.Metafunc) -> list[Path]:
    """Return the suites of a test: those of its marks, else of the command line, else of the ini file."""
    config = metafunc.config
    marks = list(metafunc.definition.iter_markers(_MARK))
    if named := [name for mark in marks for name in mark.args]:
        return [config.rootpath / name for name in named]
    return [config.invocation_params.dir / name for name in config.getoption(_OPTION)] or list(config.getini(_INI))


def _id(case: Case) -> str:
    """Return category, the question's first words, and the beginning of the hash that tells it from others."""
    words = re.findall(r"\w+", _question(case).lower())[:_WORDS]
    parts = ["_".join(re.findall(r"\w+", case.category))[:_LONGEST_PART], "_".join(words)[:_LONGEST_PART]]
    return "-".join([*filter(None, parts), case.case_id[:_DIGITS]])


def _question(case: Case) -> str:
    from langgraph_learnloop.messages import question

    return question(case.messages)


def _shown(message: Message) -> str:
    """Return a message as a line: its calls as code, and its text."""
    calls = [f"{c.name}({', '.join(f'{key}={value!r}' for key, value in c.args.items())})" for c in message.tool_calls]
    return ", ".join([*calls, *([repr(message.content)] if message.content or not calls else [])])


def _answer(output: Any, case: Case) -> tuple[Message, ...]:
    """Return the assistant's next message after the case's own, and what came after it; none where there is none."""
    messages = _messages(output)
    new = messages[_after(messages, case) :]
    read = [message for message in map(_record, new) if message is not None and message.role in ("assistant", "tool")]
    first = next((number for number, message in enumerate(read) if message.role == "assistant"), len(read))
    return tuple(read[first:])


def _after(messages: Sequence[BaseMessage], case: Case) -> int:
    """Return where the case's own messages end: by their ids, else by what they say, else at the last user's message.

    A state that was compacted may begin with other messages than the case.
    """
    own = [number for number, message in enumerate(messages) if (message.id or "").startswith(_ASKED)]
    if own:
        return own[-1] + 1
    said = [None if (read := _record(message)) is None else (read.role, read.content) for message in messages]
    for asked in _asked(case):
        if said[: len(asked)] == asked:
            return len(asked)
    users = [number for number, message in enumerate(said) if message is not None and message[0] == "user"]
    if users and case.messages[-1].role != "user":
        _refuse("a conversation that does not begin with the case's: ask with learnloop_case.input")
    return users[-1] + 1 if users else 0


def _asked(case: Case) -> Iterator[list[tuple[str, str]]]:
    """Yield the case's messages, with the system's and without: a graph may keep that out of its state."""
    yield [(message.role, message.content) for message in case.messages]
    yield [(message.role, message.content) for message in case.messages if message.role != "system"]


def _messages(output: Any) -> list[BaseMessage]:
    """Return what came back as LangChain messages, whatever form it has."""
    from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

    from langgraph_learnloop.records import Message

    if isinstance(output, str):
        return [AIMessage(output)]
    if isinstance(output, dict) and "messages" not in output and not {"role", "type"} & output.keys():
        _refuse(f"a dict with {', '.join(map(repr, output)) or 'nothing in it'}")
    found = output.get("messages", output) if isinstance(output, dict) else getattr(output, "messages", output)
    listed = [found] if isinstance(found, BaseMessage | Message | dict) else found
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        _refuse(f"a {type(found).__name__}")
    try:
        return convert_to_messages([one.openai() if isinstance(one, Message) else one for one in listed])
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        _refuse(f"what LangChain cannot read as messages ({error})")


def _record(message: BaseMessage) -> Message | None:
    """Return a LangChain message as a record, None for kinds that no case has."""
    from langgraph_learnloop.errors import DataError
    from langgraph_learnloop.messages import from_langchain

    try:
        return from_langchain(message)
    except DataError:
        return None


def _refuse(what: str) -> NoReturn:
    from langgraph_learnloop.errors import DataError

    forms = "a state with 'messages', a message, a list of messages or a text"
    raise DataError(f"The output to check is {what}; hand over {forms}.")
