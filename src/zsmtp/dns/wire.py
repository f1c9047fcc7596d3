"""Encodes DNS queries and interprets replies (RFC 1035 4.1, RFC 2308, RFC 6891, RFC 8914).

Only this module uses dnspython, whose import is slow, so ``zsmtp.dns.questioning`` imports it with the first lookup. A
reply is untrusted: only records of the queried name, or of the end of its chain of aliases, count, and the data of
others is not parsed. A malformed reply is SERVFAIL with a problem, never an exception. TLSA records are not checked
here: a malformed one must not invalidate the others (``zsmtp.tls.dane``)::

    question = Question(Query("example.com", RecordType.MX))
    answer = question.read(reply, trusted=True)      # reply: the octets received for question.wire
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

import dns.exception
import dns.ipv6
import dns.name
import dns.rcode
import dns.wire

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, RecordType, Status
from zsmtp.dns.ip import canonical_ip
from zsmtp.dns.nameserver import HEADER_SIZE, is_reply
from zsmtp.escape import escape

MAX_ALIAS_STEPS = 8
EDNS_PAYLOAD = 1232
"""Octets of a datagram that is not fragmented on any common path."""
MAX_RECORDS = 1000
"""Records of a reply that are accepted: parsing more would block an event loop too long."""
MAX_EXPLANATION = 300
"""Characters of a server's explanation of an error that are shown."""

_RECURSION_DESIRED = 0x0100
_AUTHORITATIVE = 0x0400
_AUTHENTIC = 0x0020  # AD
_CHECKING_DISABLED = 0x0010  # CD
_DNSSEC_OK = 0x8000
_INTERNET = 1
_NS, _CNAME, _SOA, _OPT = 2, 5, 6, 41
_KINDS = {
    RecordType.A: 1,
    RecordType.WKS: 11,
    RecordType.PTR: 12,
    RecordType.MX: 15,
    RecordType.TXT: 16,
    RecordType.AAAA: 28,
    RecordType.TLSA: 52,
}
_NOERROR, _SERVFAIL, _NXDOMAIN = 0, 2, 3
_EXTENDED_ERROR = 15  # code of an EDNS option
_BOGUS_CODES = frozenset(range(6, 13))  # RFC 8914 4.7 to 4.13: validation failed
_MAX_TTL = 2**31 - 1
_MAX_WKS_OCTETS = 65536 // 8
_SHORTEST_TLSA = 3  # octets: usage, selector, matching type
_WITH_DNSSEC = struct.pack("!BHHIH", 0, _OPT, EDNS_PAYLOAD, _DNSSEC_OK, 0)
"""The record OPT of a question: its size, and the DO bit."""

_ASKED = bytes((0xC0, HEADER_SIZE))
"""A pointer to the name of the question, which stands first in a message (RFC 1035 4.1.4)."""
_ROOT = b"\0"

T = TypeVar("T")

_name_of = lru_cache(1024)(dns.name.from_text)  # a host is asked for several types


class Question:
    """One query as sent to a name server."""

    def __init__(self, query: Query, *, edns: bool = True) -> None:
        """Raises ValueError if the name is no domain name. Without ``edns`` the question is as in RFC 1035."""
        self.query = query
        try:
            self._name = _name_of(query.name)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ValueError(f"not a domain name: {error}") from error
        self._kind = _KINDS[query.type]
        flags = _RECURSION_DESIRED | (0 if query.validated else _CHECKING_DISABLED)
        header = os.urandom(2) + struct.pack("!HHHHH", flags, 1, 0, 0, int(edns))
        self._question = (self._name.to_wire() or b"") + struct.pack("!HH", self._kind, _INTERNET)
        self.wire = header + self._question + (_WITH_DNSSEC if edns else b"")

    def read(self, reply: bytes, *, trusted: bool) -> Answer:
        """The answer in a reply. Its AD bit counts only if the server is ``trusted``."""
        if not is_reply(self.wire, reply):
            return self._failure("the answer belongs to another question")
        try:
            message = _Message(reply, self._name, len(self._question))
            return self._interpret(message, secure=trusted and bool(message.flags & _AUTHENTIC))
        except Exception as error:  # any exception of the parser means a malformed reply
            return self._failure(f"malformed answer: {type(error).__name__}")

    def _failure(self, problem: str, status: Status = Status.SERVFAIL) -> Answer:
        return Answer(self.query, status, canonical=self.query.name, problem=problem)

    def _interpret(self, message: _Message, *, secure: bool) -> Answer:
        rcode = message.rcode
        if rcode not in (_NOERROR, _NXDOMAIN):
            bogus = any(code in _BOGUS_CODES for code, _ in message.errors)
            words = [
                dns.rcode.to_text(dns.rcode.Rcode.make(rcode)),
                *(_explanation(*error) for error in message.errors),
            ]
            status = Status.BOGUS if bogus and rcode == _SERVFAIL else Status.SERVFAIL
            return self._failure(", ".join(words), status)
        name, ttl, problem = self._follow(message)
        canonical = _text(name)
        if problem:
            return Answer(self.query, Status.NODATA, canonical=canonical, ttl=ttl, secure=secure, problem=problem)
        found = message.answers.get((name, self._kind), [])
        if rcode == _NXDOMAIN:
            if found:
                return self._failure("contradictory answer: records of a name that does not exist")
            ttl = message.negative_ttl(name, ttl)
            return Answer(self.query, Status.NXDOMAIN, canonical=canonical, ttl=ttl, secure=secure)
        if found:
            records = tuple(dict.fromkeys(message.read(one, _READERS[self.query.type]) for one in found))
            ttl = min(ttl, *(one.ttl for one in found))
            return Answer(self.query, Status.OK, records, canonical=canonical, ttl=ttl, secure=secure)
        if name == self._name and message.is_referral:
            return self._failure("the server does not answer but refers to others")
        ttl = message.negative_ttl(name, ttl)
        return Answer(self.query, Status.NODATA, canonical=canonical, ttl=ttl, secure=secure)

    def _follow(self, message: _Message) -> tuple[dns.name.Name, int, str]:
        """The name at the end of the chain of aliases, the least TTL of the chain, and the error in the chain."""
        name = self._name
        ttl = _MAX_TTL
        seen = {name}
        while (name, self._kind) not in message.answers:
            aliases = message.answers.get((name, _CNAME))
            if aliases is None:
                break
            target = message.read(aliases[-1], dns.name.from_wire_parser)
            ttl = min(ttl, *(one.ttl for one in aliases))
            if target in seen:
                return name, ttl, f"alias {_text(name)} is part of a loop"
            if len(seen) > MAX_ALIAS_STEPS:
                return name, ttl, f"more than {MAX_ALIAS_STEPS} aliases from {self.query.name} on"
            name = target
            seen.add(name)
        return name, ttl, ""


# --------------------------------------------------------------------- replies


class _Resource(NamedTuple):
    """A record whose data is not parsed yet: ``size`` octets from ``start`` on."""

    name: dns.name.Name
    kind: int
    rdclass: int
    ttl: int
    start: int
    size: int


class _Message:
    """A parsed reply: its flags, its answers by name and type, and the extended errors."""

    def __init__(self, octets: bytes, asked: dns.name.Name, question: int) -> None:
        """Without an error there is a question for the name ``asked``, of so many octets.

        Raises any kind of exception if the reply is malformed.
        """
        self._octets = octets
        self._asked = asked if octets[5] else None
        _, self.flags, _, answers, authorities, additional = dns.wire.Parser(octets).get_struct("!HHHHHH")
        if answers + authorities + additional > MAX_RECORDS:
            raise ValueError
        parser = dns.wire.Parser(octets, HEADER_SIZE + (question if octets[5] else 0))
        self.answers: dict[tuple[dns.name.Name, int], list[_Resource]] = {}
        for _ in range(answers):
            record = self._resource(parser)
            if record.rdclass == _INTERNET:
                self.answers.setdefault((record.name, record.kind), []).append(record)
        self._authority = [self._resource(parser) for _ in range(authorities)]
        self.rcode = self.flags & 0x0F
        self.errors: list[tuple[int, bytes]] = []
        for record in [self._resource(parser) for _ in range(additional)]:
            if record.kind == _OPT:
                self.rcode |= record.ttl >> 24 << 4
                self.errors = self.read(record, _extended_errors)

    def _resource(self, parser: dns.wire.Parser) -> _Resource:
        name = self._owner(parser)
        kind, rdclass, ttl, size = parser.get_struct("!HHIH")
        if ttl > _MAX_TTL and kind != _OPT:
            ttl = 0  # RFC 2181 8
        start = parser.current
        parser.get_bytes(size)
        return _Resource(name, kind, rdclass, ttl, start, size)

    def _owner(self, parser: dns.wire.Parser) -> dns.name.Name:
        """The name of a record: mostly the one that was asked for, or the root, and then not made anew."""
        if self._asked is not None and self._octets.startswith(_ASKED, parser.current):
            parser.get_bytes(len(_ASKED))
            return self._asked
        if self._octets.startswith(_ROOT, parser.current):
            parser.get_bytes(len(_ROOT))
            return dns.name.root
        return dns.name.from_wire_parser(parser)

    def read(self, record: _Resource, reader: Callable[[dns.wire.Parser], T]) -> T:
        """The data of a record. Raises an exception if the reader does not consume all of it."""
        parser = dns.wire.Parser(self._octets[: record.start + record.size], record.start)
        data = reader(parser)
        if parser.remaining():
            raise dns.exception.FormError
        return data

    @property
    def is_referral(self) -> bool:
        """Whether an empty answer only refers to other servers: this one does not recurse and has no data."""
        kinds = {record.kind for record in self._authority}
        return _NS in kinds and _SOA not in kinds and not self.flags & _AUTHORITATIVE

    def negative_ttl(self, name: dns.name.Name, ttl: int) -> int:
        """The TTL of a negative answer in seconds (RFC 2308 5), 0 without an SOA record."""
        for record in self._authority:
            if record.kind == _SOA and record.rdclass == _INTERNET and name.is_subdomain(record.name):
                return min(ttl, record.ttl, self.read(record, _soa_minimum))
        return 0


def _text(name: dns.name.Name) -> str:
    """A name as this package writes it: lower case, no final dot, "" for the root, odd octets escaped with ``\\``."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()


def _explanation(code: int, text: bytes) -> str:
    """An extended error for people; its text comes from the server."""
    from dns.edns import EDECode

    name = next((one.name.replace("_", " ") for one in EDECode if one == code), "")
    words = escape(text.decode("utf-8", "replace")[: MAX_EXPLANATION + 1])
    if len(words) > MAX_EXPLANATION:
        words = words[: MAX_EXPLANATION - 3] + "..."
    return f"extended error {code}{f' ({name})' if name else ''}{f': {words}' if words else ''}"


# ----------------------------------------------------------- data, by its kind


def _a(parser: dns.wire.Parser) -> Record:
    return ".".join(map(str, parser.get_bytes(4)))


def _aaaa(parser: dns.wire.Parser) -> Record:
    text = dns.ipv6.inet_ntoa(parser.get_bytes(16))
    return canonical_ip(text) or text


def _mx(parser: dns.wire.Parser) -> Record:
    preference = parser.get_uint16()
    return MX(preference, _text(dns.name.from_wire_parser(parser)))


def _ptr(parser: dns.wire.Parser) -> Record:
    return _text(dns.name.from_wire_parser(parser))


def _txt(parser: dns.wire.Parser) -> Record:
    texts = [parser.get_counted_bytes()]
    while parser.remaining():
        texts.append(parser.get_counted_bytes())
    return tuple(texts)


def _tlsa(parser: dns.wire.Parser) -> Record:
    octets = parser.get_remaining().ljust(_SHORTEST_TLSA, b"\xff")  # an undefined usage
    return TLSA(octets[0], octets[1], octets[2], octets[_SHORTEST_TLSA:])


def _wks(parser: dns.wire.Parser) -> Record:
    address = ".".join(map(str, parser.get_bytes(4)))
    protocol = parser.get_uint8()
    bitmap = parser.get_remaining()[:_MAX_WKS_OCTETS]
    ports = frozenset(i * 8 + bit for i, octet in enumerate(bitmap) for bit in range(8) if octet & (0x80 >> bit))
    return WKS(address, protocol, ports)


def _soa_minimum(parser: dns.wire.Parser) -> int:
    for _ in range(2):
        dns.name.from_wire_parser(parser)
    minimum: int = parser.get_struct("!IIIII")[-1]
    return minimum


def _extended_errors(parser: dns.wire.Parser) -> list[tuple[int, bytes]]:
    """The codes and texts of all extended errors among the options of EDNS (RFC 8914 2)."""
    found = []
    while parser.remaining():
        option, size = parser.get_struct("!HH")
        data = parser.get_bytes(size)
        if option == _EXTENDED_ERROR:
            found.append((int.from_bytes(data[:2].ljust(2, b"\0"), "big"), data[2:].rstrip(b"\0")))
    return found


_READERS: Mapping[RecordType, Callable[[dns.wire.Parser], Record]] = {
    RecordType.A: _a,
    RecordType.AAAA: _aaaa,
    RecordType.MX: _mx,
    RecordType.PTR: _ptr,
    RecordType.TXT: _txt,
    RecordType.TLSA: _tlsa,
    RecordType.WKS: _wks,
}
