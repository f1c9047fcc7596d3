"""The files of large bodies as a store uses them: reading, uploads, the sweep, health and check.

File systems of other machines may be slow, or not respond: calls run in threads of their own, one for reading, one for
writing and one for the sweep, and each has a limit of time. ``zsmtp.queue.postgres.bodies`` has the rule and the rows,
``zsmtp.queue.postgres.folder`` the calls.

A file without a row is removed when this process has known it for an hour, by the clock of the database; the clocks of
other machines and the times of files do not matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from zsmtp.errors import ContentUnavailable, QueueError, QueueUnavailable
from zsmtp.queue.ids import digits, to_text
from zsmtp.queue.limits import CHUNK, UPLOAD_WAIT
from zsmtp.queue.postgres import bodies
from zsmtp.queue.postgres.bodies import LEAST, BodyFile, BodyRow, BodySetting, divided, setting_of
from zsmtp.queue.postgres.connect import Connection
from zsmtp.queue.postgres.folder import BodyFolder, NewBody, OpenBody, new_name
from zsmtp.queue.postgres.sweep import SweepMemory
from zsmtp.queue.postgres.threads import PostgresReader
from zsmtp.queue.staged import Staged, StagedUpload, UploadPart
from zsmtp.queue.store import Accepted, NewMessage
from zsmtp.queue.threads import JobResult, ReadingThread, StoreQuestion

T = TypeVar("T")

ANSWER = 30.0
"""Seconds that a call may take."""
LISTED = 600.0
"""Seconds between two looks for files without a row."""
_PROBE = 1.0  # seconds for a question of health to the database
_LOOK = 5.0  # seconds for one to the folder
_END = 10.0  # seconds for the calls in progress when the store is closed
_MOST = 10_000  # files to be removed that are kept in memory while the folder is not there
_FINDINGS = 100
_DIGITS = 13  # of an id

log = logging.getLogger("zsmtp.queue")


class FolderThread(ReadingThread):
    """A thread for calls that may block."""

    def _answer_to(self, question: StoreQuestion) -> JobResult:
        try:
            return JobResult(question.future, question.ask(None), None)
        except Exception as error:
            return JobResult(question.future, None, error)

    def _close(self) -> None:
        """Nothing is open between calls."""

    async def call(self, folder: BodyFolder, work: Callable[[], T], seconds: float = ANSWER) -> T:
        """The result of a call; raises ContentUnavailable after a time without one."""
        future = self.future()
        self.ask(StoreQuestion("", lambda _: work(), future))
        try:
            async with asyncio.timeout(seconds):
                result: T = await future
        except TimeoutError:
            raise folder.unavailable(f"it did not respond within {seconds:g} s") from None
        return result

    def run_later(self, work: Callable[[], object]) -> None:
        """Have something done, without a result."""
        with suppress(QueueError):  # the thread has ended
            self.ask(StoreQuestion("", lambda _: work(), self.future()))


class BodyFiles:
    """The files of a store. ``lists`` reads from its database."""

    def __init__(self, lists: PostgresReader) -> None:
        loop = asyncio.get_running_loop()
        self._lists = lists
        self._reads, self._writes, self._sweeps = (
            FolderThread(f"zsmtp queue bodies {name}", loop) for name in ("read", "written", "swept")
        )
        self._known: BodySetting | None = None
        self._asked = False
        self._trouble = ""

    async def end(self) -> None:
        """End the threads; one that waits for a file system is left."""
        for thread in (self._reads, self._writes, self._sweeps):
            with suppress(TimeoutError):
                async with asyncio.timeout(_END):
                    await thread.end()

    async def setting(self) -> BodySetting | None:
        """The folder of the queue now; None if it has none. Raises QueueUnavailable."""
        found = await self._lists.read("looking for the folder of large bodies", setting_of)
        self._known, self._asked = found, True
        return found

    async def content(self, file: BodyFile) -> AsyncIterator[bytes]:
        """The octets of a file in chunks.

        Raises QueueError if it is damaged, ContentUnavailable if it cannot be read.
        """
        opening = partial(OpenBody, file.folder, file.name, file.size, file.message)
        try:
            body = await self._reads.call(file.folder, opening)
        except ContentUnavailable as error:
            self._log(error)
            raise
        self._log()
        try:
            while data := await self._reads.call(file.folder, body.read):
                yield data
        finally:
            self._reads.run_later(body.close)

    async def begin(self, folder: BodyFolder, name: str) -> NewBody:
        """Make a file."""
        return await self._writes.call(folder, partial(NewBody, folder, name))

    async def do(self, folder: BodyFolder, work: Callable[[], T]) -> T:
        """Call a method of a file that is being written."""
        return await self._writes.call(folder, work)

    def leave(self, body: NewBody) -> None:
        """Close a file that is not finished; the sweep removes it."""
        self._writes.run_later(body.close)

    # ------------------------------------------------------------------- sweep

    async def sweep(self, memory: SweepMemory) -> int:
        """Remove the files of deleted rows, and those without a row for long; returns how many.

        If the folder is not there, that is logged once, and done by a later sweep.
        """
        setting = await self.setting()
        if setting is None:
            return 0
        try:
            done = await self._remove(setting.folder, memory.files)
            memory.files.clear()
            done += await self._remove(setting.folder, await self._orphans(setting.folder, memory))
        except ContentUnavailable as error:
            del memory.files[_MOST:]  # they are found without a row
            self._log(error)
            return 0
        self._log()
        return done

    def _log(self, error: ContentUnavailable | None = None) -> None:
        """Log what the folder fails by, once, and when that is over."""
        text = "" if error is None else str(error)
        if text and text != self._trouble:
            log.error("%s", text)
        elif self._trouble and not text:
            log.warning("the folder of large bodies can be used again")
        self._trouble = text

    async def _remove(self, folder: BodyFolder, names: list[str]) -> int:
        return await self._sweeps.call(folder, partial(folder.remove, tuple(names))) if names else 0

    async def _orphans(self, folder: BodyFolder, memory: SweepMemory) -> list[str]:
        """The files that were without a row for long; looked for from time to time."""
        now = await self._lists.read("looking at the clock", _clock)
        if memory.listed <= now < memory.listed + LISTED:
            return []
        names = await self._sweeps.call(folder, folder.names)
        found = await self._lists.read("looking for files without a message", partial(bodies.unnamed, names=names))
        memory.unnamed = {name: min(memory.unnamed.get(name, now), now) for name in found}
        memory.listed = now
        return [name for name, since in memory.unnamed.items() if now - since >= UPLOAD_WAIT]

    # ------------------------------------------------------------------- state

    async def health(self) -> tuple[str, int]:
        """Why the folder cannot be used ("": it can, or there is none), and its free octets, -1 if not known."""
        if not self._asked:
            with suppress(TimeoutError, QueueUnavailable):
                async with asyncio.timeout(_PROBE):
                    await self.setting()
        if self._known is None:
            return "", -1
        folder = self._known.folder
        try:
            return "", await self._reads.call(folder, folder.free, _LOOK)
        except ContentUnavailable as error:
            return str(error), -1

    async def check(self, shard: int) -> AsyncIterator[str]:
        """Look for files that messages need, and that are not there, or not whole."""
        setting = await self.setting()
        after, found = 0, 0
        while page := await self._lists.read("checking", partial(bodies.page_of_files, after=after)):
            after = page[-1][0]
            if setting is None:
                yield "bodies of messages are in a folder, and the database does not say in which"
                return
            try:
                sizes = await self._sweeps.call(setting.folder, partial(setting.folder.sizes, [one[1] for one in page]))
            except ContentUnavailable as error:
                yield str(error)
                return
            for message, name, size in page:
                has = sizes.get(name)
                if has == size or await self._lists.read("checking", partial(_has_ended, message=message)):
                    continue
                found += 1
                what = "is not there" if has is None else f"has {has} octets, not {size}"
                yield f"the file of message {to_text(message, shard)}, {setting.folder.path}/{name}, {what}"
                if found == _FINDINGS:
                    return


def _clock(db: Connection) -> float:
    (now,) = db.execute("SELECT extract(epoch FROM zsmtp_clock())::float8").fetchone() or (0.0,)
    return float(now)


def _has_ended(db: Connection, message: int) -> bool:
    return db.execute("SELECT 1 FROM zsmtp_message WHERE id = %s", (message,)).fetchone() is None


class PostgresUpload(StagedUpload):
    """An upload whose content goes to a file from some octet on, if the queue has a folder for that.

    ``register`` writes the row of the file, before it is made.
    """

    def __init__(
        self,
        new: NewMessage,
        files: BodyFiles,
        *,
        write: Callable[[UploadPart], Awaitable[int]],
        register: Callable[[BodyRow], Awaitable[None]],
        accept: Callable[[Staged], Awaitable[Accepted]],
        discard: Callable[[int], Awaitable[None]],
    ) -> None:
        super().__init__(new, self._write_part, accept, discard)
        self._files = files
        self._write_rows = write
        self._register = register
        self._setting: BodySetting | None = None
        self._asked = False
        self._body: NewBody | None = None

    async def stage(self) -> Staged:
        """Write all parts but the last rows, have the file on the disk, and return the upload for its acceptance."""
        staged = await super().stage()
        rows, rest = await self._divided(staged.chunks)
        if rest:
            await self._append(staged.message, rest)
        if self._body is not None and self._setting is not None:
            await self._files.do(self._setting.folder, self._body.finish)
        return staged._replace(chunks=rows)

    async def discard(self) -> None:
        """Discard the upload."""
        if self._body is not None:
            self._files.leave(self._body)
        await super().discard()

    async def _write_part(self, part: UploadPart) -> int:
        rows, rest = await self._divided(part.chunks)
        message = await self._write_rows(part._replace(chunks=rows))
        if rest:
            await self._append(message, rest)
        return message

    async def _divided(self, chunks: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], list[bytes]]:
        if not self._asked and chunks and chunks[-1][0] >= LEAST // CHUNK:
            self._setting = await self._files.setting()
            self._asked = True
        return divided(chunks, None if self._setting is None else self._setting.first)

    async def _append(self, message: int, blocks: list[bytes]) -> None:
        setting = self._setting
        assert setting is not None
        assert setting.first is not None
        folder = setting.folder
        try:
            if self._body is None:
                name = new_name(f"m{digits(message, _DIGITS)}")
                await self._register(BodyRow(message, name, setting.first, folder.path))
                self._body = await self._files.begin(folder, name)
            await self._files.do(folder, partial(self._body.write, blocks))
        except BaseException:
            self._over = True  # some of the octets may be in the file
            raise
