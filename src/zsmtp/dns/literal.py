"""Parses a destination: an address literal, a UNIX socket, or a host name (RFC 5321 4.1.3, RFC 1035 2.3).

The text after the channel in a job line, or of ``-F``, takes one of these forms, each also inside double quotes::

    [192.0.2.1]   [192.0.2.1]:2525          IPv4 literal, with a port of its own
    [IPv6:2001:db8::1]   [IPv6.2001:db8::1]   [IPv6 2001:db8::1]   [2001:db8::1]    IPv6 literal, port as above
    [fe80::1%eth0]   UNIX:/run/lmtp.sock    a zone (RFC 4007 11), a socket: only where the caller allows it
    mail.example.org                        anything else is a host name

:func:`parse_destination` returns a :class:`Literal`, a :class:`Name` (lower case, A-labels, no final dot), or a
``NoRoute`` with the error. A name of only digits and dots is refused: it is an address without its brackets, and
looking it up would burden the root servers.
"""

from __future__ import annotations

import re
from functools import lru_cache

from zsmtp.dns.candidates import Family, NoRoute
from zsmtp.dns.ip import canonical_ip, canonical_scoped_ip, ip_family
from zsmtp.idn import to_ascii
from zsmtp.patterns import pattern
from zsmtp.records import dataclass

MAX_NAME = 253
"""Octets of a host name in text form, without its final dot (RFC 1035 2.3.4)."""

_MAX_TEXT = 1024  # a longer destination is no name in any encoding
_MAX_SOCKET_PATH = 107  # octets of sun_path without its final NUL
_LITERAL = pattern(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?")
_IPV6_TAG = pattern(r"ipv6[:. ]\s*", re.IGNORECASE | re.ASCII)
# Underscores are not host name syntax, but names with them exist in the DNS; the hyphen rule is RFC 1035 2.3.1.
_LABEL = pattern(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Literal:
    """A destination that needs no lookup: ``address`` is a canonical IP address or a socket path.

    A link-local address may have its zone behind it. ``port`` is the port in the literal, or None.
    """

    address: str
    family: Family
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A host name: lower case, A-labels, no final dot, of valid syntax."""

    domain: str


def parse_destination(text: str, *, allow_unix: bool = False) -> Literal | Name | NoRoute:
    """Parse a destination. Never raises: an invalid one gives a permanent NoRoute 5.1.2.

    ``allow_unix`` allows forms for this machine's configuration only: a UNIX socket, and a link-local address with its
    zone. The address of a recipient must not select an interface.
    """
    return _parse(text, allow_unix) if len(text) <= _MAX_TEXT else _read(text, allow_unix)


def _read(text: str, allow_unix: bool) -> Literal | Name | NoRoute:
    bare = text.strip()
    if len(bare) > _MAX_TEXT:
        return _refused(bare, "is too long for a host name")
    if len(bare) >= 2 and bare[0] == bare[-1] == '"':
        bare = bare[1:-1].strip()
    if not bare:
        return _refused(text, "names no host")
    if allow_unix and bare[:5].lower() == "unix:":
        return _parse_socket_path(bare[5:])
    if bare[0] == "[":
        return _parse_literal(bare, allow_zone=allow_unix)
    domain = to_ascii(bare)
    if domain is None:
        return _refused(bare, "cannot be turned into a domain name")
    problem = domain_problem(domain)
    if problem is None:
        return Name(domain)
    return _refused(bare, problem if canonical_scoped_ip(domain) is None else "is an address, and belongs in brackets")


_parse = lru_cache(1024)(_read)  # each connection parses its destination several times


def _parse_literal(text: str, *, allow_zone: bool) -> Literal | NoRoute:
    match = _LITERAL.fullmatch(text)
    if match is None:
        return _refused(text, "is not a valid address literal")
    inner, port_text = match[1].strip(), match[2]
    tag = _IPV6_TAG.match(inner)
    bare = inner[tag.end() :] if tag else inner
    address = canonical_scoped_ip(bare) if allow_zone else canonical_ip(bare)
    if address is None or (tag and ":" not in address):
        return _refused(text, "is not a valid address literal")
    port = None if port_text is None else int(port_text)
    if port is not None and not 1 <= port <= 65535:
        return _refused(text, "has a port out of range")
    return Literal(address, ip_family(address), port)


def _parse_socket_path(path: str) -> Literal | NoRoute:
    length = len(path.encode("utf-8", "surrogateescape")) if _encodable(path) else _MAX_SOCKET_PATH + 1
    if not path.startswith("/") or "\0" in path or length > _MAX_SOCKET_PATH:
        return _refused("UNIX:" + path, f"is not an absolute socket path of at most {_MAX_SOCKET_PATH} octets")
    return Literal(path, Family.UNIX)


def _encodable(path: str) -> bool:
    """Whether a path can be encoded: lone surrogates other than those of surrogateescape cannot."""
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _refused(text: str, problem: str) -> NoRoute:
    return NoRoute(permanent=True, status="5.1.2", text=f"destination {shown(text)} {problem}")


def shown(text: str) -> str:
    """An untrusted text for a message: printable ASCII, quoted, cut to 120 characters."""
    cut = text if len(text) <= 120 else text[:117] + "..."
    return ascii(cut)


def domain_problem(domain: str) -> str | None:
    """The reason why an ASCII text is no host name ("is ...", "has ..."); None if it is one.

    RFC 1035 2.3.1 and 2.3.4, but with underscores allowed; the last label must not be all digits (RFC 3696 2).
    """
    if not domain:
        return "is empty"
    if len(domain) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    labels = domain.split(".")
    if labels[-1].isdigit():
        return "is a number, not a host name"
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a valid host name"
    return None
