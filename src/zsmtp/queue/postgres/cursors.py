"""The history in the order in which it became visible, with cursors: nothing is left out, nothing comes twice.

Entries of a transaction that was open for long become visible after those of others, regardless of their numbers. A
cursor is therefore a snapshot with the last entry in it (``SNAPSHOT@ENTRY``), or a place among the entries between two
of them::

    SNAPSHOT@ENTRY                              all entries of this snapshot were read
    SNAPSHOT@ENTRY/SNAPSHOT@ENTRY/XID.ENTRY     of the entries in the second and not in the first, all up to this one

The last entry is for servers that die: they reuse ids of transactions that they never wrote down, so an earlier
snapshot seems to contain later entries. Numbers of committed entries are never used again.
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
_NOTHING = "3:3:@0"  # the snapshot with frozen rows only


class _Seen(NamedTuple):
    """A snapshot, and the last entry in it."""

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
    """History after a cursor, and the next cursor."""
    place = _parsed(cursor)
    found: list[HistoryEntry] = []
    if place.until is not None:  # the rest of the entries between two snapshots
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
