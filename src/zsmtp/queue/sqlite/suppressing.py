"""The list of suppressed addresses in a SQLite file, and the end of recipients by it.

``zsmtp.queue.suppression`` and ``zsmtp.queue.settlement`` define the effect of a suppression.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from zsmtp.queue.changes import Suppressible, suppressed_places
from zsmtp.queue.sql import (
    MESSAGE,
    RECIPIENT,
    SUPPRESSION,
    columns,
    suppression_from,
    suppression_values,
)
from zsmtp.queue.sqlite.results import SQLiteChanges
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction, in_parts, listed
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.queue.suppression import PIECE, InsertedRecipient, Suppression


def end_suppressed(transaction: WriteTransaction, inserted: Iterable[InsertedRecipient]) -> None:
    """End the recipients of this transaction whose addresses are suppressed."""
    db = transaction.db
    if db.execute("SELECT 1 FROM zsmtp_suppression LIMIT 1").fetchone() is None:
        return
    now = seconds(transaction.now)
    suppressions = suppressed_places(inserted, partial(_found, db), now)
    if not suppressions:
        return
    changes = SQLiteChanges(transaction, {})
    ended = 0
    for marks, values in in_parts(list(suppressions), 2):
        rows = db.execute(
            f"WITH w (message, number) AS (VALUES {marks}) "
            f"SELECT DISTINCT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM w "
            "CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
            "CROSS JOIN zsmtp_message m ON m.id = r.message",
            values,
        )
        ended += changes.end_suppressed(rows.fetchall(), suppressions, now)
    if ended:
        changes.write()
        transaction.count("suppressed", ended)


def _found(db: Executes, keys: Iterable[Suppressible]) -> dict[Suppressible, Suppression]:
    found = {}
    for marks, values in in_parts([(tenant, address.decode()) for tenant, address in keys], 2):
        rows = db.execute(
            f"WITH w (tenant, address) AS (VALUES {marks}) "
            f"SELECT DISTINCT {columns(SUPPRESSION, 's')} FROM w "
            "CROSS JOIN zsmtp_suppression s ON s.tenant = w.tenant AND s.address = w.address",
            values,
        )
        found.update({(one.tenant, one.address): one for one in map(suppression_from, rows.fetchall())})
    return found


def add(transaction: WriteTransaction, requests: list[Sequence[Suppression]]) -> list[int]:
    """Put addresses on the list; returns how many were not there."""
    return [_add(transaction.db, {(one.tenant, one.address): one for one in request}) for request in requests]


def _add(db: Executes, wanted: dict[Suppressible, Suppression]) -> int:
    there = _found(db, wanted)
    db.executemany(
        f"INSERT OR REPLACE INTO zsmtp_suppression ({columns(SUPPRESSION)}) VALUES ({listed(len(SUPPRESSION))})",
        [suppression_values(one) for one in wanted.values()],
    )
    return len(wanted) - len(there)


def remove(transaction: WriteTransaction, requests: list[tuple[str, Collection[bytes]]]) -> list[int]:
    """Remove a tenant's addresses from the list; returns how many were there."""
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
    """The list after a tenant and an address, at most :data:`~zsmtp.queue.suppression.PIECE` entries."""
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
