"""Delivering from a program without an event loop: one message by :func:`deliver`, many by a :class:`Client`.

:func:`deliver` has a loop of its own for the time of the call, and is refused where one runs already. A client keeps
one in a thread, with its connections, until it is closed::

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
from zsmtp.client.retrying import OnRetry, RetryWish, ignore_retry
from zsmtp.errors import LocalError, LoopRunning
from zsmtp.net.loopthread import LoopThread

if TYPE_CHECKING:
    from zsmtp.proto.mailoptions import OptionArguments

_WANTED = 32
"""Submissions that the loop asks for in one go; each is handed over as soon as it is there."""
_AHEAD = 1000
"""Results that may wait for the program, before those behind them do."""


class Client:
    """Keeps connections and delivers over them; as :class:`zsmtp.aio.Client`, for programs without an event loop.

    ``config``, ``relay``, ``observe`` and ``trace`` are as for that one. Observers are called in another thread. Raises
    ConfigError. Use after the end, or after a fork, is a LocalError.
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
        """End everything: what is undecided is deferred or in doubt, connections are closed. May be called again."""
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
        """Deliver any number of messages; their results come as they are known, one for each recipient.

        As :meth:`zsmtp.aio.Client.stream`; ``submissions`` are taken in the thread that goes through the results. What
        they raise is raised behind the results of those before. ``on_retry`` is called in another thread. Leaving the
        loop early ends what is on its way.
        """
        wish = RetryWish(retry_for, on_retry)
        handover = _Handover(self._client, submissions, wish)
        done = self._thread.start(handover.run())
        done.add_done_callback(lambda _: handover.out.put(_Sign.OVER))
        try:
            yield from handover.results(self._thread)
        finally:
            with contextlib.suppress(LocalError):  # the client is closed, and so the stream is over
                self._thread.soon(handover.stop)
                wait([done])
        if done.cancelled():
            raise LocalError("this client was closed meanwhile")
        done.result()
        if handover.error is not None:
            raise handover.error


class _Sign(Enum):
    """What the loop and the thread of the program say to each other, beside results and submissions."""

    MORE = "submissions are wanted"
    OVER = "no more come"


class _Handover:
    """One stream between the loop and the thread of the program."""

    def __init__(
        self, client: asynchronous.Client, submissions: Iterable[Submission | MessageLike], wish: RetryWish
    ) -> None:
        self._wish = wish
        self.out: SimpleQueue[Result | _Sign] = SimpleQueue()
        self.error: BaseException | None = None
        """What the program's iterable raised."""
        self._client = client
        self._source = iter(submissions)
        self._given: deque[Submission | MessageLike | _Sign] = deque()
        self._stirred = asyncio.Event()
        self._room = asyncio.Semaphore(_AHEAD)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    # --------------------------------------------------------------- on the loop

    async def run(self) -> None:
        """Deliver what is given; results and signs go to :attr:`out`."""
        if self._stopped:
            return
        self._task = asyncio.current_task()
        stream = self._client.stream(self._submissions(), retry_for=self._wish.seconds, on_retry=self._wish.on_retry)
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
        """End what is on its way."""
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
        """The results as they come; while none is there, submissions that are wanted are handed over."""
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
                if taken == _AHEAD // 4:  # the loop learns of many at a time
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
    """Raise LoopRunning where an event loop runs: a delivery takes as long as its server."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise LoopRunning("an event loop runs here, and would stand still: use await zsmtp.aio.deliver(...)")


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
    """Deliver one message to all its recipients, now, and report.

    Without ``sender`` and ``recipients`` they are what the header says. ``relay`` (a value, or a URL such as
    ``smtp://mail.example.org``) takes all mail; without one it goes straight to the mail exchangers. ``dsn`` says what
    the sender wants to be notified of (:class:`zsmtp.DSN`). For ``retry_for`` seconds recipients that were deferred are
    tried again, by the schedules of the queue and once more in the end. ``trace`` is a file or a directory for a trace
    of each delivery. The options are the fields of :class:`zsmtp.MailOptions`: ``require_tls`` asks for authenticated
    TLS on every hop, or no delivery (RFC 8689), ``priority`` is that of MT-PRIORITY (RFC 6710), ``hold_for`` and
    ``hold_until`` have the server hold the message back (RFC 4865). Raises :class:`~zsmtp.errors.SubmissionError` for a
    message, an address or an option that cannot be sent, :class:`~zsmtp.errors.ConfigError`, and OSError for a file
    that cannot be read; what servers and networks do is in the report. Where an event loop runs it is refused with
    :class:`~zsmtp.errors.LoopRunning`: ``await zsmtp.aio.deliver(...)`` is the right call there, in notebooks too.
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
