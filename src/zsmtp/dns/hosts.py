"""The hosts file as a source of addresses (hosts(5), RFC 952), which ``-x`` consults before the DNS.

Each line is an address followed by the names it has; ``#`` starts a comment. All addresses of a name come from one
source: a name in the file has the addresses of the file and no others, so an IPv4 address in the file hides an IPv6
address in the DNS. All other records come from the DNS::

    resolver = HostsResolver(parse_hosts(text), resolver)
"""

from __future__ import annotations

from collections.abc import Mapping

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Family
from zsmtp.dns.ip import canonical_ip, ip_family
from zsmtp.dns.resolver import Resolver, find_answer

MAX_SIZE = 1 << 22
"""Characters of a hosts file that are read; block lists are large, but a longer file is no hosts file."""

_FAMILIES = {RecordType.A: Family.INET, RecordType.AAAA: Family.INET6}


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Lower-case names and their addresses in canonical text, in the order of the file.

    Malformed lines are skipped, as every reader of this file does; so are addresses with a scope.
    """
    table: dict[str, list[str]] = {}
    for line in text[:MAX_SIZE].splitlines():
        fields = line.split("#", 1)[0].split()
        address = canonical_ip(fields[0]) if len(fields) > 1 else None
        if address is None:
            continue
        for name in fields[1:]:
            addresses = table.setdefault(name.removesuffix(".").lower(), [])
            if address not in addresses:
                addresses.append(address)
    return {name: tuple(addresses) for name, addresses in table.items()}


class HostsResolver:
    """A resolver that answers address lookups of names in a hosts file, and passes on everything else."""

    def __init__(self, table: Mapping[str, tuple[str, ...]], resolver: Resolver) -> None:
        """``table`` is a result of :func:`parse_hosts`."""
        self._table = table
        self._resolver = resolver

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The file's answer (never secure, TTL 0: the file can change at any time), or that of the other resolver."""
        return self._listed(query) or self._resolver.lookup(query, deadline)

    async def resolve(self, query: Query, deadline: float) -> Answer:
        """The same as an operation; see ``zsmtp.dns.resolver.AwaitingResolver``."""
        return self._listed(query) or await find_answer(self._resolver, query, deadline)

    def _listed(self, query: Query) -> Answer | None:
        family = _FAMILIES.get(query.type)
        addresses = None if family is None else self._table.get(query.name.lower())
        if addresses is None:
            return None
        records = tuple(address for address in addresses if ip_family(address) is family)
        status = Status.OK if records else Status.NODATA
        return Answer(query, status, records, canonical=query.name.lower(), source="hosts file")
