"""Queries of operators: lists and counts by filters, histories, ends, events, rules.

Each function is one query on a connection, with bounded time: lists come in pages, each of which reads a limited number
of recipients, so that no reader keeps an old state of the database alive for long.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import quotas
from zsmtp.queue.conditions import (
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
from zsmtp.queue.postgres.connect import Connection
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
from zsmtp.queue.states import AttemptKey, HistoryEntry, QueuedMessage

POSTGRES = Dialect(
    equal='lower({} COLLATE "C") = ?',
    like="lower({} COLLATE \"C\") LIKE ? ESCAPE '\\'",
    contains='strpos(lower({} COLLATE "C"), ?) > 0',
    domain="CASE WHEN strpos({0}, '@') = 0 THEN '' ELSE substring({0} FROM '[^@]*$') END",
    sites="zsmtp_site",
)
_ROWS = 1000  # in one page
_ENTRIES = 20_000  # history entries read for one page
_COUNTED = "zsmtp_counter c, unnest(c.names, c.amounts) AS u (name, amount)"
_INCOMING = "SELECT message FROM zsmtp_upload WHERE NOT accepted"
_LAST = (1 << 31) - 1
_IN_HAND = (
    "SELECT u.message, u.number, u.attempt FROM {0} t JOIN zsmtp_lease l ON l.number = t.lease "
    "JOIN zsmtp_node n ON n.id = l.node AND n.valid_until > zsmtp_clock() "
    "CROSS JOIN LATERAL unnest(t.messages, t.numbers, t.attempts) AS u (message, number, attempt)"
)
IN_HAND = f"{_IN_HAND.format('zsmtp_in_hand')} UNION {_IN_HAND.format('zsmtp_mark')}"
"""The attempts in hand, or marked, as message, number and attempt. Only the next of a recipient counts."""

Place = tuple[int, int]


def ask(db: Connection, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """The rows of a query with ``?`` for each value."""
    return db.execute(sql.replace("%", "%%").replace("?", "%s").encode(), values).fetchall()


class WantedRows(NamedTuple):
    """A filter at a time, for a store of a shard."""

    filter: Filter
    now: float
    shard: int

    @property
    def condition(self) -> Condition:
        """The filter as a condition."""
        return condition(self.filter, POSTGRES, now=self.now, shard=self.shard, in_hand=lambda: LEASED)

    @property
    def between(self) -> tuple[Place, Place]:
        """The range of recipients that can match: after the first place, up to the second."""
        first, last = messages_between(self.filter, now=self.now, shard=self.shard)
        return (first, -1), (last, _LAST)


LEASED = (f"(r.message, r.number, r.attempts + 1) IN ({IN_HAND})", ())
"""The condition that a node has a recipient in hand, and its values."""


def attempts_in_hand(db: Connection) -> set[AttemptKey]:
    """The attempts that nodes have in hand, or marked. Only the next attempt of a recipient counts."""
    return {AttemptKey(*row) for row in ask(db, IN_HAND)}


# ---------------------------------------------------------------------- lists


class ListPage(NamedTuple):
    """Some rows, and the recipient after which to continue; None: there are no more."""

    rows: list[Row]
    after: Place | None


def page(db: Connection, query: WantedRows, after: Place, window: int) -> ListPage:
    """Read up to ``window`` recipients after a place."""
    after, end = _window(db, query, after, window)
    where = query.condition
    in_hand = attempts_in_hand(db)
    found = ask(
        db,
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
        "FROM zsmtp_recipient r JOIN zsmtp_message m ON m.id = r.message "
        f"WHERE (r.message, r.number) > (?, ?) AND (r.message, r.number) <= (?, ?) AND {where.sql} "
        "ORDER BY r.message, r.number LIMIT ?",
        (*after, *(end or query.between[1]), *where.values, _ROWS),
    )
    rows = [listed(values, in_hand) for values in found]
    return ListPage(rows, found[-1][:2] if len(found) == _ROWS else end)


def places(db: Connection, query: WantedRows, after: Place, window: int, most: int) -> tuple[list[Place], Place | None]:
    """As :func:`page`, but only the places of the recipients."""
    after, end = _window(db, query, after, window)
    where = query.condition
    found = ask(
        db,
        "SELECT r.message, r.number FROM zsmtp_recipient r JOIN zsmtp_message m ON m.id = r.message "
        f"WHERE (r.message, r.number) > (?, ?) AND (r.message, r.number) <= (?, ?) AND {where.sql} "
        "ORDER BY r.message, r.number LIMIT ?",
        (*after, *(end or query.between[1]), *where.values, most),
    )
    return [(row[0], row[1]) for row in found], (found[-1][0], found[-1][1]) if len(found) == most else end


def _window(db: Connection, query: WantedRows, after: Place, window: int) -> tuple[Place, Place | None]:
    """The range to read: after the first place, up to the second; None: to the last one that can match."""
    before, last = query.between
    after = max(after, before)
    rows = ask(
        db,
        "SELECT message, number FROM zsmtp_recipient WHERE (message, number) > (?, ?) "
        "ORDER BY message, number LIMIT 1 OFFSET ?",
        (*after, window - 1),
    )
    end: Place | None = (rows[0][0], rows[0][1]) if rows else None
    return after, None if end is None or end >= last else end


def matching(db: Connection, query: WantedRows, wanted: Sequence[Place]) -> list[tuple[Any, ...]]:
    """The matching ones of some recipients, with their messages, in order."""
    where = query.condition
    return ask(
        db,
        f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
        "FROM unnest(?::bigint[], ?::integer[]) AS w (message, number) "
        "JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
        f"JOIN zsmtp_message m ON m.id = r.message WHERE {where.sql} ORDER BY r.message, r.number",
        ([place[0] for place in wanted], [place[1] for place in wanted], *where.values),
    )


# --------------------------------------------------------------------- counts


def count(db: Connection, query: WantedRows, by: str) -> dict[str, int]:
    """Count the matching recipients, by a group."""
    if by not in GROUPS:
        raise QueueError(f"{by!r} is nothing to count by; known: {', '.join(GROUPS[1:])}")
    where = query.condition
    tables = "zsmtp_recipient r" + (" JOIN zsmtp_message m ON m.id = r.message" if where.message else "")
    tail = f"FROM {tables} WHERE {where.sql} AND r.message NOT IN ({_INCOMING})"
    if not by:
        return {"": ask(db, f"SELECT count(*) {tail}", where.values)[0][0]}
    group, values = grouping(by, query.now, lambda: LEASED)
    rows = ask(
        db,
        f"SELECT {group}, count(*) AS counted {tail} GROUP BY 1 ORDER BY counted DESC, 1 LIMIT ?",
        (*values, *where.values, MOST_GROUPS + 1),
    )
    counted: dict[str, int] = {}
    sites = dict(ask(db, "SELECT key, site FROM zsmtp_site")) if by == "site" else {}
    for name, number in rows:
        name = sites.get(name, name)
        counted[name] = counted.get(name, 0) + number
    total = sum(counted.values())
    if len(rows) > MOST_GROUPS:
        total = ask(db, f"SELECT count(*) {tail}", where.values)[0][0]
    return largest(counted, total)


# -------------------------------------------------------------------- history


def history(db: Connection, message: int, number: int | None) -> list[HistoryEntry]:
    """The history of a message, or of one of its recipients, oldest first."""
    rows = ask(
        db,
        f"SELECT {columns(HISTORY)} FROM zsmtp_history "
        "WHERE message = ? AND (?::integer IS NULL OR number = ?) ORDER BY id",
        (message, number, number),
    )
    return [entry_from(row) for row in rows]


def ended(db: Connection, message: int, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Numbers and addresses of the ended recipients of a message, in order of number, after ``after``."""
    rows = ask(
        db,
        f"SELECT number, address FROM zsmtp_history WHERE message = ? AND number > ? AND outcome IN {ENDED} "
        "ORDER BY number LIMIT ?",
        (message, after, limit),
    )
    return [(number, address.encode()) for number, address in rows]


def ends(db: Connection, query: WantedRows, before: int | None) -> tuple[list[HistoryEntry], int | None]:
    """Some matching ends, youngest first, before a place in the history; and the place before which to continue."""
    where = condition_of_ends(query.filter, POSTGRES, now=query.now, shard=query.shard)
    if before is None:
        before = (ask(db, "SELECT max(id) FROM zsmtp_history")[0][0] or 0) + 1
    first = max(before - _ENTRIES, 0)
    found = ask(
        db,
        f"SELECT h.id, {columns(HISTORY, 'h')} FROM zsmtp_history h "
        f"WHERE h.id < ? AND h.id >= ? AND h.outcome IN {ENDED} AND {where.sql} ORDER BY h.id DESC LIMIT ?",
        (before, first, *where.values, _ROWS),
    )
    entries = [entry_from(row[1:]) for row in found]
    if len(found) == _ROWS:
        return entries, found[-1][0]
    below = ask(db, "SELECT max(id) FROM zsmtp_history WHERE id < ?", (first,))[0][0]
    return entries, None if below is None else below + 1


def message(db: Connection, number: int) -> QueuedMessage | None:
    """A message that has recipients, or owed notices."""
    rows = ask(
        db,
        f"SELECT {columns(MESSAGE)} FROM zsmtp_message WHERE id = ? AND ("
        "EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = id) OR "
        "EXISTS (SELECT 1 FROM zsmtp_owed WHERE message = id))",
        (number,),
    )
    return message_from(rows[0]) if rows else None


def sites(db: Connection, names: Collection[str]) -> list[SiteStatus]:
    """The reported status of the named sites, or of all, by each of their nodes.

    Nodes of an earlier release report in another table, one for each site.
    """
    rows = ask(
        db,
        "SELECT status FROM (SELECT site, node, status FROM zsmtp_part_status UNION ALL "
        "SELECT site, 0, status FROM zsmtp_site_status s "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_part_status p WHERE p.site = s.site)) AS s "
        "WHERE site = ANY(?::text[]) OR ?::text[] = '{}' ORDER BY site, node",
        (list(names), list(names)),
    )
    return [status_from(text) for (text,) in rows]


def nodes(db: Connection) -> list[NodeStatus]:
    """The processes that deliver, or did recently."""
    rows = ask(
        db,
        "SELECT n.name, n.joined, n.host, n.pid, n.valid_until > zsmtp_clock(), n.draining, "
        "(SELECT count(*) FROM zsmtp_lease l WHERE l.node = n.id) FROM zsmtp_node n ORDER BY n.id",
    )
    return [
        NodeStatus(node=name, since=joined / 1000, host=host, pid=pid, alive=alive, draining=draining, sites=leases)
        for name, joined, host, pid, alive, draining, leases in rows
    ]


def rules(db: Connection) -> list[Rule]:
    """The standing rules, oldest first."""
    return [rule_from(row) for row in ask(db, f"SELECT {columns(RULE)} FROM zsmtp_rule ORDER BY number")]


def counters(db: Connection) -> dict[str, int]:
    """The totals."""
    rows = ask(db, f"SELECT u.name, sum(u.amount) FROM {_COUNTED} GROUP BY 1")
    return {name: int(total) for name, total in rows if not quotas.is_of_tenant(name)}


def accepted_by(db: Connection, tenant: str, now: float) -> dict[int, Amount]:
    """The amounts accepted from a tenant, by slot."""
    names = quotas.names_within_hour(tenant, now)
    rows = ask(db, f"SELECT u.name, sum(u.amount) FROM {_COUNTED} WHERE u.name = ANY(?) GROUP BY 1", (names,))
    return quotas.used_by_slot({name: int(total) for name, total in rows}, tenant, now)


def queued_by_tenant(db: Connection) -> dict[str, Amount]:
    """Messages and octets in the queue, by tenant."""
    rows = ask(db, "SELECT tenant, count(*), sum(size) FROM zsmtp_message GROUP BY 1")
    return {tenant: Amount(messages, int(octets)) for tenant, messages, octets in rows}
