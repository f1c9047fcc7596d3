"""Name servers: their addresses as text, and single exchanges with a server on loopback."""

import socket
import time

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dns.loopback_nameserver import Script, reply, serving, stream

from zsmtp.dns.nameserver import (
    NameServer,
    ask_tcp,
    ask_udp,
    is_reply,
    parse_nameserver,
    parse_resolv_conf,
)
from zsmtp.errors import ConfigError

QUERY = dns.message.make_query("example.com", "A").to_wire()


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.53", NameServer("192.0.2.53")),
        (" 192.0.2.53:5353 ", NameServer("192.0.2.53", 5353)),
        ("[192.0.2.53]:53", None),
        ("2001:DB8::53", NameServer("2001:db8::53")),
        ("[2001:db8::53]", NameServer("2001:db8::53")),
        ("[2001:db8::53]:5353", NameServer("2001:db8::53", 5353)),
        ("[fe80::1%eth0]:53", NameServer("fe80::1%eth0")),
        ("fe80::1%br-lan", NameServer("fe80::1%br-lan")),
        ("[FE80::1%eth0.100]:5353", NameServer("fe80::1%eth0.100", 5353)),
        ("192.0.2.1%eth0", None),
        ("fe80::1%", None),
        ("fe80::1%a/b", None),
        ("ns.example", None),
        ("192.0.2.53:", None),
        ("192.0.2.53:0", None),
        ("192.0.2.53:65536", None),
        ("[2001:db8::53]:99999", None),
        ("", None),
    ],
)
def test_address_of_a_server(text: str, server: NameServer | None) -> None:
    if server is None:
        with pytest.raises(ConfigError, match="not the address of a name server"):
            parse_nameserver(text)
    else:
        assert parse_nameserver(text) == server


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.53", True), ("::1", True), ("192.0.2.53", False), ("fe80::1%lo", False)]
)
def test_only_loopback_is_local(address: str, local: bool) -> None:
    assert NameServer(address).is_local == local


def test_resolver_configuration() -> None:
    text = """
        # comment
        domain example.com
        nameserver 192.0.2.1
        nameserver 192.0.2.1
        nameserver nonsense
        nameserver
        nameserver 2001:DB8::1  ; the other
        nameserver fe80::1%eth0
        nameserver 192.0.2.4
        options edns0 trust-ad
    """
    assert parse_resolv_conf(text) == (
        NameServer("192.0.2.1"),
        NameServer("2001:db8::1"),
        NameServer("fe80::1%eth0"),
    )


@given(st.text())
def test_there_is_always_a_server(text: str) -> None:
    assert parse_resolv_conf(text)


def test_names_of_servers() -> None:
    assert str(NameServer("192.0.2.1")) == "192.0.2.1"
    assert str(NameServer("::1", 5353)) == "::1 port 5353"


def test_what_is_a_reply() -> None:
    good = QUERY[:2] + b"\x81\x80" + bytes(8)
    assert is_reply(QUERY, good)
    assert not is_reply(QUERY, good[:11])
    assert not is_reply(QUERY, QUERY)
    assert not is_reply(QUERY, bytes([good[0] ^ 1]) + good[1:])


def exchange(script: Script, seconds: float, *, tcp: bool = False) -> bytes:
    with serving(script) as server:
        ask = ask_tcp if tcp else ask_udp
        return ask(parse_nameserver(server.address), QUERY, time.monotonic() + seconds, time.monotonic)


def test_datagrams_that_are_no_reply_are_waited_past() -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        good = reply(query, "example.com. 60 IN A 192.0.2.1").to_wire()
        other_id = bytes([good[0] ^ 1]) + good[1:]
        return [b"", b"x" * 11, other_id, QUERY, good]

    assert dns.message.from_wire(exchange(script, 60)).answer


def test_a_flood_of_wrong_datagrams_ends_with_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        exchange(lambda query, transport: [b"wrong"] * 100, 0.1)


def test_no_time_left() -> None:
    with pytest.raises(TimeoutError):
        ask_udp(NameServer("127.0.0.1", 9), QUERY, 0.0, lambda: 1.0)


def test_a_closed_port_is_known_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        ask_udp(NameServer("127.0.0.1", port), QUERY, time.monotonic() + 60, time.monotonic)


def test_a_scope_that_does_not_exist() -> None:
    with pytest.raises(OSError, match=r"address cannot be used|No such device"):
        ask_udp(NameServer("fe80::1%nosuchif"), QUERY, time.monotonic() + 60, time.monotonic)


def test_a_stream_in_pieces() -> None:
    def script(query: dns.message.Message, transport: str) -> list[bytes]:
        whole = stream(reply(query, "example.com. 60 IN A 192.0.2.1"))
        return [whole[i : i + 1] for i in range(len(whole))]

    assert dns.message.from_wire(exchange(script, 60, tcp=True)).answer


@pytest.mark.parametrize("size", [0, 1, 2, 20])
def test_a_stream_cut_short(size: int) -> None:
    with pytest.raises(ConnectionError):
        exchange(lambda query, transport: [stream(reply(query))[:size]], 60, tcp=True)


def test_a_stream_that_belongs_to_another_question() -> None:
    with pytest.raises(ConnectionError, match="another question"):
        exchange(lambda query, transport: [b"\x00\x0c" + bytes(12)], 60, tcp=True)


def test_a_dripping_server_gets_no_more_than_the_deadline() -> None:
    """The clock goes on by a hundredth of a second with each look at it, so the octets can never be enough."""
    ticks = iter(range(1000))
    looks: list[int] = []

    def clock() -> float:
        looks.append(next(ticks))
        return looks[-1] / 100

    def script(query: dns.message.Message, transport: str) -> list[bytes | None]:
        return [b"\xff\xff", *[b"x"] * 200, None]

    with serving(script) as server, pytest.raises(TimeoutError):
        ask_tcp(parse_nameserver(server.address), QUERY, 0.2, clock)
    assert len(looks) <= 22


def test_a_silent_server_over_tcp() -> None:
    with pytest.raises(TimeoutError):
        exchange(lambda query, transport: [b"\x00", None], 0.1, tcp=True)
