"""Caches MTA-STS policies on disk, shared by all processes of a machine (RFC 8461 3.2, 10.2).

A policy protects only while it is cached: for weeks, across restarts, for agents that run for one message. The fetched
text is stored in an SQLite database that any number of processes read and write::

    cache = PolicyCache("/var/spool/postoffice/mta-sts.db", warn)
    lookup = driver.run(find_policy(domain, cache.get(domain, now), now))
    if lookup.store is not None:
        cache.put(lookup.store, now)

A failure of the database never stops mail, nor removes the policies that a process has: an unusable cache causes one
warning, each process keeps its own policies, and a file that is no database is moved aside. Times are seconds since
1970, passed by the caller.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zsmtp.tls.mtasts import MAX_AGE, CachedPolicy

if TYPE_CHECKING:
    import sqlite3

MAX_DOMAINS = 50_000  # on disk
MAX_IN_MEMORY = 16 << 20  # octets in this process
ENTRY_SIZE = 512  # octets that an entry takes beside its text
BUSY_TIME = 2.0  # seconds to wait for another process that writes

_TABLE = """
CREATE TABLE IF NOT EXISTS policies (
    domain TEXT PRIMARY KEY, id TEXT NOT NULL, text BLOB NOT NULL, fetched REAL NOT NULL,
    failed_id TEXT NOT NULL, failed REAL NOT NULL, stored REAL NOT NULL
) WITHOUT ROWID
"""
_SELECT = "SELECT domain, id, text, fetched, failed_id, failed FROM policies WHERE domain = ?"
_INSERT = "INSERT OR REPLACE INTO policies VALUES (?, ?, ?, ?, ?, ?, ?)"
_EXPIRE = "DELETE FROM policies WHERE stored < ?"
_COUNT = "SELECT count(*) FROM policies"
_SHRINK = """
DELETE FROM policies WHERE domain IN (SELECT domain FROM policies ORDER BY stored LIMIT ?)
"""


class PolicyCache:
    """The cache of policies in the file ``path``; "" keeps them for the life of the process only.

    ``warn`` is called once with the reason if the file cannot be used.
    """

    def __init__(self, path: str, warn: Callable[[str], None], *, max_domains: int = MAX_DOMAINS) -> None:
        self._path = path
        self._warn = warn
        self._max_domains = max_domains
        self._database: sqlite3.Connection | None = None
        self._given_up = not path
        self._warned_of_writing = False
        self._memory: OrderedDict[str, CachedPolicy] = OrderedDict()
        self._memory_size = 0

    def get(self, domain: str) -> CachedPolicy | None:
        """The entry of ``domain``, or None."""
        domain = domain.lower()
        row = self._run(lambda database: database.execute(_SELECT, (domain,)).fetchone())
        found, known = _entry(row), self._memory.get(domain)
        if found is None or (known is not None and _last_news(known) > _last_news(found)):
            return known  # could not be written, or is no longer in the file
        self._remember(domain, found)
        return found

    def put(self, entry: CachedPolicy, now: float) -> None:
        """Store ``entry``, replacing the entry of its domain."""
        self.put_all([entry], now)

    def put_all(self, entries: Sequence[CachedPolicy], now: float) -> None:
        """Store ``entries``, replacing the entries of their domains, in one transaction."""
        rows = [(one.domain.lower(), one.id, one.text, one.fetched, one.failed_id, one.failed, now) for one in entries]

        def write(database: sqlite3.Connection) -> bool:
            with database:  # one transaction
                database.executemany(_INSERT, rows)
                database.execute(_EXPIRE, (now - MAX_AGE,))
                excess = database.execute(_COUNT).fetchone()[0] - self._max_domains
                if excess > 0:
                    database.execute(_SHRINK, (excess,))
            return True

        for entry in entries:
            self._remember(entry.domain.lower(), entry)
        self._run(write, writing=True)

    def _remember(self, domain: str, entry: CachedPolicy) -> None:
        """Store an entry in this process, too: a locked or lost database must not remove protection."""
        before = self._memory.pop(domain, None)
        self._memory[domain] = entry
        self._memory_size += _size(entry) - (0 if before is None else _size(before))
        while self._memory_size > MAX_IN_MEMORY:
            self._memory_size -= _size(self._memory.popitem(last=False)[1])

    def close(self) -> None:
        """Close the database; it is opened again when needed."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _run(self, work: Callable[[sqlite3.Connection], object], *, writing: bool = False) -> object:
        """The result of ``work``; None if the database cannot be used now."""
        import sqlite3

        if self._given_up:
            return None
        for retried in (False, True):
            try:
                if self._database is None:
                    self._database = self._open()
                return work(self._database)
            except sqlite3.DatabaseError as error:
                self.close()
                if not retried and _is_damaged(error) and self._set_aside():
                    continue
                if _is_busy(error):
                    return None
                if writing and _has_no_room(error):  # the entries can still be read, and there may be room later
                    self._could_not_write(str(error))
                else:
                    self._give_up(str(error))
            except OSError as error:
                self._give_up(error.strerror or str(error))
            return None
        return None

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        # Created here, so that the umask does not decide who may change the trusted policies.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640))
        database = sqlite3.connect(self._path, timeout=BUSY_TIME)
        try:
            database.execute(_TABLE)
            database.commit()
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self) -> bool:
        """Move a damaged file away, to make room for a new one; returns whether that worked."""
        with contextlib.suppress(OSError):
            os.replace(self._path, f"{self._path}.damaged")
            for suffix in ("-journal", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path + suffix)
            self._warn(f"{self._path}: damaged, moved to {self._path}.damaged; policies are learned anew")
            return True
        return False

    def _could_not_write(self, reason: str) -> None:
        if not self._warned_of_writing:
            self._warned_of_writing = True
            self._warn(f"{self._path}: {reason}; MTA-STS policies cannot be written now")

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        self._warn(f"{self._path}: {reason}; MTA-STS policies are not kept beyond this process")


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _has_no_room(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY"))


def _size(entry: CachedPolicy) -> int:
    return ENTRY_SIZE + len(entry.text)


def _last_news(entry: CachedPolicy) -> float:
    """The time of the latest change of an entry."""
    return max(entry.fetched, entry.failed)


def _entry(row: object) -> CachedPolicy | None:
    """The entry in a row; None if the row is invalid."""
    match row:
        case (str(domain), str(id_), bytes(text), float(fetched), str(failed_id), float(failed)):
            return CachedPolicy(domain, id_, text, fetched, failed_id, failed)
    return None
