"""The name server of the tests, asked with dnspython."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
from tests.support.nameserver import REFERENCE_ZONE, Failure, NameServer


def ask(server: NameServer, name: str, rdtype: str) -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, rdtype), "127.0.0.1", timeout=60, port=server.port)


def test_answers_by_udp_and_tcp() -> None:
    with NameServer(REFERENCE_ZONE) as server:
        query = dns.message.make_query("Example.com", "MX")
        for response in (
            dns.query.udp(query, "127.0.0.1", timeout=60, port=server.port),
            dns.query.tcp(query, "127.0.0.1", timeout=60, port=server.port),
        ):
            assert [rdata.to_text().lower() for rdata in response.answer[0]] == ["10 mx.example.com."]
        assert len(ask(server, "multimx.example", "MX").answer[0]) == 3
    assert server.queries == [("example.com", "MX")] * 2 + [("multimx.example", "MX")]


def test_the_ways_to_fail() -> None:
    zone = {**REFERENCE_ZONE, "quiet.example": Failure.SILENCE, "no.example": Failure.REFUSED}
    with NameServer(zone) as server:
        assert ask(server, "nx.example", "MX").rcode() == dns.rcode.NXDOMAIN
        assert ask(server, "unheard.of", "A").rcode() == dns.rcode.NXDOMAIN
        assert ask(server, "servfail.example", "MX").rcode() == dns.rcode.SERVFAIL
        assert ask(server, "no.example", "MX").rcode() == dns.rcode.REFUSED
        nodata = ask(server, "mx1.example", "MX")
        assert nodata.rcode() == dns.rcode.NOERROR
        assert not nodata.answer
        assert nodata.authority
        with pytest.raises(dns.exception.Timeout):
            dns.query.udp(dns.message.make_query("quiet.example", "A"), "127.0.0.1", timeout=0.2, port=server.port)


def test_aliases_are_chased() -> None:
    zone = {"www.example": {"CNAME": ("host.example.",)}, "host.example": {"A": ("127.0.0.1",)}}
    with NameServer(zone) as server:
        answer = ask(server, "www.example", "A").answer
        assert [rrset.to_text() for rrset in answer] == [
            "www.example. 300 IN CNAME host.example.",
            "host.example. 300 IN A 127.0.0.1",
        ]
