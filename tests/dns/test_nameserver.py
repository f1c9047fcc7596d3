"""Name servers: their addresses as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.nameserver import NameServer, parse_nameserver, parse_resolv_conf
from zsmtp.errors import ConfigError


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
