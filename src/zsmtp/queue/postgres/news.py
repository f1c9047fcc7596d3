"""What became new or was changed since a node looked last: read by snapshots, so that nothing is missed.

Rows of a transaction that was open for long appear late, behind those of others. So a node remembers the snapshot with
which it looked, and asks for what that one did not have. A server that died uses ids of transactions again which it
never wrote down: after that all is read that is there.
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
    """What is new: keys with the earliest due time (milliseconds), keys that were poked; and the snapshot it is of.

    The snapshot has the start of the server behind a space.
    """

    snapshot: str
    keys: dict[str, int]
    poked: set[str]
    rules: bool


def read_news(db: Connection, since: str) -> NewsRead:
    """What a snapshot did not have."""
    snapshot_then, _, server = since.partition(" ")
    found = NewsRead("", {}, set(), False)
    for snapshot, keys, due, poked, rules in db.execute(_NEWS, {"since": snapshot_then, "server": server}).fetchall():
        found = found._replace(snapshot=snapshot, rules=found.rules or bool(rules))
        for key, at in zip(keys or (), due or (), strict=True):
            found.keys[key] = min(found.keys.get(key, at), at)
        found.poked.update(poked or ())
    return found
