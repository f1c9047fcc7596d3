"""Inserts new messages as rows, for the writer's thread, an upload, and a caller's own transaction.

It draws an id and inserts the rows of the message; of the existing rows only the last id and the counters change. The
recipients of a large upload are inserted long before their message, with a hold that excludes them from claims
(:data:`~zsmtp.queue.sql.ARRIVING`); they are released in pieces after the message was accepted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from zsmtp.errors import Conflict, QueueError
from zsmtp.queue import intake, quotas
from zsmtp.queue.limits import (
    BY_COMMAND,
    CHUNK,
    PART_RECIPIENTS,
)
from zsmtp.queue.moves import Provenance, Standing
from zsmtp.queue.quotas import Amount
from zsmtp.queue.sql import ARRIVING, MESSAGE, OWED, RECIPIENT, columns, owed_from
from zsmtp.queue.sqlite import provenance
from zsmtp.queue.sqlite.results import delete_messages
from zsmtp.queue.sqlite.suppressing import end_suppressed
from zsmtp.queue.sqlite.transaction import WriteTransaction, each, insert, listed
from zsmtp.queue.staged import (
    Notifying,
    Staged,
    UploadPart,
    check,
    check_encodable,
    decoded,
    expiry,
    message_row,
    octets_of_part,
    staged,
    standing_row,
    taken,
)
from zsmtp.queue.states import OwedNotice, milliseconds
from zsmtp.queue.store import (
    Accepted,
    NewMessage,
    NewRecipient,
)

_INSERT_MESSAGE = f"INSERT INTO zsmtp_message ({columns(MESSAGE)}) VALUES|({listed(len(MESSAGE))})"
_INSERT_PLAIN = (  # only the columns that every recipient has
    "INSERT INTO zsmtp_recipient (message, number, address, key, tenant, rank, due, expires) "
    "VALUES|(?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_RECIPIENT = (
    "INSERT INTO zsmtp_recipient (message, number, address, key, tenant, rank, due, expires, notify, orcpt, hold) "
    "VALUES|(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_STANDING = f"INSERT INTO zsmtp_recipient ({columns(RECIPIENT)}) VALUES|({listed(len(RECIPIENT))})"
_INSERT_CONTENT = "INSERT INTO zsmtp_content (message, data) VALUES|(?, ?)"


class SQLiteIntake:
    """Inserts new messages. ``free_space`` gives the octets left on the disk, negative if unknown."""

    def __init__(self, shard: int, free_space: Callable[[], int]) -> None:
        self._shard = shard
        self._free_space = free_space

    def submit(
        self, transaction: WriteTransaction, requests: list[Sequence[NewMessage | Staged]]
    ) -> list[list[Accepted] | Exception]:
        """Insert messages; a request that is refused inserts nothing, and its result is an error."""
        rows = Rows(transaction, self._shard)
        answers = taken(requests, self._free_space(), rows.take)
        rows.write()
        return answers

    def write_part(self, transaction: WriteTransaction, parts: list[UploadPart]) -> list[int | Exception]:
        """Write parts of uploads; returns the ids of their future messages."""
        return [self._write_part(transaction, part) for part in parts]

    def _write_part(self, transaction: WriteTransaction, part: UploadPart) -> int | Exception:
        try:
            intake.check_room(self._free_space(), octets_of_part(part))
            message = part.message or _draw(transaction, part.new)
            _touch(transaction, message, new=not part.message)
            rows = Rows(transaction, self._shard)
            rows.add_part(part, message)
        except QueueError as error:
            return error
        rows.write()
        return message

    def discard(self, transaction: WriteTransaction, messages: list[int]) -> list[None]:
        """Leave uploads to the sweep."""
        _abandon(transaction, messages)
        return [None] * len(messages)

    def notify(self, transaction: WriteTransaction, requests: list[Notifying]) -> list[Accepted | Exception | None]:
        """Replace owed notices by messages."""
        return [self._notify(transaction, request) for request in requests]

    def _notify(self, transaction: WriteTransaction, request: Notifying) -> Accepted | Exception | None:
        db = transaction.db
        keys = [(owed.message, owed.number, owed.kind.value) for owed in request.owed]
        where = "WHERE message = ? AND number = ? AND kind = ?"
        if any(db.execute(f"SELECT 1 FROM zsmtp_owed {where}", key).fetchone() is None for key in keys):
            return None
        accepted = None
        if request.notice is not None:
            (answer,) = self.submit(transaction, [[request.notice]])
            if isinstance(answer, Exception):
                return answer
            (accepted,) = answer
            transaction.count("notices")
        db.executemany(f"DELETE FROM zsmtp_owed {where}", keys)
        delete_messages(db, {key[0] for key in keys})
        return accepted


class Rows:
    """The rows of new messages: collected by request, inserted together."""

    def __init__(self, transaction: WriteTransaction, shard: int) -> None:
        self._transaction = transaction
        self._shard = shard
        self._messages: list[tuple[object, ...]] = []
        self._plain: list[tuple[Any, ...]] = []  # recipients with only the common columns
        self._recipients: list[tuple[Any, ...]] = []
        self._standing: list[tuple[Any, ...]] = []  # recipients from other queues
        self._contents: list[tuple[int, bytes]] = []
        self._parts: list[tuple[int, int, bytes]] = []
        self._arrived: list[tuple[str, int]] = []
        self._finished: list[Staged] = []  # uploads
        self._keys: dict[tuple[str, str], tuple[bytes, int]] = {}
        self._notes: list[Provenance] = []  # of messages from other queues in this transaction
        self._taken_in: list[tuple[Provenance, int]] = []
        self._moved_keys: list[tuple[str, str, bytes, int]] = []
        self._rules: set[int] | None = None
        self._accepted = 0
        self._metered: list[tuple[str, Amount]] = []

    def take(self, requested: Sequence[NewMessage | Staged]) -> list[Accepted]:
        """Take all messages of a request, or raise QueueError and take none."""
        lists: list[list[Any]] = [
            self._messages,
            self._plain,
            self._recipients,
            self._standing,
            self._contents,
            self._parts,
            self._arrived,
            self._finished,
            self._metered,
            self._notes,
            self._taken_in,
            self._moved_keys,
        ]
        lengths = [len(one) for one in lists]
        accepted = self._accepted
        try:
            if any(isinstance(one, Staged) or one.idempotency_key or one.moved for one in requested):
                return self._take_known([one if isinstance(one, Staged) else staged(one) for one in requested])
            return [self._add_small(one) for one in requested]  # type: ignore[arg-type]
        except (QueueError, UnicodeError, ValueError, OverflowError):
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            self._accepted = accepted
            check(requested)
            raise

    def _take_known(self, items: list[Staged]) -> list[Accepted]:
        """Take messages that may be queued already, or partly written."""
        try:
            self._check_moved([item.new for item in items])
            known = [self._known(item.new) for item in items]
            used: dict[tuple[str, str], bytes] = {}
            for new in (item.new for item in items if item.new.idempotency_key):
                key = new.tenant, new.idempotency_key
                intake.check_digest(new, used.setdefault(key, new.digest), 0, self._shard)
        except Conflict:
            _abandon(self._transaction, [item.message for item in items if item.message])
            raise
        _abandon(self._transaction, [item.message for item, one in zip(items, known, strict=True) if one])
        for item, one in zip(items, known, strict=True):
            if item.message and not one:
                _touch(self._transaction, item.message, new=False)
        drawn: dict[tuple[str, str], Accepted] = {}  # of this request
        answers = []
        for item, one in zip(items, known, strict=True):
            key = item.new.tenant, item.new.idempotency_key
            answer = one or drawn.get(key)
            if answer is None:
                answer = self._add_staged(item)
                if item.new.idempotency_key:
                    drawn[key] = Accepted(answer.id, existed=True)
            answers.append(answer)
        self._keys |= {key: (used[key], accepted.id) for key, accepted in drawn.items()}
        return answers

    def _check_moved(self, messages: Iterable[NewMessage]) -> None:
        """Raise Conflict if recipients from another queue were taken in already."""
        for new in messages:
            if (moved := new.moved) is not None:
                known = provenance.taken_in(self._transaction.db, moved.queue, [moved.message])
                intake.check_not_taken_in(moved, known, self._notes)
                self._notes.append(moved)

    def _known(self, new: NewMessage) -> Accepted | None:
        if not new.idempotency_key:
            return None
        key = new.tenant, new.idempotency_key
        found = self._keys.get(key) or known_key(self._transaction, *key)
        if found is None:
            return None
        intake.check_digest(new, *found, self._shard)
        return Accepted(found[1], existed=True)

    def _add_small(self, new: NewMessage) -> Accepted:
        content = new.content
        if len(content) > CHUNK:
            return self._add_staged(staged(new))
        transaction = self._transaction
        message = transaction.draw()
        recipients = new.recipients
        self._messages.append(message_row(new, message, transaction.now, len(content), len(recipients)))
        self._contents.append((message, content))
        self._add_recipients(new, message, 0, recipients, arriving=False)
        self._accepted += len(recipients)
        if new.metered:
            self._metered.append((new.tenant, Amount(1, len(content), len(recipients))))
        return Accepted(message)

    def _add_staged(self, item: Staged) -> Accepted:
        transaction = self._transaction
        message = item.message or _draw(transaction, item.new)
        if item.new.moved is not None:
            self._take_over(item.new.moved, item.new.tenant, message)
        self._messages.append(message_row(item.new, message, transaction.now, item.size, item.recipients))
        self._add_chunks(message, item.chunks)
        first = item.recipients - len(item.rest)
        self._add_recipients(item.new, message, first, item.rest, arriving=item.arriving)
        self._accepted += item.recipients
        if item.new.metered:
            self._metered.append((item.new.tenant, Amount(1, item.size, item.recipients)))
        if item.message:
            self._finished.append(item)
        return Accepted(message)

    def add_part(self, part: UploadPart, message: int) -> None:
        """Add a part of an upload; raises QueueError for values that cannot be stored."""
        for recipient in part.recipients:
            intake.check_recipient(recipient)
        self._add_recipients(part.new, message, part.first, part.recipients, arriving=True)
        self._add_chunks(message, part.chunks)

    def _add_recipients(
        self, new: NewMessage, message: int, first: int, recipients: Sequence[NewRecipient], *, arriving: bool
    ) -> None:
        due = milliseconds(new.due)
        common = (new.tenant, -new.priority, due, expiry(new))
        for place, one in enumerate(recipients, first):
            address, key, notify, orcpt = one.address.decode(), one.key, one.notify, one.orcpt
            if "\0" in address or "\0" in key or not key.isascii():
                check_encodable(f"{address}{key}")
            stood = one.standing
            hold = 0 if not one.hold else self.rule(one.hold) if stood is None or one.hold > 0 else one.hold
            if stood is not None:
                self._add_standing(new, one, stood, (message, place), hold or (ARRIVING if arriving else 0))
                continue
            if notify is None and orcpt is None and not hold and not arriving:
                self._plain.append((message, place, address, key, *common))
                self._arrived.append((key, due))
                continue
            row = (message, place, address, key, *common, decoded(notify), decoded(orcpt))
            self._recipients.append((*row, hold or (ARRIVING if arriving else 0)))
            if not hold and not arriving:
                self._arrived.append((key, due))

    def _add_standing(
        self, new: NewMessage, one: NewRecipient, stood: Standing, place: tuple[int, int], hold: int
    ) -> None:
        """Add a recipient from another queue, and poke its key: it may come before others that were read already."""
        self._standing.append(standing_row(new, one, stood, place, hold))
        if not hold:
            self._arrived.append((one.key, milliseconds(stood.due)))
            self._transaction.news.poked.add(one.key)
            self._transaction.moved.add(one.key)

    def _take_over(self, moved: Provenance, tenant: str, message: int) -> None:
        """Store the note on a message from another queue, and its idempotency key."""
        self._taken_in.append((moved, message))
        if moved.idempotency_key:
            self._moved_keys.append((tenant, moved.idempotency_key, moved.digest, message))

    def _add_chunks(self, message: int, chunks: Iterable[tuple[int, bytes]]) -> None:
        for part, data in chunks:
            if part:
                self._parts.append((message, part, data))
            else:
                self._contents.append((message, data))

    def rule(self, number: int) -> int:
        """The rule that holds a recipient, if it exists, else 0."""
        if number < 0:
            raise ValueError(number)
        if self._rules is None:
            found = self._transaction.db.execute("SELECT number FROM zsmtp_rule").fetchall()
            self._rules = {BY_COMMAND, *(rule for (rule,) in found)}
        return number if number in self._rules else 0

    def write(self) -> None:
        """Insert the rows."""
        transaction = self._transaction
        db = transaction.db
        insert(db, _INSERT_MESSAGE, self._messages)
        insert(db, _INSERT_PLAIN, self._plain)
        insert(db, _INSERT_RECIPIENT, self._recipients)
        insert(db, _INSERT_STANDING, self._standing)
        insert(db, _INSERT_CONTENT, self._contents)
        db.executemany("INSERT INTO zsmtp_content_part (message, part, data) VALUES (?, ?, ?)", self._parts)
        for (tenant, key), (digest, message) in self._keys.items():
            insert_key(transaction, tenant, key, digest, message)
        transaction.octets += 1500 * (len(self._plain) + len(self._recipients) + len(self._standing))
        transaction.octets += sum(len(one[-1]) for one in self._contents) + sum(len(one[-1]) for one in self._parts)
        for moved, message in self._taken_in:
            provenance.note(transaction, moved, message)
        for tenant, key, digest, message in self._moved_keys:
            if known_key(transaction, tenant, key) is None:
                insert_key(transaction, tenant, key, digest, message)
        for upload in self._finished:
            _finish(transaction, upload)
        if self._messages:
            there = (row for row in (*self._plain, *self._recipients) if row[-1] != ARRIVING)
            end_suppressed(transaction, ((row[0], row[1], row[2], row[4]) for row in there))
        for key, due in self._arrived:
            transaction.news.due(key, due)
        if self._messages:
            transaction.count("messages", len(self._messages))
            transaction.count("accepted", self._accepted)
        for name, number in quotas.counted(self._metered, transaction.time).items():
            transaction.count(name, number)


def _draw(transaction: WriteTransaction, new: NewMessage) -> int:
    """The id of a new message. One in parts gets a new id: its recipients must not precede those read already."""
    if new.moved is None or len(new.moved.numbers) > PART_RECIPIENTS:
        return transaction.draw()
    return provenance.draw_for(transaction, new.moved)


def _touch(transaction: WriteTransaction, message: int, *, new: bool) -> None:
    """Keep an upload from the sweep for another hour; raises QueueError if it is over."""
    sql = "UPDATE zsmtp_upload SET touched = ? WHERE message = ? AND accepted = 0 AND touched > 0"
    if new:
        sql = "INSERT INTO zsmtp_upload (touched, message) VALUES (?, ?)"
    if transaction.db.execute(sql, (transaction.now, message)).rowcount != 1:
        raise QueueError("this upload is over: it was accepted, discarded, or swept after an hour without a part")


def _abandon(transaction: WriteTransaction, messages: Collection[int]) -> None:
    """Leave uploads to the sweep."""
    each(transaction.db, "UPDATE zsmtp_upload SET touched = 0 WHERE accepted = 0 AND message IN ({})", messages)


def _finish(transaction: WriteTransaction, upload: Staged) -> None:
    """End an upload: it is a message now, whose recipients may still need a release.

    Its id was drawn long ago: its keys are poked for a deliverer in another process, which looks for later ids.
    """
    if upload.arriving:
        transaction.db.execute("UPDATE zsmtp_upload SET accepted = 1 WHERE message = ?", (upload.message,))
        transaction.news.released.append(upload.message)
    else:
        transaction.db.execute("DELETE FROM zsmtp_upload WHERE message = ?", (upload.message,))
        transaction.moved |= {recipient.key for recipient in upload.rest}


def known_key(transaction: WriteTransaction, tenant: str, key: str) -> tuple[bytes, int] | None:
    """The digest and the message of an idempotency key, None if it is new."""
    found: tuple[bytes, int] | None = transaction.db.execute(
        "SELECT digest, message FROM zsmtp_idempotency WHERE tenant = ? AND key = ?", (tenant, key)
    ).fetchone()
    return found


def insert_key(transaction: WriteTransaction, tenant: str, key: str, digest: bytes, message: int) -> None:
    """Store an idempotency key."""
    transaction.db.execute(
        "INSERT INTO zsmtp_idempotency (tenant, key, digest, message) VALUES (?, ?, ?, ?)",
        (tenant, key, digest, message),
    )


def owed_of(db: sqlite3.Connection, message: int, limit: int) -> list[OwedNotice]:
    """The owed notices of a message."""
    rows = db.execute(
        f"SELECT {columns(OWED)} FROM zsmtp_owed WHERE message = ? ORDER BY number, kind LIMIT ?", (message, limit)
    )
    return [owed_from(row) for row in rows.fetchall()]
