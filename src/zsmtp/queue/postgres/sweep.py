"""Housekeeping, in pieces: deletes data that is out of use, and releases the recipients of large uploads.

Each function is a piece in a transaction of the writer and returns how many rows it removed. Nothing here has to be
durable: the next sweep repeats work that a crash undoes. Any number of nodes may sweep at the same time: rows that
another one has locked are skipped.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from psycopg import errors

from zsmtp.queue import quotas
from zsmtp.queue.ids import EPOCH, LOW_BITS
from zsmtp.queue.limits import KEYS_KEPT, PART_RECIPIENTS, UPLOAD_WAIT
from zsmtp.queue.postgres import bodies, leases
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.schema import make_days
from zsmtp.queue.postgres.suppressing import end_suppressed
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.sql import ARRIVING
from zsmtp.queue.states import milliseconds

NEWS_KEPT = 300.0
"""Seconds that news are kept for slow nodes; one that read none for longer has lost its leases."""
_NODES_KEPT = 3600.0  # seconds that a node is listed after its death
_MESSAGES = 200
_CHUNKS = 64  # of 256 KiB
_KEYS = 500
_COUNTERS = 20_000


class SweepMemory:
    """The state of a store between sweeps."""

    def __init__(self) -> None:
        self.message = 0
        """Behind which message the search for idempotency keys that are too old goes on."""
        self.snapshots: list[tuple[float, str]] = []
        """Snapshots of the database, by the time they were made."""
        self.files: list[str] = []
        """Files of bodies whose rows are deleted, to be removed."""
        self.unnamed: dict[str, float] = {}
        """Files without a row, and since when they are known, by the clock of the database."""
        self.listed = float("-inf")
        """When they were looked for last, by the same clock."""


class PieceOfSweep(NamedTuple):
    """A piece of housekeeping at a time."""

    now: float
    history_kept: float
    memory: SweepMemory


def uploads(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete uploads without a part for an hour."""
    db = transaction.db
    before = milliseconds(pieces[0].now - UPLOAD_WAIT)
    rows = db.execute(
        "SELECT message FROM zsmtp_upload WHERE NOT accepted AND touched <= %s LIMIT %s FOR UPDATE SKIP LOCKED",
        (before, _MESSAGES),
    ).fetchall()
    done = 0
    for (message,) in rows:
        db.execute("UPDATE zsmtp_upload SET touched = 0 WHERE message = %s", (message,))  # it accepts no more parts
        removed = _delete_recipients(db, message) + _delete_content(db, message)
        if not removed:
            db.execute("DELETE FROM zsmtp_upload WHERE message = %s", (message,))
            _remove_later(transaction, pieces, bodies.forget(db, message))
        done += removed + 1
        if removed >= _CHUNKS:
            break
    return _first(done, pieces)


def finished(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete messages without recipients and owed notices."""
    db = transaction.db
    rows = db.execute(
        "DELETE FROM zsmtp_maybe_finished WHERE ctid IN "
        "(SELECT ctid FROM zsmtp_maybe_finished LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING message",
        (_MESSAGES,),
    ).fetchall()
    done = len(rows)
    for message in {message for (message,) in rows}:
        left = one(
            db,
            "SELECT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = %s) "
            "OR EXISTS (SELECT 1 FROM zsmtp_owed WHERE message = %s)",
            message,
            message,
        )
        if left:
            continue
        removed = _delete_content(db, message)
        done += removed
        if removed >= _CHUNKS:
            db.execute("INSERT INTO zsmtp_maybe_finished (message) VALUES (%s)", (message,))
        else:
            db.execute("DELETE FROM zsmtp_message WHERE id = %s", (message,))
            _remove_later(transaction, pieces, bodies.forget(db, message))
    return _first(done, pieces)


def lost_bodies(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete the rows of files whose message an earlier program has deleted."""
    names = bodies.forget_lost(transaction.db)
    _remove_later(transaction, pieces, names)
    return _first(len(names), pieces)


def _remove_later(transaction: WriteTransaction, pieces: list[PieceOfSweep], names: list[str]) -> None:
    """Have files removed after the commit."""
    if names:
        transaction.afterwards(lambda: pieces[0].memory.files.extend(names))


def _delete_recipients(db: Connection, message: int) -> int:
    return db.execute(
        "DELETE FROM zsmtp_recipient WHERE (message, number) IN "
        "(SELECT message, number FROM zsmtp_recipient WHERE message = %s LIMIT %s)",
        (message, PART_RECIPIENTS),
    ).rowcount


def _delete_content(db: Connection, message: int) -> int:
    """Delete some chunks of a message, the last ones first."""
    return db.execute(
        "DELETE FROM zsmtp_content WHERE (message, part) IN "
        "(SELECT message, part FROM zsmtp_content WHERE message = %s ORDER BY part DESC LIMIT %s)",
        (message, _CHUNKS),
    ).rowcount


def idempotency(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete idempotency keys of messages whose last end was a week ago."""
    db = transaction.db
    piece = pieces[0]
    before = milliseconds(piece.now - KEYS_KEPT)
    last = max(before - EPOCH * 1000 + 1, 0) << LOW_BITS
    rows = db.execute(
        "SELECT tenant, key, message FROM zsmtp_idempotency WHERE message > %s AND message < %s "
        "ORDER BY message LIMIT %s",
        (piece.memory.message, last, _KEYS),
    ).fetchall()
    done = 0
    for tenant, key, message in rows:
        done += db.execute(
            "DELETE FROM zsmtp_idempotency WHERE tenant = %s AND key = %s AND message = %s "
            "AND NOT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = %s) "
            "AND NOT EXISTS (SELECT 1 FROM zsmtp_history WHERE message = %s AND at > %s)",
            (tenant, key, message, message, message, before),
        ).rowcount
    reached = rows[-1][2] if len(rows) == _KEYS else 0
    transaction.afterwards(lambda: setattr(piece.memory, "message", reached))
    return _first(done, pieces)


def news(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete news that every node could read for :data:`NEWS_KEPT`. They are not counted: there are always some."""
    db = transaction.db
    piece = pieces[0]
    known = piece.memory.snapshots
    old = [snapshot for at, snapshot in known if at <= piece.now - NEWS_KEPT]
    if old:
        db.execute(
            "DELETE FROM zsmtp_news WHERE xid < pg_snapshot_xmax(%s::pg_snapshot) "
            "AND pg_visible_in_snapshot(xid, %s::pg_snapshot) AND at < zsmtp_clock() - make_interval(secs => %s)",
            (old[-1], old[-1], NEWS_KEPT / 5),
        )
    snapshot = str(one(db, "SELECT pg_current_snapshot()::text"))
    kept = [(at, seen) for at, seen in known if piece.now - NEWS_KEPT < at <= piece.now]
    if not kept or piece.now - kept[-1][0] >= NEWS_KEPT / 10:
        kept.append((piece.now, snapshot))
    transaction.afterwards(lambda: setattr(piece.memory, "snapshots", kept))
    return _first(0, pieces)


def counters(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Sum up the additions to counters; these rows are not counted."""
    db = transaction.db
    totals: dict[str, int] = {}
    rows = db.execute(
        "DELETE FROM zsmtp_counter WHERE ctid IN (SELECT ctid FROM zsmtp_counter LIMIT %s FOR UPDATE SKIP LOCKED) "
        "RETURNING names, amounts",
        (_COUNTERS,),
    ).fetchall()
    for names, amounts in rows:
        for name, amount in zip(names, amounts, strict=True):
            if not quotas.is_over(name, pieces[0].now):
                totals[name] = totals.get(name, 0) + amount
    for name, amount in totals.items():
        transaction.count(name, amount)
    return _first(0, pieces)


def orphans(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete the rows of dead nodes: settled doubts and marks, statuses of sites without an owner,
    the nodes.
    """
    db = transaction.db
    if not one(db, f"SELECT pg_try_advisory_xact_lock({leases.TAKES})"):
        return _first(0, pieces)
    done = db.execute(
        "DELETE FROM zsmtp_doubt d WHERE NOT EXISTS (SELECT 1 FROM zsmtp_recipient r "
        "WHERE r.message = d.message AND r.number = d.number AND r.attempts + 1 = d.attempt)"
    ).rowcount
    done += db.execute(  # marks whose commit had no reply
        "DELETE FROM zsmtp_mark t WHERE NOT EXISTS (SELECT 1 FROM "
        "unnest(t.messages, t.numbers, t.attempts) AS u (message, number, attempt) JOIN zsmtp_recipient r "
        "ON r.message = u.message AND r.number = u.number AND r.attempts + 1 = u.attempt)"
    ).rowcount
    done += db.execute(
        "DELETE FROM zsmtp_node n WHERE n.valid_until < zsmtp_clock() - make_interval(secs => %s) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.node = n.id)",
        (_NODES_KEPT,),
    ).rowcount
    for table in ("zsmtp_part_status", "zsmtp_site_status"):
        done += db.execute(
            f"DELETE FROM {table} s WHERE s.updated < %s "
            "AND NOT EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = s.site)".encode(),
            (milliseconds(pieces[0].now - _NODES_KEPT),),
        ).rowcount
    done += db.execute(  # those that the last of several leases of a site leaves
        "DELETE FROM zsmtp_lease_key k WHERE NOT EXISTS (SELECT 1 FROM zsmtp_lease l WHERE l.site = k.site)"
    ).rowcount
    return _first(done, pieces)


def days(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Make the partitions of the history for the next days."""
    make_days(transaction.db)
    return _first(0, pieces)


def suppressions(transaction: WriteTransaction, pieces: list[PieceOfSweep]) -> list[int]:
    """Delete suppressions that have ended."""
    done = transaction.db.execute(
        "DELETE FROM zsmtp_suppression WHERE until <= %s", (milliseconds(pieces[-1].now),)
    ).rowcount
    return [done] + [0] * (len(pieces) - 1)


def release_uploads(transaction: WriteTransaction, messages: list[int]) -> list[bool]:
    """Release some of the recipients of uploads; returns for each whether recipients are left."""
    return [_release_upload(transaction, message) for message in messages]


def _release_upload(transaction: WriteTransaction, message: int) -> bool:
    db = transaction.db
    row = db.execute(
        "SELECT released FROM zsmtp_upload WHERE message = %s AND accepted FOR UPDATE", (message,)
    ).fetchone()
    if row is None:
        return False
    first = row[0]
    last = one(db, "SELECT max(number) FROM zsmtp_recipient WHERE message = %s", message)
    rows = db.execute(
        "UPDATE zsmtp_recipient SET hold = 0 WHERE message = %s AND number >= %s AND number < %s AND hold = %s "
        "RETURNING message, number, address, tenant, key, due",
        (message, first, first + PART_RECIPIENTS, ARRIVING),
    ).fetchall()
    for *_, key, due in rows:
        transaction.tell(key, due)
    transaction.look_for_suppressions()
    if transaction.suppresses:
        held = db.execute(
            "SELECT message, number, address, tenant FROM zsmtp_recipient "
            "WHERE message = %s AND number >= %s AND number < %s AND hold > 0 FOR UPDATE",
            (message, first, first + PART_RECIPIENTS),
        ).fetchall()
        end_suppressed(transaction, [row[:4] for row in (*rows, *held)])
    if last is None or first + PART_RECIPIENTS > last:
        db.execute("DELETE FROM zsmtp_upload WHERE message = %s", (message,))
        return False
    db.execute("UPDATE zsmtp_upload SET released = %s WHERE message = %s", (first + PART_RECIPIENTS, message))
    return True


def unreleased_uploads(db: Connection) -> list[int]:
    """The accepted uploads whose recipients are not released yet."""
    return [message for (message,) in db.execute("SELECT message FROM zsmtp_upload WHERE accepted").fetchall()]


_DROPPED_BY_ANOTHER = (
    errors.DeadlockDetected,
    errors.InvalidObjectDefinition,
    errors.ObjectNotInPrerequisiteState,
    errors.UndefinedTable,
)
"""The errors when another node is dropping the same day, or has dropped it."""


def drop_days(db: Connection, now: float, history_kept: float) -> int:
    """Drop the partitions of the history of days that are too old; not within a transaction.

    Another node may do the same at this moment, or may have died in the middle of it. Its work is left to it.
    """
    last = datetime.fromtimestamp(max(now - history_kept, 0), UTC).date() - timedelta(days=1)
    rows = db.execute(
        "SELECT c.relname, i.inhdetachpending FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid "
        "WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND c.relname ~ '^zsmtp_history_[0-9]{8}$' "
        "AND c.relname <= %s ORDER BY 1",
        (f"zsmtp_history_{last:%Y%m%d}",),
    ).fetchall()
    done = 0
    for name, pending in rows:
        with suppress(*_DROPPED_BY_ANOTHER):
            if pending is not None:  # it is still a partition
                how = "FINALIZE" if pending else "CONCURRENTLY"
                db.execute(f"ALTER TABLE zsmtp_history DETACH PARTITION {name} {how}".encode())
            db.execute(f"DROP TABLE {name}".encode())
            done += 1
    return done


def _first(done: int, pieces: list[PieceOfSweep]) -> list[int]:
    return [done] + [0] * (len(pieces) - 1)
