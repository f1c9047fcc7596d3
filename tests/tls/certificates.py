"""Certificates made on the spot: authorities, and what they issue, good and bad in all the ways tests need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_800_000_000.0
"""The time of all tests that do not talk to a real peer, in seconds since 1970."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Issued:
    """A certificate with its key and the certificates between it and a root (which is not among them)."""

    certificate: x509.Certificate
    key: PrivateKey
    above: tuple[bytes, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        return (self.der, *self.above)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def pem(self) -> bytes:
        """Certificate, chain and key, as a server or a client loads them."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        above = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.above]
        return b"".join([self.certificate.public_bytes(Encoding.PEM), *above, private])


def issue(
    subject: str | None = None,
    *,
    by: Issued | None = None,
    ca: bool | None = False,
    names: Sequence[str] = (),
    key: PrivateKey | None = None,
    valid: tuple[float, float] = (-1.0, 30.0),
    now: float = NOW,
    path_length: int | None = None,
    purposes: Sequence[x509.ObjectIdentifier] = (),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    hash_algorithm: HashAlgorithm | None = None,
) -> Issued:
    """A certificate, self-signed without ``by``. ``names`` go into subjectAltName, addresses as such.

    ``valid`` are days from ``now``; ``ca`` None leaves basicConstraints out.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([] if subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    start = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by.certificate.subject if by else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start + timedelta(days=valid[0]))
        .not_valid_after(start + timedelta(days=valid[1]))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = by.key if by else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hash_algorithm or SHA256()
    above = (by.der, *by.above) if by and by.certificate.issuer != by.certificate.subject else ()
    return Issued(builder.sign(signer, algorithm), key, above)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def weak_key() -> rsa.RSAPrivateKey:
    """An RSA key of 1024 bits: long enough to sign, too short to be believed."""
    return rsa.generate_private_key(65537, 1024)


__all__ = ["CLIENT", "NOW", "SERVER", "SHA384", "Issued", "issue", "weak_key"]
