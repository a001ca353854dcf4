"""Store each message once: turn messages, lists of them and JSON values into hashes, and serialise only what is new.

An agent sends its whole conversation at every model call, and a checkpointer hands out fresh copies of it at every
turn. So a message is recognised by its id and content, and a list of messages is a link to the list it continues plus
what came after. What a thread costs, in time and in storage, grows with what is new in it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import zstandard
from langchain_core.messages import BaseMessage

from langgraph_learnloop.capture.messages import cut, encode, plain, raw_text
from langgraph_learnloop.capture.redaction import redacted
from langgraph_learnloop.records import COMPRESSION, Interned
from langgraph_learnloop.references import MARK, Blobs, with_references

Redact = Callable[[str], str]
"""Returns a text without what must not be stored."""

_DIGITS = 32
"""Hex digits of a hash: 128 bits of SHA-256 or BLAKE2."""
_REMEMBERED_BYTES = 32_000_000
"""Compressed bytes of messages that are remembered, so that they need not be serialised again."""
_REMEMBERED = 20_000
"""Messages, lists and values that are remembered at most, of each."""
_BLOB = MARK.encode()
_MAY_BE_EMPTY = frozenset({type(None), list, dict})
"""Types of fields that say nothing when they are empty."""
_UNCHANGING = frozenset({type(None), bool, int, float, str})
_NEVER_REDACTED = frozenset({"id", "type", "tool_call_id", "model_name", "model_provider", "finish_reason"})


class Interner:
    """Turn messages into hashes and keep, until it is taken, what a store must have to read them. For one thread.

    What `take` returns refers to nothing that is not in it or was `confirmed` to be stored before: a run that is
    dropped takes nothing with it that another run needs.
    """

    def __init__(self, redact: Redact | None = None, longest_text: int = 1_000_000, largest_blob: int = 0) -> None:
        """Redact every text with `redact`; cut texts beyond `longest_text` characters, and blobs beyond some bytes."""
        self._redact = redact
        self._longest_text = longest_text
        self._blobs = Blobs(largest_blob)
        self._compressor = zstandard.ZstdCompressor(COMPRESSION)
        self._objects: dict[int, tuple[BaseMessage, _Item]] = {}
        self._messages: OrderedDict[Any, tuple[dict[str, Any], _Item]] = OrderedDict()
        self._values: OrderedDict[str, _Item] = OrderedDict()
        self._lists: OrderedDict[str, tuple[tuple[str, ...], _List]] = OrderedDict()
        self._bytes = 0
        self._used: dict[str, _Item] = {}
        self._used_lists: dict[str, _List] = {}

    def take(self) -> tuple[Interned, Callable[[], None]]:
        """Return what must be stored for all that was interned since the last call, and whom to tell that it is."""
        lists: dict[str, _List] = {}
        for one in self._used_lists.values():
            _collect(one, lists)
        items = {key: item for key, item in self._used.items() if not item.stored}
        taken = Interned(
            bodies={key: item.body for key, item in items.items()},
            lists={key: (one.parent_key, one.items) for key, one in lists.items()},
            blobs=self._blobs.take(),
        )
        self._objects, self._used, self._used_lists = {}, {}, {}
        return taken, lambda: _confirm(items, lists)

    def message(self, message: BaseMessage) -> str:
        """Return a message's hash."""
        known = self._objects.get(id(message))
        if known is None:
            # The message is kept beside its hash: an id is only unique as long as its object lives.
            known = self._objects[id(message)] = (message, self._item(message))
            self._used[known[1].key] = known[1]
        return known[1].key

    def all(self, messages: Iterable[BaseMessage]) -> tuple[str, ...]:
        """Return the hashes of messages, in order."""
        known = self._objects  # asked here, for most of a long conversation was seen a moment ago
        found = [(message, known.get(id(message))) for message in messages]
        return tuple(self.message(message) if item is None else item[1].key for message, item in found)

    def conversation(self, messages: Sequence[BaseMessage]) -> str | None:
        """Return the hash of a list of messages; None for no messages."""
        keys = self.all(messages)
        if not keys:
            return None
        known, length = self._longest_known(keys)
        if length < len(keys):
            before = known.key if known else None
            known = _List(_chained(before or "", keys[length:]), known, before, keys[length:])
            self._lists[keys[-1]] = (keys, known)
            if len(self._lists) > _REMEMBERED // 20:
                self._lists.popitem(last=False)
        assert known is not None  # noqa: S101 - there is at least one message
        self._used_lists[known.key] = known
        return known.key

    def value(self, value: Any) -> str:
        """Return the hash of a value, kept as JSON."""
        body = encode(value)
        key = _hash(body)
        item = self._values.get(key)
        if item is None:
            item = self._values[key] = _Item(key, self._compressor.compress(body))
            if len(self._values) > _REMEMBERED:
                self._values.popitem(last=False)
        self._used[key] = item
        return key

    def _item(self, message: BaseMessage) -> _Item:
        fields = message.__dict__
        content = fields.get("content")
        name = (type(message), fields.get("id"), content if isinstance(content, str) else None)
        known = self._messages.get(name)
        if known is not None and _same(known[0], fields):
            self._messages.move_to_end(name)
            return known[1]
        body = self._body(message)
        item = _Item(_hash(body), self._compressor.compress(body))
        if _BLOB not in body:  # the bytes of images must come with each run until they are stored, and are too many
            self._remember(name, fields, item)
        return item

    def _remember(self, name: Any, fields: dict[str, Any], item: _Item) -> None:
        try:  # who holds the message may change what is in it later
            kept = {key: _copied(value) if type(value) in (dict, list) else value for key, value in fields.items()}
        except Exception:  # noqa: BLE001 - what a value does when it is copied is not known here
            return
        replaced = self._messages.pop(name, None)
        self._messages[name] = (kept, item)
        self._bytes += len(item.body) - (len(replaced[1].body) if replaced else 0)
        while len(self._messages) > _REMEMBERED or self._bytes > _REMEMBERED_BYTES:
            _, (_, oldest) = self._messages.popitem(last=False)
            self._bytes -= len(oldest.body)

    def _body(self, message: BaseMessage) -> bytes:
        fields = {
            name: value
            for name, value in message.__dict__.items()
            if name == "content" or (name != "example" and (type(value) not in _MAY_BE_EMPTY or value))
        }
        try:
            if not isinstance(fields.get("content", ""), str):
                fields["content"] = with_references(fields["content"], self._blobs)
            return self._fitting(message.type, fields)
        except Exception:  # noqa: BLE001 - whatever a field of it cannot do, its text is worth keeping
            return self._fitting(message.type, {"content": raw_text(message), "id": message.id})

    def _fitting(self, kind: str, fields: dict[str, Any]) -> bytes:
        if self._redact is not None:
            fields = redacted(fields, self._redact, _NEVER_REDACTED)
        body = encode({"type": kind, "data": fields})
        if len(body) <= self._longest_text:
            return body
        return encode({"type": kind, "data": cut(plain(fields), self._longest_text)})

    def _longest_known(self, keys: tuple[str, ...]) -> tuple[_List | None, int]:
        """Return the longest list that these messages continue, and how many of them it holds."""
        for length in range(len(keys), 0, -1):
            found = self._lists.get(keys[length - 1])
            if found is not None and len(found[0]) == length and found[0] == keys[:length]:
                self._lists.move_to_end(keys[length - 1])
                return found[1], length
        return None, 0


def _copied(value: Any) -> Any:
    """Return a deep copy; of JSON's own types in a quarter of the time that `deepcopy` takes."""
    kind = type(value)
    if kind in _UNCHANGING:
        return value
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if kind is list else deepcopy(value)


@dataclass(slots=True, eq=False)
class _Item:
    """A serialised message or value."""

    key: str
    body: bytes
    stored: bool = False


@dataclass(slots=True, eq=False)
class _List:
    """A list of messages: the list it continues, and what comes after."""

    key: str
    parent: _List | None
    parent_key: str | None
    items: tuple[str, ...]
    stored: bool = False


def _same(known: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Return whether the fields of a message are what they were; values that cannot be compared are not."""
    try:
        return known == fields
    except Exception:  # noqa: BLE001 - arrays and tables, such as tools return beside their text, raise
        return False


def _collect(one: _List | None, into: dict[str, _List]) -> None:
    """Add a list and those it continues, as far as they are not stored."""
    while one is not None and not one.stored and one.key not in into:
        into[one.key] = one
        one = one.parent


def _confirm(items: Mapping[str, _Item], lists: Mapping[str, _List]) -> None:
    for item in items.values():
        item.stored = True
    for one in lists.values():
        one.stored, one.parent = True, None  # a long conversation must not be held by its last list


def _chained(key: str, items: Sequence[str]) -> str:
    """Return the hash of a list that goes on from the list `key`: it does not depend on where the list was cut."""
    for item in items:
        key = hashlib.blake2b(f"{key}{item}".encode(), digest_size=_DIGITS // 2).hexdigest()
    return key


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:_DIGITS]
