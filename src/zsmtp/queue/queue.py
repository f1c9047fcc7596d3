"""The queue for asyncio programs: submit messages, track and recall them, and optionally deliver in the same loop.

``submit`` returns only after the message is on the disk; from then on every recipient gets exactly one end, whichever
process or machine dies in between (``zsmtp.queue.store``)::

    async with zsmtp.aio.Queue.open("sqlite:///var/lib/app/mail.db", deliver=True) as queue:
        id = await queue.submit(message, sender="a@example.org", recipients=["b@example.net"])
        for end in await queue.wait(id, timeout=60):
            print(end.address, end.outcome)

Any number of processes may open the same queue. From a file one of them delivers at a time, from a PostgreSQL database
any number. ``zsmtp.Queue`` (``zsmtp.queue.blocking``) is the same for programs without an event loop. Errors:
SubmissionError for a message that cannot be sent, QueueUnavailable when the store cannot be written, QueueFull,
QuotaExceeded, Conflict; after each of them nothing was queued.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from zsmtp.client.addresslist import read_addresses
from zsmtp.client.client import Submission
from zsmtp.client.config import Config
from zsmtp.client.destinations import Destinations
from zsmtp.client.dsn import DSN
from zsmtp.client.message import MessageLike
from zsmtp.errors import QueueBusy, QueueError, SubmissionError
from zsmtp.escape import described
from zsmtp.proto.mailoptions import instant
from zsmtp.queue import tracking
from zsmtp.queue.admission import Admission, Reservation, amount_of
from zsmtp.queue.bouncekeys import keys_of
from zsmtp.queue.config import QueueConfig
from zsmtp.queue.ids import from_text, to_text
from zsmtp.queue.ingest import IN_TRANSACTION, LIBRARY, Ingest, Ingested, QueueSubmission
from zsmtp.queue.location import Location, locate
from zsmtp.queue.returnpath import ReturnPath
from zsmtp.queue.states import HistoryEntry
from zsmtp.queue.store import Accepted, NewMessage, QueueStore
from zsmtp.queue.stores import open_store
from zsmtp.queue.suppression import Suppression
from zsmtp.queue.tracking import MessageStatus, Recall
from zsmtp.queue.uploading import in_threads, upload_blocks

if TYPE_CHECKING:
    import psycopg

    from zsmtp.proto.mailoptions import OptionArguments
    from zsmtp.queue.runner import Runner

EVENTS = 1000
"""Default limit of the history entries that ``events`` returns."""
_TAKE_OVER = 2.0  # seconds between tries to become the process that delivers
_GRACE = 30.0  # seconds that a deliverer may take beyond what the configuration gives it to stop

CallersConnection: TypeAlias = "sqlite3.Connection | psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"
"""The connections on which a caller's own transaction may run."""

log = logging.getLogger("zsmtp")


def _kind(connection: object) -> str:
    return f"{type(connection).__module__}.{type(connection).__qualname__}"


class Queue:
    """A queue of messages. Made by :meth:`open`; use it on the event loop on which it was opened."""

    def __init__(
        self,
        location: Location,
        config: Config,
        queue_config: QueueConfig,
        *,
        deliver: bool,
        node: str,
        shard: int | None = None,
    ) -> None:
        self._location = location
        self._shard = shard
        self._config = config
        self._queue_config = queue_config
        self._ingest = Ingest(config, queue_config)
        self._return_keys = keys_of(queue_config.bounces) if deliver else ()
        self._deliver = deliver
        self._node = node
        self._process = os.getpid()
        self._opened: QueueStore | None = None
        self._admission: Admission | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._file = ""
        self._deliverer: asyncio.Task[None] | None = None
        self._runner: Runner | None = None
        self._stop = asyncio.Event()

    # ----------------------------------------------------------------- opening

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
        """A queue that ``async with`` or awaiting it opens; a missing file or schema is made.

        ``url`` is ``sqlite:///path``, the path of a file, ``postgresql://host/database``, or ``memory:``. ``config``
        sets how mail is delivered, and by which relays; ``queue`` how the queue works. With ``deliver`` this process
        also delivers, or waits while another one does (from a database, they deliver side by side); its name is
        ``node``, by default made of the host and the process. Raises ConfigError; opening raises QueueUnavailable.
        """
        return cls(
            locate(url),
            config or Config(),
            queue or QueueConfig(),
            deliver=deliver,
            node=node or f"{os.uname().nodename}-{os.getpid()}",
        )

    def __await__(self) -> Generator[Any, None, Queue]:
        return self.start().__await__()

    async def __aenter__(self) -> Queue:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> Queue:
        """Open the queue; ``async with`` and awaiting it call this."""
        if self._opened is not None:
            raise QueueError("this queue is open already")
        self._file = os.path.realpath(self._location.path) if self._location.path else ""
        self._opened = await self._open_store()
        self._loop = asyncio.get_running_loop()
        self._admission = Admission(self._opened, self._queue_config.tenants)
        if self._deliver:
            self._deliverer = self._loop.create_task(self._keep_delivering(), name="zsmtp queue")
        return self

    async def _open_store(self) -> QueueStore:
        return await open_store(self._location, shard=self._shard, history_kept=self._queue_config.retention)

    async def aclose(self) -> None:
        """Stop delivering, and close the store. May be called again.

        It waits for messages past their point of no return, for the configured time (``shutdown``). Raises the error
        that ended the delivery before, if there was one.
        """
        if os.getpid() != self._process:
            return
        store, self._opened = self._opened, None
        if store is None:
            return
        try:
            await self._stop_delivering()
        finally:
            await store.close()

    # --------------------------------------------------------------- delivery

    async def _keep_delivering(self) -> None:
        """Deliver, as soon as no other process does."""
        from zsmtp.queue.connections import EngineConnections
        from zsmtp.queue.runner import Runner

        while not self._stop.is_set():
            connections = EngineConnections(self._config)
            self._runner = Runner(
                self.store, connections, self._queue_config, node=self._node, return_path=self._return_path()
            )
            try:
                await self._run(self._runner)
                if self._runner.drained:
                    return
            except QueueBusy:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _TAKE_OVER)
            except Exception as error:
                log.error("this process no longer delivers the queue: %s", described(error))
                raise

    def _return_path(self) -> ReturnPath | None:
        if not self._return_keys:
            return None
        return ReturnPath(self._queue_config.bounces, self._return_keys, self.store.shard)

    async def _run(self, runner: Runner) -> None:
        """Deliver, make the notices that are owed, and remove data that is not needed any more."""
        from zsmtp.queue.composer import Composer, NoticeSettings
        from zsmtp.queue.housekeeping import Housekeeping, reporting_name
        from zsmtp.queue.templates import load

        settings = NoticeSettings(host=reporting_name(self._config.helo_name))
        composer = Composer(settings, load(), shard=self.store.shard)
        housekeeping = Housekeeping(
            self.store, composer, Destinations(self._config), self._queue_config, signing=self._ingest.signing
        )

        async def keep_house() -> None:
            await runner.joined.wait()
            await housekeeping.run()

        keeping = asyncio.get_running_loop().create_task(keep_house(), name="zsmtp housekeeping")
        try:
            await runner.run()
            housekeeping.stop()
            if runner.joined.is_set():
                await keeping
        finally:
            keeping.cancel()

    async def _stop_delivering(self) -> None:
        task, self._deliverer = self._deliverer, None
        if task is None:
            return
        self._stop.set()
        if self._runner is not None:
            self._runner.stop()
        try:
            await asyncio.wait_for(task, self._queue_config.shutdown + _GRACE)
        except TimeoutError:
            log.error("the delivery of the queue did not stop in time: deliveries under way may be repeated")

    # -------------------------------------------------------------- submission

    async def submit(
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
        """Queue a message, and return its id when it is on the disk.

        The message and its envelope are read as by ``Client.deliver``, with the same options; the other arguments are
        those of :class:`~zsmtp.queue.ingest.QueueSubmission`. A second message with the same ``idempotency_key`` is not
        queued: the call returns the id of the first, or raises Conflict if that was a different message. A message of
        more than 1 MiB is read and written in parts. If this call is cancelled, the message may still be queued.

        With ``connection`` it is written in the caller's own transaction in the database of this queue, and is whole in
        memory: it is queued if and only if the caller commits. Delivery begins within a second after the commit, at
        once after :meth:`wake`. The connection is a ``sqlite3`` one in WAL mode with ``synchronous = FULL``, or a
        psycopg one (``Connection`` or ``AsyncConnection``) whose ``synchronous_commit`` is not off. All but the last
        are used in the thread of this event loop.
        """
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
            return await self._submit_in(connection, submission)
        self._check()
        with await self._ingest.read_aside(submission) as one:
            return await self.put(one)

    async def submit_many(self, submissions: Iterable[Submission | MessageLike]) -> list[str]:
        """Queue messages in one commit, all or none, and return their ids.

        They are held in memory: contents of more than 64 MiB together are refused (SubmissionError).
        """
        self._check()
        return await self.put_many(await self._ingest.read_many(submissions))

    async def put_many(self, new: Sequence[NewMessage]) -> list[str]:
        """Queue messages that were already read, in one commit. For other intakes."""
        store = self.store
        with await self.admission.reserve_all([(one, len(one.content)) for one in new]) as reservation:
            found = await store.submit(new)
            reservation.done(found)
        return [self._text(accepted) for accepted in found]

    def read(self, given: Submission | MessageLike, *, origin: str = LIBRARY) -> Ingested:
        """Read a message for queueing, in any thread. For other intakes."""
        self._check()
        return self._ingest.read(given, origin=origin)

    async def put(self, one: Ingested) -> str:
        """Queue a message that was already read. For other intakes."""
        return self._text(await self.accept(one))

    async def accept(self, one: Ingested) -> Accepted:
        """As :meth:`put`; the result also has whether the message was queued before, by its idempotency key."""
        store = self.store
        with await self.reserve(one) as reservation:
            if one.large:
                accepted = await upload_blocks(store, one.new, in_threads(one.blocks()))
            else:
                (accepted,) = await store.submit((one.new,))
            reservation.done([accepted])
        return accepted

    async def reserve(self, one: Ingested) -> Reservation:
        """Reserve room for a message in the quotas of its tenant. Raises QuotaExceeded. For other intakes."""
        return await self.admission.reserve(one.new.tenant, amount_of(one.new, one.size))

    def submit_in(self, connection: CallersConnection, submission: Submission) -> str:
        """Queue a message in the caller's transaction, in the caller's thread, which is not that of the event loop.

        See :meth:`submit`.
        """
        self._check_transaction()
        with _fitting(self.read(submission)) as one:
            if not self.admission.has_quota(one.new.tenant):
                return self._text(self._write_in(connection, one))
            assert self._loop is not None
            reservation = asyncio.run_coroutine_threadsafe(self.reserve(one), self._loop).result()
            settle: Callable[[], object] = reservation.cancel
            try:
                accepted = self._write_in(connection, one)
                settle = partial(reservation.done, [accepted])
            finally:
                with suppress(RuntimeError):  # the loop may be closed by now
                    self._loop.call_soon_threadsafe(settle)
        return self._text(accepted)

    async def _submit_in(self, connection: CallersConnection, submission: Submission) -> str:
        """As :meth:`submit_in`, on the event loop, and for connections of asyncio, too."""
        self._check_transaction()
        with _fitting(await self._ingest.read_aside(submission)) as one, await self.reserve(one) as reservation:
            if self._location.url and hasattr(connection, "__aenter__"):
                accepted = await self._write_in_async(connection, one)
            else:
                accepted = self._write_in(connection, one)
            reservation.done([accepted])
        return self._text(accepted)

    def _write_in(self, connection: CallersConnection, one: Ingested) -> Accepted:
        """Write a message over a connection of this thread."""
        if self._location.url:
            import psycopg

            from zsmtp.queue.postgres import caller

            if not isinstance(connection, psycopg.Connection):
                raise QueueError(f"a queue in PostgreSQL needs a connection of psycopg, not {_kind(connection)}")
            (accepted,) = caller.submit_in(connection, [one.whole()], queue=self._uid)
            return accepted
        from zsmtp.queue.sqlite.caller import submit_in

        if not isinstance(connection, sqlite3.Connection):
            raise QueueError(f"a queue in a file needs a connection of sqlite3, not {_kind(connection)}")
        (accepted,) = submit_in(connection, [one.whole()], path=self._file)
        return accepted

    async def _write_in_async(self, connection: CallersConnection, one: Ingested) -> Accepted:
        """Write a message over an asyncio connection."""
        import psycopg

        from zsmtp.queue.postgres.caller import submit_in_async

        if not isinstance(connection, psycopg.AsyncConnection):
            raise QueueError(f"a queue in PostgreSQL needs a connection of psycopg, not {_kind(connection)}")
        (accepted,) = await submit_in_async(connection, [one.whole()], queue=self._uid)
        return accepted

    def _check_transaction(self) -> None:
        """Raise QueueError unless messages can be submitted in a caller's transaction."""
        self._check()
        if self._location.in_memory:
            raise QueueError("a queue in memory is in no database: there is no transaction to submit in")

    @property
    def _uid(self) -> str:
        from zsmtp.queue.postgres.store import PostgresStore

        assert isinstance(self._opened, PostgresStore)
        return self._opened.uid

    def wake(self) -> None:
        """Look at once for messages submitted in a caller's own transaction. Not a coroutine."""
        self.store.wake()

    # ----------------------------------------------------------------- tracking

    async def status(self, id: str) -> MessageStatus:
        """The status of a message. Raises QueueError if it is unknown, or was dropped by age."""
        return await tracking.status(self.store, self._number(id))

    async def wait(self, id: str, timeout: float | None = None) -> list[HistoryEntry]:
        """Wait until all recipients of a message have an end, and return the ends. Raises TimeoutError, QueueError."""
        return await tracking.wait(self.store, self._number(id), timeout)

    async def cancel(self, id: str) -> Recall:
        """Recall a message; the result names the recipients for which it is too late. No notices are sent."""
        return await tracking.cancel(self.store, self._number(id))

    async def events(self, cursor: str = "", *, limit: int = EVENTS) -> tuple[str, list[HistoryEntry]]:
        """Attempts and ends after a cursor ("" is the beginning), and the next cursor.

        No entry is left out and none comes twice, if the caller reads entries before they are dropped by age.
        """
        return await self.store.events(cursor, limit=limit)

    # ------------------------------------------------------------- suppressions

    async def suppress(
        self,
        addresses: str | bytes | Iterable[str | bytes],
        *,
        tenant: str = "",
        reason: str = "",
        source: str = LIBRARY,
        until: float | datetime | None = None,
    ) -> int:
        """Suppress a tenant's mail to addresses from now on; returns how many were not on the list.

        A recipient that is submitted to one of them ends at once: failed, 5.7.1. Recipients queued already are not
        touched. ``until`` is when the suppressions end, None: when they are lifted. Raises SubmissionError for an
        invalid address.
        """
        now, end = time.time(), instant(until, "until")
        given = read_addresses(addresses, "address")
        return await self.store.suppress(
            [Suppression(tenant=tenant, address=one, reason=reason, source=source, at=now, until=end) for one in given]
        )

    async def unsuppress(self, addresses: str | bytes | Iterable[str | bytes], *, tenant: str = "") -> int:
        """Lift a tenant's suppressions of addresses; returns how many were on the list. Raises SubmissionError."""
        return await self.store.unsuppress(tenant, read_addresses(addresses, "address"))

    async def suppressions(
        self, addresses: str | bytes | Iterable[str | bytes] = (), *, tenant: str | None = None
    ) -> list[Suppression]:
        """The suppressed addresses: all, or a tenant's, or those among ``addresses``. Raises SubmissionError."""
        given = read_addresses(addresses, "address") if addresses else ()
        return [one async for one in self.store.suppressions(tenant, given)]

    # -------------------------------------------------------------------- parts

    @property
    def store(self) -> QueueStore:
        """The store; raises QueueError if the queue is not open, or was opened before a fork."""
        self._check()
        assert self._opened is not None
        return self._opened

    @property
    def admission(self) -> Admission:
        """The check of submissions against quotas; raises QueueError as :attr:`store`."""
        self._check()
        assert self._admission is not None
        return self._admission

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise QueueError("this queue was opened before a fork; the child is to open it for itself")
        if self._opened is None:
            raise QueueError("this queue is not open: use it inside 'async with', or await it")

    def _text(self, accepted: Accepted) -> str:
        return to_text(accepted.id, self.store.shard)

    def _number(self, id: str) -> int:
        number, shard = from_text(id)
        if shard != self.store.shard:
            raise QueueError(f"{id} is of shard {shard}; this queue is shard {self.store.shard}")
        return number


def _fitting(one: Ingested) -> Ingested:
    """A message for a caller's own transaction, which is held in memory. Raises SubmissionError if it is too large."""
    if one.size > IN_TRANSACTION:
        with one:
            raise SubmissionError(
                f"the message has {one.size} octets; {IN_TRANSACTION} are the limit in a caller's transaction"
            )
    return one
