"""Mail that moves between queues, as rows: what comes from another one, and the notes of it.

The steps of a move are those of ``zsmtp.queue.moves``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from zsmtp.queue.ids import first_id
from zsmtp.queue.limits import MOVES_KEPT
from zsmtp.queue.moves import Provenance, TakenIn
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.sweep import PieceOfSweep
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.states import milliseconds

_NOTES = 1000
_TABLES = ("message", "recipient", "content", "upload", "history", "owed", "idempotency")
_KNOWN = " OR ".join(
    f"EXISTS (SELECT 1 FROM zsmtp_{table} WHERE {'id' if table == 'message' else 'message'} = %s)" for table in _TABLES
)


class NotesOfDeparted(NamedTuple):
    """Notes of what has departed from a queue."""

    queue: str
    notes: Collection[TakenIn]


def draw_for(transaction: WriteTransaction, moved: Provenance) -> int:
    """The id of a message from elsewhere: the one it has there, or the next one that is free."""
    db, wanted = transaction.db, moved.message
    if wanted >= first_id(transaction.time):
        return transaction.draw(1)
    drawn = one(db, "SELECT zsmtp_draw(%s, 1)", wanted)  # all before it were given, or will never be
    while wanted < drawn and (wanted in transaction.kept_ids or one(db, f"SELECT {_KNOWN}", *[wanted] * len(_TABLES))):
        wanted += 1
    transaction.kept_ids.add(wanted)
    return wanted


def lock_source(transaction: WriteTransaction, moved: Provenance) -> None:
    """Let nobody else take a message of another queue in before this transaction is over."""
    transaction.db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{moved.queue} {moved.message}",))


def note(transaction: WriteTransaction, moved: Provenance, here: int) -> None:
    """Note that recipients of a message from elsewhere are here."""
    transaction.db.execute(
        "INSERT INTO zsmtp_taken_in (queue, move, message, numbers, here) VALUES (%s, %s, %s, %s::integer[], %s)",
        (moved.queue, moved.move, moved.message, list(moved.numbers), here),
    )


def taken_in(db: Connection, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
    """The notes of what was taken in from a queue."""
    only = "message = ANY(%s::bigint[])" if messages else "departed IS NULL"
    rows = db.execute(
        f"SELECT move, message, numbers, here FROM zsmtp_taken_in WHERE queue = %s AND {only} ORDER BY id".encode(),
        (queue, *([list(messages)] if messages else [])),
    )
    return [TakenIn(move, message, tuple(numbers), here) for move, message, numbers, here in rows.fetchall()]


def departed(transaction: WriteTransaction, requests: list[NotesOfDeparted]) -> list[None]:
    """Note what has departed from its source."""
    for queue, notes in requests:
        transaction.db.execute(
            "UPDATE zsmtp_taken_in t SET departed = %s "
            "FROM unnest(%s::bigint[], %s::integer[], %s::bigint[]) AS w (message, move, here) "
            "WHERE t.queue = %s AND t.message = w.message AND t.move = w.move AND t.here = w.here "
            "AND t.departed IS NULL",
            (
                transaction.now,
                [note.message for note in notes],
                [note.move for note in notes],
                [note.here for note in notes],
                queue,
            ),
        )
    return [None] * len(requests)


def sweep(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete notes of what departed a week ago."""
    before = milliseconds(pieces[0].now - MOVES_KEPT)
    done = transaction.db.execute(
        "DELETE FROM zsmtp_taken_in WHERE id IN "
        "(SELECT id FROM zsmtp_taken_in WHERE departed <= %s LIMIT %s FOR UPDATE SKIP LOCKED)",
        (before, _NOTES),
    ).rowcount
    return [done] + [0] * (len(pieces) - 1)
