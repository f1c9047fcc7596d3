"""Large bodies, whose last parts are files in a shared folder: the rule, the rows, and the setting.

The first octets of every content are rows. If the queue has a folder, those beyond a size are one file in it, which a
row of ``zsmtp_body`` names. The folder and the size are values in the database, which all programs read for each large
message. The order of the steps is such that no row lacks its file:

- *An upload*: the row is committed, the file is made, its octets are written as they arrive, the file is synchronised
  with the disk, the message is accepted.
- *A caller's transaction*: the file is made and synchronised, its row is inserted, the caller commits. The name of the
  file has the id of the transaction: the file is kept as long as that is open.
- *The end*: the row is deleted with the message, the transaction is committed, the file is removed.

A crash in between leaves a file without a row, which the sweep removes (``zsmtp.queue.postgres.bodyfiles``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.queue.limits import CHUNK, PART_OCTETS
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.folder import BodyFolder, NewBody, new_name
from zsmtp.queue.postgres.schema import keep, name_of, require_release
from zsmtp.queue.postgres.transaction import WriteTransaction, one
from zsmtp.queue.staged import Staged, staged
from zsmtp.queue.store import Accepted, NewMessage

ABOVE = 4 << 20
"""Octets of a content that are rows, unless another number is set."""
LEAST = PART_OCTETS
"""The least such number: what is written in one transaction is rows only."""
SINCE = "0.2.0"
"""The first release that reads files."""
_FOLDER, _ABOVE = "bodies", "bodies_above"  # in zsmtp_meta
_PAGE = 1000


class BodySetting(NamedTuple):
    """The folder of a queue, and how many octets of a content are rows; 0: all, no new files are made."""

    folder: BodyFolder
    above: int

    @property
    def first(self) -> int | None:
        """The number of the first chunk of a content that is in its file; None if new ones have no file."""
        return -(-self.above // CHUNK) or None


class BodyRow(NamedTuple):
    """The file of an upload, before it is made."""

    message: int
    name: str
    first: int
    folder: str


class BodyFile(NamedTuple):
    """The file with the last part of a content, of ``size`` octets."""

    folder: BodyFolder
    name: str
    message: int
    size: int


def divided(chunks: Sequence[tuple[int, bytes]], first: int | None) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """The chunks that are rows, and the octets that are in the file from chunk ``first`` on."""
    rows = [chunk for chunk in chunks if first is None or chunk[0] < first]
    return rows, [data for _, data in chunks[len(rows) :]]


# ------------------------------------------------------------------ the setting


def setting_of(db: Connection) -> BodySetting | None:
    """The folder of a queue; None if it has none."""
    row = db.execute(
        "SELECT f.value, a.value::bigint, zsmtp_owner() FROM zsmtp_meta f JOIN zsmtp_meta a ON a.name = %s "
        "WHERE f.name = %s",
        (_ABOVE, _FOLDER),
    ).fetchone()
    return None if row is None else BodySetting(BodyFolder(row[0], row[2]), row[1])


def configure(connection: Connection, *, path: str = "", above: int | None = None) -> BodySetting:
    """Set the folder, and how many octets of a content are rows; the transaction is committed.

    ``path`` "": the folder stays. ``above`` None: the number stays, or is :data:`ABOVE`; 0: new bodies are rows only.
    Another folder must have all files that messages need.

    Raises QueueError for values that cannot be used, QueueUnavailable if the folder cannot be used now.
    """
    path = _checked(path) if path else ""
    if above is not None and 0 < above < LEAST:
        raise QueueError(f"at least {LEAST} octets of each body are rows; {above} is too low")
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '30s'")
        before = setting_of(connection)
        if before is None and not path:
            raise QueueError(f"queue {name_of(connection)} has no folder for large bodies yet")
        folder = BodyFolder(path or (before.folder.path if before else ""), one(connection, "SELECT zsmtp_owner()"))
        if above is None:
            above = before.above if before else ABOVE
        require_release(connection, SINCE)
        keep(connection, {_FOLDER: folder.path, _ABOVE: str(above)})
        if path:  # from here on no other transaction writes a row for the folder before
            if before is not None and before.folder.path != path:
                _check_arriving(connection)
            folder.claim(_expected(connection))
    return BodySetting(folder, above)


def _checked(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        path = ""
    if not os.path.isabs(path) or "\0" in path:
        raise QueueError("the folder of large bodies needs an absolute path in UTF-8, the same on all machines")
    return os.path.normpath(path)


def _check_arriving(db: Connection) -> None:
    """Raise QueueUnavailable if an upload writes a file to the folder before."""
    arriving = one(
        db,
        "SELECT count(*) FROM zsmtp_body b WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = b.message)",
    )
    if arriving:
        raise QueueUnavailable(
            f"{arriving} large messages are arriving, or were broken off within the hour, with files in the folder "
            "before: have new ones written as rows (--bodies-above none), and change the folder an hour later"
        )


def _expected(db: Connection) -> dict[str, int]:
    """The files that messages need, and their sizes."""
    rows = db.execute(
        "SELECT b.name, m.size - b.first::bigint * %s FROM zsmtp_body b JOIN zsmtp_message m ON m.id = b.message",
        (CHUNK,),
    )
    return dict(rows.fetchall())


# --------------------------------------------------------------------- the rows


def register(transaction: WriteTransaction, rows: list[BodyRow]) -> list[Exception | None]:
    """Name the files of uploads, before they are made."""
    return [_registered(transaction.db, row) for row in rows]


def _registered(db: Connection, row: BodyRow) -> Exception | None:
    try:
        _expect_folder(db, row.folder)
    except QueueUnavailable as error:
        return error
    done = db.execute(
        "INSERT INTO zsmtp_body (message, name, first) SELECT message, %s, %s FROM zsmtp_upload "
        "WHERE message = %s AND NOT accepted AND touched > 0 FOR SHARE",
        (row.name, row.first, row.message),
    ).rowcount
    return None if done else QueueError("this upload is over: it was discarded, or swept after an hour without a part")


def _expect_folder(db: Connection, path: str) -> None:
    """Raise QueueUnavailable if the queue has another folder now; it keeps this one until the transaction ends."""
    row = db.execute("SELECT value FROM zsmtp_meta WHERE name = %s FOR SHARE", (_FOLDER,)).fetchone()
    if row is None or row[0] != path:
        raise QueueUnavailable("the folder of large bodies was changed at this moment; try again")


def end_of(db: Connection, message: int, part: int, size: int) -> BodyFile | None:
    """The file that has a message of ``size`` octets from a chunk on; None if there is none."""
    row = db.execute("SELECT name FROM zsmtp_body WHERE message = %s AND first = %s", (message, part)).fetchone()
    setting = setting_of(db) if row is not None else None
    if row is None or setting is None:
        return None
    return BodyFile(setting.folder, row[0], message, size - part * CHUNK)


def forget(db: Connection, message: int) -> list[str]:
    """Delete the row of a message or an upload that is deleted; returns the name of the file to remove."""
    rows = db.execute("DELETE FROM zsmtp_body WHERE message = %s RETURNING name", (message,)).fetchall()
    return [name for (name,) in rows]


def forget_lost(db: Connection) -> list[str]:
    """Delete rows whose message an earlier program has deleted; returns the names of the files to remove."""
    rows = db.execute(
        "DELETE FROM zsmtp_body b WHERE NOT EXISTS (SELECT 1 FROM zsmtp_message m WHERE m.id = b.message) "
        "AND NOT EXISTS (SELECT 1 FROM zsmtp_upload u WHERE u.message = b.message) RETURNING b.name"
    ).fetchall()
    return [name for (name,) in rows]


def unnamed(db: Connection, names: Sequence[str]) -> list[str]:
    """Those of these files that no row names, and none can name any more: their transaction, if any, is over."""
    found: list[str] = []
    for start in range(0, len(names), _PAGE):
        page = names[start : start + _PAGE]
        xids = [name[1:].partition("-")[0] if name.startswith("x") else None for name in page]
        rows = db.execute(
            "SELECT w.name FROM unnest(%s::text[], %s::text[]) AS w (name, xid), pg_current_snapshot() AS s (now) "
            "WHERE NOT EXISTS (SELECT 1 FROM zsmtp_body b WHERE b.name = w.name) AND (w.xid IS NULL "
            "OR pg_visible_in_snapshot(w.xid::xid8, s.now) OR w.xid::xid8 >= pg_snapshot_xmax(s.now))",
            (page, [xid if xid is None or xid.isdecimal() else None for xid in xids]),
        ).fetchall()
        found += [name for (name,) in rows]
    return found


def page_of_files(db: Connection, after: int) -> list[tuple[int, str, int]]:
    """Some messages with a file behind one, in order: id, name, and the size that the file must have."""
    return db.execute(
        "SELECT b.message, b.name, m.size - b.first::bigint * %s FROM zsmtp_body b "
        "JOIN zsmtp_message m ON m.id = b.message WHERE b.message > %s ORDER BY b.message LIMIT %s",
        (CHUNK, after, _PAGE),
    ).fetchall()


# ------------------------------------------------------- a caller's transaction


class CallersBodies:
    """The messages that a caller submits in its own transaction, with their files, which were made."""

    def __init__(self, db: Connection, messages: Sequence[NewMessage]) -> None:
        self._db = db
        self.items: list[NewMessage | Staged] = list(messages)
        """The messages to insert: of those with a file, what is rows."""
        self._files: dict[int, tuple[str, int]] = {}  # by place: name, first chunk
        self._folder: BodyFolder | None = None

    def make(self) -> None:
        """Make the files."""
        large = any(isinstance(one, NewMessage) and len(one.content) > LEAST for one in self.items)
        setting = setting_of(self._db) if large else None
        if setting is not None and setting.first is not None:
            self._folder = setting.folder
            self._write(setting.folder, setting.first)

    def _write(self, folder: BodyFolder, first: int) -> None:
        _expect_folder(self._db, folder.path)
        xid = one(self._db, "SELECT pg_current_xact_id()::text")
        for place, message in enumerate(self.items):
            if isinstance(message, Staged) or len(message.content) <= first * CHUNK:
                continue
            item = staged(message)
            rows, rest = divided(item.chunks, first)
            name = new_name(f"x{xid}")
            self._files[place] = name, first
            body = NewBody(folder, name)
            try:
                body.write(rest)
                body.finish()
            finally:
                body.close()
            self.items[place] = item._replace(chunks=rows)

    def keep(self, accepted: Sequence[Accepted]) -> None:
        """Insert the rows of the files; those of messages that were queued before are removed."""
        known = [name for place, (name, _) in self._files.items() if accepted[place].existed]
        for place, (name, first) in self._files.items():
            if name not in known:
                self._db.execute(
                    "INSERT INTO zsmtp_body (message, name, first) VALUES (%s, %s, %s)",
                    (accepted[place].id, name, first),
                )
        self._remove(known)

    def undo(self) -> None:
        """Remove the files."""
        self._remove([name for name, _ in self._files.values()])

    def _remove(self, names: list[str]) -> None:
        if names and self._folder is not None:
            with suppress(QueueError):  # the sweep does it later
                self._folder.remove(names)


@contextmanager
def callers_bodies(db: Connection, messages: Sequence[NewMessage]) -> Iterator[CallersBodies]:
    """Make the files of messages; an error within removes them."""
    bodies = CallersBodies(db, messages)
    try:
        bodies.make()
        yield bodies
    except BaseException:
        bodies.undo()
        raise
