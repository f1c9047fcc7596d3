"""Connections to the database of a queue, its schema, and what its errors mean.

Every connection is in WAL mode; writers use ``synchronous=FULL`` (one fsync for a commit), readers cannot write. The
schema grows by numbered files (``migrations/``), each applied once, forward only. An earlier program works with the
additions of a later one; if it would not, the file names the oldest program that may open it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.programs import check_program, numbered_files

BUSY = sqlite3.SQLITE_BUSY
FULL = sqlite3.SQLITE_FULL
IOERR = sqlite3.SQLITE_IOERR
_OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
_STATEMENTS = 300  # prepared statements of a connection
_RECOVERY = 5.0  # seconds to wait while another process reads the log of one that died

_MEANING = {
    sqlite3.SQLITE_PERM: "access is refused",
    sqlite3.SQLITE_BUSY: "another process has it locked",
    sqlite3.SQLITE_LOCKED: "another connection has it locked",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_IOERR: "input/output error",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PROTOCOL: "its lock cannot be taken",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database",
    sqlite3.SQLITE_NOLFS: "it is larger than this system can handle",
    sqlite3.SQLITE_AUTH: "access is refused",
}
UNREADABLE = (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError)
"""The exceptions for a row with values that this program did not write."""
_BROKEN = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB}


def code_of(error: sqlite3.Error) -> int:
    """The primary result code of an error, 0 if there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_trouble(error: sqlite3.Error) -> bool:
    """Whether an error is a failure of the store, not of the statement."""
    return code_of(error) in _MEANING or (isinstance(error, sqlite3.OperationalError) and code_of(error) <= 1)


def is_broken(error: sqlite3.Error) -> bool:
    """Whether a connection should be replaced after an error."""
    return code_of(error) in _BROKEN


def unavailable(path: str, doing: str, error: sqlite3.Error) -> QueueUnavailable:
    """The error for callers: what failed, where, and why."""
    meaning = _MEANING.get(code_of(error))
    why = f"{meaning} ({error})" if meaning else str(error)
    return QueueUnavailable(f"queue {path}: {doing}: {why}")


def unreadable(path: str, doing: str, error: Exception) -> QueueUnavailable:
    """The error for values of the wrong type, as in a damaged file."""
    return QueueUnavailable(f"queue {path}: {doing}: it has values that cannot be understood ({error!r})")


@contextmanager
def words_readable() -> Iterator[None]:
    """Turn an error of a damaged schema into one of SQLite's: its text comes from the file, and may be no UTF-8."""
    try:
        yield
    except UnicodeDecodeError as error:
        damaged = sqlite3.DatabaseError("its schema cannot be read")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damaged from error


@words_readable()
def connect(path: str, *, cache: int, writes: bool) -> sqlite3.Connection:
    """Open a connection to an existing database; ``cache`` is in KiB. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS,
        timeout=_RECOVERY,
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{cache}")
        if writes:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = FAST")  # zeroes what is written anyway
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            connection.execute("SELECT count(*) FROM sqlite_schema")  # opens the log
            connection.execute("PRAGMA busy_timeout = 0")  # writers take turns (``WriteTurn``)
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Make all queries read one state of the database."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # not after an input/output error: SQLite has ended it
            connection.execute("COMMIT")


@words_readable()
def create(path: str) -> None:
    """Make the file if it does not exist, readable for its owner only, and set WAL mode.

    Raises sqlite3.Error.
    """
    with suppress(OSError):  # if it cannot be made, SQLite reports the cause
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that room can be given back after a flood
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    finally:
        connection.close()
    if mode != "wal":
        raise QueueError(f"queue {path}: the journal mode stays {mode!r}; a queue needs a file in WAL mode")


@words_readable()
def migrate(connection: sqlite3.Connection, path: str, shard: int | None, busy: float) -> tuple[int, str]:
    """Bring the schema up to date, and return the shard and the uid of the file. The caller has the right to write.

    ``busy``: seconds to wait while a transaction outside this program has the database locked.

    Raises :class:`~zsmtp.errors.QueueError` if the file needs a later program, or belongs to another shard.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise QueueError(f"SQLite {sqlite3.sqlite_version} is too old for a queue; it needs 3.37 or later")
    meta = _meta(connection)
    check_program(path, str(meta.get("min_program", "")))
    done = int(str(meta.get("schema", 0)))
    for number, (text, oldest) in enumerate(numbered_files(resources.files("zsmtp.queue.sqlite") / "migrations"), 1):
        if number > done:
            connection.execute(f"PRAGMA busy_timeout = {int(busy * 1000)}")
            connection.executescript(
                f"BEGIN IMMEDIATE; {text};"
                f"INSERT OR REPLACE INTO zsmtp_meta VALUES ('schema', {number}), ('min_program', '{oldest}');"
                f"INSERT OR IGNORE INTO zsmtp_meta VALUES ('shard', {shard or 0}), ('last_id', 0), ('fence', 0),"
                "('rules', 0), ('poke', 0); COMMIT;"
            )
    meta = _meta(connection)
    found = int(str(meta["shard"]))
    if shard not in (None, found):
        raise QueueError(f"queue {path} is shard {found}, not {shard}")
    return found, str(meta["uid"])


def _meta(connection: sqlite3.Connection) -> dict[str, object]:
    there = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'zsmtp_meta'").fetchone()
    return dict(connection.execute("SELECT name, value FROM zsmtp_meta").fetchall()) if there else {}


def resolved(path: str | Path) -> str:
    """The canonical path of the file: the lock files are beside it."""
    return str(Path(path).resolve())
