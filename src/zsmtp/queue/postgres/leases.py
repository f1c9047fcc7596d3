"""The leases of nodes on sites and their parts, as rows: nodes, their leases, and the doubts that ended leases leave.

The rules are those of ``zsmtp.queue.leases``. Everything here runs in a writer's thread and within its transactions.
Only the database's clock decides whether a node's leases are valid. Takes are serialised by an advisory lock of the
transaction; every transaction that writes marks, results or changes for recipients of a lease locks its row, and so
does one that ends the lease or takes slots away from it. So no result is written after the next owner has read the
unsettled attempts.

The queue keys of a site with leases are one row each, with the site, for all its leases. They go with a lease of all
slots; rows that the last of several leases leaves count for nothing, and the next take that meets them deletes them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue.intake import clean
from zsmtp.queue.leases import VALID
from zsmtp.queue.moves import APART
from zsmtp.queue.postgres import claims
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.schema import require_release
from zsmtp.queue.postgres.transaction import WriteTransaction, attempts_from, one
from zsmtp.queue.slots import ALL, in_slots
from zsmtp.queue.sql import MESSAGE, RECIPIENT, columns, message_from, recipient_from
from zsmtp.queue.states import AttemptKey
from zsmtp.queue.store import Doubt, Lease

TAKES = "('zsmtp_id'::regclass::oid::bigint % 2147483647)::integer, 3"
"""The advisory lock of takes, as SQL."""
_ALIVE = "n.valid_until > zsmtp_clock()"
_SERVER_DIED = "n.incarnation IS DISTINCT FROM zsmtp_incarnation()"
_TRIES = 20  # to get the turn, and to lock leases
_PAUSE = 0.02  # seconds between them
_MOMENT = 0.005  # seconds between tries to lock leases
_IN_SLOTS = in_slots("r.message").format("l.slots")
NODES = f"SELECT count(*) FROM zsmtp_node n WHERE {_ALIVE} AND NOT n.draining"
"""The number of nodes that take leases, as SQL."""
PARTS_SINCE = "0.2.0"
"""The first release that knows parts of sites."""
SERVE_PARTS = f"NOT EXISTS (SELECT 1 FROM zsmtp_node n WHERE {_ALIVE} AND NOT n.parts)"
"""Whether all live nodes know parts of sites, as SQL: those of an earlier release do not."""


class Taking(NamedTuple):
    """A request of a node for leases on the sites of queue keys, with a limit.

    ``share``: no more than this node's share of all leases; it gets others if no node took them for a while.
    """

    node: int
    keys: Sequence[str]
    limit: int
    share: bool
    growing: Mapping[str, int]
    """Those of the keys that the node has already, with their leases: these get the free slots of their sites."""
    known: Collection[int] | None = None
    """The leases that the node knows of, if it may have others: from a take whose result was lost."""


class Joining(NamedTuple):
    """A process that becomes a node; ``node``: its number before, if its row was swept while it stood still."""

    name: str
    node: int = 0


class JoinedNode(NamedTuple):
    """A node, and the state of the queue that it read when it joined."""

    node: int
    snapshot: str


def join(transaction: WriteTransaction, requests: list[Joining]) -> list[JoinedNode]:
    """Become nodes."""
    return [_join(transaction, request) for request in requests]


def _join(transaction: WriteTransaction, request: Joining) -> JoinedNode:
    db = transaction.db
    node = request.node or int(one(db, "SELECT nextval('zsmtp_fence')"))
    db.execute(
        "INSERT INTO zsmtp_node (id, name, host, pid, joined, valid_until, incarnation, parts) VALUES "
        "(%s, %s, %s, %s, %s, zsmtp_clock() + make_interval(secs => %s), zsmtp_incarnation(), true) "
        "ON CONFLICT (id) DO NOTHING",
        (node, clean(request.name), clean(socket.gethostname()), os.getpid(), transaction.now, VALID),
    )
    return JoinedNode(node, str(one(db, "SELECT pg_current_snapshot()::text || ' ' || zsmtp_incarnation()")))


def leave(transaction: WriteTransaction, nodes: list[int]) -> list[list[int]]:
    """Remove nodes: their leases end, attempts with a mark are in doubt. Returns the leases."""
    answers = []
    for node in nodes:
        numbers = [
            number
            for (number,) in transaction.db.execute(
                "SELECT number FROM zsmtp_lease WHERE node = %s ORDER BY number FOR UPDATE", (node,)
            ).fetchall()
        ]
        _end(transaction, numbers)
        transaction.db.execute("DELETE FROM zsmtp_node WHERE id = %s", (node,))
        answers.append(numbers)
    return answers


# -------------------------------------------------------------------- taking


def take(transaction: WriteTransaction, requests: list[Taking]) -> list[list[Lease]]:
    """Lease sites without owner, and those whose owner is gone."""
    if not _has_turn(transaction.db):
        return [[] for _ in requests]
    _lapse(transaction)
    return [_take(transaction, request) for request in requests]


def _has_turn(db: Connection) -> bool:
    """Wait a moment for the takes of others, but not for one of a node that stands still: the server ends that one."""
    db.execute("SET LOCAL idle_in_transaction_session_timeout = '2s'")
    for _ in range(_TRIES):
        if one(db, f"SELECT pg_try_advisory_xact_lock({TAKES})"):
            return True
        time.sleep(_PAUSE)
    return False


def _take(transaction: WriteTransaction, request: Taking) -> list[Lease]:
    db = transaction.db
    orphans = _orphans(db)
    candidates = list(dict.fromkeys([*request.keys, *orphans]))
    standing = db.execute("SELECT draining FROM zsmtp_node WHERE id = %s FOR KEY SHARE", (request.node,)).fetchone()
    if standing is None:  # it left, or was swept
        return []
    sites = _sites(db, candidates)
    leased = _leases_of(db, set(sites.values()))
    mine = {lease.site: lease.number for lease in leased if lease.node == request.node}
    limit = 0 if standing[0] else request.limit
    if request.share and limit:
        limit = min(limit, _share(db, request.node, sum(site not in mine for site in sites.values())))
    free = dict.fromkeys(sites.values(), ALL)
    for lease in leased:
        free[lease.site] = free.get(lease.site, ALL) & ~lease.slots
    wanted: dict[str, list[str]] = {}
    for key in candidates:
        site = sites[key]
        if site in mine or site in wanted:
            wanted.setdefault(site, []).append(key)
        elif limit > 0 and free[site]:
            limit -= 1
            wanted[site] = [key]
    fresh = {site: free[site] for site in wanted if site not in mine}
    _delete_left_keys(db, candidates, list(fresh))
    for site, key in _members(db, fresh):
        wanted[site].append(key)
    leases = mine | _lease(db, request.node, fresh)
    _add_keys(db, [(key, leases[site], site) for site, keys in wanted.items() for key in dict.fromkeys(keys)])
    if not standing[0]:
        growing = {request.growing.get(key) for key in candidates} | {leases.get(sites[key]) for key in orphans}
        _grow(db, {number: free[site] for site, number in mine.items() if free[site] and number in growing})
    answered = [leases[site] for site in wanted]
    if request.known is not None:
        answered += _unknown(db, request.node, request.known)
    return read_leases(db, dict.fromkeys(answered))


def _lease(db: Connection, node: int, slots: Mapping[str, int]) -> dict[str, int]:
    """Lease slots of sites; returns the numbers of the leases."""
    numbers = dict(zip(slots, _numbers(db, len(slots)), strict=True))
    if slots:
        db.execute(
            "INSERT INTO zsmtp_lease (site, number, node, slots) "
            "SELECT w.site, w.number, %s, w.slots FROM unnest(%s::text[], %s::bigint[], %s::integer[]) "
            "AS w (site, number, slots)",
            (node, list(slots), list(numbers.values()), list(slots.values())),
        )
        _forget_reports(db, list(slots))
    return numbers


def _add_keys(db: Connection, rows: Sequence[tuple[str, int, str]]) -> None:
    """Add queue keys to leased sites: key, lease, site. Those of other leased sites stay there."""
    db.execute(
        "INSERT INTO zsmtp_lease_key (key, lease, site) SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[]) "
        "ON CONFLICT (key) DO NOTHING",
        ([key for key, _, _ in rows], [lease for _, lease, _ in rows], [site for _, _, site in rows]),
    )


def _unknown(db: Connection, node: int, known: Collection[int]) -> list[int]:
    """The leases of a node that it does not know of."""
    rows = db.execute(
        "SELECT number FROM zsmtp_lease WHERE node = %s AND number <> ALL(%s::bigint[])", (node, list(known))
    ).fetchall()
    return [number for (number,) in rows]


class _LeaseRow(NamedTuple):
    site: str
    number: int
    node: int
    slots: int


def _leases_of(db: Connection, sites: Collection[str]) -> list[_LeaseRow]:
    """All leases of sites."""
    rows = db.execute(
        "SELECT site, number, node, slots FROM zsmtp_lease WHERE site = ANY(%s::text[])", (list(sites),)
    ).fetchall()
    return [_LeaseRow(*row) for row in rows]


def _sites(db: Connection, keys: Sequence[str]) -> dict[str, str]:
    """The site of each queue key: the one it is leased with, else the stored one."""
    leased = dict(
        db.execute(
            "SELECT k.key, k.site FROM zsmtp_lease_key k WHERE k.key = ANY(%s::text[]) "
            "AND EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = k.site)",
            (list(keys),),
        ).fetchall()
    )
    stored = sites_of(db, [key for key in keys if key not in leased])
    return {key: leased.get(key) or stored.get(key, key) for key in keys}


def _delete_left_keys(db: Connection, keys: Sequence[str], sites: Sequence[str]) -> None:
    """Delete the rows of queue keys whose site has no lease any more: those of these keys, and of these sites."""
    db.execute(
        "DELETE FROM zsmtp_lease_key k WHERE (k.key = ANY(%s::text[]) OR k.site = ANY(%s::text[])) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = k.site)",
        (list(keys), list(sites)),
    )


def _grow(db: Connection, slots: dict[int, int]) -> None:
    """Add free slots to leases, except those that a transaction of their node has locked for longer than a moment.

    That transaction may wait for the end of this one.
    """
    for _ in range(_TRIES):
        if not slots:
            return
        done = db.execute(
            "WITH w (number, slots) AS (SELECT * FROM unnest(%s::bigint[], %s::integer[])), "
            "l AS (SELECT number FROM zsmtp_lease WHERE number IN (SELECT number FROM w) "
            "FOR NO KEY UPDATE SKIP LOCKED) "
            "UPDATE zsmtp_lease t SET slots = t.slots | w.slots FROM l JOIN w ON w.number = l.number "
            "WHERE t.number = l.number RETURNING t.number",
            (list(slots), list(slots.values())),
        ).fetchall()
        slots = {number: mask for number, mask in slots.items() if (number,) not in done}
        time.sleep(_MOMENT if slots else 0)


def _forget_reports(db: Connection, sites: Sequence[str]) -> None:
    """Delete what nodes reported of sites that only others serve now."""
    db.execute(
        "DELETE FROM zsmtp_part_status s WHERE s.site = ANY(%s::text[]) "
        "AND EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = s.site) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = s.site AND l.node = s.node)",
        (list(sites),),
    )


def _share(db: Connection, node: int, requested: int) -> int:
    """How many leases a node may take within its share of all leases, the requested ones included."""
    row = db.execute(
        "SELECT (SELECT count(*) FROM zsmtp_lease), (SELECT count(*) FROM zsmtp_lease WHERE node = %s), "
        f"({NODES})".encode(),
        (node,),
    ).fetchone()
    assert row is not None
    total, mine, nodes = row
    return max(-(-(int(total) + requested) // max(int(nodes), 1)) - int(mine), 0)


def read_leases(db: Connection, numbers: Iterable[int]) -> list[Lease]:
    """Leases as values, with the doubts of their keys and slots."""
    given = (list(numbers),)
    found: dict[int, tuple[str, int]] = {}
    keys: dict[int, list[str]] = {}
    for number, site, slots, key in db.execute(
        "SELECT l.number, l.site, l.slots, k.key FROM zsmtp_lease l LEFT JOIN zsmtp_lease_key k ON k.site = l.site "
        "WHERE l.number = ANY(%s::bigint[]) ORDER BY k.key",
        given,
    ).fetchall():
        found[number] = site, slots
        keys.setdefault(number, []).extend([key] if key is not None else [])
    doubts: dict[int, list[Doubt]] = {number: [] for number in found}
    rows = db.execute(
        f"SELECT l.number, d.machine, {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM zsmtp_doubt d "
        "JOIN zsmtp_recipient r ON r.message = d.message AND r.number = d.number AND r.attempts + 1 = d.attempt "
        "JOIN zsmtp_message m ON m.id = r.message JOIN zsmtp_lease_key k ON k.key = r.key "
        f"JOIN zsmtp_lease l ON l.site = k.site AND {_IN_SLOTS} "
        "WHERE l.number = ANY(%s::bigint[]) ORDER BY d.message, d.number",
        given,
    ).fetchall()
    for number, machine, *row in rows:
        doubt = Doubt(recipient_from(row), message_from(row[len(RECIPIENT) :]), machine)
        doubts[number].append(doubt)
    return [
        Lease(number, found[number][0], tuple(keys[number]), tuple(doubts[number]), found[number][1])
        for number in given[0]
        if number in found
    ]


def _numbers(db: Connection, many: int) -> list[int]:
    rows = db.execute("SELECT nextval('zsmtp_fence') FROM generate_series(1, %s)", (many,)).fetchall()
    return sorted(number for (number,) in rows)


def _orphans(db: Connection) -> list[str]:
    """The queue keys with doubts that no lease has."""
    rows = db.execute(
        "SELECT DISTINCT r.key FROM zsmtp_doubt d "
        "JOIN zsmtp_recipient r ON r.message = d.message AND r.number = d.number AND r.attempts + 1 = d.attempt "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_lease_key k JOIN zsmtp_lease l ON l.site = k.site "
        f"WHERE k.key = r.key AND {_IN_SLOTS}) ORDER BY 1".encode()
    )
    return [key for (key,) in rows.fetchall()]


def sites_of(db: Connection, keys: Collection[str]) -> dict[str, str]:
    """The stored sites of queue keys."""
    return dict(db.execute("SELECT key, site FROM zsmtp_site WHERE key = ANY(%s::text[])", (list(keys),)).fetchall())


def _members(db: Connection, sites: Collection[str]) -> list[tuple[str, str]]:
    """The other keys of sites, with recipients that are not held, that belong to no lease: site, key."""
    if not sites:
        return []
    learned = db.execute("SELECT site, key FROM zsmtp_site WHERE site = ANY(%s::text[])", (list(sites),)).fetchall()
    elsewhere = sites_of(db, sites)
    found = learned + [(site, site) for site in sites if elsewhere.get(site, site) == site]
    work = claims.agenda(db, [key for _, key in found])
    return [(site, key) for site, key in found if key in work]


# -------------------------------------------------------------------- ending


def _lapse(transaction: WriteTransaction) -> None:
    """End the leases of nodes without recent heartbeats; a locked row is left for the next call."""
    rows = transaction.db.execute(
        "SELECT l.number FROM zsmtp_lease l WHERE NOT EXISTS "
        f"(SELECT 1 FROM zsmtp_node n WHERE n.id = l.node AND {_ALIVE}) "
        "ORDER BY l.number FOR UPDATE OF l SKIP LOCKED"
    )
    _end(transaction, [number for (number,) in rows.fetchall()])


def _end(transaction: WriteTransaction, numbers: Collection[int]) -> None:
    """End leases whose rows are locked; attempts with a mark, or in hand when the server died, are in doubt then."""
    if not numbers:
        return
    db = transaction.db
    given = (list(numbers),)
    parts = "u.message, u.number, u.attempt"
    for table, machine, condition in (
        ("zsmtp_mark", "false", "true"),
        ("zsmtp_in_hand", "true", _SERVER_DIED),
    ):
        db.execute(
            f"INSERT INTO zsmtp_doubt (message, number, attempt, machine) SELECT DISTINCT ON (u.message, u.number) "
            f"{parts}, {machine} FROM {table} t JOIN zsmtp_lease l ON l.number = t.lease "
            "LEFT JOIN zsmtp_node n ON n.id = l.node "
            "CROSS JOIN LATERAL unnest(t.messages, t.numbers, t.attempts) AS u (message, number, attempt) "
            "JOIN zsmtp_recipient r ON r.message = u.message AND r.number = u.number AND r.attempts + 1 = u.attempt "
            f"WHERE t.lease = ANY(%s::bigint[]) AND {condition} AND r.hold >= {APART} "  # no mark is given below it
            "ON CONFLICT (message, number) DO UPDATE SET attempt = excluded.attempt, "
            "machine = zsmtp_doubt.machine AND excluded.machine",
            given,
        )
    drop(db, numbers)


def drop(db: Connection, numbers: Iterable[int]) -> None:
    """Delete leases, with the rows under their numbers."""
    given = (list(numbers),)
    for table in ("zsmtp_mark", "zsmtp_in_hand"):
        db.execute(f"DELETE FROM {table} WHERE lease = ANY(%s::bigint[])".encode(), given)
    ended = db.execute(
        "DELETE FROM zsmtp_lease WHERE number = ANY(%s::bigint[]) RETURNING site, slots", given
    ).fetchall()
    db.execute(  # after parts they stay: other transactions may be ending or making leases of the site
        "DELETE FROM zsmtp_lease_key WHERE site = ANY(%s::text[])", ([site for site, slots in ended if slots == ALL],)
    )
    if parts := [site for site, slots in ended if slots != ALL]:
        _forget_reports(db, parts)


def shed(db: Connection, number: int, slots: int) -> None:
    """Take slots away from a lease whose row is locked.

    Programs of earlier releases do not know that a site may have several leases: the database names the oldest one that
    may use it from now on. Raises QueueError while a node with such a program lives.
    """
    if not one(db, f"SELECT {SERVE_PARTS}"):
        raise QueueError("a node of an earlier release is alive, which serves whole sites only")
    require_release(db, PARTS_SINCE)
    db.execute("UPDATE zsmtp_lease SET slots = slots & ~%s WHERE number = %s", (slots, number))


class LockedLeases(NamedTuple):
    """Locked leases, and the state that was read after the lock."""

    owned: dict[int, int]
    """The leases that the node still has, with their slots."""
    seconds_left: float | None
    """For how long the node's leases are valid; None: it is no node any more."""
    same_server: bool
    """Whether the server has not restarted since the node read its start."""
    recipients: list[tuple[Any, ...]]
    """Rows of ``zsmtp_current``, for existing recipients."""


def lock(
    transaction: WriteTransaction, numbers: Collection[int], node: int, places: Iterable[tuple[int, int]] = ()
) -> LockedLeases:
    """Lock leases of a node for this transaction, then read the node's state and recipients: one round trip."""
    wanted = list(places)
    rows = transaction.ask(
        "SELECT * FROM zsmtp_lock_parts(%s, %s::bigint[], %s::bigint[], %s::integer[])",
        (node, sorted(numbers), [place[0] for place in wanted], [place[1] for place in wanted]),
    )
    owned, slots, seconds_left, same_server = rows[0][:4]
    recipients = [row[4:] for row in rows if row[4] is not None]
    return LockedLeases(dict(zip(owned, slots, strict=True)), seconds_left, bool(same_server), recipients)


def lock_keys(transaction: WriteTransaction, keys: Collection[str]) -> None:
    """Lock all leases of the sites of queue keys, of any node, and prevent new ones during this transaction."""
    transaction.db.execute(f"SELECT pg_advisory_xact_lock_shared({TAKES})")
    transaction.db.execute(
        "SELECT number FROM zsmtp_lease WHERE site IN "
        "(SELECT site FROM zsmtp_lease_key WHERE key = ANY(%s::text[])) ORDER BY number FOR NO KEY UPDATE",
        (list(keys),),
    ).fetchall()


def perhaps_sent(db: Connection, places: Sequence[tuple[int, int]]) -> set[AttemptKey]:
    """Attempts of some recipients without a result: with a mark, in doubt, or perhaps with a lost mark.

    The last are the attempts in hand when the server died, until their node wrote its marks again.
    """
    messages, numbers = [place[0] for place in places], [place[1] for place in places]
    rows = db.execute(
        "WITH w (message, number) AS MATERIALIZED (SELECT * FROM unnest(%s::bigint[], %s::integer[])), "
        "t AS (SELECT messages, numbers, attempts FROM zsmtp_mark "
        "UNION ALL SELECT h.messages, h.numbers, h.attempts FROM zsmtp_in_hand h "
        "LEFT JOIN zsmtp_lease l ON l.number = h.lease LEFT JOIN zsmtp_node n ON n.id = l.node "
        f"WHERE {_SERVER_DIED}) "
        "SELECT u.message, u.number, u.attempt FROM t "
        "CROSS JOIN LATERAL unnest(t.messages, t.numbers, t.attempts) AS u (message, number, attempt) "
        "JOIN w ON w.message = u.message AND w.number = u.number "
        "UNION SELECT d.message, d.number, d.attempt FROM zsmtp_doubt d "
        "JOIN w ON w.message = d.message AND w.number = d.number".encode(),
        (messages, numbers),
    )
    return set(attempts_from(rows.fetchall()))
