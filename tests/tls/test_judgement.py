"""The matrix: every kind of certificate against every kind of requirement."""

from __future__ import annotations

from hashlib import sha256, sha512

import pytest
from tests.tls.certificates import NOW, Issued, issue, weak_key

from zsmtp.dns.answer import TLSA
from zsmtp.tls.chain import TrustAnchors
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.judgement import Judgement, Verified, judge, without_tls
from zsmtp.tls.policy import Barred, Level, Requirement, RequirementSource
from zsmtp.tls.problem import TLSProblem

HOST, DOMAIN = "mx.example.org", "example.org"
ROOT = issue("root", ca=True)
INTER = issue("inter", by=ROOT, ca=True)
UNKNOWN = issue("unknown root", ca=True)
WEAK = issue("weak root", ca=True, key=weak_key())

CERTIFICATES = {
    "good": issue("x", by=INTER, names=[HOST]),
    "expired": issue("x", by=INTER, names=[HOST], valid=(-30, -1)),
    "not yet valid": issue("x", by=INTER, names=[HOST], valid=(1, 30)),
    "self-signed": issue("x", names=[HOST]),
    "wrong name": issue("x", by=INTER, names=["mx.example.net"]),
    "unknown CA": issue("x", by=UNKNOWN, names=[HOST]),
    "wildcard": issue("x", by=INTER, names=["*.example.org"]),
    "IP SAN": issue("x", by=INTER, names=["192.0.2.1"]),
    "no name": issue(None, by=INTER),
    "CN only": issue(HOST, by=INTER),
    "RSA-1024 CA": issue("x", by=WEAK, names=[HOST]),
}

NAMED = {"good", "wildcard"}
"""Certificates with a good chain and the exchanger's name."""

ANCHORS = TrustAnchors([ROOT.der, WEAK.der])


def facts(certificate: Issued, *, bits: int = 256) -> TLSFacts:
    return TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", bits, chain=certificate.chain)


def judged(requirement: Requirement, certificate: Issued) -> Judgement:
    judgement = judge(requirement, facts(certificate), now=NOW, anchors=lambda: ANCHORS)
    assert judgement.ok == (judgement.problem is None)
    assert judgement.text
    return judgement


def unneeded() -> TrustAnchors:
    raise AssertionError("nothing here needs CA certificates")


def chained(level: Level, *names: str, source: RequirementSource = RequirementSource.CONFIGURED) -> Requirement:
    return Requirement(level=level, reason="test", names=names, source=source)


def problem_of_chain(kind: str) -> TLSProblem | None:
    """What path validation and the name HOST say of each certificate."""
    return {
        "expired": TLSProblem.CERTIFICATE_EXPIRED,
        "not yet valid": TLSProblem.CERTIFICATE_EXPIRED,
        "self-signed": TLSProblem.CERTIFICATE_NOT_TRUSTED,
        "unknown CA": TLSProblem.CERTIFICATE_NOT_TRUSTED,
        "RSA-1024 CA": TLSProblem.CERTIFICATE_NOT_TRUSTED,
        "wrong name": TLSProblem.CERTIFICATE_HOST_MISMATCH,
        "IP SAN": TLSProblem.CERTIFICATE_HOST_MISMATCH,
        "no name": TLSProblem.CERTIFICATE_HOST_MISMATCH,
        "CN only": TLSProblem.CERTIFICATE_HOST_MISMATCH,
    }.get(kind)


@pytest.fixture(params=CERTIFICATES)
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.mark.parametrize("level", [Level.NONE, Level.MAY, Level.ENCRYPT])
def test_levels_that_take_anybody(level: Level, kind: str) -> None:
    requirement = Requirement(level=level, reason="test")
    judgement = judge(requirement, facts(CERTIFICATES[kind]), now=NOW, anchors=unneeded)
    assert (judgement.ok, judgement.verified) == (True, Verified.NOT)


@pytest.mark.parametrize(
    "requirement",
    [
        chained(Level.VERIFY, HOST),
        chained(Level.SECURE, HOST, source=RequirementSource.MTA_STS),
        chained(Level.SECURE, f".{DOMAIN}", DOMAIN),
        chained(Level.VERIFY, HOST, source=RequirementSource.REQUIRETLS),
    ],
    ids=["verify", "mta-sts enforce", "secure", "requiretls"],
)
def test_chain_and_name(requirement: Requirement, kind: str) -> None:
    judgement = judged(requirement, CERTIFICATES[kind])
    assert judgement.problem is problem_of_chain(kind)
    assert judgement.ok == (kind in NAMED)
    assert judgement.verified is (Verified.CHAIN if judgement.ok else Verified.NOT)


def test_the_destinations_name_is_another_than_the_exchangers(kind: str) -> None:
    assert not judged(chained(Level.SECURE, DOMAIN), CERTIFICATES[kind]).ok


def test_an_address_is_matched_with_addresses(kind: str) -> None:
    assert judged(chained(Level.VERIFY, "192.0.2.1"), CERTIFICATES[kind]).ok == (kind == "IP SAN")


@pytest.mark.parametrize("what", ["certificate sha256", "certificate sha512", "key sha256", "key sha512"])
def test_fingerprints_need_nothing_else(what: str, kind: str) -> None:
    certificate = CERTIFICATES[kind]
    octets = certificate.der if what.startswith("certificate") else certificate.public_key
    digest = (sha256 if what.endswith("sha256") else sha512)(octets).digest()
    requirement = Requirement(level=Level.FINGERPRINT, reason="test", fingerprints=(bytes(32), digest))
    judgement = judge(requirement, facts(certificate), now=NOW, anchors=unneeded)
    assert (judgement.ok, judgement.verified) == (True, Verified.FINGERPRINT)


def test_another_fingerprint(kind: str) -> None:
    requirement = Requirement(level=Level.FINGERPRINT, reason="test", fingerprints=(bytes(32), bytes(64)))
    judgement = judged(requirement, CERTIFICATES[kind])
    assert (judgement.ok, judgement.problem) == (False, TLSProblem.CERTIFICATE_NOT_TRUSTED)
    assert sha256(CERTIFICATES[kind].der).hexdigest() in judgement.text


def test_no_fingerprint_configured_matches_nothing(kind: str) -> None:
    assert not judged(Requirement(level=Level.FINGERPRINT, reason="test"), CERTIFICATES[kind]).ok


def dane(*records: TLSA, names: tuple[str, ...] = (HOST, DOMAIN)) -> Requirement:
    return Requirement(level=Level.DANE, reason="test", source=RequirementSource.DANE, names=names, tlsa=records)


def test_dane_ee_ignores_names_dates_and_authorities(kind: str) -> None:
    certificate = CERTIFICATES[kind]
    record = TLSA(3, 1, 1, sha256(certificate.public_key).digest())
    judgement = judge(dane(record), facts(certificate), now=NOW, anchors=unneeded)
    assert (judgement.ok, judgement.verified) == (True, Verified.DANE_EE)


def test_dane_ee_with_another_key(kind: str) -> None:
    judgement = judge(dane(TLSA(3, 1, 1, bytes(32))), facts(CERTIFICATES[kind]), now=NOW, anchors=unneeded)
    assert (judgement.ok, judgement.problem) == (False, TLSProblem.TLSA_INVALID)


def test_dane_ta_wants_chain_and_name(kind: str) -> None:
    """The authority is the intermediate; what is not issued by it has no match at all."""
    record = TLSA(2, 0, 1, sha256(INTER.der).digest())
    judgement = judge(dane(record), facts(CERTIFICATES[kind]), now=NOW, anchors=unneeded)
    if kind in ("self-signed", "unknown CA", "RSA-1024 CA"):
        assert judgement.problem is TLSProblem.TLSA_INVALID
    elif kind == "CN only":  # RFC 7672 3.2.3: no subjectAltName, the common name counts
        assert (judgement.ok, judgement.verified) == (True, Verified.DANE_TA)
    else:
        assert judgement.problem is problem_of_chain(kind)
    assert judgement.ok == (kind in NAMED | {"CN only"})


def test_dane_ta_needs_no_public_authority() -> None:
    record = TLSA(2, 0, 1, sha256(UNKNOWN.der).digest())
    sent = (*CERTIFICATES["unknown CA"].chain, UNKNOWN.der)
    requirement = dane(record)
    judgement = judge(requirement, TLSFacts("TLSv1.3", "x", 256, chain=sent), now=NOW, anchors=unneeded)
    assert (judgement.ok, judgement.verified) == (True, Verified.DANE_TA)
    unsent = TLSFacts("TLSv1.3", "x", 256, chain=sent[:1])
    assert judge(requirement, unsent, now=NOW, anchors=unneeded).problem is TLSProblem.TLSA_INVALID
    full = dane(TLSA(2, 0, 0, UNKNOWN.der))
    assert judge(full, unsent, now=NOW, anchors=unneeded).ok


def test_dane_ta_with_a_certificate_that_is_not_on_the_way() -> None:
    """A certificate that merely lies in the chain is an anchor, but the leaf must go back to it."""
    sent = (*CERTIFICATES["unknown CA"].chain, ROOT.der)
    requirement = dane(TLSA(2, 0, 1, sha256(ROOT.der).digest()))
    judgement = judge(requirement, TLSFacts("TLSv1.3", "x", 256, chain=sent), now=NOW, anchors=unneeded)
    assert judgement.problem is TLSProblem.CERTIFICATE_NOT_TRUSTED


def test_one_record_that_matches_is_enough() -> None:
    certificate = CERTIFICATES["self-signed"]
    records = (TLSA(3, 1, 1, bytes(32)), TLSA(2, 1, 1, bytes(32)), TLSA(3, 0, 2, sha512(certificate.der).digest()))
    assert judge(dane(*records), facts(certificate), now=NOW, anchors=unneeded).verified is Verified.DANE_EE


def test_a_weak_authority_is_refused_under_dane_too() -> None:
    sent = (*CERTIFICATES["RSA-1024 CA"].chain, WEAK.der)
    requirement = dane(TLSA(2, 0, 1, sha256(WEAK.der).digest()))
    judgement = judge(requirement, TLSFacts("TLSv1.3", "x", 256, chain=sent), now=NOW, anchors=unneeded)
    assert judgement.problem is TLSProblem.CERTIFICATE_NOT_TRUSTED


@pytest.mark.parametrize("level", [Level.MAY, Level.ENCRYPT])
def test_testing_lets_mail_through_and_tells_what_was_wrong(level: Level, kind: str) -> None:
    trial = chained(Level.SECURE, HOST, source=RequirementSource.MTA_STS)
    requirement = Requirement(level=level, reason="test", trial=trial)
    judgement = judged(requirement, CERTIFICATES[kind])
    assert judgement.ok
    assert judgement.trial is not None
    assert judgement.trial.problem is problem_of_chain(kind)


def test_a_barred_trial_is_told_too() -> None:
    trial = Barred("not listed", RequirementSource.MTA_STS, TLSProblem.VALIDATION_FAILURE)
    requirement = Requirement(level=Level.MAY, reason="test", trial=trial)
    expected = Judgement(False, "not listed", problem=TLSProblem.VALIDATION_FAILURE)
    assert judged(requirement, CERTIFICATES["good"]).trial == expected
    assert without_tls(requirement, TLSProblem.STARTTLS_NOT_SUPPORTED, "not offered").trial == expected


REQUIREMENTS = [
    chained(Level.VERIFY, HOST),
    chained(Level.SECURE, HOST),
    Requirement(level=Level.FINGERPRINT, reason="test", fingerprints=(bytes(32),)),
    dane(TLSA(3, 1, 1, bytes(32)), TLSA(2, 1, 1, bytes(32))),
]


@pytest.mark.parametrize("chain", [(), (b"",), (b"\x30\x00",), (b"x" * 5000,)])
@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_peers_without_a_certificate_are_nobody(requirement: Requirement, chain: tuple[bytes, ...]) -> None:
    judgement = judge(requirement, TLSFacts("TLSv1.2", "x", 256, chain=chain), now=NOW, anchors=lambda: ANCHORS)
    assert (judgement.ok, judgement.problem) == (False, TLSProblem.CERTIFICATE_NOT_TRUSTED)


@pytest.mark.parametrize("requirement", [*REQUIREMENTS, Requirement(level=Level.ENCRYPT, reason="test")])
def test_a_cipher_that_does_not_encrypt_is_no_protection(requirement: Requirement) -> None:
    judgement = judge(requirement, facts(CERTIFICATES["good"], bits=0), now=NOW, anchors=lambda: ANCHORS)
    assert (judgement.ok, judgement.problem) == (False, TLSProblem.VALIDATION_FAILURE)


@pytest.mark.parametrize(
    ("level", "ok"), [(Level.NONE, True), (Level.MAY, True), (Level.ENCRYPT, False), (Level.DANE, False)]
)
def test_sessions_in_clear(level: Level, ok: bool) -> None:
    requirement = Requirement(level=level, reason="why", trial=chained(Level.SECURE, HOST))
    judgement = without_tls(requirement, TLSProblem.STARTTLS_NOT_SUPPORTED, "STARTTLS is not offered")
    assert judgement.ok == ok
    assert judgement.problem is (None if ok else TLSProblem.STARTTLS_NOT_SUPPORTED)
    assert judgement.trial is not None
    assert judgement.trial.problem is TLSProblem.STARTTLS_NOT_SUPPORTED
    assert "STARTTLS is not offered" in judgement.text


def test_the_words_tell_names_and_stay_harmless() -> None:
    evil = issue("x", by=INTER, names=["evil\r\n.example.net"])
    text = judged(chained(Level.VERIFY, HOST), evil).text
    assert text == "the certificate is for evil\\r\\n.example.net, not for mx.example.org (test)"
    assert judged(chained(Level.VERIFY, HOST), CERTIFICATES["good"]).text == "mx.example.org, issued by CN=root (test)"
