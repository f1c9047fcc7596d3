"""Writes results of TLS sessions to a file for each day, or to the socket of a report collector (RFC 8460).

``tls-report-file`` of the agent names either, and ``tls_report_file`` of the library. A UNIX datagram socket gets each
result as a datagram of tlsrpt-collectd; anything else is the beginning of a file name: ``/var/log/tlsrpt`` becomes
``/var/log/tlsrpt.2026-01-31``, a line for each session (UTC days, as in reports), to which many processes append at
once. ``zsmtp.tls.tlsrpt.build_reports`` makes the reports of a day that is over.

Reports are optional: nothing here waits or raises, and failures cause one warning.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime

from zsmtp.tls.tlsrpt import SessionResult, collector_datagram, encode_result


def report_to(path: str, warn: Callable[[str], None]) -> Callable[[SessionResult], None]:
    """A function that records session results for ``path``."""
    sink = ReportSink(path, warn)
    return lambda result: sink.record(result, time.time())


class ReportSink:
    """Records session results for ``path``; ``warn`` is called once, with the reason, if that fails."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn: Callable[[str], None] | None = warn

    def record(self, result: SessionResult, now: float) -> None:
        """Record one result; ``now`` in seconds since 1970."""
        try:
            if _is_socket(self._path):
                self._send(collector_datagram(result))
            else:
                self._append(encode_result(result, now), f"{self._path}.{datetime.fromtimestamp(now, UTC):%Y-%m-%d}")
        except (OSError, ValueError) as error:
            if self._warn is not None:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                self._warn(f"{self._path}: {why}; results of TLS sessions are lost")
                self._warn = None

    def _send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(datagram, self._path)

    def _append(self, line: bytes, path: str) -> None:
        # One write, so that lines of several processes do not mix; a FIFO must not block.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(path, flags, 0o640)
        try:
            if os.write(fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(fd)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
