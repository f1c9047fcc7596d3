"""The two sides of the scheduler's socket: job lines in, report lines out.

ZMailer's scheduler gives its transport agents one end of a socket pair as descriptors 0, 1 and 2, so neither may be
switched to non-blocking: what reads and writes here waits until there is something to read or room to write, and then
takes what there is. The feed may hold many lines at once; only complete lines are jobs.
"""

from __future__ import annotations

import os
import select

MAX_LINE = 16 * 1024  # octets of a job line; a path has at most 4096

_READ_UNIT = 64 * 1024
_WRITE_UNIT = 2048  # octets that fit wherever poll(2) sees room at all
_STOP_PATIENCE = 10  # seconds for a reader that does not read while this program is told to stop


class JobFeed:
    """Job lines from a descriptor. :meth:`take` gives what is there, :meth:`fill` reads once."""

    def __init__(self, fileno: int = 0) -> None:
        self._fileno = fileno
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False
        self.ended = False  # no more will come

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._fileno

    @property
    def holds_line(self) -> bool:
        """Whether :meth:`take` has something to give without another :meth:`fill`."""
        return self._buffer.find(b"\n", self._searched) >= 0

    def take(self) -> bytes | None:
        """The next complete line without its line end, None if there is none.

        Of a line over 16 KiB nothing is kept but its beginning, cut where the limit is: no file has such a name.
        """
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if self._searched <= MAX_LINE:
                    return None
                line = bytes(self._buffer[:MAX_LINE])
                self._buffer.clear()
                self._searched = 0
                if not self._skipping:
                    self._skipping = True
                    return line
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            if not self._skipping:
                return line
            self._skipping = False

    def fill(self) -> None:
        """Read what is there, waiting if need be; sets :attr:`ended` at the end of the feed. Raises OSError."""
        data = os.read(self._fileno, _READ_UNIT)
        if not data:
            self.ended = True
        self._buffer += data


class ReportChannel:
    """Report lines to a descriptor that stays blocking; ``stopping`` tells whether this program is to stop."""

    def __init__(self, fileno: int = 1) -> None:
        self._fileno = fileno
        self._poll = select.poll()
        self._poll.register(fileno, select.POLLOUT)
        self.stopping = False

    def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError, TimeoutError among them if nobody reads while a stop is asked for."""
        waited = 0
        while data:
            if not self._poll.poll(1000):
                waited += 1
                if self.stopping and waited >= _STOP_PATIENCE:
                    raise TimeoutError("nobody reads the reports")
                continue
            data = data[os.write(self._fileno, data[:_WRITE_UNIT]) :]
