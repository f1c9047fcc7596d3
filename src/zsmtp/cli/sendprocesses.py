"""The processes that ``zsmtp send --jobs`` sends by: started, given their shares, heard, and ended.

Each is :mod:`zsmtp.cli.sendworker` at the other end of a pipe. This side reads messages, writes results and the
journal; those processes deliver. Whoever is told of results is a :class:`SendingListener`.

Ctrl-C reaches all processes of a terminal, and systemd sends SIGTERM to all of a unit; those that send have both
blocked from their first moment, and end because this process says so (:meth:`SendingProcesses.stop`), is killed, or
kills them (:meth:`SendingProcesses.kill`). One that ends in any other way has its messages told as in doubt where they
may be complete, else as not tried.
"""

from __future__ import annotations

import asyncio
import io
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol

from zsmtp.cli.failure import CommandFailed, reason
from zsmtp.cli.outgoing import Outgoing
from zsmtp.cli.results import untold
from zsmtp.cli.sendpipe import (
    WINDOW,
    Allowed,
    AllSettled,
    Complained,
    FilePlace,
    FinalResult,
    LeaveAsked,
    NoMore,
    OctetsSent,
    Order,
    ProcessPipe,
    PutOff,
    Ready,
    StopSending,
    Unable,
    Warned,
    Work,
    WorkTaken,
    config_values,
)
from zsmtp.cli.sendshares import Share
from zsmtp.cli.sendsources import FilePart
from zsmtp.cli.sysexits import Exit
from zsmtp.client.config import Config
from zsmtp.client.report import Fate, Result
from zsmtp.errors import ConfigError

BATCH = 64  # messages in one frame
BATCH_RECIPIENTS = 1000
START_WITHIN = 60.0  # seconds for a process to come up
END_WITHIN = 10.0  # seconds for one to end that has nothing more to do


class SendingListener(Protocol):
    """Who is told what becomes of messages."""

    def settled(self, message: Outgoing, result: Result) -> None:
        """A recipient has its final result."""

    def put_off(self, message: Outgoing, result: Result, seconds: float) -> None:
        """A recipient was deferred, and is tried again in so many seconds."""

    async def may_begin(self, begun: Sequence[tuple[Outgoing, tuple[str, ...]]]) -> bool:
        """Whether messages may be complete for these recipients from now on."""

    def sent(self, octets: int) -> None:
        """So many octets of content more were sent."""

    def warned(self, text: str) -> None:
        """The library warns of something."""

    def complain(self, text: str) -> None:
        """Something is to be said on standard error."""


class SendingProcesses:
    """One process for each of ``shares`` of ``messages``; ``order`` says how they send, apart from limits.

    ``warned`` are the warnings that need not be told any more.
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
        told = _OnceForAll(to, warned)
        descriptors = tuple({place.descriptor for one in messages if isinstance(place := _place(one), FilePlace)})
        self._processes = [
            _SendingProcess(
                share,
                messages,
                replace(order, config=config_values(replace(config, limits=share.limits))),
                descriptors,
                told,
                to,
            )
            for share in shares
        ]

    async def run(self) -> None:
        """Send everything, or until :meth:`stop`. Raises CommandFailed, ConfigError, and what its listener raises."""
        work = [asyncio.create_task(one.run(), name="zsmtp sending process") for one in self._processes]
        try:
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            await asyncio.gather(*(one.end() for one in self._processes))
            for one in self._processes:
                one.close()

    def stop(self, reason: str) -> None:
        """Begin nothing more and end what is under way; :meth:`run` returns then."""
        for one in self._processes:
            one.stop(reason)

    def kill(self) -> None:
        """End them at once."""
        for one in self._processes:
            one.kill()


class _OnceForAll:
    """Says once what several processes find out each: as often as the one says it that says it most often."""

    def __init__(self, to: SendingListener, warned: Iterable[str]) -> None:
        self._to = to
        self._said: Counter[tuple[type, str]] = Counter((Warned, text) for text in warned)

    def tell(self, one: Warned | Complained, times: int) -> None:
        """A process says this for the ``times``-th time."""
        about = type(one), one.text
        if times <= self._said[about]:
            return
        self._said[about] = times
        if isinstance(one, Warned):
            self._to.warned(one.text)
        else:
            self._to.complain(one.text)


class _SendingProcess:
    """One process and its share."""

    def __init__(
        self,
        share: Share,
        messages: Sequence[Outgoing],
        order: Order,
        descriptors: tuple[int, ...],
        told: _OnceForAll,
        to: SendingListener,
    ) -> None:
        self._parts = share.parts
        self._messages = messages
        self._first_marks = [0, *accumulate(len(part.recipients) for part in share.parts)]
        self._marks = _MarkFile(self._first_marks[-1])
        self._order = replace(order, marks=self._marks.descriptor)
        self._descriptors = (*descriptors, self._marks.descriptor)
        self._told = told
        self._to = to
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: ProcessPipe | None = None
        self._credit = asyncio.Semaphore(WINDOW)
        self._handed_out = 0  # parts
        self._open: dict[int, set[str]] = {}  # who of those has no result
        self._heard: Counter[tuple[type, str]] = Counter()  # what it has said, how often
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None
        self._why_stopped = ""
        self._ready = asyncio.Event()
        self._finished = False

    # ----------------------------------------------------------- start and end

    async def run(self) -> None:
        """Start it, and let it send its share."""
        pipe = await self._start()
        pipe.say(self._order)
        pipe.flush()
        self._pipe = pipe
        if self._why_stopped:
            self.stop(self._why_stopped)
        try:
            self._begin_task(self._hand_out(pipe))
            self._begin_task(self._watch_start())
            while (said := await pipe.hear()) is not None:
                for one in said:
                    self._hear(one)
        finally:
            for task in (tasks := tuple(self._tasks)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.end()
        if self._error is not None:
            raise self._error
        if not self._finished or not self._why_stopped:
            self._tell_of_the_rest()

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work), name="zsmtp sending process")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """What fails here must not leave the process waiting for ever."""
        try:
            await work
        except Exception as error:
            self._error = self._error or error
            self.kill()

    async def _start(self) -> ProcessPipe:
        here, there = socket.socketpair()
        try:
            self._process = _started(there.fileno(), self._descriptors)
        except OSError as error:
            here.close()
            raise CommandFailed(Exit.OS, f"--jobs: a process cannot be started: {reason(error)}") from error
        finally:
            there.close()
        return await ProcessPipe.over(here)

    async def _watch_start(self) -> None:
        """A process that does not come up is no use."""
        try:
            await asyncio.wait_for(self._ready.wait(), START_WITHIN)
        except TimeoutError:
            self.kill()

    async def end(self) -> None:
        """Hang up, and wait until it has ended. May be called again."""
        if self._pipe is not None:
            await self._pipe.aclose()
        if self._process is not None and self._process.returncode is None:
            process = self._process
            try:
                await asyncio.to_thread(process.wait, END_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    def close(self) -> None:
        """Let go of what is kept of it."""
        self._marks.close()

    def stop(self, reason: str) -> None:
        """Have it end what is under way."""
        self._why_stopped = reason
        if self._pipe is not None:
            self._pipe.say(StopSending(reason))
            self._pipe.flush()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    # ------------------------------------------------------------------- work

    async def _hand_out(self, pipe: ProcessPipe) -> None:
        """Give it its share as it takes it."""
        recipients = 0
        for number, part in enumerate(self._parts):
            if self._credit.locked() or number % BATCH == 0 or recipients >= BATCH_RECIPIENTS:
                pipe.flush()
                await pipe.drain()
                recipients = 0
            await self._credit.acquire()
            if self._why_stopped:
                return
            recipients += len(part.recipients)
            self._open[number] = set(part.recipients)
            self._handed_out += 1
            one = self._messages[part.number]
            pipe.say(
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
        pipe.say(NoMore())
        pipe.flush()

    def _hear(self, said: Any) -> None:
        match said:
            case FinalResult(number, result):
                self._settle(number, result)
            case WorkTaken(messages):
                for _ in range(messages):
                    self._credit.release()
            case LeaveAsked():
                self._begin_task(self._allow(said))
            case PutOff(number, result, seconds):
                self._to.put_off(self._message(number), result, seconds)
            case OctetsSent(octets):
                self._to.sent(octets)
            case Warned() | Complained():
                about = type(said), said.text
                self._heard[about] += 1
                self._told.tell(said, self._heard[about])
            case Ready():
                self._ready.set()
            case Unable(problem):
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

    async def _allow(self, asked: LeaveAsked) -> None:
        """Answer whether recipients may have their message from now on."""
        allowed = await self._to.may_begin([(self._message(number), recipients) for number, recipients in asked.about])
        if self._pipe is not None:
            self._pipe.say(Allowed(asked.question, allowed))
            self._pipe.flush()

    # ------------------------------------------------------------------ death

    def _tell_of_the_rest(self) -> None:
        """It has ended: of those without a result whoever may have a message is in doubt, others were not tried."""
        assert self._process is not None
        why = self._why_stopped or f"a process of --jobs ended unexpectedly ({_ending(self._process.returncode)})"
        left = [
            (number, place, to)
            for number, part in enumerate(self._parts)
            for place, to in enumerate(part.recipients, self._first_marks[number])
            if number >= self._handed_out or to in self._open.get(number, ())
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
    """A file with so many octets, all zero, that processes have in their memory; it goes away by itself."""

    def __init__(self, count: int) -> None:
        """Raises OSError."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        self._file.write(bytes(count))  # a hole in it might find no room later
        self._file.flush()
        self._octets = mmap.mmap(self._file.fileno(), 0)

    @property
    def descriptor(self) -> int:
        """What the other process maps it by."""
        return self._file.fileno()

    def is_set(self, place: int) -> bool:
        """Whether the octet at that place is not zero."""
        return self._octets[place] != 0

    def close(self) -> None:
        """Let go of it."""
        self._octets.close()
        self._file.close()


def _place(message: Outgoing) -> str | FilePlace:
    """What another process reads a message from."""
    source = message.source
    if isinstance(source, str):
        own = source.startswith(("/dev/", "/proc/"))  # /dev/stdin is another file for another process
        return os.path.realpath(source) if own else source
    assert isinstance(source, io.BufferedReader)
    assert isinstance(source.raw, FilePart)
    return FilePlace(*source.raw.place)


def _started(descriptor: int, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """The process, which has these descriptors, and finds modules where this one does. Raises OSError."""
    command = [sys.executable, "-P", "-m", "zsmtp.cli.sendworker", str(descriptor)]
    places = os.pathsep.join(os.path.abspath(one) for one in sys.path if one)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(descriptor, *descriptors),
            env={**os.environ, "PYTHONPATH": places},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
