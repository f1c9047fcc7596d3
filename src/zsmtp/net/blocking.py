"""The blocking driver: carries out the effects of one operation at a time, with ``poll`` and a clock.

``zsmtp.net.operations`` has the steps of an exchange, a handshake and a race of connections; this module waits: in one
place, on the connection and on a descriptor that becomes readable when a stop is requested, until the deadline of the
session, the race or the resolver.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from zsmtp.dns.answer import Answer, AskAhead, Query
from zsmtp.dns.resolver import Resolver
from zsmtp.effects import (
    AllowCompletion,
    Close,
    Connect,
    ConnectResult,
    Effect,
    Exchange,
    FetchPolicy,
    GiveWay,
    KeepPolicy,
    Operation,
    OwnAddresses,
    ReadClock,
    ReadStop,
    RecallPolicy,
    Sleep,
    StartTLS,
    TLSResult,
    carry_out,
    unknown_effect,
)
from zsmtp.errors import INTERRUPTED
from zsmtp.events import LookupDone, LookupStarted, Observer, ignore
from zsmtp.net import operations
from zsmtp.net.identity import LocalIdentity, own_addresses
from zsmtp.net.operations import READABLE, SocketsWait, StreamWait, Wait
from zsmtp.net.transport import SocketStream

if TYPE_CHECKING:
    from zsmtp.net.stspolicies import PolicyKeeper
    from zsmtp.tls.mtasts import FetchedPolicy, RecalledPolicy

_LONGEST_POLL = (1 << 31) - 1  # milliseconds
LINGER = 10  # milliseconds; while ``may_linger``, ``before_wait`` is not called for waits up to this long

T = TypeVar("T")


def _nothing() -> None:
    """Default for ``before_wait``: do nothing."""


def _never() -> bool:
    """Default for ``may_linger``: call ``before_wait`` before every wait."""
    return False


class Stop:
    """A request to stop this program, on which waits can poll: ``fileno`` becomes readable then.

    It is a :class:`zsmtp.net.operations.Stopping`.
    """

    at_once = False
    reason = INTERRUPTED

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.requested = False

    def request(self) -> None:
        """Request a stop; safe in a signal handler, and more than once."""
        self.requested = True
        with contextlib.suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._writer, b"!")

    def fileno(self) -> int:
        """A descriptor that is readable once a stop is requested."""
        return self._reader


class BlockingDriver:
    """Carries out effects. ``resolver`` makes the resolver, for the first lookup that needs one.

    ``identity`` is the local address to connect from (None: the system's choice), ``reserved_port``: use a source port
    below 1024, ``send_buffer`` is SO_SNDBUF in octets.

    :attr:`before_wait` is called before each wait, to do postponed work. While :attr:`may_linger` returns True, it is
    called only before waits of more than ``LINGER``. :attr:`policies` carries out the effects of MTA-STS; without it
    they are refused.
    """

    def __init__(
        self,
        resolver: Callable[[], Resolver],
        stop: Stop,
        *,
        identity: LocalIdentity | None = None,
        reserved_port: bool = False,
        send_buffer: int | None = None,
        observer: Observer = ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_resolver = resolver
        self._resolver: Resolver | None = None
        self._stop = stop
        self._source = operations.LocalBinding(identity, reserved_port, send_buffer)
        self._observe = observer
        self._clock = clock
        self._lookups_end = 0.0
        self.before_wait: Callable[[], None] = _nothing
        self.may_linger: Callable[[], bool] = _never
        self.policies: PolicyKeeper | None = None
        self._poll = select.poll()
        self._poll.register(stop, READABLE)
        self._stop_seen = False
        self._watched: SocketStream | None = None
        self._watched_fd = -1
        self._wanted = 0

    def run(self, work: Operation[T]) -> T:
        """Run ``work`` to its end and return its result."""
        self._lookups_end = self._clock() + operations.LOOKUPS_TIME
        return carry_out(work, self._perform)

    def _perform(self, effect: Effect[Any]) -> object:
        perform = self._performers.get(type(effect))
        if perform is None:
            raise unknown_effect(effect)
        return perform(self, effect)

    def _sleep(self, effect: Sleep) -> None:
        began = self._clock()
        self._forget_stream()
        while not self._stop.requested and self._clock() < effect.until:
            self._ready(effect.until)
        self._lookups_end += self._clock() - began  # the time limit of all lookups excludes sleeps

    def _recall_policy(self, effect: RecallPolicy) -> RecalledPolicy:
        self.before_wait()
        return operations.keeper_for(effect, self.policies).recall(effect)

    def _keep_policy(self, effect: KeepPolicy) -> None:
        self.before_wait()
        operations.keeper_for(effect, self.policies).keep([effect])

    def _fetch_policy(self, effect: FetchPolicy) -> FetchedPolicy:
        began = self._clock()
        fetched = carry_out(operations.keeper_for(effect, self.policies).fetch(effect), self._perform_for_web)
        self._lookups_end += self._clock() - began  # a fetch has a deadline of its own
        return fetched

    def _perform_for_web(self, effect: Effect[Any]) -> object:
        """Carry out effects of HTTPS: SMTP observers get no events, and connections use any source address."""
        if not isinstance(effect, Connect):
            return self._perform(effect)
        return carry_out(
            operations.connect(effect, operations.LocalBinding(), self._clock, self._stop, ignore), self._wait
        )

    def _exchange(self, effect: Exchange[Any]) -> object:
        stream: Any = effect.stream  # a driver's own type of stream
        return carry_out(operations.exchange(stream, effect.session, self._clock, self._stop), self._wait)

    def _connect(self, effect: Connect) -> ConnectResult:
        return carry_out(operations.connect(effect, self._source, self._clock, self._stop, self._observe), self._wait)

    def _start_tls(self, effect: StartTLS) -> TLSResult:
        stream = cast(SocketStream, effect.stream)
        result = carry_out(operations.start_tls(effect, self._clock, self._stop), self._wait)
        self._forget_stream()
        if result.stream is None:
            stream.close()
        return result

    def _look_up(self, query: Query) -> Answer:
        if self._observe is ignore:
            return self._ask(query)
        self._observe(LookupStarted(query))
        answer = self._ask(query)
        self._observe(LookupDone(answer))
        return answer

    def _ask(self, query: Query) -> Answer:
        deadline = operations.lookup_deadline(query, self._clock(), self._lookups_end, self._stop)
        if isinstance(deadline, Answer):
            return deadline
        if self._resolver is None:
            self._resolver = self._make_resolver()
        self.before_wait()
        return self._resolver.lookup(query, deadline)

    # ----------------------------------------------------------------- waits

    def _wait(self, wait: Wait) -> object:
        """Carry out one wait of ``zsmtp.net.operations``."""
        if isinstance(wait, StreamWait):
            return self._wait_on_stream(wait)
        if isinstance(wait, SocketsWait):
            return self._wait_on_sockets(wait)
        return self._look_up(wait)

    def _wait_on_stream(self, wait: StreamWait) -> int:
        """The poll events the stream is ready for."""
        stream, interest, deadline = wait
        if self._watched is not stream:
            self._forget_stream()
            self._watch(stream, interest)
        elif self._wanted != interest:
            self._poll.modify(self._watched_fd, interest)
            self._wanted = interest
        for fd, events in self._ready(deadline, likely=bool(interest & operations.WRITABLE)):
            if fd == self._watched_fd:
                return events
        return 0

    def _wait_on_sockets(self, wait: SocketsWait) -> set[int]:
        """The descriptors that are ready."""
        self._forget_stream()
        for sock in wait.sockets:
            self._poll.register(sock, operations.WRITABLE)
        try:
            return {fd for fd, _ in self._ready(wait.deadline)}
        finally:
            for sock in wait.sockets:
                self._poll.unregister(sock)

    def _ready(self, deadline: float | None, *, likely: bool = False) -> list[tuple[int, int]]:
        """Wait for any registered descriptor until ``deadline`` at most: pairs of descriptor and events.

        ``likely``: a descriptor is probably ready, for instance for writing.
        """
        events = self._poll.poll(0) if likely else []
        if not events:
            left = _LONGEST_POLL if deadline is None else (deadline - self._clock()) * 1000
            if left > LINGER and self.may_linger():
                events = self._poll.poll(LINGER)
            if not events:
                self.before_wait()
                events = self._poll.poll(None if deadline is None else min(math.ceil(max(left, 0.0)), _LONGEST_POLL))
        if self._stop.requested and not self._stop_seen:
            self._stop_seen = True
            self._poll.unregister(self._stop)  # it stays readable; further waits must not spin on it
        return events

    def _watch(self, stream: SocketStream, wanted: int) -> None:
        self._watched, self._watched_fd, self._wanted = stream, stream.fileno(), wanted
        self._poll.register(self._watched_fd, wanted)

    def _forget_stream(self) -> None:
        if self._watched is not None:
            self._poll.unregister(self._watched_fd)
            self._watched, self._watched_fd = None, -1

    def _close(self, effect: Close) -> None:
        stream = cast(SocketStream, effect.stream)
        if self._watched is stream:
            self._forget_stream()
        stream.close()

    _performers: ClassVar[Mapping[type[Effect[Any]], Callable[[BlockingDriver, Any], object]]] = {
        Exchange: _exchange,
        Query: _look_up,
        AskAhead: lambda _self, _: None,
        Connect: _connect,
        Close: _close,
        StartTLS: _start_tls,
        ReadClock: lambda self, _: self._clock(),
        Sleep: _sleep,
        GiveWay: lambda _self, _: None,
        OwnAddresses: lambda _self, _: own_addresses(),
        ReadStop: lambda self, _: operations.why_stopped(self._stop),
        AllowCompletion: lambda _self, _: True,
        RecallPolicy: _recall_policy,
        FetchPolicy: _fetch_policy,
        KeepPolicy: _keep_policy,
    }

    def wait_for_input(self, fileno: int, deadline: float | None, stream: object = None) -> bool:
        """Wait until ``fileno`` is readable: True. False at the deadline, on a stop, or if ``stream`` is ready.

        The descriptor's mode is not changed.
        """
        self._forget_stream()
        self._poll.register(fileno, READABLE)
        if stream is not None:
            self._watch(cast(SocketStream, stream), READABLE)
        try:
            if self._stop.requested:
                return False
            return any(fd == fileno for fd, _ in self._ready(deadline))
        finally:
            self._poll.unregister(fileno)

    def is_readable(self, fileno: int) -> bool:
        """Whether ``fileno`` can be read without waiting."""
        return bool(select.select([fileno], [], [], 0)[0])
