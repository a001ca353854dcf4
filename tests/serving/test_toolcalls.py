"""What a model wrote is taken apart, and nothing it writes can raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.records import Message, ToolCall
from langgraph_learnloop.serving.toolcalls import (
    THINK_CLOSE,
    THINK_OPEN,
    Answer,
    AnswerReader,
    Part,
    is_malformed,
    may_begin,
    new_call_id,
    offered_names,
    parse_answer,
)


def parse(text: str) -> Answer:
    return parse_answer(text, new_id=lambda: "call_0")


def test_plain_text_is_content():
    """Text without marks comes back as content, blanks around it gone."""
    assert parse("  It rains. \n") == ("It rains.", None, ())


def test_one_call():
    """A call is read with its name and arguments, and leaves no content behind."""
    content, _, (call,) = parse(
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
    )
    assert (content, call.name, call.args, call.id) == ("", "weather", {"city": "Oslo", "days": 2}, "call_0")


def test_several_calls_keep_their_order_and_the_text_around_them():
    """Two calls are two calls, in order, and the words before them stay."""
    answer = parse('Let me see. <tool_call>{"name": "a"}</tool_call> <tool_call>{"name": "b"}</tool_call>')
    assert (answer.content, [call.name for call in answer.tool_calls]) == ("Let me see.", ["a", "b"])


def test_ids_are_unlike():
    """Two calls of one answer get two ids."""
    answer = parse_answer('<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "a"}</tool_call>')
    assert len({call.id for call in answer.tool_calls}) == 2


def test_blanks_around_strings_are_stripped_at_any_depth():
    """A small model's " Oslo" becomes "Oslo", in lists and objects too; inner blanks stay."""
    (call,) = parse(
        '<tool_call>{"name": " find", "arguments": {"q": " new  york ", "l": [" a", [" b "]], "o": {" k ": " v"}}}'
    ).tool_calls
    assert (call.name, call.args) == ("find", {"q": "new  york", "l": ["a", ["b"]], "o": {"k": "v"}})


def test_arguments_may_be_a_json_string():
    """Arguments written as a JSON string, as OpenAI does, are parsed."""
    (call,) = parse('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>').tool_calls
    assert call.args == {"x": 1}


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "3",
        '"x"',
        '{"name": 3}',
        '{"name": " "}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{"}',
        "",
    ],
)
def test_an_unusable_call_stays_in_the_content(body: str):
    """What cannot be run is shown as it was written, so that nobody loses it."""
    text = f"<tool_call>{body}</tool_call>"
    assert parse(text) == (text, None, ())


def test_a_call_that_was_not_closed_counts_when_it_is_whole():
    """An end token in place of the closing mark does not spoil a whole call."""
    assert parse('<tool_call>{"name": "f"}').tool_calls[0].name == "f"


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>hm</think>Yes.", "hm", "Yes."),
        ("hm</think>Yes.", "hm", "Yes."),
        ("<think>cut off", "cut off", ""),
        ("<think>\n</think>Yes.", None, "Yes."),
        ("</think>Yes.", None, "Yes."),
        (" <think>hm</think> Yes.", "hm", "Yes."),
    ],
)
def test_reasoning_is_split_off(text: str, reasoning: str | None, content: str):
    """The chain of thought is apart, also when the prompt opened it or the length cut it off."""
    assert parse(text) == (content, reasoning, ())


def test_marks_inside_an_argument_are_text():
    """Who searches for "</tool_call>" or "<think>" gets just that."""
    text = '<tool_call>{"name": "find", "arguments": {"q": "</think> <think> </tool_call>"}}</tool_call>'
    assert parse(text).tool_calls[0].args == {"q": "</think> <think> </tool_call>"}


def test_a_call_inside_the_chain_of_thought_is_not_made():
    """What a model only thinks of calling is not called."""
    assert parse('<think><tool_call>{"name": "f"}</tool_call></think>No.').tool_calls == ()


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<|python_tag|>{"name": "f", "parameters": {"x": 1}}', "", [("f", {"x": 1})]),
        ('<|python_tag|>{"type": "function", "name": "f", "parameters": {}}<|eom_id|>', "", [("f", {})]),
        ('Sure. <|python_tag|>{"name": "f", "parameters": {}}; {"name": "g"}', "Sure.", [("f", {}), ("g", {})]),
        ('<|python_tag|>{"name": "f"} {"no": "name"}', '{"no": "name"}', [("f", {})]),
        ('<|python_tag|>brave_search.call(query="x")', '<|python_tag|>brave_search.call(query="x")', []),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]', "", [("f", {"x": 1})]),
        ('Hm. [TOOL_CALLS][{"name": "f", "arguments": "{}"}, {"name": "g"}]', "Hm.", [("f", {}), ("g", {})]),
        ('[TOOL_CALLS] [{"name": "f"}, 3]', '[TOOL_CALLS] [{"name": "f"}, 3]', []),
        ("[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
        ('[TOOL_CALLS]f{"x": 1}', "", [("f", {"x": 1})]),
        ('[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g-h.i[ARGS]{}', "", [("f", {"x": 1}), ("g-h.i", {})]),
        ('[TOOL_CALLS]f[CALL_ID]a1B2[ARGS]{"x": 1}', "", [("f", {"x": 1})]),
        ('[TOOL_CALLS]f{"x": ', '[TOOL_CALLS]f{"x":', []),
        ('[TOOL_CALLS]{"name": "f", "arguments": {}}', "", [("f", {})]),
        ('<tool_call>{"name": "f", "parameters": {"x": 1}}</tool_call>', "", [("f", {"x": 1})]),
    ],
)
def test_the_forms_of_other_families(text: str, content: str, calls: list[tuple[str, dict[str, object]]]):
    """Llama's and Mistral's calls are read by their marks; what is no usable call stays as it was written."""
    answer = parse(text)
    assert (answer.content, [(call.name, call.args) for call in answer.tool_calls]) == (content, calls)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"name": "f", "parameters": {"x": 1}}', ["f"]),
        (' {"type": "function", "name": "f", "arguments": {}}\n', ["f"]),
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', ["f", "g"]),
        ('{"name": "f", "parameters": {}}<|eot_id|>', ["f"]),
        ('<think>Hm</think>{"name": "f", "parameters": {}}', ["f"]),
        ('{"name": "f", "parameters": {"q": "</think>"}}', ["f"]),
        ('{"name": "h", "parameters": {}}', []),
        ('{"name": "f", "parameters": {}}; {"name": "h", "parameters": {}}', []),
        ('{"name": "f"}', []),
        ('{"name": "f", "parameters": {}, "age": 3}', []),
        ('{"name": "f", "parameters": {}} is how to call it.', []),
        ('So: {"name": "f", "parameters": {}}', []),
        ('[{"name": "f", "parameters": {}}]', []),
        ('{"city": "Oslo"}', []),
    ],
)
def test_bare_json_is_a_call_only_of_an_offered_tool_and_alone(text: str, names: list[str]):
    """JSON that is an answer stays one: a call has no other keys, no words around it, and an offered tool's name."""
    answer = parse_answer(text, offered={"f", "g"})
    assert [call.name for call in answer.tool_calls] == names
    assert parse_answer(text).tool_calls == ()
    assert answer.content == ("" if names else text.strip())


@pytest.mark.parametrize(
    ("content", "malformed"),
    [
        ("It rains.", False),
        ('<tool_call>{"name": "f"', True),
        ("<|python_tag|>f.call()", True),
        ("[TOOL_CALLS] [{", True),
        ('{"name": "f", "parameters": {"x": ', True),
        ('{"type": "function", "name": "f", "parameters": {"x": ', True),
        ('{"type":"function","name":"f","parameters":{"x":', True),
        (' { "type" : "function" , "name" : "f" , "arguments" : {', True),
        ('{"name":"f","arguments":{', True),
        ('{"name": "h", "parameters": {"x": ', False),
        ('{"name": "f", "age": 3}', False),
    ],
)
def test_a_call_that_cannot_be_read_is_told_from_text(content: str, malformed: bool):
    """Marks without a call, and the beginning of a bare call of an offered tool, are worth another try."""
    message = Message(role="assistant", content=content)
    assert is_malformed(message, {"f"}) is malformed
    assert not is_malformed(message.model_copy(update={"tool_calls": (ToolCall(name="f"),)}), {"f"})


@pytest.mark.parametrize("form", ['<tool_call>{"name": "f", "arguments": %s}', "[TOOL_CALLS]f{%s", "[TOOL_CALLS]%s"])
@pytest.mark.parametrize("depth", [400, 700, 100_000])
def test_nesting_of_any_depth_is_survived(form: str, depth: int):
    """What is nested too deeply to be read stays text."""
    text = form % ('{"a":' * depth + "1" + "}" * depth)
    answer = parse(text)
    assert answer.tool_calls or answer.content == text


PARTS = [
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "<|eom_id|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<think>",
    "</think>",
    '{"name": "f"}',
    '[{"name": "f"}]',
    '{"name": "f", "parameters": {}}',
    "f{}",
    *'{}[]":,; f1<',
]


def braces(answer: Answer) -> int:
    """Count the opening braces that an answer holds; a call has one around it and those of its arguments."""
    texts = (answer.content, answer.reasoning or "", *(json.dumps(call.args) for call in answer.tool_calls))
    return sum(text.count("{") for text in texts) + len(answer.tool_calls)


@given(st.lists(st.sampled_from(PARTS)))
def test_nothing_raises_and_nothing_is_lost(parts: list[str]):
    """Any text gives an answer, and every call that was not made is still to be seen."""
    text = "".join(parts)
    answer = parse_answer(text, offered={"f"})
    assert text.count("{") <= braces(answer)
    if not answer.tool_calls:
        assert text.count("{") == braces(answer)
        marks = THINK_OPEN, THINK_CLOSE
        assert sum(map(len, marks)) + len("".join(filter(None, answer[:2]))) >= len("".join(text.split()))


@given(st.text().filter(lambda text: THINK_OPEN not in text and THINK_CLOSE not in text))
def test_any_text_survives(text: str):
    """Text without marks comes back whole."""
    assert parse_answer(text, offered={"f"}).content == text.strip()


@given(st.lists(st.sampled_from(PARTS)), st.integers(1, 12), st.booleans())
def test_what_is_shown_while_it_is_written_is_how_the_answer_begins(parts: list[str], size: int, offered: bool):
    """However a text is torn, nothing is shown that the whole answer does not begin with, and no mark of a call."""
    text = "".join(parts)
    reader = AnswerReader(offered=offered)
    shown = [part for at in range(0, len(text), size) for part in reader.read(text[at : at + size])]
    answer = parse_answer(text, offered={"f"} if offered else ())
    opened = text.lstrip().startswith(THINK_OPEN)
    assert reader.content == "".join(part.text for part in shown if not part.is_reasoning)
    assert all(part.text for part in shown)
    assert "<tool_call>" not in reader.content
    if opened or THINK_CLOSE not in text:  # a mark that comes without its other half turns what was said into a thought
        assert answer.content.startswith(reader.content)
        assert (answer.reasoning or "").startswith(reader.reasoning)


def test_words_are_not_held_back_for_long():
    """Of a text that is no call only what may be the beginning of a mark waits, until the next word."""
    reader = AnswerReader(offered=True)
    shown = [[part.text for part in reader.read(word)] for word in ("If ", "a <", " b, ", "say [TO", "]", ".")]
    assert shown == [["If"], [" a"], [" < b,"], [" say"], [" [TO]"], ["."]]


@pytest.mark.parametrize(
    ("text", "held"),
    [("{", True), ('{"na', True), ('{"name": "x', True), ('{"city": "', False), ("{ so", False), ("{}", False)],
)
def test_json_that_cannot_be_a_call_is_shown_at_its_first_key(text: str, held: bool):
    """Only JSON that begins as a call does, where tools were offered, waits for its end."""
    assert (AnswerReader(offered=True).read(text) == []) is held
    assert AnswerReader().read(text) == [Part(text)]


def test_who_wants_a_call_hears_thoughts_only():
    """A silent reader keeps all the words for the end."""
    reader = AnswerReader(silent=True)
    assert reader.read("<think>Hm</think>I would rather talk.") == [Part("Hm", is_reasoning=True)]
    assert (reader.content, reader.reasoning) == ("", "Hm")


@pytest.mark.parametrize("size", range(1, 40))
def test_thought_and_words_are_told_apart_however_they_are_torn(size: int):
    """No mark is shown, blanks stand only between words, and what begins a call ends what is shown."""
    text = "\n<think> One,\n two. </think>\nSo it is.\n<tool_call>{} So. "
    for written, content in ((text, "So it is."), (text.split("<tool")[0], "So it is."), (text[:29], "")):
        reader = AnswerReader(offered=True)
        shown = [part for at in range(0, len(written), size) for part in reader.read(written[at : at + size])]
        assert (reader.reasoning, reader.content) == ("One,\n two.", content)
        assert "".join(part.text for part in shown if part.is_reasoning) == "One,\n two."
        assert "".join(part.text for part in shown if not part.is_reasoning) == content


@pytest.mark.parametrize(
    ("text", "at"),
    [("", 0), ("ab", 2), ("a<", 1), ("a<tool_cal", 1), ("[TOOL", 0), ("[TOOL ", 6), ("<<", 1), ("x<|p[", 4)],
)
def test_where_a_mark_may_have_begun(text: str, at: int):
    """The earliest place from which the text goes on as a mark does."""
    assert may_begin(text, ("<tool_call>", "<|python_tag|>", "[TOOL_CALLS]")) == at
    assert may_begin(text, ()) == len(text)


def test_the_names_of_offered_tools():
    """In OpenAI's form, with and without the wrapping."""
    assert offered_names([{"type": "function", "function": {"name": "f"}}, {"name": "g"}]) == {"f", "g"}
    assert new_call_id() != new_call_id()
    assert new_call_id().startswith("call_")


@given(st.dictionaries(st.text(min_size=1).filter(lambda k: k == k.strip()), st.integers() | st.booleans() | st.none()))
def test_arguments_survive(args: dict[str, object]):
    """Arguments come back as they were written, whatever marks they hold."""
    (call,) = parse(f"<tool_call>{json.dumps({'name': 'f', 'arguments': args})}</tool_call>").tool_calls
    assert call.args == args
