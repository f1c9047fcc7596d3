"""Inserts new messages as rows, for the writer's thread, an upload, and a caller's own transaction.

It draws ids and inserts the rows of the messages; no existing row changes, so two submissions never wait for each
other, except for the same idempotency key. The recipients of a large upload are inserted long before their message,
with a hold that excludes them from claims (:data:`~zsmtp.queue.sql.ARRIVING`); they are released in pieces after the
message was accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from zsmtp.errors import Conflict, QueueError, QueueUnavailable
from zsmtp.queue import intake, quotas
from zsmtp.queue.limits import BY_COMMAND, CHUNK, PART_RECIPIENTS
from zsmtp.queue.moves import Provenance, Standing
from zsmtp.queue.postgres import provenance
from zsmtp.queue.postgres.results import delete_messages
from zsmtp.queue.postgres.suppressing import end_suppressed
from zsmtp.queue.postgres.transaction import WriteTransaction, insert
from zsmtp.queue.quotas import Amount
from zsmtp.queue.sql import ARRIVING, MESSAGE, RECIPIENT
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
from zsmtp.queue.states import milliseconds
from zsmtp.queue.store import Accepted, NewMessage, NewRecipient

NEW_RECIPIENT = (
    "message",
    "number",
    "address",
    "key",
    "tenant",
    "rank",
    "due",
    "expires",
    "notify",
    "orcpt",
    "hold",
)

Requested = Sequence[NewMessage | Staged]


class PostgresIntake:
    """Inserts new messages. ``free_space`` gives the octets left on the disk, negative if unknown."""

    def __init__(self, shard: int, free_space: Callable[[], int]) -> None:
        self._shard = shard
        self._free_space = free_space

    def submit(self, transaction: WriteTransaction, requests: list[Requested]) -> list[list[Accepted] | Exception]:
        """Insert messages; a request that is refused inserts nothing, and its result is an error."""
        rows = NewRows(transaction, self._shard)
        many = sum(isinstance(one, NewMessage) or not one.message for request in requests for one in request)
        if many:
            rows.next_id = transaction.draw(many)
        else:
            transaction.look_for_suppressions()
        answers = taken(requests, self._free_space(), rows.take)
        rows.write()
        return answers

    def write_part(self, transaction: WriteTransaction, parts: list[UploadPart]) -> list[int | Exception]:
        """Write parts of uploads; returns the ids of their future messages."""
        return [self._write_part(transaction, part) for part in parts]

    def _write_part(self, transaction: WriteTransaction, part: UploadPart) -> int | Exception:
        try:
            intake.check_room(self._free_space(), octets_of_part(part))
            message = part.message or _kept_id(transaction, part.new) or transaction.draw(1)
            rows = NewRows(transaction, self._shard)
            rows.add_part(part, message)
            _touch(transaction, message, new=not part.message)
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
        messages, numbers, kinds = [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]
        wanted = "unnest(%s::bigint[], %s::integer[], %s::text[]) AS w (message, number, kind)"
        same = "o.message = w.message AND o.number = w.number AND o.kind = w.kind"
        values = (messages, numbers, kinds)
        there = db.execute(
            f"SELECT o.message FROM {wanted} JOIN zsmtp_owed o ON {same} ORDER BY 1, o.number FOR UPDATE OF o", values
        ).fetchall()
        if len(there) != len(set(keys)):
            return None
        accepted = None
        if request.notice is not None:
            (answer,) = self.submit(transaction, [[request.notice]])
            if isinstance(answer, Exception):
                return answer
            (accepted,) = answer
            transaction.count("notices")
        db.execute(f"DELETE FROM zsmtp_owed o USING {wanted} WHERE {same}", values)
        delete_messages(transaction, set(messages))
        return accepted


class NewRows:
    """The rows of new messages: collected by request, inserted together."""

    def __init__(self, transaction: WriteTransaction, shard: int) -> None:
        self._transaction = transaction
        self._shard = shard
        self.next_id = 0
        self._messages: list[tuple[object, ...]] = []
        self._recipients: list[tuple[Any, ...]] = []
        self._standing: list[tuple[Any, ...]] = []  # recipients from other queues
        self._contents: list[tuple[int, int, bytes]] = []
        self._arrived: list[tuple[str, int]] = []
        self._finished: list[Staged] = []  # uploads
        self._notes: list[Provenance] = []  # of messages from other queues in this transaction
        self._taken_in: list[tuple[object, ...]] = []
        self._moved_keys: list[tuple[object, ...]] = []
        self._accepted = 0
        self._metered: list[tuple[str, Amount]] = []

    def take(self, requested: Requested) -> list[Accepted]:
        """Take all messages of a request, or raise QueueError and take none."""
        lists: list[list[Any]] = [
            self._messages,
            self._recipients,
            self._standing,
            self._contents,
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
            news = [one.new if isinstance(one, Staged) else one for one in requested]
            keyed = any(new.idempotency_key or new.moved for new in news)
            if keyed or any(isinstance(one, Staged) for one in requested):
                return self._take_keyed([one if isinstance(one, Staged) else staged(one) for one in requested])
            return [self._add_small(one) for one in requested]  # type: ignore[arg-type]
        except (QueueError, UnicodeError, ValueError, OverflowError):
            for one, length in zip(lists, lengths, strict=True):
                del one[length:]
            self._accepted = accepted
            check(requested)
            raise

    def _take_keyed(self, items: list[Staged]) -> list[Accepted]:
        """Take messages that may be queued already, or partly written."""
        check(items)
        drawn: dict[tuple[str, str], tuple[bytes, Accepted]] = {}  # of this request
        new_keys: list[tuple[str, str]] = []
        answers = []
        for item in sorted((item for item in items if item.message), key=lambda item: item.message):
            _touch(self._transaction, item.message, new=False)  # the sweep leaves them for another hour
            _check_whole(self._transaction, item)
        try:
            self._check_moved([item.new for item in items])
            for item in items:
                new, key = item.new, (item.new.tenant, item.new.idempotency_key)
                if not key[1]:
                    answers.append(self._add_staged(item))
                    continue
                if key not in drawn:
                    number = item.message or self.next_id
                    found = self._insert_key(new, number)
                    if found is None:
                        new_keys.append(key)
                        drawn[key] = new.digest, self._add_staged(item)
                        answers.append(drawn[key][1])
                        continue
                    drawn[key] = found[0], Accepted(found[1], existed=True)
                digest, answer = drawn[key]
                intake.check_digest(new, digest, answer.id, self._shard)
                answers.append(Accepted(answer.id, existed=True))
                if item.message:
                    _abandon(self._transaction, [item.message])
        except Conflict:
            for tenant, word in new_keys:
                self._transaction.db.execute(
                    "DELETE FROM zsmtp_idempotency WHERE tenant = %s AND key = %s", (tenant, word)
                )
            _abandon(self._transaction, [item.message for item in items if item.message])
            raise
        return answers

    def _check_moved(self, messages: Iterable[NewMessage]) -> None:
        """Raise Conflict if recipients from another queue were taken in already."""
        moving = [new.moved for new in messages if new.moved is not None]
        known = provenance.notes_of(self._transaction, moving) if moving else {}
        for moved in moving:
            intake.check_not_taken_in(moved, known.get((moved.queue, moved.message), ()), self._notes)
            self._notes.append(moved)

    def _take_over(self, moved: Provenance, tenant: str, message: int) -> None:
        """Store the note on a message from another queue, and its idempotency key."""
        self._taken_in.append((moved.queue, moved.move, moved.message, list(moved.numbers), message))
        if moved.idempotency_key:
            self._moved_keys.append((tenant, moved.idempotency_key, moved.digest, message))

    def _insert_key(self, new: NewMessage, message: int) -> tuple[bytes, int] | None:
        """Store an idempotency key; returns digest and message of a known one. Waits for a concurrent insert of it."""
        db = self._transaction.db
        key = new.tenant, new.idempotency_key
        for _ in range(100):
            inserted = db.execute(
                "INSERT INTO zsmtp_idempotency (tenant, key, digest, message) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (tenant, key) DO NOTHING",
                (*key, new.digest, message),
            ).rowcount
            if inserted:
                return None
            row = db.execute(
                "SELECT digest, message FROM zsmtp_idempotency WHERE tenant = %s AND key = %s FOR KEY SHARE", key
            ).fetchone()
            if row is not None:
                return bytes(row[0]), row[1]
        raise QueueError(f"idempotency key {new.idempotency_key[:80]!r} is forgotten and used again all the time")

    def _draw(self) -> int:
        message, self.next_id = self.next_id, self.next_id + 1
        return message

    def _add_small(self, new: NewMessage) -> Accepted:
        content = new.content
        if len(content) > CHUNK:
            return self._add_staged(staged(new))
        message = self._draw()
        recipients = new.recipients
        row = message_row(new, message, self._transaction.now, len(content), len(recipients))
        self._messages.append(row)
        self._contents.append((message, 0, content))
        self._add_recipients(new, message, 0, recipients, arriving=False)
        self._accepted += len(recipients)
        if new.metered:
            self._metered.append((new.tenant, Amount(1, len(content), len(recipients))))
        return Accepted(message)

    def _add_staged(self, item: Staged) -> Accepted:
        message = item.message or _kept_id(self._transaction, item.new) or self._draw()
        if item.new.moved is not None:
            self._take_over(item.new.moved, item.new.tenant, message)
        self._messages.append(message_row(item.new, message, self._transaction.now, item.size, item.recipients))
        self._contents += [(message, part, data) for part, data in item.chunks]
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
        self._contents += [(message, number, data) for number, data in part.chunks]

    def _add_recipients(
        self, new: NewMessage, message: int, first: int, recipients: Sequence[NewRecipient], *, arriving: bool
    ) -> None:
        due = milliseconds(new.due)
        common = (new.tenant, -new.priority, due, expiry(new))
        for place, one in enumerate(recipients, first):
            address, key = one.address.decode(), one.key
            if "\0" in address or "\0" in key or not key.isascii():
                check_encodable(f"{address}{key}")
            stood = one.standing
            hold = 0 if not one.hold else self._hold(one.hold) if stood is None or one.hold > 0 else one.hold
            kept = hold or (ARRIVING if arriving else 0)
            if stood is not None:
                self._add_standing(new, one, stood, (message, place), kept)
                continue
            self._recipients.append(
                (message, place, address, key, *common, decoded(one.notify), decoded(one.orcpt), kept)
            )
            if not kept:
                self._arrived.append((key, due))

    def _add_standing(
        self, new: NewMessage, one: NewRecipient, stood: Standing, place: tuple[int, int], hold: int
    ) -> None:
        """Add a recipient from another queue, and poke its key: it may come before others that were read already."""
        self._standing.append(standing_row(new, one, stood, place, hold))
        if not hold:
            self._arrived.append((one.key, milliseconds(stood.due)))
            self._transaction.poked.add(one.key)

    def _hold(self, number: int) -> int:
        """The rule that holds a recipient, if it exists, else 0."""
        if number < 0:
            raise ValueError(number)
        return self._transaction.holds(number, BY_COMMAND)

    def write(self) -> None:
        """Insert the rows."""
        transaction = self._transaction
        insert(transaction, "zsmtp_message", MESSAGE, self._messages)
        insert(transaction, "zsmtp_recipient", NEW_RECIPIENT, self._recipients)
        insert(transaction, "zsmtp_recipient", RECIPIENT, self._standing)
        insert(transaction, "zsmtp_content", ("message", "part", "data"), self._contents)
        provenance.keep(transaction, self._taken_in, self._moved_keys)
        for upload in self._finished:
            _finish(transaction, upload)
        if self._messages:
            there = (row for row in self._recipients if row[-1] != ARRIVING)
            end_suppressed(transaction, ((row[0], row[1], row[2], row[4]) for row in there))
        for key, due in self._arrived:
            transaction.tell(key, due)
        if self._messages:
            transaction.count("messages", len(self._messages))
            transaction.count("accepted", self._accepted)
        for name, number in quotas.counted(self._metered, transaction.time).items():
            transaction.count(name, number)


def _kept_id(transaction: WriteTransaction, new: NewMessage) -> int:
    """The id that a message from another queue keeps; 0 for one that gets a new one.

    A message in parts gets a new one: its recipients are released later, and must not precede those read already.
    """
    if new.moved is None or len(new.moved.numbers) > PART_RECIPIENTS:
        return 0
    return provenance.draw_for(transaction, new.moved)


def _touch(transaction: WriteTransaction, message: int, *, new: bool) -> None:
    """Keep an upload from the sweep for another hour; raises QueueError if it is over."""
    sql = "UPDATE zsmtp_upload SET touched = %s WHERE message = %s AND NOT accepted AND touched > 0"
    if new:
        sql = "INSERT INTO zsmtp_upload (touched, message) VALUES (%s, %s)"
    if transaction.db.execute(sql, (transaction.now, message)).rowcount != 1:
        raise QueueError("this upload is over: it was accepted, discarded, or swept after an hour without a part")


def _check_whole(transaction: WriteTransaction, upload: Staged) -> None:
    """Raise QueueUnavailable if parts of an upload are lost: a server that died may not have had them on its disk."""
    message = upload.message
    row = transaction.db.execute(
        "SELECT (SELECT count(*) FROM zsmtp_content WHERE message = %s), "
        "(SELECT count(*) FROM zsmtp_recipient WHERE message = %s), "
        "(SELECT first FROM zsmtp_body WHERE message = %s)",
        (message, message, message),
    ).fetchone()
    assert row is not None
    chunks, recipients, first = row
    wanted = max(-(-upload.size // CHUNK), 1) if first is None else first
    if chunks + len(upload.chunks) != wanted or recipients + len(upload.rest) != upload.recipients:
        raise QueueUnavailable("parts of this message were lost when the database died; submit it again")


def _abandon(transaction: WriteTransaction, messages: Collection[int]) -> None:
    """Leave uploads to the sweep."""
    transaction.db.execute(
        "UPDATE zsmtp_upload SET touched = 0 WHERE NOT accepted AND message = ANY(%s::bigint[])", (list(messages),)
    )


def _finish(transaction: WriteTransaction, upload: Staged) -> None:
    """End an upload: it is a message now, whose recipients may still need a release."""
    if upload.arriving:
        transaction.db.execute("UPDATE zsmtp_upload SET accepted = true WHERE message = %s", (upload.message,))
    else:
        transaction.db.execute("DELETE FROM zsmtp_upload WHERE message = %s", (upload.message,))
