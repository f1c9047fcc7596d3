"""Changes of operators: changes by filters in pieces, and rules. It runs in the writer's thread.

A reader finds a piece; the writer locks the leases of its recipients, applies the filter again to each of them and
changes those that still match. So a change of a million recipients never delays results for longer than one piece
takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zsmtp.errors import QueueError
from zsmtp.queue import settling
from zsmtp.queue.changes import Changes
from zsmtp.queue.intake import clean
from zsmtp.queue.limits import BY_COMMAND, MAX_RULES
from zsmtp.queue.operators import Change, Rule
from zsmtp.queue.postgres import leases, moving, results
from zsmtp.queue.postgres.listing import Place, WantedRows, matching
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.settling import NoticeRule
from zsmtp.queue.sql import ENDED, RECIPIENT, recipient_from
from zsmtp.queue.states import HistoryEntry, milliseconds, seconds
from zsmtp.records import replace

PIECE = 500
"""Recipients changed in one transaction."""
_KEY = RECIPIENT.index("key")
_NEXT_RULE = "UPDATE zsmtp_meta SET value = (value::integer + 1)::text WHERE name = 'last_rule' RETURNING value"


class PieceOfChange(NamedTuple):
    """A piece of a change: recipients that matched when they were read."""

    query: WantedRows
    places: list[Place]
    change: Change


class PostgresOperating:
    """The changes of operators."""

    def __init__(self, notice_rule: NoticeRule) -> None:
        self._notice_rule = notice_rule

    def change(self, transaction: WriteTransaction, pieces: list[PieceOfChange]) -> list[int | Exception]:
        """Change recipients; returns how many were changed."""
        return [self._change(transaction, piece) for piece in pieces]

    def _change(self, transaction: WriteTransaction, piece: PieceOfChange) -> int | Exception:
        db = transaction.db
        change = piece.change
        if change.hold and transaction.holds(change.hold, BY_COMMAND) != change.hold:
            return QueueError(f"there is no rule {change.hold}")
        if change.move is not None and not moving.began(db, change.move):
            return QueueError(f"there is no move {change.move}")
        found = matching(db, piece.query, piece.places)
        leases.lock_keys(transaction, {row[_KEY] for row in found})
        found = matching(db, piece.query, [(row[0], row[1]) for row in found])
        sent = leases.perhaps_sent(db, [(row[0], row[1]) for row in found])
        rows = [
            row
            for row in found
            if (one := recipient_from(row))
            and settling.may_change(
                change,
                one,
                perhaps_sent=one.next_attempt in sent,
                now=transaction.time,
            )
        ]
        transaction.poked |= {row[_KEY] for row in rows}
        if change.end is not None:
            self._end(transaction, change, rows)
        elif change.move is not None:
            moving.set_apart(transaction, change.move, [(row[0], row[1]) for row in rows])
        else:
            _write(transaction, change, rows)
        return len(rows)

    def _end(self, transaction: WriteTransaction, change: Change, rows: list[tuple[Any, ...]]) -> None:
        changes = Changes({}, lambda number: number)
        changes.end(change, rows, seconds(transaction.now), self._notice_rule)
        results.write(transaction, changes)

    def record(self, transaction: WriteTransaction, events: list[HistoryEntry]) -> list[bool]:
        """Write events of ended recipients, each once; returns which were written."""
        for message in sorted({event.message for event in events}):  # another process may be writing the same
            transaction.db.execute("SELECT pg_advisory_xact_lock(%s)", (message,))
        return [_record(transaction, event) for event in events]

    def add_rule(self, transaction: WriteTransaction, rules: list[Rule]) -> list[Rule | Exception]:
        """Add rules."""
        return [_add_rule(transaction, rule) for rule in rules]

    def release(self, transaction: WriteTransaction, rules: list[int]) -> list[bool | None]:
        """Release some of the recipients that a rule holds, and delete the rule with the last ones.

        Returns whether recipients are left; None: there is no such rule.
        """
        return [_release(transaction, rule) for rule in rules]


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
    transaction.db.execute(
        f"UPDATE zsmtp_recipient r SET {column} = %s FROM unnest(%s::bigint[], %s::integer[]) AS w (message, number) "
        "WHERE r.message = w.message AND r.number = w.number".encode(),
        (value, [row[0] for row in rows], [row[1] for row in rows]),
    )
    for row in rows:
        before = recipient_from(row)
        after = settling.changed(change, before)
        released = row[RECIPIENT.index("hold")] == 0 or change.hold == 0
        if released and not after.hold:
            transaction.tell(after.key, milliseconds(after.due))


def _record(transaction: WriteTransaction, event: HistoryEntry) -> bool:
    (row,) = transaction.db.execute(
        f"SELECT count(*) FILTER (WHERE outcome IN {ENDED}), count(*) FILTER (WHERE outcome = %s) "
        "FROM zsmtp_history WHERE message = %s AND number = %s".encode(),
        (event.outcome.value, event.message, event.number),
    ).fetchall()
    ended, known = row
    if not ended or known:
        return False
    changes = Changes({}, lambda number: number)
    changes.record(event)
    results.write(transaction, changes)
    return True


def _add_rule(transaction: WriteTransaction, rule: Rule) -> Rule | Exception:
    db = transaction.db
    if one(db, "SELECT count(*) FROM zsmtp_rule") >= MAX_RULES:
        return QueueError(f"{MAX_RULES} rules are the limit")
    until = None if rule.until is None else milliseconds(rule.until)
    number = int(one(db, _NEXT_RULE))
    rule = replace(
        rule,
        number=number,
        created=seconds(transaction.now),
        until=until if until is None else seconds(until),
        by=clean(rule.by),
        reason=clean(rule.reason),
    )
    db.execute(
        "INSERT INTO zsmtp_rule (number, action, filter, argument, until, by_whom, reason, created) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (number, rule.action, rule.filter, rule.argument, until, rule.by, rule.reason, transaction.now),
    )
    transaction.rules = True
    return rule


def _release(transaction: WriteTransaction, rule: int) -> bool | None:
    db = transaction.db
    if db.execute("SELECT 1 FROM zsmtp_rule WHERE number = %s FOR UPDATE", (rule,)).fetchone() is None:
        return None
    held = db.execute(
        "SELECT message, number, key FROM zsmtp_recipient WHERE hold = %s AND hold <> 0 LIMIT %s", (rule, PIECE)
    ).fetchall()
    leases.lock_keys(transaction, {key for _, _, key in held})
    rows = db.execute(
        "UPDATE zsmtp_recipient r SET hold = 0 FROM unnest(%s::bigint[], %s::integer[]) AS w (message, number) "
        "WHERE r.message = w.message AND r.number = w.number AND r.hold = %s RETURNING r.key, r.due",
        ([row[0] for row in held], [row[1] for row in held], rule),
    ).fetchall()
    for key, due in rows:
        transaction.poked.add(key)
        transaction.tell(key, due)
    if len(held) == PIECE:
        return True
    db.execute("DELETE FROM zsmtp_rule WHERE number = %s", (rule,))
    transaction.rules = True
    return False
