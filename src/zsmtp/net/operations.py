"""The steps that all drivers share, as coroutines that await waits: an exchange, a handshake, a race of connections.

A driver carries out the effects of the rules (``zsmtp.effects``). This module moves the octets of an exchange, ends
waits, handles stops and picks the winning socket, for all of them. Each coroutine works on non-blocking streams and
sockets, and awaits:

- :class:`StreamWait`: wait until the stream is ready; the answer is the ready events, in the bits of poll(2), 0 for
  none.
- :class:`SocketsWait`: wait until any of several sockets is ready; the answer is the ready descriptors.
- :class:`~zsmtp.dns.answer.Query`: a lookup; the answer is its :class:`~zsmtp.dns.answer.Answer`.

A wait may end early and spuriously: the coroutine checks again, the clock and its :class:`Stopping`, too.
``zsmtp.net.blocking`` waits with ``poll``, ``zsmtp.net.aio`` with an event loop::

    event = carry_out(exchange(stream, session, time.monotonic, stop), wait)
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint
from zsmtp.effects import Connect, ConnectResult, FetchPolicy, KeepPolicy, RecallPolicy, StartTLS, TLSResult
from zsmtp.errors import (
    INTERRUPTED,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ContentError,
    Interrupted,
    LocalError,
    TransportError,
    UntrustedPeer,
    WaitTimeout,
)
from zsmtp.events import ConnectFailed, Connecting, Observer, ignore
from zsmtp.net.identity import LocalIdentity, ResolvedIdentity, bind_socket
from zsmtp.net.race import Race
from zsmtp.net.transport import SocketStream, begin_connect, finish_connect, new_socket
from zsmtp.records import NamedTuple

if TYPE_CHECKING:
    from zsmtp.effects import Conversation
    from zsmtp.net.stspolicies import PolicyKeeper
    from zsmtp.tls.chain import TrustAnchors

QUERY_TIME = 15.0  # seconds for one lookup
LOOKUPS_TIME = 60.0  # seconds for all lookups of one piece of work

MOMENT = 0.001  # seconds after the last read within which a write is tried without another read
LISTENING = 0.003  # seconds to wait for a surplus reply before the first chunk of a session

READABLE = select.POLLIN
WRITABLE = select.POLLOUT

Clock = Callable[[], float]
E = TypeVar("E")


class Stopping(Protocol):
    """Whether a stop of the work is requested.

    A stop ends all work except the wait for a final reply, which prevents duplicates; with ``at_once`` it ends that
    too, and leaves the message in doubt. ``reason`` is for reports.
    """

    @property
    def requested(self) -> bool: ...
    @property
    def at_once(self) -> bool: ...
    @property
    def reason(self) -> str: ...


def why_stopped(stop: Stopping) -> str:
    """The answer to :class:`~zsmtp.effects.ReadStop`."""
    return (stop.reason or INTERRUPTED) if stop.requested else ""


class StreamWait(NamedTuple):
    """Wait until ``stream`` is ready for ``interest``, or broken, or until ``deadline`` (None: no limit)."""

    stream: SocketStream
    interest: int
    deadline: float | None

    def __await__(self) -> Generator[StreamWait, int, int]:
        """The events of ``poll`` that the stream is ready for; 0 at the deadline."""
        return (yield self)


class SocketsWait(NamedTuple):
    """Wait until one of ``sockets``, which are connecting, is ready for writing, or until ``deadline``."""

    sockets: tuple[socket.socket, ...]
    deadline: float | None

    def __await__(self) -> Generator[SocketsWait, set[int], set[int]]:
        """The descriptors that are ready."""
        return (yield self)


Wait = StreamWait | SocketsWait | Query  # what the coroutines of this module await


# ------------------------------------------------------------------- policies


def keeper_for(effect: RecallPolicy | FetchPolicy | KeepPolicy, keeper: PolicyKeeper | None) -> PolicyKeeper:
    """The ``keeper`` of a driver, if it has one. Raises LocalError."""
    if keeper is None:
        raise LocalError(f"this driver keeps no MTA-STS policies: {effect!r}")
    return keeper


# -------------------------------------------------------------------- lookups


def lookup_deadline(query: Query, now: float, lookups_end: float, stop: Stopping) -> float | Answer:
    """The deadline of a lookup, or its answer if there is no time left for it.

    ``lookups_end`` is the end of the time for all lookups of this piece of work.
    """
    if stop.requested:
        return Answer(query, Status.TIMEOUT, problem=stop.reason)
    if now >= lookups_end:
        return Answer(query, Status.TIMEOUT, problem=f"lookups took more than {LOOKUPS_TIME:.0f} s in all")
    return min(now + QUERY_TIME, lookups_end)


# ------------------------------------------------------------------- exchange


async def exchange(stream: SocketStream, session: Conversation[E], clock: Clock, stop: Stopping) -> E | None:
    """Move octets until the conversation has an event; None if it has nothing left to do.

    It reads while it writes, so that a peer that stops reading until its replies are read cannot block the session. A
    write shortly after a read (``MOMENT``) is tried at once, since there is rarely more to read. But a whole message
    sent without a go-ahead would be in doubt if the peer had closed behind its last reply, so the socket is checked
    first. Before the first chunk of a session it waits for input for a moment (``LISTENING``): a surplus reply can be
    detected only then. At a deadline it reads once more: the reply may have arrived while this process was busy.
    """
    asked = waited = checked = False
    while True:
        event = session.next_event()
        if event is not None:
            return event
        if stop.requested and not session.idle:
            session.stop()
            if stop.at_once or not session.final_reply_due:
                session.fail(Interrupted(stop.reason))
                continue
        now = clock()
        try:
            out = session.data_to_send(now)
        except ContentError as error:
            session.fail(error)
            continue
        if not out and (event := session.next_event()) is not None:
            return event
        deadline = session.deadline()
        if not out and deadline is None:
            return None
        if deadline is not None and now >= deadline:  # also if octets arrive without completing a reply
            if checked:
                session.handle_timer(now)
                continue
            checked = True
            ready = READABLE if stream.pending else await StreamWait(stream, READABLE, now)
        elif stream.pending:
            ready = READABLE
        elif out and not waited and session.listens:
            waited = True
            ready = await StreamWait(stream, READABLE, now + LISTENING)
        elif out and not asked and now - session.last_heard < MOMENT and not session.blind:
            ready, asked = WRITABLE, True
        else:
            interest = READABLE | WRITABLE if out or stream.wants_write else READABLE
            ready = await StreamWait(stream, interest, deadline)
        if ready:
            try:
                _move(stream, session, out, ready, clock)
            except ConnectionLost as error:
                session.fail(_last_words(stream, session, error, clock))


def _last_words(
    stream: SocketStream, session: Conversation[Any], error: ConnectionLost, clock: Clock
) -> ConnectionLost:
    """Read the octets that arrived before a write raised ``error``; returns the error that ended the connection.

    A peer that closes with unread octets resets the connection behind its last reply, and the write may fail before
    that is read. A broken pipe only shows that the peer has closed: reading shows how, as if the socket had been read
    first.
    """
    gone = isinstance(error.__cause__, BrokenPipeError)
    try:
        data = stream.receive()
    except ConnectionLost as read_error:
        return read_error if gone else error
    if data:
        session.receive_data(data, clock())
    elif data is not None and gone:
        session.receive_eof(clock())
    return error


def _move(stream: SocketStream, session: Conversation[Any], out: memoryview, ready: int, clock: Clock) -> None:
    """Read before writing: octets that came before a command was written are no reply to it."""
    if ready & ~WRITABLE:  # readable, or broken: the read shows which
        data = stream.receive()
        if data:
            session.receive_data(data, clock())
        elif data is not None:
            session.receive_eof(clock())
    if ready & ~READABLE and session.lost is None:
        if out:
            session.data_written(stream.send(out), clock())
        else:
            stream.flush()


# ------------------------------------------------------------------ handshake


async def start_tls(effect: StartTLS, clock: Clock, stop: Stopping) -> TLSResult:
    """Do the handshake. If the result has no stream, the driver closes the one below."""
    from zsmtp.net.tlslayer import HandshakeStep, TLSLayer
    from zsmtp.tls.context import client_context, trust_anchors
    from zsmtp.tls.resume import ResumableSession

    stream = cast(SocketStream, effect.stream)
    deadline = clock() + effect.timeout

    def anchors() -> TrustAnchors:
        return trust_anchors(effect.ca_file, effect.ca_path)

    place = effect.resumption
    kept = place.find(clock()) if place is not None else None
    try:
        layer = TLSLayer(stream, client_context(effect.options), server_name=effect.server_name, resume=kept)
        while (step := layer.handshake_step()) is not HandshakeStep.DONE:
            if not stop.requested:
                await StreamWait(
                    stream, READABLE | WRITABLE if step is HandshakeStep.WANT_WRITE else READABLE, deadline
                )
            if stop.requested or clock() >= deadline:
                raise WaitTimeout("the TLS handshake took too long")
        facts = layer.facts()
    except (TransportError, ConfigError) as error:
        if place is not None and not stop.requested:  # a handshake stopped by this side is no failure of the session
            place.forget()
        return TLSResult(
            None,
            None,
            time.time(),
            anchors,
            str(error),
            interrupted=stop.requested,
            timed_out=isinstance(error, WaitTimeout) and not stop.requested,
            untrusted=isinstance(error, UntrustedPeer),
            own=isinstance(error, ConfigError),
            resuming=kept is not None,
        )
    since = clock()

    def approved() -> None:
        # A resumed session stays cached unchanged. Getting the present one from OpenSSL costs more than the rest of a
        # resumed handshake: Python makes a copy, and parses the peer's certificate again.
        if place is not None and not facts.resumed:
            layer.keep = lambda session: place.keep(ResumableSession(session, facts.chain, since))

    return TLSResult(layer, facts, time.time(), anchors, resuming=kept is not None, approved=approved)


# ----------------------------------------------------------------- connecting


class LocalBinding(NamedTuple):
    """The source of connections; the fields are arguments of ``zsmtp.net.blocking.BlockingDriver``."""

    identity: LocalIdentity | None = None
    reserved_port: bool = False
    send_buffer: int | None = None


_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENODEV)


async def connect(
    effect: Connect, source: LocalBinding, clock: Clock, stop: Stopping, observe: Observer
) -> ConnectResult:
    """Race over the endpoints; every socket but the winner's is closed at the end, also after an exception."""
    contest = _ConnectRace(effect, source, clock, observe)
    try:
        if source.identity is not None:
            contest.bind_to = await resolve_identity(source.identity)
        race = contest.race
        while not race.over:
            if stop.requested:
                return ConnectResult(None, None, tuple(contest.failures), interrupted=True, own=tuple(contest.own))
            winner = contest.start_all()
            if winner is None and not race.over:
                ready = await SocketsWait(tuple(contest.running.values()), race.deadline())
                winner = contest.finish_any(ready)
            if winner is not None:
                stream = SocketStream(contest.running.pop(winner), winner.family)
                overtaken = race.overtaken(winner, clock())
                return ConnectResult(
                    stream, winner, tuple(contest.failures), overtaken=overtaken, own=tuple(contest.own)
                )
    finally:
        contest.abandon()
    return ConnectResult(None, None, tuple(contest.failures), own=tuple(contest.own))


async def resolve_identity(identity: LocalIdentity) -> ResolvedIdentity:
    """Resolve a local identity; a name is looked up."""
    found: list[str] = []
    if identity.name:
        for kind in (RecordType.A, RecordType.AAAA):
            answer = await Query(identity.name, kind)
            found += [str(record) for record in answer.records]
    return identity.resolve(lambda name: found)


class _ConnectRace:
    """The sockets of one race."""

    def __init__(self, effect: Connect, source: LocalBinding, clock: Clock, observe: Observer) -> None:
        self.race = Race(effect.endpoints, effect.timeout, clock(), effect.deadline)
        self.running: dict[Endpoint, socket.socket] = {}
        self.failures: list[tuple[Endpoint, str]] = []
        self.own: list[Endpoint] = []
        self.bind_to: ResolvedIdentity | None = None
        self._source = source
        self._clock = clock
        self._observe = observe

    def start_all(self) -> Endpoint | None:
        """Start the attempts that are due; returns an endpoint that connected at once, if any."""
        while (endpoint := self.race.start(self._clock())) is not None:
            if self._observe is not ignore:
                self._observe(Connecting(endpoint))
            try:
                sock = new_socket(endpoint, self._source.send_buffer)
            except OSError as error:
                self._failed(endpoint, error)
                continue
            try:
                bind_socket(sock, self.bind_to, endpoint.family, reserved_port=self._source.reserved_port)
                connected = begin_connect(sock, endpoint)
            except (OSError, ConnectError) as error:
                sock.close()
                self._failed(endpoint, error)
                continue
            self.running[endpoint] = sock
            if connected:
                return endpoint
        return None

    def finish_any(self, ready: Collection[int]) -> Endpoint | None:
        """The first connected endpoint, in order of starting; attempts that timed out are given up."""
        for endpoint, sock in list(self.running.items()):
            if sock.fileno() not in ready:
                continue
            try:
                finish_connect(sock)
            except OSError as error:
                self.running.pop(endpoint).close()
                self._failed(endpoint, error)
                continue
            return endpoint
        for endpoint in self.race.expired(self._clock()):
            self.running.pop(endpoint).close()
            self._note(endpoint, "Connection timed out")
        return None

    def abandon(self) -> None:
        """Close the sockets that are still connecting."""
        for sock in self.running.values():
            sock.close()

    def _failed(self, endpoint: Endpoint, error: OSError | ConnectError) -> None:
        self.race.failed(endpoint)
        if not isinstance(error, OSError) or error.errno in _OWN_TROUBLE:
            self.own.append(endpoint)
        reason = str(error)
        if isinstance(error, OSError):
            reason = os.strerror(error.errno) if error.errno else str(error)
        self._note(endpoint, reason)

    def _note(self, endpoint: Endpoint, reason: str) -> None:
        self.failures.append((endpoint, reason))
        if self._observe is not ignore:
            self._observe(ConnectFailed(endpoint, reason))
