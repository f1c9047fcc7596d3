"""IP addresses as text, held against the standard library's own reading of them."""

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zsmtp.dns.candidates import Family
from zsmtp.dns.ip import (
    canonical_ip,
    canonical_scoped_ip,
    format_ip,
    ip_family,
    is_link_local,
    is_loopback,
    is_unspecified,
    parse_ip,
    reverse_name,
    unmapped,
)

addresses = st.ip_addresses()
near_addresses = st.text("0123456789abcdefABCDEFg:.% ", max_size=46) | addresses.map(str)


def read_by_library(text: str) -> bytes | None:
    try:
        return None if "%" in text else ipaddress.ip_address(text).packed
    except ValueError:
        return None


@given(near_addresses)
@example("::1.2.3.4")
@example("1::2:1.2.3.4")
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4:5:6:7:8::")
@example("1:2:3:4:5:6:1.2.3.4")
@example(":1.2.3.4")
@example(":::1.2.3.4")
@example("1.2.3.4::")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("::")
@example("0000:0000:0000:0000:0000:0000:255.255.255.255")
@example("0000:0000:0000:0000:0000:0000:0000:255.255.255.255")
@example(":")
@example("")
@example("1.2.3.04")
@example("1.2.3.256")
@example("1.2.3.4.5")
def test_reads_what_the_library_reads(text: str) -> None:
    assert parse_ip(text) == read_by_library(text)


def test_other_digits_than_ascii_ones_are_no_address() -> None:
    assert parse_ip("١.2.3.4") is None
    assert parse_ip("::١") is None


@given(addresses)
def test_text_is_that_of_the_system(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    if packed[:12] != bytes(12):  # the C library writes the long obsolete IPv4-compatible addresses with dots
        assert format_ip(packed) == socket.inet_ntop(family, packed)
    assert parse_ip(format_ip(packed)) == packed


def test_zeros_of_rfc_5952() -> None:
    assert canonical_ip("2001:DB8:0:0:1:0:0:1") == "2001:db8::1:0:0:1"
    assert canonical_ip("2001:db8:0:1:1:1:1:1") == "2001:db8:0:1:1:1:1:1"
    assert canonical_ip("0:0:0:0:0:0:0:0") == "::"
    assert canonical_ip("::ffff:c000:201") == "::ffff:192.0.2.1"


def test_an_address_has_4_or_16_octets() -> None:
    with pytest.raises(ValueError, match="not 5"):
        format_ip(bytes(5))


@given(addresses)
def test_reverse_name_is_that_of_the_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert reverse_name(str(address)) == address.reverse_pointer


def test_reverse_name_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mail\.example"):
        reverse_name("mail.example")


@pytest.mark.parametrize(
    ("address", "loopback", "unspecified", "link_local"),
    [
        ("127.0.0.1", True, False, False),
        ("127.255.0.9", True, False, False),
        ("::1", True, False, False),
        ("::ffff:127.0.0.1", True, False, False),
        ("0.0.0.0", False, True, False),
        ("::", False, True, False),
        ("::ffff:0.0.0.0", False, True, False),
        ("169.254.1.1", False, False, True),
        ("fe80::1", False, False, True),
        ("febf::1", False, False, True),
        ("fec0::1", False, False, False),
        ("192.0.2.1", False, False, False),
        ("2001:db8::127", False, False, False),
    ],
)
def test_kinds(address: str, loopback: bool, unspecified: bool, link_local: bool) -> None:
    assert (is_loopback(address), is_unspecified(address), is_link_local(address)) == (
        loopback,
        unspecified,
        link_local,
    )


def test_a_name_is_no_link_local_address() -> None:
    assert not is_link_local("mail.example")


def test_mapped_addresses_lose_their_wrapping() -> None:
    assert unmapped("::ffff:192.0.2.1") == "192.0.2.1"
    assert unmapped("2001:db8::1") == "2001:db8::1"
    assert unmapped("::ffff:1:2") == "::ffff:1:2"


def test_family() -> None:
    assert ip_family("192.0.2.1") is Family.INET
    assert ip_family("::ffff:192.0.2.1") is Family.INET6


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("FE80:0::1%eth0", "fe80::1%eth0"),
        ("fe80::1%2", "fe80::1%2"),
        ("febf::1%br-lan", "febf::1%br-lan"),
        ("fe80::1%Eth0.100", "fe80::1%Eth0.100"),
        ("fe80::1", "fe80::1"),
        ("192.0.2.1", "192.0.2.1"),
        ("fec0::1%eth0", None),
        ("2001:db8::1%eth0", None),
        ("169.254.1.1%eth0", None),
        ("fe80::1%", None),
        ("fe80::1%eth0%eth1", None),
        ("fe80::1% eth0", None),
        ("fe80::1%" + "x" * 16, None),
        ("%eth0", None),
    ],
)
def test_a_zone_goes_with_a_link_local_address_only(text: str, address: str | None) -> None:
    assert canonical_scoped_ip(text) == address
