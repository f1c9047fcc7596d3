"""The name in EHLO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.heloname import HeloCheck, address_literal, check_helo, helo_name
from zsmtp.dns.resolver import carry_out
from zsmtp.dns.static import StaticResolver

ZONE = """
    1.2.0.192.in-addr.arpa PTR out.example.org
    out.example.org A 192.0.2.1
    2.2.0.192.in-addr.arpa PTR liar.example
    2.2.0.192.in-addr.arpa PTR short
    2.2.0.192.in-addr.arpa PTR second.example
    short A 192.0.2.2
    liar.example A 203.0.113.1
    second.example A 203.0.113.2
    second.example A 192.0.2.2
    3.2.0.192.in-addr.arpa PTR liar.example
    4.2.0.192.in-addr.arpa FAIL TIMEOUT
    5.2.0.192.in-addr.arpa PTR a..b
    5.2.0.192.in-addr.arpa PTR x\x1b[2J.example
    1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR six.example.org
    six.example.org AAAA 2001:db8::1
"""


def name(address: str | None, host_name: str = "host.example.net", configured: str | None = None) -> tuple[str, int]:
    """The name chosen, and how many lookups it took."""
    resolver = StaticResolver(ZONE)
    decision = helo_name(address, configured=configured, host_name=host_name)
    chosen = carry_out(decision, resolver, deadline=0.0, own_addresses=frozenset)
    return chosen, len(resolver.queries)


def test_the_configured_name_is_taken_as_it_is() -> None:
    assert name("192.0.2.1", configured="Mail.Example") == ("Mail.Example", 0)
    assert name(None, configured="Mail.Example") == ("Mail.Example", 0)


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:DB8::1"])
def test_the_confirmed_name_of_the_address(address: str) -> None:
    expected = "six.example.org" if address.startswith("2001") else "out.example.org"
    assert name(address, configured="") == (expected, 2)


def test_the_first_name_that_is_confirmed() -> None:
    assert name("192.0.2.2")[0] == "second.example"


@pytest.mark.parametrize("address", ["192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "2001:db8::2"])
def test_without_confirmation_the_host_name(address: str) -> None:
    assert name(address)[0] == "host.example.net"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0", "169.254.1.1", "0.0.0.0"])
def test_addresses_nobody_else_knows_are_not_looked_up(address: str) -> None:
    assert name(address) == ("host.example.net", 0)


@pytest.mark.parametrize(
    "host_name",
    ["", "host", "localhost", "localhost.localdomain", "-host.example", "ho st.example", "host.example\r\nRSET"],
)
def test_rather_a_literal_than_a_poor_name(host_name: str) -> None:
    assert name("192.0.2.6", host_name)[0] == "[192.0.2.6]"
    assert name("127.0.0.1", host_name)[0] == "[127.0.0.1]"
    assert name("2001:db8::2", host_name)[0] == "[IPv6:2001:db8::2]"
    assert name("::", host_name)[0] == "localhost"


def test_a_host_name_beyond_ascii() -> None:
    assert name("127.0.0.1", "Bücher.example")[0] == "xn--bcher-kva.example"


@pytest.mark.parametrize(("host_name", "expected"), [("host", "host"), ("", "localhost"), ("a..b", "localhost")])
def test_unix_socket(host_name: str, expected: str) -> None:
    assert name(None, host_name) == (expected, 0)


def test_an_address_that_is_none() -> None:
    assert name("nonsense", "host") == ("host", 0)


def test_literal() -> None:
    assert address_literal("192.0.2.1") == "[192.0.2.1]"
    assert address_literal("2001:db8::1") == "[IPv6:2001:db8::1]"


@given(st.none() | st.ip_addresses().map(str) | st.text(), st.text())
def test_never_empty_never_more_than_one_word(address: str | None, host_name: str) -> None:
    chosen, _ = name(address, host_name)
    assert chosen
    assert chosen.isascii()
    assert len(chosen.split()) == 1


def check(name: str, address: str) -> HeloCheck:
    resolver = StaticResolver(ZONE)
    return carry_out(check_helo(name, address), resolver, deadline=0.0, own_addresses=frozenset)


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_a_greeting_that_holds_both_ways(address: str) -> None:
    found = check("Out.Example.org", address)
    assert (found.named, found.confirmed, found.reverse) == (True, True, ("out.example.org",))
    assert found.address == "192.0.2.1"


def test_a_greeting_that_the_reverse_lookup_does_not_bear_out() -> None:
    found = check("out.example.org", "192.0.2.2")
    assert (found.named, found.confirmed) == (False, False)
    assert found.reverse == ("liar.example", "short", "second.example")
    assert not check("liar.example", "192.0.2.3").confirmed
    assert check("liar.example", "192.0.2.3").named


def test_a_reverse_lookup_that_fails_is_told() -> None:
    assert check("host.example.net", "192.0.2.4").problem == "reverse lookup: no answer in time"


def test_a_literal_is_its_own_proof() -> None:
    assert check("[192.0.2.6]", "192.0.2.6").confirmed
    assert not check("[192.0.2.7]", "192.0.2.6").confirmed
    assert check("[IPv6:2001:db8::2]", "2001:db8::2").confirmed


def test_nobody_can_check_an_address_of_this_machine_only() -> None:
    found = check("out.example.org", "127.0.0.1")
    assert (found.named, found.confirmed, found.reverse) == (False, False, ())
    assert "only this machine" in found.problem
