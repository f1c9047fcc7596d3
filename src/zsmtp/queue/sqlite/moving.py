"""Moves of mail to another queue, as rows: recipients that are set apart here, and depart.

Functions that write run in the writer's thread. ``zsmtp.queue.moves`` defines the steps of a move.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from zsmtp.queue import settling
from zsmtp.queue.changes import Current
from zsmtp.queue.intake import clean
from zsmtp.queue.limits import MOVES_KEPT
from zsmtp.queue.moves import ApartRecipient, Departure, Elsewhere, Move, held_before, holds_apart
from zsmtp.queue.moves import apart as apart_hold
from zsmtp.queue.sql import MESSAGE, RECIPIENT, columns, message_from, recipient_from
from zsmtp.queue.sqlite.results import SQLiteChanges, rule_holds
from zsmtp.queue.sqlite.sweep import Sweeping
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.records import replace


class MoveBeginning(NamedTuple):
    """A request for a new move."""

    to: Elsewhere
    by: str


class Departing(NamedTuple):
    """Recipients that have moved to another queue."""

    departures: Sequence[Departure]
    by: str


def begin(transaction: WriteTransaction, requests: list[MoveBeginning]) -> list[Move]:
    """Begin moves."""
    return [_begin(transaction, to, clean(by)) for to, by in requests]


def _begin(transaction: WriteTransaction, to: Elsewhere, by: str) -> Move:
    number = transaction.db.execute(
        "INSERT INTO zsmtp_move (queue, name, by_whom, begun) VALUES (?, ?, ?, ?)", (*to, by, transaction.now)
    ).lastrowid
    return Move(number or 0, to, by, seconds(transaction.now))


def moves(db: Executes) -> list[Move]:
    """The moves that began, oldest first."""
    rows = db.execute("SELECT number, queue, name, by_whom, begun FROM zsmtp_move ORDER BY number")
    return [Move(number, Elsewhere(uid, name), by, seconds(begun)) for number, uid, name, by, begun in rows.fetchall()]


def began(db: Executes, move: int) -> bool:
    """Whether a move with this number exists."""
    return db.execute("SELECT 1 FROM zsmtp_move WHERE number = ?", (move,)).fetchone() is not None


def set_apart(transaction: WriteTransaction, move: int, rows: Sequence[Sequence[Any]]) -> None:
    """Set recipients apart."""
    transaction.db.executemany(
        "UPDATE zsmtp_recipient SET hold = ? WHERE message = ? AND number = ?",
        [(apart_hold(move, recipient_from(row).hold), row[0], row[1]) for row in rows],
    )


def apart(
    db: sqlite3.Connection, *, move: int, message: int, after: tuple[int, int], limit: int
) -> list[ApartRecipient]:
    """The recipients set apart in a move, in order of their ids."""
    only, index = ("AND r.message = ? ", "") if message else ("", "INDEXED BY zsmtp_held ")
    rows = db.execute(
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')}, i.key, i.digest "
        f"FROM zsmtp_recipient r {index}CROSS JOIN zsmtp_message m ON m.id = r.message "
        "LEFT JOIN zsmtp_idempotency i ON i.message = r.message "
        f"WHERE r.hold <> 0 AND r.hold BETWEEN ? AND ? {only}AND (r.message, r.number) > (?, ?) "
        "ORDER BY r.message, r.number LIMIT ?",
        (*holds_apart(move), *([message] if message else []), *after, limit),
    )
    return [_apart(db, row) for row in rows.fetchall()]


def _apart(db: sqlite3.Connection, row: Sequence[Any]) -> ApartRecipient:
    recipient = recipient_from(row)
    recipient = replace(recipient, hold=rule_holds(db, held_before(recipient.hold)))
    key, digest = row[-2:]
    return ApartRecipient(recipient, message_from(row[len(RECIPIENT) : -2]), None if key is None else (key, digest))


def depart(transaction: WriteTransaction, requests: list[Departing]) -> list[int]:
    """End recipients that have moved to another queue; returns how many there were."""
    return [_depart(transaction, request) for request in requests]


def _depart(transaction: WriteTransaction, request: Departing) -> int:
    changes = SQLiteChanges(transaction, {})
    for departure in request.departures:
        place = departure.message, departure.number
        row = transaction.db.execute(
            f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM zsmtp_recipient r "
            "CROSS JOIN zsmtp_message m ON m.id = r.message "
            "WHERE r.message = ? AND r.number = ? AND r.hold BETWEEN ? AND ?",
            (*place, *holds_apart(departure.move)),
        ).fetchone()
        if row is not None and place not in changes.there:
            recipient, message = recipient_from(row), message_from(row[len(RECIPIENT) :])
            end = settling.departed(departure, recipient, message, seconds(transaction.now), request.by)
            changes.settle(place, Current.of(recipient), end)
    changes.write()
    return len(changes.ended)


def sweep(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete moves that began a week ago and have no recipients set apart."""
    db = transaction.db
    before = milliseconds(max(piece.now for piece in pieces) - MOVES_KEPT)
    done = 0
    for (number,) in db.execute("SELECT number FROM zsmtp_move WHERE begun <= ?", (before,)).fetchall():
        done += db.execute(
            "DELETE FROM zsmtp_move WHERE number = ? AND NOT EXISTS (SELECT 1 FROM zsmtp_recipient "
            "INDEXED BY zsmtp_held WHERE hold <> 0 AND hold BETWEEN ? AND ?)",
            (number, *holds_apart(number)),
        ).rowcount
    return [done] + [0] * (len(pieces) - 1)
