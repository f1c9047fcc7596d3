"""A sending process of ``zsmtp send --jobs``: it receives messages over a channel, and sends results.

:mod:`zsmtp.cli.sendprocesses` starts it as a :class:`~zsmtp.net.processes.ChildProcess`. The command decides when it
ends. When the command is gone, the channel is closed, and this process ends at once.
"""

from __future__ import annotations

import asyncio
import io
import logging
import mmap
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

from zsmtp.cli.openfiles import allow_open_files
from zsmtp.cli.progress import ProgressDisplay
from zsmtp.cli.sendmessages import (
    AllSettled,
    CompletionReply,
    CompletionRequest,
    ConfigRejected,
    EndOfWork,
    ErrorLine,
    FilePlace,
    FinalResult,
    LibraryWarning,
    OctetsSent,
    Order,
    Ready,
    RetryScheduled,
    SendChannel,
    StopSending,
    Work,
    WorkTaken,
)
from zsmtp.cli.sendsources import FilePart
from zsmtp.client.client import Client, Submission
from zsmtp.client.report import Completing, Result
from zsmtp.errors import ConfigError, LocalError
from zsmtp.events import Observer, combine, ignore
from zsmtp.net.processes import ignore_signals

GATHER = 0.01  # seconds for which results are gathered into a frame
TURN = 32  # messages that are taken in one turn of the event loop
ORPHAN_END = 5.0  # seconds to close connections when the command is gone


def main() -> int:
    """Send until the end of the work or of the channel; the argument of the process is the descriptor of its socket.

    Return the exit status.
    """
    ignore_signals()
    allow_open_files()
    asyncio.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
    return 0


async def _serve(sock: socket.socket) -> None:
    channel = SendChannel(sock, gather=GATHER)
    try:
        order = await channel.receive()
        if order is not None:
            await SendWorker(channel, order).run()
    except ConfigError as error:
        channel.send(ConfigRejected(str(error)))
        await channel.drain()
    finally:
        channel.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkSubmission(Submission):
    """The submission of message ``number``, with the indexes of the marks of its recipients."""

    number: int
    marks: Mapping[str, int]


def _submission(one: Result | Completing) -> _WorkSubmission:
    assert isinstance(one.submission, _WorkSubmission)
    return one.submission


class _OctetCounter(ProgressDisplay):
    """Counts octets of content that were sent."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def take(self) -> int:
        """The octets since the last call."""
        sent, self.sent = self.sent, 0
        return sent


class _WarningSender(logging.Handler):
    """Sends warnings of the library to the command."""

    def __init__(self, channel: SendChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send_threadsafe(LibraryWarning(record.getMessage()))


class SendWorker:
    """Sends the messages that it receives over ``channel``, by an ``order``."""

    def __init__(self, channel: SendChannel, order: Order) -> None:
        """Raises ConfigError."""
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._order = order
        self._marks = mmap.mmap(order.marks, 0)
        self._work: asyncio.Queue[Work | None] = asyncio.Queue()  # WINDOW messages at most
        self._taken = 0
        self._requests: dict[int, asyncio.Future[bool]] = {}
        self._last_request = 0
        self._ending: asyncio.Future[None] | None = None
        self._is_orphan = False  # the command is gone
        self._counter = _OctetCounter() if order.octets else None
        self._is_count_scheduled = False
        logging.getLogger("zsmtp").addHandler(_WarningSender(channel))
        self._traces = None
        if order.trace is not None:
            from zsmtp.observers.files import Tracing

            print_error = lambda text: self.send(ErrorLine(text))  # noqa: E731
            self._traces = Tracing(order.trace, hashed=order.hash_addresses, complain=print_error)
        self._client = Client(
            order.config,
            observe=self._observer if order.octets or order.trace is not None else None,
            plans=order.plans,
            before_completion=self._may_complete,
        )

    async def run(self) -> None:
        """Send until the end of the work."""
        self.send(Ready())
        receiver = self._loop.create_task(self._receive(), name="zsmtp channel")
        try:
            async with self._client as client:
                await self._send(client)
            if self._ending is not None:
                await self._ending
        finally:
            receiver.cancel()
        self.send(AllSettled())
        await self._channel.drain()

    async def _send(self, client: Client) -> None:
        stream = client.stream(self._submissions(), retry_for=self._order.retry_for, on_retry=self._on_retry)
        try:
            async for result in stream:
                self.send(FinalResult(_submission(result).number, replace(result, submission=None)))
                if self._channel.backlog:
                    await self._channel.drain()
        except LocalError:  # the client was closed
            if self._ending is None:
                raise

    async def _submissions(self) -> AsyncIterator[Submission]:
        """The messages as they arrive."""
        while (one := await self._work.get()) is not None:
            self._taken += 1
            if self._taken == TURN:
                self.send(WorkTaken(self._taken))
                self._taken = 0
                await asyncio.sleep(0)
            yield _WorkSubmission(
                number=one.number,
                marks={to: mark for mark, to in enumerate(one.recipients, one.mark)},
                message=Path(one.source) if isinstance(one.source, str) else _opened(one.source),
                sender=one.sender,
                recipients=one.recipients,
                name=one.name,
                dsn=one.dsn,
                **one.options.given(),
            )

    # -------------------------------------------------------------- receiving

    async def _receive(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._on_message(message)
        self._is_orphan = True
        for request in tuple(self._requests):
            self._on_reply(request, allowed=False)
        self._stop("the process that started this one has ended", polite=False)
        self._loop.call_later(ORPHAN_END, os._exit, 1)

    def _on_message(self, message: Any) -> None:
        match message:
            case Work():
                self._work.put_nowait(message)
            case EndOfWork():
                self._work.put_nowait(None)
            case CompletionReply(request, allowed):
                self._on_reply(request, allowed=allowed)
            case StopSending(reason):
                self._stop(reason, polite=True)

    def _on_reply(self, request: int, *, allowed: bool) -> None:
        waiting = self._requests.pop(request, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(allowed)

    def _stop(self, reason: str, *, polite: bool) -> None:
        """Stop all deliveries."""
        if self._ending is None or not polite:
            self._ending = asyncio.ensure_future(self._client.aclose(polite=polite, reason=reason))
        self._work.put_nowait(None)

    # ---------------------------------------------------------------- sending

    def send(self, message: object) -> None:
        """Send a message, and the count of octets in the same frame."""
        self._channel.send(message)
        if self._counter is not None and not self._is_count_scheduled:
            self._is_count_scheduled = True
            self._channel.send_late(self._octets_sent)

    def _octets_sent(self) -> OctetsSent:
        assert self._counter is not None
        self._is_count_scheduled = False
        return OctetsSent(self._counter.take())

    async def _may_complete(self, completing: Sequence[Completing]) -> bool:
        """Mark recipients that may have their message from now on; first ask the command, if the order says so."""
        if self._order.asks and not await self._request(completing):
            return False
        if self._is_orphan:
            return False
        for one in completing:
            marks = _submission(one).marks
            for recipient in one.recipients:
                self._marks[marks[recipient]] = 1
        return True

    async def _request(self, completing: Sequence[Completing]) -> bool:
        if self._is_orphan:
            return False
        self._last_request += 1
        waiting: asyncio.Future[bool] = self._loop.create_future()
        self._requests[self._last_request] = waiting
        messages = tuple((_submission(one).number, one.recipients) for one in completing)
        self.send(CompletionRequest(self._last_request, messages))
        self._channel.flush()
        return await waiting

    def _on_retry(self, result: Result, seconds: float) -> None:
        submission = _submission(result)
        self._marks[submission.marks[result.recipient]] = 0
        self.send(RetryScheduled(submission.number, replace(result, submission=None), seconds))

    def _observer(self, destination: str) -> Observer:
        """The observer of one connection."""
        return combine(
            self._counter.observer() if self._counter is not None else ignore,
            self._traces.observer() if self._traces is not None else ignore,
        )


def _opened(place: FilePlace) -> IO[bytes]:
    return io.BufferedReader(FilePart(_inherited(place.descriptor), place.start, place.end))


@cache
def _inherited(descriptor: int) -> IO[bytes]:
    return open(descriptor, "rb", buffering=0, closefd=False)
