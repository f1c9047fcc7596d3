"""Content as a whole: what is announced is what goes out, in both forms, small and large."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.body.encode import KEEP_LIMIT, Facts, MessageContent, as_stored, examine
from zsmtp.body.source import Source
from zsmtp.errors import ContentError


def prepare(header: bytes, source: Source) -> MessageContent:
    return as_stored(examine(header, source), source)


HEADER = b"From: a@example.org\nTo: b@example.net\n"
HEADER_WIRE = b"From: a@example.org\r\nTo: b@example.net\r\n\r\n"
TEXT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"\0", b"\xe4", b"\n.\n", b"\n.\r\n", b"\r.\r", b"x" * 998]),
    max_size=40,
).map(b"".join)


class SmallBlocks(Source):
    """A source too large to be kept, so its blocks, of a few octets, are read again each time."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(BytesIO(data), 0, len(data))
        self.size = KEEP_LIMIT + 1
        self.data = data
        self.sizes = sizes or [7]

    def blocks(self, block_size: int = 0) -> Iterator[bytes]:
        at = number = 0
        while at < len(self.data):
            length = self.sizes[number % len(self.sizes)]
            yield self.data[at : at + length]
            at += length
            number += 1


def slow_content(header: bytes, body: bytes) -> bytes:
    """The canonical content, line by line; bytes.splitlines splits at CRLF, CR and LF and nothing else."""
    header_lines = [line for line in re.sub(rb"\r(?!\n)", b" ", header).splitlines() if line]
    return b"".join(line + b"\r\n" for line in [*header_lines, b"", *body.splitlines()])


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


@given(TEXT, TEXT, st.lists(st.integers(1, 50), max_size=4), st.booleans())
@example(b"", b"", [], False)
@example(b"", b".", [1], True)
@example(b"A: b\n", b"\r\n.\r\n", [1], True)
def test_what_is_announced_is_what_goes_out(header: bytes, body: bytes, sizes: list[int], large: bool) -> None:
    content = prepare(header, SmallBlocks(body, sizes) if large else Source.from_bytes(body))
    expected = slow_content(header, body)
    for _ in range(2):  # a content can be sent any number of times
        assert b"".join(content.chunk_blocks()) == expected
        wire = b"".join(content.data_blocks())
        assert receive(wire) == expected
        assert wire.index(b"\r\n.\r\n") == len(wire) - 5 if b"\r\n.\r\n" in wire else wire == b".\r\n"
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    assert content.size == len(expected)
    assert content.header_size == expected.find(b"\r\n\r\n") + 4 or expected.startswith(b"\r\n")
    assert content.facts == Facts(
        eight_bit=any(octet > 127 for octet in expected),
        nul=0 in expected,
        long_lines=any(len(line) > 998 for line in expected.split(b"\r\n")),
        bare_cr=len(re.findall(rb"\r(?!\n)", header)) + len(re.findall(rb"\r(?!\n)", body)),
    )


def test_small_message_is_one_block_and_read_once() -> None:
    file = BytesIO(b"Hello\n.dot\nno end")
    content = prepare(HEADER, Source(file, 0, 17))
    file.close()
    assert list(content.chunk_blocks()) == [HEADER_WIRE + b"Hello\r\n.dot\r\nno end\r\n"]
    assert list(content.data_blocks()) == [HEADER_WIRE + b"Hello\r\n..dot\r\nno end\r\n.\r\n"]
    assert (content.size, content.header_size) == (len(HEADER_WIRE) + 21, len(HEADER_WIRE))


def test_empty_body() -> None:
    content = prepare(HEADER, Source.from_bytes(b""))
    assert list(content.data_blocks()) == [HEADER_WIRE + b".\r\n"]
    assert content.size == content.header_size == len(HEADER_WIRE)


def test_empty_header_and_body() -> None:
    assert list(prepare(b"", Source.from_bytes(b"")).data_blocks()) == [b"\r\n.\r\n"]


@pytest.mark.parametrize(("size", "readings"), [(KEEP_LIMIT, 1), (KEEP_LIMIT + 1, 3)])
def test_only_small_bodies_are_kept(size: int, readings: int) -> None:
    class CountingFile(BytesIO):
        read_from_start = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.read_from_start += offset == 0
            return super().seek(offset, whence)

    file = CountingFile(b"x" * 63 * 5000)
    content = prepare(HEADER, Source(file, 0, size))
    for _ in range(2):
        assert sum(map(len, content.chunk_blocks())) == content.size == len(HEADER_WIRE) + size + 2
    assert file.read_from_start == readings


def test_header_rides_with_the_first_block_of_a_large_body() -> None:
    content = prepare(HEADER, SmallBlocks(b"one\ntwo\n", [4]))
    assert list(content.chunk_blocks()) == [HEADER_WIRE + b"one\r\n", b"two\r\n"]
    assert list(content.data_blocks()) == [HEADER_WIRE + b"one\r\n", b"two\r\n.\r\n"]


class GeneratedFile:
    """A file of ``size`` octets that is nowhere: lines of 64 octets, one in 16 starting with a dot."""

    lines = (b"." + b"y" * 62 + b"\n") + (b"x" * 63 + b"\n") * 15

    def __init__(self) -> None:
        self.offset = 0

    def seek(self, offset: int, /) -> int:
        self.offset = offset
        return offset

    def read(self, size: int, /) -> bytes:
        skip = self.offset % len(self.lines)
        return (self.lines * (size // len(self.lines) + 2))[skip : skip + size]


def test_memory_does_not_grow_with_the_message() -> None:
    size = 64 * 1024 * 1024
    tracemalloc.start()
    try:
        content = prepare(HEADER, Source(GeneratedFile(), 0, size))
        octets = sum(map(len, content.data_blocks()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert content.size == len(HEADER_WIRE) + size + size // 64
    assert octets == content.size + size // 1024 + len(b".\r\n")
    assert peak < 8 * 1024 * 1024


def large_content(body: bytes) -> tuple[MessageContent, BytesIO]:
    file = BytesIO(body)
    return prepare(HEADER, Source(file, 0, len(body))), file


LARGE = (b"x" * 63 + b"\n") * 10_000


def collect(blocks: Iterator[bytes], sent: bytearray) -> None:
    for block in blocks:
        sent += block


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.truncate(300_000),
        lambda file: (file.seek(639_999), file.write(b"x")),
        lambda file: (file.seek(639_998), file.write(b"\n")),
        lambda file: (file.seek(63), file.write(b"x")),
        lambda file: (file.seek(0), file.write(b"\n" * 640_000)),
        lambda file: (file.seek(300_000), file.write(b"\xe4")),
    ],
    ids=[
        "cut short",
        "last line end gone",
        "one line end more",
        "one line end less",
        "nothing but line ends",
        "8-bit octets",
    ],
)
def test_a_file_that_changes_never_goes_out_whole(change: Callable[[BytesIO], object]) -> None:
    assert len(LARGE) == 640_000
    content, file = large_content(LARGE)
    change(file)
    for blocks in (content.chunk_blocks(), content.data_blocks()):
        sent = bytearray()
        with pytest.raises(ContentError):
            collect(blocks, sent)
        assert len(sent) < content.size
        assert b"\r\n.\r\n" not in sent


def test_remarks() -> None:
    header = b"Subject: \xe4\rb\n"
    body = b"a\rb\r" + b"x" * 999 + b"\0\n"
    content = prepare(header, Source.from_bytes(body))
    assert content.remarks == (
        "bare CRs in the header block made blanks: 1",
        "bare CRs in the body made line ends: 2",
        "8-bit octets in the header block go as they are",
        "NUL octets go as they are",
        "lines of over 998 octets go as they are",
    )


def test_ordinary_mail_has_no_remarks() -> None:
    content = prepare(HEADER, Source.from_bytes(b"Hello\n"))
    assert content.facts == Facts(eight_bit=False, nul=False, long_lines=False, bare_cr=0)
    assert content.remarks == ()


def test_unreadable_file() -> None:
    with pytest.raises(ContentError, match="octet 5"):
        prepare(HEADER, Source(BytesIO(b"Hello"), 0, 10))
