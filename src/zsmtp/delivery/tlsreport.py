"""What a session means for TLS reports: the policy it was held to, and whether it met it (RFC 8460 4).

A domain that publishes a ``_smtp._tls.`` record hears how sessions with its exchangers went, under the policy that was
applied to each: its TLSA records, else its MTA-STS policy, else none. That a session did not reach a level that only
this side wants is no failure of theirs: there TLS counts as TLS. Testing mode counts as enforced. A message that asks
to go without policies (``TLS-Required: No``) is no measure of them, and tells nothing.

:class:`TLSReporter` gives each result to whoever was named in ``Security.report``.
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
    """Makes the results of sessions and gives them to ``tell``, which must not wait and not raise."""

    def __init__(self, tell: Callable[[SessionResult], None] | None) -> None:
        self._tell = tell

    def barred(self, plan: DeliveryPlan, found: Barred, peer: Peer) -> None:
        """A candidate must not be used."""
        if not self._wanted(plan):
            return
        if found.source is RequirementSource.CONFIGURED and found.problem not in (
            TLSProblem.DANE_REQUIRED,
            TLSProblem.TLSA_INVALID,
        ):
            return  # something on this side is wrong
        kind = PolicyType.TLSA if found.source is RequirementSource.DANE else None
        self._record(plan, _applied(plan, kind=kind), peer, found.problem, found.reason)

    def in_clear(self, plan: DeliveryPlan, required: Requirement, peer: Peer, problem: TLSProblem, text: str) -> None:
        """There is no TLS: not offered, refused, or the handshake failed."""
        if self._wanted(plan):
            self._record(plan, _policy(plan, required), peer, problem, text)

    def secured(self, plan: DeliveryPlan, required: Requirement, peer: Peer, judgement: Judgement) -> None:
        """A handshake was done and judged."""
        if not self._wanted(plan):
            return
        policy = _policy(plan, required)
        if judgement.trial is not None:
            judgement = judgement.trial
        problem = judgement.problem if policy.type is not PolicyType.NONE else None
        if required.source is RequirementSource.DANE and required.level is not Level.DANE:
            problem = TLSProblem.TLSA_INVALID  # encrypted, for want of records that can be used
        self._record(plan, policy, peer, problem, judgement.text)

    def _wanted(self, plan: DeliveryPlan) -> bool:
        """Whether results are written here, and asked for by the destination."""
        return self._tell is not None and plan.report_record is not None and plan.wish is not TLSDemand.TLS_OPTIONAL

    def _record(
        self, plan: DeliveryPlan, policy: AppliedPolicy, peer: Peer, problem: TLSProblem | None, text: str
    ) -> None:
        domain = _domain(plan)
        if not domain:
            return
        if problem is None and plan.sts is not None and policy.type is PolicyType.STS:
            problem = plan.sts.failure  # the session was good, the policy was not to be had
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
        assert self._tell is not None
        assert plan.report_record is not None
        self._tell(SessionResult(domain, plan.report_record, policy, failure))


def _domain(plan: DeliveryPlan) -> str:
    parsed = parse_destination(plan.route.destination)
    return parsed.domain if isinstance(parsed, Name) else ""


def _policy(plan: DeliveryPlan, required: Requirement) -> AppliedPolicy:
    """The destination's policy that a session was held to."""
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
