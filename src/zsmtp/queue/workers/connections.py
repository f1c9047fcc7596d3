"""Connections in worker processes, with the interface that the runner of a queue uses.

:class:`WorkerConnections` replaces :class:`~zsmtp.queue.connections.EngineConnections`, and behaves the same. A
:class:`WorkerConnection` hands deliveries over to its worker, and passes what the worker sends to the runner: verdicts,
questions before a message may be complete, and deliveries that are returned. The engine in the worker begins a delivery
as soon as the connection has room, and cannot wait until this process sends one. So a few deliveries are handed over in
advance: their number grows when the worker runs out of them, and :data:`AHEAD_OCTETS` limits their content.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from zsmtp.client.config import Config
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Peer, Verdict
from zsmtp.errors import LocalError
from zsmtp.queue.connections import (
    Allow,
    ConnectionGone,
    EngineConnections,
    IdlingConnection,
    OnVerdict,
    OutgoingMessage,
    outgoing,
)
from zsmtp.queue.site import Group
from zsmtp.queue.store import QueueStore
from zsmtp.queue.workers.messages import (
    AbandonConnection,
    CloseConnection,
    CompletionAnswer,
    CompletionQuestion,
    ConnectionClosed,
    Handover,
    HandoverReturned,
    HandoversBegun,
    HandoversNotBegun,
    IdleSessionEnded,
    RecipientSettled,
    RunEnded,
    SessionReady,
    StopConnection,
    VerdictPeer,
)
from zsmtp.queue.workers.passing import descriptor_of
from zsmtp.queue.workers.processes import WorkerPool, WorkerProcess

AHEAD, MAX_AHEAD = 2, 32  # deliveries handed over in advance for one connection: at first, and at most
AHEAD_OCTETS = 1 << 18  # of their content, after which no more are handed over in advance
BACKLOG = 1 << 20  # octets that wait to be written to a worker, after which nothing is handed over in advance
WORKER_WAIT = 30.0  # seconds that a delivery waits for a worker before it goes back to the queue


class WorkerConnections:
    """The connections of a runner, in ``count`` workers with the configuration ``config``."""

    def __init__(self, config: Config, count: int) -> None:
        self.pool = WorkerPool(config, count)
        self._engine = EngineConnections(config)  # answers questions about the configuration; it never connects
        self._numbers = itertools.count(1)

    def reroute(self, config: Config) -> None:
        """See :meth:`EngineConnections.reroute`."""
        self._engine.reroute(config)
        self.pool.configure(config)

    def problem(self, key: str) -> str:
        """See :meth:`EngineConnections.problem`."""
        return self._engine.problem(key)

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> WorkerConnection:
        """A connection for the mail of a queue key. Its first delivery chooses the worker."""
        return WorkerConnection(self.pool, next(self._numbers), key, site or key, allow, in_turn=in_turn)

    async def load(self, store: QueueStore, group: Group) -> None:
        """See :meth:`EngineConnections.load`."""
        await self._engine.load(store, group)

    def is_lmtp(self, key: str) -> bool:
        """See :meth:`EngineConnections.is_lmtp`."""
        return self._engine.is_lmtp(key)

    async def aclose(self) -> None:
        """End the workers."""
        await self.pool.aclose()
        await self._engine.aclose()


class WorkerDelivery:
    """A delivery on the side of the owner: its ledger, and the message that is handed over."""

    __slots__ = ("ledger", "message", "number")

    def __init__(self, message: OutgoingMessage, on_verdict: OnVerdict) -> None:
        self.ledger = Ledger(len(message.recipients), on_verdict)
        self.message = message
        self.number = 0  # of its Handover, 0 before


_Outcome = CompletionQuestion | RunEnded | ConnectionClosed | Exception


class WorkerConnection(IdlingConnection):
    """Connection ``number``, in a worker of ``pool``."""

    def __init__(
        self, pool: WorkerPool, number: int, key: str, site: str, allow: Allow, *, in_turn: bool = False
    ) -> None:
        self.site = site
        self.is_open = False
        self._pool = pool
        self._number = number
        self._key = key
        self._allow = allow
        self._worker: WorkerProcess | None = None
        self._worker_end = ""  # why the worker has ended
        self._stopped = False
        self._is_unusable = False  # the idle session, see IdleSessionEnded
        self._is_known = False  # to the worker
        self._run = 0
        self._running = False
        self._handovers = 0
        self._deliveries: dict[int, WorkerDelivery] = {}
        self._unbegun: deque[WorkerDelivery] = deque()
        self._unbegun_octets = 0
        self._ahead = self._max_ahead = 0
        if not in_turn:
            self._ahead, self._max_ahead = AHEAD, MAX_AHEAD
        self._was_limited = False  # whether a limit kept deliveries from being handed over in advance
        self._more: Callable[[], WorkerDelivery | None] = _no_delivery
        self._returns: Callable[[WorkerDelivery, Verdict], bool]
        self._put_back: Callable[[WorkerDelivery], None]
        self._peer: Peer | None = None
        self._outcomes: deque[_Outcome] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # ------------------------------------------------------------- called by the runner

    def delivery(self, group: Group, on_verdict: OnVerdict) -> WorkerDelivery:
        """The delivery of a group with loaded content."""
        return WorkerDelivery(outgoing(group), on_verdict)

    async def deliver(
        self,
        first: WorkerDelivery,
        more: Callable[[], WorkerDelivery | None],
        returns: Callable[[WorkerDelivery, Verdict], bool],
        put_back: Callable[[WorkerDelivery], None],
    ) -> None:
        """Deliver ``first`` and what ``more`` returns, see :class:`~zsmtp.queue.connections.Connection`."""
        await self._find_worker()
        if self._worker is None:
            return
        self._run += 1
        self._running = True
        self._more, self._returns, self._put_back = more, returns, put_back
        try:
            self._hand_over(first)
            self._fill()
            await self._finish_run()
        except ConnectionGone:
            raise
        except BaseException:
            self._abandon()
            raise
        finally:
            self._running = False
            self._more = _no_delivery
            self._deliveries.clear()
            self._unbegun.clear()
            self._unbegun_octets = 0

    async def _find_worker(self) -> None:
        """Choose a worker; wait until one is ready, for WORKER_WAIT seconds at most, or until this is stopped."""
        deadline = asyncio.get_running_loop().time() + WORKER_WAIT
        while self._worker is None and not self._stopped and not self._worker_end:
            self._worker = self._pool.choose(self.site)
            if self._worker is not None:
                self._worker.add(self._number, self)
                break
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._waiter = self._pool.next_change()
            try:
                await asyncio.wait([self._waiter], timeout=left)
            finally:
                self._waiter.cancel()
                self._waiter = None
        if self._worker_end:
            raise ConnectionGone(self._worker_end)

    async def _finish_run(self) -> None:
        """Answer the questions of the worker until the run is over."""
        while True:
            outcome = await self._next_outcome()
            if isinstance(outcome, CompletionQuestion):
                asked = [(self._deliveries[number], indexes) for number, indexes in outcome.asked]
                self._send(CompletionAnswer(self._number, await self._allow(asked)))
            elif isinstance(outcome, RunEnded) and outcome.run == self._run:
                if outcome.problem:
                    raise LocalError(outcome.problem)
                return

    async def _next_outcome(self) -> _Outcome:
        """Wait for the next outcome. Raises one that is an exception."""
        while not self._outcomes:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        outcome = self._outcomes.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def idle(self, seconds: float) -> bool:
        """Keep the idle session, see :class:`~zsmtp.queue.connections.Connection`."""
        if not self.is_open or self._is_unusable or self._stopped or seconds <= 0:
            return False
        return await self._stay_idle(seconds)

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Begin no more deliveries. Those that may be complete at the server are finished, unless ``at_once``."""
        self._stopped = True
        if self._is_known:
            self._send(StopConnection(self._number, reason, at_once))
        elif self._worker is None:
            self._wake_up()
        self.leave()

    async def close(self) -> None:
        """End the session with QUIT."""
        if self._worker is None:
            return
        try:
            if self._is_known and not self._worker_end:
                self._send(CloseConnection(self._number))
                while not isinstance(await self._next_outcome(), ConnectionClosed):
                    pass
        finally:
            self._worker.forget(self._number)
            self._worker, self._is_known, self.is_open = None, False, False

    def _abandon(self) -> None:
        """Have the worker close the connection; its results are not used."""
        if self._is_known and not self._worker_end:
            self._send(AbandonConnection(self._number))
        self._is_known = self.is_open = False

    # ---------------------------------------------------------------- handing over

    def _send(self, message: object) -> None:
        if self._worker is not None:
            self._worker.send(message)

    def _hand_over(self, delivery: WorkerDelivery) -> None:
        assert self._worker is not None
        self._handovers += 1
        delivery.number = self._handovers
        self._deliveries[delivery.number] = delivery
        message, content = delivery.message, delivery.message.content
        self._is_known = True
        if isinstance(content, bytes):
            handover = Handover(self._number, self._key, self._run, delivery.number, message, False)
            self._worker.send(handover, octets=len(content))
            return
        descriptor = descriptor_of(content)
        message = message._replace(content=b"")
        handover = Handover(self._number, self._key, self._run, delivery.number, message, True)
        self._worker.send(handover, descriptor=descriptor)

    def _fill(self) -> None:
        """Hand over deliveries in advance."""
        worker = self._worker
        while (
            worker is not None
            and len(self._unbegun) < self._ahead
            and self._unbegun_octets < AHEAD_OCTETS
            and not self._stopped
            and worker.backlog < BACKLOG
        ):
            delivery = self._more()
            if delivery is None:
                self._was_limited = False
                return
            self._unbegun.append(delivery)
            self._unbegun_octets += len(cast(bytes, delivery.message.content))
            self._hand_over(delivery)
        self._was_limited = True

    # ---------------------------------------------------------- messages of the worker

    def on_message(self, message: object) -> None:
        """Take a message of the worker. An exception of its handler ends the run."""
        try:
            self._handlers[type(message)](self, message)
        except Exception as error:
            self._add_outcome(error)

    def _on_settled(self, message: RecipientSettled) -> None:
        delivery = self._deliveries.get(message.number)
        if delivery is not None:
            delivery.ledger.settle(message.recipient, self._with_peer(message.verdict, of_peer=message.of_peer))
            if delivery.ledger.settled:
                del self._deliveries[message.number]

    def _on_run_end(self, message: RunEnded) -> None:
        self.is_open = message.is_open
        self._is_unusable = False  # an IdleSessionEnded before was of the session before this run
        self._add_outcome(message)

    def _on_verdict_peer(self, message: VerdictPeer) -> None:
        self._peer = message.peer

    def _on_session_ready(self, message: SessionReady) -> None:
        self.is_open = True

    def _on_idle_session_ended(self, message: IdleSessionEnded) -> None:
        self._is_unusable = True
        self.leave()

    def _with_peer(self, verdict: Verdict, *, of_peer: bool) -> Verdict:
        """A verdict with its peer, see VerdictPeer."""
        return verdict._replace(peer=self._peer) if of_peer else verdict

    def _on_begun(self, message: HandoversBegun) -> None:
        for _ in range(min(message.begun, len(self._unbegun))):
            self._unbegun_octets -= len(cast(bytes, self._unbegun.popleft().message.content))
        if message.starved and self._was_limited:
            self._ahead = min(max(2 * self._ahead, 1), self._max_ahead)
        if self._running:
            self._fill()

    def _on_returned(self, message: HandoverReturned) -> None:
        self.is_open = message.is_open
        delivery = self._deliveries.get(message.number)
        if delivery is None:
            return
        verdict = self._with_peer(message.verdict, of_peer=message.of_peer)
        if not self._returns(delivery, verdict):
            del self._deliveries[message.number]
            delivery.ledger.settle_all(delivery.ledger.unsettled, verdict)

    def _on_not_begun(self, message: HandoversNotBegun) -> None:
        """Put them back in their order; none is handed over in advance until the worker runs out of them."""
        self._ahead = 0
        for number in reversed(message.numbers):
            delivery = self._deliveries.pop(number, None)
            if delivery is None:
                continue
            if delivery in self._unbegun:
                self._unbegun.remove(delivery)
                self._unbegun_octets -= len(cast(bytes, delivery.message.content))
            self._put_back(delivery)

    def on_worker_end(self, reason: str) -> None:
        """Note that the worker has ended: the run raises ConnectionGone."""
        self._worker_end = reason
        self.is_open = False
        self._add_outcome(ConnectionGone(reason))
        self.leave()

    def _add_outcome(self, outcome: _Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    _handlers: ClassVar[Mapping[type, Callable[[WorkerConnection, Any], None]]] = {
        RecipientSettled: _on_settled,
        HandoversBegun: _on_begun,
        CompletionQuestion: _add_outcome,
        RunEnded: _on_run_end,
        VerdictPeer: _on_verdict_peer,
        SessionReady: _on_session_ready,
        HandoverReturned: _on_returned,
        HandoversNotBegun: _on_not_begun,
        IdleSessionEnded: _on_idle_session_ended,
        ConnectionClosed: _add_outcome,
    }


def _no_delivery() -> WorkerDelivery | None:
    """No delivery: there is no run."""
    return None
