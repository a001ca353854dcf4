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


def key(mark: str, length: int) -> str:
    return mark + ("aB3dE6gH9" * 5)[:length]


MARKS = "sk- pk- sk_ pk_ rk_".split()  # noqa: SIM905
GIT = "ghp_ gho_ ghs_ ghu_ ghr_ github_pat_ glpat- npm_".split()  # noqa: SIM905
SHORTEST = {
    **dict.fromkeys(MARKS, 16), **dict.fromkeys(GIT, 20), **{f"xox{c}-": 10 for c in "abeoprs"}, "AIza": 35, "hf_": 30
}  # fmt: skip


@pytest.mark.parametrize("mark", SHORTEST)
def test_keys_of_the_shortest_length(mark: str) -> None:
    """Every mark of a secret with as much behind it as makes it one, and not with one character less."""
    secret = key(mark, SHORTEST[mark]).replace("_aB", "_xB") if mark == "hf_" else key(mark, SHORTEST[mark])
    assert mask(f"({secret}) it is") == "([secret]) it is"
    assert mask(f"({secret[:-1]}) it is") == f"({secret[:-1]}) it is"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Bearer abcdefghij012345", "Bearer [secret]"),
        ("Bearer abcdefghij012345==.", "Bearer [secret]."),
        ("bearer  abcdefghij01234", "bearer  abcdefghij01234"),
        ("eyJabcdefgh.eyJabcdefgh.abcdefgh", "[secret]"),
        ("eyJabcdefg.eyJabcdefgh.abcdefgh", "eyJabcdefg.eyJabcdefgh.abcdefgh"),
        ("eyJabcdefgh.eyJabcdefg.abcdefgh", "eyJabcdefgh.eyJabcdefg.abcdefgh"),
        ("eyJabcdefgh.eyJabcdefgh.abcdefg", "eyJabcdefgh.eyJabcdefgh.abcdefg"),
        ("AKIAIOSFODNN7EXAMPLEX", "AKIAIOSFODNN7EXAMPLEX"),
        ("-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----.", "[secret]."),
        (
            "-----BEGIN A PRIVATE KEY-----\n1\n-----END A PRIVATE KEY----- and "
            "-----BEGIN B PRIVATE KEY-----\n2\n-----END B PRIVATE KEY-----.",
            "[secret] and [secret].",
        ),
        (f"-----BEGIN {'A' * 18} PRIVATE KEY-----\n1\n-----END {'A' * 18} PRIVATE KEY-----.", "[secret]."),
        (f"-----BEGIN {'A' * 19} PRIVATE KEY-----", f"-----BEGIN {'A' * 19} PRIVATE KEY-----"),
        (f"-----BEGIN PRIVATE KEY-----\n1\n-----END {'A' * 19} PRIVATE KEY----- x", "[secret]"),
        ("a@b.de", "[email]"),
        ("a@b.c", "a@b.c"),
        (f"{'x' * 65}@b.org", "x[email]"),
        (f"a@{'x' * 63}.org", "[email]"),
        (f"a@{'x' * 64}.org", f"a@{'x' * 64}.org"),
        (f"a@{'b.' * 8}org", "[email]"),
        (f"a@{'b.' * 9}org", f"a@{'b.' * 9}org"),
        (f"a@b.{'c' * 24}", "[email]"),
        (f"a@b.{'c' * 25}", f"a@b.{'c' * 25}"),
        ("::1", "[ip]"),
        ("a :: b", "a :: b"),
        (":::", ":::"),
        ("::ffff:10.0.0.1", "[ip]"),
        ("::ffff:10.0.0.1.5", "[ip].5"),
        ("2001:0db8:1111:2222:3333:4444:5555:6666", "[ip]"),
        ("1.2.3.1234", "1.2.3.1234"),
        ("1.2.3.4a", "1.2.3.4a"),
        ("4222222222222", "[card]"),
        ("4222 2222 2222 2", "[card]"),
        ("6304 0000 0000 0000 000", "[card]"),
        ("63040000000000000000", "63040000000000000000"),
        ("422222222222", "422222222222"),
        ("+1234567", "[phone]"),
        ("+123456", "+123456"),
        ("+123456789012345", "[phone]"),
        ("+1234567890123456", "+1234567890123456"),
        ("0049 30 901820", "[phone]"),
        ("+33 1 23 45 67 89", "[phone]"),
        ("+33 1 23 45 67 89 10 11", "[phone] 11"),
        ("+49(30)901820", "[phone]"),
        ("(30) 901820", "[phone]"),
        ("(030)901820", "[phone]"),
        ("(12345) 6789", "[phone]"),
        ("(123456) 7890", "(123456) 7890"),
        ("(03012) 45-67890", "[phone]"),
        ("(030) 12345678", "[phone]"),
        ("(030) 123456789", "(030) 123456789"),
        ("(030) 11 22 33 44 55", "[phone] 55"),
        ("(03) 12-12345678", "[phone]"),
        ("(03) 12-123456789", "(03) 12-123456789"),
        ("415.555.2671", "[phone]"),
        ("415-555-26711", "415-555-26711"),
        ("03 9018200", "[phone]"),
        ("01234 567890", "[phone]"),
        ("012345 67890", "012345 67890"),
        ("030 12 34 56", "[phone]"),
        ("030 11 22 33 44 55", "[phone] 55"),
        ("030 12345678", "[phone]"),
        ("030 123456789", "030 123456789"),
    ],
)
def test_where_a_thing_begins_and_ends(text: str, masked: str) -> None:
    """The shortest and the longest of each kind, and what is one character beyond it."""
    assert mask(text) == masked


def iban(length: int) -> str:
    """Return an account number of a length, with the right check digits."""
    rest = ("AB123456" * 5)[: length - 4]
    digits = int("".join(str(int(character, 36)) for character in f"{rest}DE00"))
    return f"DE{98 - digits % 97:02}{rest}"


@pytest.mark.parametrize("length", range(12, 36))
def test_account_numbers_of_every_length(length: int) -> None:
    """From twelve to thirty-five characters, together or in groups of four."""
    number = iban(length)
    assert mask(number) == "[iban]"
    assert mask(" ".join(number[at : at + 4] for at in range(0, length, 4))) == "[iban]"


@pytest.mark.parametrize("length", [11, 36])
def test_account_numbers_of_no_length(length: int) -> None:
    """What is shorter or longer than any is none."""
    assert mask(iban(length)) == iban(length)


class Flag(int):
    """A number of a kind of its own."""


def test_values_of_any_kind_are_redacted() -> None:
    """Tuples become lists, numbers of any kind stay, and what is no JSON is made so before it is looked at."""
    seven = Flag(7)
    value = {"t": ("a@b.org", 1.5, None, True), "n": seven, "s": {"a@b.org"}, "keep": ["a@b.org"]}
    found = redacted(value, mask, ("keep",))
    assert found == {"t": ["[email]", 1.5, None, True], "n": 7, "s": ["[email]"], "keep": ["a@b.org"]}
    assert found["n"] is seven


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
