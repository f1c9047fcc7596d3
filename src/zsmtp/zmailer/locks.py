"""Opens control files on disk, locks and releases recipients, and appends diagnostics.

No other module opens a control file for writing. A recipient is locked by the state tag ``~`` and a process id in the 6
bytes after it; ``+``, ``-`` and blank release it. Only those 7 bytes, and ``d`` records at the end, are ever written:
the file is never rewritten, truncated or created::

    with open_control("12345-6789") as spool:
        taken = spool.take_all(spool.control.recipients, pid=os.getpid())
        ...
        spool.release(taken[0], Mark.DELIVERED)

Two agents may race for one recipient. Here the test for a blank tag and the write over it happen under an ``fcntl``
record lock, one for all recipients close together, so one of them wins; an agent that ignores record locks still
respects an existing ``~``, and the written bytes are read back. The lock is the bytes in the file; the record lock is
held for microseconds. Recipients that were taken and not released are blanked when the file is closed. Opening a FIFO
or a device does not block. One descriptor serves reading, marking and appending.
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
from zsmtp.zmailer.control import FILE_LIMIT, ControlFile, ControlRecipient, parse

PATIENCE = 2.0  # seconds to wait for a record lock; those of other agents last for microseconds
STRETCH = 64 * 1024  # octets of a control file under one record lock

OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FILE_MODE = os.O_NONBLOCK  # the flags above that F_SETFL keeps
_LOCKED_BY_ANOTHER = frozenset({errno.EACCES, errno.EAGAIN})
NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})
# Errors of open(2) for a path that is no usable file: a later try would fail as well.
_NO_FILE = NOT_THERE | {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL}


class StateTag(Enum):
    """The new state tag of a released recipient."""

    DELIVERED = b"+"  # the remote server accepted it
    FAILED = b"-"  # for good
    TODO = b" "  # deferred


_TODO = StateTag.TODO  # an enum's attribute is read more slowly


class SystemTrouble(SpoolError):
    """A system call failed (no descriptor, no space, an I/O error): a later try may succeed."""


def open_control(path: str, *, patience: float = PATIENCE) -> OpenControl:
    """Open and read the control file ``path``; ``patience`` is how long :meth:`OpenControl.take` waits, in seconds.

    Raises SpoolError if there is none, it is not a regular file, or it is not a valid control file, and SystemTrouble
    if the system fails to open or to read it.
    """
    fd = _open(path, os.O_RDWR)
    return OpenControl(_read_control(path, fd), fd, patience)


def read_control(path: str) -> ControlFile:
    """Read the control file ``path`` without write access; raises as :func:`open_control` does."""
    fd = _open(path, os.O_RDONLY)
    control = _read_control(path, fd)
    os.close(fd)
    return control


def _read_control(path: str, fd: int) -> ControlFile:
    """The content of the control file just opened, which is closed on failure."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SpoolError(path, None, "not a regular file")
        return parse(path, _read_all(path, fd, status.st_size))
    except BaseException as problem:
        os.close(fd)
        if isinstance(problem, OSError):
            raise system_error(path, "read", problem) from problem
        raise


class OpenControl:
    """A control file that is open for marking (see :func:`open_control`). Not for use by several threads at once."""

    def __init__(self, control: ControlFile, fd: int, patience: float) -> None:
        self.control = control
        self._fd = fd
        self._patience = patience
        # By offset of the state tag: the lock bytes of this process, and the bytes to replace them.
        self._taken: dict[int, tuple[bytes, StateTag]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Blank the locks of this process, and close the file; further calls do nothing.

        A mark that could not be written is tried again; if that fails, the recipient stays locked: blanking it would
        send a delivered message twice.
        """
        if self._fd < 0:
            return
        for at, (lock, mark) in list(self._taken.items()):
            with contextlib.suppress(SpoolError):
                self._replace(at, lock, mark)
        self._taken.clear()
        os.close(self._fd)
        self._fd = -1

    @property
    def descriptor(self) -> int:
        """The number of the file's descriptor; all lower ones were in use when the file was opened."""
        return self._fd

    def take(self, recipient: ControlRecipient, *, pid: int) -> bool:
        """Lock one recipient, as :meth:`take_all` does; returns whether it was locked."""
        return bool(self.take_all((recipient,), pid=pid))

    def take_all(self, recipients: Sequence[ControlRecipient], *, pid: int) -> list[ControlRecipient]:
        """Lock those of ``recipients`` whose state tag is (still) blank for the process ``pid``; returns them.

        Of a process id of more than 6 digits the last 6 are written. Raises SpoolError if the file cannot be read or
        written, or another process holds the record lock for longer than the patience; recipients locked before that
        are blanked on :meth:`close`.
        """
        if len(recipients) == 1:
            return self._take_stretch(recipients, pid)
        taken: list[ControlRecipient] = []
        for stretch in _stretches(recipients):
            taken += self._take_stretch(stretch, pid)
        return taken

    def _take_stretch(self, recipients: Sequence[ControlRecipient], pid: int) -> list[ControlRecipient]:
        """Test, set and read back under one record lock over the bytes from the first to the last of ``recipients``."""
        long, short = _lock_bytes(pid)
        start, last = recipients[0].offset, recipients[-1]
        length = last.offset + 1 + len(long if last.lock_field else short) - start
        taken: list[ControlRecipient] = []
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
                del self._taken[tag]  # an agent that ignores record locks has overwritten it
                taken.remove(recipient)
        return taken

    def release(self, recipient: ControlRecipient, mark: StateTag) -> bool:
        """Write ``mark`` and blank the lock field, in one write.

        Returns False, and writes nothing, if the bytes are no longer this process's lock: another process has taken the
        recipient. Raises SpoolError if the file cannot be written (:meth:`close` will try again), and ValueError for a
        recipient that was not taken.
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
        """Append one ``d`` record, with its LF; :meth:`sync` waits until it is on the disk.

        It starts a new line even if the last one is unfinished. Raises SpoolError if it could not be written whole:
        then it does not count. Raises ValueError for anything but one line of a ``d`` record.
        """
        if not (record.startswith(b"d") and record.find(b"\n") == len(record) - 1) or b"\0" in record:
            raise ValueError("not one line of a d record")
        path, fd = self.control.path, self._fd
        try:
            status = os.fstat(fd)
            if not status.st_nlink:
                raise SystemTrouble(path, None, "the file was removed, or replaced by another one")
            if status.st_size and os.pread(fd, 1, status.st_size - 1) != b"\n":
                record = b"\n" + record
            # Marks are written in place, which is not possible in append mode; no other process shares this descriptor.
            fcntl.fcntl(fd, fcntl.F_SETFL, _FILE_MODE | os.O_APPEND)
            try:
                written = os.write(fd, record)
            finally:
                fcntl.fcntl(fd, fcntl.F_SETFL, _FILE_MODE)
        except OSError as problem:
            raise system_error(path, "append a diagnostic to", problem) from problem
        if written != len(record):
            self._disarm(os.lseek(fd, 0, os.SEEK_CUR) - written, record[:written])
            raise SystemTrouble(path, None, f"only {written} of {len(record)} bytes of a diagnostic written")

    def sync(self) -> None:
        """Wait until appended records are on the disk. Raises SystemTrouble if they may not be."""
        try:
            os.fsync(self._fd)
        except OSError as problem:
            raise system_error(self.control.path, "write a diagnostic to the disk of", problem) from problem

    def _disarm(self, at: int, torn: bytes) -> None:
        """Give a cut-off record a state tag that makes readers skip it (a blank one means valid)."""
        start = torn.find(b"d")
        if start >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, b"-", at + start + 1)

    def _record_lock(self, at: int, length: int) -> None:
        deadline = 0.0
        pause = 0.001
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, at)
                return
            except OSError as problem:
                if problem.errno not in _LOCKED_BY_ANOTHER:
                    raise system_error(self.control.path, "lock a record of", problem) from problem
                deadline = deadline or time.monotonic() + self._patience
                if time.monotonic() + pause > deadline:
                    raise SystemTrouble(self.control.path, at, "another process keeps the record lock") from problem
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _record_unlock(self, at: int, length: int) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, length, at)
        except OSError:
            return  # the lock ends with the descriptor

    def _replace(self, at: int, lock: bytes, mark: StateTag) -> bool:
        if self._bytes(at, len(lock)) != lock:
            return False
        self._write(at, mark.value.ljust(len(lock)))
        return True

    def _bytes(self, at: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, at)
        except OSError as problem:
            raise system_error(self.control.path, "read", problem) from problem
        if len(data) != length:
            raise SpoolError(self.control.path, at, "the file has become shorter")
        return data

    def _write(self, at: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, at)
        except OSError as problem:
            raise system_error(self.control.path, "mark a recipient in", problem) from problem
        if written != len(data):
            raise SystemTrouble(self.control.path, at, f"only {written} of {len(data)} bytes of a mark written")

    def _write_or_restore(self, at: int, data: bytes, before: bytes) -> None:
        try:
            self._write(at, data)
        except SpoolError:
            with contextlib.suppress(SpoolError):
                self._write(at, before)
            raise


def _stretches(recipients: Sequence[ControlRecipient]) -> Iterator[Sequence[ControlRecipient]]:
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
    """The lock bytes of a process, and the short form for a recipient without a lock field."""
    if pid <= 0:
        raise ValueError(f"not a process id: {pid}")
    return b"~" + (b"%6d" % pid)[-6:], b"~"


def _open(path: str, mode: int) -> int:
    try:
        return os.open(path, mode | OPEN_FLAGS)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise system_error(path, "open", problem) from problem


def _read_all(path: str, fd: int, size: int) -> bytes:
    """The whole file, including data appended since its size was read."""
    if size > FILE_LIMIT:
        raise SpoolError(path, FILE_LIMIT, f"longer than {FILE_LIMIT} bytes")
    room = size + 4096
    data = os.read(fd, room)
    if size <= len(data) < room:  # there was room for more, and the file had no more
        return data
    parts, total = [data], len(data)
    while part := os.read(fd, 4096):
        parts.append(part)
        total += len(part)
        if total > FILE_LIMIT:
            raise SpoolError(path, FILE_LIMIT, f"longer than {FILE_LIMIT} bytes")
    return b"".join(parts)


def system_error(path: str, doing: str, problem: OSError | ValueError) -> SpoolError:
    """The exception for a system error: SpoolError if there is no such file, else SystemTrouble."""
    if not isinstance(problem, OSError):
        return SpoolError(path, None, f"cannot {doing} it: {problem}")
    kind = SpoolError if doing == "open" and problem.errno in _NO_FILE else SystemTrouble
    return kind(path, None, f"cannot {doing} it: {problem.strerror or problem}")
