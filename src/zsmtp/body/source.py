"""The source of a message body: a range of an open file.

A message file holds an envelope and the original header first; the body starts at an offset and runs to the end of the
file. A :class:`Source` is that range, ``[start, end)`` in octets, and can be read any number of times (a message may go
to several servers, in several transactions). It opens nothing: the caller keeps the file open as long as the source is
in use, and closes it.

The end is fixed when the source is made. A file that is shorter when read is an error, never a shorter message::

    with open(path, "rb", buffering=0) as file:
        source = Source(file, start=512, end=os.fstat(file.fileno()).st_size)
        for block in source.blocks():
            ...
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Protocol

from zsmtp.effects import FileBlock
from zsmtp.errors import ContentError

BLOCK_SIZE = 262_144
"""Octets read at a time: large enough to amortise Python's cost per block, small enough to keep memory flat."""

READ_AHEAD = 4 * BLOCK_SIZE
"""Octets of a file that are read ahead together."""


class BinaryFile(Protocol):
    """The file methods that a source needs. ``read`` may return fewer octets than asked for; ``b""`` is the end."""

    def seek(self, offset: int, /) -> object: ...

    def read(self, size: int, /) -> bytes | None: ...


class Source:
    """The octets ``[start, end)`` of an open file; ``size`` is how many, before any conversion.

    Raises :class:`~zsmtp.errors.ContentError` if the range is invalid (``start`` negative or beyond ``end``).
    """

    __slots__ = ("end", "file", "size", "start")

    def __init__(self, file: BinaryFile, start: int, end: int) -> None:
        if not 0 <= start <= end:
            raise ContentError(f"the body cannot lie at octets {start} to {end}")
        self.file = file
        self.start = start
        self.end = end
        self.size = end - start

    @classmethod
    def from_bytes(cls, data: bytes) -> Source:
        """A source of octets already in memory."""
        return cls(BytesIO(data), 0, len(data))

    def part(self, start: int, end: int) -> Source:
        """The octets ``[start, end)`` of this source; raises as the class does if they are not within it."""
        if end > self.end - self.start:
            raise ContentError(f"the body has no octets {start} to {end}")
        return Source(self.file, self.start + start, self.start + end)

    def blocks(self, block_size: int = BLOCK_SIZE) -> Iterator[bytes]:
        """The octets from the start, in blocks of at most ``block_size``; each call starts at the beginning.

        Every read seeks first, so that iterations over one open file do not disturb one another. Raises
        :class:`~zsmtp.errors.ContentError`, naming the offset in the file, if it ends early or cannot be read.
        """
        offset = self.start
        while offset < self.end:
            block = self._read(offset, min(block_size, self.end - offset))
            offset += len(block)
            yield block

    def ahead(self, offset: int) -> FileBlock | None:
        """What is read next after ``offset`` octets, if another stretch of ``READ_AHEAD`` begins there, else None."""
        left = self.size - offset
        if left <= 0 or offset % READ_AHEAD:
            return None
        return FileBlock(self.file, self.start + offset, min(left, READ_AHEAD))

    def read(self) -> bytes:
        """All octets at once; raises as :meth:`blocks` does."""
        size = self.size
        if not size:
            return b""
        data = self._read(self.start, size)
        return data if len(data) == size else b"".join(self.blocks())

    def _read(self, offset: int, size: int) -> bytes:
        try:
            self.file.seek(offset)
            block = self.file.read(size)
        except Exception as error:  # a caller's file may raise anything: EOFError, zlib.error, BadZipFile, ...
            reason = str(error) or type(error).__name__
            raise ContentError(f"the message cannot be read at octet {offset}: {reason}") from error
        if not block:
            raise ContentError(f"the message ends at octet {offset}, {self.end - offset} octets early")
        return block
