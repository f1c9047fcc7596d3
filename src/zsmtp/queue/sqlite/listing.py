"""Queries of operators: lists and counts by filters, histories, ends, events, rules.

Each function is one query on a connection, with bounded time: lists come in pages, each of which reads a limited number
of recipients, so that no reader keeps an old state of the database alive for long.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import quotas
from zsmtp.queue.conditions import (
    HELD,
    NOT_HELD,
    Condition,
    Dialect,
    condition,
    condition_of_ends,
    grouping,
    largest,
    messages_between,
)
from zsmtp.queue.filter import Filter
from zsmtp.queue.operators import (
    GROUPS,
    MOST_GROUPS,
    NodeStatus,
    Row,
    Rule,
    SiteStatus,
)
from zsmtp.queue.quotas import Amount
from zsmtp.queue.sql import (
    ENDED,
    HISTORY,
    MESSAGE,
    RECIPIENT,
    RULE,
    columns,
    entry_from,
    listed,
    message_from,
    rule_from,
    status_from,
)
from zsmtp.queue.sqlite.attempts import unpacked
from zsmtp.queue.sqlite.connect import snapshot
from zsmtp.queue.states import AttemptKey, HistoryEntry, QueuedMessage

SQLITE = Dialect(
    equal="{} = ? COLLATE NOCASE",
    like="{} LIKE ? ESCAPE '\\'",
    contains="instr(lower({}), ?) > 0",
    domain=(
        "CASE WHEN instr({0}, '@') = 0 THEN '' ELSE substr({0}, length(rtrim({0}, replace({0}, '@', ''))) + 1) END"
    ),
    sites="zsmtp_site",
)
_ROWS = 1000  # in one page
_ENTRIES = 20_000  # history entries read for one page
_INCOMING = "SELECT message FROM zsmtp_upload WHERE accepted = 0"
_LAST = (1 << 63) - 1

Place = tuple[int, int]


class Wanted(NamedTuple):
    """A filter at a time, for a store of a shard; ``delivers``: whether some process has leases."""

    filter: Filter
    now: float
    shard: int
    delivers: bool

    def condition(self, db: sqlite3.Connection) -> Condition:
        """The filter as a condition."""
        return condition(self.filter, SQLITE, now=self.now, shard=self.shard, in_hand=lambda: self.in_hand(db))

    @property
    def between(self) -> tuple[Place, Place]:
        """The range of recipients that can match: after the first place, up to the second."""
        first, last = messages_between(self.filter, now=self.now, shard=self.shard)
        return (first, -1), (last, _LAST)

    def in_hand(self, db: sqlite3.Connection) -> tuple[str, tuple[object, ...]]:
        """The condition that a recipient is in hand."""
        attempts = attempts_in_hand(db) if self.delivers else set()
        return (
            "(r.message, r.number, r.attempts + 1) IN (SELECT json_extract(value, '$[0]'), "
            "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?))",
            (json.dumps(list(attempts)),),
        )


def attempts_in_hand(db: sqlite3.Connection) -> set[AttemptKey]:
    """The attempts that the deliverer has in hand, or marked. Only the next attempt of a recipient counts."""
    fence = "(SELECT value FROM zsmtp_meta WHERE name = 'fence')"
    rows = db.execute(
        f"SELECT attempts FROM zsmtp_in_hand WHERE fence = {fence} UNION ALL "
        f"SELECT attempts FROM zsmtp_mark WHERE fence = {fence}"
    )
    return {attempt for (data,) in rows.fetchall() for attempt in unpacked(data)}


# ---------------------------------------------------------------------- lists


class Page(NamedTuple):
    """Some rows, and the recipient after which to continue; None: there are no more."""

    rows: list[Row]
    after: Place | None


def page(db: sqlite3.Connection, wanted: Wanted, after: Place, window: int) -> Page:
    """Read up to ``window`` recipients after a place."""
    with snapshot(db):
        after, end = _window(db, wanted, after, window)
        where = wanted.condition(db)
        in_hand = attempts_in_hand(db) if wanted.delivers else set()
        found = db.execute(
            f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
            "FROM zsmtp_recipient r CROSS JOIN zsmtp_message m ON m.id = r.message "
            f"WHERE (r.message, r.number) > (?, ?) AND (r.message, r.number) <= (?, ?) AND {where.sql} "
            "ORDER BY r.message, r.number LIMIT ?",
            (*after, *(end or wanted.between[1]), *where.values, _ROWS),
        ).fetchall()
    rows = [listed(values, in_hand) for values in found]
    return Page(rows, found[-1][:2] if len(found) == _ROWS else end)


def places(
    db: sqlite3.Connection, wanted: Wanted, after: Place, window: int, most: int
) -> tuple[list[Place], Place | None]:
    """As :func:`page`, but only the places of the recipients."""
    with snapshot(db):
        after, end = _window(db, wanted, after, window)
        where = wanted.condition(db)
        found = db.execute(
            "SELECT r.message, r.number FROM zsmtp_recipient r CROSS JOIN zsmtp_message m ON m.id = r.message "
            f"WHERE (r.message, r.number) > (?, ?) AND (r.message, r.number) <= (?, ?) AND {where.sql} "
            "ORDER BY r.message, r.number LIMIT ?",
            (*after, *(end or wanted.between[1]), *where.values, most),
        ).fetchall()
    return found, found[-1] if len(found) == most else end


def _window(db: sqlite3.Connection, wanted: Wanted, after: Place, window: int) -> tuple[Place, Place | None]:
    """The range to read: after the first place, up to the second; None: to the last one that can match."""
    before, last = wanted.between
    after = max(after, before)
    end: Place | None = db.execute(
        "SELECT message, number FROM zsmtp_recipient WHERE (message, number) > (?, ?) "
        "ORDER BY message, number LIMIT 1 OFFSET ?",
        (*after, window - 1),
    ).fetchone()
    return after, None if end is None or end >= last else end


# --------------------------------------------------------------------- counts


def count(db: sqlite3.Connection, wanted: Wanted, by: str) -> dict[str, int]:
    """Count the matching recipients, by a group."""
    if by not in GROUPS:
        raise QueueError(f"{by!r} is nothing to count by; known: {', '.join(GROUPS[1:])}")
    with snapshot(db):
        if wanted.filter.everything and by in ("key", "site", "tenant"):
            return _count_by_index(db, by)
        if wanted.filter.everything and by == "state":
            return _count_states(db, wanted)
        return _count(db, wanted, by)


def _accepted(db: sqlite3.Connection) -> str:
    """The condition that a recipient does not belong to an unaccepted upload, of which there are few or none."""
    return f"r.message NOT IN ({_INCOMING})" if db.execute(f"{_INCOMING} LIMIT 1").fetchone() else "1 = 1"


def _count_by_index(db: sqlite3.Connection, by: str) -> dict[str, int]:
    """Counts of all recipients, by columns in the order of an index."""
    sites = dict(db.execute("SELECT key, site FROM zsmtp_site").fetchall()) if by == "site" else {}
    counted: dict[str, int] = {}
    for index, held in (("zsmtp_work", "hold = 0"), ("zsmtp_held", f"hold <> 0 AND {_accepted(db)}")):
        rows = db.execute(
            f"SELECT key, tenant, count(*) FROM zsmtp_recipient r INDEXED BY {index} WHERE {held} GROUP BY key, tenant"
        )
        for key, tenant, number in rows.fetchall():
            group = tenant if by == "tenant" else sites.get(key, key)
            counted[group] = counted.get(group, 0) + number
    return largest(counted, sum(counted.values()))


def _count_states(db: sqlite3.Connection, wanted: Wanted) -> dict[str, int]:
    """Counts of all recipients by state: those in hand are looked up, the others are the lengths of indexes."""
    accepted = _accepted(db)
    (tried,) = db.execute("SELECT count(*) FROM zsmtp_recipient INDEXED BY zsmtp_work WHERE hold = 0").fetchone()
    (arriving, held) = db.execute(
        f"SELECT count(*) FILTER (WHERE {NOT_HELD}), count(*) FILTER (WHERE {HELD}) "
        f"FROM zsmtp_recipient r INDEXED BY zsmtp_held WHERE hold <> 0 AND {accepted}"
    ).fetchone()
    leased = 0
    for message, number, attempt in attempts_in_hand(db) if wanted.delivers else ():
        sql = f"SELECT 1 FROM zsmtp_recipient r WHERE message = ? AND number = ? AND attempts = ? AND {NOT_HELD}"
        leased += db.execute(sql, (message, number, attempt - 1)).fetchone() is not None
    counted = {"due": tried + arriving - leased, "held": held, "leased": leased}
    return {state: number for state, number in counted.items() if number}


def _count(db: sqlite3.Connection, wanted: Wanted, by: str) -> dict[str, int]:
    where = wanted.condition(db)
    tables = "zsmtp_recipient r" + (" CROSS JOIN zsmtp_message m ON m.id = r.message" if where.message else "")
    tail = f"FROM {tables} WHERE {where.sql} AND {_accepted(db)}"
    if not by:
        return {"": db.execute(f"SELECT count(*) {tail}", where.values).fetchone()[0]}
    group, values = grouping(by, wanted.now, lambda: wanted.in_hand(db))
    rows = db.execute(
        f"SELECT {group}, count(*) AS number {tail} GROUP BY 1 ORDER BY number DESC LIMIT ?",
        (*values, *where.values, MOST_GROUPS + 1),
    ).fetchall()
    counted: dict[str, int] = {}
    sites = dict(db.execute("SELECT key, site FROM zsmtp_site").fetchall()) if by == "site" else {}
    for name, number in rows:
        name = sites.get(name, name)
        counted[name] = counted.get(name, 0) + number
    total = sum(counted.values())
    if len(rows) > MOST_GROUPS:
        total = db.execute(f"SELECT count(*) {tail}", where.values).fetchone()[0]
    return largest(counted, total)


# -------------------------------------------------------------------- history


def history(db: sqlite3.Connection, message: int, number: int | None) -> list[HistoryEntry]:
    """The history of a message, or of one of its recipients, oldest first."""
    rows = db.execute(
        f"SELECT {columns(HISTORY)} FROM zsmtp_history WHERE message = ? AND (? IS NULL OR number = ?) ORDER BY id",
        (message, number, number),
    )
    return [entry_from(row) for row in rows.fetchall()]


def ended(db: sqlite3.Connection, message: int, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Numbers and addresses of the ended recipients of a message, in order of number, after ``after``."""
    rows = db.execute(
        f"SELECT number, address FROM zsmtp_history WHERE message = ? AND number > ? AND outcome IN {ENDED} "
        "ORDER BY number LIMIT ?",
        (message, after, limit),
    )
    return [(number, address.encode()) for number, address in rows.fetchall()]


def ends(db: sqlite3.Connection, wanted: Wanted, before: int | None) -> tuple[list[HistoryEntry], int | None]:
    """Some matching ends, youngest first, before a place in the history; and the place before which to continue."""
    where = condition_of_ends(wanted.filter, SQLITE, now=wanted.now, shard=wanted.shard)
    if before is None:
        before = (db.execute("SELECT max(id) FROM zsmtp_history").fetchone()[0] or 0) + 1
    first = max(before - _ENTRIES, 0)
    found = db.execute(
        f"SELECT h.id, {columns(HISTORY, 'h')} FROM zsmtp_history h "
        f"WHERE h.id < ? AND h.id >= ? AND h.outcome IN {ENDED} AND {where.sql} ORDER BY h.id DESC LIMIT ?",
        (before, first, *where.values, _ROWS),
    ).fetchall()
    entries = [entry_from(row[1:]) for row in found]
    if len(found) == _ROWS:
        return entries, found[-1][0]
    below = db.execute("SELECT max(id) FROM zsmtp_history WHERE id < ?", (first,)).fetchone()[0]
    return entries, None if below is None else below + 1


def events(db: sqlite3.Connection, cursor: str, limit: int) -> tuple[str, list[HistoryEntry]]:
    """History after a cursor, and the next cursor."""
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
        raise QueueError(f"{cursor[:40]!r} is no cursor of events")
    last = int(cursor or 0)
    rows = db.execute(
        f"SELECT id, {columns(HISTORY)} FROM zsmtp_history WHERE id > ? ORDER BY id LIMIT ?", (last, limit)
    ).fetchall()
    return str(rows[-1][0] if rows else last), [entry_from(row[1:]) for row in rows]


def message(db: sqlite3.Connection, number: int) -> QueuedMessage | None:
    """A message that has recipients, or owed notices."""
    row = db.execute(
        f"SELECT {columns(MESSAGE)} FROM zsmtp_message WHERE id = ? AND ("
        "EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = id) OR "
        "EXISTS (SELECT 1 FROM zsmtp_owed WHERE message = id))",
        (number,),
    ).fetchone()
    return None if row is None else message_from(row)


def sites(db: sqlite3.Connection, names: Collection[str]) -> list[SiteStatus]:
    """The reported status of the named sites, or of all."""
    where = "WHERE site IN (SELECT value FROM json_each(?))" if names else "WHERE ? <> ''"
    rows = db.execute(f"SELECT status FROM zsmtp_site_status {where} ORDER BY site", (json.dumps(list(names)),))
    return [status_from(text) for (text,) in rows.fetchall()]


def nodes(db: sqlite3.Connection, *, alive: bool) -> list[NodeStatus]:
    """The process that delivers, or delivered last."""
    rows = db.execute("SELECT name, joined, host, pid, sites FROM zsmtp_node ORDER BY fence DESC LIMIT 1").fetchall()
    return [
        NodeStatus(node=name, since=joined / 1000, host=host, pid=pid, alive=alive, draining=False, sites=sites)
        for name, joined, host, pid, sites in rows
    ]


def rules(db: sqlite3.Connection) -> list[Rule]:
    """The standing rules, oldest first."""
    return [rule_from(row) for row in db.execute(f"SELECT {columns(RULE)} FROM zsmtp_rule ORDER BY number").fetchall()]


def counters(db: sqlite3.Connection) -> dict[str, int]:
    """The totals."""
    rows = db.execute("SELECT name, value FROM zsmtp_counter").fetchall()
    return {name: value for name, value in rows if not quotas.is_of_tenant(name)}


def accepted_by(db: sqlite3.Connection, tenant: str, now: float) -> dict[int, Amount]:
    """The amounts accepted from a tenant, by slot."""
    names = json.dumps(quotas.names_within_hour(tenant, now))
    rows = db.execute(
        "SELECT name, value FROM zsmtp_counter WHERE name IN (SELECT value FROM json_each(?))", (names,)
    ).fetchall()
    return quotas.used_by_slot(dict(rows), tenant, now)


def queued_by_tenant(db: sqlite3.Connection) -> dict[str, Amount]:
    """Messages and octets in the queue, by tenant."""
    rows = db.execute("SELECT tenant, count(*), sum(size) FROM zsmtp_message GROUP BY tenant").fetchall()
    return {tenant: Amount(messages, octets) for tenant, messages, octets in rows}
