"""Delivering from a program without an event loop.

:func:`deliver` has a loop of its own for the time of the call; in a thread of its own if the caller's has one already,
as notebooks do. Interrupting it (Ctrl-C) ends the delivery and closes what is open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from os import PathLike
from typing import Any

from zsmtp.client import client
from zsmtp.client.client import ObserverFor
from zsmtp.client.config import Config, Relay
from zsmtp.client.dsn import DSN
from zsmtp.client.message import MessageLike
from zsmtp.client.report import Report


def deliver(
    message: MessageLike,
    *,
    sender: str | bytes | None = None,
    recipients: str | bytes | Iterable[str | bytes] | None = None,
    config: Config | None = None,
    relay: Relay | str | None = None,
    timeout: float | None = None,
    require_tls: bool = False,
    dsn: DSN | None = None,
    observe: ObserverFor | None = None,
    trace: str | PathLike[str] | None = None,
) -> Report:
    """Deliver one message to all its recipients, now, and report.

    Without ``sender`` and ``recipients`` they are what the header says. ``relay`` (a value, or a URL such as
    ``smtp://mail.example.org``) takes all mail; without one it goes straight to the mail exchangers. ``require_tls``
    asks for authenticated TLS on every hop, or no delivery (RFC 8689). ``dsn`` says what the sender wants to be
    notified of (:class:`zsmtp.DSN`). ``trace`` is a file or a directory for a trace of each delivery. Raises
    :class:`~zsmtp.errors.SubmissionError` for a message or an address that cannot be sent,
    :class:`~zsmtp.errors.ConfigError`, and OSError for a file that cannot be read; what servers and networks do is in
    the report.
    """
    call = partial(
        client.deliver,
        message,
        sender=sender,
        recipients=recipients,
        config=config,
        relay=relay,
        timeout=timeout,
        require_tls=require_tls,
        dsn=dsn,
        observe=observe,
        trace=trace,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call())
    return _in_thread(call)


def _in_thread(call: Callable[[], Coroutine[Any, Any, Report]]) -> Report:
    """Run a delivery on a loop of its own beside the caller's; who is interrupted while waiting for it ends it."""
    begun: Future[Callable[[], object]] = Future()

    async def work() -> Report:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        begun.set_result(partial(loop.call_soon_threadsafe, task.cancel))
        return await call()

    with ThreadPoolExecutor(1, thread_name_prefix="zsmtp") as thread:
        done = thread.submit(lambda: asyncio.run(work()))
        try:
            return done.result()
        except BaseException:
            if not done.done():
                with contextlib.suppress(RuntimeError):  # it ended by itself this moment
                    begun.result()()
            raise
