"""Spool ids, read back character by character, and the sender addresses made from them."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsmtp.zmailer.spoolid import spool_id, verp

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123abcdefghijklmnopqrstuvwxyz4567890-="
NOON = calendar.timegm((2023, 1, 1, 12, 0, 0)) * 1_000_000_000


def number(text: str) -> int:
    """What the characters stand for; only for texts without the ambiguous "0"."""
    value = 0
    for character in text:
        value = value * 64 + ALPHABET.index(character)
    return value


def test_the_id_of_a_message_of_the_zmailer_agent() -> None:
    assert spool_id(2564876, NOON) == "S2564876AbjAAMAA"


def test_nanoseconds_are_there_only_if_they_are_not_zero() -> None:
    assert spool_id(1, NOON + 5) == "S1AbjAAMAAAAAAF"
    assert number(spool_id(1, NOON + 123_456_789)[-5:]) == 123_456_789


def test_the_last_moment_of_a_year() -> None:
    moment = calendar.timegm((2024, 12, 31, 23, 59, 59)) * 1_000_000_000 + 999_999_999
    text = spool_id(9, moment)
    assert [number(text[2:5]), *map(number, text[5:10])] == [2024, 11, 30, 23, 59, 59]
    assert len(text) == 2 + 3 + 5 + 5


def test_codes_62_and_63() -> None:
    assert spool_id(1, NOON + 62)[-1] == "0"
    assert spool_id(1, NOON + 63)[-1] == "-"


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(-(2**100), 2**100))
def test_any_file_has_an_id(inode: int, mtime_ns: int) -> None:
    text = spool_id(inode, mtime_ns)
    assert text.startswith(f"S{inode}")
    assert len(text) - len(f"S{inode}") in {8, 13}
    assert set(text[1:]) <= set(ALPHABET)


@settings(deadline=None)
@given(st.integers(0, 2**33), st.integers(0, 2**33))
def test_different_seconds_have_different_ids(one: int, other: int) -> None:
    same = spool_id(1, one * 1_000_000_000) == spool_id(1, other * 1_000_000_000)
    # The 0 makes 2010 and 2046 alike, and every 64 years' pair like them.
    assert same is (one == other) or spool_id(1, one * 1_000_000_000)[4] == "0"


@pytest.mark.parametrize(
    ("sender", "tag", "expected"),
    [
        (b"list-return@example.org", b"-x", b"list-return-x-S1A@example.org"),
        (b'"a b"@example.org', b"-x", b'"a b-x-S1A"@example.org'),
        (b'"a\\\\"@example.org', b"-x", b'"a\\\\-x-S1A"@example.org'),
        (b'"a\\""@example.org', b"-x", b'"a\\"-x-S1A"@example.org'),
        (b'"a@b"@example.org', b'x"y', b'"a@bx\\"y-S1A"@example.org'),
        (b"list@example.org", b"x(y", b'"listx(y-S1A"@example.org'),
        (b"list@example.org", b"x@y", b'"listx@y-S1A"@example.org'),
        (b"list@example.org", b"..x", b'"list..x-S1A"@example.org'),
        (b"list@example.org", b".x=y", b"list.x=y-S1A@example.org"),
        (b"@a.example,@b.example:u@c.example", b"-x", b"@a.example,@b.example:u-x-S1A@c.example"),
        (b"@a.example:u@c.example", b"x,y", b'@a.example:"ux,y-S1A"@c.example'),
        (b'@a.example:"u v"@c.example', b"-x", b'@a.example:"u v-x-S1A"@c.example'),
        (b"u@[192.0.2.1]", b"-x", b"u-x-S1A@[192.0.2.1]"),
        (b"postmaster", b"-x", b"postmaster-x-S1A"),
        (b'"a@b"', b"-x", b'"a@b-x-S1A"'),
        (b"", b"-x", b""),
    ],
)
def test_sender_addresses(sender: bytes, tag: bytes, expected: bytes) -> None:
    assert verp(sender, tag, "S1A") == expected


@settings(deadline=None)
@given(st.binary(min_size=1), st.binary(min_size=1))
def test_the_domain_is_never_touched(sender: bytes, tag: bytes) -> None:
    address = verp(sender + b"@example.org", tag, "S1A")
    assert address.endswith((b"-S1A@example.org", b'-S1A"@example.org'))
