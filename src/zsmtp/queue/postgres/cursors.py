"""The history in the order in which it became visible, with cursors: nothing is left out, nothing comes twice.

Entries of a transaction that was open for long become visible behind those of others, whatever their numbers are. A
cursor is therefore a snapshot (what was visible when it was made), or a place within what came between two snapshots::

    SNAPSHOT                    all that this one has was seen
    SNAPSHOT/SNAPSHOT/XID.ID    of what the second has and the first has not, all up to this entry was seen
"""

from __future__ import annotations

import re
from typing import NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.listing import ask
from zsmtp.queue.sql import HISTORY, columns, entry_from
from zsmtp.queue.states import HistoryEntry

_SNAPSHOT = r"\d{1,19}:\d{1,19}:(?:\d{1,19}(?:,\d{1,19})*)?"
_CURSOR = re.compile(rf"({_SNAPSHOT})(?:/({_SNAPSHOT})/(\d{{1,19}})\.(\d{{1,18}}))?\Z", re.ASCII)
_NOTHING = "3:3:"  # the snapshot that has nothing but what is frozen


class _Cursor(NamedTuple):
    since: str
    until: str
    xid: str
    entry: int


def _parsed(text: str) -> _Cursor:
    if not text:
        return _Cursor("", "", "0", 0)
    found = _CURSOR.match(text) if len(text) < 100_000 else None
    if found is None:
        raise QueueError(f"{text[:40]!r} is no cursor of events")
    return _Cursor(found[1], found[2] or "", found[3] or "0", int(found[4] or 0))


def events(db: Connection, cursor: str, limit: int) -> tuple[str, list[HistoryEntry]]:
    """History behind a cursor, and the next cursor."""
    place = _parsed(cursor)
    found: list[HistoryEntry] = []
    if place.until:  # the rest of what came between two snapshots
        cursor, found = _between(db, place, limit)
        place = _parsed(cursor)
    if len(found) < limit:
        (now,) = ask(db, "SELECT pg_current_snapshot()::text")[0]
        cursor, more = _between(db, place._replace(until=now), limit - len(found))
        found += more
    return cursor, found


def _between(db: Connection, place: _Cursor, limit: int) -> tuple[str, list[HistoryEntry]]:
    since, until, xid, entry = place
    came = "xid >= pg_snapshot_xmin(?::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, ?::pg_snapshot) AND "
    rows = ask(
        db,
        f"SELECT xid::text, id, {columns(HISTORY)} FROM zsmtp_history WHERE {came if since else ''}"
        "xid < pg_snapshot_xmax(?::pg_snapshot) AND pg_visible_in_snapshot(xid, ?::pg_snapshot) "
        "AND (xid, id) > (?::xid8, ?) ORDER BY xid, id LIMIT ?",
        (*((since, since) if since else ()), until, until, xid, entry, limit),
    )
    found = [entry_from(row[2:]) for row in rows]
    if len(rows) < limit:
        return until, found
    return f"{since or _NOTHING}/{until}/{rows[-1][0]}.{rows[-1][1]}" if rows else until, found
