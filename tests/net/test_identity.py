"""Local identities, own addresses, and binding sockets to them on loopback."""

import errno
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.ip import canonical_ip, format_ip
from zsmtp.errors import ConfigError, ConnectError
from zsmtp.net import identity
from zsmtp.net.identity import (
    InterfaceAddress,
    ResolvedIdentity,
    SocketBinding,
    bind_socket,
    interface_addresses,
    own_addresses,
    parse_identity,
    source_address,
)

ANY = SocketBinding()
INTERFACES = (
    InterfaceAddress("lo", "127.0.0.1"),
    InterfaceAddress("eth0", "192.0.2.1"),
    InterfaceAddress("eth0:1", "192.0.2.2"),
    InterfaceAddress("eth0", "192.0.2.3"),
    InterfaceAddress("eth0", "fe80::1"),
    InterfaceAddress("eth0", "2001:db8::dead", usable=False),
    InterfaceAddress("eth0", "2001:db8::1"),
    InterfaceAddress("eth1", "fe80::2"),
)
NAMES = {
    "mail.example.org": ("192.0.2.50", "192.0.2.1", "2001:db8::1"),
    "four.example.org": ("192.0.2.50",),
}


def resolve(text: str) -> ResolvedIdentity:
    return parse_identity(text).resolve(lambda name: NAMES.get(name, ()), lambda: INTERFACES)


def addresses(text: str) -> tuple[str | None, str | None]:
    """The addresses in both families; None where the family has none, whose reason must then be there."""
    found = resolve(text)
    for binding in (found.inet, found.inet6):
        assert (binding.address is None) == bool(binding.problem)
    return found.inet.address, found.inet6.address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iface:eth0", ("192.0.2.1", "2001:db8::1")),
        ("iface:v4:eth0", ("192.0.2.1", None)),
        ("iface:v6:eth0", (None, "2001:db8::1")),
        ("IFACE:V6:eth0", (None, "2001:db8::1")),
        ("iface:eth0:1", ("192.0.2.2", None)),
        ("iface:eth1", (None, None)),
        ("iface:ppp0", (None, None)),
        ("[192.0.2.7]", ("192.0.2.7", None)),
        ("[IPv6:2001:DB8::7]", (None, "2001:db8::7")),
        ("[ipv6.2001:db8::7]", (None, "2001:db8::7")),
        ("mail.example.org", ("192.0.2.1", "2001:db8::1")),
        ("Four.Example.org.", ("192.0.2.50", None)),
        ("nx.example.org", (None, None)),
    ],
)
def test_forms(text: str, expected: tuple[str | None, str | None]) -> None:
    assert addresses(text) == expected


def test_any() -> None:
    assert resolve("any") == ResolvedIdentity("any", ANY, ANY)
    six = resolve("ANY6")
    assert six.inet6 == ANY
    assert "not for IPv4" in six.inet.problem


def test_the_reason_tells_what_is_missing() -> None:
    assert "no such interface" in resolve("iface:ppp0").inet.problem
    assert "no IPv4 address" in resolve("iface:eth1").inet.problem
    assert "no address now" in resolve("nx.example.org").inet6.problem
    assert "not for IPv6" in resolve("[192.0.2.7]").inet6.problem


def test_unix_sockets_have_no_identity() -> None:
    assert resolve("iface:ppp0").binding(Family.UNIX) == ANY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iface:",
        "iface:v4:",
        "iface:a/b",
        "iface:two words",
        "iface:a-name-too-long-0",
        "iface:eth0\n0",
        "192.0.2.1",
        "[192.0.2.1]:25",
        "[192.0.2]",
        "a..b",
        "UNIX:/run/x",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_identity(text)


@given(st.text(max_size=40) | st.text(max_size=20).map(lambda text: "iface:" + text))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed = parse_identity(text)
    except ConfigError:
        return
    found = parsed.resolve(lambda name: (), lambda: INTERFACES)
    assert {found.inet.problem, found.inet6.problem} >= {""} or (found.inet.problem and found.inet6.problem)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the interfaces of Linux")
def test_this_machine_has_a_loopback_address() -> None:
    found = interface_addresses()
    assert InterfaceAddress("lo", "127.0.0.1") in found
    own = own_addresses()
    assert "127.0.0.1" in own
    assert all(canonical_ip(address) == address for address in own)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the interfaces of Linux")
def test_more_interfaces_than_fit_the_first_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with 1000 addresses, cutting its list to the buffer as the real one does."""
    import ctypes
    import fcntl
    import struct

    def entry(number: int) -> bytes:
        padding = bytes(16 if struct.calcsize("P") == 8 else 8)
        return b"eth0".ljust(16, b"\0") + b"\2\0\0\0" + bytes([10, 0, number >> 8, number & 255]) + padding

    whole = b"".join(map(entry, range(1000)))

    def ioctl(probe: Any, number: int, request: bytes) -> bytes:
        size, pointer = struct.unpack("iP", request)
        part = whole[: size - size % len(entry(0))]
        ctypes.memmove(pointer, part, len(part))
        return struct.pack("iP", len(part), pointer)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(identity, "_IF_INET6", os.devnull)
    found = interface_addresses()
    assert len(found) == 1000
    assert found[999] == InterfaceAddress("eth0", "10.0.3.231")


def test_a_kernel_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*args: object) -> Any:
        raise OSError(errno.EAFNOSUPPORT, "no such family")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(identity, "_IF_INET6", "/nonexistent/if_inet6")
    assert own_addresses() == frozenset()


def test_the_list_of_ipv6_addresses() -> None:
    text = (
        "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n"
        "20010db8000000000000000000000001 04 40 00 80     eth0\n"
        "20010db8000000000000000000000002 04 40 00 20     eth0\n"
        "nonsense\n"
        "zz010db8000000000000000000000002 04 40 00 20     eth0\n"
        "20010db8000000000000000000000003 04 40 00 zz     eth0\n"
    )
    assert identity._parse_if_inet6(text) == [
        InterfaceAddress("eth0", "fe80::fc:ff:fe00:1"),
        InterfaceAddress("eth0", "2001:db8::1"),
        InterfaceAddress("eth0", "2001:db8::2", usable=False),
    ]


@given(st.text() | st.binary(min_size=16, max_size=16).map(lambda packed: f"{packed.hex()} 1 40 00 80 eth0"))
def test_any_list_can_be_read(text: str) -> None:
    for found in identity._parse_if_inet6(text):
        assert canonical_ip(found.address) == found.address


@pytest.fixture
def unbound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        yield connection


def one_address(address: str) -> ResolvedIdentity:
    return ResolvedIdentity(f"[{address}]", SocketBinding(address), SocketBinding(problem="no IPv6 here"))


def test_binding_to_an_address(unbound: socket.socket) -> None:
    bind_socket(unbound, one_address("127.0.0.7"), Family.INET)
    host, port = unbound.getsockname()
    assert host == "127.0.0.7"
    assert port != 0


@pytest.mark.parametrize("chosen", [None, ResolvedIdentity("any", ANY, ANY)])
def test_the_kernel_chooses(unbound: socket.socket, chosen: ResolvedIdentity | None) -> None:
    bind_socket(unbound, chosen, Family.INET)
    assert unbound.getsockname() == ("0.0.0.0", 0)


def test_a_family_without_address_is_an_error(unbound: socket.socket) -> None:
    with pytest.raises(ConnectError, match="no IPv6 here"):
        bind_socket(unbound, one_address("127.0.0.1"), Family.INET6)


def test_an_address_that_is_not_here(unbound: socket.socket) -> None:
    with pytest.raises(ConnectError, match=r"cannot bind to the local address 203\.0\.113\.77"):
        bind_socket(unbound, one_address("203.0.113.77"), Family.INET)
    assert unbound.getsockname() == ("0.0.0.0", 0)


def test_unix_sockets_are_left_alone() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        bind_socket(connection, one_address("127.0.0.1"), Family.UNIX, reserved_port=True)
        assert connection.getsockname() == ""


def test_where_a_connection_would_come_from() -> None:
    here = Endpoint("127.0.0.1", "127.0.0.1", 25, Family.INET, literal=True)
    assert source_address(here, None) == "127.0.0.1"
    assert source_address(here, one_address("127.0.0.7")) == "127.0.0.7"
    assert source_address(Endpoint("/run/x", "/run/x", 0, Family.UNIX, literal=True), None) == ""


def test_where_a_connection_cannot_come_from() -> None:
    with pytest.raises(ConnectError, match="no IPv6 here"):
        source_address(Endpoint("::1", "::1", 25, Family.INET6, literal=True), one_address("127.0.0.1"))
    with pytest.raises(ConnectError, match=r"no way to 255\.255\.255\.255: "):
        source_address(Endpoint("a.example", "255.255.255.255", 25, Family.INET), None)


class ScriptedSocket:
    """A socket whose bind answers as the test wants: one error number (0 for success) for each call."""

    def __init__(self, errors: Iterable[int]) -> None:
        self.errors = iter(errors)
        self.bound: list[tuple[str, int]] = []

    def bind(self, address: tuple[str, int]) -> None:
        self.bound.append(address)
        number = next(self.errors)
        if number:
            raise OSError(number, os.strerror(number))


def bind_reserved(errors: Iterable[int], chosen: ResolvedIdentity | None = None, family: Family = Family.INET) -> Any:
    connection: Any = ScriptedSocket(errors)
    bind_socket(connection, chosen, family, reserved_port=True)
    return connection.bound


def test_reserved_ports_from_the_top() -> None:
    assert bind_reserved([0]) == [("0.0.0.0", 1023)]
    assert bind_reserved([0], family=Family.INET6) == [("::", 1023)]
    busy = bind_reserved([errno.EADDRINUSE, errno.EADDRINUSE, 0], one_address("127.0.0.1"))
    assert busy == [("127.0.0.1", 1023), ("127.0.0.1", 1022), ("127.0.0.1", 1021)]
    assert bind_reserved([errno.EADDRINUSE] * 511 + [0])[-1] == ("0.0.0.0", 512)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([errno.EADDRINUSE] * 512, "all source ports from 1023 down to 512"),
        ([errno.EACCES], "privilege"),
        ([errno.EPERM], "privilege"),
        ([errno.EADDRNOTAVAIL], "cannot bind to the local address"),
    ],
)
def test_reserved_ports_that_cannot_be_had(errors: list[int], words: str) -> None:
    with pytest.raises(ConnectError, match=words):
        bind_reserved(errors)


@pytest.mark.skipif(os.geteuid() != 0, reason="reserved ports need root")
def test_a_reserved_port_in_life(unbound: socket.socket) -> None:
    bind_socket(unbound, one_address("127.0.0.1"), Family.INET, reserved_port=True)
    assert 512 <= unbound.getsockname()[1] <= 1023


@given(st.binary(min_size=4, max_size=4))
def test_an_entry_of_the_kernels_list(packed: bytes) -> None:
    entry = b"eth0".ljust(16, b"\0") + b"\2\0\0\0" + packed + bytes(16)
    assert identity._parse_ifconf(entry + entry[:-1], len(entry)) == [InterfaceAddress("eth0", format_ip(packed))]
