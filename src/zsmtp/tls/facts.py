"""The facts of a handshake, parameters and peer's certificates, for the rules and for the logs.

``zsmtp.net.tlslayer`` collects them, ``zsmtp.tls.judgement`` compares them with the requirement. The chain is kept as
received, leaf first and unverified; the facts do not prove the peer's identity.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from zsmtp.escape import escape
from zsmtp.tls.certificate import Certificate, read_certificate

_MAX_NAMES = 6  # names of a certificate shown in one line


@dataclass(frozen=True)  # without slots: the parsed certificate is cached on it
class TLSFacts:
    """One handshake. ``protocol`` is ``TLSv1.3`` and the like, ``cipher`` the suite's name in OpenSSL's spelling.

    ``bits`` is the strength of the cipher. ``key_exchange`` is a group (``x25519``), or ``RSA``; "" if unknown.
    ``server_name`` is the name sent (SNI, RFC 6066 3), "" if none was. ``chain`` are the peer's certificates in DER as
    received, leaf first; for a ``resumed`` session those of its full handshake. The peer's own certificate is parsed
    once per session, at its first use.
    """

    protocol: str
    cipher: str
    bits: int
    key_exchange: str = ""
    server_name: str = ""
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    resumed: bool = False

    @cached_property
    def leaf(self) -> Certificate | None:
        """The peer's own certificate; None if there is none or it cannot be read."""
        if not self.chain:
            return None
        try:
            return read_certificate(self.chain[0])
        except ValueError:
            return None

    @property
    def session(self) -> str:
        """``TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits x25519 resumed``: for logs, one line."""
        words = [self.protocol, self.cipher, f"{self.bits} bits", self.key_exchange, "resumed" if self.resumed else ""]
        return escape(" ".join(filter(None, words)))

    @cached_property
    def peer(self) -> str:
        """Subject, names, issuer and validity of the peer's certificate: for logs, one line, unverified."""
        if not self.chain:
            return "no certificate"
        leaf = self.leaf
        if leaf is None:
            return "a certificate that cannot be read"
        names = " ".join(leaf.names[:_MAX_NAMES]) or "none"
        more = len(leaf.names) - _MAX_NAMES
        if more > 0:
            names += f" and {more} more"
        subject, issuer = leaf.subject or "(empty)", leaf.issuer or "(empty)"
        valid = f"{shown_time(leaf.not_before)} to {shown_time(leaf.not_after)}"
        return f"subject {subject}; names {names}; issuer {issuer}; valid {valid}"

    @property
    def certificates(self) -> tuple[str, ...]:
        """Each certificate of the chain in one line, with its SHA-256 digest: for logs, unverified."""
        return tuple(f"certificate {number}: {_described(der)}" for number, der in enumerate(self.chain))


def _described(der: bytes) -> str:
    digest = hashlib.sha256(der).hexdigest()
    try:
        read = read_certificate(der)
    except ValueError:
        return f"cannot be read; sha256 {digest}"
    valid = f"{shown_time(read.not_before)} to {shown_time(read.not_after)}"
    return f"subject {read.subject or '(empty)'}; issuer {read.issuer or '(empty)'}; valid {valid}; sha256 {digest}"


def shown_time(seconds: int) -> str:
    """A time in seconds since 1970, for people, in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")
