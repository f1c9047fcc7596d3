"""What became new or was changed since a node looked last: read by snapshots, so that nothing is missed.

Rows of a transaction that was open for long appear late, behind those of others. So a node remembers the snapshot with
which it looked, and asks for what that one did not have.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.queue.postgres.connect import Connection

_NEWS = """
SELECT pg_current_snapshot()::text, n.keys, n.due, n.poked, n.rules
FROM (VALUES (1)) AS always (one)
LEFT JOIN zsmtp_news n
ON n.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot) AND NOT pg_visible_in_snapshot(n.xid, %(since)s::pg_snapshot)
"""


class NewsRead(NamedTuple):
    """What is new: keys with the earliest due time (milliseconds), keys that were poked; and the snapshot it is of."""

    snapshot: str
    keys: dict[str, int]
    poked: set[str]
    rules: bool


def read_news(db: Connection, since: str) -> NewsRead:
    """What a snapshot did not have."""
    found = NewsRead("", {}, set(), False)
    for snapshot, keys, due, poked, rules in db.execute(_NEWS, {"since": since}).fetchall():
        found = found._replace(snapshot=snapshot, rules=found.rules or bool(rules))
        for key, at in zip(keys or (), due or (), strict=True):
            found.keys[key] = min(found.keys.get(key, at), at)
        found.poked.update(poked or ())
    return found
