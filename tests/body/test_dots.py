"""Dot-stuffing, against RFC 5321 4.5.2 read line by line, and undone as a receiver undoes it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.dots import DotStuffer
from zsmtp.body.dots import stuffed as whole

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"a", b".\0", b"word word"]), max_size=12)
CUTS = st.lists(st.integers(0, 200), max_size=8)


def stuffed(content: bytes, places: list[int]) -> bytes:
    edges = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    dots = DotStuffer()
    blocks = [dots.stuff(content[a:b]) for a, b in pairwise(edges)]
    return b"".join(blocks) + dots.terminator()


def receive(wire: bytes) -> bytes:
    """What a receiver makes of the octets after the 354; nothing may follow the final dot."""
    content = b""
    while True:
        line, end, wire = wire.partition(b"\r\n")
        assert end, "the wire ends without the final dot"
        if line == b".":
            assert wire == b"", "the final dot came too early"
            return content
        content += line.removeprefix(b".") + end


@given(LINES, CUTS)
@example([b"a", b".", b".b"], [3])
@example([b"a", b".", b".b"], [2])
@example([b"."], [])
def test_any_lines_in_any_blocks(lines: list[bytes], places: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire = stuffed(content, places)
    assert wire == b"".join((b"." if line[:1] == b"." else b"") + line + b"\r\n" for line in lines) + b".\r\n"
    assert receive(wire) == content


@given(LINES, LINES)
def test_a_whole_content_is_stuffed_as_its_blocks_are(head: list[bytes], body: list[bytes]) -> None:
    parts = [b"".join(line + b"\r\n" for line in lines) for lines in (head, body)]
    assert whole(*parts) == stuffed(b"".join(parts), [])


def test_dots_inside_lines_stay() -> None:
    assert stuffed(b"a.b..\r\n", []) == b"a.b..\r\n.\r\n"


def test_empty_blocks_change_nothing() -> None:
    dots = DotStuffer()
    assert dots.stuff(b"") + dots.stuff(b".a\r\n") + dots.stuff(b"") + dots.stuff(b".\r\n") == b"..a\r\n..\r\n"


def test_no_content_at_all() -> None:
    assert DotStuffer().terminator() == b".\r\n"


def test_terminator_stands_on_a_line_of_its_own() -> None:
    assert stuffed(b"no line end", []) == b"no line end\r\n.\r\n"
