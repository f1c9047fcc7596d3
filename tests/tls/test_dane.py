"""TLSA records: which can be used, and what they match."""

from __future__ import annotations

from hashlib import sha256, sha512

import pytest
from tests.tls.certificates import issue

from zsmtp.dns.answer import TLSA, Answer, Query, RecordType, Status
from zsmtp.tls.certificate import read_certificate
from zsmtp.tls.dane import (
    MAX_RECORDS,
    anchors,
    described,
    end_entity_match,
    matches,
    resolver_validates,
    unusable_because,
    usable,
)

ROOT = issue("root", ca=True)
INTER = issue("inter", by=ROOT, ca=True)
LEAF = issue("mx", by=INTER, names=["mx.example.org"])
OTHER = issue("other")

FULL = {0: LEAF.der, 1: LEAF.public_key}
DIGESTS = {0: lambda data: data, 1: lambda data: sha256(data).digest(), 2: lambda data: sha512(data).digest()}


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_every_selector_and_matching_type(selector: int, matching: int) -> None:
    record = TLSA(3, selector, matching, DIGESTS[matching](FULL[selector]))
    assert usable([record]) == (record,)
    assert matches(record, read_certificate(LEAF.der))
    assert not matches(record, read_certificate(OTHER.der))
    assert end_entity_match([record], read_certificate(LEAF.der)) is record


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (TLSA(0, 1, 1, bytes(32)), "usage 0 is not for SMTP"),  # PKIX-TA
        (TLSA(1, 1, 1, bytes(32)), "usage 1 is not for SMTP"),  # PKIX-EE
        (TLSA(4, 1, 1, bytes(32)), "unknown usage 4"),
        (TLSA(255, 1, 1, bytes(32)), "unknown usage 255"),  # private use
        (TLSA(3, 2, 1, bytes(32)), "unknown selector 2"),
        (TLSA(3, 1, 3, bytes(32)), "unknown matching type 3"),
        (TLSA(3, 1, 1, bytes(31)), "a digest of 31 octets instead of 32"),
        (TLSA(3, 1, 1, b""), "a digest of 0 octets instead of 32"),
        (TLSA(3, 1, 2, bytes(32)), "a digest of 32 octets instead of 64"),
        (TLSA(3, 0, 0, b"no certificate"), "its data is no certificate"),
        (TLSA(3, 1, 0, b"no key"), "its data is no public key"),
    ],
)
def test_unusable_records(record: TLSA, reason: str) -> None:
    good = TLSA(3, 1, 1, bytes(32))
    assert usable([record]) == ()
    assert usable([record, good]) == (good,)
    assert unusable_because(record) == reason
    assert unusable_because(good) == ""


def test_other_records_and_too_many_are_passed_over() -> None:
    good = TLSA(3, 1, 1, bytes(32))
    assert usable(["192.0.2.1", good, good]) == (good,)
    many = [TLSA(3, 1, 1, number.to_bytes(32, "big")) for number in range(MAX_RECORDS + 50)]
    assert usable(many) == tuple(many[:MAX_RECORDS])


def test_digest_agility_keeps_the_strongest_of_each_usage_and_selector() -> None:
    weak, strong = TLSA(3, 1, 1, bytes(32)), TLSA(3, 1, 2, bytes(64))
    elsewhere = TLSA(2, 1, 1, bytes(32))
    other_selector = TLSA(3, 0, 1, bytes(32))
    full = TLSA(3, 1, 0, LEAF.public_key)
    assert usable([weak, strong, elsewhere, other_selector, full]) == (strong, elsewhere, other_selector, full)


def test_a_strong_digest_that_cannot_be_used_does_not_drop_the_weaker_one() -> None:
    weak = TLSA(3, 1, 1, bytes(32))
    assert usable([weak, TLSA(3, 1, 2, bytes(10))]) == (weak,)


def test_end_entity_records_do_not_match_other_usages() -> None:
    record = TLSA(2, 1, 1, sha256(LEAF.public_key).digest())
    assert end_entity_match([record], read_certificate(LEAF.der)) is None


def test_anchors_are_certificates_of_the_chain_that_match() -> None:
    chain = (*LEAF.chain, ROOT.der)
    assert anchors([TLSA(2, 0, 1, sha256(ROOT.der).digest())], chain) == (ROOT.der,)
    assert anchors([TLSA(2, 1, 2, sha512(INTER.public_key).digest())], chain) == (INTER.der,)
    assert anchors([TLSA(2, 1, 0, INTER.public_key)], chain) == (INTER.der,)
    assert anchors([TLSA(2, 1, 0, ROOT.public_key)], LEAF.chain) == ()
    assert anchors([TLSA(3, 0, 1, sha256(ROOT.der).digest())], chain) == ()


def test_a_certificate_in_full_is_an_anchor_without_being_sent() -> None:
    assert anchors([TLSA(2, 0, 0, ROOT.der)], LEAF.chain) == (ROOT.der,)


def test_a_broken_certificate_in_the_chain_is_passed_over() -> None:
    record = TLSA(2, 0, 1, sha256(INTER.der).digest())
    assert anchors([record], (LEAF.der, b"broken", INTER.der)) == (INTER.der,)


def test_records_are_shown_shortened() -> None:
    assert described(TLSA(3, 1, 1, bytes(range(32)))) == "3 1 1 0001020304050607..."
    assert described(TLSA(3, 1, 0, b"\x30\x00")) == "3 1 0 3000"


@pytest.mark.parametrize(
    ("status", "secure", "expected"),
    [
        (Status.NODATA, True, True),
        (Status.NODATA, False, False),
        (Status.OK, False, False),
        (Status.TIMEOUT, False, None),
        (Status.SERVFAIL, False, None),
    ],
)
def test_whether_the_resolver_validates(status: Status, secure: bool, expected: bool | None) -> None:
    work = resolver_validates()
    query = work.send(None)
    assert query == Query("", RecordType.TXT)
    with pytest.raises(StopIteration) as end:
        work.send(Answer(query, status, secure=secure))
    assert end.value.value is expected
