"""Text that cannot mislead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.escape import escape, shortened


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 2.6.0 Message accepted", "250 2.6.0 Message accepted"),
        (b"", ""),
        ("größe 日本".encode(), "größe 日本"),
        (b"a\tb\r\nc", "a\\tb\\r\\nc"),
        (b"\x00\x01\x1b[2J\x7f", "\\x00\\x01\\x1b[2J\\x7f"),
        (b"\xff\xc3(", "\\xff\\xc3("),
        (b"back\\slash", "back\\slash"),
        ("\x85\u202e\u2028\ufeff", "\\u0085\\u202e\\u2028\\ufeff"),
        ("\U000e0001", "\\U000e0001"),
        ("\udcff\ud800", "\\xff\\ud800"),
    ],
)
def test_escape(data: bytes | str, expected: str) -> None:
    assert escape(data) == expected


@given(st.binary() | st.text())
def test_what_is_escaped_is_printable_and_stays_so(data: bytes | str) -> None:
    text = escape(data)
    assert text.isprintable()
    assert escape(text) == text
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("12345", "12345"), ("123456", "12..."), ("1" * 600, "11...")]
)
def test_what_is_left_out_is_marked(text: str, expected: str) -> None:
    assert shortened(text, 5) == expected
