"""The plan of a delivery: the route, and the requirement for each candidate on it, as one value.

:func:`plan_delivery` gets the route from the destination rules, and the configuration of the destination;
:func:`requirement_for` decides on one candidate: which protection a session with it must have and who requires it, or
why it must not be used. Both await effects, and only they make these decisions: delivery calls the second one at a
candidate's turn, :func:`require_all` calls it for all candidates beforehand, for ``zsmtp explain``. A plan filled
beforehand is executed unchanged, so the explanation and the delivery cannot differ::

    plan = await plan_delivery(request, security)
    await require_all(plan, security)          # only to explain: delivery decides one by one
    route = Route(request, given=plan)

Without ``security`` no module of ``zsmtp.tls`` is imported, which saves start-up time.
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


NO_VALIDATION = "there is no DANE: the name servers do not validate DNSSEC, or are not trusted"


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """The candidates for a message, and the protection that it needs.

    ``route`` are the candidates, or the reason why there are none. ``policy`` is the configuration for the destination,
    None if no security is configured at all, or if the configuration is invalid: ``problem`` is then the reason why
    mail has to wait. ``sts`` is the result of MTA-STS, None if it was not looked up. ``notes`` are remarks for people.
    ``report_record`` is the destination's record for TLS reports, None if it has none or this side writes none.
    ``requirements`` are the decisions on candidates so far, each made once; they hold for messages with the TLS demand
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
        """Whether mail must not go to this candidate in clear, or not at all, by the decisions so far."""
        found = self.requirements.get(endpoint)
        if found is None:
            return self.wish is TLSDemand.REQUIRETLS
        from zsmtp.tls.policy import Barred

        return isinstance(found, Barred) or found.needs_tls

    def needs_lookups(self, endpoint: Endpoint) -> bool:
        """Whether the decision on this candidate needs lookups."""
        return endpoint not in self.requirements and self.policy is not None and self.policy.wants_dane

    def for_wish(self, wish: TLSDemand) -> DeliveryPlan:
        """A copy for messages with another TLS demand, without decisions on candidates."""
        return self if wish is self.wish else replace(self, wish=wish, requirements={})


async def plan_delivery(
    request: DestinationRequest, security: Security | None, wish: TLSDemand = TLSDemand.NONE
) -> DeliveryPlan:
    """Plan a delivery. No candidate is decided on yet. Awaits lookups."""
    route = await plan_destination(request)
    return await plan_protection(DeliveryPlan(route, wish=wish), request, security)


async def plan_protection(plan: DeliveryPlan, request: DestinationRequest, security: Security | None) -> DeliveryPlan:
    """Add the destination's configuration and published policies to a plan that was made without security.

    A plan with security is returned unchanged. Awaits lookups and the effects of MTA-STS.
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
    """Test whether answers can be secure at all if DANE is wanted, and warn if they cannot.

    Answers about unsigned zones do not show it, so the test is a query for the root, which is signed: once in the life
    of ``security``. DANE is off in any case if answers are not secure; mail goes without it.
    """
    if not policy.wants_dane or not route.lookups:
        return ()
    from zsmtp.tls.dane import resolver_validates

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
    """The MTA-STS policy of a destination that is a domain; None if MTA-STS is off, or a policy could not count."""
    from zsmtp.tls.policy import STSUse

    if security.mta_sts is STSUse.OFF or policy.pinned or not request.use_mx:
        return None
    from zsmtp.tls.mtasts import policy_of  # mail for relays does without

    domain = _domain(request)
    return await policy_of(domain) if domain else None


async def _ask_for_reports(request: DestinationRequest, security: Security) -> str | None:
    """The record with which a domain requests TLS reports, if this side writes them."""
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
    """The requirement for a session with one candidate, or why it must not be used; None without security.

    The decision is stored in the plan; an existing one is returned. Awaits TLSA lookups.
    """
    found = plan.requirements.get(endpoint)
    if found is None and security is not None:
        from zsmtp.tls.policy import Barred

        found = await _decide(plan, endpoint, security)
        if not (isinstance(found, Barred) and await ReadStop()):  # else a lookup may have been cut short
            plan.requirements[endpoint] = found
    return found


async def require_all(plan: DeliveryPlan, security: Security | None) -> None:
    """Decide on all candidates beforehand, to show the whole plan."""
    for candidate in plan.route.candidates:
        await requirement_for(plan, candidate.endpoint, security)


async def may_share(
    request: DestinationRequest, security: Security, peer: Peer, wish: TLSDemand = TLSDemand.NONE
) -> bool:
    """Whether mail for another destination may use an open session: it must be as secure as its own would be.

    A host that serves two destinations may have to prove more for one of them than for the other, another name for
    example. ``wish`` is the TLS demand that the session was opened for, hence the most that its mail may demand.
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
