"""Queries for delivery: the keys with work, the first due times, the recipients and contents to send.

Each function is one query on a connection. Its cost does not grow with the size of the queue: it walks the index of
sub-queues by skipping from one key, tenant and rank to the next, and claims begin after a position.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any

from zsmtp.errors import QueueError
from zsmtp.queue.limits import (
    CHUNK,
    NOTICE_RECIPIENTS,
)
from zsmtp.queue.slots import SitePart, of_slots
from zsmtp.queue.sql import MESSAGE, RECIPIENT, ClaimBounds, columns, message_from, recipient_from, within
from zsmtp.queue.sqlite.connect import snapshot
from zsmtp.queue.sqlite.intake import owed_of
from zsmtp.queue.sqlite.transaction import SIZES, in_parts, listed
from zsmtp.queue.states import (
    AttemptKey,
    OwedNotice,
    Position,
    QueuedMessage,
    QueuedRecipient,
    SubQueue,
    milliseconds,
    seconds,
)
from zsmtp.queue.store import (
    Claimed,
    Head,
)

_MANY = 20_000  # recipients
_DUE = RECIPIENT.index("due")
_ATTEMPTS = RECIPIENT.index("attempts")

_HEADS = """
WITH RECURSIVE
wanted (key) AS (SELECT value FROM json_each(?)),
t (key, tenant) AS (
    SELECT key, (SELECT min(tenant) FROM zsmtp_recipient r WHERE hold = 0 AND r.key = wanted.key) FROM wanted
    UNION ALL
    SELECT key, (SELECT min(tenant) FROM zsmtp_recipient r WHERE hold = 0 AND r.key = t.key AND r.tenant > t.tenant)
    FROM t WHERE tenant IS NOT NULL
),
k (key, tenant, rank) AS (
    SELECT key, tenant, (SELECT min(rank) FROM zsmtp_recipient r
        WHERE hold = 0 AND r.key = t.key AND r.tenant = t.tenant) FROM t WHERE tenant IS NOT NULL
    UNION ALL
    SELECT key, tenant, (SELECT min(rank) FROM zsmtp_recipient r
        WHERE hold = 0 AND r.key = k.key AND r.tenant = k.tenant AND r.rank > k.rank) FROM k WHERE rank IS NOT NULL
)
SELECT key, tenant, rank, (SELECT min(due) FROM zsmtp_recipient r
    WHERE hold = 0 AND r.key = k.key AND r.tenant = k.tenant AND r.rank = k.rank)
FROM k WHERE rank IS NOT NULL ORDER BY key, tenant, rank
"""

_KEYS_WITH_WORK = """
WITH RECURSIVE k (key) AS (
    SELECT min(key) FROM zsmtp_recipient WHERE hold = 0 AND key > ?
    UNION ALL
    SELECT (SELECT min(key) FROM zsmtp_recipient r WHERE hold = 0 AND r.key > k.key) FROM k WHERE key IS NOT NULL
)
SELECT key FROM k WHERE key IS NOT NULL LIMIT ?
"""

_CLAIM = f"""
SELECT {columns(RECIPIENT, "r")}, {columns(MESSAGE, "m")}
FROM zsmtp_recipient r INDEXED BY zsmtp_work CROSS JOIN zsmtp_message m ON m.id = r.message
WHERE r.hold = 0 AND r.key = ? AND r.tenant = ? AND r.rank = ?
    AND (r.due, r.message, r.number) > (?, ?, ?) AND r.due <= ? {{}}
ORDER BY r.due, r.message, r.number LIMIT ?
"""

_NEXT = """
SELECT due, message, number FROM zsmtp_recipient r
WHERE hold = 0 AND key = ? AND tenant = ? AND rank = ? AND (due, message, number) > (?, ?, ?) {}
ORDER BY due, message, number LIMIT 1
"""

_REVIEW = f"""
SELECT {columns(RECIPIENT, "r")}, {columns(MESSAGE, "m")}
FROM zsmtp_recipient r {{}} CROSS JOIN zsmtp_message m ON m.id = r.message
WHERE r.hold = 0 AND r.key IN (SELECT value FROM json_each(?)) AND (r.message, r.number) > (?, ?) {{}}
ORDER BY r.message, r.number LIMIT ?
"""


def heads(connection: sqlite3.Connection, keys: Collection[str]) -> list[Head]:
    """The sub-queues of queue keys, and the due time of the first recipient of each."""
    rows = connection.execute(_HEADS, (json.dumps(list(keys)),))
    return [Head(SubQueue(key, tenant, rank), due / 1000) for key, tenant, rank, due in rows.fetchall()]


def keys_with_work(connection: sqlite3.Connection, after: str | None, limit: int) -> list[str]:
    """Queue keys with recipients that are not held, in order, after one (None: from the first)."""
    sql = _KEYS_WITH_WORK if after is not None else _KEYS_WITH_WORK.replace(" AND key > ?", "", 1)
    found = connection.execute(sql, (after, limit) if after is not None else (limit,)).fetchall()
    return [key for (key,) in found]


def agenda(connection: sqlite3.Connection, keys: Collection[str]) -> dict[str, float]:
    """The due time of the first recipient of each queue key that has any."""
    found: dict[str, float] = {}
    for head in heads(connection, keys):
        key = head.sub_queue.key
        found[key] = min(found.get(key, head.due), head.due)
    return found


def sites_of(connection: sqlite3.Connection, keys: Collection[str]) -> dict[str, str]:
    """The stored sites of queue keys."""
    rows = connection.execute(
        "SELECT s.key, s.site FROM json_each(?) CROSS JOIN zsmtp_site s ON s.key = value", (json.dumps(list(keys)),)
    )
    return dict(rows.fetchall())


def keys_of(connection: sqlite3.Connection, sites: Collection[str]) -> list[tuple[str, str]]:
    """The stored queue keys of sites: site, key."""
    rows = connection.execute(
        "SELECT s.site, s.key FROM json_each(?) CROSS JOIN zsmtp_site s ON s.site = value", (json.dumps(list(sites)),)
    )
    return rows.fetchall()


def claim(
    connection: sqlite3.Connection, sub_queue: SubQueue, after: Position, now: float, bounds: ClaimBounds
) -> tuple[list[Claimed], float | None]:
    """Due recipients, with their messages and small contents; and the due time of the next one after them."""
    position = (milliseconds(after.due), after.message, after.number)
    with snapshot(connection):
        rows = _due(connection, sub_queue, position, milliseconds(now), bounds)
        messages, small, count = within(rows, bounds.octets)
        contents = _contents(connection, small)
        next_due = _next_due(connection, sub_queue, _place(rows[count - 1]) if count else position, bounds)
    claimed = [Claimed(recipient_from(row), messages[row[0]], contents.get(row[0])) for row in rows[:count]]
    return claimed, next_due


_Place = tuple[int, int, int]  # due, message, number


def _place(row: tuple[Any, ...]) -> _Place:
    return row[_DUE], row[0], row[1]


def _due(
    connection: sqlite3.Connection, sub_queue: SubQueue, after: _Place, now: int, bounds: ClaimBounds
) -> list[tuple[Any, ...]]:
    """The rows after a place that are due and not in doubt."""
    found: list[tuple[Any, ...]] = []
    part, doubts = of_slots("r.message", bounds.slots), bounds.doubts
    while (missing := bounds.limit - len(found)) > 0:
        rows = connection.execute(_CLAIM.format(part), (*sub_queue, *after, now, missing)).fetchall()
        found += [row for row in rows if (row[0], row[1], row[_ATTEMPTS] + 1) not in doubts] if doubts else rows
        if len(rows) < missing:
            break
        after = _place(rows[-1])
    return found


def _next_due(connection: sqlite3.Connection, sub_queue: SubQueue, after: _Place, bounds: ClaimBounds) -> float | None:
    """The due time of the next one after a place that is not in doubt."""
    in_doubt = {attempt[:2] for attempt in bounds.doubts}
    part = of_slots("r.message", bounds.slots)
    while (row := connection.execute(_NEXT.format(part), (*sub_queue, *after)).fetchone()) is not None:
        if row[1:] not in in_doubt:
            return seconds(row[0])
        after = row
    return None


def _contents(connection: sqlite3.Connection, messages: list[int]) -> dict[int, bytes]:
    contents: dict[int, bytes] = {}
    for start in range(0, len(messages), SIZES[-1]):
        part = messages[start : start + SIZES[-1]]
        size = next(size for size in SIZES if size >= len(part))
        sql = f"SELECT message, data FROM zsmtp_content WHERE message IN ({listed(size)})"
        contents.update(connection.execute(sql, part + part[-1:] * (size - len(part))).fetchall())
    return contents


def review(
    connection: sqlite3.Connection,
    part: SitePart,
    after: tuple[int, int],
    *,
    limit: int,
    doubts: Collection[AttemptKey],
) -> list[Claimed]:
    """Recipients of queue keys and slots in order of their ids, with their messages.

    Few recipients are sorted from the index; many are found by a scan of the whole table, of which they are a large
    part.
    """
    wanted = json.dumps(list(part.keys))
    (few,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM zsmtp_recipient "
        "WHERE hold = 0 AND key IN (SELECT value FROM json_each(?)) LIMIT ?)",
        (wanted, _MANY),
    ).fetchone()
    claimed: list[Claimed] = []
    while len(claimed) < limit:
        sql = _REVIEW.format(
            "INDEXED BY zsmtp_work" if few < _MANY else "NOT INDEXED", of_slots("r.message", part.slots)
        )
        rows = connection.execute(sql, (wanted, *after, limit)).fetchall()
        found = [Claimed(recipient_from(row), message_from(row[len(RECIPIENT) :]), None) for row in rows]
        claimed += [one for one in found if one.recipient.next_attempt not in doubts]
        if len(rows) < limit:
            break
        after = rows[-1][0], rows[-1][1]
    return claimed[:limit]


def recipients(
    connection: sqlite3.Connection, attempts: Collection[AttemptKey]
) -> dict[AttemptKey, tuple[QueuedRecipient, QueuedMessage]]:
    """The recipients whose next attempt is one of these, with their messages."""
    found: dict[AttemptKey, tuple[QueuedRecipient, QueuedMessage]] = {}
    for marks, values in in_parts(list(attempts), 3):
        rows = connection.execute(
            f"WITH w (message, number, attempt) AS (VALUES {marks}) "
            f"SELECT w.attempt, {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM w "
            "CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
            "CROSS JOIN zsmtp_message m ON m.id = r.message WHERE r.attempts + 1 = w.attempt",
            values,
        )
        for attempt, *row in rows.fetchall():
            key = AttemptKey(row[0], row[1], attempt)
            found[key] = recipient_from(row), message_from(row[len(RECIPIENT) :])
    return found


def chunk(connection: sqlite3.Connection, message: int, part: int, size: int) -> bytes:
    """One chunk of the content of a message of ``size`` octets; raises QueueError if it does not exist."""
    sql = "SELECT data FROM zsmtp_content WHERE message = ? AND ? = 0"
    if part:
        sql = "SELECT data FROM zsmtp_content_part WHERE message = ? AND part = ?"
    row = connection.execute(sql, (message, part)).fetchone()
    there = connection.execute("SELECT size FROM zsmtp_message WHERE id = ?", (message,)).fetchone()
    if row is None or there is None:
        raise QueueError(f"message {message} is not there")
    if there[0] != size:
        raise QueueError(f"message {message} has {there[0]} octets, not {size}")
    data: bytes = row[0]
    if len(data) != min(CHUNK, size - part * CHUNK):
        raise QueueError(f"message {message} is damaged: part {part} has {len(data)} octets")
    return data


def owed(
    connection: sqlite3.Connection, busy: Collection[int], before: float, limit: int
) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
    """Messages with owed notices: those with no recipient in hand, or with notices owed since ``before``."""
    found: list[tuple[QueuedMessage, list[OwedNotice]]] = []
    after = 0
    while len(found) < limit:
        rows = connection.execute(
            "SELECT message, min(at) FROM zsmtp_owed WHERE message > ? GROUP BY message ORDER BY message LIMIT ?",
            (after, limit),
        ).fetchall()
        if not rows:
            break
        for message, at in rows:
            after = message
            if (message not in busy or at <= milliseconds(before)) and len(found) < limit:
                row = connection.execute(
                    f"SELECT {columns(MESSAGE)} FROM zsmtp_message WHERE id = ?", (message,)
                ).fetchone()
                if row is not None:
                    found.append((message_from(row), owed_of(connection, message, NOTICE_RECIPIENTS)))
    return found
