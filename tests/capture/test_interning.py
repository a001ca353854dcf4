"""What is new is serialised and stored; what is not, is not."""

from __future__ import annotations

import base64
import copy
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage, messages_from_dict
from zstandard import ZstdDecompressor

from langgraph_learnloop.capture import interning as module
from langgraph_learnloop.capture.interning import Interner
from langgraph_learnloop.messages import loads
from langgraph_learnloop.records import Interned


class Shelf:
    """Keep what interners hand out, and read it again."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.lists: dict[str, tuple[str | None, tuple[str, ...]]] = {}

    def put(self, interned: Interned) -> None:
        self.bodies.update(interned.bodies)
        self.lists.update(interned.lists)

    def items(self, key: str | None) -> tuple[str, ...]:
        if key is None:
            return ()
        parent, items = self.lists[key]
        return self.items(parent) + items

    def read(self, key: str | None) -> list[BaseMessage]:
        return messages_from_dict([loads(ZstdDecompressor().decompress(self.bodies[item])) for item in self.items(key)])


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what was serialised."""
    seen: list[Any] = []
    real = module.encode
    monkeypatch.setattr(module, "encode", lambda value: seen.append(value) or real(value))
    return seen


def test_a_message_is_serialised_once(encoded: list[Any]) -> None:
    """Neither the same object again, nor a copy of it as a checkpointer makes one, is serialised again."""
    interner, message = Interner(), HumanMessage("hi", id="1")
    assert interner.all([message] * 50) == (interner.message(message),) * 50
    assert interner.message(copy.deepcopy(message)) == interner.message(message)
    assert len(interner.take()[0].bodies) == 1
    assert interner.message(copy.deepcopy(message)) == interner.message(message)
    assert len(encoded) == 1


def test_a_message_of_blocks_is_serialised_once_too(encoded: list[Any]) -> None:
    """Texts, thoughts and calls in blocks are recognised as a text is."""
    interner = Interner()
    message = AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}], id="1")
    for _ in range(3):
        interner.message(copy.deepcopy(message))
        assert len(interner.take()[0].bodies) == 1
    assert len(encoded) == 1


def test_an_image_comes_with_each_run_until_it_is_stored() -> None:
    """Its bytes are handed out again with its message, for the run that had them first may have been dropped."""
    interner = Interner()
    url = "data:image/png;base64," + base64.b64encode(bytes(3_000)).decode()
    message = HumanMessage([{"type": "image_url", "image_url": {"url": url}}], id="1")
    for _ in range(2):
        interner.message(copy.deepcopy(message))
        assert list(interner.take()[0].blobs.values()) == [bytes(3_000)]


def test_what_cannot_be_compared_or_copied_is_told_again() -> None:
    """An array, a table or a lock beside a tool's answer costs no run, and the message keeps its name."""
    np = pytest.importorskip("numpy")
    interner = Interner()
    array = [ToolMessage("3", id="1", tool_call_id="c", artifact=np.arange(3)) for _ in range(2)]
    before = interner.message(array[0])
    interner.take()
    assert interner.message(array[1]) == before
    interner.take()
    locked = [ToolMessage("3", id="2", tool_call_id="c", artifact=[threading.Lock()]) for _ in range(2)]
    for message in locked:
        interner.message(message)
        assert len(interner.take()[0].bodies) == 1


def test_a_message_that_is_changed_in_place_is_another() -> None:
    """Whoever holds a message may write into its calls or blocks: the next run is told with what is there then."""
    interner = Interner()
    called = AIMessage("", id="1", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c", "type": "tool_call"}])
    blocks = AIMessage([{"type": "text", "text": "yes"}], id="2")
    before = interner.all([called, blocks])
    interner.take()
    called.tool_calls[0]["args"]["a"] = 2
    blocks.content[0]["text"] = "no"  # type: ignore[index]
    assert not set(before) & set(interner.all([called, blocks]))


def test_what_is_stored_is_not_handed_out_again() -> None:
    """Until somebody confirms that it is stored, everything comes with each run that needs it."""
    interner, talk = Interner(), [HumanMessage("hi", id="1"), AIMessage("yes", id="2")]
    interner.conversation(talk)
    first, confirm = interner.take()
    interner.conversation(talk)
    assert interner.take()[0] == first
    confirm()
    interner.conversation([*talk, HumanMessage("more", id="3")])
    again, _ = interner.take()
    assert (len(again.bodies), len(again.lists)) == (1, 1)
    interner.conversation(talk)
    assert interner.take()[0] == Interned()


def test_a_message_that_was_changed_is_another() -> None:
    """A message whose id stayed and whose fields did not, as after an edit, is stored as it is now."""
    interner = Interner()
    one = interner.message(AIMessage("yes", id="1"))
    called = [{"name": "add", "args": {}, "id": "c", "type": "tool_call"}]
    assert interner.message(AIMessage("yes", id="1", tool_calls=called)) != one
    assert interner.message(AIMessage("no", id="1")) != one


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=12), st.data())
def test_every_list_comes_back(talks: list[list[str]], data: st.DataObject) -> None:
    """Whatever lists share a beginning, whichever runs are dropped, what is stored can be read."""
    interner, shelf = Interner(), Shelf()
    for talk in talks:
        messages = [HumanMessage(text, id=text) for text in talk]
        key = interner.conversation(messages)
        interned, confirm = interner.take()
        if data.draw(st.booleans()):
            shelf.put(interned)
            confirm()
            assert [message.content for message in shelf.read(key)] == talk


def test_a_list_is_named_by_its_messages_alone() -> None:
    """Another process, which saw the conversation in other pieces, gives the list the same name."""
    talk = [HumanMessage(str(number), id=str(number)) for number in range(9)]
    grown, whole = Interner(), Interner()
    for length in (1, 4, 5, 9):
        key = grown.conversation(talk[:length])
    assert key == whole.conversation(talk)


def test_messages_come_back_whole() -> None:
    """LangChain reads from the store what it was asked to store."""
    call = {"name": "add", "args": {"a": 1}, "id": "c", "type": "tool_call"}
    talk: list[BaseMessage] = [
        SystemMessage("be kind", id="s"),
        HumanMessage([{"type": "text", "text": "look"}], id="h", name="ann"),
        AIMessage(
            [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "yes"}],
            id="a",
            tool_calls=[call],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            response_metadata={"model_name": "m"},
            additional_kwargs={"reasoning_content": "why"},
        ),
        ToolMessage("3", tool_call_id="c", id="t", status="error", artifact={"rows": [1]}),
    ]
    interner, shelf = Interner(), Shelf()
    key = interner.conversation(talk)
    shelf.put(interner.take()[0])
    assert shelf.read(key) == talk


TEXTS = st.text(max_size=12)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.builds(
    lambda text, more: {**more, "type": "text", "text": text}, TEXTS, st.dictionaries(TEXTS, JSON, max_size=2)
)
CONTENTS = TEXTS | st.lists(TEXTS | BLOCKS, max_size=3)
IDS = st.none() | st.sampled_from("123")
CALLS = st.lists(
    st.builds(
        lambda name, args, key: {"name": name, "args": args, "id": key, "type": "tool_call"},
        TEXTS,
        st.dictionaries(TEXTS, JSON, max_size=3),
        st.none() | TEXTS,
    ),
    max_size=2,
)
MESSAGES = st.one_of(
    st.builds(lambda content, key, name: HumanMessage(content, id=key, name=name), CONTENTS, IDS, st.none() | TEXTS),
    st.builds(lambda content, key: SystemMessage(content, id=key), TEXTS, IDS),
    st.builds(lambda content, key, calls: AIMessage(content, id=key, tool_calls=calls), CONTENTS, IDS, CALLS),
    st.builds(
        lambda content, key, status, artifact: ToolMessage(
            content, id=key, tool_call_id="c", status=status, artifact=artifact
        ),
        CONTENTS,
        IDS,
        st.sampled_from(["success", "error"]),
        JSON,
    ),
)


def told(messages: list[BaseMessage]) -> list[Any]:
    """Return messages so that they can be compared: what is empty and what is absent is the same."""
    return [
        {name: value for name, value in message.model_dump().items() if value or value in (0, "")}
        for message in messages
    ]


@settings(max_examples=80)
@given(st.lists(st.lists(MESSAGES, max_size=4), min_size=1, max_size=3))
def test_what_goes_in_comes_out(pieces: list[list[BaseMessage]]) -> None:
    """Any conversation, as it grows, is read as it was; what was stored before is linked to and not stored again."""
    interner, shelf, talk, before = Interner(), Shelf(), list[BaseMessage](), None
    for piece in pieces:
        talk = [*copy.deepcopy(talk), *piece]
        key = interner.conversation(talk)
        interned, confirm = interner.take()
        assert len(set(interned.bodies) - set(shelf.bodies)) <= len(piece)
        shelf.put(interned)
        confirm()
        assert told(shelf.read(key)) == told(talk)
        assert len(interned.lists) <= bool(piece)
        if before is not None and interned.lists:
            assert shelf.lists[str(key)][0] == before
            assert len(shelf.lists[str(key)][1]) == len(piece)
        before = key
    assert Interner().conversation(talk) == before


def test_half_a_character_costs_no_message() -> None:
    """A lone surrogate, which no database takes, is replaced; whatever stands around it comes back."""
    call = {"name": "f", "args": {"big": 10**30, "half": "\ud800"}, "id": "c", "type": "tool_call"}
    interner, shelf = Interner(), Shelf()
    key = interner.conversation([AIMessage("a\ud83d b", id="1", tool_calls=[call])])
    shelf.put(interner.take()[0])
    (read,) = shelf.read(key)
    assert isinstance(read, AIMessage)
    assert (read.content, read.tool_calls[0]["args"]) == ("a? b", {"big": 10**30, "half": "?"})


def test_a_long_text_is_cut_and_says_so() -> None:
    """A result of megabytes does not fill the store: its beginning, its length and the hash of the whole are kept."""
    interner, shelf = Interner(longest_text=10_000), Shelf()
    key = interner.conversation([ToolMessage("x" * 5_000_000, tool_call_id="c", id="t")])
    shelf.put(interner.take()[0])
    (read,) = shelf.read(key)
    assert len(read.content) < 1_200
    assert "[cut here: 5000000 characters, SHA-256 " in str(read.content)


def test_texts_are_redacted_before_they_are_hashed() -> None:
    """What must not be stored is neither in the body nor behind the hash; ids stay: calls need them."""
    call = {"name": "mail", "args": {"to": "ann@example.org"}, "id": "ann@example.org", "type": "tool_call"}
    interner, shelf = Interner(lambda text: text.replace("ann@example.org", "[email]")), Shelf()
    key = interner.conversation([AIMessage("write to ann@example.org", id="1", tool_calls=[call])])
    shelf.put(interner.take()[0])
    (read,) = shelf.read(key)
    assert isinstance(read, AIMessage)
    assert (read.content, read.tool_calls[0]["args"]["to"]) == ("write to [email]", "[email]")
    assert read.tool_calls[0]["id"] == "ann@example.org"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, encoded: list[Any]) -> None:
    """The oldest messages, lists and values are forgotten, and serialised again when they come back."""
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    interner = Interner()
    for number in range(100):
        interner.message(HumanMessage(str(number), id=str(number)))
        interner.value([number])
        interner.take()
    assert (len(interner._messages), len(interner._values)) == (10, 10)
    encoded.clear()
    interner.message(HumanMessage("0", id="0"))
    interner.message(HumanMessage("99", id="99"))
    assert len(encoded) == 1
