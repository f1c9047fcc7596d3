"""One's own mail exchangers: TLSA records held against certificates, before and after a rollover."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from tests.sender.zones import result
from tests.tls.certificates import NOW, Issued, issue

from zsmtp.sender.exchangers import ROLLOVER, TriedExchanger, check_exchanger
from zsmtp.sender.findings import Grade, SenderFinding
from zsmtp.tls.certificate import read_certificate

NAME = "_25._tcp.mx.example.org"
DAY = 86400.0


@pytest.fixture(scope="module")
def root() -> Issued:
    return issue("Root", ca=True)


def shows(one: Issued, *above: Issued) -> TriedExchanger:
    chain = (one.der, *(issuer.der for issuer in above))
    return TriedExchanger(
        "mx.example.org", "192.0.2.25", 25, session="encrypted", leaf=read_certificate(one.der), chain=chain
    )


def of(one: Issued, usage: int = 3) -> str:
    return f"{NAME} TLSA {usage} 1 1 {sha256(one.public_key).hexdigest()}\n"


def tlsa(tried: TriedExchanger, names: str, now: float = NOW) -> list[SenderFinding]:
    return [one for one in result(check_exchanger(tried, now), names) if one.topic == "TLSA"]


def test_the_record_of_the_old_certificate(root: Issued) -> None:
    """The fault of a renewal: the record was not replaced, or only after the certificate."""
    old, new = issue("mx", by=root), issue("mx", by=root)
    (finding,) = tlsa(shows(new), of(old))
    assert finding.grade is Grade.WEAK
    assert "senders with DANE send no mail there" in finding.text
    assert finding.publish == f"{NAME}. IN TLSA 3 1 1 {sha256(new.public_key).hexdigest()}\n"
    assert finding.looked_up == (f"TLSA {NAME}: 3 1 1 {sha256(old.public_key).hexdigest()[:16]}...",)


def test_a_rollover_as_it_should_be(root: Issued) -> None:
    """Old, old and new, new: at no time is anything wrong (RFC 7671 8.1)."""
    old, new = issue("mx", by=root), issue("mx", by=root)
    for shown, records in ((old, of(old)), (old, of(old) + of(new)), (new, of(old) + of(new)), (new, of(new))):
        assert [one.grade for one in tlsa(shows(shown), records)] == [Grade.GOOD]


def test_before_the_certificate_ends_the_next_record_is_spoken_of(root: Issued) -> None:
    old, new = issue("mx", by=root, valid=(-60.0, 30.0)), issue("mx", by=root)
    soon = NOW + 30 * DAY - ROLLOVER
    assert [one.grade for one in tlsa(shows(old), of(old), soon)] == [Grade.GOOD]
    (finding,) = tlsa(shows(old), of(old), soon + 1)
    assert finding.grade is Grade.NOTE
    assert "expires on 2027-02-14" in finding.text
    assert [one.grade for one in tlsa(shows(old), of(old) + of(new), soon + 1)] == [Grade.GOOD]


def test_a_record_of_the_authority(root: Issued) -> None:
    other = issue("Other", ca=True)
    one = issue("mx", by=root, valid=(-60.0, 1.0))
    assert [found.grade for found in tlsa(shows(one, root), of(root, usage=2))] == [Grade.GOOD], "it outlives the leaf"
    assert [found.grade for found in tlsa(shows(one, root), of(other, usage=2))] == [Grade.WEAK]


def test_without_records_nothing_is_said_of_them(root: Issued) -> None:
    tried = shows(issue("mx", by=root))
    assert tlsa(tried, f"{NAME} TLSA 1 1 1 {'00' * 32}") == [], "which no sender of mail uses (RFC 7672 3.1.3)"
    assert [one.topic for one in result(check_exchanger(tried, NOW), f"{NAME} TLSA !timeout")] == ["exchanger"]
    bare = replace(tried, leaf=None, chain=())
    assert [one.topic for one in result(check_exchanger(bare, NOW), of(issue("mx")))] == ["exchanger"]


def test_hostile_words_are_made_fit_for_people() -> None:
    tried = TriedExchanger("mx.example.org", "192.0.2.25", 25, problem="\x1b[2J" * 1000, bounce="\x1b]0;x\x07" * 1000)
    found = result(check_exchanger(tried, NOW), "")
    assert [(one.topic, one.grade) for one in found] == [("exchanger", Grade.WEAK), ("bounce", Grade.WEAK)]
    assert all("\x1b" not in one.text and len(one.text) < 1200 for one in found)
