"""The write-ahead log: its checkpoints into the database, and the start of a new log."""

from __future__ import annotations

import os
import sqlite3
import threading

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.sqlite.connect import IOERR, code_of, connect

_RENEWAL = 5000  # milliseconds to wait for readers


def file_of(path: str) -> tuple[int, int] | None:
    """The identity of a file (device, inode), None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def renew_log(db: sqlite3.Connection, path: str) -> None:
    """Copy the whole log into the database, and begin a new one; raises QueueUnavailable if readers prevent it."""
    db.execute(f"PRAGMA busy_timeout = {_RENEWAL}")
    try:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        db.execute("PRAGMA busy_timeout = 0")
    if busy:
        raise QueueUnavailable(
            f"queue {path}: after an input/output error the log must be restarted; others have been reading it "
            f"for {_RENEWAL / 1000:g} s"
        )


def checkpoint(db: sqlite3.Connection) -> tuple[int, bool]:
    """Copy the log into the database, without waiting for other connections.

    Returns the size of the log, -1 if another checkpoint runs, and whether all of it was copied.
    """
    _, log, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    (page,) = db.execute("PRAGMA page_size").fetchone()
    return int(log * page if log > 0 else log), log == copied


class Checkpointer(threading.Thread):
    """Copies the write-ahead log into the database while the writer goes on.

    After a complete copy the next transaction restarts the log. Under constant load more is written meanwhile; when the
    log has reached its limit, the writer copies the rest itself, even if this thread is given no time.
    """

    def __init__(self, path: str) -> None:
        super().__init__(name="zsmtp queue checkpointer", daemon=True)
        self._path = path
        self._wanted = threading.Event()
        self._over = False
        self._found = (0, 0)
        self.written = 0
        """Octets in all, counted by the writer."""
        self.suspect = False
        """Whether it met an input/output error: the log may have a gap on the disk."""

    @property
    def log(self) -> int:
        """The size of the log in octets: by the last checkpoint, and what the writer has added since then."""
        size, written = self._found
        return size + self.written - written

    def found(self, size: int, written: int) -> None:
        """Take the size that a checkpoint returned, and what had been written before it; -1: another one runs."""
        if size >= 0:
            self._found = (size, written)

    def begin(self) -> None:
        """Request a checkpoint."""
        self._wanted.set()

    def end(self) -> None:
        """End the thread."""
        self._over = True
        self._wanted.set()
        self.join()

    def run(self) -> None:
        """Make checkpoints on request."""
        connection: sqlite3.Connection | None = None
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._over:
                break
            try:
                if connection is None:
                    connection = connect(self._path, cache=1 << 10, writes=True)
                written = self.written
                size, _ = checkpoint(connection)
                self.found(size, written)  # if all was copied, more may have been written by now
            except sqlite3.Error as error:  # the writer gets the same error, and reports it
                self.suspect = self.suspect or code_of(error) == IOERR
                if connection is not None:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()
