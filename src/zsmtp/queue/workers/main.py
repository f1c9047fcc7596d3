"""The process of a worker: ``python -m zsmtp.queue.workers.main DESCRIPTOR NUMBER``, which only the owner starts.

The descriptor is that of its end of a pair of sockets. It ends when the owner says so, and at once, with all its
connections, when the owner is gone: nobody would hear of a result then. Signals are the owner's business, which gets
those of a terminal or a service manager as well. Lines for the log go to the owner.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from zsmtp.queue.workers.channel import Channel
from zsmtp.queue.workers.messages import LogLine
from zsmtp.queue.workers.worker import Worker

OWNER_GONE, FAULT = 75, 70  # exit status
MAX_TEXT = 16_384  # characters of a log line, and of a traceback
MAX_BACKLOG = 1 << 20  # octets on their way to the owner beyond which log lines are left out


def main(arguments: list[str] | None = None) -> int:
    """Run a worker."""
    descriptor, number = sys.argv[1:] if arguments is None else arguments
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    _entitle(f"zsmtp serve: worker {int(number)}")
    asyncio.run(_serve(socket.socket(fileno=int(descriptor))))
    return 0


def _entitle(title: str) -> None:
    """Name the process, for whoever lists them."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)


async def _serve(sock: socket.socket) -> None:
    worker = Worker()

    def heard(message: object) -> None:
        try:
            worker.heard(message)
        except Exception:
            traceback.print_exc()
            _exit(FAULT)

    def ended(reason: str) -> None:
        if not worker.done.is_set():
            _exit(OWNER_GONE)

    worker.channel = Channel(sock, heard, ended)
    handler = ChannelHandler(worker.channel)
    logging.getLogger("zsmtp").addHandler(handler)
    try:
        await worker.done.wait()
        await asyncio.sleep(0)  # what was said last is written
    finally:
        logging.getLogger("zsmtp").removeHandler(handler)
        worker.done.set()
        worker.channel.close()


def _exit(status: int) -> NoReturn:
    os._exit(status)


class ChannelHandler(logging.Handler):
    """Sends lines to the owner. Where they come faster than it hears them some are left out, and counted."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        if self._channel.backlog > MAX_BACKLOG:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            text = f"{lost} lines of a worker were left out: there were too many"
            self._channel.send(LogLine(record.name, logging.WARNING, text, "", record.created))
        try:
            text = record.getMessage()
            exception = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        except Exception:
            self.handleError(record)
            return
        line = LogLine(record.name, record.levelno, text[:MAX_TEXT], exception[-MAX_TEXT:], record.created)
        self._channel.send(line)


if __name__ == "__main__":
    sys.exit(main())
