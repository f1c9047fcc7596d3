"""The work of a worker: it delivers what the owner of the queue hands over, on connections of the engine.

A :class:`Worker` takes the messages of ``zsmtp.queue.workers.messages``. It decides nothing about mail: it returns
deliveries that no server decided about, and the owner settles them by the rules for connections of its own. A few
deliveries at most wait for room at a connection. When the connection has had none for :data:`WAITING` seconds, they
are returned, so that the owner can use another connection while this server is slow.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO, cast

from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Peer, Verdict
from zsmtp.escape import described
from zsmtp.net.channel import Channel
from zsmtp.queue.connections import EngineConnection, EngineConnections, Entrusted
from zsmtp.queue.workers.messages import (
    AbandonConnection,
    CloseConnection,
    CompletionAnswer,
    CompletionQuestion,
    ConfigureWorker,
    ConnectionClosed,
    EndWorker,
    Handover,
    HandoverReturned,
    HandoversBegun,
    HandoversNotBegun,
    Heartbeat,
    IdleSessionEnded,
    RecipientSettled,
    RunEnded,
    SessionReady,
    StopConnection,
    VerdictPeer,
    WorkerReady,
)
from zsmtp.queue.workers.passing import PassedFile

log = logging.getLogger("zsmtp.queue")

HEARTBEAT = 1.0  # seconds between two heartbeats
WAITING = 1.0  # seconds without progress after which waiting deliveries are returned


class Worker:
    """The connections of a worker."""

    def __init__(self) -> None:
        self.channel: Channel
        """The channel to the owner; set before the first message arrives."""
        self.done = asyncio.Event()
        """Set when everything is closed, after :class:`EndWorker`."""
        self._loop = asyncio.get_running_loop()
        self._connections: EngineConnections | None = None
        self._by_number: dict[int, OwnedConnection] = {}
        self._ending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def on_message(self, message: object) -> None:
        """Take a message of the owner."""
        if isinstance(message, Handover):
            self._hand_over(message)
        elif isinstance(message, CompletionAnswer | StopConnection | CloseConnection | AbandonConnection):
            connection = self._by_number.get(message.connection)
            if connection is not None:
                connection.on_message(message)
        elif isinstance(message, ConfigureWorker):
            self._configure(message)
        elif isinstance(message, EndWorker) and self._ending is None:
            self._ending = self._loop.create_task(self._end())

    def _configure(self, message: ConfigureWorker) -> None:
        logging.getLogger("zsmtp").setLevel(message.log_level)
        if self._connections is not None:
            self._connections.reroute(message.config)
            return
        self._connections = EngineConnections(message.config)
        self.channel.send(WorkerReady())
        self._send_heartbeat()

    def _send_heartbeat(self) -> None:
        if not self.channel.backlog:  # else the owner has not read the last one
            self.channel.send(Heartbeat())
        self._loop.call_later(HEARTBEAT, self._send_heartbeat)

    def _hand_over(self, message: Handover) -> None:
        descriptor = self.channel.take_descriptor() if message.in_file else -1
        content = PassedFile(descriptor) if descriptor >= 0 else None
        connection = self._by_number.get(message.connection)
        if connection is None:
            assert self._connections is not None
            connection = self._by_number[message.connection] = OwnedConnection(self, message, self._connections)
        connection.take(message, content)

    def forget(self, number: int) -> None:
        """Remove a closed connection."""
        self._by_number.pop(number, None)

    def begin(self, work: asyncio.Task[None]) -> None:
        """Keep a reference to a task until it is done."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        """Close everything. It cancels deliveries: the owner sends EndWorker when it needs no more results."""
        for connection in tuple(self._by_number.values()):
            connection.cut_off()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._connections is not None:
            await self._connections.aclose()
        self.done.set()


class OwnedDelivery:
    """A delivery of the owner: its number, and the file of its content, if it has one."""

    __slots__ = ("content", "delivery", "number")

    def __init__(self, number: int, content: PassedFile | None) -> None:
        self.number = number
        self.content = content
        self.delivery: Delivery


class OwnedConnection:
    """A connection of the owner, on the side of the worker. ``first`` is its first handover."""

    def __init__(self, worker: Worker, first: Handover, connections: EngineConnections) -> None:
        self._worker = worker
        self._number = first.connection
        self._loop = asyncio.get_running_loop()
        self._connection: EngineConnection | None = None
        self._problem = ""
        try:
            self._connection = connections.connection(first.key, self._allow)
        except Exception as error:  # the owner could use this configuration; reported when the run ends
            self._problem = described(error)
        else:
            self._connection.when_opened(lambda: self._send(SessionReady(self._number)))
        self._run = 0
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[OwnedDelivery] = deque()
        self._numbers: dict[Ledger, int] = {}
        self._files: dict[int, PassedFile] = {}
        self._begun = 0  # since the last HandoversBegun
        self._starved = False
        self._is_begun_scheduled = False
        self._return_timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._peer: Peer | None = None
        self._question: asyncio.Future[bool] | None = None

    def _send(self, message: object) -> None:
        self._worker.channel.send(message)

    # ------------------------------------------------------------ messages of the owner

    def take(self, message: Handover, content: PassedFile | None) -> None:
        """Take a delivery: the first of a run, or a further one of the same run."""
        running = self._task is not None
        if message.run < self._run or (message.run == self._run and not running) or self._stopped:
            if content is not None:
                content.close()
            if self._stopped and message.run > self._run:  # StopConnection arrived before the run
                self._run = message.run
                self._send(RunEnded(self._number, self._run, self._is_open, ""))
            return
        problem = "the limit on open files is reached" if message.in_file and content is None else self._problem
        if self._connection is None or problem:
            self._run = message.run
            self._send(RunEnded(self._number, self._run, self._is_open, problem))
            return
        given = message.message if content is None else message.message._replace(content=cast(BinaryIO, content))
        one = OwnedDelivery(message.number, content)
        one.delivery = self._connection.delivery_of(given, partial(self._on_verdict, one))
        if message.run > self._run:
            self._run = message.run
            self._task = self._loop.create_task(self._deliver(one))
            self._worker.begin(self._task)
        else:
            self._waiting.append(one)
            self._set_return_timer()

    def on_message(self, message: CompletionAnswer | StopConnection | CloseConnection | AbandonConnection) -> None:
        """Take another message of the owner."""
        if isinstance(message, CompletionAnswer):
            if self._question is not None and not self._question.done():
                self._question.set_result(message.allowed)
        elif isinstance(message, StopConnection):
            self._stopped = True
            self._return_waiting()
            if self._connection is not None:
                self._connection.stop(message.reason, at_once=message.at_once)
        else:
            if isinstance(message, AbandonConnection):
                self.cut_off()
            self._worker.begin(self._loop.create_task(self._close()))

    def cut_off(self) -> None:
        """Cancel the run."""
        if self._task is not None:
            self._task.cancel()

    # -------------------------------------------------------------------- delivering

    async def _deliver(self, one: OwnedDelivery) -> None:
        connection, problem, following = self._connection, "", one
        assert connection is not None
        try:
            while True:
                self._note_begin(following)
                await connection.deliver(following.delivery, self._more, self._returns, self._unexpected)
                if not self._waiting or not connection.is_open:
                    break
                following = self._next()
        except Exception as error:
            log.exception("a connection of a worker ended by a fault of this program")
            problem = described(error)
        finally:
            self._task = None
            self._drop_all()
            if self._begun:
                self._send(self._begun_so_far())  # before the end of the run it belongs to
            self._send(RunEnded(self._number, self._run, connection.is_open, problem))
        connection.when_it_stirs(lambda: self._send(IdleSessionEnded(self._number)))

    def _note_begin(self, one: OwnedDelivery) -> None:
        """Note that a delivery begins."""
        self._numbers[one.delivery.ledger] = one.number
        if one.content is not None:
            self._files[one.number] = one.content

    def _next(self) -> OwnedDelivery:
        """Take the next waiting delivery, and report it to the owner."""
        one = self._waiting.popleft()
        self._begun += 1
        self._schedule_begun()
        self._set_return_timer(restart=True)
        return one

    def _more(self) -> Delivery | None:
        """Another delivery for the engine, None if none waits."""
        if not self._waiting:
            if not self._starved:
                self._starved = True
                self._schedule_begun()
            return None
        one = self._next()
        self._note_begin(one)
        return one.delivery

    def _schedule_begun(self) -> None:
        if not self._is_begun_scheduled:
            self._is_begun_scheduled = True
            self._worker.channel.send_late(self._begun_so_far)

    def _begun_so_far(self) -> HandoversBegun:
        count, starved, self._begun, self._starved, self._is_begun_scheduled = (
            self._begun,
            self._starved,
            0,
            False,
            False,
        )
        return HandoversBegun(self._number, count, starved)

    def _set_return_timer(self, *, restart: bool = False) -> None:
        """Return waiting deliveries after WAITING seconds without progress; ``restart`` after progress."""
        if self._return_timer is not None and (restart or not self._waiting):
            self._return_timer.cancel()
            self._return_timer = None
        if self._waiting and self._return_timer is None:
            self._return_timer = self._loop.call_later(WAITING, self._return_waiting)

    def _return_waiting(self) -> None:
        """Return the waiting deliveries to the owner."""
        if self._return_timer is not None:
            self._return_timer.cancel()
            self._return_timer = None
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if one.content is not None:
                one.content.close()
        self._send(HandoversNotBegun(self._number, tuple(one.number for one in waiting)))

    def _drop_all(self) -> None:
        """Drop all deliveries at the end of a run: the owner takes back those without a verdict."""
        if self._return_timer is not None:
            self._return_timer.cancel()
            self._return_timer = None
        for content in [*self._files.values(), *(one.content for one in self._waiting if one.content is not None)]:
            content.close()
        self._files.clear()
        self._waiting.clear()
        self._numbers.clear()

    @property
    def _is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    # --------------------------------------------------------------------- reporting

    def _on_verdict(self, one: OwnedDelivery, recipient: int, verdict: Verdict) -> None:
        verdict, of_peer = self._without_peer(verdict)
        self._send(RecipientSettled(self._number, one.number, recipient, verdict, of_peer))
        if one.delivery.ledger.settled:
            self._numbers.pop(one.delivery.ledger, None)
            del one.delivery  # its ledger refers to this function: avoid a reference cycle

    def _without_peer(self, verdict: Verdict) -> tuple[Verdict, bool]:
        """A verdict without its peer, and whether it had one; a new peer is sent to the owner."""
        peer = verdict.peer
        if peer is None:
            return verdict, False
        if peer is not self._peer:
            self._peer = peer
            self._send(VerdictPeer(self._number, peer))
        return verdict._replace(peer=None), True

    def _returns(self, delivery: Delivery, verdict: Verdict) -> bool:
        """Return a delivery that no server decided about: the owner decides what to do with it."""
        number = self._numbers.pop(delivery.ledger)
        verdict, of_peer = self._without_peer(verdict)
        self._send(HandoverReturned(self._number, number, verdict, of_peer, self._is_open))
        return True

    def _unexpected(self, delivery: Delivery) -> None:
        """The engine returns no delivery unbegun: it asks for one when it can begin it."""

    async def _allow(self, asked: Sequence[tuple[Entrusted, tuple[int, ...]]]) -> bool:
        """Ask the owner, which records that these may be complete."""
        numbers = tuple([(self._numbers[delivery.ledger], indexes) for delivery, indexes in asked])
        self._question = self._loop.create_future()
        self._send(CompletionQuestion(self._number, numbers))
        try:
            return await self._question
        finally:
            self._question = None

    async def _close(self) -> None:
        """End the session, and forget the connection."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._connection is not None:
            with suppress(Exception):
                await self._connection.close()
        self._worker.forget(self._number)
        self._send(ConnectionClosed(self._number))
