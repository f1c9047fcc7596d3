"""Reads, generates and writes private keys in PEM files; the only part of signing that accesses files.

RSA of 2048 to 4096 bits (RFC 8301 3.2) and Ed25519 (RFC 8463) are taken. :func:`load_keyring` reads the files of a
configuration before anything is sent: a key that cannot be read, is encrypted, too short, or of another kind is a
:class:`~zsmtp.errors.ConfigError` that names the file. A process reads a file once, and again when it has changed. It
warns of a file that all users of the machine can read::

    keyring = load_keyring(config.dkim, warn)
    private = generate_key(Algorithm.ED25519_SHA256)
    write_key("/etc/zsmtp/2026a.pem", private)

The octets of a key are in no text: ``repr`` shows kind and size, and a key cannot be pickled.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

from zsmtp.errors import ConfigError
from zsmtp.escape import escape
from zsmtp.signing.dkimkey import DKIMKey
from zsmtp.signing.keyring import Keyring, SigningKey
from zsmtp.signing.signature import Algorithm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

MIN_BITS, MAX_BITS = 2048, 4096
"""Of an RSA key: shorter ones are weak, and verifiers need not accept longer ones (RFC 8301 3.2)."""
MAX_FILE = 65_536  # octets of a key file

_OTHERS = stat.S_IROTH | stat.S_IWOTH
_read: dict[str, tuple[tuple[int, ...], PrivateKey]] = {}


class PrivateKey:
    """A private key that signs. ``public_key`` is the value for ``p=`` of its record; ``bits`` is its size."""

    __slots__ = ("_sign", "_source", "algorithm", "bits", "public_key")

    def __init__(self, key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._source = key
        if isinstance(key, RSAPrivateKey):
            padding, digest, sign = PKCS1v15(), SHA256(), key.sign
            self.algorithm = Algorithm.RSA_SHA256
            self.bits = key.key_size
            self.public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self._sign: Callable[[bytes], bytes] = lambda octets: sign(octets, padding, digest)
        else:
            sign_hash = key.sign
            self.algorithm = Algorithm.ED25519_SHA256
            self.bits = 256
            self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)  # RFC 8463 4.2
            self._sign = lambda octets: sign_hash(sha256(octets).digest())

    def sign(self, octets: bytes) -> bytes:
        """The signature over ``octets``, which the algorithm hashes."""
        return self._sign(octets)

    def pem(self) -> bytes:
        """The key in PEM (PKCS #8, RFC 5958), not encrypted."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._source.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.algorithm.value}, {self.bits} bits>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")


def load_keyring(keys: Iterable[DKIMKey], warn: Callable[[str], None]) -> Keyring:
    """Read the files of all keys. Raises ConfigError; ``warn`` gets a sentence about a file that all users can read."""
    found = []
    for number, key in enumerate(keys):
        try:
            private = read_key(key.key_file, warn)
        except ConfigError as error:
            raise ConfigError(f"dkim[{number}].key_file: {error}") from None
        found.append(SigningKey(key, private.algorithm, private.sign))
    return Keyring(found)


def read_key(path: str, warn: Callable[[str], None]) -> PrivateKey:
    """The key in a PEM file. Raises ConfigError with the file and the error."""
    shown = escape(path)
    try:
        # Opening a FIFO would block; for a regular file the flag has no effect.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{shown} cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL, or not encodable
        raise ConfigError(f"{shown} is not the name of a file") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{shown} is not a regular file")
        if found.st_mode & _OTHERS:
            warn(f"{shown} holds a private key and can be read or changed by every user (chmod 600 it)")
        stamp = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        known = _read.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        with open(descriptor, "rb", closefd=False) as file:
            octets = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{shown} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(octets) > MAX_FILE:
        raise ConfigError(f"{shown} has more than {MAX_FILE} octets")
    problem, private = _parse_key(octets)
    if private is None:
        raise ConfigError(f"{shown}: {problem}")
    _read[path] = stamp, private
    return private


def _parse_key(octets: bytes) -> tuple[str, PrivateKey | None]:
    """The key in the octets of a PEM file, or the error, in words that quote none of them."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(octets, None)
    except TypeError:
        return "the key is encrypted; an unencrypted PEM file is expected", None
    except (ValueError, UnsupportedAlgorithm):
        return "no private key in PEM form", None
    if isinstance(key, Ed25519PrivateKey):
        return "", PrivateKey(key)
    if not isinstance(key, RSAPrivateKey):
        return "the key is neither RSA nor Ed25519", None
    if not MIN_BITS <= key.key_size <= MAX_BITS:
        return f"an RSA key of {key.key_size} bits; {MIN_BITS} to {MAX_BITS} are expected (RFC 8301 3.2)", None
    return "", PrivateKey(key)


def generate_key(algorithm: Algorithm, bits: int = MIN_BITS) -> PrivateKey:
    """A new key; ``bits`` is the size of an RSA key, from ``MIN_BITS`` to ``MAX_BITS``. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    if algorithm is Algorithm.ED25519_SHA256:
        return PrivateKey(ed25519.Ed25519PrivateKey.generate())
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"an RSA key of {bits} bits; {MIN_BITS} to {MAX_BITS} are expected (RFC 8301 3.2)")
    return PrivateKey(rsa.generate_private_key(65537, bits))


def write_key(path: str, private: PrivateKey) -> None:
    """Write a key to a new file that only its owner can read. Raises OSError; an existing file is not changed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # independent of the umask
            file.write(private.pem())
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
