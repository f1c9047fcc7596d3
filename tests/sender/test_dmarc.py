"""DMARC: which record applies to a domain, which domains belong together."""

from __future__ import annotations

import pytest
from tests.sender.zones import asked, result, zone

from zsmtp.sender.dmarc import Action, find_policy, is_aligned, organisational_domain, parse_record

ZONE = """
_dmarc.example.com TXT v=DMARC1; p=reject; sp=quarantine; np=reject; rua=mailto:d@example.com
_dmarc.giant.bank.example TXT v=DMARC1; p=none
_dmarc.bank.example TXT v=DMARC1; p=reject; psd=y
_dmarc.own.example.com TXT v=DMARC1; p=none; psd=n
_dmarc.com TXT v=DMARC1; p=none; psd=y
"""


@pytest.mark.parametrize(
    ("domain", "found_at", "action"),
    [
        ("example.com", "example.com", Action.REJECT),
        ("news.example.com", "example.com", Action.QUARANTINE),
        ("a.b.c.d.e.f.g.h.i.j.example.com", "example.com", Action.QUARANTINE),
        ("x.own.example.com", "own.example.com", Action.NONE),
        ("mega.bank.example", "bank.example", Action.REJECT),
        ("other.test", "", Action.NONE),
    ],
)
def test_the_policy_of_a_domain(domain: str, found_at: str, action: Action) -> None:
    found = result(find_policy(domain), ZONE)
    assert (found.found_at, found.action) == (found_at, action)


def test_a_name_that_does_not_exist_has_another_policy() -> None:
    assert result(find_policy("nobody.example.com", exists=False), ZONE).action is Action.REJECT


def test_a_walk_asks_eight_names_at_most() -> None:
    _, questions = asked(find_policy(".".join("abcdefghijkl") + ".example.net"), zone("x.example TXT x"))
    assert len(questions) == 8
    assert questions[-1] == "TXT _dmarc.net"


@pytest.mark.parametrize(
    ("domain", "organisation"),
    [
        ("a.mail.example.com", "example.com"),
        ("example.com", "example.com"),
        ("x.own.example.com", "own.example.com"),
        ("a.giant.bank.example", "giant.bank.example"),
        ("a.mega.bank.example", "mega.bank.example"),
        ("alone.test", "alone.test"),
    ],
)
def test_the_organisation_of_a_domain(domain: str, organisation: str) -> None:
    assert result(organisational_domain(domain), ZONE) == organisation


@pytest.mark.parametrize(
    ("identifier", "author", "strict", "aligned"),
    [
        ("example.com", "EXAMPLE.com", True, True),
        ("mail.example.com", "example.com", False, True),
        ("mail.example.com", "example.com", True, False),
        ("example.net", "example.com", False, False),
        ("giant.bank.example", "mega.bank.example", False, False),
    ],
)
def test_alignment(identifier: str, author: str, strict: bool, aligned: bool) -> None:
    assert result(is_aligned(identifier, author, strict=strict), ZONE) is aligned


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"p=none; v=DMARC1", "v=DMARC1 is not the first tag"),
        (b"v=DMARC1", "p= is missing"),
        (b"v=DMARC1; p=block", "p= is missing, or is not none"),
        (b"v=DMARC1; p=none; p=reject", "p= occurs twice"),
        (b"v=DMARC1; p=none; adkim=x", "adkim= is neither r nor s"),
    ],
)
def test_what_is_no_record(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_record(text)


def test_with_an_address_for_reports_a_bad_policy_is_none() -> None:
    assert parse_record(b"v=DMARC1; p=block; rua=mailto:d@example.com").action is Action.NONE


def test_two_records_are_none() -> None:
    found = result(
        find_policy("example.org"), "_dmarc.example.org TXT v=DMARC1; p=none\n_dmarc.example.org TXT v=DMARC1; p=reject"
    )
    assert found.record is None
    assert "2 records" in found.problem


def test_a_lookup_that_fails_leaves_it_open() -> None:
    found = result(find_policy("example.org"), "_dmarc.example.org TXT !timeout")
    assert found.temporary
