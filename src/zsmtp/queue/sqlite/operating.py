"""Changes of operators: changes by filters in pieces, and rules. It runs in the writer's thread.

A reader finds a piece; the writer applies the filter again to each of its recipients and changes those that still
match. So a change of a million recipients never delays results for longer than one piece takes.
"""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import settling
from zsmtp.queue.intake import clean
from zsmtp.queue.limits import MAX_RULES
from zsmtp.queue.operators import (
    Change,
    Rule,
)
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.sql import ENDED, MESSAGE, RECIPIENT, columns, recipient_from
from zsmtp.queue.sqlite import moving
from zsmtp.queue.sqlite.attempts import perhaps_sent
from zsmtp.queue.sqlite.listing import Place, Wanted
from zsmtp.queue.sqlite.results import SQLiteChanges, rule_holds
from zsmtp.queue.sqlite.transaction import WriteTransaction, in_parts
from zsmtp.queue.states import AttemptKey, HistoryEntry, milliseconds, seconds
from zsmtp.records import replace

PIECE = 500
"""Recipients changed in one transaction."""


class Changing(NamedTuple):
    """A piece of a change: recipients that matched when they were read."""

    wanted: Wanted
    places: list[Place]
    change: Change


class Operating:
    """The changes of operators."""

    def __init__(self, notice_rule: NoticeRule, boot: str) -> None:
        self._notice_rule = notice_rule
        self._boot = boot

    def change(self, transaction: WriteTransaction, pieces: list[Changing]) -> list[int | Exception]:
        """Change recipients; returns how many were changed."""
        return [self._change(transaction, piece) for piece in pieces]

    def _change(self, transaction: WriteTransaction, piece: Changing) -> int | Exception:
        db = transaction.db
        assert isinstance(db, sqlite3.Connection)
        change = piece.change
        if change.hold and not rule_holds(db, change.hold):
            return QueueError(f"there is no rule {change.hold}")
        if change.move is not None and not moving.began(db, change.move):
            return QueueError(f"there is no move {change.move}")
        sent = transaction.marked | perhaps_sent(db, self._boot)
        rows = [
            row
            for row in _matching(db, piece)
            if (attempt := AttemptKey(row[0], row[1], row[8] + 1))
            and settling.may_change(
                change,
                recipient_from(row),
                perhaps_sent=attempt in sent,
                now=transaction.time,
            )
        ]
        keys = {row[3] for row in rows}
        transaction.moved |= keys
        transaction.news.poked |= keys
        if change.end is not None:
            self._end(transaction, change, rows)
        elif change.move is not None:
            moving.set_apart(transaction, change.move, rows)
        else:
            _write(transaction, change, rows)
        transaction.octets += 1500 * len(rows)
        return len(rows)

    def _end(self, transaction: WriteTransaction, change: Change, rows: list[tuple[Any, ...]]) -> None:
        changes = SQLiteChanges(transaction, {})
        changes.end(change, rows, seconds(transaction.now), self._notice_rule)
        changes.write()

    def record(self, transaction: WriteTransaction, events: list[HistoryEntry]) -> list[bool]:
        """Write events of ended recipients, each once; returns which were written."""
        return [_record(transaction, event) for event in events]

    def add_rule(self, transaction: WriteTransaction, rules: list[Rule]) -> list[Rule | Exception]:
        """Add rules."""
        return [_add_rule(transaction, rule) for rule in rules]

    def release(self, transaction: WriteTransaction, rules: list[int]) -> list[bool | None]:
        """Release some of the recipients that a rule holds, and delete the rule with the last ones.

        Returns whether recipients are left; None: there is no such rule.
        """
        return [_release(transaction, rule) for rule in rules]


def _matching(db: sqlite3.Connection, piece: Changing) -> list[tuple[Any, ...]]:
    where = piece.wanted.condition(db)
    found: dict[Place, tuple[Any, ...]] = {}
    for marks, values in in_parts(piece.places, 2):
        rows = db.execute(
            f"WITH w (message, number) AS (VALUES {marks}) "
            f"SELECT {columns(RECIPIENT, 'r')}, {columns(MESSAGE, 'm')} FROM w "
            "CROSS JOIN zsmtp_recipient r ON r.message = w.message AND r.number = w.number "
            f"CROSS JOIN zsmtp_message m ON m.id = r.message WHERE {where.sql}",
            (*values, *where.values),
        )
        found |= {row[:2]: row for row in rows.fetchall()}
    return list(found.values())


def _write(transaction: WriteTransaction, change: Change, rows: list[tuple[Any, ...]]) -> None:
    """Write a change that ends no recipient: one column of each."""
    columns_of = {
        "due": change.due if change.due is None else milliseconds(change.due),
        "expires": change.expires if change.expires is None else milliseconds(change.expires),
        "hold": change.hold,
        "key": change.key,
        "rank": change.rank,
    }
    ((column, value),) = [(name, value) for name, value in columns_of.items() if value is not None]
    transaction.db.executemany(
        f"UPDATE zsmtp_recipient SET {column} = ? WHERE message = ? AND number = ?",
        [(value, row[0], row[1]) for row in rows],
    )
    for row in rows:
        before = recipient_from(row)
        after = settling.changed(change, before)
        if after.key != before.key:
            transaction.moved.add(after.key)
        released = row[RECIPIENT.index("hold")] == 0 or change.hold == 0
        if released and not after.hold:
            transaction.news.due(after.key, milliseconds(after.due))


def _record(transaction: WriteTransaction, event: HistoryEntry) -> bool:
    (ended, known) = transaction.db.execute(
        f"SELECT count(*) FILTER (WHERE outcome IN {ENDED}), count(*) FILTER (WHERE outcome = ?) "
        "FROM zsmtp_history WHERE message = ? AND number = ?",
        (event.outcome.value, event.message, event.number),
    ).fetchone()
    if not ended or known:
        return False
    changes = SQLiteChanges(transaction, {})
    changes.record(event)
    changes.write()
    return True


def _add_rule(transaction: WriteTransaction, rule: Rule) -> Rule | Exception:
    db = transaction.db
    if db.execute("SELECT count(*) FROM zsmtp_rule").fetchone()[0] >= MAX_RULES:
        return QueueError(f"{MAX_RULES} rules are the limit")
    until = None if rule.until is None else milliseconds(rule.until)
    rule = replace(
        rule, created=seconds(transaction.now), until=until if until is None else seconds(until), by=clean(rule.by)
    )
    rule = replace(rule, reason=clean(rule.reason))
    number = db.execute(
        "INSERT INTO zsmtp_rule (action, filter, argument, until, by_whom, reason, created) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (rule.action, rule.filter, rule.argument, until, rule.by, rule.reason, transaction.now),
    ).lastrowid
    transaction.news.rules = True
    return replace(rule, number=number or 0)


def _release(transaction: WriteTransaction, rule: int) -> bool | None:
    db = transaction.db
    if db.execute("SELECT 1 FROM zsmtp_rule WHERE number = ?", (rule,)).fetchone() is None:
        return None
    rows = db.execute(
        "SELECT message, number, key, due FROM zsmtp_recipient INDEXED BY zsmtp_held "
        "WHERE hold = ? AND hold <> 0 LIMIT ?",
        (rule, PIECE),
    ).fetchall()
    db.executemany(
        "UPDATE zsmtp_recipient SET hold = 0 WHERE message = ? AND number = ?",
        [(message, number) for message, number, _, _ in rows],
    )
    for _, _, key, due in rows:
        transaction.moved.add(key)
        transaction.news.poked.add(key)
        transaction.news.due(key, due)
    if len(rows) == PIECE:
        return True
    db.execute("DELETE FROM zsmtp_rule WHERE number = ?", (rule,))
    transaction.news.rules = True
    return False
