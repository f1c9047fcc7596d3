"""The resolver with a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsmtp.dns.answer import MX, TLSA, WKS, Answer, Query, Record, RecordType, Status
from zsmtp.dns.static import StaticResolver
from zsmtp.errors import ConfigError

ZONE = """
    ; everything the table can say
    example.com.            300 MX     10 MX.example.com.
    example.com             100 MX     20 backup.example
    mx.example.com              A      192.0.2.1   ; a comment
    mx.example.com              AAAA   2001:DB8::1
    www.example.com         60  CNAME  Example.COM
    1.2.0.192.in-addr.arpa      PTR    mx.example.com
    _25._tcp.mx.example.com     TLSA   3 1 1 AB01 02
    mx.example.com              WKS    192.0.2.1 6 25 80
    example.com                 TXT    "v=spf1;  -all" "more" ; a comment
    slow.example                FAIL   timeout
    half.example                FAIL   SERVFAIL AAAA TLSA
    half.example                A      192.0.2.2
    signed.example              SECURE
    a.signed.example            A      192.0.2.3
    to.signed.example           CNAME  mx.example.com
    null.example                MX     0 .
"""


def ask(name: str, record_type: RecordType, **options: bool) -> Answer:
    query = Query(name, record_type)
    answer = StaticResolver(ZONE, **options).lookup(query, 0.0)
    assert answer.query == query
    return answer


@pytest.mark.parametrize(
    ("name", "record_type", "records"),
    [
        ("example.com", RecordType.MX, (MX(10, "mx.example.com"), MX(20, "backup.example"))),
        ("EXAMPLE.com", RecordType.TXT, ((b"v=spf1;  -all", b"more"),)),
        ("mx.example.com", RecordType.A, ("192.0.2.1",)),
        ("mx.example.com", RecordType.AAAA, ("2001:db8::1",)),
        ("1.2.0.192.in-addr.arpa", RecordType.PTR, ("mx.example.com",)),
        ("_25._tcp.mx.example.com", RecordType.TLSA, (TLSA(3, 1, 1, b"\xab\x01\x02"),)),
        ("mx.example.com", RecordType.WKS, (WKS("192.0.2.1", 6, frozenset({25, 80})),)),
        ("null.example", RecordType.MX, (MX(0, ""),)),
    ],
)
def test_records(name: str, record_type: RecordType, records: tuple[Record, ...]) -> None:
    answer = ask(name, record_type)
    assert (answer.status, answer.records, answer.canonical) == (Status.OK, records, name.lower())


@pytest.mark.parametrize(
    ("name", "record_type", "status"),
    [
        ("nx.example", RecordType.MX, Status.NXDOMAIN),
        ("null.example", RecordType.A, Status.NODATA),
        ("_tcp.mx.example.com", RecordType.A, Status.NODATA),
        ("slow.example", RecordType.MX, Status.TIMEOUT),
        ("half.example", RecordType.AAAA, Status.SERVFAIL),
        ("half.example", RecordType.A, Status.OK),
        ("half.example", RecordType.MX, Status.NODATA),
    ],
)
def test_status(name: str, record_type: RecordType, status: Status) -> None:
    assert ask(name, record_type).status is status


def test_ttl_is_the_least() -> None:
    assert ask("example.com", RecordType.MX).ttl == 100
    assert ask("www.example.com", RecordType.MX).ttl == 60


def test_alias() -> None:
    followed = ask("www.example.com", RecordType.MX)
    assert (followed.status, followed.canonical) == (Status.OK, "example.com")
    left = ask("www.example.com", RecordType.MX, follow_aliases=False)
    assert (left.status, left.canonical, left.records) == (Status.NODATA, "example.com", ())


def test_security_holds_along_the_whole_chain() -> None:
    assert ask("a.signed.example", RecordType.A).secure
    assert ask("nx.signed.example", RecordType.A).secure
    assert not ask("mx.example.com", RecordType.A).secure
    assert not ask("to.signed.example", RecordType.A).secure


def test_questions_are_kept() -> None:
    resolver = StaticResolver(ZONE)
    asked = [Query("a.example", RecordType.A), Query("b.example", RecordType.MX)]
    for query in asked:
        resolver.lookup(query, 0.0)
    assert resolver.queries == asked


@pytest.mark.parametrize(
    "line",
    [
        "example.com",
        "example.com 300",
        "example.com NONSENSE x",
        "example.com A 2001:db8::1",
        "example.com AAAA 192.0.2.1",
        "example.com A",
        "example.com MX ten mx.example",
        "example.com MX 10",
        "example.com TLSA 3 1 1 xyz",
        "example.com FAIL MAYBE",
        "example.com FAIL SERVFAIL SPF",
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2 of the DNS table"):
        StaticResolver(f"a.example A 192.0.2.1\n{line}")


@given(st.text())
def test_any_table_is_read_or_refused(table: str) -> None:
    try:
        resolver = StaticResolver(table)
    except ConfigError:
        return
    assert resolver.lookup(Query("nx.example", RecordType.A), 0.0).status in Status
