"""Secures a session: STARTTLS, the verdict on the peer's certificate, and the login.

RFC 3207 is the command, RFC 4954 the login; ``zsmtp.tls.policy`` decides which protection a candidate must have,
``zsmtp.tls.judgement`` whether it has it. This module takes the steps in order, with three guarantees: nothing is sent
over a session before a positive judgement, nothing received before the handshake is used after it, and no mail is sent
without a login that is configured. The methods await effects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zsmtp.delivery.deliveryplan import DeliveryPlan, requirement_for
from zsmtp.delivery.outcome import Peer, from_login, from_loss, from_security, waited_in_vain
from zsmtp.delivery.protection import InClear, NotSecured, Protection, ResumptionFailed, SecuredStream
from zsmtp.delivery.sessionopener import next_reply
from zsmtp.dns.candidates import Endpoint, Plan
from zsmtp.effects import ReadStop, StartTLS, Stream
from zsmtp.errors import INTERRUPTED, ConfigError, Interrupted, ZsmtpError
from zsmtp.events import About, Decision, HandshakeDone, HandshakeStarted, Observer, Remark, ignore
from zsmtp.events import Secured as SecuredEvent
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.session import Lost, Session
from zsmtp.records import dataclass, field, replace
from zsmtp.tls.context import ContextOptions, Strength
from zsmtp.tls.judgement import judge, without_tls
from zsmtp.tls.policy import Barred, Requirement, STSUse, TLSPolicy
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.resume import Resumption, SessionCache, SessionKey

if TYPE_CHECKING:
    from zsmtp.delivery.tlsreport import TLSReporter
    from zsmtp.proto.sasl import Credentials
    from zsmtp.tls.facts import TLSFacts
    from zsmtp.tls.tlsrpt import SessionResult

STARTTLS = b"STARTTLS\r\n"
MAX_PLACES = 1000  # pairs of server and user whose mechanism is remembered
BETTER_AFTER = 3600.0  # seconds after which the best listed mechanism is tried first again


def _discard(text: str) -> None:
    """Default for ``warn``: discard warnings."""


@dataclass(slots=True)
class ResolverTrust:
    """Whether the resolver was tested, and whether its answers can be secure (None: unknown)."""

    asked: bool = False
    validates: bool | None = None


class AcceptedMechanisms:
    """The mechanism that was accepted last, by server and user: connections begin with it for ``BETTER_AFTER`` seconds.

    Otherwise every connection would begin with a failed login at a server that lists SCRAM without data to check it.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, int, bytes], tuple[str, float]] = {}  # the oldest first

    def get(self, place: tuple[str, int, bytes], now: float) -> str:
        """The name of the mechanism; "" if none was accepted, or long ago: a better one may work by now."""
        name, since = self._names.get(place, ("", now))
        return name if now < since + BETTER_AFTER else ""

    def remember(self, place: tuple[str, int, bytes], mechanism: str, now: float) -> None:
        """Note a successful login."""
        if self.get(place, now) == mechanism:
            return
        self._names.pop(place, None)
        while len(self._names) >= MAX_PLACES:
            del self._names[next(iter(self._names))]
        self._names[place] = mechanism, now

    def forget(self, place: tuple[str, int, bytes]) -> None:
        """Note that no mechanism was accepted."""
        self._names.pop(place, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """The security configuration of sessions.

    ``policy_for`` returns the policy for a destination and ``credentials_for`` the credentials for mail to a
    destination over a server; both raise ConfigError if the configuration for it is invalid: its mail waits.
    ``context`` are the options of every handshake except its strength; ``ca_file`` and ``ca_path`` hold the trust
    anchors, "" both: the system's. ``mta_sts`` is the use of MTA-STS policies. ``session_lifetime`` is for how many
    seconds a session may be resumed, 0 for no resumption. ``log_level`` from 2 on sends observers each certificate,
    from 3 on the full requirement. ``nonce`` returns fresh random text for a login. With ``login_required`` a server
    that does not offer AUTH gets no mail for which there are credentials; without, it gets the mail without a login.
    ``report`` takes the results of sessions with destinations that request TLS reports; it must not wait or raise.
    ``warn`` is called once for each problem that the operator should correct; ``resolver`` caches whether the resolver
    validates, ``accepted`` the accepted mechanisms.
    """

    policy_for: Callable[[str], TLSPolicy]
    credentials_for: Callable[[str, str], Credentials | None]
    nonce: Callable[[], bytes]
    context: ContextOptions = ContextOptions()
    ca_file: str = ""
    ca_path: str = ""
    mta_sts: STSUse = STSUse.OFF
    session_lifetime: float = 0.0
    log_level: int = 0
    implicit: bool = False
    allow_cleartext: bool = False
    login_required: bool = False
    failure_is_final: bool = False
    report: Callable[[SessionResult], None] | None = None
    warn: Callable[[str], None] = _discard
    resolver: ResolverTrust = field(default_factory=ResolverTrust)
    accepted: AcceptedMechanisms = field(default_factory=AcceptedMechanisms)


class SecurityStage:
    """Takes the steps for one configuration; ``timeout`` bounds a handshake, in seconds."""

    def __init__(self, security: Security, timeout: float, observer: Observer) -> None:
        self.security = security
        self._timeout = timeout
        self._observe = observer
        self._report = None if security.report is None else _reporter(security.report)
        lifetime = security.session_lifetime
        self._sessions = SessionCache(lifetime=lifetime) if lifetime else None

    async def required(self, plan: DeliveryPlan, endpoint: Endpoint) -> Requirement | NotSecured:
        """The requirement for a session with this candidate, or why the candidate must not be used now."""
        decided = endpoint in plan.requirements  # and reported
        found = await requirement_for(plan, endpoint, self.security)
        assert found is not None
        if isinstance(found, Barred):
            self._observe(Remark(f"{endpoint.host}: not used: {found.reason}", About.SECURITY))
            if self._report is not None and not await ReadStop():  # else a lookup may have been cut short
                self._report.barred(plan, found, Peer(endpoint))
            return NotSecured(from_security(found.reason, Peer(endpoint), final=False))
        if not decided and self._observe is not ignore:
            names = f" ({', '.join(found.names[:10])})" if found.names else ""
            text = f"{endpoint.host}: level {found.level.value}{names}: {found.reason}"
            self._observe(Decision(About.SECURITY, text))
        return found

    async def start_tls(
        self,
        stream: Stream,
        session: Session,
        offered: Capabilities,
        plan: DeliveryPlan,
        required: Requirement,
        peer: Peer,
    ) -> SecuredStream | InClear | NotSecured | ResumptionFailed:
        """Do STARTTLS after a first EHLO, if it is wanted and offered."""
        if not required.wants_tls:
            return InClear("no TLS is wanted")
        if not offered.starttls:
            text = "STARTTLS is not offered"
            return _in_order(self._in_clear(plan, required, TLSProblem.STARTTLS_NOT_SUPPORTED, text, peer))
        session.command(Phase.STARTTLS, STARTTLS)
        answer = await next_reply(stream, session)
        if isinstance(answer, Lost):
            return self._broken(answer.error, plan, required, peer)
        if answer.result is not ReplyMeaning.SUCCESS:
            text = f"STARTTLS was refused: {answer.reply}"
            return _in_order(self._in_clear(plan, required, TLSProblem.STARTTLS_NOT_SUPPORTED, text, peer))
        if not session.clean():
            injected = "octets in clear came behind the answer to STARTTLS"
            if self._report is not None:
                self._report.in_clear(plan, required, peer, TLSProblem.VALIDATION_FAILURE, injected)
            return NotSecured(from_security(injected, peer, final=False))
        return await self.handshake(stream, plan, required, peer)

    async def handshake(
        self, stream: Stream, plan: DeliveryPlan, required: Requirement, peer: Peer
    ) -> SecuredStream | InClear | NotSecured | ResumptionFailed:
        """Do the handshake and judge it; ``stream`` must not be used again unless the result is SecuredStream."""
        options = replace(self.security.context, strength=Strength.of(required.level))
        if self._observe is not ignore:
            self._observe(HandshakeStarted(required.server_name))
        result = await StartTLS(
            stream,
            options,
            required.server_name,
            self._timeout,
            self.security.ca_file,
            self.security.ca_path,
            self._resumption(peer.endpoint, options, required),
        )
        if self._observe is not ignore:
            self._observe(HandshakeDone(result.facts, result.error))
        if result.interrupted:
            return NotSecured(from_loss(Interrupted(INTERRUPTED), "", peer), interrupted=True)
        if result.stream is None and result.resuming:
            return ResumptionFailed(result.error)
        if result.stream is None or result.facts is None:
            outcome = self._in_clear(plan, required, TLSProblem.VALIDATION_FAILURE, result.error, peer)
            return _broken_off(outcome, result.error if result.timed_out else "")
        try:
            judgement = judge(required, result.facts, now=result.now, anchors=result.anchors)
        except ConfigError as error:  # the trust anchors cannot be read
            return NotSecured(from_security(str(error), peer, final=False))
        if self._observe is not ignore:
            self._observe(SecuredEvent(peer.endpoint, result.facts, judgement))
            self._report_details(result.facts, required)
        if self._report is not None:
            self._report.secured(plan, required, peer, judgement)
        if not judgement.ok:
            return NotSecured(from_security(judgement.text, peer, final=self.security.failure_is_final))
        result.approved()
        return SecuredStream(result.stream, Protection(required, result.facts, judgement))

    def _report_details(self, facts: TLSFacts, required: Requirement) -> None:
        if self.security.log_level >= 2:
            for line in facts.certificates:
                self._observe(Remark(line, About.SECURITY))
        if self.security.log_level >= 3:
            from zsmtp.tls.dane import described

            wanted = " ".join([*required.names, *(f"TLSA {described(record)}" for record in required.tlsa)])
            text = f"required: {required.level.value} ({required.reason}) {wanted}".rstrip()
            self._observe(Remark(text, About.SECURITY))

    def _resumption(self, endpoint: Endpoint, options: ContextOptions, required: Requirement) -> Resumption | None:
        """The cache entry for this endpoint and requirement, if sessions are cached."""
        if self._sessions is None:
            return None
        key = SessionKey(endpoint.address, endpoint.port, required.server_name, options, required)
        return Resumption(self._sessions, key)

    async def log_in(
        self, stream: Stream, session: Session, offered: Capabilities, plan: Plan, peer: Peer
    ) -> NotSecured | None:
        """Do AUTH, if there are credentials and the server offers it; returns None if that went well."""
        if not offered.auth and not self.security.login_required:
            return None
        try:
            credentials = self.security.credentials_for(peer.endpoint.host, plan.destination)
        except ConfigError as error:
            return NotSecured(from_login(str(error), peer), in_order=True)
        if credentials is None:
            return None
        if not offered.auth:
            return NotSecured(from_login("a login is configured, and AUTH is not offered", peer), in_order=True)
        from zsmtp.delivery.login import log_in  # most sessions have no login

        return await log_in(self.security, self._observe, stream, session, offered, credentials, peer)

    def _in_clear(
        self, plan: DeliveryPlan, required: Requirement, problem: TLSProblem, text: str, peer: Peer
    ) -> InClear | NotSecured:
        if self._report is not None:
            self._report.in_clear(plan, required, peer, problem, text)
        judgement = without_tls(required, problem, text)
        self._observe(Remark(f"no TLS: {judgement.text}", About.SECURITY))
        if self.security.implicit:
            return NotSecured(from_security(text, peer, final=False))
        if judgement.ok:
            return InClear(judgement.text)
        return NotSecured(from_security(judgement.text, peer, final=self.security.failure_is_final))

    def _broken(self, error: ZsmtpError, plan: DeliveryPlan, required: Requirement, peer: Peer) -> InClear | NotSecured:
        if isinstance(error, Interrupted):
            return NotSecured(from_loss(error, "", peer), interrupted=True)
        outcome = self._in_clear(plan, required, TLSProblem.STARTTLS_NOT_SUPPORTED, f"STARTTLS: {error}", peer)
        return _broken_off(outcome, waited_in_vain(error))


def _in_order(outcome: InClear | NotSecured) -> InClear | NotSecured:
    return replace(outcome, in_order=True) if isinstance(outcome, NotSecured) else outcome


def _broken_off(outcome: InClear | NotSecured, unanswered: str) -> InClear | NotSecured:
    if isinstance(outcome, NotSecured):
        return replace(outcome, unanswered=unanswered)
    return replace(outcome, broken=True, unanswered=unanswered)


def _reporter(report: Callable[[SessionResult], None]) -> TLSReporter:
    """What makes the results of sessions for ``report``."""
    from zsmtp.delivery.tlsreport import TLSReporter  # what it imports costs only those who report

    return TLSReporter(report)
