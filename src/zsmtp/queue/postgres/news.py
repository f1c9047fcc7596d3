"""Reads the changes since the last read of a node: by snapshots, so that none is missed.

Rows of a transaction that was open for long become visible late, after those of others. So a node stores the snapshot
of each read, and reads the rows that were not in it. A server that died reuses ids of transactions that it never wrote
down: after that the node reads all rows.
"""

from __future__ import annotations

from typing import NamedTuple

from zsmtp.queue.postgres.connect import Connection

_NEWS = """
SELECT pg_current_snapshot()::text || ' ' || zsmtp_incarnation(), n.keys, n.due, n.poked, n.rules
FROM (VALUES (1)) AS always (one)
LEFT JOIN zsmtp_news n
ON %(server)s <> zsmtp_incarnation() OR
(n.xid >= pg_snapshot_xmin(%(since)s::pg_snapshot) AND NOT pg_visible_in_snapshot(n.xid, %(since)s::pg_snapshot))
"""


class NewsRead(NamedTuple):
    """The changes: keys with the earliest due time (milliseconds), poked keys; and the snapshot of the read.

    The text of the snapshot has the start of the server after a space.
    """

    snapshot: str
    keys: dict[str, int]
    poked: set[str]
    rules: bool


def read_news(db: Connection, since: str) -> NewsRead:
    """The changes that were not in a snapshot."""
    snapshot_then, _, server = since.partition(" ")
    found = NewsRead("", {}, set(), False)
    for snapshot, keys, due, poked, rules in db.execute(_NEWS, {"since": snapshot_then, "server": server}).fetchall():
        found = found._replace(snapshot=snapshot, rules=found.rules or bool(rules))
        for key, at in zip(keys or (), due or (), strict=True):
            found.keys[key] = min(found.keys.get(key, at), at)
        found.poked.update(poked or ())
    return found
