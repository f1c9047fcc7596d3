"""Makes the results of sessions for TLS reports: the applied policy, and whether it was met (RFC 8460 4).

A domain that publishes a ``_smtp._tls.`` record gets the results of sessions with its exchangers, under the policy that
was applied to each: its TLSA records, else its MTA-STS policy, else none. A level that only this side requires does not
count: any TLS is then a success. Testing mode counts as enforced. Messages with ``TLS-Required: No`` give no results.

:class:`TLSReporter` passes each result to ``Security.report``.
"""

from __future__ import annotations

from collections.abc import Callable

from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.outcome import Peer
from zsmtp.dns.answer import TLSA
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.proto.plan import TLSDemand
from zsmtp.tls.judgement import Judgement
from zsmtp.tls.policy import Barred, Level, Requirement, RequirementSource
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.tlsrpt import AppliedPolicy, Failure, PolicyType, SessionResult


class TLSReporter:
    """Makes the results of sessions and passes them to ``report``, which must not wait and not raise."""

    def __init__(self, report: Callable[[SessionResult], None] | None) -> None:
        self._report = report

    def barred(self, plan: DeliveryPlan, found: Barred, peer: Peer) -> None:
        """Record that a candidate must not be used."""
        if not self._wanted(plan):
            return
        if found.source is RequirementSource.CONFIGURED and found.problem not in (
            TLSProblem.DANE_REQUIRED,
            TLSProblem.TLSA_INVALID,
        ):
            return  # a failure on this side
        kind = PolicyType.TLSA if found.source is RequirementSource.DANE else None
        self._record(plan, _applied(plan, kind=kind), peer, found.problem, found.reason)

    def in_clear(self, plan: DeliveryPlan, required: Requirement, peer: Peer, problem: TLSProblem, text: str) -> None:
        """Record a session without TLS: not offered, refused, or the handshake failed."""
        if self._wanted(plan):
            self._record(plan, _policy(plan, required), peer, problem, text)

    def secured(self, plan: DeliveryPlan, required: Requirement, peer: Peer, judgement: Judgement) -> None:
        """Record a handshake that was judged."""
        if not self._wanted(plan):
            return
        policy = _policy(plan, required)
        if judgement.trial is not None:
            judgement = judgement.trial
        problem = judgement.problem if policy.type is not PolicyType.NONE else None
        if required.source is RequirementSource.DANE and required.level is not Level.DANE:
            problem = TLSProblem.TLSA_INVALID  # encrypted without authentication, as no record is usable
        self._record(plan, policy, peer, problem, judgement.text)

    def _wanted(self, plan: DeliveryPlan) -> bool:
        """Whether this side writes results, and the destination requests them."""
        return self._report is not None and plan.report_record is not None and plan.wish is not TLSDemand.TLS_OPTIONAL

    def _record(
        self, plan: DeliveryPlan, policy: AppliedPolicy, peer: Peer, problem: TLSProblem | None, text: str
    ) -> None:
        domain = _domain(plan)
        if not domain:
            return
        if problem is None and plan.sts is not None and policy.type is PolicyType.STS:
            problem = plan.sts.failure  # the session was good, but the policy was unavailable
            text = plan.sts.note
        failure = None
        if problem is not None:
            failure = Failure(
                problem,
                sending_ip=peer.local[0] if peer.local is not None else "",
                mx_host=peer.endpoint.host,
                receiving_ip=peer.endpoint.address,
                reason=text[:200],
            )
        assert self._report is not None
        assert plan.report_record is not None
        self._report(SessionResult(domain, plan.report_record, policy, failure))


def _domain(plan: DeliveryPlan) -> str:
    parsed = parse_destination(plan.route.destination)
    return parsed.domain if isinstance(parsed, Name) else ""


def _policy(plan: DeliveryPlan, required: Requirement) -> AppliedPolicy:
    """The destination's policy applied to a session."""
    if required.source is RequirementSource.DANE:
        return AppliedPolicy(PolicyType.TLSA, required.server_name, tuple(map(_presented, required.tlsa)))
    return _applied(plan)


def _applied(plan: DeliveryPlan, *, kind: PolicyType | None = None) -> AppliedPolicy:
    if kind is not None:
        return AppliedPolicy(kind, _domain(plan))
    applied = plan.sts.applied if plan.sts is not None else None
    return applied or AppliedPolicy(PolicyType.NONE, _domain(plan))


def _presented(record: TLSA) -> str:
    return f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"
