"""Opens the file of a queue: makes it, locks it, and brings its tables up to date."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from zsmtp.errors import QueueUnavailable
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.sqlite.connect import connect, create, migrate, unavailable
from zsmtp.queue.sqlite.locks import WriteTurn


class StoreOptions(NamedTuple):
    """The options of a store: the arguments of ``SQLiteStore.open`` of these names."""

    clock: Callable[[], float]
    monotonic: Callable[[], float]
    free_space: Callable[[], int]
    boot: str
    notice_rule: NoticeRule
    history_kept: float


def prepare(path: str, shard: int | None, busy: float) -> tuple[int, str]:
    """Make the file and its tables, if they do not exist; returns the shard and the uid."""
    try:
        create(path)
        turn = WriteTurn(path)
        try:
            if not turn.acquire(busy):
                raise QueueUnavailable(f"queue {path}: opening it: other processes have it locked since {busy:g} s")
            connection = connect(path, cache=1 << 10, writes=True)
            try:
                return migrate(connection, path, shard, busy)
            finally:
                connection.close()
                turn.release()
        finally:
            turn.close()
    except sqlite3.Error as error:
        raise _refused(path, error) from None


def _refused(path: str, error: sqlite3.Error) -> QueueUnavailable:
    """The error with its probable cause: SQLite reports most causes only as a file that cannot be opened."""
    place = Path(path)
    why = ""
    if not place.parent.is_dir():
        why = f": there is no folder {place.parent}"
    elif place.is_dir():
        why = ": it is a folder"
    elif not os.access(place.parent, os.W_OK | os.X_OK) or (place.exists() and not os.access(place, os.R_OK | os.W_OK)):
        why = ": it or its folder cannot be written by this user"
    return QueueUnavailable(f"{unavailable(path, 'opening it', error)}{why}")


def octets_free(folder: str) -> int:
    """The octets that are free for this user on the disk of a folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return -1
    return found.f_bavail * found.f_frsize
