"""Parses public keys of records, and verifies signatures with them (RFC 6376 6.1.3, RFC 8301 3.2, RFC 8463)."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from zsmtp.signing.record import KeyRecord
from zsmtp.signing.signature import Algorithm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MIN_BITS, MAX_BITS = 1024, 8192
"""Of an RSA key: signatures by shorter ones do not count (RFC 8301 3.2), longer ones take too much time."""


class PublicKey:
    """A key that verifies; ``bits`` is its size."""

    __slots__ = ("_key", "bits")

    def __init__(self, key: RSAPublicKey | Ed25519PublicKey, bits: int) -> None:
        self._key = key
        self.bits = bits

    def verifies(self, signature: bytes, octets: bytes) -> bool:
        """Whether ``signature`` over ``octets`` was made with the private key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            if isinstance(self._key, RSAPublicKey):
                self._key.verify(signature, octets, PKCS1v15(), SHA256())
            else:
                self._key.verify(signature, sha256(octets).digest())
        except InvalidSignature:
            return False
        return True


def read_public_key(record: KeyRecord) -> PublicKey:
    """The key of a record. Raises ValueError with the reason if it is invalid, too short, or too long."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    kind = record.algorithm.key_type
    try:
        if record.algorithm is Algorithm.ED25519_SHA256:
            return PublicKey(Ed25519PublicKey.from_public_bytes(record.public_key), 256)
        key = load_der_public_key(record.public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"p= is not a valid {kind} key") from None
    if not isinstance(key, RSAPublicKey):
        raise ValueError(f"p= is not a valid {kind} key")
    if not MIN_BITS <= key.key_size <= MAX_BITS:
        raise ValueError(f"an RSA key of {key.key_size} bits; {MIN_BITS} to {MAX_BITS} are accepted (RFC 8301 3.2)")
    return PublicKey(key, key.key_size)
