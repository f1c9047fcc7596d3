"""Moves of mail from another queue, as rows: messages that are taken in, and the notes on them.

``zsmtp.queue.moves`` defines the steps of a move.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from zsmtp.queue.ids import first_id
from zsmtp.queue.limits import MOVES_KEPT
from zsmtp.queue.moves import Provenance, TakenIn
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.sweep import PieceOfSweep
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.states import milliseconds

_NOTES = 1000
_TABLES = ("message", "recipient", "content", "body", "upload", "history", "owed", "idempotency")
_KNOWN = " OR ".join(
    f"EXISTS (SELECT 1 FROM zsmtp_{table} WHERE {'id' if table == 'message' else 'message'} = %s)" for table in _TABLES
)


class NotesOfDeparted(NamedTuple):
    """Notes on recipients that have departed from a queue."""

    queue: str
    notes: Collection[TakenIn]


def draw_for(transaction: WriteTransaction, moved: Provenance) -> int:
    """The id of a message from another queue: the one it has there, or the next free one."""
    wanted = moved.message
    if wanted >= first_id(transaction.time):
        return transaction.draw(1)
    drawn = transaction.draw_from(wanted, 1)  # lower ids were given, or will never be
    while wanted < transaction.first_drawn and _is_known(transaction, wanted):
        wanted += 1
    if wanted >= transaction.first_drawn:
        return drawn
    transaction.kept_ids.add(wanted)
    return wanted


def _is_known(transaction: WriteTransaction, message: int) -> bool:
    """Whether an id is used."""
    known = one(transaction.db, f"SELECT {_KNOWN}", *[message] * len(_TABLES))
    return message in transaction.kept_ids or bool(known)


def notes_of(transaction: WriteTransaction, moving: Sequence[Provenance]) -> dict[tuple[str, int], list[TakenIn]]:
    """The notes on messages of other queues. No other transaction takes any of them in before this one is over."""
    transaction.db.execute(
        "SELECT pg_advisory_xact_lock(number) FROM (SELECT DISTINCT hashtextextended(w.word, 0) AS number "
        "FROM unnest(%s::text[]) AS w (word) ORDER BY 1) AS numbers",
        ([f"{moved.queue} {moved.message}" for moved in moving],),
    ).fetchall()
    found: dict[tuple[str, int], list[TakenIn]] = {}
    for queue in {moved.queue for moved in moving}:
        messages = [moved.message for moved in moving if moved.queue == queue]
        for note in taken_in(transaction.db, queue, messages):
            found.setdefault((queue, note.message), []).append(note)
    return found


def keep(transaction: WriteTransaction, notes: Sequence[Sequence[object]], keys: Sequence[Sequence[object]]) -> None:
    """Write notes on messages taken in, and the idempotency keys that are not used here."""
    if notes:
        with transaction.db.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO zsmtp_taken_in (queue, move, message, numbers, here) "
                "VALUES (%s, %s, %s, %s::integer[], %s)",
                notes,
            )
    if keys:
        with transaction.db.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO zsmtp_idempotency (tenant, key, digest, message) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (tenant, key) DO NOTHING",
                keys,
            )


def taken_in(db: Connection, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
    """The notes on recipients taken in from another queue."""
    only = "message = ANY(%s::bigint[])" if messages else "departed IS NULL"
    rows = db.execute(
        f"SELECT move, message, numbers, here FROM zsmtp_taken_in WHERE queue = %s AND {only} ORDER BY id".encode(),
        (queue, *([list(messages)] if messages else [])),
    )
    return [TakenIn(move, message, tuple(numbers), here) for move, message, numbers, here in rows.fetchall()]


def departed(transaction: WriteTransaction, requests: list[NotesOfDeparted]) -> list[None]:
    """Note that recipients have departed from their source."""
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
    """Delete notes on recipients that departed a week ago."""
    before = milliseconds(pieces[0].now - MOVES_KEPT)
    done = transaction.db.execute(
        "DELETE FROM zsmtp_taken_in WHERE id IN "
        "(SELECT id FROM zsmtp_taken_in WHERE departed <= %s LIMIT %s FOR UPDATE SKIP LOCKED)",
        (before, _NOTES),
    ).rowcount
    return [done] + [0] * (len(pieces) - 1)
