"""Where results of TLS sessions go as they happen: a file for each day, or the socket of a report collector (RFC 8460).

``tls-report-file`` of the agent names either, and ``tls_report_file`` of the library. A UNIX datagram socket gets each
result as a datagram of tlsrpt-collectd; anything else is the beginning of a file name: ``/var/log/tlsrpt`` becomes
``/var/log/tlsrpt.2026-01-31``, a line for each session (UTC days, as reports have them), to which many processes append
at once. ``zsmtp.tls.tlsrpt.build_reports`` makes the reports of a day that is over.

Reports are a courtesy: nothing here waits or raises, and trouble is told once.
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


def report_to(path: str, complain: Callable[[str], None]) -> Callable[[SessionResult], None]:
    """Takes session results for ``path`` as they happen."""
    sink = ReportSink(path, complain)
    return lambda result: sink.record(result, time.time())


class ReportSink:
    """Takes session results for ``path``; ``complain`` hears once why one could not be kept."""

    def __init__(self, path: str, complain: Callable[[str], None]) -> None:
        self._path = path
        self._complain: Callable[[str], None] | None = complain

    def record(self, result: SessionResult, now: float) -> None:
        """Keep one result; ``now`` in seconds since 1970."""
        try:
            if _is_socket(self._path):
                self._send(collector_datagram(result))
            else:
                self._append(encode_result(result, now), f"{self._path}.{datetime.fromtimestamp(now, UTC):%Y-%m-%d}")
        except (OSError, ValueError) as error:
            if self._complain is not None:
                why = (isinstance(error, OSError) and error.strerror) or str(error)
                self._complain(f"{self._path}: {why}; results of TLS sessions are lost")
                self._complain = None

    def _send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(datagram, self._path)

    def _append(self, line: bytes, path: str) -> None:
        # One write, so that lines of several processes do not mix; a FIFO must not hold anybody up.
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
