"""A stretch of an open file: every octet of it, each time, or an error that says where."""

from __future__ import annotations

import gzip
import random
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.body.source import Source
from zsmtp.errors import ContentError


class DrippingFile(BytesIO):
    """A file whose reads give less than asked for, as the read of a raw file may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 3))


class BrokenFile(BytesIO):
    """A file whose disk fails at octet 10."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 10:
            raise OSError(5, "Input/output error")
        return super().read(size)


class NonBlockingFile(BytesIO):
    """A raw file in non-blocking mode that has nothing to give."""

    def read(self, size: int | None = -1, /) -> None:  # type: ignore[override]
        return None


@given(st.binary(max_size=60), st.data(), st.integers(1, 70))
def test_blocks_are_the_range(data: bytes, draw: st.DataObject, block_size: int) -> None:
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    source = Source(BytesIO(data), start, end)
    blocks = list(source.blocks(block_size))
    assert b"".join(blocks) == data[start:end]
    assert all(0 < len(block) <= block_size for block in blocks)
    assert source.size == end - start
    assert b"".join(source.blocks()) == source.read() == data[start:end], "a second reading starts anew"


def test_short_reads_are_continued() -> None:
    assert b"".join(Source(DrippingFile(b"0123456789"), 2, 9).blocks()) == b"2345678"


def test_short_reads_of_a_whole_body_are_continued() -> None:
    assert Source(DrippingFile(b"0123456789"), 1, 9).read() == b"12345678"


def test_two_readings_of_one_file_do_not_disturb_each_other() -> None:
    file = BytesIO(b"aabbccdd")
    head = Source(file, 0, 4).blocks(2)
    tail = Source(file, 4, 8).blocks(2)
    assert [next(head), next(tail), next(head), next(tail)] == [b"aa", b"cc", b"bb", b"dd"]


def test_real_unbuffered_file(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"envelope\nbody\n")
    with path.open("rb", buffering=0) as file:
        assert b"".join(Source(file, 9, 14).blocks()) == b"body\n"


def test_from_bytes() -> None:
    source = Source.from_bytes(b"body\n")
    assert source.size == 5
    assert list(source.blocks()) == [b"body\n"]


def test_file_that_ends_early_names_the_offset() -> None:
    reading = Source(BytesIO(b"0123456789"), 2, 20).blocks(8)
    assert next(reading) == b"23456789"
    with pytest.raises(ContentError, match="ends at octet 10, 10 octets early"):
        next(reading)


def test_read_error_names_the_offset() -> None:
    reading = Source(BrokenFile(b"x" * 30), 0, 30).blocks(10)
    next(reading)
    with pytest.raises(ContentError, match=r"octet 10: .*Input/output error"):
        next(reading)


def test_files_of_programs_raise_what_they_like() -> None:
    octets = BytesIO(gzip.compress(random.Random(1).randbytes(5000))[:2000])
    with gzip.open(octets) as file, pytest.raises(ContentError, match="ended before the end-of-stream"):
        list(Source(file, 0, 5000).blocks())


def test_closed_file() -> None:
    file = BytesIO(b"body")
    file.close()
    with pytest.raises(ContentError, match="octet 0"):
        list(Source(file, 0, 4).blocks())


def test_file_without_data_at_the_moment() -> None:
    with pytest.raises(ContentError, match="octet 0"):
        list(Source(NonBlockingFile(b"body"), 0, 4).blocks())


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (6, 5)])
def test_impossible_range(start: int, end: int) -> None:
    with pytest.raises(ContentError):
        Source(BytesIO(b"012345"), start, end)
