"""The explanation of a destination as a value: how mail would be delivered there, and why.

:func:`explain` awaits the rules that delivery uses: ``plan_delivery`` and ``requirement_for`` make the plan,
``helo_name`` chooses the HELO name. This module has no rules; it adds facts for people beside the plan: the TLSA
records as received, the source addresses of connections, and a receiver's view of the HELO name::

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
"""The local address of a connection to an endpoint, "" for UNIX sockets; raises ConnectError."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """How this side appears to a candidate: its source address, its HELO name, and a receiver's check of both.

    ``check`` is None without anything to look up: for UNIX sockets, and with a ``problem``: there is no route to it.
    """

    source: str
    name: str = ""
    check: HeloCheck | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """The limits of a delivery: numbers of hosts and addresses, and its timeouts."""

    hosts: int
    addresses: int
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a recorded delivery at one candidate."""

    good: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All facts about one destination.

    ``asked`` is the operand of the command, ``via`` the relay for its mail, "" without one, ``route`` the rule of the
    configuration that decides on it, if any. ``lookups`` are all answers in order, those of the plan among them.
    ``introductions`` and ``probes`` are by endpoint; ``probes`` is empty unless connections were requested. A recorded
    delivery has ``trials``, its end (``ended`` in words and as a status; ``undelivered`` are the recipients without the
    message, with the reason), and no limits. ``unvalidated`` is the answer to a repeated query without validation,
    after a name server had failed without a reason; None if none had. ``sender`` is the receivers' view of the sender,
    None if no sender was named.
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
        """Whether mail can be delivered there, as far as known; for a recorded delivery, its end."""
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
        """The reason why mail cannot be delivered there now, in a few words; "" if it can, or if unknown."""
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
        """The conclusion from a repeated query without validation after a name server failed; "" without one."""
        again = self.unvalidated
        if again is None:
            return ""
        asked = f"{again.query.name} {again.query.type.value}"
        if again.temporary:
            return f"{asked}: no answer without DNSSEC validation either: the servers of the zone fail"
        return f"{asked}: there is an answer without DNSSEC validation: the zone is bogus"

    @property
    def answer(self) -> RecipientAnswer | None:
        """The deciding answer about a recipient: that of the first candidate with a session and a reply."""
        for candidate in self.plan.route.candidates:
            probe = self.probes.get(candidate.endpoint)
            if probe is not None and probe.answer is not None:
                return probe.answer
        return None

    def is_private(self, endpoint: Endpoint) -> bool:
        """Whether the DNS names an address of private networks only (RFC 1918, RFC 4193)."""
        if self.via or endpoint.literal or endpoint.family is Family.UNIX:
            return False
        address = ip_address(endpoint.address.partition("%")[0])
        return any(address in network for network in _PRIVATE)

    def tlsa_answers(self, endpoint: Endpoint) -> tuple[Answer, ...]:
        """The answers about TLSA records for the port of ``endpoint`` and its names, in the order of the queries."""
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
    """Plan a delivery for mail with this TLS demand, decide on every candidate, and check the HELO name for each."""
    lookups: list[Answer] = []
    plan = await _recording(plan_delivery(request, settings.security, wish), lookups)
    await _recording(require_all(plan, settings.security), lookups)
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


def _recording(work: Operation[T], answers: list[Answer]) -> Operation[T]:
    """``work``, with the answers to its lookups added to ``answers``."""

    def answered(effect: object, answer: object) -> None:
        if isinstance(answer, Answer):
            answers.append(answer)

    return observed(work, answered)


def destination_of(asked: str) -> str:
    """The destination of mail to ``asked``: the domain or literal of an address, or the text if it is a destination."""
    is_address = "@" in asked and asked[:5].lower() != "unix:"
    return asked.rpartition("@")[2] if is_address else asked
