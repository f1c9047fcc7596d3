"""Single exchanges with a name server on loopback, waited for with ``poll``, and by the loops of asyncio and uvloop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop
from tests.dns.loopback_nameserver import Script, reply, serving, stream

from zsmtp.dns.nameserver import AskServer, Heard, NameServer, is_reply, parse_nameserver
from zsmtp.dns.transport import MAX_STRAYS, BlockingWaits, exchange
from zsmtp.effects import carry_out
from zsmtp.net.lookups import ServerExchanges

MESSAGE = dns.message.make_query("example.com", "A")
QUERY = MESSAGE.to_wire()
GOOD = "example.com. 60 IN A 192.0.2.1"

Ask = Callable[[AskServer], Heard]

uvloop.new_event_loop().close()  # the first one opens a pair of descriptors for the life of the process


def with_poll(effect: AskServer) -> Heard:
    return carry_out(exchange(effect, time.monotonic), BlockingWaits(time.monotonic, lambda: False).wait)


def on_a_loop(make: Callable[[], asyncio.AbstractEventLoop]) -> Ask:
    def ask(effect: AskServer) -> Heard:
        async def main() -> Heard:
            return await ServerExchanges(1).ask(effect)

        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(main())

    return ask


@pytest.fixture(
    params=[with_poll, on_a_loop(asyncio.new_event_loop), on_a_loop(uvloop.new_event_loop)],
    ids=["poll", "asyncio", "uvloop"],
)
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Carries out one effect; no socket is left open."""
    before = set(os.listdir("/proc/self/fd"))
    yield request.param
    assert set(os.listdir("/proc/self/fd")) <= before


def asked(ask: Ask, script: Script, seconds: float = 60.0, *, tcp: bool = False) -> Heard:
    with serving(script) as server:
        deadline = time.monotonic() + 60.0
        return ask(AskServer(parse_nameserver(server.address), QUERY, tcp, seconds, deadline))


def good(query: dns.message.Message) -> bytes:
    wire: bytes = reply(query, GOOD).to_wire()
    return wire


# -------------------------------------------------------------- what is a reply


@pytest.mark.parametrize(
    "change",
    [
        lambda wire: wire[:11],
        lambda wire: QUERY,
        lambda wire: bytes([wire[0] ^ 1]) + wire[1:],
        lambda wire: wire[:1] + bytes([wire[1] ^ 0x80]) + wire[2:],
        lambda wire: wire[:2] + bytes([wire[2] | 0x20]) + wire[3:],
        lambda wire: wire[:4] + b"\0\0" + wire[6:12] + wire[29:],
        lambda wire: wire[:4] + b"\0\2" + wire[6:],
        lambda wire: wire.replace(b"\7example", b"\7exampel", 1),
        lambda wire: wire.replace(b"\3com\0\0\1", b"\3com\0\0\x0f", 1),
        lambda wire: wire.replace(b"\3com\0\0\1\0\1", b"\3com\0\0\1\0\3", 1),
        lambda wire: wire[:20],
    ],
    ids=["short", "query", "id", "id, second octet", "opcode", "no question", "two", "name", "type", "class", "cut"],
)
def test_what_is_no_reply(change: Callable[[bytes], bytes]) -> None:
    wire = good(MESSAGE)
    assert is_reply(QUERY, wire)
    assert not is_reply(QUERY, change(wire))


def test_the_case_of_the_question_does_not_matter() -> None:
    assert is_reply(QUERY, good(MESSAGE).replace(b"\7example\3com", b"\7eXAMPLe\3COM", 1))


@pytest.mark.parametrize(
    ("rcode", "counts"),
    [(0, False), (1, True), (2, True), (3, False), (4, True), (5, True)],
    ids=["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"],
)
def test_errors_may_come_without_the_question(rcode: int, counts: bool) -> None:
    assert is_reply(QUERY, QUERY[:2] + bytes([0x81, 0x80 | rcode]) + bytes(8)) == counts


def test_a_label_may_hold_any_octet() -> None:
    query = QUERY[:12] + b"\4a\0b\x07\0" + QUERY[-15:]
    assert is_reply(query, query[:2] + b"\x81\x80" + query[4:])
    assert not is_reply(query, query[:2] + b"\x81\x80" + query[4:].replace(b"a\0b\x07", b"a\0b\x08"))


def test_noise_is_no_reply() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        noise = QUERY[:2] + b"\x81\x80" + chance.randbytes(chance.randrange(40))
        assert not is_reply(QUERY, noise) or QUERY[12:29] == noise[12:29].lower() or noise[4:6] == b"\0\0"


# ------------------------------------------------------------------- datagrams


def test_datagrams_that_are_no_reply_are_waited_past(ask: Ask) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        wire = good(query)
        other = reply(dns.message.make_query("example.net", "A", id=query.id), "example.net. 60 IN A 192.0.2.6")
        return [b"", b"x" * 11, bytes([wire[0] ^ 1]) + wire[1:], query.to_wire(), other.to_wire(), wire]

    assert asked(ask, script).reply == good(MESSAGE)


def test_a_flood_of_wrong_datagrams_ends_with_the_time_there_is(ask: Ask) -> None:
    heard = asked(ask, lambda query, transport: [b"wrong"] * MAX_STRAYS, 0.1)
    assert heard == Heard()
    assert heard.silent


def test_more_wrong_datagrams_are_told_of(ask: Ask) -> None:
    """Sixteen at a time, so that none is lost for want of room; nobody waits for the rest of the minute."""

    def script(query: dns.message.Message, transport: str) -> Iterator[bytes]:
        for guess in range(MAX_STRAYS + 1):
            yield (query.id ^ (guess + 1)).to_bytes(2, "big") + good(query)[2:]

    heard = asked(ask, script)
    assert heard == Heard(flooded=True)
    assert not heard.silent


def test_no_time_left(ask: Ask) -> None:
    for tcp in (False, True):
        assert ask(AskServer(NameServer("127.0.0.1", 9), QUERY, tcp, 60.0, time.monotonic() - 1)) == Heard()


@pytest.mark.parametrize("tcp", [False, True])
def test_a_closed_port_is_known_at_once(ask: Ask, tcp: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    heard = ask(AskServer(NameServer("127.0.0.1", port), QUERY, tcp, 60.0, time.monotonic() + 60))
    assert heard == Heard(problem="Connection refused")


def test_a_scope_that_does_not_exist(ask: Ask) -> None:
    heard = ask(AskServer(NameServer("fe80::1%nosuchif"), QUERY, False, 60.0, time.monotonic() + 60))
    assert heard.problem.startswith(("address cannot be used", "No such device"))


def test_each_query_has_a_socket_of_its_own_that_hears_its_server_only() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        effect = AskServer(NameServer(*server.getsockname()), QUERY, False, 60.0, 60.0)
        exchanges = [exchange(effect, lambda: 0.0) for _ in range(5)]
        waits = [steps.send(None) for steps in exchanges]
        assert len({wait.socket.getsockname() for wait in waits}) == 5
        assert {wait.socket.getpeername() for wait in waits} == {server.getsockname()}
        for steps in exchanges:
            steps.close()
        assert {wait.socket.fileno() for wait in waits} == {-1}


# --------------------------------------------------------------------- streams


def test_a_stream_in_pieces(ask: Ask) -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        whole = stream(reply(query, GOOD))
        return [whole[i : i + 1] for i in range(len(whole))]

    assert asked(ask, script, tcp=True).reply == good(MESSAGE)


@pytest.mark.parametrize("size", [0, 1, 2, 20])
def test_a_stream_cut_short(ask: Ask, size: int) -> None:
    heard = asked(ask, lambda query, transport: [stream(reply(query))[:size]], tcp=True)
    assert heard.problem in {"the connection was closed before the answer was complete", "Connection reset by peer"}


def test_a_stream_that_belongs_to_another_question(ask: Ask) -> None:
    heard = asked(ask, lambda query, transport: [b"\x00\x0c" + bytes(12)], tcp=True)
    assert heard.problem == "the answer belongs to another question"


def test_a_silent_server_over_tcp(ask: Ask) -> None:
    assert asked(ask, lambda query, transport: [b"\x00", None], 0.1, tcp=True).silent


def test_a_dripping_server_gets_no_more_than_the_deadline() -> None:
    """The clock goes on by a hundredth of a second with each look at it, so the octets can never be enough."""
    ticks = iter(range(1000))
    looks: list[int] = []

    def clock() -> float:
        looks.append(next(ticks))
        return looks[-1] / 100

    def script(query: dns.message.Message, transport: str) -> list[bytes | None]:
        return [b"\xff\xff", *[b"x"] * 200, None]

    with serving(script) as server:
        effect = AskServer(parse_nameserver(server.address), QUERY, True, 60.0, 0.2)
        assert carry_out(exchange(effect, clock), BlockingWaits(clock, lambda: False).wait).silent
    assert len(looks) <= 22


def test_what_is_over_is_not_waited_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        effect = AskServer(NameServer(*silent.getsockname()), QUERY, False, 600.0, time.monotonic() + 600)
        assert carry_out(exchange(effect, time.monotonic), BlockingWaits(time.monotonic, lambda: True).wait).silent
