"""The facts of a handshake as logs tell them."""

from __future__ import annotations

from tests.tls.certificates import issue

from zsmtp.tls.facts import TLSFacts, shown_time


def facts(*chain: bytes, key_exchange: str = "x25519", resumed: bool = False) -> TLSFacts:
    return TLSFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, key_exchange, chain=chain, resumed=resumed)


def test_the_session_in_one_line() -> None:
    assert facts().session == "TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits x25519"
    assert facts(key_exchange="", resumed=True).session == "TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits resumed"


def test_the_peer_in_one_line() -> None:
    certificate = issue("mx\r\n", names=["mx.example.org", "192.0.2.1"])
    assert facts(certificate.der).peer == (
        "subject CN=mx\\r\\n; names mx.example.org 192.0.2.1; issuer CN=mx\\r\\n; "
        "valid 2027-01-14T08:00Z to 2027-02-14T08:00Z"
    )


def test_names_by_the_hundred_are_cut_short() -> None:
    certificate = issue(None, names=[f"h{number}.example.org" for number in range(100)])
    assert "h5.example.org and 94 more; issuer (empty); " in facts(certificate.der).peer


def test_peers_without_a_readable_certificate() -> None:
    assert (facts().peer, facts().leaf) == ("no certificate", None)
    broken = facts(b"\x30\x00")
    assert (broken.peer, broken.leaf) == ("a certificate that cannot be read", None)


def test_times() -> None:
    assert shown_time(0) == "1970-01-01T00:00Z"
