"""The library for programs without an event loop: :func:`deliver` for one message, :class:`Client` for many.

:func:`deliver` runs an event loop of its own during the call, and refuses to run inside another one. A client runs one
in a thread, with its connections, until it is closed::

    with zsmtp.Client(relay="smtp://mail.example.org") as client:
        for result in client.stream(messages):
            print(result)

Any thread of the process may use it. Interrupting a call (Ctrl-C) ends its deliveries and closes what is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import wait
from enum import Enum
from functools import partial
from os import PathLike
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from zsmtp.client import client as asynchronous
from zsmtp.client.client import ObserverFor, Submission
from zsmtp.client.config import Config, Relay
from zsmtp.client.dsn import DSN
from zsmtp.client.message import MessageLike
from zsmtp.client.report import Report, Result
from zsmtp.client.retrying import OnRetry, RetrySettings, ignore_retry
from zsmtp.errors import LocalError, LoopRunning
from zsmtp.net.loopthread import LoopThread

if TYPE_CHECKING:
    from zsmtp.proto.mailoptions import OptionArguments

_WANTED = 32
"""The most submissions that the loop requests at once; each is passed on as soon as the program gives it."""
_AHEAD = 1000
"""The most results in the queue to the program; further ones wait behind them."""


class Client:
    """Keeps connections and delivers over them; :class:`zsmtp.aio.Client` for programs without an event loop.

    ``config``, ``relay``, ``observe`` and ``trace`` are as in that class. Observers are called in another thread.
    Raises ConfigError. Use after :meth:`close`, or after a fork, is a LocalError.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        relay: Relay | str | None = None,
        observe: ObserverFor | None = None,
        trace: str | PathLike[str] | None = None,
    ) -> None:
        self._client = asynchronous.Client(config, relay=relay, observe=observe, trace=trace)
        self._thread = LoopThread("client", LocalError, self._client.__aenter__)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close(partial(self._client.aclose, polite=kind is None))

    def close(self) -> None:
        """End everything: undecided recipients are deferred or in doubt, connections are closed. Idempotent."""
        self._thread.close(self._client.aclose)

    def deliver(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        timeout: float | None = None,
        name: str = "",
        dsn: DSN | None = None,
        retry_for: float = 0.0,
        **options: Unpack[OptionArguments],
    ) -> Report:
        """Deliver one message to all its recipients and report; as :meth:`zsmtp.aio.Client.deliver`."""
        work = self._client.deliver(
            message,
            sender=sender,
            recipients=recipients,
            timeout=timeout,
            name=name,
            dsn=dsn,
            retry_for=retry_for,
            **options,
        )
        return self._thread.call(work)

    def stream(
        self,
        submissions: Iterable[Submission | MessageLike],
        *,
        retry_for: float = 0.0,
        on_retry: OnRetry = ignore_retry,
    ) -> Iterator[Result]:
        """Deliver any number of messages; yield one result for each recipient as soon as it is known.

        As :meth:`zsmtp.aio.Client.stream`. ``submissions`` are read in the thread that iterates over the results. An
        exception from them is raised after the results of earlier submissions. ``on_retry`` is called in another
        thread. Leaving the loop early ends unfinished deliveries.
        """
        retry = RetrySettings(retry_for, on_retry)
        handover = _Handover(self._client, submissions, retry)
        done = self._thread.start(handover.run())
        done.add_done_callback(lambda _: handover.out.put(_Sign.OVER))
        try:
            yield from handover.results(self._thread)
        finally:
            with contextlib.suppress(LocalError):  # the client is closed, which ends the stream
                self._thread.soon(handover.stop)
                wait([done])
        if done.cancelled():
            raise LocalError("this client was closed meanwhile")
        done.result()
        if handover.error is not None:
            raise handover.error


class _Sign(Enum):
    """Signals between the loop and the program's thread, beside results and submissions."""

    MORE = "submissions are expected"
    OVER = "no more come"


class _Handover:
    """One stream between the loop and the program's thread."""

    def __init__(
        self, client: asynchronous.Client, submissions: Iterable[Submission | MessageLike], retry: RetrySettings
    ) -> None:
        self._retry = retry
        self.out: SimpleQueue[Result | _Sign] = SimpleQueue()
        self.error: BaseException | None = None
        """The exception from the program's iterable."""
        self._client = client
        self._source = iter(submissions)
        self._given: deque[Submission | MessageLike | _Sign] = deque()
        self._stirred = asyncio.Event()
        self._room = asyncio.Semaphore(_AHEAD)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    # --------------------------------------------------------------- on the loop

    async def run(self) -> None:
        """Deliver the submissions; results and signals go to :attr:`out`."""
        if self._stopped:
            return
        self._task = asyncio.current_task()
        stream = self._client.stream(self._submissions(), retry_for=self._retry.seconds, on_retry=self._retry.on_retry)
        async with contextlib.aclosing(stream) as results:
            async for result in results:
                await self._room.acquire()
                self.out.put(result)

    async def _submissions(self) -> AsyncIterator[Submission | MessageLike]:
        while True:
            self.out.put(_Sign.MORE)
            for _ in range(_WANTED):
                while not self._given:
                    self._stirred.clear()
                    await self._stirred.wait()
                one = self._given.popleft()
                if isinstance(one, _Sign):
                    return
                yield one

    def stop(self) -> None:
        """End unfinished deliveries."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def _give(self, one: Submission | MessageLike | _Sign) -> None:
        self._given.append(one)
        self._stirred.set()

    def _make_room(self, results: int) -> None:
        for _ in range(results):
            self._room.release()

    # ------------------------------------------------------------- in the thread

    def results(self, thread: LoopThread) -> Iterator[Result]:
        """The results as they come; without one, requested submissions are passed to the loop."""
        wanted = taken = 0
        while True:
            if wanted and self.out.empty():
                one = self._next()
                thread.soon(self._give, one)
                wanted = 0 if one is _Sign.OVER else wanted - 1
                continue
            out = self.out.get()
            if out is _Sign.MORE:
                wanted = _WANTED
            elif isinstance(out, Result):
                yield out
                taken += 1
                if taken == _AHEAD // 4:  # one call into the loop for many results
                    thread.soon(self._make_room, taken)
                    taken = 0
            else:
                return

    def _next(self) -> Submission | MessageLike | _Sign:
        try:
            return next(self._source, _Sign.OVER)
        except Exception as error:
            self.error = error
            return _Sign.OVER


def _refuse_on_a_loop() -> None:
    """Raise LoopRunning if an event loop runs: a delivery takes as long as its server."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise LoopRunning("an event loop runs here, and would be blocked: use await zsmtp.aio.deliver(...)")


def deliver(
    message: MessageLike,
    *,
    sender: str | bytes | None = None,
    recipients: str | bytes | Iterable[str | bytes] | None = None,
    config: Config | None = None,
    relay: Relay | str | None = None,
    timeout: float | None = None,
    dsn: DSN | None = None,
    observe: ObserverFor | None = None,
    trace: str | PathLike[str] | None = None,
    retry_for: float = 0.0,
    **options: Unpack[OptionArguments],
) -> Report:
    """Deliver one message to all its recipients, now, and return a report.

    Without ``sender`` and ``recipients`` they are taken from the header. ``relay`` (a value, or a URL such as
    ``smtp://mail.example.org``) receives all mail; without one it goes to the mail exchangers. ``dsn`` requests
    notifications for the sender (:class:`zsmtp.DSN`). For ``retry_for`` seconds deferred recipients are tried again, by
    the schedules of the queue and once more in the end. ``trace`` is a file or a directory for a trace of each
    delivery. The options are the fields of :class:`zsmtp.MailOptions`: ``require_tls`` requires authenticated TLS on
    every hop (RFC 8689), ``priority`` is that of MT-PRIORITY (RFC 6710), ``hold_for`` and ``hold_until`` have the
    server hold the message back (RFC 4865). Raises :class:`~zsmtp.errors.SubmissionError` for a message, an address or
    an option that cannot be sent, :class:`~zsmtp.errors.ConfigError`, and OSError for a file that cannot be read;
    failures of servers and networks are in the report. If an event loop runs, it raises
    :class:`~zsmtp.errors.LoopRunning`: use ``await zsmtp.aio.deliver(...)`` there, also in notebooks.
    """
    _refuse_on_a_loop()
    work = asynchronous.deliver(
        message,
        sender=sender,
        recipients=recipients,
        config=config,
        relay=relay,
        timeout=timeout,
        dsn=dsn,
        observe=observe,
        trace=trace,
        retry_for=retry_for,
        **options,
    )
    return asyncio.run(work)
