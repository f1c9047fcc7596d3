"""SPF: what a record says of an address, and which records say nothing at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sender.zones import asked, result, zone

from zsmtp.sender.spf import RecordError, SPFResult, check_host, parse_record

NAMES = """
example.com A 192.0.2.10
example.com A 192.0.2.11
example.com MX 10 mail-a.example.com
example.com MX 20 mail-b.example.com
amy.example.com A 192.0.2.65
mail-a.example.com A 192.0.2.129
mail-b.example.com A 192.0.2.130
mail-b.example.com AAAA 2001:db8::130
www.example.com A 192.0.2.10
example.net MX 10 mail-c.example.net
mail-c.example.net A 192.0.2.140
65.2.0.192.in-addr.arpa PTR amy.example.com
10.2.0.192.in-addr.arpa PTR forged.example.com
_spf.example.com TXT v=spf1 mx:example.net -all
none.example.com A 192.0.2.200
"""


def check(record: str, ip: str, *, more: str = "", sender: bytes = b"strong-bad@email.example.com") -> SPFResult:
    work = check_host(ip, "example.com", sender, helo="mail.example.com")
    return result(work, f"{NAMES}\nexample.com TXT {record}\n{more}").result


P, F, S, N = SPFResult.PASS, SPFResult.FAIL, SPFResult.SOFTFAIL, SPFResult.NEUTRAL
E, T, O = SPFResult.PERMERROR, SPFResult.TEMPERROR, SPFResult.NONE  # noqa: E741


@pytest.mark.parametrize(
    ("record", "ip", "expected"),
    [
        # RFC 7208 appendix A
        ("v=spf1 +all", "203.0.113.1", P),
        ("v=spf1 a -all", "192.0.2.10", P),
        ("v=spf1 a -all", "192.0.2.12", F),
        ("v=spf1 a:example.org -all", "192.0.2.10", F),
        ("v=spf1 mx -all", "192.0.2.129", P),
        ("v=spf1 mx:example.net -all", "192.0.2.140", P),
        ("v=spf1 mx mx:example.net -all", "192.0.2.141", F),
        ("v=spf1 mx/30 mx:example.net/30 -all", "192.0.2.131", P),
        ("v=spf1 mx/30 mx:example.net/30 -all", "192.0.2.143", P),
        ("v=spf1 ptr -all", "192.0.2.65", P),
        ("v=spf1 ptr -all", "192.0.2.10", F),
        ("v=spf1 ip4:192.0.2.128/28 -all", "192.0.2.65", F),
        ("v=spf1 ip4:192.0.2.128/28 -all", "192.0.2.129", P),
        # the qualifiers, in the order of the record
        ("v=spf1 ~ip4:192.0.2.1 -all", "192.0.2.1", S),
        ("v=spf1 ?ip4:192.0.2.1 -all", "192.0.2.1", N),
        ("v=spf1 -ip4:192.0.2.1 +all", "192.0.2.1", F),
        ("v=spf1", "192.0.2.1", N),
        ("V=SPF1 A -ALL", "192.0.2.10", P),
        # IPv6, and IPv4 within it
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::25", P),
        ("v=spf1 ip6:2001:db8::/32 -all", "192.0.2.1", F),
        ("v=spf1 mx//64 -all", "2001:db8::1", P),
        ("v=spf1 ip4:192.0.2.0/24 -all", "::ffff:192.0.2.7", P),
        # include and redirect
        ("v=spf1 include:_spf.example.com ~all", "192.0.2.140", P),
        ("v=spf1 include:_spf.example.com ~all", "192.0.2.1", S),
        ("v=spf1 include:none.example.com ~all", "192.0.2.1", E),
        ("v=spf1 redirect=_spf.example.com", "192.0.2.140", P),
        ("v=spf1 redirect=_spf.example.com", "192.0.2.1", F),
        ("v=spf1 redirect=none.example.com", "192.0.2.1", E),
        ("v=spf1 redirect=_spf.example.com ?all", "192.0.2.1", N),
        # macros (7.4)
        ("v=spf1 exists:%{ir}.%{l1r-}._spf.%{d} -all", "192.0.2.3", P),
        ("v=spf1 exists:%{i}.%{v}.%{d2} -all", "192.0.2.3", F),
        # errors anywhere count before anything else
        ("v=spf1 +all foo", "192.0.2.1", E),
        ("v=spf1 +all ip4:192.0.2.0/33", "192.0.2.1", E),
        ("v=spf1 a:", "192.0.2.1", E),
        ("v=spf1 include", "192.0.2.1", E),
        ("v=spf1 redirect=a.example redirect=b.example", "192.0.2.1", E),
        ("v=spf1 all:example.org", "192.0.2.1", E),
        ("v=spf1 exists:%{x}.example.org", "192.0.2.1", E),
        ("v=spf10 +all", "192.0.2.1", O),
        ("v=spf1+all", "192.0.2.1", O),
        ("v=spf1 unknown=whatever +all", "192.0.2.1", P),
    ],
)
def test_what_a_record_says(record: str, ip: str, expected: SPFResult) -> None:
    assert check(record, ip, more="3.2.0.192.strong._spf.example.com A 127.0.0.2") is expected


def test_two_records_are_none() -> None:
    assert check("v=spf1 +all", "192.0.2.1", more="example.com TXT v=spf1 -all") is E


def test_other_texts_do_not_matter() -> None:
    assert check("v=spf1 |+all", "192.0.2.1", more="example.com TXT some-verification=1") is P


@pytest.mark.parametrize(("terms", "expected"), [(10, F), (11, E)])
def test_ten_terms_may_look_something_up(terms: int, expected: SPFResult) -> None:
    record = " ".join(f"a:a{number}.example.com" for number in range(terms))
    more = "\n".join(f"a{number}.example.com A 203.0.113.{number}" for number in range(terms))
    assert check(f"v=spf1 {record} -all", "192.0.2.1", more=more) is expected


def test_the_terms_of_included_records_count() -> None:
    more = "\n".join(f"s{number}.example.com TXT v=spf1 include:s{number + 1}.example.com -all" for number in range(12))
    assert check("v=spf1 include:s0.example.com -all", "192.0.2.1", more=more) is E


def test_a_record_that_includes_itself_ends() -> None:
    assert check("v=spf1 include:example.com -all", "192.0.2.1") is E


@pytest.mark.parametrize(("missing", "expected"), [(2, F), (3, E)])
def test_two_lookups_may_bring_nothing(missing: int, expected: SPFResult) -> None:
    record = " ".join(f"a:missing{number}.example.net" for number in range(missing))
    assert check(f"v=spf1 {record} -all", "192.0.2.1") is expected


def test_ten_mail_exchangers_are_enough() -> None:
    more = "\n".join(f"many.example.com MX {number} h{number}.example.com" for number in range(11))
    assert check("v=spf1 mx:many.example.com -all", "192.0.2.1", more=more) is E


@pytest.mark.parametrize("where", ["example.com TXT", "a.example.org A", "example.com MX"])
def test_a_lookup_that_fails_is_for_later(where: str) -> None:
    names = zone(f"{NAMES}\nexample.com TXT v=spf1 a:a.example.org mx -all")
    name, kind = where.split()
    names.update(zone(f"{name} {kind} !timeout"))
    found, _ = asked(check_host("203.0.113.9", "example.com", b"a@example.com", helo="x.example"), names)
    assert found.result is T


@pytest.mark.parametrize(
    ("macro", "expanded"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d4}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{h}", "mail.example.com"),
        ("%{p}", "unknown"),
        ("%{L}", "strong-bad"),
        ("a%%b%-c", "a%b%20c"),
    ],
)
def test_macros(macro: str, expanded: str) -> None:
    work = check_host("192.0.2.3", "example.com", b"strong-bad@email.example.com", helo="mail.example.com")
    _, questions = asked(work, zone(f"example.com TXT v=spf1 exists:{macro}.x.example -all"))
    assert questions[-1] == f"A {expanded}.x.example"


def test_macros_of_an_ipv6_address() -> None:
    work = check_host("2001:db8::cb01", "example.com", b"a@example.com", helo="x.example")
    _, questions = asked(work, zone("example.com TXT v=spf1 exists:%{ir}.%{v}.example -all"))
    nibbles = ".".join(reversed("20010db800000000000000000000cb01"))
    assert questions[-1] == f"A {nibbles}.ip6.example"


@given(st.text(alphabet="v=spf1 ainclude:mx%{}/.-+~?redirectexp4602", max_size=120))
def test_whatever_a_record_is_it_is_read_or_refused(text: str) -> None:
    try:
        terms = parse_record(f"v=spf1 {text}")
    except RecordError:
        assert check(f"v=spf1 {text}", "192.0.2.1") is E
    else:
        assert all(term.text in text for term in terms)
        check(f"v=spf1 {text}", "192.0.2.1")
