"""The hosts file before the DNS."""

from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.hosts import HostsResolver, parse_hosts
from zsmtp.dns.static import StaticResolver

FILE = """\
# static names
127.0.0.1   localhost
192.0.2.1\tMailhub.example. mailhub   # the hub
2001:DB8::1 mailhub
192.0.2.2   mailhub
192.0.2.2   mailhub
fe80::1%eth0 linklocal
300.1.1.1   wrong
192.0.2.3
"""


def test_parse() -> None:
    assert parse_hosts(FILE) == {
        "localhost": ("127.0.0.1",),
        "mailhub.example": ("192.0.2.1",),
        "mailhub": ("192.0.2.1", "2001:db8::1", "192.0.2.2"),
    }


def ask(name: str, record_type: RecordType) -> Answer:
    zone = StaticResolver(
        "mailhub.example AAAA 2001:db8::9\nmailhub.example MX 5 mx.example\nother.example A 192.0.2.9"
    )
    return HostsResolver(parse_hosts(FILE), zone).lookup(Query(name, record_type), 0.0)


def test_the_file_answers_first() -> None:
    answer = ask("MAILHUB", RecordType.A)
    assert (answer.status, answer.records) == (Status.OK, ("192.0.2.1", "192.0.2.2"))
    assert (answer.canonical, answer.ttl, answer.secure) == ("mailhub", 0, False)
    assert ask("mailhub", RecordType.AAAA).records == ("2001:db8::1",)


def test_a_name_in_the_file_has_no_other_addresses() -> None:
    assert ask("mailhub.example", RecordType.AAAA).status is Status.NODATA


def test_everything_else_is_the_dns() -> None:
    assert ask("mailhub.example", RecordType.MX).status is Status.OK
    assert ask("other.example", RecordType.A).records == ("192.0.2.9",)
    assert ask("nx.example", RecordType.A).status is Status.NXDOMAIN


@given(st.text())
def test_any_text_is_a_hosts_file(text: str) -> None:
    for addresses in parse_hosts(text).values():
        assert addresses
