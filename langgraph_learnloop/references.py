"""Take images, audio and files out of messages: their bytes are kept once, under their hash, beside the store."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

_SHORTEST = 1024
"""Characters of base64 that are worth a blob."""
_TEXT = frozenset({"text", "reasoning", "thinking", "signature", "summary"})
"""Fields of a content block that hold words, however long."""
_DATA = re.compile(r"(data:[\w.+/;=-]{0,200};base64,)?([A-Za-z0-9+/]+={0,2})")
MARK = "learnloop-blob:"
"""What a reference to a blob begins with."""
_REFERENCE = re.compile(r"(data:[\w.+/;=-]{0,200};base64,)?" + MARK + r"([0-9a-f]{64}):(\d+)(:left-out)?")


class Blobs:
    """Keep the bytes that were taken out of messages until somebody stores them."""

    def __init__(self, largest: int = 0) -> None:
        """Keep nothing beyond `largest` bytes: of that, only hash and size are known. 0 is no limit."""
        self._largest = largest
        self._found: dict[str, bytes] = {}

    def take(self) -> dict[str, bytes]:
        """Return what was put in since the last call, by its SHA-256, and forget it."""
        found, self._found = self._found, {}
        return found

    def put(self, data: bytes) -> str:
        """Return what stands for some bytes in a message."""
        digest = hashlib.sha256(data).hexdigest()
        if self._largest and len(data) > self._largest:
            return f"{MARK}{digest}:{len(data)}:left-out"
        self._found[digest] = data
        return f"{MARK}{digest}:{len(data)}"


def with_references(content: Any, blobs: Blobs) -> Any:
    """Return a message's content with references in place of long base64."""
    return _walk(content, lambda text: _stored(text, blobs))


def referenced(content: Any) -> set[str]:
    """Return the hashes of the blobs that a content refers to."""
    found: set[str] = set()

    def note(text: str) -> str:
        reference = _REFERENCE.fullmatch(text)
        if reference and not reference[4]:
            found.add(reference[2])
        return text

    _walk(content, note)
    return found


def whole(content: Any, blobs: dict[str, bytes]) -> Any:
    """Return a content with the bytes back in it; a reference to what is not in `blobs` stays."""

    def filled(text: str) -> str:
        reference = _REFERENCE.fullmatch(text)
        if reference is None or reference[4] or reference[2] not in blobs:
            return text
        return (reference[1] or "") + base64.b64encode(blobs[reference[2]]).decode("ascii")

    return _walk(content, filled)


def _stored(text: str, blobs: Blobs) -> str:
    if len(text) < _SHORTEST:
        return text
    found = _DATA.fullmatch(text)
    if found is None:
        return text
    try:
        data = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return text
    # What would not come back letter for letter stays.
    return (found[1] or "") + blobs.put(data) if base64.b64encode(data).decode("ascii") == found[2] else text


def _walk(value: Any, change: Any, name: str = "") -> Any:
    if isinstance(value, str):
        return value if name in _TEXT or not name else change(value)
    if isinstance(value, dict):
        return {key: _walk(item, change, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, change, name) for item in value]
    return value
