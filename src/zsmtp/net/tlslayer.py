"""TLS between a session and its socket: plain octets on one side, records on the other, never blocking.

The layer has the interface of the stream it wraps (``zsmtp.net.transport.SocketStream``): ``receive``, ``send``,
``close``, ``fileno``. Records are made and read by OpenSSL over two memory buffers (``ssl.MemoryBIO``), so that every
driver, waiting in its own way, uses the same code. The handshake is taken step by step, and each step returns what to
wait for::

    layer = TLSLayer(stream, context, server_name="mx.example.org")
    while (step := layer.handshake_step()) is not Step.DONE:
        wait(step)
    layer.facts()                   # judge them before anything is sent

Callers rely on three contracts. ``send`` counts an octet only when its whole record was written, since a reply counts
only if its command was written; and only ``send`` writes such records, so that octets given up before they were counted
never arrive. ``receive`` returns ``b""`` only for the peer's close_notify; a stream that ends without it was cut off
and raises :class:`~zsmtp.errors.TLSBroken` (RFC 8446 6.1). After ``receive`` no readable octets are left inside unless
``pending``: callers that wait on the descriptor must check ``pending`` first, and wait for writing too while
``wants_write`` is true.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from zsmtp.errors import ConnectionLost, LocalError, TLSBroken, TLSError, TransportError, UntrustedPeer
from zsmtp.escape import escape
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.keyexchange import KeyExchangeWatcher
from zsmtp.tls.resume import ResumableSession

MAX_HANDSHAKE = 512 * 1024
"""Octets a peer may send before the handshake is done."""

MAX_UNSENT = 256 * 1024
"""Octets of records that wait for a slow peer, beyond one batch."""

_RECORD = 16 * 1024  # octets of plain text in the largest record
_BATCH = 8 * _RECORD  # octets encrypted before they are written to the transport
_MAX_CHAIN = 32  # certificates kept


class HandshakeStep(Enum):
    """The next wait of a handshake."""

    WANT_READ = "read"
    WANT_WRITE = "write"
    DONE = "done"


class LowerStream(Protocol):
    """The interface of the stream below; ``zsmtp.net.transport.SocketStream`` is one."""

    local: tuple[str, int] | None

    def fileno(self) -> int: ...
    def receive(self) -> bytes | None: ...
    def send(self, data: memoryview) -> int: ...
    def close(self) -> None: ...


class TLSLayer:
    """One side of one TLS connection over ``stream``, as a client.

    ``server_name`` is sent in the handshake (SNI); "" for none. ``resume`` is a session to resume; the server may
    decline. :attr:`keep` is called with the session, and its latest tickets, when the layer is closed. Raises TLSError
    if the name cannot be sent.
    """

    def __init__(
        self,
        stream: LowerStream,
        context: ssl.SSLContext,
        *,
        server_name: str = "",
        resume: ResumableSession | None = None,
    ) -> None:
        self._stream = stream
        self.local = stream.local
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._server_name = server_name
        self._resume = resume
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name or None)
        except (ValueError, TypeError, ssl.SSLError) as error:  # a NUL in the name raises TypeError
            raise TLSError(f"no TLS with the name '{escape(server_name)}': {error}") from error
        if resume is not None and isinstance(resume.session, ssl.SSLSession):
            with contextlib.suppress(ValueError):  # a session of another context: a full handshake, then
                self._tls.session = resume.session
        self.keep: Callable[[ssl.SSLSession], None] | None = None
        self._watcher = KeyExchangeWatcher()
        self._handshaken = 0  # octets received before the handshake was done
        self._done = False
        self._plain = b""  # decrypted, not yet given out
        self._ended = False  # close_notify came
        self._failure: TransportError | None = None  # raised after the octets before it are returned
        self._records = memoryview(b"")  # encrypted, not yet written to the stream
        self._sealed = 0  # octets of plain text in the unwritten records
        self._marks: deque[tuple[int, int]] = deque()  # for each of these: where it ends in the batch, its plain octets
        self._taken = 0  # octets of the batch that were written

    def fileno(self) -> int:
        """The descriptor, to wait on; -1 once closed."""
        return self._stream.fileno()

    # ------------------------------------------------------------- handshake

    def handshake_step(self) -> HandshakeStep:
        """Continue the handshake as far as possible without waiting. Raises TLSError, and sends the peer an alert."""
        try:
            return self._step()
        except ssl.SSLError as error:
            with contextlib.suppress(TransportError):
                self._flush()  # the alert
            if isinstance(error, ssl.SSLCertVerificationError):
                raise UntrustedPeer(escape(error.verify_message)) from error
            raise TLSError(f"TLS handshake failed: {_reason(error)}") from error
        except ConnectionLost as error:
            raise TLSError(f"TLS handshake failed: {error}") from error

    def _step(self) -> HandshakeStep:
        while not self._done:
            try:
                self._tls.do_handshake()
                self._done = True
            except ssl.SSLWantReadError:
                if not self._flush():
                    return HandshakeStep.WANT_WRITE
                data = self._stream.receive()
                if data is None:
                    return HandshakeStep.WANT_READ
                if not data:
                    raise TLSError("TLS handshake failed: the peer closed the connection") from None
                self._handshaken += len(data)
                if self._handshaken > MAX_HANDSHAKE:
                    raise TLSError("TLS handshake failed: it does not come to an end") from None
                self._watcher.receive_data(data)
                self._incoming.write(data)
        if not self._flush():
            return HandshakeStep.WANT_WRITE
        self._decrypt()  # octets that the peer sent along with the end of its handshake
        return HandshakeStep.DONE

    # ------------------------------------------------------------- receiving

    @property
    def pending(self) -> bool:
        """Whether ``receive`` returns or raises something without a wait for the descriptor."""
        return bool(self._plain) or self._ended or self._failure is not None

    def receive(self) -> bytes | None:
        """The next octets, ``b""`` after the peer's close_notify, None if there are none now.

        Raises :class:`~zsmtp.errors.TLSBroken` for a stream that was cut off or an invalid record, and
        :class:`~zsmtp.errors.ConnectionLost`.
        """
        if not self.pending:
            data = self._stream.receive()
            if data is None:
                return None
            if data:
                self._incoming.write(data)
                self._decrypt()
            else:
                self._failure = TLSBroken("connection cut off: it ended without the peer's close_notify")
        if self._plain:
            plain, self._plain = self._plain, b""
            return plain
        if self._failure is not None:
            raise self._failure
        return b"" if self._ended else None

    def _decrypt(self) -> None:
        """Decrypt all received records, and send the responses (key updates, alerts)."""
        parts: list[bytes] = [self._plain]
        try:
            while True:
                part = self._tls.read(_RECORD)
                if not part:
                    self._ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._failure = TLSBroken(f"TLS failed: {_reason(error)}")
        self._plain = b"".join(parts)
        try:
            self.flush()
        except ConnectionLost as error:
            self._failure = self._failure or error
        if self._outgoing.pending > MAX_UNSENT:
            self._failure = self._failure or TLSBroken("the peer makes this side answer and reads no answer")

    # --------------------------------------------------------------- sending

    @property
    def wants_write(self) -> bool:
        """Whether records other than those of ``send`` wait to be written: call ``flush`` when writable."""
        return not self._sealed and (bool(self._records) or self._outgoing.pending > 0)

    def send(self, data: memoryview) -> int:
        """Send octets; returns how many were written, in complete records, since the last call.

        Pass the unwritten octets again, from the first one on, until they are written. Raises ConnectionLost,
        TLSBroken.
        """
        if self._sealed > len(data):
            raise LocalError("send: octets given before were not given again")
        left = 0
        while True:
            try:
                flushed = self._flush()
            except ConnectionLost:
                left += self._departed()
                if not left:
                    raise
                return left  # these may have arrived; the next call reports that the stream is broken
            left += self._departed()
            batch = data[left : left + _BATCH]
            if not flushed or not batch:
                return left
            self._seal(batch)

    def _departed(self) -> int:
        """Octets of plain text in the records that were fully written since the last call."""
        count = 0
        while self._marks and self._marks[0][0] <= self._taken:
            count += self._marks.popleft()[1]
        self._sealed -= count
        return count

    def flush(self) -> None:
        """Write waiting records, except those of :meth:`send`, as far as possible. Raises ConnectionLost.

        Only ``send`` writes its own records: they must not arrive without being counted.
        """
        if not self._sealed:
            self._flush()

    def _seal(self, batch: memoryview) -> None:
        """Encrypt a batch; no other records are unwritten."""
        self._taken = 0
        self._sealed = len(batch)
        try:
            while batch:
                written = self._tls.write(batch[:_RECORD])
                self._marks.append((self._outgoing.pending, written))
                batch = batch[written:]
        except ssl.SSLError as error:
            raise TLSBroken(f"TLS failed: {_reason(error)}") from error

    def _flush(self) -> bool:
        """Write records to the stream; returns whether all are written."""
        while True:
            if not self._records:
                self._records = memoryview(self._outgoing.read())
                if not self._records:
                    return True
            taken = self._stream.send(self._records)
            if not taken:
                return False
            self._taken += taken
            self._records = self._records[taken:]

    # ---------------------------------------------------------------- ending

    def close(self) -> None:
        """Send close_notify, if that is possible without waiting, and close the stream.

        If octets are unwritten, the stream is cut off: those not counted as sent must not arrive any more.
        """
        if self._done and self._failure is None:
            session = self.session() if self.keep is not None else None
            if self.keep is not None and session is not None:
                self.keep(session)
            with contextlib.suppress(ssl.SSLError, TransportError):
                try:
                    self._tls.unwrap()
                except ssl.SSLWantReadError:  # do not wait for the peer's close_notify
                    pass
                finally:
                    self.flush()
        self._stream.close()

    # ----------------------------------------------------------------- facts

    def facts(self) -> TLSFacts:
        """The facts of the handshake. Raises TLSError if a resumed session has another peer than before."""
        cipher = self._tls.cipher() or ("", "", 0)
        resumed = bool(self._tls.session_reused)
        chain = self._peer_chain()
        if resumed and self._resume is not None:  # a session holds no more than the peer's own certificate
            if chain and chain[0] != self._resume.chain[0]:
                raise TLSError("a resumed session has another certificate than before")
            chain = self._resume.chain
        return TLSFacts(
            protocol=self._tls.version() or "",
            cipher=cipher[0],
            bits=cipher[2],
            key_exchange=self._watcher.name(cipher[0]),
            server_name=self._server_name,
            chain=chain,
            resumed=resumed,
        )

    @property
    def exporter(self) -> bytes:
        """The ``tls-exporter`` channel binding (RFC 9266): 32 octets that both ends have, b"" if unavailable.

        It is unavailable if Python's ``ssl`` does not support it, and below TLS 1.3, where it is secure only with an
        extension of the handshake (RFC 7627) that ``ssl`` does not expose.
        """
        if "tls-exporter" not in ssl.CHANNEL_BINDING_TYPES or self._tls.version() != "TLSv1.3":
            return b""
        return self._tls.get_channel_binding("tls-exporter") or b""

    def session(self) -> ssl.SSLSession | None:
        """The session for resumption; None if there is none yet. TLS 1.3 tickets come after the handshake."""
        session = self._tls.session
        if session is None or not (session.has_ticket or (self._tls.version() != "TLSv1.3" and session.id)):
            return None
        return session

    def _peer_chain(self) -> tuple[bytes, ...]:
        """The certificates sent, in DER. Python's method is public from 3.13 on, where it returns octets."""
        tls: Any = self._tls
        try:
            found = (tls if hasattr(tls, "get_unverified_chain") else tls._sslobj).get_unverified_chain()
        except (AttributeError, ssl.SSLError):
            found = None
        if not found:
            leaf = self._tls.getpeercert(binary_form=True)
            return (leaf,) if leaf else ()
        return tuple(
            one if isinstance(one, bytes) else one.public_bytes(ssl._ssl.ENCODING_DER)  # type: ignore[attr-defined]
            for one in found[:_MAX_CHAIN]
        )


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's description of an error, for people."""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if reason in ("wrong version number", "http request", "packet length too long", "record layer failure"):
        return f"what the peer sends is no TLS ({reason})"
    return escape(reason)[:200]
