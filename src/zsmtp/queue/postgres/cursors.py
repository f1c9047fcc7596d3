"""The history in the order in which it became visible, with cursors: nothing is left out, nothing comes twice.

Entries of a transaction that was open for long become visible behind those of others, whatever their numbers are. A
cursor is therefore a snapshot with the last entry that it has (``SNAPSHOT@ENTRY``), or a place within what came between
two of them::

    SNAPSHOT@ENTRY                              all that this one has was seen
    SNAPSHOT@ENTRY/SNAPSHOT@ENTRY/XID.ENTRY     of what the second has and the first has not, all up to this was seen

The last entry is for servers that die: they use ids of transactions again which they never wrote down, so a snapshot of
before seems to have what came behind it. Numbers of entries that were committed are never used again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.listing import ask
from zsmtp.queue.sql import HISTORY, columns, entry_from
from zsmtp.queue.states import HistoryEntry

_SNAPSHOT = r"(\d{1,19}:\d{1,19}:(?:\d{1,19}(?:,\d{1,19})*)?)@(\d{1,18})"
_CURSOR = re.compile(rf"{_SNAPSHOT}(?:/{_SNAPSHOT}/(\d{{1,19}})\.(\d{{1,18}}))?\Z", re.ASCII)
_NOTHING = "3:3:@0"  # the snapshot that has nothing but what is frozen


class _Seen(NamedTuple):
    """A snapshot, and the last entry that it has."""

    snapshot: str
    entry: int

    def __str__(self) -> str:
        return f"{self.snapshot}@{self.entry}"


class _Cursor(NamedTuple):
    since: _Seen
    until: _Seen | None
    xid: str
    entry: int


def _parsed(text: str) -> _Cursor:
    found = _CURSOR.match(text or _NOTHING) if len(text) < 100_000 else None
    if found is None:
        raise QueueError(f"{text[:40]!r} is no cursor of events")
    until = None if found[3] is None else _Seen(found[3], int(found[4]))
    return _Cursor(_Seen(found[1], int(found[2])), until, found[5] or "0", int(found[6] or 0))


def events(db: Connection, cursor: str, limit: int) -> tuple[str, list[HistoryEntry]]:
    """History behind a cursor, and the next cursor."""
    place = _parsed(cursor)
    found: list[HistoryEntry] = []
    if place.until is not None:  # the rest of what came between two snapshots
        cursor, found = _between(db, place, place.until, limit)
        place = _parsed(cursor)
    if len(found) < limit:
        ((snapshot, last),) = ask(
            db, "SELECT pg_current_snapshot()::text, coalesce((SELECT max(id) FROM zsmtp_history), 0)"
        )
        cursor, more = _between(db, place, _Seen(snapshot, last), limit - len(found))
        found += more
    return cursor, found


def _between(db: Connection, place: _Cursor, until: _Seen, limit: int) -> tuple[str, list[HistoryEntry]]:
    since = place.since
    rows = ask(
        db,
        f"SELECT xid::text, id, {columns(HISTORY)} FROM zsmtp_history WHERE "
        "((xid >= pg_snapshot_xmin(?::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, ?::pg_snapshot)) OR id > ?) "
        "AND pg_visible_in_snapshot(xid, ?::pg_snapshot) AND id <= ? "
        "AND (xid, id) > (?::xid8, ?) ORDER BY xid, id LIMIT ?",
        (since.snapshot, since.snapshot, since.entry, until.snapshot, until.entry, place.xid, place.entry, limit),
    )
    found = [entry_from(row[2:]) for row in rows]
    if len(rows) < limit or not rows:
        return str(until), found
    return f"{since}/{until}/{rows[-1][0]}.{rows[-1][1]}", found
