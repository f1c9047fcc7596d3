"""Connections that workers have, as the runner of a queue sees them.

:class:`WorkerConnections` is what :class:`~zsmtp.queue.connections.EngineConnections` is for one process: the runner
cannot tell them apart. A :class:`WorkerConnection` hands messages to its worker and puts what comes back to the runner:
verdicts, questions before a message may be complete, and what goes back. The engine over there begins a message as soon
as there is room, and cannot wait for one from here: so a few are handed over before that, as many as were missing so
far, and no more than :data:`AHEAD_OCTETS` of them.
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
    PeerMet,
    RecipientSettled,
    RunEnded,
    SessionStands,
    SessionStirred,
    StopConnection,
)
from zsmtp.queue.workers.passing import descriptor_of
from zsmtp.queue.workers.processes import WorkerPool, WorkerProcess

AHEAD, MOST_AHEAD = 2, 32  # messages at a worker that wait for room at one connection: at first, and at most
AHEAD_OCTETS = 1 << 18  # of their contents, after which no more are handed over
BACKLOG = 1 << 20  # octets on their way to a worker, after which nothing is handed over that need not be
PATIENCE = 30.0  # seconds that a delivery waits for a worker before it goes back


class WorkerConnections:
    """The network of a runner whose connections are in ``count`` workers, which deliver as ``config`` says."""

    def __init__(self, config: Config, count: int) -> None:
        self.pool = WorkerPool(config, count)
        self._here = EngineConnections(config)  # for what is asked of the configuration; it connects to nothing
        self._numbers = itertools.count(1)

    def reroute(self, config: Config) -> None:
        """See :meth:`EngineConnections.reroute`."""
        self._here.reroute(config)
        self.pool.configure(config)

    def problem(self, key: str) -> str:
        """See :meth:`EngineConnections.problem`."""
        return self._here.problem(key)

    def connection(self, key: str, allow: Allow, *, site: str = "", in_turn: bool = False) -> WorkerConnection:
        """A connection for the mail of a queue key; the worker is chosen when there is something to deliver."""
        return WorkerConnection(self.pool, next(self._numbers), key, site or key, allow, in_turn=in_turn)

    async def load(self, store: QueueStore, group: Group) -> None:
        """See :meth:`EngineConnections.load`."""
        await self._here.load(store, group)

    def is_lmtp(self, key: str) -> bool:
        """See :meth:`EngineConnections.is_lmtp`."""
        return self._here.is_lmtp(key)

    async def aclose(self) -> None:
        """End the workers."""
        await self.pool.aclose()
        await self._here.aclose()


class WorkerDelivery:
    """A delivery as it is here: its ledger, and what is handed over."""

    __slots__ = ("ledger", "message", "number")

    def __init__(self, message: OutgoingMessage, on_verdict: OnVerdict) -> None:
        self.ledger = Ledger(len(message.recipients), on_verdict)
        self.message = message
        self.number = 0  # of its handover


_Outcome = CompletionQuestion | RunEnded | ConnectionClosed | Exception


class WorkerConnection:
    """One connection, number ``number`` of those that workers of ``pool`` have."""

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
        self._gone = ""
        self._stopped = False
        self._stirred = False
        self._known = False  # to the worker
        self._run = 0
        self._running = False
        self._handed = 0
        self._deliveries: dict[int, WorkerDelivery] = {}
        self._unbegun: deque[WorkerDelivery] = deque()
        self._unbegun_octets = 0
        self._ahead = self._most_ahead = 0
        if not in_turn:
            self._ahead, self._most_ahead = AHEAD, MOST_AHEAD
        self._short = False  # whether more could have been handed over than were
        self._more: Callable[[], WorkerDelivery | None] = _nothing
        self._returns: Callable[[WorkerDelivery, Verdict], bool]
        self._put_back: Callable[[WorkerDelivery], None]
        self._peer: Peer | None = None
        self._outcomes: deque[_Outcome] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._resting: asyncio.Future[bool] | None = None

    # ------------------------------------------------------------------- the runner's

    def delivery(self, group: Group, on_verdict: OnVerdict) -> WorkerDelivery:
        """The delivery of a group whose content is loaded."""
        return WorkerDelivery(outgoing(group), on_verdict)

    async def deliver(
        self,
        first: WorkerDelivery,
        more: Callable[[], WorkerDelivery | None],
        returns: Callable[[WorkerDelivery, Verdict], bool],
        put_back: Callable[[WorkerDelivery], None],
    ) -> None:
        """Deliver ``first`` and what ``more`` gives, see :class:`~zsmtp.queue.connections.Connection`."""
        await self._find_worker()
        if self._worker is None:
            return
        self._run += 1
        self._running = True
        self._more, self._returns, self._put_back = more, returns, put_back
        try:
            self._hand_over(first)
            self._fill()
            await self._run_through()
        except ConnectionGone:
            raise
        except BaseException:
            self._abandon()
            raise
        finally:
            self._running = False
            self._more = _nothing
            self._deliveries.clear()
            self._unbegun.clear()
            self._unbegun_octets = 0

    async def _find_worker(self) -> None:
        """Have a worker, if one runs or is started in time and nobody stops this."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while self._worker is None and not self._stopped and not self._gone:
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
        if self._gone:
            raise ConnectionGone(self._gone)

    async def _run_through(self) -> None:
        """Answer what the worker asks until the run is over."""
        while True:
            outcome = await self._next_outcome()
            if isinstance(outcome, CompletionQuestion):
                asked = [(self._deliveries[number], indexes) for number, indexes in outcome.asked]
                self._say(CompletionAnswer(self._number, await self._allow(asked)))
            elif isinstance(outcome, RunEnded) and outcome.run == self._run:
                if outcome.problem:
                    raise LocalError(outcome.problem)
                return

    async def _next_outcome(self) -> _Outcome:
        """The next thing that is to be waited for. Raises what went wrong."""
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
        """Keep the session without work, see :class:`~zsmtp.queue.connections.Connection`."""
        if not self.is_open or self._stirred or self._stopped or seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        resting: asyncio.Future[bool] = loop.create_future()
        self._resting = resting
        timer = loop.call_later(seconds, self.leave)
        try:
            return await resting
        finally:
            timer.cancel()
            self._resting = None

    def wake(self) -> None:
        """End :meth:`idle`: there is work."""
        self._end_idle(again=True)

    def leave(self) -> None:
        """End :meth:`idle`: the connection is wanted elsewhere."""
        self._end_idle(again=False)

    def _end_idle(self, *, again: bool) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(again)

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Begin nothing more; what may be complete already is waited for, unless ``at_once``."""
        self._stopped = True
        if self._known:
            self._say(StopConnection(self._number, reason, at_once))
        elif self._worker is None:
            self._wake_up()
        self.leave()

    async def close(self) -> None:
        """End the session with QUIT."""
        if self._worker is None:
            return
        try:
            if self._known and not self._gone:
                self._say(CloseConnection(self._number))
                while not isinstance(await self._next_outcome(), ConnectionClosed):
                    pass
        finally:
            self._worker.forget(self._number)
            self._worker, self._known, self.is_open = None, False, False

    def _abandon(self) -> None:
        """Nobody waits for what it does any more."""
        if self._known and not self._gone:
            self._say(AbandonConnection(self._number))
        self._known = self.is_open = False

    # ---------------------------------------------------------------- handing over

    def _say(self, message: object) -> None:
        if self._worker is not None:
            self._worker.say(message)

    def _hand_over(self, delivery: WorkerDelivery) -> None:
        assert self._worker is not None
        self._handed += 1
        delivery.number = self._handed
        self._deliveries[delivery.number] = delivery
        message, content = delivery.message, delivery.message.content
        self._known = True
        if isinstance(content, bytes):
            handover = Handover(self._number, self._key, self._run, delivery.number, message, False)
            self._worker.say(handover, octets=len(content))
            return
        descriptor = descriptor_of(content)
        message = message._replace(content=b"")
        handover = Handover(self._number, self._key, self._run, delivery.number, message, True)
        self._worker.say(handover, descriptor=descriptor)

    def _fill(self) -> None:
        """Hand over what may wait at the worker."""
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
                self._short = False
                return
            self._unbegun.append(delivery)
            self._unbegun_octets += len(cast(bytes, delivery.message.content))
            self._hand_over(delivery)
        self._short = True

    # ----------------------------------------------------------- the word of the worker

    def heard(self, message: object) -> None:
        """Take what the worker says; a fault in what is made of it ends the run."""
        try:
            self._takers[type(message)](self, message)
        except Exception as error:
            self._outcome(error)

    def _settled(self, message: RecipientSettled) -> None:
        delivery = self._deliveries.get(message.number)
        if delivery is not None:
            delivery.ledger.settle(message.recipient, self._whole(message.verdict, of_peer=message.of_peer))
            if delivery.ledger.settled:
                del self._deliveries[message.number]

    def _run_ended(self, message: RunEnded) -> None:
        self.is_open = message.is_open
        self._stirred = False  # what stirred before is over with the run
        self._outcome(message)

    def _met(self, message: PeerMet) -> None:
        self._peer = message.peer

    def _stands(self, message: SessionStands) -> None:
        self.is_open = True

    def _stirs(self, message: SessionStirred) -> None:
        self._stirred = True
        self.leave()

    def _whole(self, verdict: Verdict, *, of_peer: bool) -> Verdict:
        """A verdict with the peer that it is of."""
        return verdict._replace(peer=self._peer) if of_peer else verdict

    def _begun(self, message: HandoversBegun) -> None:
        for _ in range(min(message.begun, len(self._unbegun))):
            self._unbegun_octets -= len(cast(bytes, self._unbegun.popleft().message.content))
        if message.starved and self._short:
            self._ahead = min(max(2 * self._ahead, 1), self._most_ahead)
        if self._running:
            self._fill()

    def _returned(self, message: HandoverReturned) -> None:
        self.is_open = message.is_open
        delivery = self._deliveries.get(message.number)
        if delivery is None:
            return
        verdict = self._whole(message.verdict, of_peer=message.of_peer)
        if not self._returns(delivery, verdict):
            del self._deliveries[message.number]
            delivery.ledger.settle_all(delivery.ledger.unsettled, verdict)

    def _not_begun(self, message: HandoversNotBegun) -> None:
        """The first of them is the first again, and no more wait there until something is begun."""
        self._ahead = 0
        for number in reversed(message.numbers):
            delivery = self._deliveries.pop(number, None)
            if delivery is None:
                continue
            if delivery in self._unbegun:
                self._unbegun.remove(delivery)
                self._unbegun_octets -= len(cast(bytes, delivery.message.content))
            self._put_back(delivery)

    def gone(self, reason: str) -> None:
        """The worker is dead."""
        self._gone = reason
        self.is_open = False
        self._outcome(ConnectionGone(reason))
        self.leave()

    def _outcome(self, outcome: _Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    _takers: ClassVar[Mapping[type, Callable[[WorkerConnection, Any], None]]] = {
        RecipientSettled: _settled,
        HandoversBegun: _begun,
        CompletionQuestion: _outcome,
        RunEnded: _run_ended,
        PeerMet: _met,
        SessionStands: _stands,
        HandoverReturned: _returned,
        HandoversNotBegun: _not_begun,
        SessionStirred: _stirs,
        ConnectionClosed: _outcome,
    }


def _nothing() -> WorkerDelivery | None:
    """Nothing more is handed over."""
    return None
