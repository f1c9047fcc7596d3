"""The resolver against name servers on loopback: who is asked, when, and what is made of it.

The servers are real, the time is not: it passes only while a server keeps silent.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest
from tests.dns.loopback_nameserver import LoopbackNameServer, Script, reply, serving, stream

from zsmtp.dns import dnspython, transport
from zsmtp.dns.answer import MX, Answer, Query, RecordType, Status
from zsmtp.dns.dnspython import DnspythonResolver
from zsmtp.dns.nameserver import NameServer, parse_nameserver
from zsmtp.errors import ConfigError

A = Query("example.com", RecordType.A)
GOOD = "example.com. 60 IN A 192.0.2.1"
ROUND = 1.0


class Clock:
    """The resolver's clock: time passes when a server that keeps silent says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(transport, "GLANCE", 0.01)  # seconds of a real wait between two looks at the clock
    return Clock()


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def answering(*records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0) -> Script:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        message = reply(query, *records, rcode=rcode, flags=flags)
        return [stream(message) if transport == "tcp" else message.to_wire()]

    return script


def silent(clock: Clock) -> Script:
    """A server that gives no answer for the whole time of a round."""

    def script(query: dns.message.Message, transport: str) -> list[bytes | None]:
        clock.now += ROUND
        return [None]

    return script


def lookup(
    server: LoopbackNameServer, query: Query = A, *, trusted: bool | None = None, clock: Clock | None = None
) -> Answer:
    clock = clock or Clock()
    resolver = DnspythonResolver(server.address, trusted=trusted, rounds=(ROUND,) * 3, clock=clock)
    return resolver.lookup(query, clock() + 10)


def asking_all(monkeypatch: pytest.MonkeyPatch, clock: Clock, *servers: LoopbackNameServer) -> DnspythonResolver:
    """A resolver whose configuration lists these servers (the file itself cannot name ports)."""
    found = tuple(parse_nameserver(server.address) for server in servers)
    monkeypatch.setattr(dnspython, "parse_resolv_conf", lambda text: found)
    return DnspythonResolver(resolv_conf=os.devnull, rounds=(ROUND,) * 3, clock=clock)


def test_an_answer(servers: ExitStack) -> None:
    server = servers.enter_context(serving(answering(GOOD)))
    answer = lookup(server)
    assert (answer.status, answer.records, answer.ttl) == (Status.OK, ("192.0.2.1",), 60)
    assert answer.source.startswith("name server 127.0.0.1 port ")
    assert server.transports == ["udp"]


@pytest.mark.parametrize(("trusted", "secure"), [(None, True), (True, True), (False, False)])
def test_the_ad_bit_of_a_server_on_this_machine(servers: ExitStack, trusted: bool | None, secure: bool) -> None:
    server = servers.enter_context(serving(answering(GOOD, flags=dns.flags.AD)))
    assert lookup(server, trusted=trusted).secure == secure


@pytest.mark.parametrize(("trusted", "secure"), [(None, False), (True, True), (False, False)])
def test_the_ad_bit_of_a_server_elsewhere(
    servers: ExitStack, monkeypatch: pytest.MonkeyPatch, trusted: bool | None, secure: bool
) -> None:
    server = servers.enter_context(serving(answering(GOOD, flags=dns.flags.AD)))
    monkeypatch.setattr(NameServer, "is_local", property(lambda self: False))
    assert lookup(server, trusted=trusted).secure == secure


def test_without_the_ad_bit_nothing_is_secure(servers: ExitStack) -> None:
    server = servers.enter_context(serving(answering(GOOD)))
    assert not lookup(server, trusted=True).secure


def test_a_truncated_answer_is_asked_for_by_tcp(servers: ExitStack) -> None:
    records = [f"example.com. 60 IN MX {n} host{n}.a-rather-long-name.example." for n in range(100)]

    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        if transport == "tcp":
            return [stream(reply(query, *records))]
        return [reply(query, records[0], flags=dns.flags.TC).to_wire()]

    server = servers.enter_context(serving(script))
    answer = lookup(server, Query("example.com", RecordType.MX))
    assert len(answer.records) == 100
    assert MX(99, "host99.a-rather-long-name.example") in answer.records
    assert server.transports == ["udp", "tcp"]


@pytest.mark.parametrize("pieces", [[], [b"\x00"], [b"\xff\xff" + b"x" * 50], [b"\x00\x02ab"], [None]])
def test_truncated_and_tcp_fails(servers: ExitStack, clock: Clock, pieces: list[bytes | None]) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes | None]:
        if transport == "udp":
            return [reply(query, GOOD, flags=dns.flags.TC).to_wire()]
        clock.now += ROUND if pieces == [None] else 0.0
        return pieces

    answer = lookup(servers.enter_context(serving(script)), clock=clock)
    assert (answer.status, answer.records) == (Status.TIMEOUT, ())
    assert answer.problem


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_server_without_edns(servers: ExitStack, rcode: dns.rcode.Rcode) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        return [(reply(query, GOOD) if query.edns < 0 else reply(query, rcode=rcode)).to_wire()]

    server = servers.enter_context(serving(script))
    assert lookup(server).records == ("192.0.2.1",)
    assert [query.edns for _, query in server.queries] == [0, -1]


@pytest.mark.parametrize(
    ("rcode", "status"),
    [
        (dns.rcode.NXDOMAIN, Status.NXDOMAIN),
        (dns.rcode.NOERROR, Status.NODATA),
        (dns.rcode.SERVFAIL, Status.SERVFAIL),
        (dns.rcode.REFUSED, Status.SERVFAIL),
        (dns.rcode.FORMERR, Status.SERVFAIL),
    ],
)
def test_status(servers: ExitStack, rcode: dns.rcode.Rcode, status: Status) -> None:
    assert lookup(servers.enter_context(serving(answering(rcode=rcode)))).status is status


def test_a_malformed_answer_is_a_failure(servers: ExitStack) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        return [reply(query, GOOD).to_wire()[:-5]]

    answer = lookup(servers.enter_context(serving(script)))
    assert answer.status is Status.SERVFAIL
    assert "malformed" in answer.problem


def test_a_silent_server_is_asked_in_rounds(servers: ExitStack, clock: Clock) -> None:
    server = servers.enter_context(serving(silent(clock)))
    answer = lookup(server, clock=clock)
    assert answer.status is Status.TIMEOUT
    assert "does not answer" in answer.problem
    assert server.transports == ["udp"] * 3


def test_a_late_round_may_still_bring_the_answer(servers: ExitStack, clock: Clock) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        if len(server.queries) < 3:
            clock.now += ROUND
            return []
        return [reply(query, GOOD).to_wire()]

    server = servers.enter_context(serving(script))
    assert lookup(server, clock=clock).status is Status.OK
    assert server.transports == ["udp"] * 3


def test_the_deadline_is_for_everything(servers: ExitStack, clock: Clock) -> None:
    server = servers.enter_context(serving(silent(clock)))
    resolver = DnspythonResolver(server.address, rounds=(1000.0, 1000.0), clock=clock)
    assert resolver.lookup(A, clock() + ROUND).status is Status.TIMEOUT
    assert resolver.lookup(A, clock() - 1).problem == "no time was left to ask"
    assert server.transports == ["udp"]


def test_a_closed_port() -> None:
    with serving(answering(GOOD)) as gone:
        pass
    answer = lookup(gone)
    assert answer.status is Status.TIMEOUT
    assert "refused" in answer.problem


def test_the_next_server_is_asked_and_remembered(
    servers: ExitStack, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    dead = servers.enter_context(serving(silent(clock)))
    failing = servers.enter_context(serving(answering(rcode=dns.rcode.SERVFAIL)))
    good = servers.enter_context(serving(answering(GOOD)))
    resolver = asking_all(monkeypatch, clock, dead, failing, good)
    for _ in range(2):
        assert resolver.lookup(A, clock() + 10).status is Status.OK
    assert [len(server.queries) for server in (dead, failing, good)] == [1, 1, 2]


def test_failing_servers_are_not_asked_again(servers: ExitStack, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    dead = servers.enter_context(serving(silent(clock)))
    failing = servers.enter_context(serving(answering(rcode=dns.rcode.SERVFAIL)))
    answer = asking_all(monkeypatch, clock, dead, failing).lookup(A, clock() + 10)
    assert answer.status is Status.SERVFAIL
    assert [len(server.queries) for server in (dead, failing)] == [3, 1]


def test_no_such_domain_is_final(servers: ExitStack, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    first = servers.enter_context(serving(answering(rcode=dns.rcode.NXDOMAIN)))
    second = servers.enter_context(serving(answering(GOOD)))
    assert asking_all(monkeypatch, clock, first, second).lookup(A, clock() + 10).status is Status.NXDOMAIN
    assert second.queries == []


def test_the_configuration_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """All of it without a packet: the servers asked show in the texts of refused connections."""
    path = tmp_path / "resolv.conf"
    resolver = DnspythonResolver(resolv_conf=str(path), clock=lambda: 0.0)
    assert resolver._current_servers() == (NameServer("127.0.0.1"),)
    path.write_text("nameserver 192.0.2.1\n")
    assert resolver._current_servers() == (NameServer("192.0.2.1"),)
    path.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    os.utime(path, ns=(1, 1))
    assert resolver._current_servers() == (NameServer("192.0.2.2"), NameServer("192.0.2.3"))
    path.unlink()
    assert resolver._current_servers() == (NameServer("127.0.0.1"),)


def test_a_question_that_cannot_be_asked(servers: ExitStack) -> None:
    server = servers.enter_context(serving(answering(GOOD)))
    answer = lookup(server, Query("a..b", RecordType.A))
    assert answer.status is Status.SERVFAIL
    assert server.queries == []


def test_a_missing_library_defers(servers: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    server = servers.enter_context(serving(answering(GOOD)))
    monkeypatch.setitem(sys.modules, "zsmtp.dns.wire", None)
    answer = lookup(server)
    assert answer.status is Status.TIMEOUT
    assert "cannot be loaded" in answer.problem


def test_a_bad_address_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        DnspythonResolver("ns.example")


def test_nothing_heavy_is_imported_before_the_first_lookup() -> None:
    probe = """
import sys
import zsmtp.dns.dnspython, zsmtp.dns.heloname, zsmtp.dns.hosts, zsmtp.net.identity
from zsmtp.dns.destination import DestinationRequest, plan_destination
from zsmtp.dns.resolver import CachingResolver, carry_out
resolver = CachingResolver(zsmtp.dns.dnspython.DnspythonResolver("127.0.0.1"), float)
request = DestinationRequest(destination="[127.0.0.1]", shuffle=list.sort)
assert carry_out(plan_destination(request), resolver, deadline=0, own_addresses=frozenset).candidates
print(sorted({"dns", "asyncio", "cryptography", "ssl", "idna", "ipaddress", "random"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", probe], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
