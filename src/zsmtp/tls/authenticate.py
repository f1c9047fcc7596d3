"""Authenticates a peer by its certificates, for the levels that ask for it (``zsmtp.tls.judgement``).

Under DANE-EE neither names nor dates count (RFC 7672 3.1.1): the signed zone names the current key. Under DANE-TA the
chain must be valid up to the certificate that a record names, and the name must be right (3.1.2, 3.2.3). MTA-STS
requires chain and subjectAltName (RFC 8461 4.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from zsmtp.escape import escape
from zsmtp.tls.certificate import Certificate
from zsmtp.tls.chain import TrustAnchors, verify_chain
from zsmtp.tls.dane import DANE_TA, described, end_entity_match
from zsmtp.tls.dane import anchors as dane_anchors
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.judgement import Judgement, Verified, failed
from zsmtp.tls.names import matching_name
from zsmtp.tls.policy import Level, Requirement
from zsmtp.tls.problem import TLSProblem

_MAX_NAMES = 6  # names of a certificate in the message if none matches


def authenticate(
    requirement: Requirement, facts: TLSFacts, now: float, anchors: Callable[[], TrustAnchors]
) -> Judgement:
    """Compare the peer's certificates with a requirement that authenticates; see ``zsmtp.tls.judgement.judge``."""
    leaf = facts.leaf
    if leaf is None:
        return failed(requirement, TLSProblem.CERTIFICATE_NOT_TRUSTED, f"the peer has {facts.peer}")
    if requirement.level is Level.FINGERPRINT:
        return _by_fingerprint(requirement, leaf)
    if requirement.level is Level.DANE:
        return _by_tlsa(requirement, facts, leaf, now)
    return _by_chain(requirement, facts, leaf, now, anchors(), Verified.CHAIN)


def _by_fingerprint(requirement: Requirement, leaf: Certificate) -> Judgement:
    for algorithm in (hashlib.sha256, hashlib.sha512):
        for what, octets in (("certificate", leaf.der), ("public key", leaf.public_key)):
            digest = algorithm(octets).digest()
            if digest in requirement.fingerprints:
                return Judgement(True, f"fingerprint of the {what}: {digest[:8].hex()}...", Verified.FINGERPRINT)
    shown = hashlib.sha256(leaf.der).hexdigest()
    return failed(requirement, TLSProblem.CERTIFICATE_NOT_TRUSTED, f"no fingerprint matches certificate {shown}")


def _by_tlsa(requirement: Requirement, facts: TLSFacts, leaf: Certificate, now: float) -> Judgement:
    record = end_entity_match(requirement.tlsa, leaf)
    if record is not None:
        return Judgement(True, f"TLSA {described(record)} ({requirement.reason})", Verified.DANE_EE)
    authorities = dane_anchors(requirement.tlsa, facts.chain)
    if not authorities:
        if any(record.usage == DANE_TA for record in requirement.tlsa):
            text = "no TLSA record matches a certificate of the chain"
        else:
            text = "no TLSA record matches the certificate"
        return failed(requirement, TLSProblem.TLSA_INVALID, text)
    return _by_chain(requirement, facts, leaf, now, TrustAnchors(authorities), Verified.DANE_TA)


def _by_chain(
    requirement: Requirement,
    facts: TLSFacts,
    leaf: Certificate,
    now: float,
    anchors: TrustAnchors,
    verified: Verified,
) -> Judgement:
    verdict = verify_chain(facts.chain, anchors, now)
    if verdict.problem is not None:
        return failed(requirement, verdict.problem, verdict.text)
    name = matching_name(requirement.names, leaf, common_name=verified is Verified.DANE_TA)
    if name is None:
        wanted = " ".join(requirement.names) or "no name at all"
        found = " ".join(map(escape, (leaf.dns_names + leaf.ip_addresses)[:_MAX_NAMES]))
        text = f"the certificate is for {found or 'no host name'}, not for {escape(wanted)}"
        return failed(requirement, TLSProblem.CERTIFICATE_HOST_MISMATCH, text[:400])
    return Judgement(True, f"{escape(name)}, {verdict.text} ({requirement.reason})", verified)
