"""Show texts that nobody vouches for: what could steer a terminal or a page is spelled out, what is long is cut."""

from __future__ import annotations

import unicodedata

_LONGEST_QUOTE = 80
"""Characters of a value in a sentence."""
_LONGEST_REASON = 300
"""Characters of what somebody else says, in a sentence."""


def visible(text: str) -> str:
    """Return text with its control and direction characters spelled out, so that it can steer nothing."""
    lines = text.replace("\r\n", "\n")
    return lines if lines.isprintable() else "".join(c if _is_harmless(c) else f"\\u{ord(c):04x}" for c in lines)


def cut(text: str, longest: int) -> str:
    """Return a text, or its beginning with how much more there is."""
    return text if len(text) <= longest else f"{text[:longest]} [{len(text) - longest:,} more characters]"


def short(text: str, longest: int) -> str:
    """Return a text of at most so many characters, which ends in "…" where it went on."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def quoted(value: object) -> str:
    """Return a value as code, shortened, for a sentence that must say which one."""
    return short(repr(value), _LONGEST_QUOTE)


def one_line(said: object) -> str:
    """Return what somebody else says, for a sentence: shortened, on one line and without its full stop."""
    return short(visible(" ".join(str(said).split()).rstrip(".")), _LONGEST_REASON)


def _is_harmless(character: str) -> bool:
    return character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs"
