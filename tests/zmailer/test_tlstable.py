"""The table of destinations: which line is found for whom, and what wrong lines do."""

from __future__ import annotations

import pytest

from zsmtp.tls.policy import Level, TLSPolicy
from zsmtp.zmailer.tlstable import PolicyTable, parse_table

DIGEST = "ab" * 64


def table(text: str) -> PolicyTable:
    found, remarks = parse_table(text.encode(), "table")
    assert remarks == []
    return found


def level(found: PolicyTable, destination: str) -> Level | None:
    entry = found.find(destination)
    return entry.policy.level if entry is not None and entry.policy is not None else None


def test_the_nearest_line_is_found() -> None:
    found = table(
        """
        # destination level
        example.org       secure
        .example.org      encrypt
        .deep.example.org verify
        [192.0.2.1]       encrypt
        [IPv6:2001:db8::1] verify
        unix:/run/lmtp    none
        *                 may     ; everybody else
        """
    )
    assert level(found, "example.org") is Level.SECURE
    assert level(found, "Example.ORG.") is Level.SECURE
    assert level(found, '"example.org"') is Level.SECURE
    assert level(found, "a.example.org") is Level.ENCRYPT
    assert level(found, "a.b.example.org") is Level.ENCRYPT
    assert level(found, "deep.example.org") is Level.ENCRYPT
    assert level(found, "a.deep.example.org") is Level.VERIFY
    assert level(found, "notexample.org") is Level.MAY
    assert level(found, "[192.0.2.1]") is Level.ENCRYPT
    assert level(found, "[192.0.2.1]:2525") is Level.ENCRYPT
    assert level(found, "[2001:DB8:0::1]") is Level.VERIFY
    assert level(found, "UNIX:/run/lmtp") is Level.NONE
    assert level(found, "no such name") is Level.MAY


def test_without_a_line_for_others() -> None:
    found = table("example.org secure")
    assert found.find("example.com") is None
    assert found.find("") is None
    assert not PolicyTable("").entries


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ("none", TLSPolicy(level=Level.NONE)),
        ("Dane-Only", TLSPolicy(level=Level.DANE_ONLY)),
        ("verify match=mx.example.net,nexthop", TLSPolicy(level=Level.VERIFY, match=("mx.example.net", "nexthop"))),
        ("secure MATCH=.example.net", TLSPolicy(level=Level.SECURE, match=(".example.net",))),
        (f"fingerprint fingerprint={DIGEST}", TLSPolicy(level=Level.FINGERPRINT, fingerprints=(b"\xab" * 64,))),
        ("encrypt sni=other.example", TLSPolicy(level=Level.ENCRYPT, server_name="other.example")),
        ("secure match=b\u00fccher.example", TLSPolicy(level=Level.SECURE, match=("xn--bcher-kva.example",))),
    ],
)
def test_attributes(words: str, policy: TLSPolicy) -> None:
    entry = table(f"example.org {words}").find("example.org")
    assert entry is not None
    assert entry.policy == policy


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "no level"),
        ("encrypted", "not a level"),
        ("encrypt protocols=x", "unknown attribute"),
        ("encrypt match", "unknown attribute"),
        ("verify match=", "no name"),
        ("verify match=a/b", "not a host name"),
        ("fingerprint", "without a fingerprint"),
        ("fingerprint fingerprint=abcd", "not a SHA-256"),
        ("encrypt match=a.example", "no place"),
        (f"verify fingerprint={DIGEST}", "no place"),
        ("encrypt sni=", "not a host name"),
    ],
)
def test_a_wrong_line_is_a_problem_of_its_destination(words: str, problem: str) -> None:
    found, remarks = parse_table(f"ok.example may\nexample.org {words}\n".encode(), "table")
    entry = found.find("example.org")
    assert entry is not None
    assert entry.policy is None
    assert problem in entry.problem
    assert remarks[0].startswith("table:2: ")
    assert remarks[0].endswith("mail to example.org waits")
    assert found.demanding
    assert level(found, "ok.example") is Level.MAY


@pytest.mark.parametrize("line", ["exa..mple may", "[mail.example.org] may", ". may", "unix:relative may"])
def test_what_is_no_destination_is_remarked(line: str) -> None:
    found, remarks = parse_table(line.encode(), "table")
    assert found.entries == {}
    assert "not a destination" in remarks[0]


def test_the_first_line_of_a_destination_counts() -> None:
    found, remarks = parse_table(b"example.org secure\nEXAMPLE.org. none\n", "table")
    assert level(found, "example.org") is Level.SECURE
    assert remarks == ["table:2: EXAMPLE.org. stands in line 1 already"]


@pytest.mark.parametrize(("name", "demanding"), [("none", False), ("may", False), ("encrypt", True), ("dane", True)])
def test_what_demands(name: str, *, demanding: bool) -> None:
    assert table(f"example.org {name}").demanding is demanding
