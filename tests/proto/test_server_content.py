"""Content as a server reads it, against RFC 5321 4.5.2 read line by line; and whatever could smuggle a message."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.dots import DotStuffer
from zsmtp.proto.server_content import MAX_BLOCK, ChunkReader, DataReader
from zsmtp.proto.server_events import Abort
from zsmtp.proto.server_replies import make_reply

PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"\0", b"a", b"\xff", b"text"]), max_size=14)
CUTS = st.lists(st.integers(0, 60), max_size=8)
NO_ROOM = make_reply(452, "4.3.1", "no room")


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    """The octets in blocks cut at these places."""
    edges = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[a:b] for a, b in pairwise(edges)]


def data(blocks: list[bytes], *, max_size: int = 1 << 20, max_line: int = 1000) -> tuple[DataReader, bytes, bytes]:
    """A reader that was given these blocks, the content it gave, and the octets it left behind the end."""
    reader = DataReader(max_size=max_size, max_line=max_line)
    content, rest = b"", b""
    for block in blocks:
        rest += block
        while not reader.ended:
            given, taken = reader.read(rest, 0)
            content += given
            rest = rest[taken:]
            if not taken:
                break
    return reader, content, rest


def chunks(blocks: list[bytes], *, binary: bool = False, max_size: int = 1 << 20) -> tuple[ChunkReader, bytes]:
    """A reader that was given each block as a chunk, and the content it gave."""
    reader = ChunkReader(max_size=max_size, max_line=1000, binary=binary)
    content = b""
    for block in blocks:
        reader.begin(len(block))
        given, taken = reader.read(block, 0)
        assert taken == len(block)
        assert reader.left == 0
        content += given
    reader.finish()
    return reader, content


def expected(wire: bytes) -> tuple[bytes, bytes, Abort | None]:
    """Content, rest and fault by RFC 5321 4.5.2, from octets behind DATA that hold CRLF.CRLF: written for clarity."""
    end = (b"\r\n" + wire).index(b"\r\n.\r\n")
    raw, rest = (b"\r\n" + wire)[2 : end + 2], (b"\r\n" + wire)[end + 5 :]
    bare = raw.replace(b"\r\n", b"")
    cr = next((i for i, octet in enumerate(raw) if octet == 13 and raw[i + 1 : i + 2] != b"\n"), None)
    lf = next((i for i, octet in enumerate(raw) if octet == 10 and (i == 0 or raw[i - 1] != 13)), None)
    nul = raw.find(b"\0") if b"\0" in raw else None
    lines = raw.split(b"\r\n")
    content = b"\r\n".join(line[1:] if line[:1] == b"." else line for line in lines)
    found = ((cr, Abort.BARE_CR), (lf, Abort.BARE_LF), (nul, Abort.NUL))
    faults = [(place, reason) for place, reason in found if place is not None]
    assert bool(faults) == any(octet in bare for octet in b"\r\n\0")
    return (b"", rest, min(faults)[1]) if faults else (content, rest, None)


@given(PIECES, CUTS)
@example([b".", b"\r\n"], [1, 2])
@example([b"a", b"\r\n", b".", b"\r", b"\r\n"], [])
@example([b"\n", b".", b"\r\n"], [])
@example([b"a", b"\n", b".", b"\r\n", b".", b"\r\n"], [2, 3])
def test_any_octets_in_any_blocks(pieces: list[bytes], places: list[int]) -> None:
    wire = b"".join(pieces) + b"\r\n.\r\nQUIT\r\n"
    content, rest, fault = expected(wire)
    reader, given, left = data(cut(wire, places))
    assert reader.ended
    assert (reader.fault.reason if reader.fault else None) is fault
    if fault is None:
        assert given == content
        assert reader.octets == len(content)
    assert left == rest


@given(PIECES, CUTS, st.integers(0, 40), st.integers(2, 12))
def test_the_first_fault_is_the_same_however_the_octets_are_cut(
    pieces: list[bytes], places: list[int], max_size: int, max_line: int
) -> None:
    wire = b"".join(pieces) + b"\r\n.\r\n"
    whole, _, _ = data([wire], max_size=max_size, max_line=max_line)
    parts, given, _ = data(cut(wire, places), max_size=max_size, max_line=max_line)
    assert parts.fault == whole.fault
    assert len(given) <= max_size
    content, _, fault = expected(wire)
    if whole.fault is None:
        assert (given, fault) == (content, None)
    elif whole.fault.reason is Abort.TOO_LARGE:
        assert fault is not None or len(content) > max_size
    elif whole.fault.reason is Abort.LONG_LINE:
        assert fault is not None or max(len(line) + 2 for line in wire.split(b"\r\n")) > max_line


@given(st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"word word", b"\x80"]), max_size=12), CUTS)
def test_what_the_client_stuffs_comes_out_again(lines: list[bytes], places: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    dots = DotStuffer()
    wire = dots.stuff(content) + dots.terminator()
    reader, given, left = data(cut(wire, places))
    assert (given, left, reader.fault) == (content, b"", None)


ENDS = {
    "LF dot LF": b"\n.\n",
    "CR dot CR": b"\r.\r",
    "LF dot CRLF": b"\n.\r\n",
    "CR dot CRLF": b"\r.\r\n",
    "CRLF dot LF": b"\r\n.\n",
    "CRLF dot CR": b"\r\n.\r",
    "CRLF CR dot CRLF": b"\r\n\r.\r\n",
    "CRLF dot CR CRLF": b"\r\n.\r\r\n",
    "LF dot LF CRLF": b"\n.\n\r\n",
    "CR LF CR dot": b"\r\n\r.",
    "NUL before the dot": b"\r\n\0.\r\n",
    "NUL behind the dot": b"\r\n.\0\r\n",
    "NUL before LF": b"\r\n.\r\0\n",
    "NUL in the first line end": b"\r\0\n.\r\n",
    "vertical tab": b"\x0b.\x0b",
    "NEL": b"\x85.\x85",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_nothing_else_ends_a_message(end: bytes) -> None:
    """Wherever the octets are cut: what stands behind the false end is content, and a message with one is refused."""
    smuggled = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: forged\r\n"
    wire = b"Subject: x\r\n\r\nhello" + end + smuggled + b"\r\n.\r\n"
    text = end.strip(b"\x0b\x85.") == b""
    for place in range(len(wire)):
        reader, content, left = data(cut(wire, [place]))
        assert reader.ended
        assert left == b""
        assert (reader.fault is None) is text
        if text:
            assert content == wire[:-3]


def test_the_first_fault_is_named_with_its_place() -> None:
    wire = b"..ab\r\nc\rd\ne\r\n.\r\n"
    for place in range(len(wire)):
        reader, _, _ = data(cut(wire, [place]))
        assert reader.fault is not None
        assert reader.fault.reply.lines == (b"5.6.0 a CR without LF, at octet 8 of the content",)
    reader, _, _ = data([b"ab\0\r\n.\r\n"])
    assert reader.fault is not None
    assert b"a NUL, at octet 3" in reader.fault.reply.lines[0]


@pytest.mark.parametrize("wire", [b".\r\n", b"..\r\n.\r\n", b".a\r\n.\r\n", b"\r\n.\r\n"])
def test_dots_right_behind_the_command(wire: bytes) -> None:
    for place in range(len(wire)):
        reader, content, left = data(cut(wire + b"NOOP\r\n", [place]))
        assert reader.ended
        assert left == b"NOOP\r\n"
        assert (
            content == {b".\r\n": b"", b"..\r\n.\r\n": b".\r\n", b".a\r\n.\r\n": b"a\r\n", b"\r\n.\r\n": b"\r\n"}[wire]
        )


@pytest.mark.parametrize(("octets", "fault"), [(1000, None), (1001, Abort.TOO_LARGE)])
def test_size_counts_what_is_behind_the_dots(octets: int, fault: Abort | None) -> None:
    content = (b"." * 98 + b"\r\n") * 9 + b"x" * (octets - 902) + b"\r\n"
    dots = DotStuffer()
    reader, given, _ = data([dots.stuff(content) + dots.terminator()], max_size=1000)
    assert reader.ended
    assert (reader.fault.reason if reader.fault else None) is fault
    assert given == (b"" if fault else content)


@given(st.integers(0, 3000), st.lists(st.integers(0, 5000), max_size=6))
def test_lines_over_the_limit(length: int, places: list[int]) -> None:
    wire = b"a\r\n" * 50 + b"x" * length + b"\r\n" + b"b\r\n" * 50 + b".\r\n"
    reader, _, _ = data(cut(wire, places))
    assert (reader.fault is not None) is (length + 2 > 1000)
    assert reader.fault is None or reader.fault.reason is Abort.LONG_LINE
    chunked, _ = chunks(cut(wire[:-3], places))
    assert (chunked.fault is not None) is (length + 2 > 1000)


def test_blocks_are_bounded_however_much_is_there() -> None:
    wire = b"0123456789abcd\r\n" * (3 * MAX_BLOCK // 16) + b".\r\n"
    reader = DataReader(max_size=1 << 30, max_line=1000)
    start, sizes = 0, []
    while not reader.ended:
        block, start = reader.read(wire, start)
        sizes.append(len(block))
    assert max(sizes) <= MAX_BLOCK
    assert sum(sizes) == len(wire) - 3
    chunk = ChunkReader(max_size=1 << 30, max_line=1000, binary=True)
    chunk.begin(len(wire))
    assert len(chunk.read(wire, 0)[0]) == MAX_BLOCK


@given(PIECES, CUTS)
def test_chunks_are_the_same_text_however_they_are_cut(pieces: list[bytes], places: list[int]) -> None:
    text = b"".join(pieces)
    whole, content = chunks([text])
    parts, given = chunks(cut(text, places))
    assert whole.fault == parts.fault
    if whole.fault is None:
        assert given == content == text
        assert text.replace(b"\r\n", b"").strip(b"a.xte\xff") == b""
    binary, given = chunks(cut(text, places), binary=True)
    assert (given, binary.fault) == (text, None)


def test_a_cr_at_the_very_end_of_chunks_is_bare() -> None:
    reader, _ = chunks([b"abc\r\n", b"d\r"])
    assert reader.fault is not None
    assert reader.fault.reply.lines == (b"5.6.0 a CR without LF, at octet 7 of the content",)


def test_a_chunk_takes_its_octets_and_no_more() -> None:
    reader = ChunkReader(max_size=100, max_line=1000, binary=False)
    reader.begin(4)
    assert reader.read(b"abcdQUIT\r\n", 0) == (b"abcd", 4)
    assert reader.read(b"abcdQUIT\r\n", 4) == (b"", 4)


def test_that_chunks_are_too_large_is_known_before_they_come() -> None:
    reader = ChunkReader(max_size=10, max_line=1000, binary=False)
    reader.begin(6)
    assert reader.read(b"123456", 0) == (b"123456", 6)
    reader.begin(5)
    assert reader.fault is not None
    assert reader.fault.reason is Abort.TOO_LARGE
    assert reader.read(b"12345NOOP", 0) == (b"", 5)


def test_refused_content_is_read_to_its_end() -> None:
    reader = DataReader(max_size=100, max_line=1000)
    reader.refuse(NO_ROOM)
    assert reader.read(b"a\r\n.\r\nQUIT", 0) == (b"", 6)
    assert reader.ended
    assert reader.fault is not None
    assert reader.fault.reply is NO_ROOM
