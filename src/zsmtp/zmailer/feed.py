"""The two sides of the scheduler's socket: job lines in, report lines out.

ZMailer's scheduler gives its transport agents one end of a socket pair as descriptors 0, 1 and 2, so neither may be
switched to non-blocking: what reads and writes here waits until there is something to read or room to write, and then
takes what there is. The feed may hold many lines at once; only complete lines are jobs.

A scheduler that dies closes its side of both. If it had reports left to read, the feed ends with ECONNRESET instead of
an end of file, and that is all that this means; :class:`Presence` tells whether there is a scheduler.
"""

from __future__ import annotations

import errno
import os
import select

MAX_LINE = 16 * 1024  # octets of a job line; a path has at most 4096

_READ_UNIT = 64 * 1024
_WRITE_UNIT = 2048  # octets that fit wherever poll(2) sees room at all
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_STOP_PATIENCE = 10  # seconds for a reader that does not read while this program is told to stop


class JobFeed:
    """Job lines from a descriptor. :meth:`take` gives what is there, :meth:`fill` reads once.

    ``ended``: no more will come. ``broken``: why the feed could not be read to an end, None if nothing kept it.
    """

    def __init__(self, fileno: int = 0) -> None:
        self._fileno = fileno
        self._buffer = bytearray()
        self._searched = 0
        self._skipping = False
        self.ended = False
        self.broken: OSError | None = None

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
        """Read what is there, waiting if need be; sets :attr:`ended` at the end of the feed, and when it broke."""
        try:
            data = os.read(self._fileno, _READ_UNIT)
        except BlockingIOError:  # whoever shares the descriptor made it so
            return
        except OSError as error:
            self.broken = error
            data = b""
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


class Presence:
    """Whether the scheduler at the other end of a feed and a report channel still lives."""

    def __init__(self, feed: JobFeed, reports: int = 1) -> None:
        self._feed = feed
        self._poll = select.poll()
        self._poll.register(feed.fileno(), 0)  # errors alone
        self._poll.register(reports, 0)

    def reports_are_read(self) -> bool:
        """False if the reader has closed its end of the pipe, or both directions of a socket.

        Sets :attr:`JobFeed.broken` if the feed is, however much of it was read before.
        """
        events = self._poll.poll(0)
        if not events:
            return True
        gone = False
        for fileno, event in events:
            if fileno != self._feed.fileno():
                gone = bool(event & _GONE)
            elif event & select.POLLERR and self._feed.broken is None:
                self._feed.broken = OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return not gone
