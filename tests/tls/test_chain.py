"""Path validation: what leads to an anchor, what does not, and which words tell why."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import examples
from tests.tls.certificates import CLIENT, NOW, SERVER, Issued, issue, weak_key

from zsmtp.tls.chain import MAX_CHAIN, ChainVerdict, TrustAnchors, verify_chain
from zsmtp.tls.problem import TLSProblem

DAY = 86400.0
ROOT = issue("root", ca=True)
INTER = issue("inter", by=ROOT, ca=True)
LEAF = issue("mx", by=INTER, names=["mx.example.org"])
KEY_USAGE = {
    "digital_signature": True,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def verify(chain: Sequence[bytes], *anchors: Issued, now: float = NOW) -> ChainVerdict:
    return verify_chain(chain, TrustAnchors(anchor.der for anchor in anchors), now)


def refused(chain: Sequence[bytes], *anchors: Issued, now: float = NOW) -> str:
    verdict = verify(chain, *anchors, now=now)
    assert verdict.problem is TLSProblem.CERTIFICATE_NOT_TRUSTED
    return verdict.text


def test_a_chain_to_the_root() -> None:
    assert verify(LEAF.chain, ROOT) == ChainVerdict(None, "issued by CN=root")
    assert verify((*LEAF.chain, ROOT.der), ROOT).problem is None


def test_any_certificate_can_be_an_anchor() -> None:
    assert verify(LEAF.chain, INTER) == ChainVerdict(None, "issued by CN=inter")
    assert verify((LEAF.der,), INTER).problem is None
    assert verify((LEAF.der,), LEAF) == ChainVerdict(None, "trusted itself")


@given(st.data())
@settings(max_examples=examples(25))
def test_order_and_strangers_in_the_chain_do_not_matter(data: st.DataObject) -> None:
    stranger = issue("stranger", ca=True)
    others = data.draw(st.permutations([INTER.der, ROOT.der, stranger.der, b"no certificate", INTER.der]))
    assert verify((LEAF.der, *others), ROOT).problem is None


def test_a_hole_in_the_chain() -> None:
    assert refused((LEAF.der,), ROOT) == "issued by an unknown CA: CN=inter"
    other = issue("other root", ca=True)
    assert refused(LEAF.chain, other) == "issued by an unknown CA: CN=root"
    assert refused((*LEAF.chain, ROOT.der), other) == "issued by an unknown CA: CN=root", "sending it does not help"


def test_a_root_of_the_same_name_with_another_key() -> None:
    assert "not trusted" in refused(LEAF.chain, issue("root", ca=True))


def test_self_signed() -> None:
    own = issue("mx", names=["mx.example.org"])
    assert refused(own.chain, ROOT) == "the certificate is self-signed"
    assert verify(own.chain, own).problem is None


def test_dates() -> None:
    expired = issue("mx", by=INTER, valid=(-30, -1))
    future = issue("mx", by=INTER, valid=(1, 30))
    for leaf, words in ((expired, "the certificate expired 2027-01-14T08:00Z"), (future, "valid from 2027-01-16")):
        verdict = verify(leaf.chain, ROOT)
        assert verdict.problem is TLSProblem.CERTIFICATE_EXPIRED
        assert words in verdict.text
    assert (
        verify(expired.chain, ROOT, now=NOW - 1.5 * DAY).problem is TLSProblem.CERTIFICATE_EXPIRED
    )  # the CA is younger


@pytest.mark.parametrize("anchored", [True, False])
def test_an_expired_authority(anchored: bool) -> None:
    old = issue("old", ca=True, valid=(-60, -1)) if anchored else issue("old", by=ROOT, ca=True, valid=(-60, -1))
    verdict = verify(issue("mx", by=old).chain, old if anchored else ROOT)
    assert verdict == ChainVerdict(TLSProblem.CERTIFICATE_EXPIRED, "a CA certificate is expired or not valid yet")


def test_issuers_that_are_no_authority() -> None:
    for ca in (False, None):
        issuer = issue("nobody", by=ROOT, ca=ca)
        assert "basicConstraints" in refused(issue("mx", by=issuer).chain, ROOT)


def test_path_length() -> None:
    first = issue("first", by=ROOT, ca=True, path_length=0)
    second = issue("second", by=first, ca=True)
    assert verify(issue("mx", by=first).chain, ROOT).problem is None
    assert "path length" in refused(issue("mx", by=second).chain, ROOT)


def test_key_usage_of_authorities() -> None:
    for allowed in (True, False):
        usage = x509.KeyUsage(**KEY_USAGE, key_cert_sign=allowed)
        authority = issue("inter", by=ROOT, ca=True, extensions=[(usage, True)])
        verdict = verify(issue("mx", by=authority).chain, ROOT)
        assert (verdict.problem is None) == allowed, verdict
        assert allowed or "sign" in verdict.text


@pytest.mark.parametrize("of_leaf", [True, False])
def test_extended_key_usage(of_leaf: bool) -> None:
    def chain_with(purposes: list[x509.ObjectIdentifier]) -> tuple[bytes, ...]:
        authority = issue("inter", by=ROOT, ca=True, purposes=[] if of_leaf else purposes)
        return issue("mx", by=authority, purposes=purposes if of_leaf else []).chain

    assert verify(chain_with([CLIENT, SERVER]), ROOT).problem is None
    assert verify(chain_with([x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), ROOT).problem is None
    assert "not for servers" in refused(chain_with([CLIENT]), ROOT)


def test_short_rsa_keys() -> None:
    root = issue("weak", ca=True, key=weak_key())
    assert "too weak" in refused(issue("mx", by=root).chain, root)
    inter = issue("weak", by=ROOT, ca=True, key=weak_key())
    assert "too weak" in refused(issue("mx", by=inter).chain, ROOT)
    assert "too weak" in refused(issue("mx", by=ROOT, key=weak_key()).chain, ROOT)


def test_sha1_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = issue("root", ca=True, key=key)
    leaf = issue("mx", by=root).certificate
    sha256, sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    to_sign = leaf.tbs_certificate_bytes.replace(sha256, sha1)
    pkcs1 = padding.PKCS1v15()
    signature = key.sign(to_sign, pkcs1, hashes.SHA1())
    forged = leaf.public_bytes(Encoding.DER).replace(sha256, sha1)[: -len(signature)] + signature
    key.public_key().verify(
        signature, x509.load_der_x509_certificate(forged).tbs_certificate_bytes, pkcs1, hashes.SHA1()
    )
    assert "orbidden signature algorithm" in refused((forged,), root)


def test_name_constraints() -> None:
    limits = x509.NameConstraints([x509.DNSName("example.org")], None)
    authority = issue("inter", by=ROOT, ca=True, extensions=[(limits, True)])
    assert verify(issue("mx", by=authority, names=["mx.example.org"]).chain, ROOT).problem is None
    assert "name constraints" in refused(issue("mx", by=authority, names=["mx.example.net"]).chain, ROOT)


def test_unknown_critical_extensions() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    assert verify(issue("mx", by=ROOT, extensions=[(unknown, False)]).chain, ROOT).problem is None
    assert "critical" in refused(issue("mx", by=ROOT, extensions=[(unknown, True)]).chain, ROOT)


def test_nothing_to_verify_and_nothing_to_trust() -> None:
    assert refused((), ROOT) == "the peer has no certificate"
    assert refused(LEAF.chain) == "there are no trusted CA certificates"
    assert refused((b"no certificate",), ROOT) == "the certificate cannot be read"


def test_anchors_that_cannot_be_read_are_left_out_in_silence() -> None:
    serial = ROOT.der.index(b"\xa0\x03\x02\x01\x02\x02") + 7  # first octet, behind version, tag and length
    oddity = ROOT.der[:serial] + bytes([ROOT.der[serial] | 0x80]) + ROOT.der[serial + 1 :]  # a negative number
    with pytest.warns(CryptographyDeprecationWarning):
        x509.load_der_x509_certificate(oddity)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anchors = TrustAnchors([b"", b"no certificate", oddity, LEAF.der[:-1]])
    assert anchors.size == 1


def test_a_maze_of_authorities_ends() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    base = issue("maze", ca=True, key=key)
    maze = [issue("maze", by=base, ca=True, key=key).der for _ in range(3 * MAX_CHAIN)]
    leaf = issue("mx", by=base)
    assert refused((leaf.der, *maze), ROOT)


def test_words_from_certificates_are_harmless() -> None:
    text = refused(issue("mx", by=issue("evil\r\n250 ok\x1b[2J", ca=True)).chain, ROOT)
    assert text == "issued by an unknown CA: CN=evil\\r\\n250 ok\\x1b[2J"


@given(st.data())
@settings(max_examples=examples(60))
def test_damaged_certificates_are_not_trusted_and_raise_nothing(data: st.DataObject) -> None:
    der = bytearray(LEAF.der)
    unused_bits = len(der) - len(LEAF.certificate.signature) - 1  # of the signature's BIT STRING: nobody minds them
    position = data.draw(st.integers(0, len(der) - 1).filter(lambda position: position != unused_bits))
    der[position] ^= data.draw(st.integers(1, 255))
    verdict = verify((bytes(der), INTER.der), ROOT)
    assert verdict.problem in (TLSProblem.CERTIFICATE_NOT_TRUSTED, TLSProblem.CERTIFICATE_EXPIRED)
    assert verdict.text.isprintable()


def test_other_hashes_of_the_second_generation() -> None:
    assert verify(issue("mx", by=INTER, hash_algorithm=hashes.SHA512()).chain, ROOT).problem is None


def test_a_version_that_there_is_not() -> None:
    """The library has an exception of its own for it; as an anchor it is none."""
    strange = LEAF.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
    assert strange != LEAF.der
    assert verify((strange, INTER.der), ROOT).problem is TLSProblem.CERTIFICATE_NOT_TRUSTED
    assert verify((LEAF.der, strange, INTER.der), ROOT).problem is None
    assert verify_chain(LEAF.chain, TrustAnchors([strange, ROOT.der]), NOW).problem is None
