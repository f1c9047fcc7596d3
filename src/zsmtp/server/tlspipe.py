"""The server's side of one TLS connection as octets in and octets out: no transport, no waiting.

``ssl.SSLObject`` over two memory buffers, as in the client's ``zsmtp.net.tlslayer``. What comes from the transport
goes through :meth:`TLSPipe.receive`, what is to be said through :meth:`TLSPipe.send`; after either, what
:meth:`TLSPipe.octets_to_send` gives is to be written. Everything received is decrypted at once, so nothing is left
inside. A connection under it is an ordinary one, with its halves, its buffers and its times, which the loop's own
``start_tls`` would take over for the length of a handshake.
"""

from __future__ import annotations

import contextlib
import ssl

from zsmtp.errors import TLSBroken, TLSError
from zsmtp.net.tlslayer import MAX_HANDSHAKE

_RECORD = 16 * 1024  # octets of plain text in the largest record


class TLSPipe:
    """One TLS connection. ``handshaken`` tells that the handshake is done, ``ended`` that close_notify came."""

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
        """The plain octets that ``data`` completes, perhaps none.

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
        """Say close_notify; the client's own is not waited for."""
        if self.handshaken:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()

    def octets_to_send(self) -> bytes:
        """What is to be written now; it is gone from here."""
        return self._outgoing.read() if self._outgoing.pending else b""
