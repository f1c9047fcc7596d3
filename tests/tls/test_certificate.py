"""Certificates as read: compared with an independent reader, and held against damage of every kind."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.tls.certificates import NOW, SHA384, Issued, issue

from zsmtp.tls.certificate import MAX_CERTIFICATE, read_certificate, server_end_point

LEAF = issue("mx.example.org", names=["mx.example.org", "*.example.net", "192.0.2.1", "2001:db8::25"])


def pss_signed() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pss")])
    moment = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, moment, moment)
    certificate = builder.sign(key, hashes.SHA384(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA384()), 32))
    return Issued(certificate, key).der


def test_all_fields_are_read() -> None:
    read = read_certificate(LEAF.der)
    assert (read.subject, read.issuer, read.self_issued) == ("CN=mx.example.org", "CN=mx.example.org", True)
    assert read.dns_names == ("mx.example.org", "*.example.net")
    assert read.ip_addresses == ("192.0.2.1", "2001:db8::25")
    assert read.common_names == ("mx.example.org",)
    assert (read.not_before, read.not_after) == (int(NOW) - 86400, int(NOW) + 30 * 86400)
    assert read.public_key == LEAF.public_key
    assert read.names == ("mx.example.org", "*.example.net", "192.0.2.1", "2001:db8::25")


def test_a_certificate_without_subject_and_extensions() -> None:
    read = read_certificate(issue(None, ca=None).der)
    assert (read.subject, read.common_names, read.dns_names, read.names) == ("", (), (), ())


def test_a_distinguished_name_is_shown_most_specific_first_and_harmless() -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ex\x1b[2Jample\r\nGmbH"),
            x509.NameAttribute(NameOID.TITLE, "Post"),
            x509.NameAttribute(NameOID.COMMON_NAME, "mx"),
        ]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    moment = datetime(1999, 12, 31, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, moment, datetime(9999, 12, 31, tzinfo=UTC))
    read = read_certificate(Issued(builder.sign(key, hashes.SHA256()), key).der)
    assert read.subject == "CN=mx, OID.2.5.4.12=Post, O=Ex\\x1b[2Jample\\r\\nGmbH, C=DE"
    assert read.not_before == 946598400  # UTCTime of the last century
    assert read.not_after == 253402214400  # GeneralizedTime


@pytest.mark.parametrize(
    ("issued", "algorithm"),
    [
        (issue("a"), "sha256"),
        (issue("a", hash_algorithm=SHA384()), "sha384"),
        (issue("a", key=rsa.generate_private_key(65537, 2048)), "sha256"),
        (issue("a", key=rsa.generate_private_key(65537, 2048), hash_algorithm=hashes.SHA512()), "sha512"),
    ],
)
def test_the_channel_binding_uses_the_hash_of_the_signature(issued: Issued, algorithm: str) -> None:
    read = read_certificate(issued.der)
    assert read.signature_hash == algorithm
    assert server_end_point(read) == hashlib.new(algorithm, issued.der).digest()


def test_the_channel_binding_of_rsa_pss() -> None:
    der = pss_signed()
    assert server_end_point(read_certificate(der)) == hashlib.sha384(der).digest()


def test_without_a_hash_there_is_no_channel_binding() -> None:
    assert server_end_point(read_certificate(issue("a", key=ed25519.Ed25519PrivateKey.generate()).der)) is None


def test_a_weak_hash_is_replaced_in_the_channel_binding() -> None:
    issued = issue("a", key=rsa.generate_private_key(65537, 2048))
    oid = bytes.fromhex("2a864886f70d01010b")
    der = issued.der.replace(oid, oid[:-1] + b"\x05")  # sha256WithRSAEncryption to sha1WithRSAEncryption, twice
    read = read_certificate(der)
    assert read.signature_hash == "sha1"
    assert server_end_point(read) == hashlib.sha256(der).digest()


@given(st.data())
def test_damage_is_a_value_error_and_nothing_else(data: st.DataObject) -> None:
    der = bytearray(LEAF.der)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(der)), st.integers(0, len(der))))
    try:
        read = read_certificate(bytes(der[:cut]))
    except ValueError:
        return
    assert read.subject.isprintable()
    assert read.issuer.isprintable()
    assert all(name.isprintable() for name in read.names)


@given(st.binary(max_size=300))
def test_noise_is_a_value_error(noise: bytes) -> None:
    with pytest.raises(ValueError):
        read_certificate(noise)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",  # indefinite length is BER
        b"\x30\x85\x00\x00\x00\x00\x00",
        b"\x30\x03\x1f\x81\x01",  # a tag of several octets
        b"\x30\x0c" + b"\x30\x02\x05\x00" * 3,
        b"\x30\x84\x00\x20\x00\x00" + bytes(2 << 20),
    ],
)
def test_what_is_no_certificate(der: bytes) -> None:
    with pytest.raises(ValueError):
        read_certificate(der)


def test_size_is_capped() -> None:
    with pytest.raises(ValueError, match="too large"):
        read_certificate(bytes(MAX_CERTIFICATE + 1))
