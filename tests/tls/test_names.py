"""Which certificate speaks for which name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tls.certificates import issue

from zsmtp.tls.certificate import read_certificate
from zsmtp.tls.names import matching_name, name_matches


@pytest.mark.parametrize(
    ("reference", "presented"),
    [
        ("mx.example.org", "mx.example.org"),
        ("MX.example.org", "mx.EXAMPLE.org"),
        ("mx.example.org", "*.example.org"),
        ("xn--bcher-kva.example.org", "*.example.org"),
        (".example.org", "mx.example.org"),
        (".example.org", "a.b.example.org"),
        (".example.org", "*.example.org"),
        (".example.org", "*.b.example.org"),
        ("_25.example.org", "_25.example.org"),
    ],
)
def test_matches(reference: str, presented: str) -> None:
    assert name_matches(reference, presented)


@pytest.mark.parametrize(
    ("reference", "presented"),
    [
        ("mx.example.org", "example.org"),
        ("mx.example.org", "mx.example.org."),
        ("a.b.example.org", "*.example.org"),
        ("example.org", "*.example.org"),
        ("example.org", "*.org"),
        ("mx.example.org", "*.*.org"),
        ("mx.example.org", "m*.example.org"),
        ("mx.example.org", "mx.*.org"),
        ("mx.example.org", "*"),
        ("mx.example.org", "*.mx.example.org"),
        (".example.org", "example.org"),
        (".example.org", "badexample.org"),
        (".example.org", "*.org"),
        (".example.org", "example.org.evil.net"),
        ("mx.example.org", "mx.example.org\0.evil.net"),
        ("mx.example.org", "mx.example.org "),
        ("mx..org", "mx..org"),
        ("-mx.example.org", "-mx.example.org"),
        ("b\u00fccher.example.org", "b\u00fccher.example.org"),
        ("k.example.org", "\u212a.example.org"),  # KELVIN SIGN becomes k in lower case
        ("", ""),
        (".", "."),
        ("a" * 64 + ".example.org", "a" * 64 + ".example.org"),
    ],
)
def test_does_not_match(reference: str, presented: str) -> None:
    assert not name_matches(reference, presented)


LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=3, max_size=6).map(".".join)


@given(HOST, LABEL)
def test_a_wildcard_stands_for_exactly_one_label(host: str, label: str) -> None:
    assert name_matches(f"{label}.{host}", f"*.{host}")
    assert not name_matches(f"{label}.{label}.{host}", f"*.{host}")
    assert not name_matches(host, f"*.{host}")


@given(HOST, st.text(max_size=80))
def test_only_the_name_itself_matches_without_a_wildcard(host: str, presented: str) -> None:
    assert name_matches(host, presented) == (presented.isascii() and presented.lower() == host)


def found(*references: str, names: tuple[str, ...] = (), subject: str | None = None, cn: bool = False) -> str | None:
    certificate = read_certificate(issue(subject, names=names).der)
    return matching_name(references, certificate, common_name=cn)


def test_the_first_reference_that_matches_wins() -> None:
    names = ("b.example.org", "a.example.org")
    assert found("x.example.org", "a.example.org", "b.example.org", names=names) == "a.example.org"


def test_addresses_match_address_entries_only() -> None:
    assert found("192.0.2.1", names=("192.0.2.1",)) == "192.0.2.1"
    assert found("2001:DB8:0::1", names=("2001:db8::1",)) == "2001:db8::1"
    assert found("::ffff:192.0.2.1", names=("192.0.2.1",)) == "192.0.2.1"
    assert found("192.0.2.2", names=("192.0.2.1",)) is None
    assert found("192.0.2.1", subject="192.0.2.1", cn=True) is None
    assert found("mx.example.org", names=("192.0.2.1",)) is None


def test_the_common_name_counts_only_by_exception() -> None:
    assert found("mx.example.org", subject="mx.example.org") is None
    assert found("mx.example.org", subject="mx.example.org", cn=True) == "mx.example.org"
    assert found("mx.example.org", subject="mx.example.org", names=("other.example.org",), cn=True) is None
    assert found("mx.example.org", subject="mx.example.org", names=("192.0.2.1",), cn=True) is None


def test_nothing_matches_a_certificate_without_names() -> None:
    assert found("mx.example.org", subject=None, cn=True) is None
    assert found(names=("mx.example.org",)) is None


def test_the_zone_of_an_address_is_not_asked_of_a_certificate() -> None:
    certificate = read_certificate(issue(names=["fe80::1"]).der)
    assert matching_name(["fe80::1%eth0"], certificate) == "fe80::1"
    assert matching_name(["fe80::2%eth0"], certificate) is None
