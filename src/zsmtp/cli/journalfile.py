"""The file of a journal: opens, locks, repairs it, and writes it to the disk in time.

A line is written at once, so that it outlives this process. The disk is synchronised in groups: a result reaches it
within ``WITHIN`` seconds, or with ``GROUP`` others; a message is not completed before its line is there
(:meth:`JournalWriter.write_durably`). Lines written during one ``fdatasync`` share the next.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from zsmtp.cli.failure import CommandFailed, reading, reason
from zsmtp.cli.sendjournal import HEADER, MAX_LINE, JournalState, read_lines
from zsmtp.cli.sysexits import Exit
from zsmtp.errors import ConfigError
from zsmtp.escape import escape

WITHIN = 0.1  # seconds
GROUP = 100  # results


class JournalFile:
    """A journal that only this process writes, until it is closed. ``state`` is its content when it was opened."""

    def __init__(self, path: str) -> None:
        """Open or make it. Raises CommandFailed."""
        self.path = path
        self._descriptor = _opened(path)
        try:
            _lock(self._descriptor, path)
            self.state = self._mended()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _mended(self) -> JournalState:
        """Read it; remove a partial last line of a killed writer."""
        with reading(self.path), open(self.path, "rb") as file:
            state, octets = _read(self.path, file)
        try:
            if os.fstat(self._descriptor).st_size > octets:
                os.ftruncate(self._descriptor, octets)
            if octets == 0:
                self.write(HEADER)
                self.sync()
                _sync_folder(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return state

    def write(self, octets: bytes) -> None:
        """Append ``octets``. Raises OSError."""
        while octets:
            octets = octets[os.write(self._descriptor, octets) :]

    def sync(self) -> None:
        """Wait until the written lines are on the disk. Raises OSError."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close it and release its lock."""
        os.close(self._descriptor)


def read_state(path: str) -> JournalState:
    """The content of a journal, without opening it for writing; empty if there is none. Raises CommandFailed."""
    if not os.path.exists(path):
        return JournalState()
    with reading(path), open(path, "rb") as file:
        return _read(path, file)[0]


def _read(path: str, file: IO[bytes]) -> tuple[JournalState, int]:
    try:
        return read_lines(iter(lambda: file.readline(MAX_LINE), b""))  # a longer line is cut, and is then invalid
    except ConfigError as error:
        raise CommandFailed(Exit.DATA, f"--journal: {escape(path)}: {error}") from error


def _opened(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CommandFailed(Exit.CANNOT_CREATE, f"--journal: {escape(path)}: not a file")
    return descriptor


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = "another zsmtp send is at work with this journal"
        raise CommandFailed(Exit.TEMPORARY, f"--journal: {escape(path)}: {problem}") from None
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: OSError) -> CommandFailed:
    return CommandFailed(Exit.CANNOT_CREATE, f"--journal: {escape(path)}: {reason(error)}")


def _sync_folder(path: str) -> None:
    """Sync the folder: without it a new file may be lost in a crash of the machine."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class JournalWriter:
    """Writes to a journal from the running loop; ``broken`` is called once, when writing fails.

    ``problem`` is the reason then, and nothing more is written.
    """

    def __init__(self, file: JournalFile, broken: Callable[[], None]) -> None:
        self.problem = ""
        self._file = file
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zsmtp journal")
        self._written = 0  # lines
        self._durable = 0
        self._syncing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def write(self, line: bytes) -> None:
        """Write a line, which reaches the disk soon."""
        self._append(line)
        if self._written - self._durable >= GROUP:
            self._sync()
        elif self._timer is None and not self.problem:
            self._timer = self._loop.call_later(WITHIN, self._sync)

    async def write_durably(self, lines: Iterable[bytes]) -> bool:
        """Write lines, and wait until they are on the disk; False if they cannot be written."""
        for line in lines:
            self._append(line)
        return await self._reach(self._written)

    async def aclose(self) -> None:
        """Wait until all written lines are on the disk."""
        await self._reach(self._written)
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown()

    def _append(self, line: bytes) -> None:
        if self.problem:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._fail(error)
            return
        self._written += 1

    async def _reach(self, count: int) -> bool:
        while self._durable < count and not self.problem:
            self._sync()
            assert self._syncing is not None
            await asyncio.wait([self._syncing])
        return not self.problem

    def _sync(self) -> None:
        """Start to write the lines to the disk, unless that runs already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._syncing is None and not self.problem:
            self._syncing = self._loop.create_task(self._sync_once(self._written), name="zsmtp journal")

    async def _sync_once(self, count: int) -> None:
        try:
            await self._loop.run_in_executor(self._thread, self._file.sync)
        except OSError as error:
            self._fail(error)
        else:
            self._durable = count
        finally:
            self._syncing = None
        if self._written > self._durable and self._timer is None and not self.problem:
            self._timer = self._loop.call_later(WITHIN, self._sync)

    def _fail(self, error: OSError) -> None:
        if not self.problem:
            self.problem = f"{escape(self._file.path)}: {reason(error)}"
            self._broken()
