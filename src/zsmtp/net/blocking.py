"""The blocking driver: carries out the effects of one generator at a time, with ``selectors`` and a clock.

It reads while it writes, so that a peer that stops reading until its replies are read cannot lock the session up; it
waits in one place, on the connection and on a descriptor that becomes readable when this program is told to stop; and
every wait has the deadline that the session, the race or the resolver names. A stop ends whatever is being done, except
the wait for a final reply: that is what prevents duplicates.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.destination import OwnAddresses
from zsmtp.dns.plan import Endpoint
from zsmtp.dns.resolver import Resolver
from zsmtp.errors import ConnectError, ConnectionLost, ContentError, Interrupted, LocalError
from zsmtp.events import Connecting, Observer, ignore
from zsmtp.net.effects import Close, Connect, ConnectResult, Exchange
from zsmtp.net.identity import LocalIdentity, bind_socket, own_addresses
from zsmtp.net.race import Race
from zsmtp.net.transport import SocketStream, begin_connect, finish_connect, new_socket
from zsmtp.proto.session import Session, SessionEvent

QUERY_TIME = 15.0  # seconds for one lookup
LOOKUPS_TIME = 60.0  # seconds for all lookups of one generator

T = TypeVar("T")


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
        self._selector = selectors.PollSelector()
        self._selector.register(stop, selectors.EVENT_READ)
        self._stop_heard = False
        self._watched: SocketStream | None = None
        self._wanted = 0

    def run(self, work: Generator[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result."""
        self._lookups_end = self._clock() + LOOKUPS_TIME
        answer: object = None
        try:
            while True:
                answer = self._perform(work.send(answer))
        except StopIteration as end:
            result: T = end.value
            return result

    def _perform(self, effect: object) -> object:
        if isinstance(effect, Exchange):
            assert isinstance(effect.stream, SocketStream)
            return self._exchange(effect.stream, effect.session)
        if isinstance(effect, Query):
            return self._look_up(effect)
        if isinstance(effect, Connect):
            return self._connect(effect)
        if isinstance(effect, Close):
            assert isinstance(effect.stream, SocketStream)
            self._close(effect.stream)
            return None
        if isinstance(effect, OwnAddresses):
            return own_addresses()
        raise LocalError(f"not an effect this driver knows: {effect!r}")

    # ------------------------------------------------------------------- DNS

    def _look_up(self, query: Query) -> Answer:
        now = self._clock()
        if self._stop.requested:
            return Answer(query, Status.TIMEOUT, problem="told to stop")
        if now >= self._lookups_end:
            return Answer(query, Status.TIMEOUT, problem=f"lookups took more than {LOOKUPS_TIME:.0f} s in all")
        if self._resolver is None:
            self._resolver = self._make_resolver()
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
            try:
                out = session.data_to_send(self._clock())
            except ContentError as error:
                session.fail(error)
                continue
            deadline = session.deadline()
            if not out and deadline is None:
                return session.next_event()
            ready = self._wait(stream, deadline, want_write=bool(out))
            try:
                self._move(stream, session, out, ready)
            except ConnectionLost as error:
                session.fail(error)

    def _wait(self, stream: SocketStream, deadline: float | None, *, want_write: bool) -> int:
        """Wait on the stream; the ``selectors`` events it is ready for."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if want_write else 0)
        if self._watched is not stream:
            self._forget_stream()
            self._selector.register(stream, wanted)
            self._watched, self._wanted = stream, wanted
        elif self._wanted != wanted:
            self._selector.modify(stream, wanted)
            self._wanted = wanted
        return next((events for key, events in self._select(deadline) if key.fileobj is stream), 0)

    def _move(self, stream: SocketStream, session: Session, out: memoryview, ready: int) -> None:
        """Read before writing: what came before a command was written is no answer to it."""
        if ready & selectors.EVENT_READ:
            data = stream.receive()
            if data:
                session.receive_data(data, self._clock())
            elif data is not None:
                session.receive_eof(self._clock())
        if ready & selectors.EVENT_WRITE and session.lost is None:
            session.data_written(stream.send(out), self._clock())
        session.handle_timer(self._clock())

    def _select(self, deadline: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for any registered descriptor, until ``deadline`` at the latest."""
        timeout = None if deadline is None else max(deadline - self._clock(), 0.0)
        events = self._selector.select(timeout)
        if self._stop.requested and not self._stop_heard:
            self._stop_heard = True
            self._selector.unregister(self._stop)  # it stays readable; waits that go on must not spin on it
        return events

    def _forget_stream(self) -> None:
        if self._watched is not None:
            self._selector.unregister(self._watched)
            self._watched = None

    def _close(self, stream: SocketStream) -> None:
        if self._watched is stream:
            self._forget_stream()
        stream.close()

    def wait_for_input(self, fileno: int, deadline: float | None, stream: object = None) -> bool:
        """Wait until ``fileno`` is readable: True. False at the deadline, on a stop, or if ``stream``'s peer stirs.

        The descriptor is only waited on: its mode is not changed.
        """
        self._forget_stream()
        self._selector.register(fileno, selectors.EVENT_READ)
        if isinstance(stream, SocketStream):
            self._selector.register(stream, selectors.EVENT_READ)
            self._watched, self._wanted = stream, selectors.EVENT_READ
        try:
            if self._stop.requested:
                return False
            return any(key.fd == fileno for key, _ in self._select(deadline))
        finally:
            self._selector.unregister(fileno)

    def is_readable(self, fileno: int) -> bool:
        """Whether ``fileno`` can be read without waiting."""
        return bool(select.select([fileno], [], [], 0)[0])

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
            self._selector.register(sock, selectors.EVENT_WRITE)
            if connected:
                self._selector.unregister(sock)
                return endpoint
        return None

    def _finish_any(
        self, race: Race, running: dict[Endpoint, socket.socket], failures: list[tuple[Endpoint, str]]
    ) -> Endpoint | None:
        """Wait for something to happen; the first endpoint, in order of starting, whose connection stands."""
        if race.over:
            return None
        self._forget_stream()
        ready = {key.fd for key, _ in self._select(race.deadline())}
        for endpoint, sock in list(running.items()):
            if sock.fileno() not in ready:
                continue
            try:
                finish_connect(sock)
            except OSError as error:
                self._abandon(running.pop(endpoint))
                self._failed(race, failures, endpoint, error)
                continue
            self._selector.unregister(sock)
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
        self._selector.unregister(sock)
        sock.close()
