"""One transaction of the writer, and its collected changes: written once before the commit, announced after it.

Several jobs share a transaction. It collects their changes to common rows (the last id, counters, pokes, attempts
marked and in hand); :meth:`WriteTransaction.flush` writes them. Nothing in memory changes before the commit: such
changes are actions for :meth:`WriteTransaction.afterwards`. So a transaction that fails can be tried again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol

from zsmtp.queue.ids import next_id
from zsmtp.queue.states import AttemptKey, milliseconds

SIZES = (1, 2, 5, 10, 20, 50, 100)
"""Lengths of lists in statements: each length is one prepared statement of a connection."""


class Executes(Protocol):
    """A connection, or a cursor of a caller's connection."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> sqlite3.Cursor: ...
    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> sqlite3.Cursor: ...


class News:
    """The changes of a transaction that concern the delivering process. Times are in milliseconds."""

    __slots__ = ("keys", "poked", "released", "rules")

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.poked: set[str] = set()
        self.released: list[int] = []
        """Accepted uploads whose recipients are not released yet."""
        self.rules = False

    def due(self, key: str, at: int) -> None:
        """Record that a recipient of a key is due at a time."""
        if at < self.keys.get(key, at + 1):
            self.keys[key] = at

    def add(self, other: News) -> None:
        """Add the changes of another one."""
        for key, at in other.keys.items():
            self.due(key, at)
        self.poked |= other.poked
        self.released += other.released
        self.rules |= other.rules

    def __bool__(self) -> bool:
        return bool(self.keys or self.poked or self.released or self.rules)


class WriteTransaction:
    """The changes collected in one transaction."""

    __slots__ = (
        "_after",
        "_before",
        "_before_all",
        "_counted",
        "_id",
        "_kept",
        "db",
        "marked",
        "moved",
        "news",
        "now",
        "octets",
        "time",
    )

    def __init__(self, db: Executes, time: float) -> None:
        self.db = db
        self.time = time
        self.now = milliseconds(time)
        self.news = News()
        self.moved: set[str] = set()
        """Keys with recipients that others than their owner changed or brought, for an owner in another process."""
        self.marked: set[AttemptKey] = set()
        """Attempts that got a mark in this transaction, which is written at its end."""
        self.octets = 0
        """About as much as was written."""
        self._counted: dict[str, int] = {}
        self._before: list[Callable[[WriteTransaction], None]] = []
        self._after: list[Callable[[], None]] = []
        self._id = 0
        self._before_all = 0
        self._kept: set[int] = set()

    def meta(self, name: str) -> Any:
        """A single value."""
        return self.db.execute("SELECT value FROM zsmtp_meta WHERE name = ?", (name,)).fetchone()[0]

    def grow(self, name: str) -> int:
        """Increase a number by one."""
        self.db.execute("UPDATE zsmtp_meta SET value = value + 1 WHERE name = ?", (name,))
        return int(self.meta(name))

    def draw(self) -> int:
        """A new id."""
        self._id = next_id(self._last(), self.time)
        return self._id

    def _last(self) -> int:
        """The last id that was given, in this transaction or before it."""
        if not self._id:
            self._before_all = int(self.meta("last_id"))
        return self._id or self._before_all

    def draw_up_to(self, wanted: int) -> bool:
        """Draw the id of a message from another queue, if it is greater than the last one."""
        if wanted <= self._last():
            return False
        self._id = wanted
        return True

    def keep(self, wanted: int, *, free: bool) -> bool:
        """Give an id before the last one to a message from another queue, if it is free.

        An id that this transaction gave is not free, even if no row has it yet.
        """
        self._last()
        if not free or wanted in self._kept or wanted > self._before_all:
            return False
        self._kept.add(wanted)
        return True

    @property
    def last_id(self) -> int:
        """The last id that was drawn in this transaction, 0 if none was."""
        return self._id

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self._counted[name] = self._counted.get(name, 0) + number

    def afterwards(self, action: Callable[[], None]) -> None:
        """Register an action to run after the commit."""
        self._after.append(action)

    def beforehand(self, action: Callable[[WriteTransaction], None]) -> None:
        """Register an action that writes in this transaction, before the commit."""
        self._before.append(action)

    def flush(self, *, delivers: bool) -> None:
        """Write the collected changes; ``delivers``: the deliverer is in this process."""
        for action in self._before:
            action(self)
        if self._id:
            self.db.execute("UPDATE zsmtp_meta SET value = ? WHERE name = 'last_id'", (self._id,))
        if self._counted:
            values = ", ".join("(?, ?)" for _ in self._counted)
            self.db.execute(
                f"INSERT INTO zsmtp_counter (name, value) VALUES {values} "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                [one for pair in sorted(self._counted.items()) for one in pair],
            )
        if self.news.rules:
            self.grow("rules")
        if self.moved and not delivers:
            seq = self.grow("poke")
            self.db.executemany(
                "INSERT INTO zsmtp_poke (key, seq) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET seq = excluded.seq",
                [(key, seq) for key in sorted(self.moved)],
            )

    def committed(self) -> None:
        """Run the actions for after the commit."""
        for action in self._after:
            action()


def insert(db: Executes, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows with as few statements as possible.

    ``into`` is the statement up to ``VALUES``, and the placeholders of one row: ``INSERT INTO t (a, b) VALUES|(?, ?)``.
    """
    head, _, marks = into.partition("|")
    start = 0
    while start < len(rows):
        left = len(rows) - start
        size = max(size for size in SIZES if size <= left)
        sql = f"{head} {', '.join([marks] * size)}"
        db.execute(sql, [value for row in rows[start : start + size] for value in row])
        start += size


def listed(count: int) -> str:
    """The placeholders of a list of ``count`` values."""
    return ", ".join("?" * count)


def each(db: Executes, sql: str, values: Collection[Any]) -> None:
    """Execute a statement with ``IN ({})`` for all values, a hundred at a time."""
    found = list(values)
    for start in range(0, len(found), SIZES[-1]):
        part = found[start : start + SIZES[-1]]
        size = next(size for size in SIZES if size >= len(part))
        db.execute(sql.format(listed(size)), part + part[-1:] * (size - len(part)))


def in_parts(rows: Sequence[Sequence[Any]], width: int) -> Iterator[tuple[str, list[Any]]]:
    """The placeholders of ``VALUES`` and the values, for rows of a width, at most 100 at a time, the last repeated."""
    marks = f"({listed(width)})"
    for start in range(0, len(rows), SIZES[-1]):
        part = rows[start : start + SIZES[-1]]
        size = next(size for size in SIZES if size >= len(part))
        values = [value for row in part for value in row]
        for _ in range(size - len(part)):
            values.extend(part[-1])
        yield ", ".join([marks] * size), values
