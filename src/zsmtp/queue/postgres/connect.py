"""Connections to a PostgreSQL database, and what its errors mean.

Connections are in autocommit mode; transactions are begun with limits of their own (:data:`BEGIN`): nobody waits for a
lock for longer than 2 s, and a transaction whose process stands still is ended by the server after 10 s, so that a
frozen node keeps no lock. Nothing is set for a session, and no lock is held beyond a transaction: pgbouncer in
transaction mode works.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors

from zsmtp.errors import ConfigError, QueueUnavailable

Connection = psycopg.Connection[Any]

LOCK_WAIT = "2s"
_CONNECT = 10  # seconds, for each address of the server
_POOLED = "pooled"

BEGIN = (
    f"BEGIN; SELECT set_config('lock_timeout', '{LOCK_WAIT}', true), "
    "set_config('idle_in_transaction_session_timeout', '10s', true), "
    "set_config('synchronous_commit', '{level}', true), pg_current_xact_id()::text"
)
"""Begin to write. ``level`` is ``on``, or ``off`` for what need not be on the disk; answers the transaction's id."""
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""Begin to read from one state of the database."""

_AGAIN = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,  # of an id or a key that another one wrote at the same time
)
"""What goes away when the same is done again."""
_OURS = (errors.SyntaxErrorOrAccessRuleViolation, errors.DataException, errors.IntegrityConstraintViolation)
"""What the program did wrong, not the server; but for the tables that are not there, or must not be touched."""
_THEIRS = (errors.InsufficientPrivilege, errors.UndefinedTable, errors.UndefinedFunction, errors.CheckViolation)


class Database(NamedTuple):
    """A database: how to connect to it, and whether statements may be prepared on the server.

    With ``pooled=yes`` in the URL they are not, and nothing is listened to: connections go through a pooler that gives
    each transaction another one.
    """

    conninfo: str
    pooled: bool

    @classmethod
    def of(cls, url: str) -> Database:
        """Read a URL; raises ConfigError."""
        try:
            parts = urlsplit(url)
            query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ConfigError("queue: the URL of the database cannot be read") from None
        pooled = dict(query).get(_POOLED, "no")
        if pooled not in ("yes", "no"):
            raise ConfigError(f"queue: {_POOLED}={pooled} in the URL is neither yes nor no")
        rest = urlencode([pair for pair in query if pair[0] != _POOLED])
        conninfo = urlunsplit(parts._replace(query=rest))
        if not parts.netloc:  # urlunsplit leaves the slashes out
            conninfo = re.sub(r"^(postgres(?:ql)?):/*", r"\1:///", conninfo)
        try:
            psycopg.conninfo.conninfo_to_dict(conninfo)
        except psycopg.ProgrammingError as error:
            raise ConfigError(f"queue: the URL of the database is not understood: {str(error).strip()}") from None
        return cls(conninfo, pooled == "yes")

    @property
    def name(self) -> str:
        """The database as messages name it: without user and password."""
        values = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        host = values.get("host") or values.get("hostaddr") or ""
        port = f":{values['port']}" if values.get("port") else ""
        return f"postgresql://{host}{port}/{values.get('dbname') or ''}"

    def connect(self) -> Connection:
        """Connect; raises psycopg.OperationalError."""
        return psycopg.connect(
            self.conninfo,
            autocommit=True,
            connect_timeout=_CONNECT,
            prepare_threshold=None if self.pooled else 5,
            application_name="zsmtp",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=20_000,
        )


def cut(connection: Connection | None) -> None:
    """Break a connection off that another thread waits on; that one gets an error."""
    with suppress(OSError, psycopg.Error):
        if connection is not None:
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)


def is_trouble(error: psycopg.Error) -> bool:
    """Whether an error is of the database, not of the statement."""
    return not isinstance(error, _OURS) or isinstance(error, _THEIRS)


def goes_away(error: psycopg.Error) -> bool:
    """Whether the same may work when it is done again."""
    return isinstance(error, _AGAIN)


def unavailable(database: Database, doing: str, error: Exception) -> QueueUnavailable:
    """The error as callers get it: what, where, why."""
    why = str(error).strip().splitlines()
    if isinstance(error, errors.UndefinedTable):
        why = ["the tables of the queue are not there: zsmtp queue migrate makes them"]
    elif isinstance(error, errors.LockNotAvailable):
        why = [f"somebody has it locked since {LOCK_WAIT}"]
    elif isinstance(error, errors.ReadOnlySqlTransaction):
        why = ["the server is read-only, as a standby is"]
    return QueueUnavailable(f"queue {database.name}: {doing}: {why[0] if why else type(error).__name__}")
