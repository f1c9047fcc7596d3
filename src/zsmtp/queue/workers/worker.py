"""What a worker does: it has connections by the engine, and delivers what the owner of the queue hands over.

A :class:`Worker` hears the messages of ``zsmtp.queue.workers.messages`` and decides nothing about mail: what no server
decided about goes back to the owner, which settles it by the rules it has for its own connections. Messages that wait
for their turn at a connection are a few at most; those for which the engine has had no room for a second go back, so
that a server that hardly moves holds up nobody else's connection.
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
from zsmtp.queue.connections import EngineConnection, EngineConnections, Entrusted
from zsmtp.queue.workers.channel import Channel
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
    PeerMet,
    RecipientSettled,
    RunEnded,
    SessionStands,
    SessionStirred,
    StopConnection,
    WorkerReady,
)
from zsmtp.queue.workers.passing import PassedFile

log = logging.getLogger("zsmtp.queue")

BEAT = 1.0  # seconds between two heartbeats
WAITING = 1.0  # seconds without progress after which messages that wait go back


class Worker:
    """The worker's side of ``channel``; ``done`` is set when it was told to end and has let go of everything."""

    def __init__(self) -> None:
        self.channel: Channel
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._connections: EngineConnections | None = None
        self._carried: dict[int, CarriedConnection] = {}
        self._ending: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, message: object) -> None:
        """Take a message of the owner."""
        if isinstance(message, Handover):
            self._hand_over(message)
        elif isinstance(message, CompletionAnswer | StopConnection | CloseConnection | AbandonConnection):
            carried = self._carried.get(message.connection)
            if carried is not None:
                carried.heard(message)
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
        self._beat()

    def _beat(self) -> None:
        if not self.channel.backlog:  # else the owner has not heard the last one
            self.channel.send(Heartbeat())
        self._loop.call_later(BEAT, self._beat)

    def _hand_over(self, message: Handover) -> None:
        descriptor = self.channel.take_descriptor() if message.in_file else -1
        content = PassedFile(descriptor) if descriptor >= 0 else None
        carried = self._carried.get(message.connection)
        if carried is None:
            assert self._connections is not None
            carried = self._carried[message.connection] = CarriedConnection(self, message, self._connections)
        carried.take(message, content)

    def forget(self, number: int) -> None:
        """A connection is closed."""
        self._carried.pop(number, None)

    def begin(self, work: asyncio.Task[None]) -> None:
        """Keep a task until it is done."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        """Let go of everything; what is under way is cut off: the owner waits for it before it says so."""
        for carried in tuple(self._carried.values()):
            carried.cut_off()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._connections is not None:
            await self._connections.aclose()
        self.done.set()


class CarriedDelivery:
    """A delivery that was handed over under a number; ``content`` is its file, if it came in one."""

    __slots__ = ("content", "delivery", "number")

    def __init__(self, number: int, content: PassedFile | None) -> None:
        self.number = number
        self.content = content
        self.delivery: Delivery


class CarriedConnection:
    """One connection of the owner, as it is here. ``first`` is what it was made for."""

    def __init__(self, worker: Worker, first: Handover, connections: EngineConnections) -> None:
        self._worker = worker
        self._number = first.connection
        self._loop = asyncio.get_running_loop()
        self._connection: EngineConnection | None = None
        self._problem = ""
        try:
            self._connection = connections.connection(first.key, self._allow)
        except Exception as error:  # of a configuration that the owner could use: said with the end of the run
            self._problem = described(error)
        else:
            self._connection.when_opened(lambda: self._say(SessionStands(self._number)))
        self._run = 0
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[CarriedDelivery] = deque()
        self._numbers: dict[Ledger, int] = {}
        self._files: dict[int, PassedFile] = {}
        self._begun = 0  # since the owner was told
        self._starved = False
        self._telling = False
        self._stuck: asyncio.TimerHandle | None = None
        self._stopped = False
        self._peer: Peer | None = None
        self._question: asyncio.Future[bool] | None = None

    def _say(self, message: object) -> None:
        self._worker.channel.send(message)

    # ----------------------------------------------------------------- from the owner

    def take(self, message: Handover, content: PassedFile | None) -> None:
        """A message to deliver: the first of a run, or another one for it."""
        running = self._task is not None
        if message.run < self._run or (message.run == self._run and not running) or self._stopped:
            if content is not None:
                content.close()
            if self._stopped and message.run > self._run:  # it was stopped meanwhile
                self._run = message.run
                self._say(RunEnded(self._number, self._run, self._is_open, ""))
            return
        problem = "there is no room for another open file" if message.in_file and content is None else self._problem
        if self._connection is None or problem:
            self._run = message.run
            self._say(RunEnded(self._number, self._run, self._is_open, problem))
            return
        given = message.message if content is None else message.message._replace(content=cast(BinaryIO, content))
        one = CarriedDelivery(message.number, content)
        one.delivery = self._connection.delivery_of(given, partial(self._on_verdict, one))
        if message.run > self._run:
            self._run = message.run
            self._task = self._loop.create_task(self._deliver(one))
            self._worker.begin(self._task)
        else:
            self._waiting.append(one)
            self._look_after_waiting()

    def heard(self, message: CompletionAnswer | StopConnection | CloseConnection | AbandonConnection) -> None:
        """Take another word of the owner."""
        if isinstance(message, CompletionAnswer):
            if self._question is not None and not self._question.done():
                self._question.set_result(message.allowed)
        elif isinstance(message, StopConnection):
            self._stopped = True
            self._give_back()
            if self._connection is not None:
                self._connection.stop(message.reason, at_once=message.at_once)
        else:
            if isinstance(message, AbandonConnection):
                self.cut_off()
            self._worker.begin(self._loop.create_task(self._close()))

    def cut_off(self) -> None:
        """End what is under way as it is."""
        if self._task is not None:
            self._task.cancel()

    # -------------------------------------------------------------------- delivering

    async def _deliver(self, one: CarriedDelivery) -> None:
        connection, problem, following = self._connection, "", one
        assert connection is not None
        try:
            while True:
                self._note(following)
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
                self._say(self._begun_so_far())  # it is of this run
            self._say(RunEnded(self._number, self._run, connection.is_open, problem))
        connection.when_it_stirs(lambda: self._say(SessionStirred(self._number)))

    def _note(self, one: CarriedDelivery) -> None:
        """A delivery begins."""
        self._numbers[one.delivery.ledger] = one.number
        if one.content is not None:
            self._files[one.number] = one.content

    def _next(self) -> CarriedDelivery:
        """The next one of those that wait; the owner is told."""
        one = self._waiting.popleft()
        self._begun += 1
        self._tell_begun()
        self._look_after_waiting(anew=True)
        return one

    def _more(self) -> Delivery | None:
        """Another delivery for the engine."""
        if not self._waiting:
            if not self._starved:
                self._starved = True
                self._tell_begun()
            return None
        one = self._next()
        self._note(one)
        return one.delivery

    def _tell_begun(self) -> None:
        if not self._telling:
            self._telling = True
            self._worker.channel.send_late(self._begun_so_far)

    def _begun_so_far(self) -> HandoversBegun:
        count, starved, self._begun, self._starved, self._telling = self._begun, self._starved, 0, False, False
        return HandoversBegun(self._number, count, starved)

    def _look_after_waiting(self, *, anew: bool = False) -> None:
        """See that what waits does not wait for long; ``anew``: one was begun."""
        if self._stuck is not None and (anew or not self._waiting):
            self._stuck.cancel()
            self._stuck = None
        if self._waiting and self._stuck is None:
            self._stuck = self._loop.call_later(WAITING, self._give_back)

    def _give_back(self) -> None:
        """Let the owner have what waits."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if one.content is not None:
                one.content.close()
        self._say(HandoversNotBegun(self._number, tuple(one.number for one in waiting)))

    def _drop_all(self) -> None:
        """A run is over: the owner takes back what has no verdict."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        for content in [*self._files.values(), *(one.content for one in self._waiting if one.content is not None)]:
            content.close()
        self._files.clear()
        self._waiting.clear()
        self._numbers.clear()

    @property
    def _is_open(self) -> bool:
        return self._connection is not None and self._connection.is_open

    # --------------------------------------------------------------------- reporting

    def _on_verdict(self, one: CarriedDelivery, recipient: int, verdict: Verdict) -> None:
        verdict, of_peer = self._without_peer(verdict)
        self._say(RecipientSettled(self._number, one.number, recipient, verdict, of_peer))
        if one.delivery.ledger.settled:
            self._numbers.pop(one.delivery.ledger, None)
            del one.delivery  # its ledger knows this function: no circle is left to be collected

    def _without_peer(self, verdict: Verdict) -> tuple[Verdict, bool]:
        """A verdict without the peer it is of, which the owner is told once."""
        peer = verdict.peer
        if peer is None:
            return verdict, False
        if peer is not self._peer:
            self._peer = peer
            self._say(PeerMet(self._number, peer))
        return verdict._replace(peer=None), True

    def _returns(self, delivery: Delivery, verdict: Verdict) -> bool:
        """Every delivery that no server decided about goes back: the owner decides what becomes of it."""
        number = self._numbers.pop(delivery.ledger)
        verdict, of_peer = self._without_peer(verdict)
        self._say(HandoverReturned(self._number, number, verdict, of_peer, self._is_open))
        return True

    def _unexpected(self, delivery: Delivery) -> None:
        """Nothing goes back to the engine's caller unbegun: the engine asks when it can begin."""

    async def _allow(self, asked: Sequence[tuple[Entrusted, tuple[int, ...]]]) -> bool:
        """Ask the owner, which writes down that these may be complete."""
        numbers = tuple([(self._numbers[delivery.ledger], indexes) for delivery, indexes in asked])
        self._question = self._loop.create_future()
        self._say(CompletionQuestion(self._number, numbers))
        try:
            return await self._question
        finally:
            self._question = None

    async def _close(self) -> None:
        """End the session, and forget all of it."""
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._connection is not None:
            with suppress(Exception):
                await self._connection.close()
        self._worker.forget(self._number)
        self._say(ConnectionClosed(self._number))
