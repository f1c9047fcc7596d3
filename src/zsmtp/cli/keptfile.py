"""Temporary files of a command that keep what it needs again, as copies of messages; they go away by themselves."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import IO

from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class KeptFile:
    """A temporary file that is written from its beginning on. ``what`` is what it keeps, for people: ``a message``.

    Nothing is buffered: what :meth:`write` has taken is there for whoever reads it, other processes too.
    """

    def __init__(self, what: str) -> None:
        """Make it. Raises CommandFailed."""
        self._what = what
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self._failed(error) from error
        self.size = 0
        """The octets in it."""

    def __enter__(self) -> KeptFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def file(self) -> IO[bytes]:
        """What to read it by, with places of one's own (``os.pread``, ``mmap``)."""
        return self._file

    def write(self, octets: bytes, /) -> int:
        """Append octets; how many they are. Raises CommandFailed, when the disk is full."""
        left = memoryview(octets)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failed(error) from error
        self.size += len(octets)
        return len(octets)

    def close(self) -> None:
        """Let go of it. May be called again."""
        self._file.close()

    def _failed(self, error: OSError) -> CommandFailed:
        where = f"in {tempfile.tempdir}" if tempfile.tempdir else "in a folder for temporary files"
        told = f"{self._what} cannot be kept {escape(where)} (TMPDIR names another folder): {reason(error)}"
        return CommandFailed(Exit.CANNOT_CREATE, told)
