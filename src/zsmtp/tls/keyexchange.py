"""Reads the key exchange of a handshake from the server's first flight, for logs (RFC 8446 4.1.3, RFC 8422 5.4).

Python does not expose OpenSSL's value before 3.15, but the server sends it in clear, so it is parsed from the received
octets. TLS 1.3 names the group in the ``key_share`` of ServerHello, TLS 1.2 in ServerKeyExchange. No decision depends
on it: with malformed or truncated octets it stays unknown::

    watcher = KeyExchangeWatcher()
    watcher.receive_data(octets)
    watcher.name("ECDHE-RSA-AES256-GCM-SHA384")      # 'x25519'
"""

from __future__ import annotations

MAX_FLIGHT = 128 * 1024  # octets looked at

_HANDSHAKE = 22  # content type of records
_SERVER_HELLO, _SERVER_KEY_EXCHANGE, _SERVER_HELLO_DONE = 2, 12, 14
_KEY_SHARE = 51
_NAMED_CURVE = 3
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")  # RFC 8446 4.1.3

_GROUPS = {
    23: "secp256r1",
    24: "secp384r1",
    25: "secp521r1",
    29: "x25519",
    30: "x448",
    31: "brainpoolP256r1tls13",
    32: "brainpoolP384r1tls13",
    33: "brainpoolP512r1tls13",
    256: "ffdhe2048",
    257: "ffdhe3072",
    258: "ffdhe4096",
    259: "ffdhe6144",
    260: "ffdhe8192",
    4587: "SecP256r1MLKEM768",
    4588: "X25519MLKEM768",
    4589: "SecP384r1MLKEM1024",
}
_CURVES_OF_12 = {26: "brainpoolP256r1", 27: "brainpoolP384r1", 28: "brainpoolP512r1"}


class KeyExchangeWatcher:
    """Parses the server's octets until the key exchange is known or cannot be found any more."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._messages = bytearray()
        self._seen = 0
        self._group = 0
        self._key_exchange = b""
        self.done = False
        """Whether further octets are of no use."""

    def receive_data(self, data: bytes) -> None:
        """Process octets that the server sent, from the first one on. Never raises because of them."""
        if self.done:
            return
        self._seen += len(data)
        self._records += data
        while len(self._records) >= 5 and not self.done:
            size = int.from_bytes(self._records[3:5], "big")
            if self._records[0] != _HANDSHAKE:  # what follows is encrypted, or an alert
                self._finish()
                return
            if len(self._records) < 5 + size:
                break
            self._messages += self._records[5 : 5 + size]
            del self._records[: 5 + size]
            self._read_messages()
        if self._seen > MAX_FLIGHT:
            self._finish()

    def name(self, cipher: str) -> str:
        """The group or method in words, "" if unknown. ``cipher`` is OpenSSL's name of the suite agreed on."""
        if self._group:
            return _GROUPS.get(self._group, f"group {self._group}")
        body = self._key_exchange
        if cipher.startswith("ECDHE-") and len(body) >= 3 and body[0] == _NAMED_CURVE:
            curve = int.from_bytes(body[1:3], "big")
            return _GROUPS.get(curve) or _CURVES_OF_12.get(curve) or f"curve {curve}"
        if cipher.startswith("DHE-") and len(body) >= 2:
            prime = body[2 : 2 + int.from_bytes(body[:2], "big")].lstrip(b"\0")
            return f"DH {8 * len(prime)} bits"
        if cipher.startswith(("AES", "CAMELLIA", "DES", "ARIA")):  # OpenSSL's names omit the method RSA
            return "RSA"
        return ""

    def _finish(self) -> None:
        self.done = True
        self._records.clear()
        self._messages.clear()

    def _read_messages(self) -> None:
        while len(self._messages) >= 4 and not self.done:
            end = 4 + int.from_bytes(self._messages[1:4], "big")
            if len(self._messages) < end:
                return
            kind, body = self._messages[0], bytes(self._messages[4:end])
            del self._messages[:end]
            if kind == _SERVER_HELLO:
                self._group = _group_of_hello(body)
                if self._group and body[2:34] != _RETRY:
                    self._finish()
            elif kind == _SERVER_KEY_EXCHANGE:
                self._key_exchange = body
                self._finish()
            elif kind == _SERVER_HELLO_DONE:
                self._finish()


def _group_of_hello(body: bytes) -> int:
    """The group named in ServerHello's key_share; 0 if there is none."""
    position = 35 + body[34] + 3 if len(body) > 34 else len(body)  # version, random, session id, cipher, compression
    end = position + 2 + int.from_bytes(body[position : position + 2], "big")
    position += 2
    while position + 4 <= min(end, len(body)):
        kind = int.from_bytes(body[position : position + 2], "big")
        size = int.from_bytes(body[position + 2 : position + 4], "big")
        if kind == _KEY_SHARE and size >= 2:
            return int.from_bytes(body[position + 4 : position + 6], "big")
        position += 4 + size
    return 0
