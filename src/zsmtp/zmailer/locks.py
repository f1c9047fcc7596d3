"""Control files on disk: opening them, taking and releasing recipients, appending diagnostics.

No other module opens a control file for writing. A recipient is locked by the state tag ``~`` and a process id in
the 6 bytes after it; ``+``, ``-`` and blank release it. Those 7 bytes, and ``d`` records at the end, are all that is
ever written: the file is never rewritten, truncated or created::

    with open_control("12345-6789") as spool:
        taken = spool.take_all(spool.control.recipients, pid=os.getpid())
        ...
        spool.release(taken[0], Mark.DELIVERED)

Two agents may race for one recipient. Here the test for a blank tag and the write over it happen under an ``fcntl``
record lock, one for all recipients that lie close together, so one of them wins; an agent that ignores record locks
still does not get past a ``~`` that is there, and what was written is read back. The lock is the bytes in the file; the
record lock is held for microseconds. Whatever was taken and not released is blanked when the file is closed.
:func:`open_message` opens the message file beside it. Neither waits for a FIFO or a device.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache
from types import TracebackType
from typing import Self

from zsmtp.errors import SpoolError
from zsmtp.zmailer.control import FILE_LIMIT, ControlFile, Recipient, parse

PATIENCE = 2.0  # seconds to wait for a record lock; those of other agents last for microseconds
STRETCH = 64 * 1024  # octets of a control file under one record lock

_OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LOCKED_BY_ANOTHER = frozenset({errno.EACCES, errno.EAGAIN})
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Mark(Enum):
    """What a recipient is released with: its new state tag."""

    DELIVERED = b"+"  # the remote server took it
    FAILED = b"-"  # for good
    TODO = b" "  # deferred: to be tried again


_TODO = Mark.TODO  # asked of the class it costs more


class MessageMissing(SpoolError):
    """There is no message file, or something that is no regular file: the message can never be sent."""


class MessageFile:
    """An open message file, as ``zsmtp.body.source`` reads it; it stands at the first octet of the body.

    Where it stands is known here only. ``inode`` and ``mtime_ns`` (time of last change, nanoseconds since 1970) make
    the spool id; ``size`` is in octets.
    """

    __slots__ = ("_at", "_fd", "inode", "mtime_ns", "path", "size")

    def __init__(self, path: str, fd: int, at: int, status: os.stat_result) -> None:
        self.path = path
        self.inode = status.st_ino
        self.mtime_ns = status.st_mtime_ns
        self.size = status.st_size
        self._fd = fd
        self._at = at

    def seek(self, offset: int, /) -> int:
        """Read from ``offset`` on next."""
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """At most ``size`` octets, ``b""`` at the end. Raises OSError."""
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    @property
    def closed(self) -> bool:
        """Whether nothing can be read any more."""
        return self._fd < 0

    def close(self) -> None:
        """Close the file; once is enough."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_control(path: str, *, patience: float = PATIENCE) -> OpenControl:
    """Open and read the control file ``path``; ``patience`` is how long :meth:`OpenControl.take` waits, in seconds.

    Raises SpoolError if it cannot be opened, is not a regular file, or is not a valid control file.
    """
    fd = _open(path, os.O_RDWR)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SpoolError(path, None, "not a regular file")
        control = parse(path, _read_all(path, fd, status.st_size))
    except BaseException as problem:
        os.close(fd)
        if isinstance(problem, OSError):
            raise _system_error(path, "read", problem) from problem
        raise
    return OpenControl(control, fd, patience)


def open_message(path: str, body_offset: int) -> MessageFile:
    """Open the message file ``path``, whose body starts at ``body_offset``.

    Raises MessageMissing if there is none or it is not a regular file (every recipient has failed), plain SpoolError
    if it is shorter than ``body_offset`` or the system fails to open it (nothing is sent; a later try may succeed).
    """
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except (OSError, ValueError) as problem:
        code = problem.errno if isinstance(problem, OSError) else errno.EINVAL
        if code in _NOT_THERE:
            raise MessageMissing(path, None, "message file is missing") from problem
        if code == errno.ENXIO:  # a socket, or a device without driver
            raise MessageMissing(path, None, "message file is missing (not a regular file)") from problem
        raise _system_error(path, "open", problem) from problem
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise MessageMissing(path, None, "message file is missing (not a regular file)")
        if status.st_size < body_offset:
            raise SpoolError(path, body_offset, f"the body starts beyond the end of the message ({status.st_size})")
    except BaseException as problem:
        os.close(fd)
        if isinstance(problem, OSError):
            raise _system_error(path, "read", problem) from problem
        raise
    return MessageFile(path, fd, body_offset, status)


class OpenControl:
    """A control file that is open for marking (see :func:`open_control`). Not for use by several threads at once."""

    def __init__(self, control: ControlFile, fd: int, patience: float) -> None:
        self.control = control
        self._fd = fd
        self._append_fd = -1
        self._patience = patience
        # By offset of the state tag: the bytes that are a lock of this process, and what they are to give way to.
        self._taken: dict[int, tuple[bytes, Mark]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Blank what is still locked by this process, and close the file; once is enough.

        A mark that could not be written is tried again; if that fails, the recipient stays locked: to say it is to be
        done would send a delivered message twice.
        """
        if self._fd < 0:
            return
        for at, (lock, mark) in list(self._taken.items()):
            with contextlib.suppress(SpoolError):
                self._replace(at, lock, mark)
        self._taken.clear()
        os.close(self._fd)
        if self._append_fd >= 0:
            os.close(self._append_fd)
        self._fd = self._append_fd = -1

    def take(self, recipient: Recipient, *, pid: int) -> bool:
        """Lock one recipient, as :meth:`take_all` does; whether it is taken."""
        return bool(self.take_all((recipient,), pid=pid))

    def take_all(self, recipients: Sequence[Recipient], *, pid: int) -> list[Recipient]:
        """Lock those of ``recipients`` for the process ``pid`` whose state tag is blank (still); returns them.

        Of a process id of more than 6 digits the last 6 are written. Raises SpoolError if the file cannot be read or
        written, or another process sits on the record lock for longer than the patience; what was taken before that
        is blanked on :meth:`close`.
        """
        if len(recipients) == 1:
            return self._take_stretch(recipients, pid)
        taken: list[Recipient] = []
        for stretch in _stretches(recipients):
            taken += self._take_stretch(stretch, pid)
        return taken

    def _take_stretch(self, recipients: Sequence[Recipient], pid: int) -> list[Recipient]:
        """Test, set and read back under one record lock over the bytes from the first to the last of ``recipients``."""
        long, short = _lock_bytes(pid)
        start, last = recipients[0].offset, recipients[-1]
        length = last.offset + 1 + len(long if last.lock_field else short) - start
        taken: list[Recipient] = []
        self._record_lock(start, length)
        try:
            before = self._bytes(start, length)
            for recipient in recipients:
                tag = recipient.offset + 1
                if before.startswith(b"r ", tag - 1 - start) and tag not in self._taken:
                    lock = long if recipient.lock_field else short
                    self._taken[tag] = lock, _TODO
                    self._write_or_restore(tag, lock, before[tag - start : tag - start + len(lock)])
                    taken.append(recipient)
            if not taken:
                return taken
            after = self._bytes(start, length)
        finally:
            self._record_unlock(start, length)
        for recipient in tuple(taken):
            tag = recipient.offset + 1
            if not after.startswith(self._taken[tag][0], tag - start):
                del self._taken[tag]  # an agent that does not use record locks has written over it
                taken.remove(recipient)
        return taken

    def release(self, recipient: Recipient, mark: Mark) -> bool:
        """Write ``mark`` and blank the lock field, in one write.

        False, and nothing is written, if the bytes are not this process's lock any more: someone else thinks it may
        decide on this recipient. Raises SpoolError if the file cannot be written (:meth:`close` will try again),
        and ValueError for a recipient that was not taken.
        """
        at = recipient.offset + 1
        lock, _ = self._taken.get(at, (b"", _TODO))
        if not lock:
            raise ValueError(f"the recipient at byte {recipient.offset} is not taken")
        self._taken[at] = lock, mark
        written = self._replace(at, lock, mark)
        del self._taken[at]
        return written

    def append(self, record: bytes) -> None:
        """Append one ``d`` record, with its LF, and wait until it is on the disk.

        It starts a line of its own even if the last one was left unfinished. Raises SpoolError if it could not be
        written whole, ValueError for anything but one line of a ``d`` record.
        """
        if not (record.startswith(b"d") and record.find(b"\n") == len(record) - 1) or b"\0" in record:
            raise ValueError("not one line of a d record")
        fd = self._appending()
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                record = b"\n" + record
            written = os.write(fd, record)
            os.fsync(fd)
        except OSError as problem:
            raise _system_error(self.control.path, "append a diagnostic to", problem) from problem
        if written != len(record):
            raise SpoolError(self.control.path, size, f"only {written} of {len(record)} bytes of a diagnostic written")

    def _appending(self) -> int:
        """A descriptor of the same file in append mode: a mode that the descriptor for marks must not have."""
        if self._append_fd < 0:
            fd = _open(self.control.path, os.O_WRONLY | os.O_APPEND)
            try:
                same = os.path.sameopenfile(fd, self._fd)
            except OSError:
                same = False
            if not same:
                os.close(fd)
                raise SpoolError(self.control.path, None, "the file was replaced by another one")
            self._append_fd = fd
        return self._append_fd

    def _record_lock(self, at: int, length: int) -> None:
        deadline = 0.0
        pause = 0.001
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, at)
                return
            except OSError as problem:
                if problem.errno not in _LOCKED_BY_ANOTHER:
                    raise _system_error(self.control.path, "lock a record of", problem) from problem
                deadline = deadline or time.monotonic() + self._patience
                if time.monotonic() + pause > deadline:
                    raise SpoolError(self.control.path, at, "another process keeps the record lock") from problem
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _record_unlock(self, at: int, length: int) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, length, at)
        except OSError:
            return  # the lock ends with the descriptor

    def _replace(self, at: int, lock: bytes, mark: Mark) -> bool:
        if self._bytes(at, len(lock)) != lock:
            return False
        self._write(at, mark.value.ljust(len(lock)))
        return True

    def _bytes(self, at: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, at)
        except OSError as problem:
            raise _system_error(self.control.path, "read", problem) from problem
        if len(data) != length:
            raise SpoolError(self.control.path, at, "the file has become shorter")
        return data

    def _write(self, at: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, at)
        except OSError as problem:
            raise _system_error(self.control.path, "mark a recipient in", problem) from problem
        if written != len(data):
            raise SpoolError(self.control.path, at, f"only {written} of {len(data)} bytes of a mark written")

    def _write_or_restore(self, at: int, data: bytes, before: bytes) -> None:
        try:
            self._write(at, data)
        except SpoolError:
            with contextlib.suppress(SpoolError):
                self._write(at, before)
            raise


def _stretches(recipients: Sequence[Recipient]) -> Iterator[Sequence[Recipient]]:
    """``recipients`` cut into runs that ascend in the file and lie within one stretch."""
    first = 0
    for i in range(1, len(recipients)):
        offset = recipients[i].offset
        if offset < recipients[i - 1].offset or offset - recipients[first].offset > STRETCH:
            yield recipients[first:i]
            first = i
    if recipients:
        yield recipients[first:]


@lru_cache(1)
def _lock_bytes(pid: int) -> tuple[bytes, bytes]:
    """The lock of a process, and what there is room for where a recipient has no lock field."""
    if pid <= 0:
        raise ValueError(f"not a process id: {pid}")
    return b"~" + (b"%6d" % pid)[-6:], b"~"


def _open(path: str, mode: int) -> int:
    try:
        return os.open(path, mode | _OPEN_FLAGS)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise _system_error(path, "open", problem) from problem


def _read_all(path: str, fd: int, size: int) -> bytes:
    """All of the file: also what was appended since its size was taken."""
    if size > FILE_LIMIT:
        raise SpoolError(path, FILE_LIMIT, f"longer than {FILE_LIMIT} bytes")
    room = size + 4096
    data = os.read(fd, room)
    if size <= len(data) < room:  # there was room for more, and no more was there
        return data
    parts, total = [data], len(data)
    while part := os.read(fd, 4096):
        parts.append(part)
        total += len(part)
        if total > FILE_LIMIT:
            raise SpoolError(path, FILE_LIMIT, f"longer than {FILE_LIMIT} bytes")
    return b"".join(parts)


def _system_error(path: str, doing: str, problem: OSError | ValueError) -> SpoolError:
    reason = problem.strerror if isinstance(problem, OSError) else None
    return SpoolError(path, None, f"cannot {doing} it: {reason or problem}")
