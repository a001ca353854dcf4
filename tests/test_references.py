"""Images, audio and files go out of a message and come back letter for letter."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from langgraph_learnloop.references import Blobs, referenced, whole, with_references

DATA = os.urandom(5_000)
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": TEXT, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}},
        {"type": "input_audio", "input_audio": {"data": TEXT, "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{TEXT}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
    ],
)
def test_a_blob_goes_out_and_comes_back(block: dict[str, Any]) -> None:
    """In every provider's form, the bytes are kept once and the block is small."""
    blobs = Blobs()
    content = [{"type": "text", "text": "look"}, block, block]
    small = with_references(content, blobs)
    (kept,) = blobs.take().items()
    assert len(str(small)) < 600
    assert referenced(small) == {kept[0]}
    assert whole(small, dict([kept])) == content
    assert blobs.take() == {}


def test_a_blob_that_is_too_large_leaves_its_hash() -> None:
    """What exceeds the cap is not kept: its hash and size are."""
    blobs = Blobs(largest=100)
    small = with_references([{"type": "image", "base64": TEXT}], blobs)
    assert blobs.take() == {}
    assert small[0]["base64"].endswith(":5000:left-out")
    assert referenced(small) == set()
    assert whole(small, {}) == small


@pytest.mark.parametrize("text", ["A" * 5_001, "not base64! " * 500, "A" * 5_000 + "B==", "short"])
def test_what_is_no_base64_stays(text: str) -> None:
    """Only what comes back letter for letter is taken out."""
    content = [{"type": "image", "base64": text}]
    assert with_references(content, Blobs()) == content


def test_words_are_left_alone() -> None:
    """A long text is text, even if it could be base64."""
    content = [{"type": "text", "text": TEXT}, TEXT, {"type": "thinking", "thinking": TEXT}]
    assert with_references(content, Blobs()) == content


def test_a_reference_in_words_is_not_followed() -> None:
    """Somebody who writes a reference into a message does not get the bytes."""
    content = [{"type": "text", "text": "learnloop-blob:" + "0" * 64 + ":5"}]
    assert referenced(content) == set()
    assert whole(content, {"0" * 64: b"secret"}) == content
