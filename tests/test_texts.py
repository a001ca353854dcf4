"""Texts that nobody vouches for can be shown: nothing in them steers, and none is too long."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.texts import cut, one_line, quoted, short, visible


def test_visible_keeps_what_people_write() -> None:
    """Letters of every script, line ends and tabs stay; what steers is spelled out."""
    assert visible("Größe 漢字\r\n\tok") == "Größe 漢字\n\tok"
    assert visible("\x1b[2J\u202e") == "\\u001b[2J\\u202e"


@given(st.text())
def test_visible_text_is_printable_or_blank(text: str) -> None:
    """Whatever the text is, no control, format, private or unassigned character and no odd line break is left."""
    left = {unicodedata.category(c) for c in visible(text).replace("\n", "").replace("\t", "")}
    assert left.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def test_what_is_cut_says_how_much_is_missing() -> None:
    """A text of the allowed length stays as it is."""
    assert cut("abcde", 5) == "abcde"
    assert cut("a" * 1_505, 5) == "aaaaa [1,500 more characters]"


def test_what_is_short_is_no_longer_than_allowed() -> None:
    """The mark of what is missing counts as a character."""
    assert short("abcde", 5) == "abcde"
    assert short("abcdef", 5) == "abcd…"
    assert (quoted("a"), len(quoted("a" * 100))) == ("'a'", 80)


def test_what_others_say_fits_into_a_sentence() -> None:
    """It is one line without its full stop, steers nothing, and ends somewhere."""
    assert one_line(ValueError("no room\n  on\x07 disk.")) == "no room on\\u0007 disk"
    assert len(one_line("a" * 1_000)) == 300
