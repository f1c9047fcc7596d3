"""The list of addresses that are not written to, in a SQLite file: who is on it, and recipients that end by it.

What a suppression means is said by ``zsmtp.queue.suppression`` and ``zsmtp.queue.settlement``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence

from zsmtp.queue.changes import Current, Place
from zsmtp.queue.settlement import suppressed
from zsmtp.queue.sql import (
    MESSAGE,
    RECIPIENT,
    SUPPRESSION,
    columns,
    message_from,
    recipient_from,
    suppression_from,
    suppression_values,
)
from zsmtp.queue.sqlite.results import SQLiteChanges
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction, in_parts, listed
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.queue.suppression import PIECE, InsertedRecipient, Suppression, folded, is_subject


def end_suppressed(transaction: WriteTransaction, inserted: Iterable[InsertedRecipient]) -> None:
    """End those recipients, of this transaction, whose addresses are not written to."""
    db = transaction.db
    if db.execute("SELECT 1 FROM zsmtp_suppression LIMIT 1").fetchone() is None:
        return
    places: dict[tuple[str, str], list[Place]] = {}
    for message, number, address, tenant in inserted:
        places.setdefault((tenant, folded(address.encode()).decode()), []).append((message, number))
    found = _found(db, list(places), transaction.now)
    on_list = {place: one for key, one in found.items() for place in places[key]}
    if not on_list:
        return
    changes = SQLiteChanges(transaction, {})
    for marks, values in in_parts(list(on_list), 2):
        rows = db.execute(
            f"WITH w (message, number) AS (VALUES {marks}) "
            f"SELECT DISTINCT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM w "
            "CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
            "CROSS JOIN zsmtp_message m ON m.id = r.message",
            values,
        )
        for row in rows.fetchall():
            recipient, whole = recipient_from(row), message_from(row[len(RECIPIENT) :])
            if is_subject(whole.origin, whole.options):
                place = recipient.message, recipient.number
                settlement = suppressed(recipient, whole, on_list[place], seconds(transaction.now))
                changes.settle(place, Current.of(recipient), settlement)
    if changes.ended:
        changes.write()
        transaction.count("suppressed", len(changes.ended))


def _found(db: Executes, keys: Sequence[tuple[str, str]], now: int) -> dict[tuple[str, str], Suppression]:
    found = {}
    for marks, values in in_parts(keys, 2):
        rows = db.execute(
            f"WITH w (tenant, address) AS (VALUES {marks}) "
            f"SELECT DISTINCT {columns(SUPPRESSION, 's')} FROM w "
            "CROSS JOIN zsmtp_suppression s ON s.tenant = w.tenant AND s.address = w.address "
            "WHERE s.until IS NULL OR s.until > ?",
            (*values, now),
        )
        for row in rows.fetchall():
            found[row[0], row[1]] = suppression_from(row)
    return found


def add(transaction: WriteTransaction, requests: list[Sequence[Suppression]]) -> list[int]:
    """Put addresses on the list; answers how many were not there."""
    return [_add(transaction.db, {(one.tenant, one.address): one for one in request}) for request in requests]


def _add(db: Executes, wanted: dict[tuple[str, bytes], Suppression]) -> int:
    there = _found(db, [(tenant, address.decode()) for tenant, address in wanted], -1)
    db.executemany(
        f"INSERT OR REPLACE INTO zsmtp_suppression ({columns(SUPPRESSION)}) VALUES ({listed(len(SUPPRESSION))})",
        [suppression_values(one) for one in wanted.values()],
    )
    return len(wanted) - len(there)


def remove(transaction: WriteTransaction, requests: list[tuple[str, Collection[bytes]]]) -> list[int]:
    """Take addresses of a tenant off the list; answers how many were there."""
    return [
        sum(
            transaction.db.execute(
                "DELETE FROM zsmtp_suppression WHERE tenant = ? AND address = ?", (tenant, address.decode())
            ).rowcount
            for address in addresses
        )
        for tenant, addresses in requests
    ]


def page(
    db: sqlite3.Connection, now: float, tenant: str | None, addresses: Collection[bytes], after: tuple[str, str] | None
) -> list[Suppression]:
    """What is on the list behind a tenant and an address, :data:`~zsmtp.queue.suppression.PIECE` of it at most."""
    rows = db.execute(
        f"SELECT {columns(SUPPRESSION)} FROM zsmtp_suppression WHERE (tenant, address) > (?, ?) "
        "AND (until IS NULL OR until > ?) AND (? IS NULL OR tenant = ?) "
        "AND (? OR address IN (SELECT value FROM json_each(?))) ORDER BY tenant, address LIMIT ?",
        (
            *(after or ("", "")),
            milliseconds(now),
            tenant,
            tenant,
            not addresses,
            json.dumps([address.decode() for address in addresses]),
            PIECE,
        ),
    )
    return [suppression_from(row) for row in rows.fetchall()]
