"""Temporary files of a command, such as copies of messages; the system removes them with the last descriptor."""

from __future__ import annotations

import tempfile
from types import TracebackType
from typing import IO

from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.sysexits import Exit
from zsmtp.escape import escape


class KeptFile:
    """A temporary file that is written once, from its beginning. ``what`` names its content in errors: ``a message``.

    Nothing is buffered: other processes can read an octet as soon as :meth:`write` returns.
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
        """The open file, for reads that do not move its position (``os.pread``, ``mmap``)."""
        return self._file

    def write(self, octets: bytes, /) -> int:
        """Append octets; returns their number. Raises CommandFailed, for example if the disk is full."""
        left = memoryview(octets)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._failed(error) from error
        self.size += len(octets)
        return len(octets)

    def close(self) -> None:
        """Close it. May be called again."""
        self._file.close()

    def _failed(self, error: OSError) -> CommandFailed:
        where = f"in {tempfile.tempdir}" if tempfile.tempdir else "in a folder for temporary files"
        text = f"{self._what} cannot be kept {escape(where)} (TMPDIR names another folder): {reason(error)}"
        return CommandFailed(Exit.CANNOT_CREATE, text)
