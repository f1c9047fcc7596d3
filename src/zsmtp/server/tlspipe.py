"""The server side of one TLS connection as octets in and octets out: no transport, no waiting.

``ssl.SSLObject`` over two memory buffers, as in the client's ``zsmtp.net.tlslayer``. Pass received octets to
:meth:`TLSPipe.receive`, octets to send to :meth:`TLSPipe.send`; after either, write :meth:`TLSPipe.octets_to_send` to
the transport. All received octets are decrypted at once, so none stay inside. The connection keeps control of the
transport with its half-close, buffers and timeouts, which the loop's own ``start_tls`` would take over during a
handshake.
"""

from __future__ import annotations

import contextlib
import ssl

from zsmtp.errors import TLSBroken, TLSError
from zsmtp.net.tlslayer import MAX_HANDSHAKE

_RECORD = 16 * 1024  # octets of plain text in the largest record


class TLSPipe:
    """One TLS connection. ``handshaken``: the handshake is done; ``ended``: close_notify was received."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._received = 0  # octets before the handshake was done
        self.handshaken = False
        self.ended = False

    @property
    def description(self) -> str:
        """Protocol and cipher of the connection."""
        cipher = self._tls.cipher() or ("", "", 0)
        return f"{self._tls.version()} {cipher[0]}"

    def receive(self, data: bytes) -> bytes:
        """Decrypt ``data``; returns the plain octets, perhaps none.

        Raises :class:`~zsmtp.errors.TLSError` if the handshake fails, :class:`~zsmtp.errors.TLSBroken` for a bad record
        after it; there is an alert to send then.
        """
        self._incoming.write(data)
        if not self.handshaken and not self._shake_hands(len(data)):
            return b""
        parts: list[bytes] = []
        try:
            while not self.ended:
                part = self._tls.read(_RECORD)
                if part:
                    parts.append(part)
                else:
                    self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TLSBroken(f"TLS failed: {error.reason}") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _shake_hands(self, octets: int) -> bool:
        self._received += octets
        if self._received > MAX_HANDSHAKE:
            raise TLSError(f"more than {MAX_HANDSHAKE} octets of handshake")
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TLSError(f"TLS handshake failed: {error.reason}") from error
        self.handshaken = True
        return True

    def send(self, data: bytes) -> None:
        """Encrypt octets. Raises :class:`~zsmtp.errors.TLSBroken`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._tls.write(rest) :]
        except ssl.SSLError as error:
            raise TLSBroken(f"TLS failed: {error.reason}") from error

    def close(self) -> None:
        """Send close_notify, without waiting for that of the client."""
        if self.handshaken:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()

    def octets_to_send(self) -> bytes:
        """Remove and return the octets to write to the transport."""
        return self._outgoing.read() if self._outgoing.pending else b""
