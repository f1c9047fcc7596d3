"""The process of a worker, started by :class:`~zsmtp.queue.workers.processes.WorkerProcess`.

It ends when the owner of the queue sends :class:`EndWorker`. When the owner is gone it ends at once, with all its
connections: there is no one to report results to. It ignores the signals that are for the owner
(:mod:`zsmtp.net.processes`), and sends log lines to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import traceback
from typing import NoReturn

from zsmtp.net.channel import Channel
from zsmtp.net.processes import ignore_signals
from zsmtp.queue.workers.messages import LogLine
from zsmtp.queue.workers.worker import Worker

OWNER_GONE, FAULT = 75, 70  # exit status
MAX_TEXT = 16_384  # characters of a log line, and of a traceback
MAX_BACKLOG = 1 << 20  # octets that wait to be written to the owner, beyond which log lines are dropped


def main() -> int:
    """Run a worker; the arguments of the process are the descriptor of its socket, and its number."""
    ignore_signals()
    descriptor, number = sys.argv[1:]
    _set_title(f"zsmtp serve: worker {int(number)}")
    asyncio.run(_serve(socket.socket(fileno=int(descriptor))))
    return 0


def _set_title(title: str) -> None:
    """Set the name that lists of processes show."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)


async def _serve(sock: socket.socket) -> None:
    worker = Worker()

    def on_message(message: object) -> None:
        try:
            worker.on_message(message)
        except Exception:
            traceback.print_exc()
            _exit(FAULT)

    def on_close(reason: str) -> None:
        if not worker.done.is_set():
            _exit(OWNER_GONE)

    worker.channel = Channel(sock, on_message, on_close)
    handler = ChannelHandler(worker.channel)
    logging.getLogger("zsmtp").addHandler(handler)
    try:
        await worker.done.wait()
        await asyncio.sleep(0)  # the last messages are written
    finally:
        logging.getLogger("zsmtp").removeHandler(handler)
        worker.done.set()
        worker.channel.close()


def _exit(status: int) -> NoReturn:
    os._exit(status)


class ChannelHandler(logging.Handler):
    """Sends log lines to the owner. It drops and counts those that come faster than the owner reads them."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line."""
        if self._channel.backlog > MAX_BACKLOG:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            text = f"{dropped} log lines of a worker were dropped: they came faster than they could be sent"
            self._channel.send_threadsafe(LogLine(record.name, logging.WARNING, text, "", record.created))
        try:
            text = record.getMessage()
            exception = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        except Exception:
            self.handleError(record)
            return
        line = LogLine(record.name, record.levelno, text[:MAX_TEXT], exception[-MAX_TEXT:], record.created)
        self._channel.send_threadsafe(line)
