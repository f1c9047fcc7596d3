"""The tables of a queue in a PostgreSQL database, and the programs that may use them.

The schema grows by numbered files (``migrations/``), each applied once, in its own transaction, forward only. An
earlier program works with the additions of a later one, so old and new programs run side by side. If it would not, the
database names the oldest program that may use it.
"""

from __future__ import annotations

import uuid
from importlib import resources
from typing import Any

import psycopg

from zsmtp.errors import QueueError
from zsmtp.queue.ids import MAX_SHARD
from zsmtp.queue.postgres.connect import Connection, Database, unavailable
from zsmtp.queue.programs import check_program, later, named_release, numbered_files

OLDEST_SERVER = 14
"""The oldest release of PostgreSQL with the features a queue needs (xid8 in snapshots, DETACH CONCURRENTLY)."""
DAYS_AHEAD = 7
_LOCK = 0x7A736D74  # the advisory lock of migrations: "zsmt"


def migrate(connection: Connection, shard: int | None = None) -> int:
    """Bring the tables up to date, and return the shard of the queue; the transaction is committed.

    Raises :class:`~zsmtp.errors.QueueError` if the database needs a later program, belongs to another shard, or runs on
    a server that is too old.
    """
    check_server(connection)
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '30s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        meta = meta_of(connection)
        check_program(name_of(connection), meta.get("min_program", ""))
        done = int(meta.get("schema", "0"))
        for number, (text, oldest) in enumerate(numbered_files(_folder()), 1):
            if number > done:
                connection.execute(text.encode())
                values = {"schema": str(number), "min_program": later(meta.get("min_program", ""), oldest)}
                if number == 1:
                    values |= {"shard": str(shard or 0), "last_rule": "0", "uid": uuid.uuid4().hex}
                keep(connection, values)
        make_days(connection)
        _repair(connection)
    return shard_of(connection, shard)


def require_release(connection: Connection, first: str) -> None:
    """Let the database name ``first`` as the oldest release that may use it, unless it names a later one."""
    named = meta_of(connection).get("min_program", "")
    oldest = later(named, named_release(first))
    if oldest != named:
        keep(connection, {"min_program": oldest})


def has_queue(database: Database) -> bool:
    """Whether there is a queue in a database; raises QueueUnavailable."""
    try:
        connection = database.connect()
        try:
            return bool(meta_of(connection))
        finally:
            connection.close()
    except psycopg.Error as error:
        raise unavailable(database, "opening it", error) from None


def is_made(connection: Connection) -> bool:
    """Whether the tables exist in the version of this program."""
    return int(meta_of(connection).get("schema", "0")) >= len(numbered_files(_folder()))


def shard_of(connection: Connection, shard: int | None) -> int:
    """The shard of an existing queue; raises QueueError if ``shard`` is another one."""
    meta = meta_of(connection)
    check_program(name_of(connection), meta.get("min_program", ""))
    found = int(meta["shard"])
    if shard not in (None, found):
        raise QueueError(f"queue {name_of(connection)} is shard {found}, not {shard}")
    assert 0 <= found <= MAX_SHARD
    return found


def uid_of(connection: Connection) -> str:
    """The unique identifier of this queue."""
    return meta_of(connection)["uid"]


def check_server(connection: Connection) -> None:
    """Raise QueueError if the server is too old, or keeps texts in another encoding."""
    version = connection.info.server_version // 10_000
    if version < OLDEST_SERVER:
        raise QueueError(f"queue {name_of(connection)}: PostgreSQL {version} is too old; {OLDEST_SERVER} is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise QueueError(f"queue {name_of(connection)}: its texts are in {encoding}; a queue needs a database in UTF8")


def name_of(connection: Connection) -> str:
    """The database for display."""
    info = connection.info
    return f"{info.dbname} at {info.host or 'the usual socket'}"


def meta_of(connection: Connection) -> dict[str, str]:
    """The single values of a queue; none if there is no queue."""
    (there,) = connection.execute("SELECT to_regclass('zsmtp_meta') IS NOT NULL").fetchone() or (False,)
    if not there:
        return {}
    return dict(connection.execute("SELECT name, value FROM zsmtp_meta").fetchall())


def make_days(connection: Connection) -> None:
    """Make the partitions of the history for today and the next days."""
    connection.execute(
        "SELECT zsmtp_make_day((zsmtp_clock() AT TIME ZONE 'UTC')::date + n) FROM generate_series(-1, %s) n "
        "WHERE to_regclass('zsmtp_history_' || to_char((zsmtp_clock() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD')) "
        "IS NULL",
        (DAYS_AHEAD,),
    )


def _repair(connection: Connection) -> None:
    """Repair transaction ids after a restored dump, where they start again: ids from the future are from the past."""
    for table in ("zsmtp_history", "zsmtp_news"):
        connection.execute(f"UPDATE {table} SET xid = '3' WHERE xid > pg_current_xact_id()")


def keep(connection: Connection, values: dict[str, str]) -> None:
    """Write single values of a queue."""
    for name, value in values.items():
        connection.execute(
            "INSERT INTO zsmtp_meta (name, value) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )


def _folder() -> Any:
    return resources.files("zsmtp.queue.postgres") / "migrations"
