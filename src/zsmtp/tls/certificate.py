"""Parses a peer's certificate from its DER form, without verifying it (RFC 5280 4.1, ITU-T X.690).

It has three users: the logs (subject, issuer, validity), the rules that match names (``zsmtp.tls.names``) and the rules
that match keys (``zsmtp.tls.dane``, fingerprints). The last two need the octets of the subject public key exactly as in
the certificate, which libraries that decode and encode again do not promise; and DANE-EE must accept certificates that
a strict library refuses to load. So this is a small parser of its own: definite lengths, all bounds checked, ValueError
for any violation. It verifies nothing: ``zsmtp.tls.chain`` verifies signatures and chains::

    certificate = read_certificate(der)
    certificate.dns_names, certificate.not_after, certificate.public_key
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import new as new_hash

from zsmtp.dns.ip import format_ip
from zsmtp.escape import escape
from zsmtp.records import NamedTuple, dataclass, field

MAX_CERTIFICATE = 128 * 1024
"""Octets; larger ones are refused unread."""

_MAX_NAME_TEXT = 400  # characters of a distinguished name shown to people

_OCTET_STRING, _OID, _SEQUENCE, _SET = 0x04, 0x06, 0x30, 0x31
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # context tags of TBSCertificate
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87  # context tags of GeneralName

_SUBJECT_ALT_NAME = bytes.fromhex("551d11")  # 2.5.29.17
_COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3
_ATTRIBUTES = {
    _COMMON_NAME: "CN",
    bytes.fromhex("550406"): "C",
    bytes.fromhex("550407"): "L",
    bytes.fromhex("550408"): "ST",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
    bytes.fromhex("0992268993f22c640119"): "DC",
    bytes.fromhex("2a864886f70d010901"): "emailAddress",
}
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}

_RSA = bytes.fromhex("2a864886f70d0101")  # 1.2.840.113549.1.1
_ECDSA = bytes.fromhex("2a8648ce3d04")  # 1.2.840.10045.4
_SHA2 = bytes.fromhex("6086480165030402")  # 2.16.840.1.101.3.4.2
_SIGNATURE_HASHES = {
    _RSA + b"\x04": "md5",
    _RSA + b"\x05": "sha1",
    _RSA + b"\x0b": "sha256",
    _RSA + b"\x0c": "sha384",
    _RSA + b"\x0d": "sha512",
    _RSA + b"\x0e": "sha224",
    _ECDSA + b"\x01": "sha1",
    _ECDSA + b"\x03\x01": "sha224",
    _ECDSA + b"\x03\x02": "sha256",
    _ECDSA + b"\x03\x03": "sha384",
    _ECDSA + b"\x03\x04": "sha512",
}
_RSA_PSS = _RSA + b"\x0a"
_HASHES = {_SHA2 + b"\x01": "sha256", _SHA2 + b"\x02": "sha384", _SHA2 + b"\x03": "sha512", _SHA2 + b"\x04": "sha224"}


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate as parsed, unverified.

    ``public_key`` is the DER of SubjectPublicKeyInfo. ``subject`` and ``issuer`` are texts for people, most specific
    attribute first, free of control characters. ``dns_names`` and ``ip_addresses`` (canonical text) come from
    subjectAltName, ``common_names`` from the subject; names are unchecked: a hostile one may hold any characters.
    The times are seconds since 1970. ``self_issued``: issuer and subject are the same name.
    ``signature_hash`` is the ``hashlib`` name of the hash under the signature, "" if there is none or it is unknown.
    """

    der: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    subject: str
    issuer: str
    common_names: tuple[str, ...]
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    not_before: int
    not_after: int
    self_issued: bool
    signature_hash: str

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the peer, for people: subjectAltName, or else the common names."""
        return tuple(map(escape, self.dns_names + self.ip_addresses or self.common_names))


class _Element(NamedTuple):
    """One element: ``data[start:end]`` is its value, ``data[head:end]`` all of it."""

    tag: int
    head: int
    start: int
    end: int


@lru_cache(64)  # a peer sends the same one on every connection
def read_certificate(der: bytes) -> Certificate:
    """Parse one certificate. Raises ValueError if the octets are none."""
    if len(der) > MAX_CERTIFICATE:
        raise ValueError("certificate too large")
    outer = _read(der, 0, len(der), _SEQUENCE)
    tbs, algorithm, *_ = _children(der, outer, at_least=3)
    fields = _children(der, _expect(tbs, _SEQUENCE), at_least=6)
    if fields[0].tag == _VERSION:
        fields = fields[1:]
    if len(fields) < 6:
        raise ValueError("certificate lacks a field")
    issuer, validity, subject, key = (_expect(element, _SEQUENCE) for element in fields[2:6])
    not_before, not_after = (_time(der, element) for element in _children(der, validity, at_least=2)[:2])
    extensions = next((element for element in fields[6:] if element.tag == _EXTENSIONS), None)
    names = _alternative_names(der, extensions) if extensions is not None else []
    attributes = _attributes(der, subject)
    return Certificate(
        der=der,
        public_key=der[key.head : key.end],
        subject=_shown(attributes),
        issuer=_shown(_attributes(der, issuer)),
        common_names=tuple(text for oid, text in attributes if oid == _COMMON_NAME),
        dns_names=tuple(der[e.start : e.end].decode("latin-1") for e in names if e.tag == _DNS_NAME),
        ip_addresses=tuple(
            format_ip(der[e.start : e.end]) for e in names if e.tag == _IP_ADDRESS and e.end - e.start in (4, 16)
        ),
        not_before=not_before,
        not_after=not_after,
        self_issued=der[issuer.start : issuer.end] == der[subject.start : subject.end],
        signature_hash=_signature_hash(der, _expect(algorithm, _SEQUENCE)),
    )


def server_end_point(certificate: Certificate) -> bytes | None:
    """The ``tls-server-end-point`` channel binding: a hash of the server's certificate (RFC 5929 4.1).

    None if its signature algorithm leaves the hash undefined (Ed25519, for one).
    """
    if not certificate.signature_hash:
        return None
    weak = certificate.signature_hash in ("md5", "sha1")
    return new_hash("sha256" if weak else certificate.signature_hash, certificate.der).digest()


def _read(data: bytes, position: int, limit: int, tag: int | None = None) -> _Element:
    """The element at ``position``, which must end by ``limit``."""
    if position + 2 > limit:
        raise ValueError("DER element cut off")
    found, length, start = data[position], data[position + 1], position + 2
    if found & 0x1F == 0x1F:
        raise ValueError("DER tag of more than one octet")
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 4 or start + octets > limit:
            raise ValueError("bad DER length")
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    if start + length > limit:
        raise ValueError("DER element cut off")
    element = _Element(found, position, start, start + length)
    return element if tag is None else _expect(element, tag)


def _expect(element: _Element, tag: int) -> _Element:
    if element.tag != tag:
        raise ValueError(f"DER tag {element.tag:#x} where {tag:#x} belongs")
    return element


def _iterate(data: bytes, parent: _Element) -> Iterator[_Element]:
    position = parent.start
    while position < parent.end:
        element = _read(data, position, parent.end)
        yield element
        position = element.end


def _children(data: bytes, parent: _Element, *, at_least: int) -> list[_Element]:
    elements = list(_iterate(data, parent))
    if len(elements) < at_least:
        raise ValueError("DER sequence lacks an element")
    return elements


def _time(data: bytes, element: _Element) -> int:
    """UTCTime and GeneralizedTime in the only form allowed in certificates (RFC 5280 4.1.2.5)."""
    digits = data[element.start : element.end - 1].decode("latin-1")
    if element.tag == _UTC_TIME and len(digits) == 12:
        digits = ("19" if digits >= "50" else "20") + digits
    elif element.tag != _GENERALIZED_TIME or len(digits) != 14:
        raise ValueError("not a time of a certificate")
    if data[element.end - 1 : element.end] != b"Z" or not (digits.isascii() and digits.isdigit()):
        raise ValueError("not a time of a certificate")
    parts = [int(digits[0:4]), *(int(digits[i : i + 2]) for i in range(4, 14, 2))]
    return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


def _attributes(data: bytes, name: _Element) -> list[tuple[bytes, str]]:
    """The attributes of a distinguished name, as object identifier and text."""
    found = []
    for relative in _iterate(data, name):
        for attribute in _iterate(data, _expect(relative, _SET)):
            oid, value, *_ = _children(data, _expect(attribute, _SEQUENCE), at_least=2)
            text = data[value.start : value.end].decode(_STRINGS.get(value.tag, "latin-1"), "replace")
            found.append((data[oid.start : oid.end], text))
    return found


def _shown(attributes: list[tuple[bytes, str]]) -> str:
    """``CN=mx.example.org, O=Example`` (similar to RFC 4514), escaped for logs."""
    words = [f"{_ATTRIBUTES.get(oid) or 'OID.' + _dotted(oid)}={escape(text)}" for oid, text in reversed(attributes)]
    return ", ".join(words)[:_MAX_NAME_TEXT]


def _dotted(oid: bytes) -> str:
    numbers, value = [], 0
    for octet in oid[:32]:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(value)
            value = 0
    if not numbers:
        return "?"
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _alternative_names(data: bytes, extensions: _Element) -> list[_Element]:
    """The general names of subjectAltName; empty without that extension."""
    for extension in _iterate(data, _read(data, extensions.start, extensions.end, _SEQUENCE)):
        parts = _children(data, _expect(extension, _SEQUENCE), at_least=2)
        if data[parts[0].start : parts[0].end] == _SUBJECT_ALT_NAME:
            value = _expect(parts[-1], _OCTET_STRING)
            return list(_iterate(data, _read(data, value.start, value.end, _SEQUENCE)))
    return []


def _signature_hash(data: bytes, algorithm: _Element) -> str:
    parts = _children(data, algorithm, at_least=1)
    oid = data[parts[0].start : parts[0].end]
    if oid != _RSA_PSS:
        return _SIGNATURE_HASHES.get(oid, "")
    try:  # RSASSA-PSS-params (RFC 4055 3.1): the hash is in [0], SHA-1 if it is left out
        first = next(_iterate(data, _expect(parts[1], _SEQUENCE)), None)
        if first is None or first.tag != 0xA0:
            return "sha1"
        name = _read(data, *_read(data, first.start, first.end, _SEQUENCE)[2:], _OID)
    except (ValueError, IndexError):
        return ""
    return _HASHES.get(data[name.start : name.end], "")
