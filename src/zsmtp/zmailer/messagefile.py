"""Opens message files on disk, and reads their bodies with few descriptors.

The scheduler starts its agents with a limit of 32 descriptors, and a message may be in progress for minutes before its
last reply is in. So a message file is open only while it is read. Opening a FIFO or a device does not block::

    with_body = open_message("../queue/12345-6789", body_offset)
    source = Source(with_body, body_offset, with_body.size)
"""

from __future__ import annotations

import errno
import os
import stat

from zsmtp.body.encode import KEEP_LIMIT
from zsmtp.errors import SpoolError
from zsmtp.zmailer.locks import NOT_THERE, OPEN_FLAGS, system_error


class MessageMissing(SpoolError):
    """There is no message file, or it is no regular file: the message can never be sent."""


class MessageFile:
    """An open message file for ``zsmtp.body.source``, positioned at the first octet of the body.

    The position is kept here, not in the descriptor. ``inode`` and ``mtime_ns`` (time of last change, nanoseconds since
    1970) make the spool id; ``size`` is in octets.

    The descriptor is closed at the end of the file. A body of at most ``KEEP_LIMIT`` octets is read at once and kept; a
    longer one is opened again for another reading, and must be the same file then.
    """

    __slots__ = ("_at", "_body", "_body_offset", "_closed", "_fd", "inode", "mtime_ns", "path", "size")

    def __init__(self, path: str, fd: int, at: int, status: os.stat_result) -> None:
        self.path = path
        self.inode = status.st_ino
        self.mtime_ns = status.st_mtime_ns
        self.size = status.st_size
        self._fd = fd
        self._at = at
        self._body_offset = at
        self._body: bytes | None = None
        self._closed = False

    def seek(self, offset: int, /) -> int:
        """Set the position of the next read."""
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """At most ``size`` octets, ``b""`` at the end. Raises OSError."""
        first, length = self._body_offset, self.size - self._body_offset
        if length > KEEP_LIMIT or self._at < first:
            data = self._pread(size, self._at)
            if self._at + len(data) >= self.size:
                self._give_back()
        else:
            if self._body is None:
                self._body = self._pread(length, first)
                self._give_back()
            start = self._at - first
            data = self._body[start : start + size]
        self._at += len(data)
        return data

    def _pread(self, size: int, at: int) -> bytes:
        if self._closed:
            raise ValueError("the message file is closed")
        if self._fd < 0:
            self._open_again()
        return os.pread(self._fd, size, at)

    def _open_again(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | OPEN_FLAGS)
        status = os.fstat(fd)
        if (status.st_ino, status.st_size, status.st_mtime_ns) != (self.inode, self.size, self.mtime_ns):
            os.close(fd)
            raise OSError(errno.ESTALE, "the message file changed while it was sent")
        self._fd = fd

    def _give_back(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def holds_descriptor(self) -> bool:
        """Whether the file is open now."""
        return self._fd >= 0

    @property
    def closed(self) -> bool:
        """Whether the file is closed for reading."""
        return self._closed

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        self._closed = True
        self._body = None
        self._give_back()


def open_message(path: str, body_offset: int) -> MessageFile:
    """Open the message file ``path``, whose body starts at ``body_offset``.

    Raises MessageMissing if there is none or it is not a regular file (every recipient has failed), SystemTrouble if
    the system fails to open it, plain SpoolError if it is shorter than ``body_offset``: nothing is sent, a later try
    may succeed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except (OSError, ValueError) as problem:
        code = problem.errno if isinstance(problem, OSError) else errno.EINVAL
        if code in NOT_THERE:
            raise MessageMissing(path, None, "message file is missing") from problem
        if code == errno.ENXIO:  # a socket, or a device without driver
            raise MessageMissing(path, None, "message file is missing (not a regular file)") from problem
        raise system_error(path, "open", problem) from problem
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise MessageMissing(path, None, "message file is missing (not a regular file)")
        if status.st_size < body_offset:
            raise SpoolError(path, body_offset, f"the body starts beyond the end of the message ({status.st_size})")
    except BaseException as problem:
        os.close(fd)
        if isinstance(problem, OSError):
            raise system_error(path, "read", problem) from problem
        raise
    return MessageFile(path, fd, body_offset, status)
