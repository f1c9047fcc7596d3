"""Reads job lines from the scheduler's socket and writes report lines to it.

ZMailer's scheduler gives its transport agents one end of a socket pair as descriptors 0, 1 and 2, so neither may be
made non-blocking: reads and writes here wait until the descriptor is ready, and then transfer what is possible. The
feed may hold many lines at once; only complete lines are jobs.

A scheduler that dies closes its side of both. If it had unread reports, the feed ends with ECONNRESET instead of an end
of file, which means nothing else; :class:`Presence` tests whether the scheduler still exists.
"""

from __future__ import annotations

import errno
import os
import select

MAX_LINE = 16 * 1024  # octets of a job line; a path has at most 4096

_READ_UNIT = 64 * 1024
_WRITE_UNIT = 2048  # octets that fit whenever poll(2) reports room
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_STOP_PATIENCE = 10  # seconds to wait for a slow reader while a stop is requested


class JobFeed:
    """Job lines from a descriptor. :meth:`take` returns buffered lines, :meth:`fill` reads once.

    ``ended``: no more will come. ``broken``: the error that ended the feed, None if there was none.
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
        """Whether :meth:`take` returns a line without another :meth:`fill`."""
        return self._buffer.find(b"\n", self._searched) >= 0

    def take(self) -> bytes | None:
        """The next complete line without its line end, None if there is none.

        A line over 16 KiB is cut at the limit: no file has such a name.
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
        """Read what is available, waiting if necessary; sets :attr:`ended` at the end of the feed or after an error."""
        try:
            data = os.read(self._fileno, _READ_UNIT)
        except BlockingIOError:  # another process that shares the descriptor made it non-blocking
            return
        except OSError as error:
            self.broken = error
            data = b""
        if not data:
            self.ended = True
        self._buffer += data


class ReportChannel:
    """Report lines to a descriptor that stays blocking; ``stopping``: a stop is requested."""

    def __init__(self, fileno: int = 1) -> None:
        self._fileno = fileno
        self._poll = select.poll()
        self._poll.register(fileno, select.POLLOUT)
        self.stopping = False

    def write(self, data: bytes) -> None:
        """Write all of ``data``. Raises OSError; TimeoutError if there is no reader while a stop is requested."""
        waited = 0
        while data:
            if not self._poll.poll(1000):
                waited += 1
                if self.stopping and waited >= _STOP_PATIENCE:
                    raise TimeoutError("the reports are not read")
                continue
            data = data[os.write(self._fileno, data[:_WRITE_UNIT]) :]


class Presence:
    """Whether the scheduler at the other end of a feed and a report channel still exists."""

    def __init__(self, feed: JobFeed, reports: int = 1) -> None:
        self._feed = feed
        self._poll = select.poll()
        self._poll.register(feed.fileno(), 0)  # errors only
        self._poll.register(reports, 0)

    def reports_are_read(self) -> bool:
        """False if the reader has closed its end of the pipe, or both directions of a socket.

        Sets :attr:`JobFeed.broken` if the feed has failed, even if not all of it was read.
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
