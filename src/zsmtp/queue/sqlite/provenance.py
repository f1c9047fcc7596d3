"""Moves of mail from another queue, as rows: messages that are taken in, and the notes on them.

Functions that write run in the writer's thread. ``zsmtp.queue.moves`` defines the steps of a move.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

from zsmtp.queue.ids import first_id
from zsmtp.queue.limits import MOVES_KEPT
from zsmtp.queue.moves import Provenance, TakenIn
from zsmtp.queue.sqlite.sweep import Sweeping
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction
from zsmtp.queue.states import milliseconds

_NOTES = 1000
_TABLES = ("message", "recipient", "content", "content_part", "upload", "history", "owed", "idempotency")
_KNOWN = " OR ".join(
    f"EXISTS (SELECT 1 FROM zsmtp_{table} WHERE {'id' if table == 'message' else 'message'} = ?)" for table in _TABLES
)


class DepartedNotes(NamedTuple):
    """Notes on recipients that have departed from a queue."""

    queue: str
    notes: Collection[TakenIn]


def draw_for(transaction: WriteTransaction, moved: Provenance) -> int:
    """The id of a message from another queue: the one it has there, or the next free one."""
    wanted = moved.message
    if wanted >= first_id(transaction.time):
        return transaction.draw()
    while not (transaction.draw_up_to(wanted) or transaction.keep(wanted, free=_free(transaction.db, wanted))):
        wanted += 1
    return wanted


def _free(db: Executes, message: int) -> bool:
    """Whether an id is unused."""
    return not any(db.execute(f"SELECT {_KNOWN}", [message] * len(_TABLES)).fetchone())


def note(transaction: WriteTransaction, moved: Provenance, here: int) -> None:
    """Note that recipients of a message from another queue are here."""
    transaction.db.execute(
        "INSERT INTO zsmtp_taken_in (queue, move, message, numbers, here) VALUES (?, ?, ?, ?, ?)",
        (moved.queue, moved.move, moved.message, json.dumps(moved.numbers), here),
    )


def taken_in(db: Executes, queue: str, messages: Collection[int] = ()) -> list[TakenIn]:
    """The notes on recipients taken in from another queue."""
    only = "message IN (SELECT value FROM json_each(?))" if messages else "departed IS NULL"
    rows = db.execute(
        f"SELECT move, message, numbers, here FROM zsmtp_taken_in WHERE queue = ? AND {only} ORDER BY id",
        (queue, *([json.dumps(list(messages))] if messages else [])),
    )
    return [
        TakenIn(move, message, tuple(json.loads(numbers)), here) for move, message, numbers, here in rows.fetchall()
    ]


def departed(transaction: WriteTransaction, requests: list[DepartedNotes]) -> list[None]:
    """Note that recipients have departed from their source."""
    for queue, notes in requests:
        transaction.db.executemany(
            "UPDATE zsmtp_taken_in SET departed = ? "
            "WHERE queue = ? AND message = ? AND move = ? AND here = ? AND departed IS NULL",
            [(transaction.now, queue, one.message, one.move, one.here) for one in notes],
        )
    return [None] * len(requests)


def sweep(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete notes on recipients that departed a week ago."""
    before = milliseconds(max(piece.now for piece in pieces) - MOVES_KEPT)
    done = transaction.db.execute(
        "DELETE FROM zsmtp_taken_in WHERE id IN (SELECT id FROM zsmtp_taken_in WHERE departed <= ? LIMIT ?)",
        (before, _NOTES),
    ).rowcount
    return [done] + [0] * (len(pieces) - 1)
