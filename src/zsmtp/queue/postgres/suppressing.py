"""The list of suppressed addresses in a PostgreSQL database, and the end of recipients by it.

``zsmtp.queue.suppression`` and ``zsmtp.queue.settlement`` define the effect of a suppression. Whether the list has
entries is read together with new ids (:meth:`~zsmtp.queue.postgres.transaction.WriteTransaction.draw`), so that an
empty list costs no round trip.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial

from zsmtp.queue.changes import Changes, Suppressible, suppressed_places
from zsmtp.queue.postgres import results
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.transaction import WriteTransaction
from zsmtp.queue.sql import (
    MESSAGE,
    RECIPIENT,
    SUPPRESSION,
    columns,
    suppression_from,
    suppression_values,
)
from zsmtp.queue.states import milliseconds, seconds
from zsmtp.queue.suppression import PIECE, InsertedRecipient, Suppression


def end_suppressed(transaction: WriteTransaction, inserted: Iterable[InsertedRecipient]) -> None:
    """End the recipients of this transaction whose addresses are suppressed."""
    if not transaction.suppresses:
        return
    now = seconds(transaction.now)
    suppressions = suppressed_places(inserted, partial(_found, transaction.db), now)
    if not suppressions:
        return
    transaction.write_now()
    rows = transaction.db.execute(
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
        "FROM unnest(%s::bigint[], %s::integer[]) AS w (message, number) "
        "JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
        "JOIN zsmtp_message m ON m.id = r.message".encode(),
        ([place[0] for place in suppressions], [place[1] for place in suppressions]),
    ).fetchall()
    changes = Changes({}, lambda number: number)
    if ended := changes.end_suppressed(rows, suppressions, now):
        results.write(transaction, changes)
        transaction.count("suppressed", ended)


def _found(db: Connection, keys: Sequence[Suppressible]) -> dict[Suppressible, Suppression]:
    rows = db.execute(
        f"SELECT {columns(SUPPRESSION, 's')} FROM unnest(%s::text[], %s::text[]) AS w (tenant, address) "
        "JOIN zsmtp_suppression s ON s.tenant = w.tenant AND s.address = w.address".encode(),
        ([tenant for tenant, _ in keys], [address.decode() for _, address in keys]),
    ).fetchall()
    return {(one.tenant, one.address): one for one in map(suppression_from, rows)}


def add(transaction: WriteTransaction, requests: list[Sequence[Suppression]]) -> list[int]:
    """Put addresses on the list; returns how many were not there."""
    return [_add(transaction.db, {(one.tenant, one.address): one for one in request}) for request in requests]


def _add(db: Connection, wanted: dict[Suppressible, Suppression]) -> int:
    kept = ", ".join(f"{name} = excluded.{name}" for name in SUPPRESSION[2:])
    rows = [suppression_values(wanted[key]) for key in sorted(wanted)]  # in a fixed order, so that two never deadlock
    return sum(
        inserted
        for (inserted,) in db.execute(
            f"INSERT INTO zsmtp_suppression AS s ({columns(SUPPRESSION)}) "
            "SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[]) "
            f"ON CONFLICT (tenant, address) DO UPDATE SET {kept} RETURNING s.xmax = 0".encode(),
            [list(column) for column in zip(*rows, strict=True)],
        ).fetchall()
    )


def remove(transaction: WriteTransaction, requests: list[tuple[str, Collection[bytes]]]) -> list[int]:
    """Remove a tenant's addresses from the list; returns how many were there."""
    return [
        transaction.db.execute(
            "DELETE FROM zsmtp_suppression WHERE tenant = %s AND address = ANY(%s::text[])",
            (tenant, [address.decode() for address in addresses]),
        ).rowcount
        for tenant, addresses in requests
    ]


def page(
    db: Connection, now: float, tenant: str | None, addresses: Collection[bytes], after: tuple[str, str] | None
) -> list[Suppression]:
    """The list after a tenant and an address, at most :data:`~zsmtp.queue.suppression.PIECE` entries."""
    rows = db.execute(
        f"SELECT {columns(SUPPRESSION)} FROM zsmtp_suppression WHERE (tenant, address) > (%s, %s) "
        "AND (until IS NULL OR until > %s) AND (%s::text IS NULL OR tenant = %s) "
        "AND (%s OR address = ANY(%s::text[])) ORDER BY tenant, address LIMIT %s".encode(),
        (
            *(after or ("", "")),
            milliseconds(now),
            tenant,
            tenant,
            not addresses,
            [address.decode() for address in addresses],
            PIECE,
        ),
    )
    return [suppression_from(row) for row in rows.fetchall()]
