"""Mail addresses as SMTP carries them: paths, quoting, xtext, internationalised addresses.

A path (RFC 5321 4.1.2) is kept as the octets between ``<`` and ``>``, exactly as the sender's system wrote them; this
module decides whether they are valid there. Only the receiving system interprets local parts (RFC 5321 2.3.11), so any
atom or quoted string passes, also the source routes and backslash quotes of RFC 821; control characters, blanks outside
quotes and angle brackets do not: they would end the path early and smuggle parameters or commands in behind it.

Non-ASCII addresses (RFC 6531) need SMTPUTF8 from the server; without it a domain still has its A-label form
(RFC 5890), a local part has none. Domains are mapped and judged by :mod:`zsmtp.idn`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from zsmtp import idn
from zsmtp.patterns import pattern

MAX_PATH = 256  # octets with the angle brackets (RFC 5321 4.5.3.1.3)
MAX_DOMAIN = 255  # octets (RFC 5321 4.5.3.1.2)
MAX_ENVID = 100  # octets of xtext (RFC 3461 4.4)
MAX_ORCPT = 500  # octets with the type (RFC 3461 4.2)

_PATH = pattern(
    rb"(?: [^\x00-\x20\x7f<>\"\\]"  # literal characters
    rb" | \\[\x20-\x7e]"  # RFC 821 quoted character
    rb" | \"(?: [^\x00-\x1f\x7f\"\\] | \\[\x20-\x7e] )*\""  # quoted string
    rb")*",
    re.VERBOSE,
)
_XTEXT_UNSAFE = pattern(rb"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")
_UTF8_UNSAFE = pattern(r"[^\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e]")
_XTEXT_CODE = pattern(rb"\+([0-9A-F]{2})")
_XTEXT = pattern(rb"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")


@lru_cache(128)  # asked several times on a message's way, and many messages have the same sender
def path_problem(address: bytes) -> str | None:
    """The reason why ``address`` (the octets between the angle brackets) cannot be sent as a path; None if it can."""
    if not _PATH.fullmatch(address):
        if re.search(rb"[\x00-\x1f\x7f]", address):
            return "control character in the address"
        return "blank, angle bracket or unfinished quote in the address"
    if len(address) + 2 > MAX_PATH:
        return f"address of {len(address)} octets; {MAX_PATH - 2} are the limit"
    if len(domain_of(address)) > MAX_DOMAIN:
        return f"domain of more than {MAX_DOMAIN} octets"
    if not address.isascii():
        try:
            address.decode("utf-8")
        except UnicodeDecodeError:
            return "address is neither ASCII nor UTF-8"
        if idn.to_ascii(domain_of(address).decode("utf-8")) is None:
            return "domain is not valid under IDNA 2008"
    return None


def domain_of(address: bytes) -> bytes:
    """The part behind the last ``@``; empty if there is none, as in ``postmaster``."""
    _, at, domain = address.rpartition(b"@")
    return domain if at else b""


def downgrade(address: bytes) -> bytes | None:
    """``address`` in ASCII, its domain in A-labels; None if its local part has no ASCII form or the domain is bad."""
    if address.isascii():
        return address
    local, at, domain = address.rpartition(b"@")
    if not local.isascii():
        return None
    try:
        ascii_form = idn.to_ascii(domain.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    return None if ascii_form is None else local + at + ascii_form.encode("ascii")


def mapped(address: bytes) -> bytes:
    """The form of a valid ``address`` with SMTPUTF8: its domain mapped by UTS 46 (RFC 5895)."""
    if address.isascii():
        return address
    local, at, domain = address.rpartition(b"@")
    plain = idn.mapped(domain.decode("utf-8"))
    return address if plain is None else local + at + plain.encode("utf-8")


def encode_xtext(octets: bytes) -> bytes:
    """RFC 3461 4: everything but printable ASCII without ``+`` and ``=`` becomes ``+XX``."""
    return _XTEXT_UNSAFE.sub(lambda match: b"+%02X" % match[0][0], octets)


def decode_xtext(octets: bytes) -> bytes:
    """The octets that xtext encodes (RFC 3461 4), line ends among them. Malformed sequences stay as they are."""
    return _XTEXT_CODE.sub(lambda match: bytes((int(match[1], 16),)), octets)


def is_xtext(octets: bytes) -> bool:
    """Whether ``octets`` are well-formed xtext."""
    return _XTEXT.fullmatch(octets) is not None


def typed_address(address: bytes) -> bytes:
    """``address`` as an ORCPT value: of the type rfc822, or utf-8 in its form of ASCII (RFC 6533 3)."""
    if address.isascii():
        return b"rfc822;" + encode_xtext(address)
    text = _UTF8_UNSAFE.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", address.decode("utf-8"))
    return b"utf-8;" + text.encode("ascii")


def original_recipient(given: bytes | None, address: bytes) -> bytes | None:
    """The ORCPT value (RFC 3461 4.2): ``given`` if it is well formed, else made from ``address``.

    None for an ``address`` that is not ASCII: older servers do not know its type, ``utf-8``.
    """
    if given is not None:
        kind, semicolon, value = given.partition(b";")
        if semicolon and re.fullmatch(rb"[A-Za-z0-9-]{1,40}", kind):
            if is_xtext(value) and value:
                return given
            if kind.lower() == b"rfc822" and value:
                return b"rfc822;" + encode_xtext(value)
    return typed_address(address) if address.isascii() else None
