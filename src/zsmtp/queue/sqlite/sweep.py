"""Housekeeping, in pieces: deletes data that is out of use, and releases the recipients of large uploads.

Each function is a piece in a transaction of the writer and returns how many rows it removed. Nothing here has to be
durable: the next sweep repeats work that a crash undoes.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from zsmtp.queue import quotas
from zsmtp.queue.ids import EPOCH, LOW_BITS
from zsmtp.queue.limits import (
    KEYS_KEPT,
    PART_RECIPIENTS,
    UPLOAD_WAIT,
)
from zsmtp.queue.sql import ARRIVING
from zsmtp.queue.sqlite.suppressing import end_suppressed
from zsmtp.queue.sqlite.transaction import Executes, WriteTransaction, each
from zsmtp.queue.states import milliseconds

_MESSAGES = 200
_CHUNKS = 64  # of 256 KiB
_ENTRIES = 1000
_KEYS = 500
_PAGES = 2000
_FREE_PAGES = 16 << 20 >> 12  # 16 MiB of free pages remain in the file
"""Pages that remain free in the file, for new data."""


class Cursor:
    """The place where the search for old idempotency keys continues."""

    def __init__(self) -> None:
        self.message = 0


class Sweeping(NamedTuple):
    """A piece of housekeeping at a time; ``poke``: the deliverer has read the pokes up to this one."""

    now: float
    history_kept: float
    cursor: Cursor
    poke: int | None


def uploads(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete uploads without a part for an hour."""
    db = transaction.db
    done = 0
    for now, _, _, _ in pieces:
        before = milliseconds(now - UPLOAD_WAIT)
        rows = db.execute(
            "SELECT message FROM zsmtp_upload WHERE accepted = 0 AND touched <= ? LIMIT ?", (before, _MESSAGES)
        ).fetchall()
        for (message,) in rows:
            db.execute("UPDATE zsmtp_upload SET touched = 0 WHERE message = ?", (message,))  # it accepts no more parts
            removed = _delete_recipients(db, message) + _delete_content(db, message)
            if not removed:
                db.execute("DELETE FROM zsmtp_upload WHERE message = ?", (message,))
            done += removed + 1
            if removed >= _CHUNKS:
                break
    return [done] + [0] * (len(pieces) - 1)


def finished(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete messages without recipients and owed notices."""
    db = transaction.db
    done = 0
    rows = db.execute("SELECT message FROM zsmtp_maybe_finished LIMIT ?", (_MESSAGES,)).fetchall()
    for (message,) in rows:
        left = db.execute(
            "SELECT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = ?) "
            "OR EXISTS (SELECT 1 FROM zsmtp_owed WHERE message = ?)",
            (message, message),
        ).fetchone()[0]
        removed = 0 if left else _delete_content(db, message)
        if removed >= _CHUNKS:
            done += removed
            break
        if not left:
            db.execute("DELETE FROM zsmtp_message WHERE id = ?", (message,))
        db.execute("DELETE FROM zsmtp_maybe_finished WHERE message = ?", (message,))
        done += removed + 1
    return [done] + [0] * (len(pieces) - 1)


def _delete_recipients(db: Executes, message: int) -> int:
    rows = db.execute(
        "SELECT message, number FROM zsmtp_recipient WHERE message = ? LIMIT ?", (message, PART_RECIPIENTS)
    ).fetchall()
    db.executemany("DELETE FROM zsmtp_recipient WHERE message = ? AND number = ?", rows)
    return len(rows)


def _delete_content(db: Executes, message: int) -> int:
    """Delete some chunks of a message, the last ones first; the first one goes when no other is left."""
    rows = db.execute(
        "SELECT message, part FROM zsmtp_content_part WHERE message = ? ORDER BY part DESC LIMIT ?", (message, _CHUNKS)
    ).fetchall()
    db.executemany("DELETE FROM zsmtp_content_part WHERE message = ? AND part = ?", rows)
    if len(rows) < _CHUNKS:
        return len(rows) + db.execute("DELETE FROM zsmtp_content WHERE message = ?", (message,)).rowcount
    return len(rows)


def history(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete history that is too old; the youngest entry stays, so that cursors of events continue to grow."""
    db = transaction.db
    before = max(milliseconds(piece.now - piece.history_kept) for piece in pieces)
    rows = db.execute(
        "SELECT id FROM (SELECT id, at FROM zsmtp_history WHERE id < (SELECT max(id) FROM zsmtp_history) "
        "ORDER BY id LIMIT ?) WHERE at <= ?",
        (_ENTRIES, before),
    ).fetchall()
    each(db, "DELETE FROM zsmtp_history WHERE id IN ({})", [entry for (entry,) in rows])
    return [len(rows)] + [0] * (len(pieces) - 1)


def idempotency(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete idempotency keys of messages whose last end was a week ago."""
    db = transaction.db
    done = 0
    for now, _, cursor, _ in pieces:
        before = milliseconds(now - KEYS_KEPT)
        last = max(before - EPOCH * 1000 + 1, 0) << LOW_BITS
        rows = db.execute(
            "SELECT tenant, key, message FROM zsmtp_idempotency WHERE message > ? AND message < ? "
            "ORDER BY message LIMIT ?",
            (cursor.message, last, _KEYS),
        ).fetchall()
        old = [(tenant, key) for tenant, key, message in rows if _is_over(db, message, before)]
        db.executemany("DELETE FROM zsmtp_idempotency WHERE tenant = ? AND key = ?", old)
        done += len(old)
        reached = rows[-1][2] if len(rows) == _KEYS else 0
        transaction.afterwards(lambda cursor=cursor, reached=reached: setattr(cursor, "message", reached))  # type: ignore[misc]
    return [done] + [0] * (len(pieces) - 1)


def _is_over(db: Executes, message: int, before: int) -> bool:
    """Whether a message had its last end before a time."""
    row = db.execute(
        "SELECT NOT EXISTS (SELECT 1 FROM zsmtp_recipient WHERE message = ?) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_history WHERE message = ? AND at > ?)",
        (message, message, before),
    ).fetchone()
    return bool(row[0])


def tenants(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete counters of tenants' mail of more than an hour ago."""
    first, oldest = quotas.names_of_old(max(piece.now for piece in pieces))
    done = transaction.db.execute("DELETE FROM zsmtp_counter WHERE name >= ? AND name < ?", (first, oldest)).rowcount
    return [done] + [0] * (len(pieces) - 1)


def pokes(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete pokes that the deliverer has read."""
    seen = [piece.poke for piece in pieces if piece.poke is not None]
    done = 0
    if seen:
        done = transaction.db.execute("DELETE FROM zsmtp_poke WHERE seq <= ?", (max(seen),)).rowcount
    return [done] + [0] * (len(pieces) - 1)


def room(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Give free pages of the file back to the disk, if there are many: some at each sweep, which is not counted."""
    db = transaction.db
    assert isinstance(db, sqlite3.Connection)
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    spare = free - max(_FREE_PAGES, pages // 4)
    if spare > 0:
        transaction.afterwards(partial(_vacuum, db, min(spare, _PAGES)))
    return [0] * len(pieces)


def _vacuum(db: sqlite3.Connection, pages: int) -> None:
    """Run the pragma as a script, with its own commit: otherwise Python makes one step of it, which is one page."""
    with suppress(sqlite3.OperationalError):  # another one writes: the next sweep does it
        db.executescript(f"PRAGMA incremental_vacuum({pages})")


def suppressions(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """Delete suppressions that have ended."""
    done = transaction.db.execute(
        "DELETE FROM zsmtp_suppression WHERE until <= ?", (milliseconds(pieces[-1].now),)
    ).rowcount
    return [done] + [0] * (len(pieces) - 1)


def release_uploads(transaction: WriteTransaction, messages: list[int]) -> list[bool]:
    """Release some of the recipients of uploads; returns for each whether recipients are left."""
    return [_release_upload(transaction, message) for message in messages]


def _release_upload(transaction: WriteTransaction, message: int) -> bool:
    db = transaction.db
    row = db.execute("SELECT released FROM zsmtp_upload WHERE message = ? AND accepted = 1", (message,)).fetchone()
    if row is None:
        return False
    first = row[0]
    last = db.execute("SELECT max(number) FROM zsmtp_recipient WHERE message = ?", (message,)).fetchone()[0]
    rows = db.execute(
        "UPDATE zsmtp_recipient SET hold = 0 WHERE message = ? AND number >= ? AND number < ? AND hold = ? "
        "RETURNING message, number, address, tenant, key, due",
        (message, first, first + PART_RECIPIENTS, ARRIVING),
    ).fetchall()
    for *_, key, due in rows:
        transaction.news.due(key, due)
    held = db.execute(
        "SELECT message, number, address, tenant FROM zsmtp_recipient "
        "WHERE message = ? AND number >= ? AND number < ? AND hold > 0",
        (message, first, first + PART_RECIPIENTS),
    ).fetchall()
    end_suppressed(transaction, [row[:4] for row in (*rows, *held)])
    transaction.octets += 1500 * len(rows)
    if last is None or first + PART_RECIPIENTS > last:
        db.execute("DELETE FROM zsmtp_upload WHERE message = ?", (message,))
        return False
    db.execute("UPDATE zsmtp_upload SET released = ? WHERE message = ?", (first + PART_RECIPIENTS, message))
    return True


def unreleased_uploads(transaction: WriteTransaction, pieces: list[Sweeping]) -> list[int]:
    """The accepted uploads whose recipients are not released yet."""
    rows = transaction.db.execute("SELECT message FROM zsmtp_upload WHERE accepted = 1").fetchall()
    transaction.news.released += [message for (message,) in rows]
    return [0] * len(pieces)
