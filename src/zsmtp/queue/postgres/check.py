"""Finds inconsistencies in the database of a queue, while it is in use.

Each query reads one state of the database. A finding is a sentence; a consistent queue has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import BY_COMMAND, CHUNK
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.sql import ARRIVING, ENDED

_MOST = 100  # findings of one kind

# A query for ids that must not exist, and the finding for each.
_IDS = (
    (
        "SELECT DISTINCT r.message FROM zsmtp_recipient r WHERE NOT EXISTS "
        "(SELECT 1 FROM zsmtp_message m WHERE m.id = r.message) AND NOT EXISTS "
        "(SELECT 1 FROM zsmtp_upload u WHERE u.message = r.message AND NOT u.accepted)",
        "recipients of message {} have no message",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE NOT EXISTS (SELECT 1 FROM zsmtp_content c WHERE c.message = m.id) "
        "AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has no content",
    ),
    (
        "SELECT m.id FROM zsmtp_message m LEFT JOIN zsmtp_body b ON b.message = m.id "
        f"WHERE coalesce(b.first::bigint * {CHUNK}, m.size) <> "
        "(SELECT coalesce(sum(length(c.data)), 0) FROM zsmtp_content c WHERE c.message = m.id) "
        "AND EXISTS (SELECT 1 FROM zsmtp_content c WHERE c.message = m.id) "
        "AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has content of another size than its own",
    ),
    (
        "SELECT c.message FROM zsmtp_content c JOIN zsmtp_message m ON m.id = c.message "
        f"WHERE length(c.data) <> least({CHUNK}, m.size - c.part::bigint * {CHUNK})",
        "message {} has content in parts of a wrong size",
    ),
    (
        "SELECT b.message FROM zsmtp_body b WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = b.message) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = b.message)",
        "the file of message {} has no message",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE NOT EXISTS (SELECT 1 FROM zsmtp_recipient r WHERE r.message = m.id) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_owed o WHERE o.message = m.id) "
        "AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has neither recipients nor notices that are owed",
    ),
    (
        "SELECT DISTINCT c.message FROM zsmtp_content c "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = c.message) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = c.message AND NOT u.accepted)",
        "content {} has no message",
    ),
    (
        "SELECT DISTINCT o.message FROM zsmtp_owed o "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = o.message)",
        "notices are owed for message {}, which does not exist",
    ),
    (
        f"SELECT DISTINCT r.message FROM zsmtp_recipient r WHERE r.hold <> 0 AND r.hold = {ARRIVING} "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = r.message)",
        "recipients of message {} were never released after its upload",
    ),
    (
        "SELECT DISTINCT r.message FROM zsmtp_recipient r WHERE r.hold <> 0 AND r.hold > 0 "
        f"AND r.hold <> {BY_COMMAND} AND NOT EXISTS (SELECT 1 FROM zsmtp_rule u WHERE u.number = r.hold)",
        "recipients of message {} are held by a rule that does not exist",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE m.id > (SELECT last_value FROM zsmtp_id)",
        "message {} has an id that was not given yet",
    ),
)

Question = Callable[[Connection], list[str]]


def questions(shard: int) -> Iterator[Question]:
    """All queries; each is for one transaction."""
    for sql, sentence in _IDS:
        yield partial(_ids, sql=sql, sentence=sentence, shard=shard)
    yield _counters
    yield _marks
    yield _slots


def _ids(db: Connection, *, sql: str, sentence: str, shard: int) -> list[str]:
    rows = db.execute(f"{sql} LIMIT {_MOST}".encode())
    return [sentence.format(to_text(number, shard)) for (number,) in rows.fetchall()]


def _counters(db: Connection) -> list[str]:
    row = db.execute(
        "SELECT coalesce(sum(u.amount) FILTER (WHERE u.name = 'accepted'), 0), "
        f"coalesce(sum(u.amount) FILTER (WHERE u.name IN {ENDED}), 0), "
        "(SELECT count(*) FROM zsmtp_recipient WHERE message NOT IN "
        "(SELECT message FROM zsmtp_upload WHERE NOT accepted)) "
        "FROM zsmtp_counter c, unnest(c.names, c.amounts) AS u (name, amount)"
    ).fetchone()
    assert row is not None
    accepted, ends, there = row
    if accepted == ends + there:
        return []
    return [f"{accepted} recipients were accepted, but {ends} have ends and {there} are there"]


def _marks(db: Connection) -> list[str]:
    findings = []
    for table, what in (("zsmtp_mark", "marks"), ("zsmtp_in_hand", "lists of what is in hand")):
        rows = db.execute(
            f"SELECT DISTINCT t.lease FROM {table} t WHERE NOT EXISTS "
            f"(SELECT 1 FROM zsmtp_lease l WHERE l.number = t.lease) LIMIT {_MOST}".encode()
        )
        findings += [f"{what} are of lease {number}, which does not exist" for (number,) in rows.fetchall()]
    rows = db.execute(
        "SELECT t.lease, t.mark FROM zsmtp_mark t WHERE NOT EXISTS (SELECT 1 FROM "
        "unnest(t.messages, t.numbers, t.attempts) AS u (message, number, attempt) JOIN zsmtp_recipient r "
        "ON r.message = u.message AND r.number = u.number AND r.attempts + 1 = u.attempt) "
        f"LIMIT {_MOST}".encode()
    )
    return findings + [
        f"mark {mark} of lease {lease} is of attempts that are all settled" for lease, mark in rows.fetchall()
    ]


def _slots(db: Connection) -> list[str]:
    rows = db.execute(
        "SELECT site FROM zsmtp_lease GROUP BY site HAVING sum(slots) <> bit_or(slots) "
        f"ORDER BY site LIMIT {_MOST}".encode()
    )
    return [f"leases of {site} have the same slots" for (site,) in rows.fetchall()]
