"""The sending processes of ``zsmtp send --jobs``: start, shares, results and end.

Each is a :class:`~zsmtp.net.processes.ChildProcess` with :mod:`zsmtp.cli.sendworker`, at the other end of a channel.
This process reads messages, and writes results and the journal; the sending processes deliver. A
:class:`SendingListener` receives the results.

A sending process ends when this process tells it to (:meth:`SendingProcesses.stop`), kills it
(:meth:`SendingProcesses.kill`), or is gone. If it ends in any other way, its recipients without a result are in doubt
where the message may be complete, and the others are deferred as not tried.
"""

from __future__ import annotations

import asyncio
import io
import mmap
import os
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol

from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.keptfile import KeptFile
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.results import untold
from zsmtp.cli.sendmessages import (
    WINDOW,
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
from zsmtp.cli.sendshares import Share
from zsmtp.cli.sendsources import FilePart
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import Config
from zsmtp.client.report import Fate, Result
from zsmtp.errors import ConfigError, LocalError
from zsmtp.net.processes import ChildProcess

BATCH = 64  # messages in one frame
BATCH_RECIPIENTS = 1000
START_WITHIN = 60.0  # seconds that a process may take to start
END_WITHIN = 10.0  # seconds that a process without work may take to end


class SendingListener(Protocol):
    """Receives results of messages, warnings and errors."""

    def settled(self, message: Outgoing, result: Result) -> None:
        """Note the final result of a recipient."""

    def put_off(self, message: Outgoing, result: Result, seconds: float) -> None:
        """Note that a recipient was deferred, and is tried again in so many seconds."""

    async def may_begin(self, begun: Sequence[tuple[Outgoing, tuple[str, ...]]]) -> bool:
        """Return whether messages may be complete for these recipients from now on."""

    def sent(self, octets: int) -> None:
        """Count octets of content that were sent."""

    def warned(self, text: str) -> None:
        """Log a warning of the library."""

    def complain(self, text: str) -> None:
        """Print a line on standard error."""


class SendingProcesses:
    """One process for each of ``shares`` of ``messages``. ``order`` says how they send, without configuration.

    They are started before the event loop and threads of this process, so that they can be copies of it. Each has the
    configuration ``config`` with the limits of its share. ``warned`` are warnings that were logged before. Raises
    CommandFailed if there is no room for its files, or a process cannot be started.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        messages: Sequence[Outgoing],
        config: Config,
        order: Order,
        to: SendingListener,
        warned: Iterable[str] = (),
    ) -> None:
        texts = _SharedTexts(to, warned)
        descriptors = tuple({place.descriptor for one in messages if isinstance(place := _place(one), FilePlace)})
        self._processes: list[_SendingProcess] = []
        try:
            for share in shares:
                its = replace(order, config=replace(config, limits=share.limits))
                self._processes.append(_SendingProcess(share, messages, its, descriptors, texts, to))
        except BaseException:
            self.close()
            raise

    async def run(self) -> None:
        """Send everything, or until :meth:`stop`.

        Raises CommandFailed, ConfigError, LocalError, and what the listener raises.
        """
        work = [asyncio.create_task(one.run(), name="zsmtp sending process") for one in self._processes]
        try:
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            await asyncio.gather(*(one.end() for one in self._processes))

    def close(self) -> None:
        """Close the files; a process that still runs ends."""
        for one in self._processes:
            one.close()

    def stop(self, reason: str) -> None:
        """Stop all deliveries; :meth:`run` returns then."""
        for one in self._processes:
            one.stop(reason)

    def kill(self) -> None:
        """Kill all processes."""
        for one in self._processes:
            one.kill()


class _SharedTexts:
    """Passes a text on once if several processes send it: as often as the process that sends it most often."""

    def __init__(self, to: SendingListener, warned: Iterable[str]) -> None:
        self._to = to
        self._passed: Counter[tuple[type, str]] = Counter((LibraryWarning, text) for text in warned)

    def add(self, message: LibraryWarning | ErrorLine, times: int) -> None:
        """Take a text that one process sends for the ``times``-th time."""
        key = type(message), message.text
        if times <= self._passed[key]:
            return
        self._passed[key] = times
        if isinstance(message, LibraryWarning):
            self._to.warned(message.text)
        else:
            self._to.complain(message.text)


class _SendingProcess:
    """One process and its share."""

    def __init__(
        self,
        share: Share,
        messages: Sequence[Outgoing],
        order: Order,
        descriptors: tuple[int, ...],
        texts: _SharedTexts,
        to: SendingListener,
    ) -> None:
        self._parts = share.parts
        self._messages = messages
        self._first_marks = [0, *accumulate(len(part.recipients) for part in share.parts)]
        self._marks = _MarkFile(self._first_marks[-1])
        self._order = replace(order, marks=self._marks.descriptor)
        self._texts = texts
        self._to = to
        self._process = self._start((*descriptors, self._marks.descriptor))
        self._channel: SendChannel | None = None
        self._credit = asyncio.Semaphore(WINDOW)
        self._sent = 0  # parts
        self._open: dict[int, set[str]] = {}  # recipients of those without a result
        self._received: Counter[tuple[type, str]] = Counter()  # how often it has sent each text
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None
        self._why_stopped = ""
        self._ready = asyncio.Event()
        self._finished = False

    # ----------------------------------------------------------- start and end

    async def run(self) -> None:
        """Have the process send its share."""
        channel = self._channel = SendChannel(self._process.socket)
        channel.send(self._order)
        if self._why_stopped:
            self.stop(self._why_stopped)
        try:
            self._begin_task(self._send_work(channel))
            self._begin_task(self._watch_start())
            while (message := await channel.receive()) is not None:
                self._on_message(message)
        finally:
            for task in (tasks := tuple(self._tasks)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.end()
        if self._error is not None:
            raise self._error
        if channel.problem:
            raise LocalError(f"--jobs: {channel.problem}")
        if not self._finished or not self._why_stopped:
            self._settle_rest()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work), name="zsmtp sending process")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Kill the process if a task fails: it would wait for ever."""
        try:
            await work
        except Exception as error:
            self._error = self._error or error
            self.kill()

    def _start(self, descriptors: tuple[int, ...]) -> ChildProcess:
        try:
            return ChildProcess("zsmtp.cli.sendworker", descriptors=descriptors, may_fork=True)
        except OSError as error:
            self._marks.close()
            raise CommandFailed(Exit.OS, f"--jobs: a process cannot be started: {reason(error)}") from error

    async def _watch_start(self) -> None:
        """Kill the process if it does not start in time."""
        try:
            await asyncio.wait_for(self._ready.wait(), START_WITHIN)
        except TimeoutError:
            self.kill()

    async def end(self) -> None:
        """Close the channel, and wait until the process has ended. May be called again."""
        if self._channel is not None:
            self._channel.close()
        await self._process.wait(END_WITHIN)

    def close(self) -> None:
        """Close its files."""
        self._process.socket.close()
        self._marks.close()

    def stop(self, reason: str) -> None:
        """Stop the deliveries of the process."""
        self._why_stopped = reason
        if self._channel is not None:
            self._channel.send(StopSending(reason))

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    # ------------------------------------------------------------------- work

    async def _send_work(self, channel: SendChannel) -> None:
        """Send the process its share as it takes the messages."""
        recipients = 0
        for number, part in enumerate(self._parts):
            if self._credit.locked() or number % BATCH == 0 or recipients >= BATCH_RECIPIENTS:
                await channel.drain()
                recipients = 0
            await self._credit.acquire()
            if self._why_stopped:
                return
            recipients += len(part.recipients)
            self._open[number] = set(part.recipients)
            self._sent += 1
            one = self._messages[part.number]
            channel.send(
                Work(
                    number,
                    one.name,
                    _place(one),
                    one.sender,
                    part.recipients,
                    self._first_marks[number],
                    one.dsn,
                    one.options,
                )
            )
        channel.send(EndOfWork())

    def _on_message(self, message: Any) -> None:
        match message:
            case FinalResult(number, result):
                self._settle(number, result)
            case WorkTaken(messages):
                for _ in range(messages):
                    self._credit.release()
            case CompletionRequest():
                self._begin_task(self._reply(message))
            case RetryScheduled(number, result, seconds):
                self._to.put_off(self._message(number), result, seconds)
            case OctetsSent(octets):
                self._to.sent(octets)
            case LibraryWarning() | ErrorLine():
                key = type(message), message.text
                self._received[key] += 1
                self._texts.add(message, self._received[key])
            case Ready():
                self._ready.set()
            case ConfigRejected(problem):
                raise ConfigError(problem)
            case AllSettled():
                self._finished = True

    def _message(self, number: int) -> Outgoing:
        return self._messages[self._parts[number].number]

    def _settle(self, number: int, result: Result) -> None:
        self._open[number].discard(result.recipient)
        if not self._open[number]:
            del self._open[number]
        self._to.settled(self._message(number), result)

    async def _reply(self, request: CompletionRequest) -> None:
        """Reply whether recipients may have their message from now on."""
        begun = [(self._message(number), recipients) for number, recipients in request.messages]
        allowed = await self._to.may_begin(begun)
        if self._channel is not None:
            self._channel.send(CompletionReply(request.request, allowed))

    # -------------------------------------------------------- unexpected end

    def _settle_rest(self) -> None:
        """Settle recipients without a result: in doubt if they may have their message, else deferred."""
        ending = self._process.killed_by or f"status {self._process.exit_status}"
        why = self._why_stopped or f"a process of --jobs ended unexpectedly ({ending})"
        left = [
            (number, place, to)
            for number, part in enumerate(self._parts)
            for place, to in enumerate(part.recipients, self._first_marks[number])
            if number >= self._sent or to in self._open.get(number, ())
        ]
        if not self._why_stopped and left:
            self._to.complain(f"{why}; {len(left)} of its recipients are in doubt or were not tried")
        for number, place, to in left:
            message = self._message(number)
            if self._marks.is_set(place):
                self._to.settled(message, untold(message, to, Fate.IN_DOUBT, "4.4.2", f"{why} while it was sent"))
            elif not self._why_stopped:
                self._to.settled(message, untold(message, to, Fate.DEFERRED, "4.3.0", f"{why} before it was tried"))


class _MarkFile:
    """A temporary file with ``count`` octets, all zero, that two processes map into memory."""

    def __init__(self, count: int) -> None:
        """Raises CommandFailed, OSError."""
        self._file = KeptFile("what processes have begun")
        try:
            self._file.write(bytes(count))  # a hole in it might find no room later
            self._octets = mmap.mmap(self.descriptor, 0)
        except BaseException:
            self._file.close()
            raise

    @property
    def descriptor(self) -> int:
        """Its descriptor, for the other process."""
        return self._file.file.fileno()

    def is_set(self, place: int) -> bool:
        """Whether the octet at ``place`` is not zero."""
        return self._octets[place] != 0

    def close(self) -> None:
        """Close the file."""
        self._octets.close()
        self._file.close()


def _place(message: Outgoing) -> str | FilePlace:
    """The source of a message, for another process."""
    source = message.source
    if isinstance(source, str):
        own = source.startswith(("/dev/", "/proc/"))  # /dev/stdin is another file for another process
        return os.path.realpath(source) if own else source
    assert isinstance(source, io.BufferedReader)
    assert isinstance(source.raw, FilePart)
    return FilePlace(*source.raw.place)
