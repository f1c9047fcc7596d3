"""What a delivery to a destination would do, and why, as a value.

:func:`explain` awaits the rules that delivery uses: ``plan_delivery`` and ``requirement_for`` make the plan,
``helo_name`` chooses the greeting. No rule is here; what is added is what a person wants to see beside the plan: the
TLSA records as they came, where connections come from, and how the greeting looks to a receiver::

    explanation = driver.run(explain("user@example.org", request, settings, source))
    explanation.status        # Exit.OK: it can be delivered to
    explanation.plan          # what delivery would execute
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar

from zsmtp.cli.probe import Probe, RecipientAnswer
from zsmtp.cli.sysexits import Exit
from zsmtp.delivery.deliveryplan import DeliveryPlan, plan_delivery, require_all
from zsmtp.delivery.outcome import Disposition
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.answer import SERVFAIL_ALONE, Answer, RecordType
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.dns.destination import DestinationRequest
from zsmtp.dns.heloname import HeloCheck, check_helo, helo_name
from zsmtp.effects import Operation, observed
from zsmtp.errors import ConnectError
from zsmtp.escape import escape
from zsmtp.proto.phase import Timeouts
from zsmtp.proto.plan import TLSDemand
from zsmtp.records import replace
from zsmtp.tls.policy import Barred

if TYPE_CHECKING:
    from zsmtp.cli.senderside import SenderView

T = TypeVar("T")

_PRIVATE = tuple(ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))

SourceOf = Callable[[Endpoint], str]
"""The local address that a connection to an endpoint comes from, "" for UNIX sockets; raises ConnectError."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """How this side comes to a candidate: from which address, under which name, and what a receiver makes of that.

    ``check`` is None where there is nothing to look up: UNIX sockets, and ``problem``, if there is no way there.
    """

    source: str
    name: str = ""
    check: HeloCheck | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """How far a delivery goes: hosts and addresses looked at, and how long it waits for what."""

    hosts: int
    addresses: int
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class Trial:
    """What a recorded delivery found at a candidate."""

    good: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All there is to tell of one destination.

    ``asked`` is what was asked about, ``via`` the relay that takes its mail, "" if none does, ``route`` by which rule
    of the configuration, as far as one decides on it. ``lookups`` are all answers in the order they came, those of the
    plan among them. ``introductions`` and ``probes`` are by endpoint; there are no probes unless connections were asked
    for. Of a recorded delivery there are ``trials``, what came of it (``ended`` in words and as a status;
    ``undelivered`` the recipients who have not got it, with the reason), and no limits. ``unvalidated`` is the answer
    to a question whose name server had failed without a word why, asked again without validation; None if none had.
    ``sender`` is how receivers will see the sender, None if nobody asked about one.
    """

    asked: str
    plan: DeliveryPlan
    via: str = ""
    route: str = ""
    limits: DeliveryLimits | None = None
    lookups: tuple[Answer, ...] = ()
    introductions: Mapping[Endpoint, Introduction] = field(default_factory=dict)
    probes: Mapping[Endpoint, Probe] = field(default_factory=dict)
    trials: Mapping[Endpoint, Trial] = field(default_factory=dict)
    ended: tuple[str, Exit] | None = None
    undelivered: tuple[tuple[str, str], ...] = ()
    unvalidated: Answer | None = None
    sender: SenderView | None = None

    @property
    def status(self) -> Exit:
        """Whether it can be delivered to, as far as is known; of a recorded delivery, how it ended."""
        if self.ended is not None:
            return self.ended[1]
        failure = self.plan.route.failure
        if failure is not None:
            return Exit.NO_HOST if failure.permanent else Exit.TEMPORARY
        if all(isinstance(self.plan.requirements.get(one.endpoint), Barred) for one in self.plan.route.candidates):
            return Exit.TEMPORARY
        answer = self.answer
        if answer is not None:
            failed = answer.verdict is not None and answer.verdict.fate is Disposition.FAILED
            return Exit.OK if answer.verdict is None else Exit.UNAVAILABLE if failed else Exit.TEMPORARY
        if not self.probes or any(probe.verdict is None for probe in self.probes.values()):
            return Exit.OK
        verdicts = [probe.verdict for probe in self.probes.values()]
        return Exit.UNAVAILABLE if all(one and one.fate is Disposition.FAILED for one in verdicts) else Exit.TEMPORARY

    @property
    def reason(self) -> str:
        """Why it cannot be delivered to now, in a few words; "" if it can, or nobody knows."""
        failure = self.plan.route.failure
        if failure is not None:
            return f"{escape(failure.text)} ({failure.status})"
        if self.answer is not None:
            return self.answer.words if self.answer.verdict is not None else ""
        if self.status is Exit.OK or self.ended is not None:
            return ""
        barred = [one.reason for one in self.plan.requirements.values() if isinstance(one, Barred)]
        reasons = [probe.reason for probe in self.probes.values()] or [escape(reason) for reason in barred]
        for reason, count in Counter(reasons).most_common(1):
            return f"{count} of {len(reasons)}: {reason}" if len(reasons) > 1 else reason
        return ""

    @property
    def validation(self) -> str:
        """What asking again without validation tells of a name server that failed; "" if nobody did."""
        again = self.unvalidated
        if again is None:
            return ""
        asked = f"{again.query.name} {again.query.type.value}"
        if again.temporary:
            return f"{asked}: no answer without DNSSEC validation either: the servers of the zone fail"
        return f"{asked}: there is an answer without DNSSEC validation: the zone is bogus"

    @property
    def answer(self) -> RecipientAnswer | None:
        """What decides about a recipient: the answer of the first candidate that had a session and said something."""
        for candidate in self.plan.route.candidates:
            probe = self.probes.get(candidate.endpoint)
            if probe is not None and probe.answer is not None:
                return probe.answer
        return None

    def is_private(self, endpoint: Endpoint) -> bool:
        """Whether the DNS leads to an address that only a private network has (RFC 1918, RFC 4193)."""
        if self.via or endpoint.literal or endpoint.family is Family.UNIX:
            return False
        address = ip_address(endpoint.address.partition("%")[0])
        return any(address in network for network in _PRIVATE)

    def tlsa_answers(self, endpoint: Endpoint) -> tuple[Answer, ...]:
        """The answers about TLSA records for the port of ``endpoint`` and the names it goes by, in the order asked."""
        prefix = f"_{endpoint.port}._tcp."
        names = {endpoint.host.lower()}
        names |= {one.canonical.lower() for one in self.lookups if one.query.name == endpoint.host.lower()}
        return tuple(
            one
            for one in self.lookups
            if one.query.type is RecordType.TLSA
            and one.query.name.startswith(prefix)
            and one.query.name.removeprefix(prefix) in names
        )


async def explain(
    asked: str,
    request: DestinationRequest,
    settings: SessionSettings,
    source_of: SourceOf,
    *,
    via: str = "",
    route: str = "",
    wish: TLSDemand = TLSDemand.NONE,
) -> Explanation:
    """Plan a delivery for mail with this ``wish``, decide on every candidate, and look at the greeting of each."""
    lookups: list[Answer] = []
    plan = await _heard(plan_delivery(request, settings.security, wish), lookups)
    await _heard(require_all(plan, settings.security), lookups)
    failed = next((one for one in lookups if one.problem == SERVFAIL_ALONE), None)
    unvalidated = None if failed is None else await replace(failed.query, validated=False)
    introductions: dict[Endpoint, Introduction] = {}
    known: dict[str, Introduction] = {}
    for candidate in plan.route.candidates:
        endpoint = candidate.endpoint
        try:
            source = source_of(endpoint)
        except ConnectError as error:
            introductions[endpoint] = Introduction("", problem=str(error))
            continue
        if source not in known:
            known[source] = await _introduce(source, endpoint, settings)
        introductions[endpoint] = known[source]
    return Explanation(
        asked=asked,
        plan=plan,
        via=via,
        route=route,
        limits=DeliveryLimits(request.max_hosts, request.max_addresses, settings.timeouts),
        lookups=tuple(dict.fromkeys(lookups)),
        introductions=introductions,
        unvalidated=unvalidated,
    )


async def _introduce(source: str, endpoint: Endpoint, settings: SessionSettings) -> Introduction:
    local = None if endpoint.family is Family.UNIX else source
    name = await helo_name(local, configured=settings.helo_name, host_name=settings.host_name)
    if local is None:
        return Introduction("", name)
    return Introduction(source, name, await check_helo(name, source))


def _heard(work: Operation[T], answers: list[Answer]) -> Operation[T]:
    """``work``, the answers to its questions kept."""

    def answered(effect: object, answer: object) -> None:
        if isinstance(answer, Answer):
            answers.append(answer)

    return observed(work, answered)


def destination_of(asked: str) -> str:
    """Where mail to ``asked`` goes: the domain or literal of an address, or the text itself if it is a destination."""
    is_address = "@" in asked and asked[:5].lower() != "unix:"
    return asked.rpartition("@")[2] if is_address else asked
