"""Finds inconsistencies in the database of a queue, while it is in use.

Each query reads one state of the database. A finding is a sentence; a consistent queue has none.
SQLite checks each table for damage first; a query that fails because of damage is a finding, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial

from zsmtp.queue.ids import to_text
from zsmtp.queue.limits import (
    BY_COMMAND,
    CHUNK,
)
from zsmtp.queue.sql import ARRIVING
from zsmtp.queue.sqlite.attempts import stored
from zsmtp.queue.sqlite.connect import UNREADABLE, code_of, snapshot
from zsmtp.queue.states import ENDS

_MOST = 100  # findings of one kind

# A query for ids that must not exist, and the finding for each.
_IDS = (
    (
        "SELECT DISTINCT r.message FROM zsmtp_recipient r WHERE NOT EXISTS "
        "(SELECT 1 FROM zsmtp_message m WHERE m.id = r.message) AND NOT EXISTS "
        "(SELECT 1 FROM zsmtp_upload u WHERE u.message = r.message AND u.accepted = 0)",
        "recipients of message {} have no message",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE NOT EXISTS (SELECT 1 FROM zsmtp_content c WHERE c.message = m.id) "
        "AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has no content",
    ),
    (
        "SELECT m.id FROM zsmtp_message m JOIN zsmtp_content c ON c.message = m.id WHERE length(c.data) + "
        f"CASE WHEN m.size <= {CHUNK} THEN 0 ELSE (SELECT coalesce(sum(length(p.data)), 0) FROM zsmtp_content_part p "
        "WHERE p.message = m.id) END <> m.size AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has content of another size than its own",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE NOT EXISTS (SELECT 1 FROM zsmtp_recipient r WHERE r.message = m.id) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_owed o WHERE o.message = m.id) "
        "AND m.id NOT IN (SELECT message FROM zsmtp_maybe_finished)",
        "message {} has neither recipients nor notices that are owed",
    ),
    (
        "SELECT c.message FROM zsmtp_content c WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = c.message) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = c.message AND u.accepted = 0)",
        "content {} has no message",
    ),
    (
        "SELECT DISTINCT p.message FROM zsmtp_content_part p "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = p.message) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = p.message AND u.accepted = 0)",
        "parts of content {} have no message",
    ),
    (
        "SELECT DISTINCT o.message FROM zsmtp_owed o "
        "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = o.message)",
        "notices are owed for message {}, which does not exist",
    ),
    (
        "SELECT DISTINCT r.message FROM zsmtp_recipient r INDEXED BY zsmtp_held WHERE r.hold <> 0 "
        f"AND r.hold = {ARRIVING} "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = r.message)",
        "recipients of message {} were never released after its upload",
    ),
    (
        "SELECT DISTINCT r.message FROM zsmtp_recipient r INDEXED BY zsmtp_held WHERE r.hold <> 0 AND r.hold > 0 "
        f"AND r.hold <> {BY_COMMAND} AND NOT EXISTS (SELECT 1 FROM zsmtp_rule u WHERE u.number = r.hold)",
        "recipients of message {} are held by a rule that does not exist",
    ),
    (
        "SELECT m.id FROM zsmtp_message m WHERE m.id > (SELECT value FROM zsmtp_meta WHERE name = 'last_id')",
        "message {} has an id that was not given yet",
    ),
)

Question = Callable[[sqlite3.Connection], list[str]]


def questions(shard: int) -> Iterator[Question]:
    """All queries; each is for one transaction."""
    yield _or_damage(_structure)
    for sql, sentence in _IDS:
        yield _or_damage(partial(_ids, sql=sql, sentence=sentence, shard=shard))
    for question in (_counters, _indexes, _attempts):
        yield _or_damage(question)


def _or_damage(question: Question) -> Question:
    """A query whose result may be damage."""

    def ask(db: sqlite3.Connection) -> list[str]:
        try:
            return question(db)
        except sqlite3.DatabaseError as error:
            if code_of(error) != sqlite3.SQLITE_CORRUPT:
                raise
            return [f"the file is damaged: {error}"]
        except UNREADABLE as error:
            return [f"the file is damaged: it has values that cannot be understood ({error!r})"]

    return ask


def _structure(db: sqlite3.Connection) -> list[str]:
    """The findings of SQLite, by table: pages, rows, and values of types that a column cannot have."""
    names = db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'zsmtp_*' ORDER BY name"
    ).fetchall()
    findings = []
    for (name,) in names:
        try:
            found = db.execute(f"PRAGMA quick_check({name})").fetchall()
        except sqlite3.DatabaseError as error:
            if code_of(error) != sqlite3.SQLITE_CORRUPT:
                raise
            found = [(error,)]
        findings += [f"the file is damaged: table {name}: {said}" for (said,) in found if said != "ok"]
    return findings[:_MOST]


def _ids(db: sqlite3.Connection, *, sql: str, sentence: str, shard: int) -> list[str]:
    rows = db.execute(f"{sql} LIMIT {_MOST}")
    return [sentence.format(to_text(number, shard)) for (number,) in rows.fetchall()]


def _counters(db: sqlite3.Connection) -> list[str]:
    with snapshot(db):
        counters = dict(db.execute("SELECT name, value FROM zsmtp_counter").fetchall())
        (there,) = db.execute(
            "SELECT count(*) FROM zsmtp_recipient WHERE message NOT IN "
            "(SELECT message FROM zsmtp_upload WHERE accepted = 0)"
        ).fetchone()
    accepted = counters.get("accepted", 0)
    ends = sum(counters.get(end, 0) for end in ENDS)
    if accepted == ends + there:
        return []
    return [f"{accepted} recipients were accepted, but {ends} have ends and {there} are there"]


def _indexes(db: sqlite3.Connection) -> list[str]:
    with snapshot(db):
        (there,) = db.execute("SELECT count(*) FROM zsmtp_recipient NOT INDEXED WHERE address IS NOT NULL").fetchone()
        (due,) = db.execute("SELECT count(*) FROM zsmtp_recipient INDEXED BY zsmtp_work WHERE hold = 0").fetchone()
        (held,) = db.execute("SELECT count(*) FROM zsmtp_recipient INDEXED BY zsmtp_held WHERE hold <> 0").fetchone()
    if there == due + held:
        return []
    return [f"{there} recipients are there, but the indexes have {due} to be tried and {held} held"]


def _attempts(db: sqlite3.Connection) -> list[str]:
    with snapshot(db):
        (fence,) = db.execute("SELECT value FROM zsmtp_meta WHERE name = 'fence'").fetchone()
        nodes = {number for (number,) in db.execute("SELECT fence FROM zsmtp_node").fetchall()}
        findings = []
        for table, what in (("zsmtp_mark", "mark"), ("zsmtp_in_hand", "list of what is in hand")):
            for row, of, attempts in stored(db, table):
                if of > fence or of not in nodes:
                    findings.append(f"{what} {row} is of a process that never delivered")
                if what == "mark" and not any(_is_next(db, *attempt) for attempt in attempts):
                    findings.append(f"mark {row} is of attempts that are all settled")
    return findings[:_MOST]


def _is_next(db: sqlite3.Connection, message: int, number: int, attempt: int) -> bool:
    sql = "SELECT 1 FROM zsmtp_recipient WHERE message = ? AND number = ? AND attempts = ?"
    return db.execute(sql, (message, number, attempt - 1)).fetchone() is not None
