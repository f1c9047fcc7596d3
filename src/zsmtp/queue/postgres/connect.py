"""Connections to a PostgreSQL database, and the classification of its errors.

Connections are in autocommit mode; transactions begin with their own limits (:data:`BEGIN`): no transaction waits for a
lock for longer than 2 s, and the server ends one whose process stands still after 10 s, so that a frozen node holds no
lock. There are no locks beyond a transaction, and through a pooler no session settings: pgbouncer in transaction mode
works.

The server's just-in-time compilation is off: it takes tens of milliseconds for a query that runs for less than one, and
the planner overestimates the recursive queries of ``zsmtp.queue.postgres.claims``. A pooler may refuse the option, so
through one it depends on the role's settings.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

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
"""Begin to write. ``level`` is ``on``, or ``off`` for a commit that need not be durable; returns the transaction id."""
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""Begin to read from one state of the database."""

_AGAIN = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.UniqueViolation,  # of an id or a key that another transaction wrote at the same time
)
"""Errors that go away when the transaction is repeated."""
_OURS = (errors.SyntaxErrorOrAccessRuleViolation, errors.DataException, errors.IntegrityConstraintViolation)
"""Errors of this program, not of the server, except for missing tables and missing permissions."""
_THEIRS = (errors.InsufficientPrivilege, errors.UndefinedTable, errors.UndefinedFunction, errors.CheckViolation)


class Database(NamedTuple):
    """A database: how to connect to it, and whether statements may be prepared on the server.

    With ``pooled=yes`` in the URL they are not, and there is no LISTEN: connections go through a pooler that may give
    each transaction another one.
    """

    conninfo: str
    pooled: bool

    @classmethod
    def of(cls, url: str) -> Database:
        """Read a URL; raises ConfigError."""
        try:
            parts = urlsplit(url)
            plain = parts.query.replace("+", "%2B")  # libpq reads no + as a blank
            query = parse_qsl(plain, keep_blank_values=True, strict_parsing=bool(plain))
        except ValueError:
            raise ConfigError("queue: the URL of the database cannot be read") from None
        pooled = dict(query).get(_POOLED, "no")
        if pooled not in ("yes", "no"):
            raise ConfigError(f"queue: {_POOLED}={pooled} in the URL is neither yes nor no")
        rest = urlencode([pair for pair in query if pair[0] != _POOLED], quote_via=quote)
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
        """The database for display: without user and password."""
        values = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        host = values.get("host") or values.get("hostaddr") or ""
        port = f":{values['port']}" if values.get("port") else ""
        return f"postgresql://{host}{port}/{values.get('dbname') or ''}"

    @property
    def _options(self) -> str:
        """The options of the URL or the environment, and those of this program."""
        given = psycopg.conninfo.conninfo_to_dict(self.conninfo).get("options") or os.environ.get("PGOPTIONS", "")
        return f"-c jit=off {given}".rstrip()

    def connect(self) -> Connection:
        """Connect; raises psycopg.OperationalError."""
        return psycopg.connect(
            self.conninfo,
            autocommit=True,
            options=None if self.pooled else self._options,
            connect_timeout=_CONNECT,
            prepare_threshold=None if self.pooled else 5,
            application_name="zsmtp",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=20_000,
        )


def cut(connection: Connection | None) -> None:
    """Break a connection on which another thread waits; that thread gets an error."""
    with suppress(OSError, psycopg.Error):
        if connection is not None:
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)


def is_trouble(error: psycopg.Error) -> bool:
    """Whether an error is a failure of the database, not of the statement."""
    return not isinstance(error, _OURS) or isinstance(error, _THEIRS)


def goes_away(error: psycopg.Error) -> bool:
    """Whether a repetition may succeed."""
    return isinstance(error, _AGAIN)


def unavailable(database: Database, doing: str, error: Exception) -> QueueUnavailable:
    """The error for callers: what failed, where, and why."""
    why = str(error).strip().splitlines()
    if isinstance(error, errors.UndefinedTable):
        why = ["the tables of the queue do not exist: zsmtp queue migrate makes them"]
    elif isinstance(error, errors.LockNotAvailable):
        why = [f"a lock of another session was not released within {LOCK_WAIT}"]
    elif isinstance(error, errors.ReadOnlySqlTransaction):
        why = ["the server is read-only, as a standby is"]
    return QueueUnavailable(f"queue {database.name}: {doing}: {why[0] if why else type(error).__name__}")
