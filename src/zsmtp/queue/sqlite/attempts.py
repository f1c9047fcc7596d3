"""Lists of attempts in the database: those with a mark, and those in hand.

Attempts that are written together are in one row, for any number of messages; the row is deleted when all of them are
settled. Until then an attempt in it counts only while it is the next one of its recipient, so most settlements change
no row. If an attempt remains the next one after its settlement (none was counted), or is in hand no more without a
result, the row is written again without it.

The writer's thread also has the lists in memory (:class:`Attempts`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction, each
from zsmtp.queue.states import AttemptKey

_MOST = 5000  # attempts in one row


class _Place(NamedTuple):
    row: int
    lease: int


class Attempts:
    """One list. The changes of a transaction (:meth:`add`, :meth:`remove`) are written before its commit."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._rows: dict[int, set[AttemptKey]] = {}
        self._places: dict[AttemptKey, _Place] = {}
        self._of_lease: dict[int, set[AttemptKey]] = {}
        self._added: dict[AttemptKey, int] = {}
        self._removed: dict[AttemptKey, bool] = {}
        self._transaction: WriteTransaction | None = None
        self.fence = 0

    def load(self, db: Executes, alive: Collection[AttemptKey]) -> None:
        """Read those attempts of the list that are the next of their recipients; rows without any are deleted."""
        rows = {
            row: {attempt for attempt in attempts if attempt in alive} for row, _, attempts in stored(db, self._table)
        }
        each(db, f"DELETE FROM {self._table} WHERE id IN ({{}})", [row for row, left in rows.items() if not left])
        self._rows = {row: left for row, left in rows.items() if left}
        self._places = {attempt: _Place(row, 0) for row, attempts in self._rows.items() for attempt in attempts}
        self._of_lease = {0: set(self._places)} if self._places else {}

    def __contains__(self, attempt: AttemptKey) -> bool:
        return attempt in self._places

    def __iter__(self) -> Iterator[AttemptKey]:
        return iter(self._places)

    def of_lease(self, transaction: WriteTransaction, lease: int) -> set[AttemptKey]:
        """The attempts under a lease, with the changes of the transaction."""
        found = set(self._of_lease.get(lease, ()))
        if self._transaction is transaction:
            found |= {attempt for attempt, number in self._added.items() if number == lease}
            found -= self._removed.keys()
        return found

    def add(self, transaction: WriteTransaction, attempts: Iterable[AttemptKey], lease: int) -> None:
        """Add attempts."""
        self._begin(transaction)
        for attempt in attempts:
            if attempt not in self._places:
                self._added[attempt] = lease
            self._removed.pop(attempt, None)

    def remove(self, transaction: WriteTransaction, attempt: AttemptKey, *, counted: bool) -> None:
        """Remove an attempt that is over; ``counted``: it is not the next one of its recipient any more."""
        self._begin(transaction)
        if self._added.pop(attempt, None) is None and attempt in self._places:
            self._removed[attempt] = counted

    def _begin(self, transaction: WriteTransaction) -> None:
        if self._transaction is not transaction:  # the changes of a failed one are discarded
            self._transaction = transaction
            self._added.clear()
            self._removed.clear()
            transaction.beforehand(self._flush)

    def _flush(self, transaction: WriteTransaction) -> None:
        db = transaction.db
        left: dict[int, set[AttemptKey]] = {}
        again: set[int] = set()
        for attempt, counted in self._removed.items():
            row = self._places[attempt].row
            if row not in left:
                left[row] = set(self._rows[row])
            left[row].discard(attempt)
            if not counted:
                again.add(row)
        each(db, f"DELETE FROM {self._table} WHERE id IN ({{}})", [row for row, rest in left.items() if not rest])
        for row in again:
            if left[row]:
                db.execute(f"UPDATE {self._table} SET attempts = ? WHERE id = ?", (packed(left[row]), row))
        rows: dict[int, list[AttemptKey]] = {}
        added = list(self._added)
        for start in range(0, len(added), _MOST):
            part = added[start : start + _MOST]
            sql = f"INSERT INTO {self._table} (fence, attempts) VALUES (?, ?)"
            row = db.execute(sql, (self.fence, packed(part))).lastrowid or 0
            rows[row] = part
        if left or rows:
            leases, removed = dict(self._added), list(self._removed)
            transaction.afterwards(lambda: self._keep(left, rows, leases, removed))

    def _keep(
        self,
        left: dict[int, set[AttemptKey]],
        rows: dict[int, list[AttemptKey]],
        leases: dict[AttemptKey, int],
        removed: list[AttemptKey],
    ) -> None:
        for attempt in removed:
            lease = self._places.pop(attempt).lease
            self._of_lease[lease].discard(attempt)
            if not self._of_lease[lease]:
                del self._of_lease[lease]
        for row, rest in left.items():
            if rest:
                self._rows[row] = rest
            else:
                del self._rows[row]
        for row, part in rows.items():
            self._rows[row] = set(part)
            for attempt in part:
                self._places[attempt] = _Place(row, leases[attempt])
                self._of_lease.setdefault(leases[attempt], set()).add(attempt)


def hands(db: Executes, boot: str) -> list[tuple[int, list[AttemptKey], bool]]:
    """The rows of attempts in hand: id, attempts, and whether their marks may have been lost with the machine.

    ``boot`` identifies the start of this machine; without it the machine counts as one that died, which is safe: more
    attempts were in hand than were sent.
    """
    boots = dict(db.execute("SELECT fence, boot FROM zsmtp_node").fetchall())
    rows = stored(db, "zsmtp_in_hand")
    return [(row, attempts, not boot or boots.get(fence) != boot) for row, fence, attempts in rows]


def perhaps_sent(db: Executes, boot: str) -> set[AttemptKey]:
    """Attempts without a result that have a mark, or may have had one that was lost with the machine."""
    marked = {attempt for _, _, attempts in stored(db, "zsmtp_mark") for attempt in attempts}
    return marked.union(*(attempts for _, attempts, lost in hands(db, boot) if lost))


def packed(attempts: Collection[AttemptKey]) -> bytes:
    """Attempts in the format of a row."""
    return struct.pack(f"<{len(attempts) * 3}q", *[number for attempt in attempts for number in attempt])


def unpacked(data: bytes) -> list[AttemptKey]:
    """Attempts from a row; an incomplete one at the end is left out."""
    return [AttemptKey(*three) for three in struct.iter_unpack("<3q", data[: len(data) // 24 * 24])]


def stored(db: Executes, table: str) -> list[tuple[int, int, list[AttemptKey]]]:
    """The rows of a list: id, fence, attempts."""
    rows = db.execute(f"SELECT id, fence, attempts FROM {table} ORDER BY id").fetchall()
    return [(row, fence, unpacked(data)) for row, fence, data in rows]
