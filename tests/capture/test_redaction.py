"""What is masked, and what only looks like it."""

from __future__ import annotations

import time

import pytest

from langgraph_learnloop.capture.redaction import mask, redacted


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to ann.b+c@mail.example.org now", "write to [email] now"),
        ("(ann@example.org)", "([email])"),
        ("call +49 30 901820 today", "call [phone] today"),
        ("call +1 (415) 555-2671", "call [phone]"),
        ("call 415-555-2671.", "call [phone]."),
        ("call (030) 901820-11", "call [phone]"),
        ("call \u0664\u0661\u0665-\u0665\u0665\u0665-\u0662\u0666\u0667\u0661", "call [phone]"),
        ("my card is 4111 1111 1111 1111, thanks", "my card is [card], thanks"),
        ("5500005555555559", "[card]"),
        ("pay to DE89 3704 0044 0532 0130 00 please", "pay to [iban] please"),
        ("GB82WEST12345698765432", "[iban]"),
        ("from 192.168.0.1 to 10.0.0.255:8080", "from [ip] to [ip]:8080"),
        ("at 2001:db8::ff00:42:8329 and ::1", "at [ip] and [ip]"),
        ("Authorization: Bearer abcdef0123456789ABCDEF", "Authorization: Bearer [secret]"),
        ("authorization: BEARER abcdefghijklmnopqrst", "authorization: BEARER [secret]"),
        ("key sk-proj-abcdefghijklmnop1234567890", "key [secret]"),
        ("sk-ant-api03-abcdefghijklmnop", "[secret]"),
        ("pk-lf-12345678-1234-1234-1234-123456789012", "[secret]"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[secret]"),
        ("sk_live_abcdefghijklmnop", "[secret]"),
        ("github_pat_abcdefghijklmnopqrstuv", "[secret]"),
        ("npm_abcdefghijklmnopqrstuvwxyz", "[secret]"),
        ("xoxb-123456789012-abcdefghij", "[secret]"),
        ("xoxb-abcdefghij", "[secret]"),
        ("ASIAIOSFODNN7EXAMPLE", "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuv", "[secret]"),
        ("hf_abcdefghijklmnopqrstuvwxyzABCDEF", "[secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk", "[secret]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "[secret]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut off", "[secret]"),
    ],
)
def test_what_is_private_is_masked(text: str, masked: str) -> None:
    """Each kind of thing is replaced by its name, and nothing around it."""
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-21 at 12:34:56",
        "2026-11-21T12:34:56.789Z",
        "set a timer for 213 days and 7 minutes",
        "order 12345678 costs 1,299.00",
        "card 4111 1111 1111 1112 has a slip",
        "version 1.2.3 and 1.2.3.4.5",
        "999.1.1.1",
        "GB82WEST12345698765433",
        "a@b and @ann",
        "task-force, disk-based, risk_of_something",
        "std::vector<int>, C++::x",
        "the ratio is 3:4",
        "id 0194f3a2-7b1c-7def-8abc-0123456789ab",
        "3.14159265358979",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    """Dates, amounts, versions, ids, and numbers whose check digit is wrong are no one's data."""
    assert mask(text) == text


def test_nested_values_are_redacted_and_some_keys_are_not() -> None:
    """Texts at any depth, and no keys, numbers or fields that are kept."""
    value = {"id": "a@b.org", "say": ["a@b.org", {"a@b.org": 1}], "n": 5}
    assert redacted(value, mask, {"id"}) == {"id": "a@b.org", "say": ["[email]", {"a@b.org": 1}], "n": 5}


@pytest.mark.parametrize("hostile", ["@" * 50_000, "a." * 50_000 + "@", "1 " * 50_000, "-" * 100_000, "1234-" * 20_000,
                                     "AB12 " * 20_000, "::" * 50_000, "eyJ" * 30_000, "0 12" * 20_000])  # fmt: skip
def test_no_text_takes_for_ever(hostile: str) -> None:
    """Time grows with the length of a text, whatever it is made of: a hundred kilobytes take no minute."""
    began = time.process_time()
    mask(hostile)
    assert time.process_time() - began < 20
