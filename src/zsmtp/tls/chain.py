"""Path validation: is there a path from a certificate to a trust anchor at a given time? (RFC 5280 6)

The peer sends its own certificate and, in any order and mixed with unrelated ones, those of the issuers. The anchors
are a set of CA certificates (``zsmtp.tls.context`` loads the system's), or, under DANE-TA, what the domain's TLSA
records name: any certificate may be one, self-signed or not. Building the path, signatures, dates, basic constraints
and name constraints are the work of ``cryptography``, imported with the first chain to verify. Added here: the extended
key usage must allow servers, a CA's key usage must allow signing, and no RSA key on the path may be shorter than 2048
bits. Keys and signatures must use algorithms that public CAs may use: RSA and ECDSA, SHA-2 and better.

``zsmtp.tls.names`` compares names; revocation is not checked, as is usual between mail servers::

    verdict = verify_chain(facts.chain, anchors, now)
    verdict.problem, verdict.text      # None, "issued by CN=Example Root CA"
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zsmtp.escape import escape
from zsmtp.records import dataclass
from zsmtp.tls.certificate import Certificate, read_certificate
from zsmtp.tls.facts import shown_time
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509.verification import ExtensionPolicy, Store

MAX_CHAIN = 20
"""Certificates sent by the peer that are used."""

MIN_RSA_BITS = 2048

_NO_PATH = "no interior errors"  # the library's words if no issuer of a certificate is known
_TOO_DEEP = "max depth"  # also its words after a loop through an unknown root that the peer sent
_MAX_DEPTH = 8  # certificates between leaf and anchor that it allows
_NOT_NOW = "not valid at validation time"


@dataclass(frozen=True, slots=True)
class ChainVerdict:
    """The result: ``problem`` is None if a path was found; ``text`` explains it to people in one line."""

    problem: TLSProblem | None
    text: str


class TrustAnchors:
    """A set of certificates to trust. Unreadable ones are skipped; ``size`` is their number."""

    def __init__(self, certificates: Iterable[bytes]) -> None:
        """``certificates`` in DER."""
        from cryptography.x509.verification import Store

        loaded = [certificate for der in certificates if (certificate := _load(der)) is not None]
        self.size = len(loaded)
        self.store: Store | None = Store(loaded) if loaded else None


def verify_chain(chain: Sequence[bytes], anchors: TrustAnchors, now: float) -> ChainVerdict:
    """Whether the first certificate of ``chain`` has a path to an anchor at ``now`` (seconds since 1970).

    Never raises because of the certificates.
    """
    if not chain:
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, "the peer has no certificate")
    if anchors.store is None:
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, "there are no trusted CA certificates")
    sent = list(dict.fromkeys(chain[: MAX_CHAIN + 1]))
    leaf, *others = map(_load, sent)
    if leaf is None:
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, "the certificate cannot be read")
    try:
        path = _find_path(leaf, [other for other in others if other is not None], anchors.store, now)
    except Exception as error:  # a hostile certificate may make the library raise anything: it is not trusted
        return _diagnosed(sent, str(error), now)
    anchor = escape(path[-1].subject.rfc4514_string())
    return ChainVerdict(None, f"issued by {anchor}" if len(path) > 1 else "trusted itself")


def _find_path(
    leaf: x509.Certificate, others: list[x509.Certificate], store: Store, now: float
) -> Sequence[x509.Certificate]:
    """The path from the leaf to an anchor; raises if there is none."""
    from datetime import UTC, datetime

    from cryptography.x509.verification import PolicyBuilder

    _check_key(leaf)
    for_ca, for_leaf = _extension_policies()
    builder = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC))
    # Names are not checked here, and only the verifier for clients does not check them.
    verifier = builder.extension_policies(ca_policy=for_ca, ee_policy=for_leaf).build_client_verifier()
    return verifier.verify(leaf, others).chain


@lru_cache(maxsize=1)
def _extension_policies() -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """The extension rules for CAs and for the peer's own certificate: those of RFC 5280, not those of browsers."""
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy

    either = Criticality.AGNOSTIC
    for_leaf = ExtensionPolicy.permit_all().may_be_present(x509.ExtendedKeyUsage, either, _check_purpose)
    for_ca = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, either, None)
        .may_be_present(x509.ExtendedKeyUsage, either, _check_purpose)
        .may_be_present(x509.KeyUsage, either, _check_signing)
    )
    return for_ca, for_leaf


def _check_purpose(policy: Any, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

    if usage is not None and Purpose.SERVER_AUTH not in usage and Purpose.ANY_EXTENDED_KEY_USAGE not in usage:
        raise ValueError("a certificate is not for servers")


def _check_signing(policy: Any, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("a CA is not allowed to sign certificates")


def _check_key(leaf: x509.Certificate) -> None:
    """Check the leaf's key: the library only checks the keys of issuers."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    key = leaf.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise ValueError("RSA key is too weak")


def _load(der: bytes) -> x509.Certificate | None:
    from cryptography import x509

    with warnings.catch_warnings():  # the administrator cannot correct the defects of old roots
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(der)
        except Exception:  # not only ValueError: an invalid version has an exception of its own
            return None


def _diagnosed(sent: Sequence[bytes], words: str, now: float) -> ChainVerdict:
    """The reason why there is no path; names the certificate at fault if it is known."""
    try:
        leaf = read_certificate(sent[0])
    except ValueError:
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, "the certificate cannot be read")
    if now > leaf.not_after:
        return ChainVerdict(TLSProblem.CERTIFICATE_EXPIRED, f"the certificate expired {shown_time(leaf.not_after)}")
    if now < leaf.not_before:
        return ChainVerdict(
            TLSProblem.CERTIFICATE_EXPIRED, f"the certificate is valid from {shown_time(leaf.not_before)}"
        )
    if _NOT_NOW in words:
        return ChainVerdict(TLSProblem.CERTIFICATE_EXPIRED, "a CA certificate is expired or not valid yet")
    if _NO_PATH not in words and not (_TOO_DEEP in words and len(sent) < _MAX_DEPTH):
        reason = words.removeprefix("validation failed: ").removeprefix("candidates exhausted: ")
        reason = reason.partition(" (encountered processing")[0]
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, f"the chain is not trusted: {escape(reason)[:200]}")
    if leaf.self_issued:
        return ChainVerdict(TLSProblem.CERTIFICATE_NOT_TRUSTED, "the certificate is self-signed")
    return ChainVerdict(
        TLSProblem.CERTIFICATE_NOT_TRUSTED, f"issued by an unknown CA: {_highest_issuer(leaf, sent[1:])}"
    )


def _highest_issuer(leaf: Certificate, others: Iterable[bytes]) -> str:
    """The unknown issuer at the end of the chain."""
    known: dict[str, Certificate] = {}
    for der in others:
        try:
            certificate = read_certificate(der)
        except ValueError:
            continue
        known.setdefault(certificate.subject, certificate)
    name, seen = leaf.issuer, set[str]()
    while name in known and name not in seen:
        seen.add(name)
        name = known[name].issuer
    return name or "(empty name)"
