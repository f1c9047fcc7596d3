"""DNS messages: a question as octets, and what a reply says about it (RFC 1035 4.1, RFC 2308, RFC 6891, RFC 8914).

This is the one module that knows dnspython, and importing it is what costs; ``zsmtp.dns.dnspython`` does so with its
first lookup. A reply is taken apart with distrust: only records of the name asked for, or at the end of its chain of
aliases, count; everything else in it is ignored. What cannot be read is SERVFAIL with a problem, never an exception.
TLSA records are taken as they are: one that makes no sense must not take the others with it (``zsmtp.tls.dane``)::

    question = Question(Query("example.com", RecordType.MX))
    answer = question.read(reply, trusted=True)      # reply is what came back for question.wire
"""

from __future__ import annotations

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.PTR
import dns.rdtypes.ANY.SOA
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.WKS
import dns.rrset
import dns.wire

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, Status
from zsmtp.dns.ip import canonical_ip
from zsmtp.escape import escape

MAX_ALIAS_STEPS = 8
EDNS_PAYLOAD = 1232
"""Octets of a datagram that arrive unfragmented on every path there is."""

MAX_EXPLANATION = 300
"""Characters of a server's explanation of an error that are shown."""

_BOGUS_CODES = frozenset(range(6, 13))  # RFC 8914 4.7 to 4.13: validation was tried and failed
_MAX_TTL = 2**31 - 1
_MAX_WKS_OCTETS = 65536 // 8
_OPAQUE_TLSA = dns.rdatatype.RdataType.make(65332)  # of those for private use (RFC 6895 3.1)
_SHORTEST_TLSA = 3  # octets: usage, selector, matching type


class Question:
    """One question as it goes to a name server."""

    def __init__(self, query: Query, *, edns: bool = True) -> None:
        """Raises ValueError if the name is no domain name. Without ``edns`` the question is as in RFC 1035."""
        self.query = query
        try:
            self._name = dns.name.from_text(query.name)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ValueError(f"not a domain name: {error}") from error
        self._type = dns.rdatatype.from_text(query.type.value)
        self._wanted = _OPAQUE_TLSA if self._type == dns.rdatatype.TLSA else self._type
        self._message = dns.message.make_query(
            self._name,
            self._type,
            use_edns=0 if edns else -1,
            want_dnssec=edns,
            payload=EDNS_PAYLOAD if edns else None,
        )
        self.wire = self._message.to_wire()

    def read(self, reply: bytes, *, trusted: bool) -> Answer:
        """The answer that a reply holds. Its AD bit counts only if the server is ``trusted``."""
        try:
            octets = _with_opaque_tlsa(reply) if self._wanted == _OPAQUE_TLSA else reply
            message = dns.message.from_wire(octets, ignore_trailing=True)
            if not self._message.is_response(message):
                return self._failure("the answer belongs to another question")
            return self._interpret(message, secure=trusted and bool(message.flags & dns.flags.AD))
        except Exception as error:  # whatever a hostile reply makes a parser raise, it is the reply's fault
            return self._failure(f"malformed answer: {type(error).__name__}")

    def _failure(self, problem: str, status: Status = Status.SERVFAIL) -> Answer:
        return Answer(self.query, status, canonical=self.query.name, problem=problem)

    def _interpret(self, message: dns.message.Message, *, secure: bool) -> Answer:
        rcode = message.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            codes = [option for option in message.options if isinstance(option, dns.edns.EDEOption)]
            bogus = [option for option in codes if int(option.code) in _BOGUS_CODES]
            words = ", ".join([dns.rcode.to_text(rcode), *(_explanation(option) for option in codes)])
            return self._failure(words, Status.BOGUS if bogus and rcode == dns.rcode.SERVFAIL else Status.SERVFAIL)
        sets = {(rrset.name, rrset.rdtype): rrset for rrset in message.answer if rrset.rdclass == dns.rdataclass.IN}
        name, ttl, problem = self._follow(sets)
        canonical = _text(name)
        if problem:
            return Answer(self.query, Status.NODATA, canonical=canonical, ttl=ttl, secure=secure, problem=problem)
        found = sets.get((name, self._wanted))
        if rcode == dns.rcode.NXDOMAIN:
            if found is not None:
                return self._failure("contradictory answer: records of a name that does not exist")
            ttl = _negative_ttl(message, name, ttl)
            return Answer(self.query, Status.NXDOMAIN, canonical=canonical, ttl=ttl, secure=secure)
        if found is not None:
            records = tuple(map(_record, found))
            ttl = min(ttl, found.ttl)
            return Answer(self.query, Status.OK, records, canonical=canonical, ttl=ttl, secure=secure)
        if name == self._name and _is_referral(message):
            return self._failure("the server does not answer but refers to others")
        ttl = _negative_ttl(message, name, ttl)
        return Answer(self.query, Status.NODATA, canonical=canonical, ttl=ttl, secure=secure)

    def _follow(
        self, sets: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset]
    ) -> tuple[dns.name.Name, int, str]:
        """The name at the end of the chain of aliases, the least TTL on the way, and what is wrong with the chain."""
        name = self._name
        ttl = _MAX_TTL
        seen = {name}
        while (name, self._wanted) not in sets:
            alias = sets.get((name, dns.rdatatype.CNAME))
            if alias is None:
                break
            target = alias[0].target
            ttl = min(ttl, alias.ttl)
            if target in seen:
                return name, ttl, f"alias {_text(name)} is part of a loop"
            if len(seen) > MAX_ALIAS_STEPS:
                return name, ttl, f"more than {MAX_ALIAS_STEPS} aliases from {self.query.name} on"
            name = target
            seen.add(name)
        return name, ttl, ""


def _with_opaque_tlsa(reply: bytes) -> bytes:
    """The reply with an unknown type in the place of TLSA, where dnspython refuses a digest of a wrong length."""
    parser = dns.wire.Parser(reply)
    _, _, questions, answers, _, _ = parser.get_struct("!HHHHHH")
    for _ in range(questions):
        dns.name.from_wire_parser(parser)
        parser.get_struct("!HH")
    octets = bytearray(reply)
    for _ in range(answers):
        dns.name.from_wire_parser(parser)
        at = parser.current
        rdtype, _, _, length = parser.get_struct("!HHIH")
        if rdtype == dns.rdatatype.TLSA:
            octets[at : at + 2] = _OPAQUE_TLSA.to_bytes(2, "big")
        parser.get_bytes(length)
    return bytes(octets)


def _explanation(option: dns.edns.EDEOption) -> str:
    """An extended error for people; its text comes from the server."""
    code = int(option.code)
    name = option.code.name.replace("_", " ") if isinstance(option.code, dns.edns.EDECode) else ""
    words = escape((option.text or "")[: MAX_EXPLANATION + 1])
    if len(words) > MAX_EXPLANATION:
        words = words[: MAX_EXPLANATION - 3] + "..."
    return f"extended error {code}{f' ({name})' if name else ''}{f': {words}' if words else ''}"


def _text(name: dns.name.Name) -> str:
    """A name as this package writes it: lower case, no final dot, "" for the root, odd octets escaped with ``\\``."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()


def _negative_ttl(message: dns.message.Message, name: dns.name.Name, ttl: int) -> int:
    """How long a negative answer holds (RFC 2308 5), 0 if the server does not say."""
    for rrset in message.authority:
        for rdata in rrset:
            if isinstance(rdata, dns.rdtypes.ANY.SOA.SOA) and name.is_subdomain(rrset.name):
                return int(min(ttl, rrset.ttl, rdata.minimum))
    return 0


def _is_referral(message: dns.message.Message) -> bool:
    """Whether an empty answer only points to other servers: this one does not recurse, and knows nothing itself."""
    types = {rrset.rdtype for rrset in message.authority}
    authoritative = bool(message.flags & dns.flags.AA)
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types and not authoritative


def _record(rdata: dns.rdata.Rdata) -> Record:
    """One record as a value of this package; ValueError for a type that is not asked for."""
    match rdata:
        case dns.rdtypes.IN.A.A() | dns.rdtypes.IN.AAAA.AAAA():
            return canonical_ip(rdata.address) or str(rdata.address)
        case dns.rdtypes.ANY.MX.MX():
            return MX(rdata.preference, _text(rdata.exchange))
        case dns.rdtypes.ANY.PTR.PTR():
            return _text(rdata.target)
        case dns.rdtypes.ANY.TXT.TXT():
            return tuple(rdata.strings)
        case dns.rdata.GenericRdata() if rdata.rdtype == _OPAQUE_TLSA:
            octets = rdata.data.ljust(_SHORTEST_TLSA, b"\xff")  # a usage that means nothing
            return TLSA(octets[0], octets[1], octets[2], octets[_SHORTEST_TLSA:])
        case dns.rdtypes.IN.WKS.WKS():
            bitmap = rdata.bitmap[:_MAX_WKS_OCTETS]
            ports = frozenset(
                i * 8 + bit for i, octet in enumerate(bitmap) for bit in range(8) if octet & (0x80 >> bit)
            )
            return WKS(rdata.address, rdata.protocol, ports)
    raise ValueError(f"a record of type {dns.rdatatype.to_text(rdata.rdtype)}")
