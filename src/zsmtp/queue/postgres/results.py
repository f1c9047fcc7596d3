"""Writes marks and results in the writer's thread.

The rules are those of ``zsmtp.queue.settling``. The lock on the row of a lease excludes other changes of its recipients
between the read and the write (``zsmtp.queue.postgres.leases``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import settling
from zsmtp.queue.changes import DEFERRED, Changes, Current, Place, SettledAttempt
from zsmtp.queue.leases import MARGIN, VALID, check_shed
from zsmtp.queue.limits import BY_COMMAND, CHUNK
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.postgres import leases
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.leases import LockedLeases
from zsmtp.queue.postgres.marks import Marks
from zsmtp.queue.postgres.transaction import WriteTransaction, in_columns, insert
from zsmtp.queue.slots import SitePart, has
from zsmtp.queue.sql import ARRIVING, HISTORY, OWED, columns, owed_values, status_text
from zsmtp.queue.states import AttemptKey, milliseconds
from zsmtp.queue.store import Lease, Settlement

_DEFERRED_TYPES = ("text", "bigint", "integer", "bigint", "boolean", "boolean", "text", "text", "bigint", "integer")


class MarkRequest(NamedTuple):
    """A request for marks. ``age`` returns the seconds since the event loop last ran, at the time of the call."""

    lease: int
    keys: Collection[str]
    attempts: Sequence[AttemptKey]
    age: Callable[[], float]


class SettleRequest(NamedTuple):
    """A request to write results. ``keys`` and ``doubts`` are those of the lease."""

    lease: int
    keys: Collection[str]
    settlements: Sequence[Settlement]
    in_hand: Collection[AttemptKey]
    doubts: Collection[AttemptKey]


class GiveUpRequest(NamedTuple):
    """A request to give up slots of a lease."""

    lease: int
    slots: int


class PostgresResults:
    """Marks and results of one node."""

    def __init__(self) -> None:
        self.node = 0
        self.marks = Marks()

    # ------------------------------------------------------------------ marks

    def must_wait(self, marking: MarkRequest) -> bool:
        """Whether the commit of marks has to wait for the disk: not if the durable list of those in hand has them."""
        return not self.marks.in_hand(marking.lease).issuperset(marking.attempts)

    def mark(self, transaction: WriteTransaction, requests: list[MarkRequest]) -> list[bool]:
        """Write marks."""
        places = {attempt[:2] for one in requests for attempt in one.attempts}
        locked = leases.lock(transaction, {one.lease for one in requests}, self.node, places)
        if not locked.owned or not self._is_good(transaction, locked, min(one.age() for one in requests)):
            return [False] * len(requests)
        there = found(locked.recipients)
        return [self._mark(transaction, one, locked.owned.get(one.lease, 0), there) for one in requests]

    def _is_good(self, transaction: WriteTransaction, locked: LockedLeases, age: float) -> bool:
        """Whether this node's leases are valid for long enough, by the clock of the database; called after the lock.

        A lease that no other node took still belongs to its owner: if the event loop runs, it is extended now.
        """
        if locked.seconds_left is None:
            return False
        if locked.seconds_left < MARGIN:
            if VALID - age < MARGIN:
                return False
            transaction.db.execute(RENEW, (VALID - age, self.node))
        if not locked.same_server:
            self.write_again(transaction)
        return True

    def write_again(self, transaction: WriteTransaction) -> None:
        """Write all marks again, durably, after a restart of the server."""
        db = transaction.db
        db.execute("SET LOCAL synchronous_commit = on")
        rows = db.execute(
            "SELECT number FROM zsmtp_lease WHERE node = %s ORDER BY number FOR NO KEY UPDATE", (self.node,)
        ).fetchall()
        self.marks.write_again(transaction, [number for (number,) in rows])
        db.execute("UPDATE zsmtp_node SET incarnation = zsmtp_incarnation() WHERE id = %s", (self.node,))

    def repeat_marks(self, transaction: WriteTransaction, requests: list[None]) -> list[None]:
        """Write all marks again, for a server that was restarted."""
        self.write_again(transaction)
        return requests

    def _mark(
        self, transaction: WriteTransaction, request: MarkRequest, slots: int, there: dict[Place, Current | None]
    ) -> bool:
        part = SitePart(request.keys, slots)
        if VALID - request.age() < MARGIN or not _may_mark(there, request.attempts, part):
            return False
        self.marks.add(transaction, request.lease, request.attempts)
        return True

    # ---------------------------------------------------------------- results

    def settle(self, transaction: WriteTransaction, requests: list[SettleRequest]) -> list[list[AttemptKey]]:
        """Write results."""
        places = {settling.attempt_of(one)[:2] for request in requests for one in request.settlements}
        locked = leases.lock(transaction, {request.lease for request in requests}, self.node, places)
        owned, there = locked.owned, found(locked.recipients)
        if foreign := _foreign(requests, there, owned):
            leases.lock_keys(transaction, foreign)
            there = read(transaction.db, places)
        changes = Changes(there, lambda number: transaction.holds(number, BY_COMMAND))
        over: list[SettledAttempt] = []
        conflicts = []
        for request in requests:
            part = SitePart(request.keys, owned.get(request.lease, 0))
            some, ended = changes.apply(request.settlements, part, transaction.time)
            conflicts.append(some)
            over += ended
        write(transaction, changes)
        self.marks.settled(transaction, over)
        doubtful = set().union(*(request.doubts for request in requests)) & {attempt for attempt, _ in over}
        if doubtful:
            _forget_doubts(transaction, doubtful)
        for request in requests:
            if request.lease in owned:
                slots = owned[request.lease]
                in_hand = frozenset(attempt for attempt in request.in_hand if has(slots, attempt.message))
                self.marks.hold(transaction, request.lease, in_hand)
        if lost := {request.lease for request in requests} - owned.keys():
            self.marks.forget(transaction, lost)
        return conflicts

    # ------------------------------------------------------------------ leases

    def give_back(self, transaction: WriteTransaction, requests: list[Collection[int]]) -> list[list[int] | Exception]:
        """End leases without marks; returns those that this node had."""
        answers: list[list[int] | Exception] = []
        for numbers in requests:
            owned = leases.lock(transaction, numbers, self.node).owned.keys()
            if any(self.marks.of_lease(number) for number in owned):
                answers.append(QueueError("a lease with marked attempts cannot be given back: settle them first"))
                continue
            leases.drop(transaction.db, owned)
            self.marks.forget(transaction, numbers)
            for (key,) in transaction.db.execute(
                "SELECT DISTINCT r.key FROM zsmtp_doubt d JOIN zsmtp_recipient r "
                "ON r.message = d.message AND r.number = d.number"
            ).fetchall():
                transaction.tell(key, transaction.now)  # another node may take it
            answers.append(sorted(owned))
        return answers

    def shed(self, transaction: WriteTransaction, requests: list[GiveUpRequest]) -> list[Lease | Exception | None]:
        """Give up slots of leases; returns each lease as it is then, None if this node has it no more."""
        return [self._give_up(transaction, request) for request in requests]

    def _give_up(self, transaction: WriteTransaction, request: GiveUpRequest) -> Lease | Exception | None:
        lease, slots = request
        owned = leases.lock(transaction, [lease], self.node).owned
        if lease not in owned:
            return None
        try:
            check_shed(owned[lease], slots, self.marks.of_lease(lease))
            leases.shed(transaction.db, lease, slots)
        except QueueError as error:
            return error
        left = frozenset(attempt for attempt in self.marks.in_hand(lease) if not has(slots, attempt.message))
        self.marks.hold(transaction, lease, left)
        (found,) = leases.read_leases(transaction.db, [lease])
        return found

    # ----------------------------------------------------------------- status

    def report(self, transaction: WriteTransaction, reports: list[Sequence[SiteStatus]]) -> list[None]:
        """Store the status of sites."""
        latest = {one.site: one for statuses in reports for one in statuses}
        transaction.db.execute(
            "INSERT INTO zsmtp_part_status (node, site, updated, status) "
            "SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::text[]) "
            "ON CONFLICT (site, node) DO UPDATE SET updated = excluded.updated, status = excluded.status",
            (
                self.node,
                sorted(latest),
                [milliseconds(latest[site].updated) for site in sorted(latest)],
                [status_text(latest[site]) for site in sorted(latest)],
            ),
        )
        return [None] * len(reports)


RENEW = (
    "UPDATE zsmtp_node SET valid_until = greatest(valid_until, zsmtp_clock() + make_interval(secs => %s)) WHERE id = %s"
)
"""Extend a node's leases to a number of seconds from now."""


def _foreign(requests: list[SettleRequest], there: dict[Place, Current | None], owned: dict[int, int]) -> set[str]:
    """The queue keys of recipients of other nodes that a late result may still end."""
    found = set()
    for request in requests:
        part = SitePart(request.keys, owned.get(request.lease, 0))
        for settlement in request.settlements:
            attempt = settling.attempt_of(settlement)
            one = there.get(attempt[:2])
            if one is None or part.has(one.key, attempt.message):
                continue
            if one.doubtful and one.attempts == attempt.attempt:
                found.add(one.key)
    return found


def read(db: Connection, places: Iterable[Place]) -> dict[Place, Current | None]:
    """The current recipients; absent ones are not in the result."""
    wanted = list(places)
    columns = [place[0] for place in wanted], [place[1] for place in wanted]
    return found(db.execute("SELECT * FROM zsmtp_current(%s::bigint[], %s::integer[])", columns).fetchall())


def found(rows: Iterable[Sequence[Any]]) -> dict[Place, Current | None]:
    """Rows of ``zsmtp_current`` as recipients. Those of a large upload without a release yet have no hold."""
    return {
        (message, number): Current(
            key, attempts, due / 1000, expires / 1000, 0 if hold == ARRIVING else hold, doubtful, warned
        )
        for message, number, key, attempts, due, expires, hold, doubtful, warned in rows
    }


def _may_mark(there: dict[Place, Current | None], attempts: Collection[AttemptKey], part: SitePart) -> bool:
    """Whether all attempts may be marked (``settling.may_mark``)."""
    recipients = [(attempt, there.get(attempt[:2])) for attempt in attempts]
    return all(
        settling.may_mark(key.attempt, one, owner=one is not None and part.has(one.key, key.message))
        for key, one in recipients
    )


def write(transaction: WriteTransaction, changes: Changes) -> None:
    """Write the changes by settlements, or by an operator."""
    if changes.ended:
        transaction.last(
            "DELETE FROM zsmtp_recipient r USING unnest(%s::bigint[], %s::integer[]) AS w (message, number) "
            "WHERE r.message = w.message AND r.number = w.number",
            ([place[0] for place in changes.ended], [place[1] for place in changes.ended]),
        )
    for owed in changes.owed:
        kept = ", ".join(f"{name} = excluded.{name}" for name in OWED[3:])
        transaction.last(
            f"INSERT INTO zsmtp_owed ({columns(OWED)}) VALUES ({', '.join(['%s'] * len(OWED))}) "
            f"ON CONFLICT (message, number, kind) DO UPDATE SET {kept}",
            owed_values(owed),
        )
    if changes.ended:
        delete_messages(transaction, {message for message, _ in changes.ended})
    insert(transaction, "zsmtp_history", HISTORY, changes.history)
    _defer(transaction, list(changes.deferred.values()))
    for name, number in changes.counted.items():
        transaction.count(name, number)
    for key, due in changes.moved:
        transaction.tell(key, due)


def delete_messages(transaction: WriteTransaction, messages: Iterable[int]) -> None:
    """Delete messages that had one recipient and one row of content; the sweep deletes the others.

    A message with an owed notice stays with its content until the notice is made.
    """
    wanted = (list(messages),)
    transaction.last(
        "WITH gone AS (DELETE FROM zsmtp_message m WHERE m.id = ANY(%s::bigint[]) AND m.recipients = 1 "
        f"AND m.size <= {CHUNK} AND NOT EXISTS (SELECT 1 FROM zsmtp_recipient r WHERE r.message = m.id) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_owed o WHERE o.message = m.id) RETURNING m.id) "
        "DELETE FROM zsmtp_content c USING gone WHERE c.message = gone.id",
        wanted,
    )
    transaction.last(  # checks whether rows are left: another node may be ending another recipient now
        "INSERT INTO zsmtp_maybe_finished (message) SELECT id FROM zsmtp_message WHERE id = ANY(%s::bigint[])", wanted
    )


def _defer(transaction: WriteTransaction, rows: list[tuple[object, ...]]) -> None:
    if not rows:
        return
    arrays = ", ".join(f"%s::{kind}[]" for kind in _DEFERRED_TYPES)
    values = ", ".join(f"{name} = w.{name}" for name in DEFERRED[:-2])
    transaction.last(
        f"UPDATE zsmtp_recipient r SET {values} FROM unnest({arrays}) AS w ({columns(DEFERRED)}) "
        "WHERE r.message = w.message AND r.number = w.number",
        [list(column) for column in zip(*rows, strict=True)],
    )


def _forget_doubts(transaction: WriteTransaction, attempts: Collection[AttemptKey]) -> None:
    transaction.last(
        "DELETE FROM zsmtp_doubt d USING unnest(%s::bigint[], %s::integer[], %s::integer[]) "
        "AS w (message, number, attempt) WHERE d.message = w.message AND d.number = w.number",
        in_columns(attempts),
    )
