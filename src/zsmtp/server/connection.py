"""One connection of a listener: transfers octets between a transport and a server session, and events to the intake.

An asyncio protocol over ``zsmtp.proto.server``; it decides nothing. TLS, from the first octet or by STARTTLS, is
between the transport and the session (``zsmtp.server.tlspipe``), so a connection is known, counted and timed from the
moment it is accepted. Input goes into one buffer that all connections of a listener share, because it is processed
before the next read. All replies that become possible in one iteration of the loop are sent in one write.

A connection that this side ends while the client is still sending is shut down for writing first, and its input is
discarded for a while: on an immediate close the system would send a reset, which can destroy the last reply before the
client has read it. After the end of a session, the remaining output has ``LINGER`` seconds, so a client that does not
read cannot keep the connection open.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
from typing import TYPE_CHECKING, cast

from zsmtp.errors import TLSBroken, TLSError
from zsmtp.net.tlslayer import MAX_UNSENT
from zsmtp.proto import server_replies as replies
from zsmtp.proto.sasl import ChannelBinding
from zsmtp.proto.server import SEED_LENGTH, ServerSession
from zsmtp.proto.server_events import (
    Ending,
    SessionEnded,
    TLSRequested,
)
from zsmtp.server.intake import PeerInfo, SessionInfo
from zsmtp.server.intakesession import IntakeSession
from zsmtp.server.tlspipe import TLSPipe

if TYPE_CHECKING:
    from zsmtp.server.listener import Listener

MAX_WRITE_BUFFER = 64 * 1024  # octets in the transport at which writing pauses
LINGER = 5.0  # seconds for the last replies, and for a client to notice that its input is discarded
MAX_LINGERED = 1 << 20  # octets discarded meanwhile

_SILENT = frozenset({Ending.QUIT, Ending.EOF, Ending.COMMAND_TIMEOUT, Ending.DATA_TIMEOUT})


class ServerConnection(asyncio.BufferedProtocol):
    """The protocol of one accepted connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._buffer = listener.buffer
        self._transport: asyncio.Transport | None = None
        self._session: ServerSession | None = None
        self._application: IntakeSession | None = None
        self._pipe: TLSPipe | None = None
        self._bindings: tuple[ChannelBinding, ...] = ()
        self._reading = True
        self._writable = True
        self._pump_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._eof = False
        self._closing = False
        self._lingered = 0
        self.peer = PeerInfo("")
        self.info = SessionInfo(0, self.peer)

    # ------------------------------------------------------ the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start an accepted connection. Under implicit TLS the session begins after the handshake."""
        self._transport = transport = cast(asyncio.Transport, transport)
        self.peer = peer_info(transport)
        self.info = SessionInfo(self._listener.next_number(), self.peer)
        transport.set_write_buffer_limits(high=MAX_WRITE_BUFFER)
        refusal = self._listener.admit(self)
        if refusal is not None:
            transport.write(replies.reply_octets(refusal))
            self._close(gently=False)
        elif self._listener.implicit_tls:
            self._start_tls()
        else:
            self._begin()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the next octets."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Process ``nbytes`` received octets."""
        if self._closing:
            self._lingered += nbytes
            if self._lingered > MAX_LINGERED:
                self.abort()
            return
        octets = bytes(self._buffer[:nbytes])
        if self._pipe is not None:
            octets = self._decrypt(self._pipe, octets)
        if self._session is not None:
            if octets:
                self._session.receive_data(octets, self._loop.time())
            self._pump()

    def eof_received(self) -> bool:
        """Handle the end of the client's input; the commands it sent still get replies."""
        self._eof = True
        session = self._session
        if session is None or self._closing:
            return False
        if self._pipe is not None and not self._pipe.handshaken:
            session.lose(Ending.TLS_FAILED)
        else:
            session.receive_eof(self._loop.time())
        self._pump()
        return not self._closing

    def pause_writing(self) -> None:
        """Pause: the client reads slower than replies are written."""
        self._writable = False

    def resume_writing(self) -> None:
        """Continue to write."""
        self._writable = True
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up a connection that either side closed."""
        self._transport = None
        self._closing = True
        if self._session is not None:
            self._session.lose()
            self._pump()
        if self._timer is not None:
            self._timer.cancel()
        self._listener.forget(self)

    # -------------------------------------------------- the listener's side

    def shutdown(self) -> None:
        """End with 421 as soon as no message is being received or committed, because the server stops."""
        if self._session is None:
            self.abort()
        else:
            self._session.shutdown(self._loop.time())
            self._pump()

    def abort(self) -> None:
        """End at once, even during a message."""
        if self._transport is not None:
            self._transport.abort()

    # ----------------------------------------------------------- TLS and start

    def _start_tls(self) -> None:
        tls = self._listener.tls
        assert tls is not None
        self._pipe = TLSPipe(tls.context)
        self._bindings = tls.bindings
        self._set_timer(self._loop.time() + self._listener.settings.handshake)

    def _decrypt(self, pipe: TLSPipe, octets: bytes) -> bytes:
        """Decrypt octets from the client; the end of the handshake begins its session, or continues it."""
        shaken = pipe.handshaken
        try:
            plain = pipe.receive(octets)
        except (TLSError, TLSBroken):
            self._write(pipe.octets_to_send())  # the alert
            if self._session is None:
                self._close(gently=True)
            else:
                self._session.lose(Ending.LOST if shaken else Ending.TLS_FAILED)
            return b""
        self._write(pipe.octets_to_send())
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNSENT:
            self.abort()  # a client that makes TLS respond, and does not read
            return b""
        if pipe.handshaken and not shaken:
            self.info.tls = pipe.description
            self._set_timer(math.inf)
            if self._session is None:
                self._begin()
            else:
                self.info.user = None
                self._session.tls_started(self._bindings, self._loop.time())
        if pipe.ended and self._session is not None:
            self._session.receive_eof(self._loop.time())
        return plain

    def _begin(self) -> None:
        listener = self._listener
        self._session = ServerSession(
            listener.settings.protocol,
            now=self._loop.time(),
            utc=listener.utc(),
            passwords=listener.passwords,
            seed=os.urandom(SEED_LENGTH) if listener.passwords is not None else b"",
            bindings=self._bindings if self._pipe is not None else None,
        )
        self._application = IntakeSession(listener, self._session, self.info, self._soon)
        self._pump()

    def _write(self, octets: bytes) -> None:
        """Write octets to the transport unchanged."""
        if octets and self._transport is not None and not self._transport.is_closing():
            self._transport.write(octets)

    def _send(self, octets: bytes) -> None:
        """Write the session's octets to the transport, encrypted if there is TLS."""
        pipe = self._pipe
        if pipe is None:
            self._write(octets)
        elif pipe.handshaken:
            with contextlib.suppress(TLSBroken):
                pipe.send(octets)
            self._write(pipe.octets_to_send())

    # ---------------------------------------------------------------- the pump

    def _pump(self) -> None:
        """Process events and write replies until there are none; then update reading and the timeout."""
        self._pump_soon = False
        session, application = self._session, self._application
        if session is None or application is None:
            return
        while True:
            while (event := session.next_event()) is not None:
                if isinstance(event, TLSRequested):
                    self._send(session.data_to_send())
                    self._start_tls()
                    continue
                if isinstance(event, SessionEnded):
                    self._take_ended(session, event)
                application.take(event)
            if not self._writable or self._transport is None:
                break
            octets = session.data_to_send()
            if not octets:
                break
            self._send(octets)
        if self._transport is None or self._closing or self._transport.is_closing():
            return
        shaking_hands = self._pipe is not None and not self._pipe.handshaken
        if (session.wants_data or shaking_hands) is not self._reading:
            self._reading = not self._reading
            if self._reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        deadline = session.deadline()
        if deadline is not None and deadline < self._timer_at:
            self._set_timer(deadline)

    def _soon(self) -> None:
        """Pump once in the next iteration of the loop, for any number of results in this one."""
        if not self._pump_soon:
            self._pump_soon = True
            self._loop.call_soon(self._pump)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._time_came) if at < math.inf else None

    def _time_came(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        session = self._session
        if self._closing or session is None:
            self.abort()
        elif self._pipe is not None and not self._pipe.handshaken:
            session.lose(Ending.TLS_FAILED)
            self._pump()
            self.abort()
        else:
            session.handle_timer(self._loop.time())
            self._pump()

    def _take_ended(self, session: ServerSession, event: SessionEnded) -> None:
        if self._transport is not None:
            self._send(session.data_to_send())
            self._close(gently=self._pipe is not None or event.reason not in _SILENT)

    def _close(self, *, gently: bool) -> None:
        """Close when all is written; ``gently``: the client may still be sending, but must get the last reply."""
        transport = self._transport
        assert transport is not None
        self._closing = True
        self._listener.ended(self)
        self._set_timer(self._loop.time() + LINGER)
        if self._pipe is not None:
            self._pipe.close()
            self._write(self._pipe.octets_to_send())
        if gently and not self._eof and transport.can_write_eof():
            with contextlib.suppress(OSError):
                transport.write_eof()
            if not self._reading:
                self._reading = True
                transport.resume_reading()
        else:
            transport.close()


def peer_info(transport: asyncio.BaseTransport) -> PeerInfo:
    """The client of a transport."""
    peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if isinstance(peer, tuple):
        here = local if isinstance(local, tuple) else ("", 0)
        return PeerInfo(_plain(peer[0]), peer[1], _plain(here[0]), here[1])
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return PeerInfo("")
    try:
        octets = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return PeerInfo("")
    pid, uid, gid = struct.unpack("3i", octets)
    return PeerInfo("", uid=uid, gid=gid, pid=pid)


def _plain(address: str) -> str:
    """The IPv4 address of an IPv4 client on an IPv6 socket; the zone of a link-local address stays."""
    return address[7:] if address.startswith("::ffff:") and "." in address else address
