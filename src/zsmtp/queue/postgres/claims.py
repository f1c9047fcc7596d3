"""Queries for delivery: the keys with work, the first due times, the recipients and contents to send.

Each function is one query on a connection. Its cost does not grow with the size of the queue: it walks the index of
sub-queues by skipping from one key, tenant and rank to the next, and claims begin after a position.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zsmtp.errors import QueueError
from zsmtp.queue.limits import CHUNK, NOTICE_RECIPIENTS
from zsmtp.queue.postgres import bodies
from zsmtp.queue.postgres.bodies import BodyFile
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.transaction import in_columns
from zsmtp.queue.slots import SitePart, of_slots
from zsmtp.queue.sql import (
    MESSAGE,
    OWED,
    RECIPIENT,
    ClaimBounds,
    columns,
    message_from,
    owed_from,
    recipient_from,
    within,
)
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
from zsmtp.queue.store import Claimed, Head

_DUE = RECIPIENT.index("due")
_ATTEMPTS = RECIPIENT.index("attempts")

_HEADS = """
WITH RECURSIVE
wanted (key) AS (SELECT DISTINCT unnest(%s::text[]) COLLATE "C"),
t (key, tenant) AS (
    SELECT w.key, (SELECT r.tenant FROM zsmtp_recipient r WHERE r.hold = 0 AND r.key = w.key
        ORDER BY r.key, r.tenant LIMIT 1) FROM wanted w
    UNION ALL
    SELECT t.key, (SELECT r.tenant FROM zsmtp_recipient r WHERE r.hold = 0 AND r.key = t.key AND r.tenant > t.tenant
        ORDER BY r.key, r.tenant LIMIT 1) FROM t WHERE t.tenant IS NOT NULL
),
k (key, tenant, rank) AS (
    SELECT t.key, t.tenant, (SELECT r.rank FROM zsmtp_recipient r
        WHERE r.hold = 0 AND r.key = t.key AND r.tenant = t.tenant
        ORDER BY r.key, r.tenant, r.rank LIMIT 1) FROM t WHERE t.tenant IS NOT NULL
    UNION ALL
    SELECT k.key, k.tenant, (SELECT r.rank FROM zsmtp_recipient r
        WHERE r.hold = 0 AND r.key = k.key AND r.tenant = k.tenant AND r.rank > k.rank
        ORDER BY r.key, r.tenant, r.rank LIMIT 1) FROM k WHERE k.rank IS NOT NULL
)
SELECT k.key, k.tenant, k.rank, (SELECT r.due FROM zsmtp_recipient r
    WHERE r.hold = 0 AND r.key = k.key AND r.tenant = k.tenant AND r.rank = k.rank
    ORDER BY r.key, r.tenant, r.rank, r.due LIMIT 1) AS due
FROM k WHERE k.rank IS NOT NULL ORDER BY 1, 2, 3
"""

_KEYS_WITH_WORK = """
WITH RECURSIVE k (key) AS (
    (SELECT key FROM zsmtp_recipient WHERE hold = 0 AND key > %s COLLATE "C" ORDER BY key LIMIT 1)
    UNION ALL
    SELECT (SELECT r.key FROM zsmtp_recipient r WHERE r.hold = 0 AND r.key > k.key ORDER BY r.key LIMIT 1)
    FROM k WHERE k.key IS NOT NULL
)
SELECT key FROM k WHERE key IS NOT NULL LIMIT %s
"""

_CLAIM = f"""
SELECT {columns(RECIPIENT, "r")}, {columns(MESSAGE, "m")}
FROM (SELECT * FROM zsmtp_recipient
    WHERE hold = 0 AND key = %s AND tenant = %s AND rank = %s AND (due, message, number) > (%s, %s, %s) AND due <= %s
    {{}} ORDER BY key, tenant, rank, due, message, number LIMIT %s) r
JOIN zsmtp_message m ON m.id = r.message
ORDER BY r.due, r.message, r.number
"""

_NEXT = """
SELECT due, message, number FROM zsmtp_recipient
WHERE hold = 0 AND key = %s AND tenant = %s AND rank = %s AND (due, message, number) > (%s, %s, %s)
{} ORDER BY key, tenant, rank, due, message, number LIMIT 1
"""

_REVIEW = f"""
SELECT {columns(RECIPIENT, "r")}, {columns(MESSAGE, "m")}
FROM (SELECT * FROM zsmtp_recipient WHERE hold = 0 AND key = ANY(%s::text[]) AND (message, number) > (%s, %s)
    {{}} ORDER BY message, number LIMIT %s) r
JOIN zsmtp_message m ON m.id = r.message
ORDER BY r.message, r.number
"""


def heads(db: Connection, keys: Collection[str]) -> list[Head]:
    """The sub-queues of queue keys, and the due time of the first recipient of each."""
    rows = db.execute(_HEADS, (list(keys),)).fetchall()
    return [Head(SubQueue(key, tenant, rank), due / 1000) for key, tenant, rank, due in rows if due is not None]


def keys_with_work(db: Connection, after: str | None, limit: int) -> list[str]:
    """Queue keys with recipients that are not held, in order, after one (None: from the first)."""
    sql = _KEYS_WITH_WORK if after is not None else _KEYS_WITH_WORK.replace("key > ", "key >= ", 1)
    return [key for (key,) in db.execute(sql, (after or "", limit)).fetchall()]


def agenda(db: Connection, keys: Collection[str]) -> dict[str, float]:
    """The due time of the first recipient of each queue key that has any."""
    found: dict[str, float] = {}
    for head in heads(db, keys):
        key = head.sub_queue.key
        found[key] = min(found.get(key, head.due), head.due)
    return found


def _of(statement: str, slots: int) -> bytes:
    """A statement for the recipients of slots."""
    return statement.format(of_slots("message", slots)).encode()


def claim(
    db: Connection, sub_queue: SubQueue, after: Position, now: float, bounds: ClaimBounds
) -> tuple[list[Claimed], float | None]:
    """Due recipients, with their messages and small contents; and the due time of the next one after them."""
    position = (milliseconds(after.due), after.message, after.number)
    rows = _due(db, sub_queue, position, milliseconds(now), bounds)
    messages, small, count = within(rows, bounds.octets)
    contents = _contents(db, small)
    next_due = _next_due(db, sub_queue, _place(rows[count - 1]) if count else position, bounds)
    claimed = []
    for row in rows[:count]:
        message = messages[row[0]]
        if message.size <= CHUNK and row[0] not in contents:
            continue  # it ended during the read
        claimed.append(Claimed(recipient_from(row), message, contents.get(row[0])))
    return claimed, next_due


_Place = tuple[int, int, int]  # due, message, number


def _place(row: tuple[Any, ...]) -> _Place:
    return row[_DUE], row[0], row[1]


def _due(db: Connection, sub_queue: SubQueue, after: _Place, now: int, bounds: ClaimBounds) -> list[tuple[Any, ...]]:
    """The rows after a place that are due and not in doubt."""
    found: list[tuple[Any, ...]] = []
    statement, doubts = _of(_CLAIM, bounds.slots), bounds.doubts
    while (missing := bounds.limit - len(found)) > 0:
        rows = db.execute(statement, (*sub_queue, *after, now, missing)).fetchall()
        found += [row for row in rows if (row[0], row[1], row[_ATTEMPTS] + 1) not in doubts] if doubts else rows
        if len(rows) < missing:
            break
        after = _place(rows[-1])
    return found


def _next_due(db: Connection, sub_queue: SubQueue, after: _Place, bounds: ClaimBounds) -> float | None:
    """The due time of the next one after a place that is not in doubt."""
    in_doubt = {attempt[:2] for attempt in bounds.doubts}
    statement = _of(_NEXT, bounds.slots)
    while (row := db.execute(statement, (*sub_queue, *after)).fetchone()) is not None:
        if tuple(row[1:]) not in in_doubt:
            return seconds(row[0])
        after = row
    return None


def _contents(db: Connection, messages: list[int]) -> dict[int, bytes]:
    if not messages:
        return {}
    sql = "SELECT message, data FROM zsmtp_content WHERE message = ANY(%s::bigint[]) AND part = 0"
    return dict(db.cursor(binary=True).execute(sql, (messages,)).fetchall())


def review(
    db: Connection,
    part: SitePart,
    after: tuple[int, int],
    *,
    limit: int,
    doubts: Collection[AttemptKey],
) -> list[Claimed]:
    """Recipients of queue keys and slots in order of their ids, with their messages."""
    claimed: list[Claimed] = []
    while len(claimed) < limit:
        rows = db.execute(_of(_REVIEW, part.slots), (list(part.keys), *after, limit)).fetchall()
        found = [Claimed(recipient_from(row), message_from(row[len(RECIPIENT) :]), None) for row in rows]
        claimed += [one for one in found if one.recipient.next_attempt not in doubts]
        if len(rows) < limit:
            break
        after = rows[-1][0], rows[-1][1]
    return claimed[:limit]


def recipients(
    db: Connection, attempts: Collection[AttemptKey]
) -> dict[AttemptKey, tuple[QueuedRecipient, QueuedMessage]]:
    """The recipients whose next attempt is one of these, with their messages."""
    rows = db.execute(
        f"SELECT w.attempt, {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} "
        "FROM unnest(%s::bigint[], %s::integer[], %s::integer[]) AS w (message, number, attempt) "
        "JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
        "JOIN zsmtp_message m ON m.id = r.message WHERE r.attempts + 1 = w.attempt",
        in_columns(attempts),
    ).fetchall()
    return {
        AttemptKey(row[0], row[1], attempt): (recipient_from(row), message_from(row[len(RECIPIENT) :]))
        for attempt, *row in rows
    }


def chunk(db: Connection, message: int, part: int, size: int) -> bytes | BodyFile:
    """One chunk of the content of a message of ``size`` octets, or the file with all from there on.

    Raises QueueError if neither exists.
    """
    row = (
        db.cursor(binary=True)
        .execute(
            "SELECT m.size, c.data FROM zsmtp_message m LEFT JOIN zsmtp_content c ON c.message = m.id AND c.part = %s "
            "WHERE m.id = %s",
            (part, message),
        )
        .fetchone()
    )
    end = bodies.end_of(db, message, part, size) if row is not None and row[1] is None else None
    if row is None or (row[1] is None and end is None):
        raise QueueError(f"message {message} is not there")
    if row[0] != size:
        raise QueueError(f"message {message} has {row[0]} octets, not {size}")
    if end is not None:
        return end
    data: bytes = row[1]
    if len(data) != min(CHUNK, size - part * CHUNK):
        raise QueueError(f"message {message} is damaged: part {part} has {len(data)} octets")
    return data


def owed(db: Connection, before: float, limit: int) -> list[tuple[QueuedMessage, list[OwedNotice]]]:
    """Messages with owed notices: those with no recipient in hand, or with notices owed since ``before``."""
    busy = {message for (message,) in db.execute("SELECT DISTINCT unnest(messages) FROM zsmtp_in_hand").fetchall()}
    found: list[tuple[QueuedMessage, list[OwedNotice]]] = []
    after = 0
    while len(found) < limit:
        rows = db.execute(
            "SELECT message, min(at) FROM zsmtp_owed WHERE message > %s GROUP BY message ORDER BY message LIMIT %s",
            (after, limit),
        ).fetchall()
        if not rows:
            break
        for message, at in rows:
            after = message
            if (message not in busy or at <= milliseconds(before)) and len(found) < limit:
                row = db.execute(f"SELECT {columns(MESSAGE)} FROM zsmtp_message WHERE id = %s", (message,)).fetchone()
                if row is not None:
                    found.append((message_from(row), _owed_of(db, message)))
    return found


def _owed_of(db: Connection, message: int) -> list[OwedNotice]:
    rows = db.execute(
        f"SELECT {columns(OWED)} FROM zsmtp_owed WHERE message = %s ORDER BY number, kind LIMIT %s",
        (message, NOTICE_RECIPIENTS),
    )
    return [owed_from(row) for row in rows.fetchall()]
