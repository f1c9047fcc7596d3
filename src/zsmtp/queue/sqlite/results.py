"""Writes marks and results in the writer's thread.

Everything here runs within the transactions of that thread; :class:`SQLiteResults` also has the lists of attempts that
are marked or in hand. The rules are those of ``zsmtp.queue.settling``; the transaction excludes other changes of a
recipient between the read and the write.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import settling
from zsmtp.queue.changes import Changes, Current, Place
from zsmtp.queue.intake import clean
from zsmtp.queue.leases import check_shed
from zsmtp.queue.limits import (
    BY_COMMAND,
    CHUNK,
)
from zsmtp.queue.moves import is_apart
from zsmtp.queue.operators import SiteStatus
from zsmtp.queue.slots import NO_PART, SitePart, has
from zsmtp.queue.sql import ARRIVING, HISTORY, OWED, columns, owed_values, status_text
from zsmtp.queue.sqlite.attempts import Attempts, hands, stored
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction, each, in_parts, insert, listed
from zsmtp.queue.states import AttemptKey, milliseconds
from zsmtp.queue.store import (
    Settlement,
)

INSERT_HISTORY = f"INSERT INTO zsmtp_history ({columns(HISTORY)}) VALUES|({listed(len(HISTORY))})"
INSERT_OWED = f"INSERT OR REPLACE INTO zsmtp_owed ({columns(OWED)}) VALUES|({listed(len(OWED))})"


class Marking(NamedTuple):
    """A request for marks. ``part`` returns what the lease has when called, ``good`` whether it is valid then."""

    lease: int
    part: Callable[[], SitePart]
    attempts: Sequence[AttemptKey]
    good: Callable[[], bool]


class Settling(NamedTuple):
    """A request to write results. ``part`` returns what the lease has at the time of the call."""

    lease: int
    part: Callable[[], SitePart]
    settlements: Sequence[Settlement]
    in_hand: Collection[AttemptKey]


class ShedRequest(NamedTuple):
    """A request to give up some of the slots that a lease has."""

    lease: int
    held: int
    slots: int


class Open(NamedTuple):
    """An attempt in doubt, with the queue key of its recipient; ``machine`` as in ``Doubt``."""

    key: str
    attempt: AttemptKey
    machine: bool


class Joined(NamedTuple):
    """The state that a process reads when it begins to deliver."""

    fence: int
    last_id: int
    rules: int
    poke: int
    doubts: list[Open]


class SQLiteResults:
    """Marks and results of the delivering process."""

    def __init__(self) -> None:
        self._marks = Attempts("zsmtp_mark")
        self._in_hand = Attempts("zsmtp_in_hand")
        self._of_lease: dict[int, set[AttemptKey]] = {}  # in hand, durably
        self._held: dict[int, set[AttemptKey]] = {}  # likewise, with the changes of the transaction
        self._transaction: WriteTransaction | None = None

    # ---------------------------------------------------------------- joining

    def join(self, transaction: WriteTransaction, nodes: list[tuple[str, str]]) -> list[Joined]:
        """Begin to deliver, as a node with a name, on a machine with a boot id."""
        return [self._join(transaction, name, boot) for name, boot in nodes]

    def _join(self, transaction: WriteTransaction, name: str, boot: str) -> Joined:
        db = transaction.db
        fence = transaction.grow("fence")
        marked = {attempt for _, _, attempts in stored(db, "zsmtp_mark") for attempt in attempts}
        rows = hands(db, boot)
        each(db, "DELETE FROM zsmtp_in_hand WHERE id IN ({})", [row for row, _, lost in rows if not lost])
        candidates = marked.union(*(attempts for _, attempts, lost in rows if lost))
        there = read(db, {attempt[:2] for attempt in candidates})
        doubts = [
            Open(one.key, attempt, attempt not in marked)
            for attempt in sorted(candidates)
            if (one := there.get(attempt[:2])) is not None
            and one.attempts + 1 == attempt.attempt
            and not is_apart(one.hold)  # it was set apart without a mark, and got none since
        ]
        alive = {doubt.attempt for doubt in doubts}
        for attempts_of in (self._marks, self._in_hand):
            attempts_of.fence = fence
            attempts_of.load(db, alive)
        db.execute(
            "DELETE FROM zsmtp_node "
            "WHERE fence NOT IN (SELECT fence FROM zsmtp_mark UNION SELECT fence FROM zsmtp_in_hand)"
        )
        db.execute(
            "INSERT INTO zsmtp_node (fence, name, host, pid, boot, joined) VALUES (?, ?, ?, ?, ?, ?)",
            (fence, clean(name), clean(socket.gethostname()), os.getpid(), boot, transaction.now),
        )
        db.execute("DELETE FROM zsmtp_site_status")
        self._of_lease.clear()
        return Joined(fence, transaction.meta("last_id"), transaction.meta("rules"), transaction.meta("poke"), doubts)

    def _owns(self, transaction: WriteTransaction) -> bool:
        """Whether no other process began to deliver since; otherwise this one must not write any more."""
        return bool(transaction.meta("fence") == self._marks.fence)

    # ------------------------------------------------------------------ marks

    def must_wait(self, marking: Marking) -> bool:
        """Whether the commit of marks has to wait for the disk: not if the durable list of those in hand has them."""
        return not self._of_lease.get(marking.lease, set()).issuperset(marking.attempts)

    def mark(self, transaction: WriteTransaction, markings: list[Marking]) -> list[bool]:
        """Write marks."""
        if not self._owns(transaction):
            return [False] * len(markings)
        there = keys_of_next(transaction.db, [attempt for marking in markings for attempt in marking.attempts])
        return [self._mark(transaction, marking, there) for marking in markings]

    def _mark(self, transaction: WriteTransaction, marking: Marking, there: Mapping[tuple[int, int, int], str]) -> bool:
        keys, slots = marking.part()
        if not marking.good() or not all(
            there.get(attempt) in keys and has(slots, attempt.message) for attempt in marking.attempts
        ):
            return False
        self._marks.add(transaction, marking.attempts, marking.lease)
        transaction.marked.update(marking.attempts)
        return True

    # ---------------------------------------------------------------- results

    def settle(self, transaction: WriteTransaction, requests: list[Settling]) -> list[list[AttemptKey]]:
        """Write results."""
        owns = self._owns(transaction)
        places = {settling.attempt_of(one)[:2] for request in requests for one in request.settlements}
        changes = SQLiteChanges(transaction, read(transaction.db, places))
        conflicts = [self._settle(request, changes, owns=owns) for request in requests]
        changes.write()
        return conflicts

    def _settle(self, request: Settling, changes: SQLiteChanges, *, owns: bool) -> list[AttemptKey]:
        transaction = changes.transaction
        part = request.part() if owns else NO_PART
        conflicts, over = changes.apply(request.settlements, part, transaction.time)
        for attempt, counted in over:
            for one in (self._marks, self._in_hand):
                one.remove(transaction, attempt, counted=counted)
            transaction.marked.discard(attempt)
        if part.keys:
            in_hand = {attempt for attempt in request.in_hand if has(part.slots, attempt.message)}
            self._hold(transaction, request.lease, in_hand)
        return conflicts

    def _hold(self, transaction: WriteTransaction, lease: int, in_hand: set[AttemptKey]) -> None:
        """Store the attempts in hand under a lease, perhaps none."""
        if self._transaction is not transaction:
            self._transaction = transaction
            self._held = {}
            transaction.afterwards(self._keep)
        before = self._in_hand_of(transaction, lease)
        for attempt in before - in_hand:
            if attempt in self._in_hand:
                self._in_hand.remove(transaction, attempt, counted=False)
        if not in_hand <= before:
            self._in_hand.add(transaction, in_hand - before, lease)
        self._held[lease] = in_hand

    def _in_hand_of(self, transaction: WriteTransaction, lease: int) -> set[AttemptKey]:
        """The attempts in hand under a lease, with the changes of the transaction."""
        held = self._held if self._transaction is transaction else {}
        return held.get(lease, self._of_lease.get(lease, set()))

    def _keep(self) -> None:
        for lease, in_hand in self._held.items():
            if in_hand:
                self._of_lease[lease] = in_hand
            else:
                self._of_lease.pop(lease, None)

    # ----------------------------------------------------------------- status

    def report(self, transaction: WriteTransaction, reports: list[SiteReport]) -> list[None]:
        """Store the status of sites, and the number of leases."""
        for report in reports:
            transaction.db.executemany(
                "INSERT INTO zsmtp_site_status (site, updated, status) VALUES (?, ?, ?) "
                "ON CONFLICT (site) DO UPDATE SET updated = excluded.updated, status = excluded.status",
                [(one.site, milliseconds(one.updated), status_text(one)) for one in report.statuses],
            )
            transaction.db.execute(
                "UPDATE zsmtp_node SET sites = ? WHERE fence = ?", (report.leases, self._marks.fence)
            )
        return [None] * len(reports)

    # ------------------------------------------------------------ end of leases

    def give_back(self, transaction: WriteTransaction, requests: list[Collection[int]]) -> list[set[int]]:
        """End leases without marks; returns those with marks."""
        answers = []
        for leases in requests:
            marked = {lease for lease in leases if self._marks.of_lease(transaction, lease)}
            for lease in set(leases) - marked if not marked else ():
                self._hold(transaction, lease, set())
            answers.append(marked)
        return answers

    def shed(self, transaction: WriteTransaction, requests: list[ShedRequest]) -> list[Exception | None]:
        """Remove attempts of slots that leases give up from those in hand."""
        return [self._give_up(transaction, request) for request in requests]

    def _give_up(self, transaction: WriteTransaction, request: ShedRequest) -> Exception | None:
        lease, held, slots = request
        try:
            check_shed(held, slots, self._marks.of_lease(transaction, lease))
        except QueueError as error:
            return error
        in_hand = self._in_hand_of(transaction, lease)
        self._hold(transaction, lease, {attempt for attempt in in_hand if not has(slots, attempt.message)})
        return None

    def lapse(self, transaction: WriteTransaction, requests: list[Collection[int]]) -> list[list[Open]]:
        """End leases that lapsed; returns their attempts in doubt, by keys."""
        answers = []
        for leases in requests:
            marked = set().union(*(self._marks.of_lease(transaction, lease) for lease in leases))
            there = read(transaction.db, {attempt[:2] for attempt in marked})
            answers.append(
                [
                    Open(one.key, attempt, False)
                    for attempt in sorted(marked)
                    if (one := there.get(attempt[:2])) is not None and one.attempts + 1 == attempt.attempt
                ]
            )
            for lease in leases:
                self._hold(transaction, lease, set())
        return answers


class SiteReport(NamedTuple):
    """The status of sites, and the number of leases."""

    statuses: Sequence[SiteStatus]
    leases: int


class SQLiteChanges(Changes):
    """Changes that are written into a SQLite file."""

    def __init__(self, transaction: WriteTransaction, there: dict[Place, Current | None]) -> None:
        super().__init__(there, lambda number: rule_holds(transaction.db, number))
        self.transaction = transaction

    def write(self) -> None:
        """Write the changes: deletions first, to make room for the rest on a full disk."""
        db = self.transaction.db
        delete_recipients(db, self.ended)
        if self.owed:
            insert(db, INSERT_OWED, [owed_values(owed) for owed in self.owed])
        delete_messages(db, {message for message, _ in self.ended})
        insert(db, INSERT_HISTORY, self.history)
        if self.deferred:
            db.executemany(
                "UPDATE zsmtp_recipient SET key = ?, due = ?, attempts = ?, hold = ?, warned = ?, doubtful = ?, "
                "status = ?, reason = ? WHERE message = ? AND number = ?",
                list(self.deferred.values()),
            )
        for name, number in self.counted.items():
            self.transaction.count(name, number)
        for key, due in self.moved:
            self.transaction.news.due(key, due)
        self.transaction.octets += 1500 * (len(self.history) + len(self.deferred) + len(self.ended))


def read(db: Executes, places: Iterable[Place]) -> dict[Place, Current | None]:
    """The current recipients; absent ones are not in the result."""
    found: dict[Place, Current | None] = {}
    for marks, values in in_parts(list(places), 2):
        rows = db.execute(
            f"WITH w (message, number) AS (VALUES {marks}) "
            "SELECT r.message, r.number, r.key, r.attempts, r.due / 1000.0, r.expires / 1000.0, "
            f"CASE r.hold WHEN {ARRIVING} THEN 0 ELSE r.hold END, r.doubtful, r.warned "
            "FROM w CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number",
            values,
        )
        for message, number, key, attempts, due, expires, hold, doubtful, warned in rows.fetchall():
            found[message, number] = Current(key, attempts, due, expires, hold, doubtful == 1, warned == 1)
    return found


def keys_of_next(db: Executes, attempts: Sequence[AttemptKey]) -> dict[tuple[int, int, int], str]:
    """The queue keys of those attempts that the owner of the key may mark (``settling.may_mark``)."""
    found: dict[tuple[int, int, int], str] = {}
    for marks, values in in_parts(attempts, 3):
        rows = db.execute(
            f"WITH w (message, number, attempt) AS (VALUES {marks}) SELECT w.message, w.number, w.attempt, r.key "
            "FROM w CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
            "WHERE r.attempts + 1 = w.attempt AND r.hold = 0",
            values,
        )
        found |= {row[:3]: row[3] for row in rows.fetchall()}
    return found


def rule_holds(db: Executes, number: int) -> int:
    """The hold for the number of a rule: 0 if there is no such rule."""
    if (
        number <= 0
        or number == BY_COMMAND
        or db.execute("SELECT 1 FROM zsmtp_rule WHERE number = ?", (number,)).fetchone()
    ):
        return number
    return 0


def delete_recipients(db: Executes, places: Collection[Place]) -> None:
    """Delete recipients."""
    first = [message for message, number in places if number == 0]
    each(db, "DELETE FROM zsmtp_recipient WHERE number = 0 AND message IN ({})", first)
    if len(first) < len(places):
        others = [place for place in places if place[1]]
        db.executemany("DELETE FROM zsmtp_recipient WHERE message = ? AND number = ?", others)


def delete_messages(db: Executes, messages: Collection[int]) -> None:
    """Delete messages that had one recipient and one row of content; the sweep deletes the others.

    A message with an owed notice stays with its content until the notice is made.
    """
    over = f"recipients = 1 AND size <= {CHUNK} AND NOT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = id)"
    over += " AND NOT EXISTS (SELECT 1 FROM zsmtp_owed WHERE message = id)"
    each(
        db,
        f"DELETE FROM zsmtp_content WHERE message IN (SELECT id FROM zsmtp_message WHERE id IN ({{}}) AND {over})",
        messages,
    )
    each(db, f"DELETE FROM zsmtp_message WHERE id IN ({{}}) AND {over}", messages)
    each(
        db,
        "INSERT OR IGNORE INTO zsmtp_maybe_finished (message) SELECT id FROM zsmtp_message WHERE id IN ({}) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = id)",
        messages,
    )
