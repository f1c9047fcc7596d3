"""The queue for programs without an event loop: ``zsmtp.Queue``, with the methods of ``zsmtp.aio.Queue``.

It has an event loop in its own thread, so that threads submit side by side (they share commits), and mail can be
delivered while the program does other work::

    with zsmtp.Queue.open("/var/lib/app/mail.db", deliver=True) as queue:
        id = queue.submit(message, sender="a@example.org", recipients=["b@example.net"])
        ends = queue.wait(id, timeout=60)

Messages are read in the thread that submits them, and a message for a caller's own transaction is written there.
Processes that fork, as web servers do, must open the queue after the fork.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack

from zsmtp.client.client import Submission
from zsmtp.client.config import Config
from zsmtp.client.dsn import DSN
from zsmtp.client.message import MessageLike
from zsmtp.errors import QueueError, QueueUnavailable
from zsmtp.net.loopthread import LoopThread
from zsmtp.queue import queue as asynchronous
from zsmtp.queue import sharded
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ingest import LIBRARY, QueueSubmission
from zsmtp.queue.queue import EVENTS, CallersConnection
from zsmtp.queue.states import HistoryEntry
from zsmtp.queue.suppression import Suppression
from zsmtp.queue.tracking import MessageStatus, Recall

if TYPE_CHECKING:
    from zsmtp.proto.mailoptions import OptionArguments
    from zsmtp.queue.ingest import SubmitArguments

Q = TypeVar("Q", asynchronous.Queue, sharded.ShardedQueue)
T = TypeVar("T")


class _OpenQueue(Generic[Q]):
    """What a queue and several queues have in common: a thread with the event loop of ``queue``."""

    def __init__(self, queue: Q) -> None:
        self._queue: Q = queue
        self._thread = LoopThread("queue", QueueError, queue.start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop delivering, and close the store, as :meth:`zsmtp.aio.Queue.aclose`. May be called again."""
        self._thread.close(self._queue.aclose)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._thread.call(work)
        except QueueUnavailable as error:
            if self._thread.closed:  # the store was closed during the operation
                raise QueueError("this queue was closed meanwhile") from error
            raise

    def _submit(self, submission: QueueSubmission) -> str:
        """Queue a message, which is read in this thread."""
        self._thread.check()
        with self._queue.read(submission) as one:
            return self._call(self._queue.put(one))

    def submit_many(self, submissions: Iterable[Submission | MessageLike]) -> list[str]:
        """Queue messages in one commit, all or none; see :meth:`zsmtp.aio.Queue.submit_many`."""
        return self._call(self._queue.submit_many(submissions))

    def status(self, id: str) -> MessageStatus:
        """The status of a message; see :meth:`zsmtp.aio.Queue.status`."""
        return self._call(self._queue.status(id))

    def wait(self, id: str, timeout: float | None = None) -> list[HistoryEntry]:
        """Wait until all recipients of a message have an end; see :meth:`zsmtp.aio.Queue.wait`."""
        return self._call(self._queue.wait(id, timeout))

    def cancel(self, id: str) -> Recall:
        """Recall a message; see :meth:`zsmtp.aio.Queue.cancel`."""
        return self._call(self._queue.cancel(id))


class Queue(_OpenQueue[asynchronous.Queue]):
    """A queue of messages, open from the start. Made by :meth:`open`; use it from any thread of the process."""

    @classmethod
    def open(
        cls,
        url: str | PathLike[str],
        *,
        config: Config | None = None,
        queue: QueueConfig | None = None,
        deliver: bool = False,
        node: str = "",
    ) -> Queue:
        """Open a queue, as :meth:`zsmtp.aio.Queue.open`; raises ConfigError and QueueUnavailable."""
        return cls(asynchronous.Queue.open(url, config=config, queue=queue, deliver=deliver, node=node))

    # ------------------------------------------------------------------ methods

    def submit(
        self,
        message: MessageLike,
        *,
        sender: str | bytes | None = None,
        recipients: str | bytes | Iterable[str | bytes] | None = None,
        name: str = "",
        dsn: DSN | None = None,
        tenant: str = "",
        not_before: float | datetime | None = None,
        expires: float | datetime | None = None,
        idempotency_key: str = "",
        override_suppression: bool = False,
        connection: CallersConnection | None = None,
        **options: Unpack[OptionArguments],
    ) -> str:
        """Queue a message, and return its id when it is on the disk; see :meth:`zsmtp.aio.Queue.submit`.

        With ``connection`` it is written in the transaction of that connection, in this thread.
        """
        self._thread.check()
        submission = QueueSubmission(
            message=message,
            sender=sender,
            recipients=recipients,
            name=name,
            dsn=dsn,
            tenant=tenant,
            not_before=not_before,
            expires=expires,
            idempotency_key=idempotency_key,
            override_suppression=override_suppression,
            **options,
        )
        if connection is not None:
            return self._queue.submit_in(connection, submission)
        return self._submit(submission)

    def wake(self) -> None:
        """Look at once for messages submitted in a caller's own transaction."""
        self._thread.soon(self._queue.wake)

    def suppress(
        self,
        addresses: str | bytes | Iterable[str | bytes],
        *,
        tenant: str = "",
        reason: str = "",
        source: str = LIBRARY,
        until: float | datetime | None = None,
    ) -> int:
        """Suppress a tenant's mail to addresses from now on; see :meth:`zsmtp.aio.Queue.suppress`."""
        return self._call(self._queue.suppress(addresses, tenant=tenant, reason=reason, source=source, until=until))

    def unsuppress(self, addresses: str | bytes | Iterable[str | bytes], *, tenant: str = "") -> int:
        """Lift a tenant's suppressions of addresses; see :meth:`zsmtp.aio.Queue.unsuppress`."""
        return self._call(self._queue.unsuppress(addresses, tenant=tenant))

    def suppressions(
        self, addresses: str | bytes | Iterable[str | bytes] = (), *, tenant: str | None = None
    ) -> list[Suppression]:
        """The suppressed addresses; see :meth:`zsmtp.aio.Queue.suppressions`."""
        return self._call(self._queue.suppressions(addresses, tenant=tenant))

    def events(self, cursor: str = "", *, limit: int = EVENTS) -> tuple[str, list[HistoryEntry]]:
        """Attempts and ends after a cursor, and the next cursor; see :meth:`zsmtp.aio.Queue.events`."""
        return self._call(self._queue.events(cursor, limit=limit))


class ShardedQueue(_OpenQueue[sharded.ShardedQueue]):
    """Several queues to submit to, open from the start. Made by :meth:`open`; use it from any thread."""

    @classmethod
    def open(
        cls,
        urls: Mapping[int, str | PathLike[str]],
        *,
        config: Config | None = None,
        queue: QueueConfig | None = None,
    ) -> ShardedQueue:
        """Open queues, as :meth:`zsmtp.aio.ShardedQueue.open`; raises ConfigError, QueueUnavailable and QueueError."""
        return cls(sharded.ShardedQueue.open(urls, config=config, queue=queue))

    def submit(self, message: MessageLike, **arguments: Unpack[SubmitArguments]) -> str:
        """Queue a message in one of the queues; see :meth:`zsmtp.aio.ShardedQueue.submit`."""
        return self._submit(QueueSubmission(message=message, **arguments))
