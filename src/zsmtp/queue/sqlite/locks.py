"""Locks between processes, as files beside the database: the right to write, and the right to deliver.

``FILE-turn`` and ``FILE-write`` give the right to write, in turns. With SQLite alone the first to try after a commit
writes next, which is often the last writer, while others sleep for longer and longer. Here a writer first takes
``turn`` and keeps it until it has ``write``: the last writer queues behind a waiting one.

The one process that delivers holds ``FILE-deliver``, whose content names it. All are ``flock`` locks, which end with
their process in any case; a forked child closes its copies, so that it does not keep the locks of its parent.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from zsmtp.errors import QueueBusy, QueueUnavailable

_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.002


class FileLock:
    """One lock file, created with the rights of the database."""

    _file = -1

    def __init__(self, database: str, name: str) -> None:
        self.path = f"{database}-{name}"
        try:
            mode = os.stat(database).st_mode & 0o666
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            if os.fstat(self._file).st_uid == os.geteuid():
                os.fchmod(self._file, mode)
        except OSError as error:
            raise QueueUnavailable(f"queue {database}: cannot open {self.path}: {error.strerror}") from None
        _OPEN.add(self)

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise QueueUnavailable(f"{self.path} cannot be locked: {error.strerror}") from None
        return True

    def unlock(self) -> None:
        """Give the lock back."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def write(self, text: str) -> None:
        """Write the owner of the lock to the file; on a full disk the file stays empty."""
        data = text.encode()
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, data, 0)

    def read(self) -> str:
        """The text that its owner wrote."""
        try:
            return os.pread(self._file, 4096, 0).decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """Close the file, and give back the lock unless a forked process has it, too."""
        _OPEN.discard(self)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()  # of a queue that could not be opened to the end


_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_OPEN):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


class WriteTurn:
    """The right to write to the database, one process or thread after the other."""

    def __init__(self, database: str) -> None:
        self._turn = FileLock(database, "turn")
        self._write = FileLock(database, "write")

    def acquire(self, patience: float) -> bool:
        """Wait for the right at most ``patience`` seconds; False after a timeout."""
        if self._write_is_free():
            return True
        end = time.monotonic() + patience
        if not _wait_for(self._turn, end):
            return False
        try:
            return _wait_for(self._write, end)
        finally:
            self._turn.unlock()

    def _write_is_free(self) -> bool:
        """Take the lock at once if it is free and no one waits for it."""
        if not self._turn.try_lock():
            return False
        try:
            return self._write.try_lock()
        finally:
            self._turn.unlock()

    def release(self) -> None:
        """Give the right back."""
        self._write.unlock()

    def close(self) -> None:
        """Close both files."""
        self._turn.close()
        self._write.close()


def _wait_for(lock: FileLock, end: float) -> bool:
    pause = _FIRST_PAUSE
    while not lock.try_lock():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


class DelivererLock:
    """The lock of the process that delivers."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._lock = FileLock(database, "deliver")

    def acquire(self, node: str) -> None:
        """Become the deliverer; raises QueueBusy, which names the present one."""
        if not self._lock.try_lock():
            owner = self._lock.read() or "another process"
            raise QueueBusy(f"queue {self._database}: {owner} delivers already")
        self._lock.write(f"node {node} (process {os.getpid()})\n")

    def held_by_somebody(self) -> bool:
        """Whether some process delivers; call it only on a lock that this process does not hold."""
        if self._lock.try_lock(shared=True):
            self._lock.unlock()
            return False
        return True

    def release(self) -> None:
        """Give up the right to deliver."""
        self._lock.write("")
        self._lock.unlock()

    def close(self) -> None:
        """Close the file."""
        self._lock.close()


def boot_id() -> str:
    """The identifier of this start of the machine; "" if it is unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
