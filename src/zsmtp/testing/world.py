"""A resolver in which this machine is the exchanger of every domain; no name server is queried."""

from __future__ import annotations

from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status
from zsmtp.dns.static import DEFAULT_TTL

HOST = "127.0.0.1"


class ClosedWorld:
    """A resolver: each domain has the exchanger ``mx.DOMAIN`` at 127.0.0.1. ``queries`` are the queries so far.

    Domains in ``missing`` do not exist (NXDOMAIN), lookups of those in ``silent`` fail (SERVFAIL), those in ``no_mail``
    accept no mail (null MX, RFC 7505); each with all names below it. They may be changed at any time, but a client
    caches answers for a while.
    """

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.missing: set[str] = set()
        self.silent: set[str] = set()
        self.no_mail: set[str] = set()

    def lookup(self, query: Query, deadline: float) -> Answer:
        """The answer, at once."""
        self.queries.append(query)
        name = query.name.lower()
        if _is_below(name, self.silent):
            return Answer(query, Status.SERVFAIL, canonical=name, problem="the test says so")
        if _is_below(name, self.missing):
            return Answer(query, Status.NXDOMAIN, canonical=name, ttl=DEFAULT_TTL)
        if query.type is RecordType.MX:
            exchanger = MX(0, "") if _is_below(name, self.no_mail) else MX(10, f"mx.{name}")
            return Answer(query, Status.OK, (exchanger,), name, DEFAULT_TTL)
        if query.type is RecordType.A:
            return Answer(query, Status.OK, (HOST,), name, DEFAULT_TTL)
        return Answer(query, Status.NODATA, canonical=name, ttl=DEFAULT_TTL)


def _is_below(name: str, domains: set[str]) -> bool:
    return any(name == domain.lower() or name.endswith(f".{domain.lower()}") for domain in domains)
