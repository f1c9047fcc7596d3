"""Moves of mail to another queue, as rows: recipients that are set apart here, and depart.

``zsmtp.queue.moves`` defines the steps of a move.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zsmtp.queue import settling
from zsmtp.queue.changes import Changes, Current
from zsmtp.queue.intake import clean
from zsmtp.queue.limits import BY_COMMAND, MOVES_KEPT
from zsmtp.queue.moves import APART, ApartRecipient, Departure, Elsewhere, Move, held_before, holds_apart
from zsmtp.queue.moves import apart as apart_hold
from zsmtp.queue.postgres import results
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.sweep import PieceOfSweep
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.sql import ARRIVING, MESSAGE, RECIPIENT, columns, message_from, recipient_from
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.records import replace

_HOLD = RECIPIENT.index("hold")


class BeginRequest(NamedTuple):
    """A request for a new move."""

    to: Elsewhere
    by: str


class DepartRequest(NamedTuple):
    """Recipients that have moved to another queue."""

    departures: Sequence[Departure]
    by: str


def begin(transaction: WriteTransaction, requests: list[BeginRequest]) -> list[Move]:
    """Begin moves."""
    return [_begin(transaction, to, clean(by)) for to, by in requests]


def _begin(transaction: WriteTransaction, to: Elsewhere, by: str) -> Move:
    number = one(
        transaction.db,
        "INSERT INTO zsmtp_move (queue, name, by_whom, begun) VALUES (%s, %s, %s, %s) RETURNING number",
        *to,
        by,
        transaction.now,
    )
    return Move(number, to, by, seconds(transaction.now))


def moves(db: Connection) -> list[Move]:
    """The moves that began, oldest first."""
    rows = db.execute("SELECT number, queue, name, by_whom, begun FROM zsmtp_move ORDER BY number")
    return [Move(number, Elsewhere(uid, name), by, seconds(begun)) for number, uid, name, by, begun in rows.fetchall()]


def began(db: Connection, move: int) -> bool:
    """Whether a move with this number exists; it is not deleted during this transaction."""
    return db.execute("SELECT 1 FROM zsmtp_move WHERE number = %s FOR KEY SHARE", (move,)).fetchone() is not None


def set_apart(transaction: WriteTransaction, move: int, places: Sequence[tuple[int, int]]) -> None:
    """Set recipients apart; their leases are locked."""
    transaction.db.execute(
        f"UPDATE zsmtp_recipient r SET hold = %s + CASE WHEN r.hold = {ARRIVING} THEN 0 ELSE r.hold END "
        "FROM unnest(%s::bigint[], %s::integer[]) AS w (message, number) "
        f"WHERE r.message = w.message AND r.number = w.number AND r.hold >= {APART}",
        (apart_hold(move, 0), [place[0] for place in places], [place[1] for place in places]),
    )


def apart(db: Connection, *, move: int, message: int, after: tuple[int, int], limit: int) -> list[ApartRecipient]:
    """The recipients set apart in a move, in order of their ids."""
    only = "AND r.message = %s " if message else ""
    rows = db.execute(
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')}, i.key, i.digest FROM zsmtp_recipient r "
        "JOIN zsmtp_message m ON m.id = r.message LEFT JOIN zsmtp_idempotency i ON i.message = r.message "
        f"WHERE r.hold <> 0 AND r.hold BETWEEN %s AND %s {only}AND (r.message, r.number) > (%s, %s) "
        "ORDER BY r.message, r.number LIMIT %s".encode(),
        (*holds_apart(move), *([message] if message else []), *after, limit),
    ).fetchall()
    standing = {rule for (rule,) in db.execute("SELECT number FROM zsmtp_rule").fetchall()}
    return [_apart(row, standing) for row in rows]


def _apart(row: Sequence[Any], standing: Collection[int]) -> ApartRecipient:
    hold = held_before(row[_HOLD])
    stands = hold <= 0 or hold == BY_COMMAND or hold in standing
    recipient = replace(recipient_from(row), hold=hold if stands else 0)
    key = None if row[-2] is None else (row[-2], bytes(row[-1]))
    return ApartRecipient(recipient, message_from(row[len(RECIPIENT) : -2]), key)


def depart(transaction: WriteTransaction, requests: list[DepartRequest]) -> list[int]:
    """End recipients that have moved to another queue; returns how many there were."""
    return [_depart(transaction, request) for request in requests]


def _depart(transaction: WriteTransaction, request: DepartRequest) -> int:
    wanted = {(departure.message, departure.number): departure for departure in request.departures}
    holds = [holds_apart(departure.move) for departure in wanted.values()]
    rows = transaction.db.execute(
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
        "FROM unnest(%s::bigint[], %s::integer[], %s::bigint[], %s::bigint[]) AS w (message, number, least, greatest) "
        "JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
        "JOIN zsmtp_message m ON m.id = r.message WHERE r.hold BETWEEN w.least AND w.greatest "
        "ORDER BY r.message, r.number FOR UPDATE OF r".encode(),
        ([place[0] for place in wanted], [place[1] for place in wanted], *map(list, zip(*holds, strict=True))),
    ).fetchall()
    changes = Changes({}, lambda number: number)
    for row in rows:
        recipient, message = recipient_from(row), message_from(row[len(RECIPIENT) :])
        place = recipient.message, recipient.number
        end = settling.departed(wanted[place], recipient, message, seconds(transaction.now), request.by)
        changes.settle(place, Current.of(recipient), end)
    results.write(transaction, changes)
    return len(rows)


def sweep(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete moves that began a week ago and have no recipients set apart."""
    db = transaction.db
    before = milliseconds(pieces[0].now - MOVES_KEPT)
    done = 0
    found = db.execute("SELECT number FROM zsmtp_move WHERE begun <= %s FOR UPDATE SKIP LOCKED", (before,)).fetchall()
    for (number,) in found:  # no recipient can be set apart in it before this is committed
        least, greatest = holds_apart(number)
        done += db.execute(
            "DELETE FROM zsmtp_move WHERE number = %s AND NOT EXISTS "
            "(SELECT 1 FROM zsmtp_recipient WHERE hold <> 0 AND hold BETWEEN %s AND %s)",
            (number, least, greatest),
        ).rowcount
    return [done] + [0] * (len(pieces) - 1)
