"""One writing transaction, and its collected changes: written once before the commit, announced after it.

Several jobs share a transaction. It collects their additions to counters and the changes that other processes need;
:meth:`WriteTransaction.commit` writes a row of each. Nothing in memory changes before the commit: such changes are
actions for :meth:`WriteTransaction.afterwards`. So a transaction that fails can be tried again.

The cost of a small transaction is its round trips. It begins together with its first query
(:meth:`WriteTransaction.ask`), in one round trip, and the statements that may come last go with the commit, in another;
a transaction that writes marks has no more. These are several statements in one text, with the values in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import psycopg

from zsmtp.queue.ids import LARGEST, first_id, next_id
from zsmtp.queue.postgres.connect import BEGIN, Connection
from zsmtp.queue.states import AttemptKey, milliseconds

_SUPPRESSES = "EXISTS (SELECT 1 FROM zsmtp_suppression)"
_FEW = 3  # rows: more are copied
_SMALL = 1 << 16  # octets of content in them
_TYPES = {
    "id": "int8",
    "message": "int8",
    "number": "int4",
    "rank": "int4",
    "due": "int8",
    "expires": "int8",
    "attempts": "int4",
    "attempt": "int4",
    "hold": "int8",
    "submitted": "int8",
    "size": "int8",
    "recipients": "int4",
    "priority": "int4",
    "part": "int4",
    "data": "bytea",
    "at": "int8",
    "seconds": "int8",
    "code": "int4",
    "last_attempt": "int8",
    "warned": "bool",
    "doubtful": "bool",
}
"""Types of the columns other than texts."""


class WriteTransaction:
    """The changes collected in one transaction. ``now`` is in milliseconds.

    ``durable``: its commit waits for the disk; ``reads_first``: none of its jobs reads rows that another one writes.
    """

    __slots__ = (
        "_after",
        "_begin",
        "_connection",
        "_counted",
        "_known_rules",
        "_last",
        "_reads_first",
        "_undo",
        "due",
        "first_drawn",
        "kept_ids",
        "now",
        "poked",
        "rules",
        "suppresses",
        "time",
        "xid",
    )

    def __init__(self, connection: Connection, time: float, *, durable: bool = True, reads_first: bool = False) -> None:
        self._connection = connection
        self._begin = BEGIN.format(level="on" if durable else "off")
        self._reads_first = reads_first
        self._last: list[tuple[str, Sequence[object]]] = []
        self.xid = ""
        """The id of the transaction, once it began."""
        self.time = time
        self.now = milliseconds(time)
        self.due: dict[str, int] = {}
        """Queue keys with new or earlier work, and when the first of each is due."""
        self.poked: set[str] = set()
        """Queue keys with recipients that others than their owner changed."""
        self.rules = False
        """Whether standing rules changed."""
        self.suppresses = False
        """Whether there are suppressions, as far as ids were drawn; else :meth:`look_for_suppressions` looks."""
        self.kept_ids: set[int] = set()
        """Ids that messages from elsewhere have and keep."""
        self.first_drawn = LARGEST
        """The least id that was drawn in this transaction: none behind it is free, though no row may have it yet."""
        self._counted: dict[str, int] = {}
        self._known_rules: dict[int, bool] = {}
        self._after: list[Callable[[], object]] = []
        self._undo: list[Callable[[], object]] = []

    @classmethod
    def of_caller(cls, connection: Connection, time: float) -> WriteTransaction:
        """A transaction that a caller began, and will commit after :meth:`flush`."""
        transaction = cls(connection, time, reads_first=True)
        transaction.xid = "the caller's"
        return transaction

    @property
    def db(self) -> Connection:
        """The connection, in this transaction."""
        if not self.xid:
            self.ask()
        return self._connection

    def ask(self, question: str = "", values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; the first one begins the transaction in the same round trip."""
        cursor = psycopg.ClientCursor(self._connection)
        if self.xid:
            return cursor.execute(question.encode(), values).fetchall()
        cursor.execute(f"{self._begin}; {question}".encode(), values or None)
        cursor.nextset()
        row = cursor.fetchone()
        assert row is not None
        self.xid = str(row[-1])
        return cursor.fetchall() if cursor.nextset() else []

    def last(self, statement: str, values: Sequence[object]) -> None:
        """Execute a statement with the commit, or at once if a job of this transaction might read its rows."""
        if self._reads_first:
            self._last.append((statement, values))
        else:
            self.db.execute(statement.encode(), values)

    def tell(self, key: str, at: int) -> None:
        """Record that a recipient of a key is due at a time."""
        if at < self.due.get(key, at + 1):
            self.due[key] = at

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self._counted[name] = self._counted.get(name, 0) + number

    def afterwards(self, action: Callable[[], object]) -> None:
        """Register an action to run after the commit."""
        self._after.append(action)

    def if_undone(self, action: Callable[[], object]) -> None:
        """Register an action for a transaction that is not committed, to undo changes in memory."""
        self._undo.append(action)

    def draw(self, many: int) -> int:
        """Draw consecutive new ids; returns the first one. Raises QueueUnavailable."""
        next_id(0, self.time)  # raises if the clock is beyond all ids
        return self.draw_from(min(first_id(self.time), LARGEST), many)

    def draw_from(self, lowest: int, many: int) -> int:
        """Draw consecutive new ids, none below a bound; returns the first one."""
        ((first, self.suppresses),) = self.ask(f"SELECT zsmtp_draw(%s, %s), {_SUPPRESSES}", (lowest, many))
        self.first_drawn = min(self.first_drawn, first)
        return int(first)

    def look_for_suppressions(self) -> None:
        """Read whether there are suppressions."""
        self.suppresses = one(self.db, f"SELECT {_SUPPRESSES}")

    def holds(self, number: int, by_command: int) -> int:
        """The hold for the number of a rule: 0 if there is no such rule."""
        if number <= 0 or number == by_command:
            return number
        if number not in self._known_rules:  # the lock keeps the rule until this is committed
            row = self.db.execute("SELECT 1 FROM zsmtp_rule WHERE number = %s FOR KEY SHARE", (number,)).fetchone()
            self._known_rules[number] = row is not None
        return number if self._known_rules[number] else 0

    def flush(self) -> None:
        """Write the collected changes."""
        self._note()
        self.write_now()

    def write_now(self) -> None:
        """Execute the statements for the commit now, for a query that needs their rows: one round trip."""
        if self._last:
            with self.db.pipeline():
                for statement, values in self._last:
                    self.db.execute(statement.encode(), values)
            self._last.clear()

    def commit(self) -> None:
        """Write the collected changes, and commit: one round trip."""
        self._note()
        statements = "; ".join([*(statement for statement, _ in self._last), "COMMIT"])
        values = [value for _, some in self._last for value in some]
        psycopg.ClientCursor(self.db).execute(statements.encode(), values or None)

    def _note(self) -> None:
        """Add the statements for counters and news."""
        if self._counted:
            self._last.append(
                (
                    "INSERT INTO zsmtp_counter (names, amounts) VALUES (%s::text[], %s::bigint[])",
                    (list(self._counted), list(self._counted.values())),
                )
            )
        if self.has_news:
            self._last.append(
                (
                    "INSERT INTO zsmtp_news (keys, due, poked, rules) "
                    "VALUES (%s::text[], %s::bigint[], %s::text[], %s)",
                    (list(self.due), list(self.due.values()), sorted(self.poked), self.rules),
                )
            )

    @property
    def has_news(self) -> bool:
        """Whether delivering processes must be notified."""
        return bool(self.due or self.poked or self.rules)

    def committed(self) -> None:
        """Run the actions for after the commit."""
        for action in self._after:
            action()

    def undone(self) -> None:
        """Run the actions for a transaction that was not committed, the last first."""
        for action in reversed(self._undo):
            action()


def one(db: Connection, statement: str, *values: object) -> Any:
    """The single value that a statement returns."""
    row = db.execute(statement.encode(), values or None).fetchone()
    assert row is not None
    return row[0]


def insert(transaction: WriteTransaction, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows: a few with the commit, more by COPY."""
    if not rows:
        return
    columns = ", ".join(names)
    if len(rows) <= _FEW and sum(len(value) for row in rows for value in row if isinstance(value, bytes)) <= _SMALL:
        statement = f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(names))})"
        for row in rows:
            transaction.last(statement, row)
        return
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
    with transaction.db.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.set_types([_TYPES.get(name, "text") for name in names])
        for row in rows:
            copy.write_row(row)


def in_columns(attempts: Collection[AttemptKey]) -> tuple[list[int], list[int], list[int]]:
    """Attempts as three arrays: messages, numbers, attempts."""
    found = list(attempts)
    return [one.message for one in found], [one.number for one in found], [one.attempt for one in found]


def attempts_from(rows: Iterable[Sequence[Any]]) -> list[AttemptKey]:
    """Attempts from rows of message, number, attempt."""
    return [AttemptKey(*row[:3]) for row in rows]
