"""Decides whether a session meets its requirement, after the handshake and before any envelope is sent.

The handshake itself verifies nothing: it agrees on keys with any peer and keeps the certificates. Then :func:`judge`
compares the facts with the requirement, and the envelope is sent only after a judgement that is ``ok``. That keeps the
rules of all levels in one place, and gives each failure a specific message::

    judgement = judge(requirement, facts, now=time.time(), anchors=lambda: trust_anchors("", ""))
    judgement = without_tls(requirement, Problem.STARTTLS_NOT_SUPPORTED, "STARTTLS is not offered")

``zsmtp.tls.authenticate`` has the levels that authenticate the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from zsmtp.escape import escape
from zsmtp.records import dataclass, replace
from zsmtp.tls.policy import Barred, Requirement
from zsmtp.tls.problem import TLSProblem

if TYPE_CHECKING:
    from zsmtp.tls.chain import TrustAnchors
    from zsmtp.tls.facts import TLSFacts


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
        return failed(requirement, TLSProblem.VALIDATION_FAILURE, f"cipher {escape(facts.cipher)} does not encrypt")
    if not requirement.authenticates:
        return Judgement(True, f"not verified ({requirement.reason})")
    from zsmtp.tls.authenticate import authenticate  # most sessions need no certificate

    return authenticate(requirement, facts, now, anchors)


def failed(requirement: Requirement, problem: TLSProblem, text: str) -> Judgement:
    """The verdict on a session that does not meet ``requirement``."""
    return Judgement(False, f"{text} ({requirement.reason})", problem=problem)
