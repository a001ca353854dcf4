"""Only vouched-for, held-out examples become cases, and none that was taught; files hold suites of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_learnloop.errors import ConfigError, DataError
from langgraph_learnloop.evaluation import suites
from langgraph_learnloop.evaluation.suites import as_regression, cases_from, read_suite, refuse_leaks, write_suite
from langgraph_learnloop.records import Case, Example, Message, ToolCall, content_hash


def example(question: str, tool: str = "play", **facts: Any) -> Example:
    """Return an approved, held-out correction unless told otherwise."""
    values: dict[str, Any] = {"origin": "correction", "review": "approved", "split": "heldout", **facts}
    return Example(
        messages=(Message(role="user", content=question),),
        chosen=Message(role="assistant", tool_calls=(ToolCall(name=tool),)),
        **values,
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"split": "train"},
        {"split": "validation"},
        {"split": None},
        {"review": "pending"},
        {"review": "rejected"},
        {"origin": "variation"},
        {"origin": "teacher", "review": "pending"},
        {"origin": "replay", "review": "rejected"},
    ],
)
def test_what_nobody_vouches_for_is_no_case(facts: dict[str, Any]) -> None:
    """Taught, unreviewed, rejected and made-up examples are left out."""
    assert cases_from([example("hi", **facts)]) == ()


@pytest.mark.parametrize(
    ("facts", "suite"),
    [
        ({}, "target"),
        ({"review": "edited"}, "target"),
        ({"origin": "teacher"}, "target"),
        ({"origin": "replay", "review": "pending"}, "retention"),
        ({"origin": "replay"}, "retention"),
        ({"origin": "approved", "review": "pending"}, "retention"),
    ],
)
def test_what_somebody_vouches_for_is_a_case_of_one_suite(facts: dict[str, Any], suite: str) -> None:
    """A reviewed correction is a target, an approved or replayed run is retention; the tool is the category."""
    (made,) = cases_from([example("hi", **facts)])
    assert (made.suite, made.category, made.messages[0].content) == (suite, "play", "hi")


def test_a_case_knows_its_run() -> None:
    """A replay can start from the state of the run that a case was made from."""
    assert [case.run_id for case in cases_from([example("hi", run_id="r1"), example("ho")])] == ["r1", None]


def test_the_same_case_is_there_once() -> None:
    """Two examples with one question and one answer are one case, whoever made them."""
    assert len(cases_from([example("hi", by="ann"), example("hi", by="bob"), example("ho")])) == 2


def test_the_order_does_not_depend_on_the_input() -> None:
    """The target comes first, then a category after another."""
    rows = [example("play it"), example("book it", "book"), example("add it", "add", origin="replay")]
    made = cases_from(rows)
    assert cases_from(rows[::-1]) == made
    assert [case.category for case in made] == ["book", "play", "add"]


def test_a_taught_case_is_refused() -> None:
    """A held-out case whose request was taught is refused with the count, whatever the writing or the answer."""
    cases = cases_from([example("Play some jazz!"), example("What is new?")])
    taught = [example("  play SOME  jazz", "other", split="train", origin="variation")]
    with pytest.raises(DataError, match="1 of 2 held-out cases"):
        refuse_leaks(cases, taught)


def test_held_out_examples_are_no_leak() -> None:
    """A whole data set may be given: its own held-out part does not accuse itself."""
    rows = [example("play some jazz"), example("book a table", split="train")]
    cases = cases_from(rows)
    assert refuse_leaks(cases, rows) == cases
    assert len(cases) == 1


def test_another_turn_of_the_conversation_is_no_leak() -> None:
    """Saying "yes" after another question is another request; the system message makes no difference."""

    def turns(*said: str, **facts: Any) -> Example:
        roles = ("user", "assistant", "user")
        messages = tuple(Message(role=r, content=c) for r, c in zip(roles, said, strict=True))  # type: ignore[arg-type]
        return example("x", **facts).model_copy(update={"messages": messages})

    cases = cases_from([turns("book", "sure?", "yes")])
    assert refuse_leaks(cases, [turns("cancel", "sure?", "yes", split="train")]) == cases
    system = Message(role="system", content="Be kind.")
    same = turns("book", "sure?", "yes", split="train")
    with pytest.raises(DataError, match="1 of 1"):
        refuse_leaks(cases, [same.model_copy(update={"messages": (system, *same.messages)})])


# -- files -------------------------------------------------------------------------------------------------------------

FIND = {"tool": "find_order", "args": {"order": 5}}
ASKED = {"question": "Where is order 5?", "expected": FIND}
CALL = ToolCall(name="find_order", args={"order": 5})


def written(folder: Path, *rows: Any) -> Path:
    """Write rows as a suite; bytes as they are, all else as JSON."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / "suite.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def case(**facts: Any) -> Case:
    """Return a case with the id of its content."""
    values: dict[str, Any] = {
        "suite": "retention",
        "category": "find_order",
        "messages": (Message(role="user", content="Where is order 5?"),),
        "expected": Message(role="assistant", tool_calls=(CALL,)),
        **facts,
    }
    content = {
        "messages": [m.model_dump(mode="json") for m in values["messages"]],
        "expected": values["expected"] and values["expected"].model_dump(mode="json"),
    }
    return Case(case_id=content_hash(content), **values)


def test_a_question_and_a_call_are_a_case(tmp_path: Path) -> None:
    """Unless told otherwise it must not get worse, and its category is the right tool."""
    assert read_suite(written(tmp_path, ASKED)) == (case(),)


def test_a_file_and_a_dataset_name_a_case_alike(tmp_path: Path) -> None:
    """What was asked before a case was written to a file is known afterwards."""
    made = cases_from([example("hi", run_id="r1"), example("ho", origin="replay")])
    write_suite(made, tmp_path / "suite.jsonl")
    assert read_suite(tmp_path / "suite.jsonl") == made


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"category": "refunds", "suite": "target"}, {"category": "refunds", "suite": "target"}),
        ({"run_id": "r1"}, {"run_id": "r1"}),
        ({"expected": [FIND]}, {}),
        (
            {"expected": "Under way."},
            {"expected": Message(role="assistant", content="Under way."), "category": "answer"},
        ),
        (
            {"expected": {"role": "assistant", "content": None, "refusal": None, "annotations": [], "tool_calls": []}
             | {"content": "Yes."}},
            {"expected": Message(role="assistant", content="Yes."), "category": "answer"},
        ),
        ({"expected": None, "suite": "safety"}, {"expected": None, "suite": "safety", "category": "safety"}),
        (
            {"reference": [{"role": "assistant", "content": "Soon."}]},
            {"reference": (Message(role="assistant", content="Soon."),)},
        ),
    ],
)  # fmt: skip
def test_every_field_has_its_place(tmp_path: Path, row: dict[str, Any], facts: dict[str, Any]) -> None:
    """The forms of the answer, the suites, the category, the run and the reference."""
    assert read_suite(written(tmp_path, ASKED | row)) == (case(**facts),)


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": '{"order": 5}'}},
        {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": {"order": 5}}},
        {"id": "c1", "type": "tool_call", "name": "find_order", "args": {"order": 5}},
        {"id": "c1", "name": "find_order", "args": {"order": 5}},
    ],
)
def test_conversations_come_in_the_forms_that_are_about(tmp_path: Path, call: dict[str, Any]) -> None:
    """OpenAI's form, with arguments as JSON or as an object, that of LangChain, and our own."""
    messages = [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Order "}, {"type": "text", "text": "5?"}],
            "name": "ann",
        },
        {"role": "assistant", "content": None, "tool_calls": [call], "audio": None},
        {"role": "tool", "content": "sent", "tool_call_id": "c1"},
    ]
    (read,) = read_suite(written(tmp_path, {"messages": messages, "expected": "It was sent."}))
    assert read.messages == (
        Message(role="system", content="Be kind."),
        Message(role="user", content="Order 5?", name="ann"),
        Message(role="assistant", tool_calls=(CALL.model_copy(update={"id": "c1"}),)),
        Message(role="tool", content="sent", tool_call_id="c1"),
    )


def test_order_blank_lines_marks_and_doubles(tmp_path: Path) -> None:
    """Cases keep their order, each once in its suite; blank lines, carriage returns and a UTF-8 mark do not count."""
    other = {"question": "Grüß Gott!", "expected": "Servus.", "suite": "regression"}
    body = json.dumps(other, ensure_ascii=False).encode()
    path = written(tmp_path, b"\xef\xbb\xbf" + body + b"\r", b"", ASKED, b"   ", ASKED, ASKED | {"suite": "target"})
    read = read_suite(path)
    assert [(one.suite, one.messages[0].content) for one in read] == [
        ("regression", "Grüß Gott!"),
        ("retention", "Where is order 5?"),
        ("target", "Where is order 5?"),
    ]


HI = [{"role": "user", "content": "Hi"}]


def deep(levels: int) -> Any:
    """Return a list in a list in a list."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "is not JSON .* write one JSON object a line"),
        (b"[1]", "is a list; it must be an object with question, messages"),
        (b"null", "is a NoneType; it must be an object"),
        (b'{"question": "\xff"}', "byte 15 is not UTF-8; save the file as UTF-8"),
        (b"[" * 100_000, "nested deeper than the 64 levels allowed"),
        (b'{"question": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"question": "a", "question": "b"}', "the key 'question' stands there twice"),
        (b'{"question": "\\ud800", "expected": "x"}', "'question' holds a NUL or half a character"),
        (b'{"question": "a\\u0000", "expected": "x"}', "'question' holds a NUL or half a character"),
        (b'{"question": "a", "expected": {"tool": "t", "args": {"n": NaN}}}', "'expected.args.n' is no number below"),
        (b'{"question": "a", "expected": {"tool": "t", "args": {"n": 1e999}}}', "'expected.args.n' is no number"),
        (ASKED | {"expcted": 1}, "there is no key 'expcted'; use question, messages, expected, reference"),
        ({"expected": "x"}, "either a 'question' .* or 'messages'"),
        (ASKED | {"messages": HI}, "and not both"),
        ({"question": " ", "expected": "x"}, "'question' is empty"),
        ({"question": 5, "expected": "x"}, "'question' must be text, not int"),
        ({"question": "a"}, "'expected' is missing; add the right answer, which a case of the suite 'retention'"),
        (
            {"question": "a", "suite": "target", "expected": None},
            "'expected' is missing; add the right answer, which a case of the suite 'target'",
        ),
        (ASKED | {"suite": "other"}, "'suite' is 'other'; it must be one of target, retention, regression, safety"),
        (ASKED | {"suite": ["target"]}, "'suite' is .* must be one of"),
        (ASKED | {"category": " "}, "'category' is empty"),
        (ASKED | {"category": 7}, "'category' must be text"),
        (ASKED | {"category": "x" * 201}, "'category' has 201 characters; at most 200"),
        (ASKED | {"expected": " "}, "'expected' cannot be used: the right answer's text is empty"),
        (ASKED | {"expected": 5}, "'expected' cannot be used: a right answer must be a text, or"),
        (ASKED | {"expected": {"name": "t"}}, "'expected' cannot be used: .* no key 'name'; use 'tool' and 'args'"),
        (
            ASKED | {"expected": {"role": "user", "content": "x"}},
            "'expected' must be what the assistant .* role is 'user'",
        ),
        (ASKED | {"expected": {"role": "assistant"}}, "'expected' says nothing"),
        (ASKED | {"expected": {"tool": "t", "args": {"a": deep(40)}}}, "'expected' cannot be used: .* nested deeper"),
        (ASKED | {"reference": []}, "'reference' must be a list of messages"),
        (ASKED | {"reference": HI}, "'reference' must begin with the assistant's answer"),
        (ASKED | {"run_id": 5}, "'run_id' must be text"),
        ({"messages": [], "expected": "x"}, "'messages' must be a list of messages"),
        ({"messages": "Hi", "expected": "x"}, "'messages' must be a list of messages"),
        ({"messages": ["Hi"], "expected": "x"}, r"'messages\[0\]' is a str; it must be an object"),
        ({"messages": [{"content": "Hi"}], "expected": "x"}, r"'messages\[0\].role' cannot be used"),
        (
            {"messages": [*HI, {"role": "boss"}], "expected": "x"},
            r"'messages\[1\].role' cannot be used: Input should be",
        ),
        (
            {"messages": [{"role": "user", "image": 1}], "expected": "x"},
            r"'messages\[0\]' has no key 'image'; use role",
        ),
        ({"messages": [{"role": "user", "content": 5}], "expected": "x"}, r"'messages\[0\].content' is a int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "expected": "x"},
            r"'messages\[0\].content' holds a block that is not text",
        ),
        ({"messages": [{"role": "user", "tool_calls": [{"name": "t"}]}], "expected": "x"}, "its role is 'user'"),
        (
            {"messages": [{"role": "tool", "tool_call_id": "x" * 201}], "expected": "x"},
            "tool_call_id' is too long; at most",
        ),
        ({"messages": [{"role": "user", "name": 5}], "expected": "x"}, r"'messages\[0\].name' cannot be used"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}], "expected": "x"}, "tool_calls' is a dict; .* a list"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [5]}], "expected": "x"},
            r"tool_calls\[0\]' is no tool call",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}], "expected": "x"}, r"\[0\].name' must be text"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "t", "args": "{"}]}], "expected": "x"},
            r"\[0\].args' is not JSON",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "t", "args": "[" * 9999}]}], "expected": "x"},
            r"\[0\].args' is not JSON",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "t", "args": [1]}]}], "expected": "x"},
            r"\[0\].args' is a list; it must be an object",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "t", "id": 7}]}], "expected": "x"},
            r"\[0\].id' must be text",
        ),
        ({"messages": [{"role": "user", "content": "a\x00"}], "expected": "x"}, r"'messages\[0\].content' holds a NUL"),
    ],
)
def test_a_bad_line_is_a_sentence(tmp_path: Path, row: Any, reason: str) -> None:
    """It names the file, the line, the field and the way out; the lines before it do not matter."""
    path = written(tmp_path, ASKED, b"", row)
    with pytest.raises(DataError, match=rf"^Line 3 of the suite '{path}' cannot be used: .*{reason}") as caught:
        read_suite(path)
    assert len(str(caught.value)) < 1000


def test_a_long_line_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file without line ends only so much is read."""
    monkeypatch.setattr(suites, "LONGEST_LINE", 100)
    path = written(tmp_path, ASKED, b"x" * 101)
    with pytest.raises(DataError, match=r"Line 2 of .* has more than 100 bytes"):
        read_suite(path)


def test_a_file_has_so_many_cases_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without an end ends with a sentence."""
    monkeypatch.setattr(suites, "MOST_CASES", 2)
    with pytest.raises(DataError, match=r"Line 3 of .* at most 2 cases are allowed; split the file"):
        read_suite(written(tmp_path, ASKED, ASKED, ASKED))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_no_suite(tmp_path: Path, content: bytes) -> None:
    """A candidate that is asked nothing must not seem to have kept everything."""
    with pytest.raises(DataError, match=r"'.*suite.jsonl' holds no case: write"):
        read_suite(written(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Missing files and folders are sentences."""
    with pytest.raises(ConfigError, match=r"'.*nowhere' cannot be read \(No such file"):
        read_suite(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_suite(tmp_path)


_texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=20).filter(
    str.strip
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e200, 1e200) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
_tool_calls = st.builds(ToolCall, name=_texts, args=st.dictionaries(_texts, _values, max_size=3), id=st.none() | _texts)
_answers = st.builds(
    Message,
    role=st.just("assistant"),
    content=_texts,
    tool_calls=st.lists(_tool_calls, max_size=2).map(tuple),
    name=st.none() | _texts,
) | st.builds(Message, role=st.just("assistant"), tool_calls=st.lists(_tool_calls, min_size=1, max_size=2).map(tuple))
_others = st.builds(
    Message, role=st.sampled_from(["system", "user", "tool"]), content=_texts, tool_call_id=st.none() | _texts
)
_cases = st.builds(
    case,
    suite=st.sampled_from(["target", "retention", "regression", "safety"]),
    category=_texts,
    messages=st.lists(_others | _answers, min_size=1, max_size=3).map(tuple),
    expected=_answers,
    reference=st.lists(_answers, max_size=2).map(tuple),
    run_id=st.none() | _texts,
)


@settings(max_examples=50)
@given(cases=st.lists(_cases, min_size=1, max_size=3, unique_by=lambda one: (one.suite, one.case_id)))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> None:
    """Every field comes back, whatever is in it."""
    path = tmp_path_factory.getbasetemp() / "suite.jsonl"
    write_suite(cases, path)
    assert read_suite(path) == tuple(cases)


def test_short_forms_are_written_where_nothing_is_lost(tmp_path: Path) -> None:
    """A person can read, and add to, what is exported."""
    write_suite([case(), case(expected=Message(role="assistant", content="Soon."), category="answer")], tmp_path / "a")
    rows = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert rows == [
        ASKED | {"suite": "retention", "category": "find_order"},
        {"question": "Where is order 5?", "expected": "Soon.", "suite": "retention", "category": "answer"},
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"messages": (Message(role="user", content="\ud800"),)}, "cannot be written to a suite: .* Leave it out"),
        ({"messages": ()}, "cannot be written to a suite"),
        ({"expected": None}, "'expected' is missing"),
        (
            {"expected": Message(role="assistant", tool_calls=(ToolCall(name="t", args={"n": float("nan")}),))},
            "cannot be written to a suite",
        ),
        (
            {"expected": Message(role="assistant", tool_calls=(ToolCall(name="t", args={"n": (1, 2)}),))},
            "It would be read as another",
        ),
        ({"messages": (Message(role="user", content="x" * suites.LONGEST_LINE),)}, "has .* at most 1,000,000"),
    ],
)
def test_what_would_not_come_back_is_not_written(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    """The error names the case, and a file that was there stays as it was."""
    path = written(tmp_path, ASKED)
    before = path.read_bytes()
    wrong = case().model_copy(update=bad)
    with pytest.raises(DataError, match=rf"(?s)^Case '{wrong.case_id}' .*{reason}"):
        write_suite([case(category="x"), wrong.model_copy(update={"suite": "target"})], path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_nothing_and_nowhere_cannot_be_written(tmp_path: Path) -> None:
    """No cases are a sentence, and so is a folder that is not there."""
    with pytest.raises(DataError, match="There is no case to write"):
        write_suite([], tmp_path / "a")
    with pytest.raises(ConfigError, match=r"cannot be written to '.*nowhere/a' \(No such file"):
        write_suite([case()], tmp_path / "nowhere" / "a")


def test_a_lesson_that_shipped_becomes_a_regression_suite() -> None:
    """Its target cases move there under the lesson's name, with their ids, so that what was asked stays known."""
    made = cases_from([example("hi"), example("ho", origin="replay")])
    (moved,) = as_regression(made, "0123456789abcdef")
    assert (moved.suite, moved.category, moved.case_id) == ("regression", "0123456789ab", made[0].case_id)
