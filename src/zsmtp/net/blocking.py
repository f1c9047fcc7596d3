"""The blocking driver: carries out the effects of one generator at a time, with ``poll`` and a clock.

It reads while it writes, so that a peer that stops reading until its replies are read cannot lock the session up; it
waits in one place, on the connection and on a descriptor that becomes readable when this program is told to stop; and
every wait has the deadline that the session, the race or the resolver names. A stop ends whatever is being done, except
the wait for a final reply: that is what prevents duplicates.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.destination import OwnAddresses
from zsmtp.dns.plan import Endpoint
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import (
    ConfigError,
    ConnectError,
    ConnectionLost,
    ContentError,
    Interrupted,
    LocalError,
    TransportError,
)
from zsmtp.events import Connecting, LookupDone, LookupStarted, Observer, ignore
from zsmtp.net.effects import Close, Connect, ConnectResult, Exchange, StartTLS, TLSResult, carry_out
from zsmtp.net.identity import LocalIdentity, bind_socket, own_addresses
from zsmtp.net.race import Race
from zsmtp.net.transport import SocketStream, begin_connect, finish_connect, new_socket
from zsmtp.proto.session import Session, SessionEvent

if TYPE_CHECKING:
    from zsmtp.tls.chain import TrustAnchors

QUERY_TIME = 15.0  # seconds for one lookup
LOOKUPS_TIME = 60.0  # seconds for all lookups of one generator

_READABLE = select.POLLIN
_WRITABLE = select.POLLOUT
_LONGEST_POLL = (1 << 31) - 1  # milliseconds

T = TypeVar("T")


def _nothing() -> None:
    """What most users have to do before a wait."""


class Stop:
    """Whether this program was told to stop, in a form that waits can hear: ``fileno`` becomes readable then."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.requested = False

    def request(self) -> None:
        """Tell it; safe in a signal handler, and more than once."""
        self.requested = True
        with contextlib.suppress(BlockingIOError):  # a full pipe has told it often enough
            os.write(self._writer, b"!")

    def fileno(self) -> int:
        """A descriptor that is readable once a stop is requested."""
        return self._reader


class BlockingDriver:
    """Carries out effects. ``resolver`` is called for the first lookup that needs one.

    ``identity`` is the local address to connect from (None: the system's choice), ``reserved_port`` asks for a source
    port below 1024, ``send_buffer`` is SO_SNDBUF in octets.

    :attr:`before_wait` is called whenever something is going to be waited for: the time to do what was put off.
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
        self._identity = identity
        self._reserved_port = reserved_port
        self._send_buffer = send_buffer
        self._observe = observer
        self._clock = clock
        self._lookups_end = 0.0
        self.before_wait: Callable[[], None] = _nothing
        self._poll = select.poll()
        self._poll.register(stop, _READABLE)
        self._stop_heard = False
        self._watched: SocketStream | None = None
        self._watched_fd = -1
        self._wanted = 0

    def run(self, work: Generator[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result."""
        self._lookups_end = self._clock() + LOOKUPS_TIME
        return carry_out(work, self._perform)

    def _perform(self, effect: object) -> object:
        if isinstance(effect, Exchange):
            return self._exchange(cast(SocketStream, effect.stream), effect.session)
        if isinstance(effect, Query):
            return self._look_up(effect)
        if isinstance(effect, Connect):
            return self._connect(effect)
        if isinstance(effect, Close):
            self._close(cast(SocketStream, effect.stream))
            return None
        if isinstance(effect, StartTLS):
            return self._start_tls(effect)
        if isinstance(effect, OwnAddresses):
            return own_addresses()
        raise LocalError(f"not an effect this driver knows: {effect!r}")

    # ------------------------------------------------------------------- DNS

    def _look_up(self, query: Query) -> Answer:
        if self._observe is ignore:
            return self._ask(query)
        self._observe(LookupStarted(query))
        answer = self._ask(query)
        self._observe(LookupDone(answer))
        return answer

    def _ask(self, query: Query) -> Answer:
        now = self._clock()
        if self._stop.requested:
            return Answer(query, Status.TIMEOUT, problem="told to stop")
        if now >= self._lookups_end:
            return Answer(query, Status.TIMEOUT, problem=f"lookups took more than {LOOKUPS_TIME:.0f} s in all")
        if self._resolver is None:
            self._resolver = self._make_resolver()
        self.before_wait()
        return self._resolver.lookup(query, min(now + QUERY_TIME, self._lookups_end))

    # --------------------------------------------------------------- session

    def _exchange(self, stream: SocketStream, session: Session) -> SessionEvent | None:
        """Move octets until the session has an event to tell; None if it has nothing left to do."""
        while True:
            event = session.next_event()
            if event is not None:
                return event
            if self._stop.requested and not session.idle:
                session.stop()
                if not session.final_reply_due:
                    session.fail(Interrupted("told to stop"))
                    continue
            now = self._clock()
            try:
                out = session.data_to_send(now)
            except ContentError as error:
                session.fail(error)
                continue
            deadline = session.deadline()
            if not out and deadline is None:
                return session.next_event()
            if deadline is not None and now >= deadline:  # also if octets come, but no reply of them
                session.handle_timer(now)
                continue
            ready = self._wait(stream, None if deadline is None else deadline - now, want_write=bool(out))
            try:
                self._move(stream, session, out, ready)
            except ConnectionLost as error:
                session.fail(error)

    def _wait(self, stream: SocketStream, patience: float | None, *, want_write: bool) -> int:
        """Wait on the stream for so many seconds; the poll events it is ready for."""
        if stream.pending:
            return _READABLE
        wanted = _READABLE | _WRITABLE if want_write or stream.wants_write else _READABLE
        if self._watched is not stream:
            self._forget_stream()
            self._watch(stream, wanted)
        elif self._wanted != wanted:
            self._poll.modify(self._watched_fd, wanted)
            self._wanted = wanted
        for fd, events in self._ready(patience):
            if fd == self._watched_fd:
                return events
        return 0

    def _move(self, stream: SocketStream, session: Session, out: memoryview, ready: int) -> None:
        """Read before writing: what came before a command was written is no answer to it."""
        if ready & ~_WRITABLE:  # readable, or broken: reading will tell
            data = stream.receive()
            if data:
                session.receive_data(data, self._clock())
            elif data is not None:
                session.receive_eof(self._clock())
        if ready & ~_READABLE and session.lost is None:
            if out:
                session.data_written(stream.send(out), self._clock())
            else:
                stream.flush()

    def _ready(self, patience: float | None) -> list[tuple[int, int]]:
        """Wait for any registered descriptor for so many seconds at most: pairs of descriptor and events."""
        self.before_wait()
        timeout = None if patience is None else min(math.ceil(max(patience, 0.0) * 1000), _LONGEST_POLL)
        events = self._poll.poll(timeout)
        if self._stop.requested and not self._stop_heard:
            self._stop_heard = True
            self._poll.unregister(self._stop)  # it stays readable; waits that go on must not spin on it
        return events

    def _until(self, deadline: float | None) -> float | None:
        return None if deadline is None else deadline - self._clock()

    def _watch(self, stream: SocketStream, wanted: int) -> None:
        self._watched, self._watched_fd, self._wanted = stream, stream.fileno(), wanted
        self._poll.register(self._watched_fd, wanted)

    def _forget_stream(self) -> None:
        if self._watched is not None:
            self._poll.unregister(self._watched_fd)
            self._watched, self._watched_fd = None, -1

    def _close(self, stream: SocketStream) -> None:
        if self._watched is stream:
            self._forget_stream()
        stream.close()

    def wait_for_input(self, fileno: int, deadline: float | None, stream: object = None) -> bool:
        """Wait until ``fileno`` is readable: True. False at the deadline, on a stop, or if ``stream``'s peer stirs.

        The descriptor is only waited on: its mode is not changed.
        """
        self._forget_stream()
        self._poll.register(fileno, _READABLE)
        if stream is not None:
            self._watch(cast(SocketStream, stream), _READABLE)
        try:
            if self._stop.requested:
                return False
            return any(fd == fileno for fd, _ in self._ready(self._until(deadline)))
        finally:
            self._poll.unregister(fileno)

    def is_readable(self, fileno: int) -> bool:
        """Whether ``fileno`` can be read without waiting."""
        return bool(select.select([fileno], [], [], 0)[0])

    # ------------------------------------------------------------------- TLS

    def _start_tls(self, effect: StartTLS) -> TLSResult:
        """The handshake; on failure the stream below is closed."""
        from zsmtp.net.tlslayer import Step, TLSLayer, handshake
        from zsmtp.tls.context import client_context, trust_anchors

        stream = cast(SocketStream, effect.stream)
        deadline = self._clock() + effect.timeout

        def anchors() -> TrustAnchors:
            return trust_anchors(effect.ca_file, effect.ca_path)

        def wait(step: Step) -> bool:
            if not self._stop.requested:
                self._wait(stream, self._until(deadline), want_write=step is Step.WANT_WRITE)
            return not self._stop.requested and self._clock() < deadline

        try:
            layer = TLSLayer(stream, client_context(effect.options), server_name=effect.server_name)
            handshake(layer, wait)
            facts = layer.facts()
        except (TransportError, ConfigError) as error:
            self._close(stream)
            return TLSResult(None, None, time.time(), anchors, str(error), interrupted=self._stop.requested)
        self._forget_stream()
        return TLSResult(layer, facts, time.time(), anchors)

    # ------------------------------------------------------------ connecting

    def _connect(self, effect: Connect) -> ConnectResult:
        """Race over the endpoints; every socket but the winner's is closed on the way out."""
        race = Race(effect.endpoints, effect.timeout, self._clock())
        failures: list[tuple[Endpoint, str]] = []
        running: dict[Endpoint, socket.socket] = {}
        try:
            while not race.over:
                if self._stop.requested:
                    return ConnectResult(None, None, tuple(failures), interrupted=True)
                winner = self._start_all(race, running, failures) or self._finish_any(race, running, failures)
                if winner is not None:
                    sock = running.pop(winner)
                    return ConnectResult(SocketStream(sock, winner.family), winner, tuple(failures))
        finally:
            for sock in running.values():
                self._abandon(sock)
        return ConnectResult(None, None, tuple(failures))

    def _start_all(
        self, race: Race, running: dict[Endpoint, socket.socket], failures: list[tuple[Endpoint, str]]
    ) -> Endpoint | None:
        """Start what is due; the endpoint whose connection stands at once, if one does."""
        while (endpoint := race.start(self._clock())) is not None:
            if self._observe is not ignore:
                self._observe(Connecting(endpoint))
            try:
                sock = new_socket(endpoint, self._send_buffer)
            except OSError as error:
                self._failed(race, failures, endpoint, error)
                continue
            try:
                self._bind(sock, endpoint)
                connected = begin_connect(sock, endpoint)
            except (OSError, ConnectError) as error:
                sock.close()
                self._failed(race, failures, endpoint, error)
                continue
            running[endpoint] = sock
            self._poll.register(sock, _WRITABLE)
            if connected:
                self._poll.unregister(sock)
                return endpoint
        return None

    def _finish_any(
        self, race: Race, running: dict[Endpoint, socket.socket], failures: list[tuple[Endpoint, str]]
    ) -> Endpoint | None:
        """Wait for something to happen; the first endpoint, in order of starting, whose connection stands."""
        if race.over:
            return None
        self._forget_stream()
        ready = {fd for fd, _ in self._ready(self._until(race.deadline()))}
        for endpoint, sock in list(running.items()):
            if sock.fileno() not in ready:
                continue
            try:
                finish_connect(sock)
            except OSError as error:
                self._abandon(running.pop(endpoint))
                self._failed(race, failures, endpoint, error)
                continue
            self._poll.unregister(sock)
            return endpoint
        for endpoint in race.expired(self._clock()):
            self._abandon(running.pop(endpoint))
            failures.append((endpoint, "Connection timed out"))
        return None

    def _failed(
        self, race: Race, failures: list[tuple[Endpoint, str]], endpoint: Endpoint, error: OSError | ConnectError
    ) -> None:
        race.failed(endpoint)
        reason = str(error)
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error)
        failures.append((endpoint, reason))

    def _bind(self, sock: socket.socket, endpoint: Endpoint) -> None:
        identity = None if self._identity is None else self._identity.resolve(self._addresses_of)
        bind_socket(sock, identity, endpoint.family, reserved_port=self._reserved_port)

    def _addresses_of(self, name: str) -> tuple[str, ...]:
        answers = [self._look_up(Query(name, kind)) for kind in (RecordType.A, RecordType.AAAA)]
        return tuple(str(record) for answer in answers for record in answer.records)

    def _abandon(self, sock: socket.socket) -> None:
        self._poll.unregister(sock)
        sock.close()
