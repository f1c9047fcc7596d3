"""One transaction that writes, and what is gathered in it: written once before the commit, announced after it.

Several jobs share a transaction. What they add to counters and what others are to be told of they note here;
:meth:`WriteTransaction.commit` writes a row of each. Nothing in memory changes before the commit: what is to change
then is given to :meth:`WriteTransaction.afterwards`. So a transaction that fails can be tried again.

Round trips are what a small transaction costs. It begins with its first question (:meth:`WriteTransaction.ask`), in one
round trip, and what may be written last goes with the commit, in another; a transaction that writes marks is no more.
These go as several statements in one text, into which the client writes the values.
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
"""Types of columns that are no texts."""


class WriteTransaction:
    """What is gathered in one transaction. ``now`` is in milliseconds.

    ``durable`` tells whether its commit waits for the disk; ``reads_first`` that none of its jobs reads what another
    one writes.
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
        """The rows that answer a question; the first one begins the transaction in the same round trip."""
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
        """Write something with the commit, or at once where a job of this transaction might read it."""
        if self._reads_first:
            self._last.append((statement, values))
        else:
            self.db.execute(statement.encode(), values)

    def tell(self, key: str, at: int) -> None:
        """Something of a key is due at a time."""
        if at < self.due.get(key, at + 1):
            self.due[key] = at

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self._counted[name] = self._counted.get(name, 0) + number

    def afterwards(self, action: Callable[[], object]) -> None:
        """Have something done after the commit."""
        self._after.append(action)

    def if_undone(self, action: Callable[[], object]) -> None:
        """Have something done if this transaction is not committed: what was changed in memory is changed back."""
        self._undo.append(action)

    def draw(self, many: int) -> int:
        """So many new ids that follow each other: the first one. Raises QueueUnavailable."""
        next_id(0, self.time)  # raises if the clock is beyond all ids
        return self.draw_from(min(first_id(self.time), LARGEST), many)

    def draw_from(self, lowest: int, many: int) -> int:
        """So many new ids, none below a bound: the first one."""
        ((first, self.suppresses),) = self.ask(f"SELECT zsmtp_draw(%s, %s), {_SUPPRESSES}", (lowest, many))
        self.first_drawn = min(self.first_drawn, first)
        return int(first)

    def look_for_suppressions(self) -> None:
        """Find out whether there are suppressions."""
        self.suppresses = one(self.db, f"SELECT {_SUPPRESSES}")

    def holds(self, number: int, by_command: int) -> int:
        """What holds a recipient that a rule is said to hold: 0 if there is no such rule."""
        if number <= 0 or number == by_command:
            return number
        if number not in self._known_rules:  # the lock keeps the rule until this is committed
            row = self.db.execute("SELECT 1 FROM zsmtp_rule WHERE number = %s FOR KEY SHARE", (number,)).fetchone()
            self._known_rules[number] = row is not None
        return number if self._known_rules[number] else 0

    def flush(self) -> None:
        """Write what was gathered."""
        self._note()
        self.write_now()

    def write_now(self) -> None:
        """Write what was to go with the commit, for a question that is to see it: one round trip."""
        if self._last:
            with self.db.pipeline():
                for statement, values in self._last:
                    self.db.execute(statement.encode(), values)
            self._last.clear()

    def commit(self) -> None:
        """Write what was gathered, and commit: one round trip."""
        self._note()
        statements = "; ".join([*(statement for statement, _ in self._last), "COMMIT"])
        values = [value for _, some in self._last for value in some]
        psycopg.ClientCursor(self.db).execute(statements.encode(), values or None)

    def _note(self) -> None:
        """Have counters and news written last."""
        if self._counted:
            self._last.append(
                (
                    "INSERT INTO zsmtp_counter (names, amounts) VALUES (%s::text[], %s::bigint[])",
                    (list(self._counted), list(self._counted.values())),
                )
            )
        if self.tells:
            self._last.append(
                (
                    "INSERT INTO zsmtp_news (keys, due, poked, rules) "
                    "VALUES (%s::text[], %s::bigint[], %s::text[], %s)",
                    (list(self.due), list(self.due.values()), sorted(self.poked), self.rules),
                )
            )

    @property
    def tells(self) -> bool:
        """Whether somebody who delivers is to know of this."""
        return bool(self.due or self.poked or self.rules)

    def committed(self) -> None:
        """Do what was to be done after the commit."""
        for action in self._after:
            action()

    def undone(self) -> None:
        """Do what is to be done if the transaction was not committed, the last first."""
        for action in reversed(self._undo):
            action()


def one(db: Connection, statement: str, *values: object) -> Any:
    """The only value that a statement answers."""
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
