"""A resolver with a table in memory, for tests, documentation and closed networks.

The table is a text similar to a master file (RFC 1035 5.1), one record a line, with fully qualified names::

    example.com        300  MX     10 mx.example.com
    mx.example.com          A      192.0.2.1
    www.example.com         CNAME  example.com
    1.2.0.192.in-addr.arpa  PTR    mx.example.com
    _25._tcp.mx.example.com TLSA   3 1 1 ab01...
    mx.example.com          WKS    192.0.2.1 6 25 80
    example.com             TXT    "v=spf1 -all"
    slow.example            FAIL   TIMEOUT
    half.example            FAIL   SERVFAIL AAAA
    signed.example          SECURE

``.`` as exchange is the null MX. ``FAIL`` gives every lookup of the name (or those of the types listed) the status
SERVFAIL, TIMEOUT or BOGUS. ``SECURE`` marks the answers about a name and everything below it as validated. ``;`` starts
a comment. A name in the table, or above one, exists; any other name is NXDOMAIN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, RecordType, Status
from zsmtp.dns.candidates import Family
from zsmtp.dns.ip import canonical_ip, ip_family
from zsmtp.dns.literal import shown
from zsmtp.errors import ConfigError

DEFAULT_TTL = 300
MAX_ALIAS_STEPS = 8
_FAILURES = {"SERVFAIL": Status.SERVFAIL, "TIMEOUT": Status.TIMEOUT, "BOGUS": Status.BOGUS}
_TYPES = {record_type.value: record_type for record_type in RecordType}

_FIELD = re.compile(r'"[^"]*"|;.*|[^\s;"]+')  # a text between quotes, a comment, a word


@dataclass(frozen=True, slots=True)
class _Set:
    """All records of one name and type, with the least of their TTLs."""

    records: tuple[Record, ...]
    ttl: int


class StaticResolver:
    """Answers from a table; records its queries, in order, in ``queries``."""

    def __init__(self, table: str, *, follow_aliases: bool = True) -> None:
        """Read a table. Raises ConfigError naming the line that cannot be read.

        Without ``follow_aliases`` the answer for an alias is NODATA with its target as canonical name, as from a server
        that does not recurse.
        """
        self.queries: list[Query] = []
        self._follow_aliases = follow_aliases
        self._sets: dict[tuple[str, RecordType], _Set] = {}
        self._aliases: dict[str, tuple[str, int]] = {}
        self._failures: dict[tuple[str, RecordType], Status] = {}
        self._secure: set[str] = set()
        self._names: set[str] = set()
        for number, line in enumerate(table.splitlines(), 1):
            fields = [field for field in _FIELD.findall(line) if not field.startswith(";")]
            if fields:
                try:
                    self._read(fields)
                except (ValueError, IndexError) as error:
                    raise ConfigError(f"line {number} of the DNS table: {error}: {shown(line.strip())}") from error

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The table's answer. Takes no time, so ``deadline`` cannot be missed."""
        self.queries.append(query)
        name = query.name.lower()
        ttl = DEFAULT_TTL
        secure = self._is_secure(name)
        steps = 0
        while name in self._aliases and (name, query.type) not in self._failures:
            name, alias_ttl = self._aliases[name]
            ttl = min(ttl, alias_ttl)
            if not self._follow_aliases:
                return Answer(query, Status.NODATA, canonical=name, ttl=ttl, secure=secure)
            steps += 1
            if steps > MAX_ALIAS_STEPS:
                problem = f"a loop or more than {MAX_ALIAS_STEPS} aliases from {query.name} on"
                return Answer(query, Status.NODATA, canonical=name, ttl=ttl, secure=secure, problem=problem)
            secure = secure and self._is_secure(name)
        failure = self._failures.get((name, query.type))
        if failure is not None and (query.validated or failure is not Status.BOGUS):
            return Answer(query, failure, canonical=name, problem="so says the table")
        found = self._sets.get((name, query.type))
        if found is not None:
            return Answer(query, Status.OK, found.records, name, min(ttl, found.ttl), secure)
        status = Status.NODATA if name in self._names else Status.NXDOMAIN
        return Answer(query, status, canonical=name, ttl=ttl, secure=secure)

    async def resolve(self, query: Query, deadline: float) -> Answer:
        """The same as an operation, which awaits nothing; see ``zsmtp.dns.resolver.AwaitingResolver``."""
        return self.lookup(query, deadline)

    def _is_secure(self, name: str) -> bool:
        return any(parent in self._secure for parent in _parents(name))

    def _read(self, fields: list[str]) -> None:
        name = _name(fields[0])
        rest = fields[1:]
        ttl = int(rest.pop(0)) if rest[0].isdigit() else DEFAULT_TTL
        keyword, data = rest[0].upper(), rest[1:]
        self._names.update(_parents(name))
        if keyword == "SECURE":
            self._secure.add(name)
        elif keyword == "FAIL":
            for type_name in data[1:] or _TYPES:
                self._failures[name, _type(type_name)] = _failure(data[0])
        elif keyword == "CNAME":
            self._aliases[name] = (_name(data[0]), ttl)
        else:
            key = (name, _type(keyword))
            known = self._sets.get(key, _Set((), ttl))
            self._sets[key] = _Set((*known.records, _record(key[1], data)), min(ttl, known.ttl))


def _parents(name: str) -> list[str]:
    """A name and all names above it."""
    labels = name.split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


def _name(text: str) -> str:
    return text.removesuffix(".").lower()


def _type(text: str) -> RecordType:
    record_type = _TYPES.get(text.upper())
    if record_type is None:
        raise ValueError(f"unknown record type {text}")
    return record_type


def _failure(text: str) -> Status:
    status = _FAILURES.get(text.upper())
    if status is None:
        raise ValueError(f"unknown failure {text}")
    return status


def _record(record_type: RecordType, data: list[str]) -> Record:
    if record_type in (RecordType.A, RecordType.AAAA):
        return _address(data[0], Family.INET if record_type is RecordType.A else Family.INET6)
    if record_type is RecordType.MX:
        return MX(int(data[0]), _name(data[1]))
    if record_type is RecordType.PTR:
        return _name(data[0])
    if record_type is RecordType.TLSA:
        return TLSA(int(data[0]), int(data[1]), int(data[2]), bytes.fromhex("".join(data[3:])))
    if record_type is RecordType.WKS:
        return WKS(_address(data[0], Family.INET), int(data[1]), frozenset(map(int, data[2:])))
    if not all(text.startswith('"') for text in data):
        raise ValueError("text that is not between quotes")
    return tuple(text.strip('"').encode() for text in data)


def _address(text: str, family: Family) -> str:
    address = canonical_ip(text)
    if address is None or ip_family(address) is not family:
        raise ValueError(f"not an {family.value} address")
    return address
