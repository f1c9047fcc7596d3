"""Builds OpenSSL contexts for handshakes and loads the CA certificates, once per process.

A context depends only on :class:`ContextOptions`, a value; the same options give the same object. It verifies nothing
(``zsmtp.tls.judgement`` gives the verdict after the handshake), so it loads no CA certificates: those are read for the
first chain to verify, and kept. HTTPS has no judgement afterwards: a context of :class:`WebContextOptions` verifies in
the handshake::

    context = client_context(ContextOptions(certificates=(ClientCertificate("cert.pem", "key.pem"),)))
    anchors = trust_anchors("", "")        # the system's CA certificates

The minimum protocol is TLS 1.2 unless configured otherwise (RFC 8996, RFC 9325 3.1.1). Opportunistic TLS accepts any
key exchange, since the alternative is clear text (RFC 7435); where TLS is required, keys and ciphers must reach 112
bits of strength (OpenSSL's security level 2).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from zsmtp.errors import ConfigError
from zsmtp.patterns import pattern
from zsmtp.records import dataclass
from zsmtp.tls.policy import Level

if TYPE_CHECKING:
    import ssl

    from zsmtp.tls.chain import TrustAnchors

MIN_PROTOCOLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
"""The words for a minimum protocol, lowest first."""

SYSTEM_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Files with all CA certificates of common systems; tried if OpenSSL's own default does not exist."""

MAX_CA_FILE = 16 << 20  # octets
MAX_CA_FILES = 4096  # files of one directory
_HASHED_NAME = pattern(r"[0-9a-f]{8}\.[0-9]{1,3}")  # c_rehash(1)
_PEM = pattern(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)


class Strength(Enum):
    """The minimum strength of algorithms in a handshake; the value is OpenSSL's security level."""

    OPPORTUNISTIC = 0  # any algorithm is better than clear text
    MANDATORY = 2

    @classmethod
    def of(cls, level: Level) -> Strength:
        """The strength that a requirement's level needs."""
        return cls.OPPORTUNISTIC if level in (Level.NONE, Level.MAY) else cls.MANDATORY


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The names of two PEM files; ``key_file`` may be the same file, or "" for that."""

    certificate_file: str
    key_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextOptions:
    """The options of a context.

    ``min_protocol`` is one of ``MIN_PROTOCOLS``. ``ciphers`` is an OpenSSL cipher list (for TLS 1.2 and below); "" is
    its default, without anonymous suites. ``certificates`` are offered to servers that request one: one for each type
    of key.
    """

    min_protocol: str = "TLSv1.2"
    ciphers: str = ""
    certificates: tuple[ClientCertificate, ...] = ()
    strength: Strength = Strength.OPPORTUNISTIC


@dataclass(frozen=True, slots=True)
class WebContextOptions:
    """A context for HTTPS: the handshake itself verifies the peer, and fails unless its certificate is good.

    It must be true for the name asked for, by the rules of the web (PKIX, RFC 6125), and the protocol TLS 1.2 or later.
    """

    ca_file: str = ""
    ca_path: str = ""
    """File and folder of the trust anchors; the system's if both are ""."""


@lru_cache(maxsize=16)
def client_context(options: ContextOptions | WebContextOptions) -> ssl.SSLContext:
    """The context for these options. Raises ConfigError if a file, the cipher list or the protocol cannot be used."""
    return _web_context(options) if isinstance(options, WebContextOptions) else _judged_context(options)


def _web_context(options: WebContextOptions) -> ssl.SSLContext:
    """From 3.13 on Python also refuses what RFC 5280 wants of certificates and clients do not need, such as key
    identifiers; which hosts can be reached is not to depend on that.
    """
    import ssl

    try:
        context = ssl.create_default_context(
            ssl.Purpose.SERVER_AUTH, cafile=options.ca_file or None, capath=options.ca_path or None
        )
    except OSError as error:  # ssl.SSLError is one
        places = " ".join(filter(None, (options.ca_file, options.ca_path))) or "the system's"
        raise ConfigError(f"no CA certificates to verify with ({places}): {error.strerror or error}") from error
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # set by some builds: an answer cut short would look whole
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _judged_context(options: ContextOptions) -> ssl.SSLContext:
    import ssl
    import warnings

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # set by some builds of Python: truncation must be detected
    if options.min_protocol not in MIN_PROTOCOLS:
        raise ConfigError(f"not a protocol: {options.min_protocol!r}; known: {' '.join(MIN_PROTOCOLS)}")
    level = options.strength.value
    if MIN_PROTOCOLS.index(options.min_protocol) < MIN_PROTOCOLS.index("TLSv1.2"):
        level = 0  # OpenSSL 3 supports TLS 1.0 and 1.1 at this level only
    ciphers = options.ciphers or "DEFAULT:!aNULL:!eNULL"
    if "@SECLEVEL" not in ciphers.upper():
        ciphers = f"{ciphers}:@SECLEVEL={level}"
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as error:
        raise ConfigError(f"the cipher list {options.ciphers!r} selects no cipher") from error
    with warnings.catch_warnings():  # the administrator has chosen the old protocol
        warnings.simplefilter("ignore", DeprecationWarning)
        name = options.min_protocol.replace(".", "_")
        context.minimum_version = ssl.TLSVersion[name]
    for certificate in options.certificates:
        _load_certificate(context, certificate)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: ClientCertificate) -> None:
    def no_password() -> bytes:  # without it OpenSSL would prompt on the terminal, and wait
        raise ConfigError(f"the key in {certificate.key_file or certificate.certificate_file} is encrypted")

    key_file = certificate.key_file or certificate.certificate_file
    for path in (certificate.certificate_file, key_file):
        try:  # OpenSSL's error does not name the file that it could not open
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate.certificate_file, key_file, no_password)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "not PEM"
        raise ConfigError(f"certificate {certificate.certificate_file}, key {key_file}: {reason}") from error


@lru_cache(maxsize=16)
def trust_anchors(ca_file: str, ca_path: str) -> TrustAnchors:
    """The CA certificates of a PEM file and of a directory with hashed names; both "": the system's.

    Raises ConfigError if a named file or directory cannot be read, or holds no certificate.
    """
    from zsmtp.tls.chain import TrustAnchors  # most sessions verify no chain

    if not ca_file and not ca_path:
        return TrustAnchors(_system_certificates())
    certificates: list[bytes] = []
    try:
        if ca_file:
            certificates += _read_pem(ca_file)
        if ca_path:
            certificates += _read_directory(ca_path)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    anchors = TrustAnchors(certificates)
    if not anchors.size:
        raise ConfigError(f"no CA certificate in {' '.join(filter(None, (ca_file, ca_path)))}")
    return anchors


def _system_certificates() -> Iterable[bytes]:
    """The system's CA certificates; none if they are not found, and every verdict then reports it."""
    import ssl

    paths = ssl.get_default_verify_paths()
    named = os.environ.get(paths.openssl_cafile_env) or os.environ.get(paths.openssl_capath_env)
    for path in (paths.cafile, *(() if named else SYSTEM_CA_FILES)):
        if path is not None and os.path.isfile(path):
            try:
                return _read_pem(path)
            except OSError:
                continue
    try:
        return list(_read_directory(paths.capath)) if paths.capath else []
    except OSError:
        return []


def _read_directory(path: str) -> Iterator[bytes]:
    names = sorted(name for name in os.listdir(path) if _HASHED_NAME.fullmatch(name))
    for name in names[:MAX_CA_FILES]:
        try:
            yield from _read_pem(os.path.join(path, name))
        except OSError:  # a dangling link is skipped
            continue


def _read_pem(path: str) -> list[bytes]:
    """The certificates of a PEM file in DER; other text and invalid ones are skipped."""
    with open(path, "rb") as file:
        text = file.read(MAX_CA_FILE)
    found = []
    for block in _PEM.finditer(text):
        try:
            found.append(base64.b64decode(block[1], validate=False))
        except ValueError:
            continue
    return found
