"""The attempts with a mark, and those in hand: lists in the database, which their node also has in memory.

Marks that are written together are in one row, which is deleted when all its attempts are settled. Until then an
attempt in it counts only while it is the next one of its recipient, so most settlements change no row. If an attempt
remains the next one after its settlement (none was counted), the row is written again without it. The attempts in hand
are one row for each lease, written with each group of results.

Every change belongs to a transaction: if that one fails, the change in memory is undone.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from functools import partial

from zsmtp.queue.changes import SettledAttempt
from zsmtp.queue.postgres.transaction import WriteTransaction, in_columns
from zsmtp.queue.states import AttemptKey

_INSERT = (
    "INSERT INTO zsmtp_mark (lease, mark, messages, numbers, attempts) "
    "VALUES (%s, %s, %s::bigint[], %s::integer[], %s::integer[])"
)
_DELETE = (
    "DELETE FROM zsmtp_mark m USING unnest(%s::bigint[], %s::integer[]) AS w (lease, mark) "
    "WHERE m.lease = w.lease AND m.mark = w.mark"
)
_UPDATE = (
    "UPDATE zsmtp_mark SET messages = %s::bigint[], numbers = %s::integer[], attempts = %s::integer[] "
    "WHERE lease = %s AND mark = %s"
)


class Marks:
    """The marks of one node, and its attempts in hand."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)  # of rows
        self._rows: dict[int, set[AttemptKey]] = {}
        self._row_of: dict[AttemptKey, int] = {}
        self._lease_of: dict[int, int] = {}  # by row
        self._in_hand: dict[int, frozenset[AttemptKey]] = {}  # by lease, durably

    def in_hand(self, lease: int) -> frozenset[AttemptKey]:
        """The durable list of attempts in hand under a lease."""
        return self._in_hand.get(lease, frozenset())

    def of_lease(self, lease: int) -> set[AttemptKey]:
        """The attempts with a mark under a lease."""
        rows = [row for row, of in self._lease_of.items() if of == lease]
        return set().union(*(self._rows[row] for row in rows))

    # ------------------------------------------------------------------ marks

    def add(self, transaction: WriteTransaction, lease: int, attempts: Iterable[AttemptKey]) -> None:
        """Write marks for attempts without one."""
        new = [attempt for attempt in dict.fromkeys(attempts) if attempt not in self._row_of]
        if new:
            row = next(self._numbers)
            transaction.last(_INSERT, (lease, row, *in_columns(new)))
            self._put(row, lease, set(new))
            transaction.if_undone(partial(self._drop, row))

    def settled(self, transaction: WriteTransaction, attempts: Iterable[SettledAttempt]) -> None:
        """Remove the marks of settled attempts."""
        empty: list[int] = []
        again: set[int] = set()
        for attempt, counted in attempts:
            row = self._row_of.pop(attempt, None)
            if row is None:
                continue
            transaction.if_undone(partial(self._put_back, row, attempt))
            self._rows[row].discard(attempt)
            if not self._rows[row]:
                empty.append(row)
            elif not counted:
                again.add(row)
        if empty:
            transaction.last(_DELETE, ([self._lease_of[row] for row in empty], empty))
            for row in empty:
                transaction.afterwards(partial(self._forget_if_empty, row))
        for row in again - set(empty):
            transaction.last(_UPDATE, (*in_columns(self._rows[row]), self._lease_of[row], row))

    def write_again(self, transaction: WriteTransaction, leases: Collection[int]) -> None:
        """Write all marks of leases again: a server that died may have lost them."""
        for lease in leases:
            transaction.last("DELETE FROM zsmtp_mark WHERE lease = %s", (lease,))
            attempts = self.of_lease(lease)
            for row in [row for row, of in self._lease_of.items() if of == lease]:
                transaction.if_undone(partial(self._put, row, lease, self._drop(row)))
            self.add(transaction, lease, sorted(attempts))

    def _put(self, row: int, lease: int, attempts: set[AttemptKey]) -> None:
        self._rows[row] = attempts
        self._lease_of[row] = lease
        for attempt in attempts:
            self._row_of[attempt] = row

    def _put_back(self, row: int, attempt: AttemptKey) -> None:
        self._rows[row].add(attempt)
        self._row_of[attempt] = row

    def _drop(self, row: int) -> set[AttemptKey]:
        attempts = self._rows.pop(row)
        del self._lease_of[row]
        for attempt in attempts:
            self._row_of.pop(attempt, None)
        return attempts

    def _forget_if_empty(self, row: int) -> None:
        if row in self._rows and not self._rows[row]:
            self._drop(row)

    # ---------------------------------------------------------------- in hand

    def hold(self, transaction: WriteTransaction, lease: int, attempts: frozenset[AttemptKey]) -> None:
        """Write the attempts in hand under a lease."""
        before = self.in_hand(lease)
        if attempts == before:
            return
        if attempts:
            transaction.last(
                "INSERT INTO zsmtp_in_hand (lease, messages, numbers, attempts) "
                "VALUES (%s, %s::bigint[], %s::integer[], %s::integer[]) ON CONFLICT (lease) DO UPDATE "
                "SET messages = excluded.messages, numbers = excluded.numbers, attempts = excluded.attempts",
                (lease, *in_columns(attempts)),
            )
        else:
            transaction.last("DELETE FROM zsmtp_in_hand WHERE lease = %s", (lease,))
        self._set_in_hand(lease, attempts)
        transaction.if_undone(partial(self._set_in_hand, lease, before))

    def _set_in_hand(self, lease: int, attempts: frozenset[AttemptKey]) -> None:
        if attempts:
            self._in_hand[lease] = attempts
        else:
            self._in_hand.pop(lease, None)

    # ----------------------------------------------------------------- leases

    def forget(self, transaction: WriteTransaction, leases: Collection[int]) -> None:
        """Drop the marks of ended leases from memory, after the commit."""

        def forget() -> None:
            for row in [row for row, of in self._lease_of.items() if of in leases]:
                self._drop(row)
            for lease in leases:
                self._in_hand.pop(lease, None)

        transaction.afterwards(forget)
