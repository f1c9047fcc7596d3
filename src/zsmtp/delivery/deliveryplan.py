"""The plan of a delivery: the route, and what each candidate on it must be, as one value.

:func:`plan_delivery` asks the destination rules for the route and finds out what the destination is configured to be;
:func:`requirement_for` decides on one candidate: which protection a session with it must have and on whose word, or why
it must not be used. Both await effects, and they are the only way to these answers: delivery calls the
second one when a candidate's turn has come, :func:`require_all` calls it for each beforehand for whoever explains a
delivery. A plan that was filled beforehand is executed as it is; so the two cannot drift apart::

    plan = await plan_delivery(request, security)
    await require_all(plan, security)          # only to explain: delivery asks one by one
    route = Route(request, given=plan)

Without ``security`` nothing of ``zsmtp.tls`` is loaded: mail that needs no protection does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsmtp.dns.candidates import Endpoint, Plan
from zsmtp.dns.destination import DestinationRequest, plan_destination
from zsmtp.dns.literal import Name, parse_destination
from zsmtp.effects import ReadStop
from zsmtp.errors import ConfigError
from zsmtp.proto.plan import TLSDemand
from zsmtp.records import dataclass, field, replace

if TYPE_CHECKING:
    from zsmtp.delivery.outcome import Peer
    from zsmtp.delivery.security import Security
    from zsmtp.tls.mtasts import PolicyLookup
    from zsmtp.tls.policy import Barred, Requirement, TLSPolicy


NO_VALIDATION = "there is no DANE: the name servers do not validate DNSSEC, or their word is not trusted"


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """Where a message can go, and how safely it must.

    ``route`` are the candidates, or why there are none. ``policy`` is what is configured for the destination, None if
    no security is configured at all, or if what is configured cannot be used: ``problem`` then says why mail has to
    wait. ``sts`` is what MTA-STS brought, None if it was not asked. ``notes`` are remarks for people.
    ``report_record`` is what the destination asks for TLS reports with, None if it does not or nobody writes any.
    ``requirements`` are the decisions on candidates so far, each made once; they hold for messages whose sender wants
    ``wish``.
    """

    route: Plan
    policy: TLSPolicy | None = None
    sts: PolicyLookup | None = None
    wish: TLSDemand = TLSDemand.NONE
    problem: str = ""
    notes: tuple[str, ...] = ()
    report_record: str | None = None
    requirements: dict[Endpoint, Requirement | Barred] = field(default_factory=dict)

    def needs_protection(self, endpoint: Endpoint) -> bool:
        """Whether mail must not go to this candidate in clear, or not at all, as far as is decided already."""
        found = self.requirements.get(endpoint)
        if found is None:
            return self.wish is TLSDemand.REQUIRETLS
        from zsmtp.tls.policy import Barred

        return isinstance(found, Barred) or found.needs_tls

    def needs_lookups(self, endpoint: Endpoint) -> bool:
        """Whether it takes lookups to decide on this candidate."""
        return endpoint not in self.requirements and self.policy is not None and self.policy.wants_dane

    def for_wish(self, wish: TLSDemand) -> DeliveryPlan:
        """The same for messages whose sender wants something else: candidates are to be decided on anew."""
        return self if wish is self.wish else replace(self, wish=wish, requirements={})


async def plan_delivery(
    request: DestinationRequest, security: Security | None, wish: TLSDemand = TLSDemand.NONE
) -> DeliveryPlan:
    """Plan a delivery. No candidate is decided on yet. Awaits lookups."""
    route = await plan_destination(request)
    return await plan_protection(DeliveryPlan(route, wish=wish), request, security)


async def plan_protection(plan: DeliveryPlan, request: DestinationRequest, security: Security | None) -> DeliveryPlan:
    """Add what is configured and published for the destination to a plan that was made without any security.

    A plan that has it is left as it is. Awaits lookups and what MTA-STS needs.
    """
    route = plan.route
    if security is None or route.failure is not None or plan.policy is not None or plan.problem:
        return plan
    try:
        policy = security.policy_for(route.destination)
    except ConfigError as error:
        return replace(plan, problem=str(error))
    notes = await _look_at_resolver(route, security, policy)
    sts = await _ask_mta_sts(request, security, policy)
    record = await _ask_for_reports(request, security)
    return replace(plan, policy=policy, sts=sts, notes=notes, report_record=record)


async def _look_at_resolver(route: Plan, security: Security, policy: TLSPolicy) -> tuple[str, ...]:
    """See whether answers can be secure at all where DANE is wanted, and warn if they cannot.

    Nothing can be told from answers about zones that are not signed, so the root is asked about, which is: once in the
    life of ``security``. DANE is off in any case where answers are not secure; mail goes without it.
    """
    from zsmtp.tls.dane import resolver_validates

    if not policy.wants_dane or not route.lookups:
        return ()
    resolver = security.resolver
    if any(answer.secure for answer in route.lookups):
        resolver.validates = True
    elif not resolver.asked:
        resolver.asked = True
        resolver.validates = await resolver_validates()
        if await ReadStop():
            resolver.asked = False
        if resolver.validates is False:
            security.warn(NO_VALIDATION)
    return (NO_VALIDATION,) if resolver.validates is False else ()


async def _ask_mta_sts(request: DestinationRequest, security: Security, policy: TLSPolicy) -> PolicyLookup | None:
    """The MTA-STS policy of a destination that is a domain; None where nobody asks for one, or none could count."""
    from zsmtp.tls.mtasts import policy_of
    from zsmtp.tls.policy import STSUse

    if security.mta_sts is STSUse.OFF or policy.pinned or not request.use_mx:
        return None
    domain = _domain(request)
    return await policy_of(domain) if domain else None


async def _ask_for_reports(request: DestinationRequest, security: Security) -> str | None:
    """The record with which a domain asks for TLS reports, if anybody here writes them."""
    if security.report is None or not request.use_mx:
        return None
    from zsmtp.tls.tlsrpt import find_record

    domain = _domain(request)
    return await find_record(domain) if domain else None


def _domain(request: DestinationRequest) -> str:
    """The destination, if it is a domain; else ""."""
    parsed = parse_destination(request.destination, allow_unix=request.allow_unix)
    return parsed.domain if isinstance(parsed, Name) else ""


async def requirement_for(
    plan: DeliveryPlan, endpoint: Endpoint, security: Security | None
) -> Requirement | Barred | None:
    """What a session with one candidate must be, or why the candidate must not be used; None if nothing is asked.

    The decision is kept in the plan, and one that the plan already holds stands. Awaits TLSA lookups.
    """
    found = plan.requirements.get(endpoint)
    if found is None and security is not None:
        from zsmtp.tls.policy import Barred

        found = await _decide(plan, endpoint, security)
        if not (isinstance(found, Barred) and await ReadStop()):  # else it may be for a lookup cut short
            plan.requirements[endpoint] = found
    return found


async def require_all(plan: DeliveryPlan, security: Security | None) -> None:
    """Decide on all candidates beforehand, for whoever wants to see the whole plan."""
    for candidate in plan.route.candidates:
        await requirement_for(plan, candidate.endpoint, security)


async def may_share(
    request: DestinationRequest, security: Security, peer: Peer, wish: TLSDemand = TLSDemand.NONE
) -> bool:
    """Whether mail for another destination may go over a session that stands: it must be as safe as its own would be.

    A host that serves two destinations may have to prove more for one of them than it did for the other, another name
    for example. ``wish`` is what the session was opened for, and so the most that mail which goes over it may ask for.
    """
    from zsmtp.tls.policy import Requirement

    plan = await plan_delivery(request, security, wish)
    here = [one.endpoint for one in plan.route.candidates if one.endpoint.place == peer.endpoint.place]
    if not here:
        return False
    wanted = await requirement_for(plan, peer.endpoint if peer.endpoint in here else here[0], security)
    if not isinstance(wanted, Requirement):
        return False
    if not wanted.needs_tls:
        return True
    if peer.protection is None:
        return False
    held = peer.protection.requirement
    return replace(wanted, reason="", trial=None) == replace(held, reason="", trial=None)


async def _decide(plan: DeliveryPlan, endpoint: Endpoint, security: Security) -> Requirement | Barred:
    from zsmtp.tls.policy import Barred, RequirementSource, STSMode, STSUse, TLSPolicy, requirement
    from zsmtp.tls.problem import TLSProblem

    if plan.problem:
        return Barred(plan.problem, RequirementSource.CONFIGURED, TLSProblem.VALIDATION_FAILURE)
    sts = plan.sts.finding(endpoint.host) if plan.sts is not None else None
    if sts is not None and security.mta_sts is STSUse.TESTING:
        sts = replace(sts, mode=STSMode.TESTING)
    found = await requirement(plan.route, endpoint, plan.policy or TLSPolicy(), sts=sts, wish=plan.wish)
    if security.implicit and not isinstance(found, Barred) and not found.needs_tls:
        return replace(found, server_name=found.server_name or endpoint.host)
    return found
