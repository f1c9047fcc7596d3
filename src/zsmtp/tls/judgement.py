"""Decides whether a session meets its requirement, after the handshake and before any envelope is sent.

The handshake itself verifies nothing: it agrees on keys with any peer and keeps the certificates. Then :func:`judge`
compares the facts with the requirement, and the envelope is sent only after a judgement that is ``ok``. That keeps the
rules of all levels in one place, and gives each failure a specific message::

    judgement = judge(requirement, facts, now=time.time(), anchors=lambda: trust_anchors("", ""))
    judgement = without_tls(requirement, Problem.STARTTLS_NOT_SUPPORTED, "STARTTLS is not offered")

Under DANE-EE neither names nor dates count (RFC 7672 3.1.1): the signed zone names the current key. Under DANE-TA the
chain must be valid up to the certificate that a record names, and the name must be right (3.1.2, 3.2.3). MTA-STS
requires chain and subjectAltName (RFC 8461 4.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum

from zsmtp.escape import escape
from zsmtp.records import dataclass, replace
from zsmtp.tls.certificate import Certificate
from zsmtp.tls.chain import TrustAnchors, verify_chain
from zsmtp.tls.dane import DANE_TA, described, end_entity_match
from zsmtp.tls.dane import anchors as dane_anchors
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.names import matching_name
from zsmtp.tls.policy import Barred, Level, Requirement
from zsmtp.tls.problem import TLSProblem

_MAX_NAMES = 6  # names of a certificate in the message if none matches


class Verified(Enum):
    """How the peer was authenticated."""

    NOT = "not verified"
    FINGERPRINT = "fingerprint"
    CHAIN = "chain and name"
    DANE_EE = "DANE-EE"
    DANE_TA = "DANE-TA"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict. ``ok``: mail may be sent over this session. ``text`` is the reason, for people, in one line.

    ``problem`` is set if and only if it is not ok. ``trial`` is the verdict on a requirement that is reported and not
    enforced (MTA-STS in testing mode); None without one.
    """

    ok: bool
    text: str
    verified: Verified = Verified.NOT
    problem: TLSProblem | None = None
    trial: Judgement | None = None

    @property
    def summary(self) -> str:
        """The verdict in one line, for logs."""
        line = f"{'good enough' if self.ok else 'NOT good enough'}: {self.text}"
        return line if self.trial is None else f"{line}; on trial {self.trial.summary}"


def judge(requirement: Requirement, facts: TLSFacts, *, now: float, anchors: Callable[[], TrustAnchors]) -> Judgement:
    """Compare a handshake with the requirement. ``now`` in seconds since 1970.

    ``anchors`` returns the CA certificates to trust; it is called only if a chain must be verified with them.
    """
    judgement = _judge(requirement, facts, now, anchors)
    trial = requirement.trial
    if trial is None:
        return judgement
    if isinstance(trial, Barred):
        return replace(judgement, trial=Judgement(False, trial.reason, problem=trial.problem))
    return replace(judgement, trial=_judge(trial, facts, now, anchors))


def without_tls(requirement: Requirement, problem: TLSProblem, text: str) -> Judgement:
    """The verdict on a session in clear: STARTTLS was not offered, was refused, or the handshake failed."""
    judgement = _in_clear(requirement, problem, text)
    trial = requirement.trial
    if trial is None:
        return judgement
    if isinstance(trial, Barred):
        return replace(judgement, trial=Judgement(False, trial.reason, problem=trial.problem))
    return replace(judgement, trial=_in_clear(trial, problem, text))


def _in_clear(requirement: Requirement, problem: TLSProblem, text: str) -> Judgement:
    if not requirement.needs_tls:
        return Judgement(True, f"in clear: {text}")
    return Judgement(False, f"{text}, and TLS is required ({requirement.reason})", problem=problem)


def _judge(requirement: Requirement, facts: TLSFacts, now: float, anchors: Callable[[], TrustAnchors]) -> Judgement:
    if requirement.needs_tls and facts.bits == 0:
        return _failed(requirement, TLSProblem.VALIDATION_FAILURE, f"cipher {escape(facts.cipher)} does not encrypt")
    if not requirement.authenticates:
        return Judgement(True, f"not verified ({requirement.reason})")
    leaf = facts.leaf
    if leaf is None:
        return _failed(requirement, TLSProblem.CERTIFICATE_NOT_TRUSTED, f"the peer has {facts.peer}")
    if requirement.level is Level.FINGERPRINT:
        return _by_fingerprint(requirement, leaf)
    if requirement.level is Level.DANE:
        return _by_tlsa(requirement, facts, leaf, now)
    return _by_chain(requirement, facts, leaf, now, anchors(), Verified.CHAIN)


def _failed(requirement: Requirement, problem: TLSProblem, text: str) -> Judgement:
    return Judgement(False, f"{text} ({requirement.reason})", problem=problem)


def _by_fingerprint(requirement: Requirement, leaf: Certificate) -> Judgement:
    for algorithm in (hashlib.sha256, hashlib.sha512):
        for what, octets in (("certificate", leaf.der), ("public key", leaf.public_key)):
            digest = algorithm(octets).digest()
            if digest in requirement.fingerprints:
                return Judgement(True, f"fingerprint of the {what}: {digest[:8].hex()}...", Verified.FINGERPRINT)
    shown = hashlib.sha256(leaf.der).hexdigest()
    return _failed(requirement, TLSProblem.CERTIFICATE_NOT_TRUSTED, f"no fingerprint matches certificate {shown}")


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
        return _failed(requirement, TLSProblem.TLSA_INVALID, text)
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
        return _failed(requirement, verdict.problem, verdict.text)
    name = matching_name(requirement.names, leaf, common_name=verified is Verified.DANE_TA)
    if name is None:
        wanted = " ".join(requirement.names) or "no name at all"
        found = " ".join(map(escape, (leaf.dns_names + leaf.ip_addresses)[:_MAX_NAMES]))
        text = f"the certificate is for {found or 'no host name'}, not for {escape(wanted)}"
        return _failed(requirement, TLSProblem.CERTIFICATE_HOST_MISMATCH, text[:400])
    return Judgement(True, f"{escape(name)}, {verdict.text} ({requirement.reason})", verified)
