"""Making a session as secure as it must be: STARTTLS, the verdict on the peer's certificate, and the login.

RFC 3207 is the command, RFC 4954 the login; which protection a candidate must have is decided in ``zsmtp.tls.policy``,
whether it has it in ``zsmtp.tls.judgement``. Here the steps are taken in order, and three things are never done:
nothing is said over a session before it was judged good enough, nothing known from before the handshake is used after
it, and no mail goes out without a login that was asked for. All methods are generators of effects.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from zsmtp.delivery.outcome import Peer, from_login, from_loss, from_security, waited_in_vain
from zsmtp.delivery.plan import DeliveryPlan, requirement_for
from zsmtp.delivery.protection import InClear, Protection, Secured, Stale, Unfit
from zsmtp.delivery.tlsreport import TLSReporter
from zsmtp.dns.ip import is_loopback
from zsmtp.dns.plan import Endpoint, Family, Plan
from zsmtp.errors import ConfigError, Interrupted, ZsmtpError
from zsmtp.events import About, Decision, HandshakeDone, HandshakeStarted, Observer, Remark, ignore
from zsmtp.events import Secured as SecuredEvent
from zsmtp.net.effects import Exchange, StartTLS, Stream, TLSResult
from zsmtp.proto import sasl
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, Result
from zsmtp.proto.session import Lost, Session
from zsmtp.tls.certificate import server_end_point
from zsmtp.tls.context import ContextOptions, Strength
from zsmtp.tls.dane import described
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.judgement import judge, without_tls
from zsmtp.tls.policy import Barred, Policy, Requirement, STSUse
from zsmtp.tls.problem import Problem
from zsmtp.tls.resume import Resumption, SessionCache, SessionKey
from zsmtp.tls.tlsrpt import SessionResult

STARTTLS = b"STARTTLS\r\n"


def _say_nothing(text: str) -> None:
    """Who hears warnings if nobody wants to."""


@dataclass(slots=True)
class ResolverTrust:
    """Whether the resolver was asked, and whether its answers can be secure (None: unknown)."""

    asked: bool = False
    validates: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What is asked of sessions.

    ``policy_for`` gives the policy for a destination and ``credentials_for`` who logs in at a server for mail to a
    destination; both raise ConfigError where the configuration for it cannot be used: its mail is to wait. ``context``
    are the options of every handshake but its strength; ``ca_file`` and ``ca_path`` hold the trust anchors, "" both:
    the system's. ``mta_sts`` is what MTA-STS policies are used for. ``session_lifetime`` is for how many seconds a
    session may be resumed, 0 for no resumption. ``log_level`` from 2 on tells observers of each certificate, from 3 on
    of what was required in full. ``nonce`` gives fresh random text for a login. With ``login_required`` a server that
    offers no AUTH gets no mail where somebody is to log in; without, it gets the mail as it is.
    ``report`` takes the results of sessions with destinations that ask for TLS reports; it must not wait or raise.
    ``warn`` hears what whoever runs this should put right, once; ``resolver`` remembers what is known of it.
    """

    policy_for: Callable[[str], Policy]
    credentials_for: Callable[[str, str], sasl.Credentials | None]
    nonce: Callable[[], bytes]
    context: ContextOptions = ContextOptions()  # noqa: RUF009
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
    warn: Callable[[str], None] = _say_nothing
    resolver: ResolverTrust = field(default_factory=ResolverTrust)


class SecurityStage:
    """Takes the steps for one configuration; ``timeout`` bounds a handshake, in seconds."""

    def __init__(self, security: Security, timeout: float, observer: Observer) -> None:
        self.security = security
        self._timeout = timeout
        self._observe = observer
        self._report = TLSReporter(security.report)
        lifetime = security.session_lifetime
        self._sessions = SessionCache(lifetime=lifetime) if lifetime else None

    def required(self, plan: DeliveryPlan, endpoint: Endpoint) -> Generator[Any, Any, Requirement | Unfit]:
        """What a session with this candidate must be, or why the candidate must not be used now."""
        decided = endpoint in plan.requirements  # and told
        found = yield from requirement_for(plan, endpoint, self.security)
        assert found is not None
        if isinstance(found, Barred):
            self._observe(Remark(f"{endpoint.host}: not used: {found.reason}", About.SECURITY))
            self._report.barred(plan, found, Peer(endpoint))
            return Unfit(from_security(found.reason, Peer(endpoint), final=False))
        if not decided and self._observe is not ignore:
            names = f" ({', '.join(found.names[:10])})" if found.names else ""
            text = f"{endpoint.host}: level {found.level.value}{names}: {found.reason}"
            self._observe(Decision(About.SECURITY, text))
        return found

    def start_tls(
        self,
        stream: Stream,
        session: Session,
        offered: Capabilities,
        plan: DeliveryPlan,
        required: Requirement,
        peer: Peer,
    ) -> Generator[Any, Any, Secured | InClear | Unfit | Stale]:
        """STARTTLS after a first EHLO, if it is wanted and offered."""
        if not required.wants_tls:
            return InClear("no TLS is wanted")
        if not offered.starttls:
            text = "STARTTLS is not offered"
            return _in_order(self._in_clear(plan, required, Problem.STARTTLS_NOT_SUPPORTED, text, peer))
        session.command(Phase.STARTTLS, STARTTLS)
        heard = yield Exchange(stream, session)
        if isinstance(heard, Lost):
            return self._broken(heard.error, plan, required, peer)
        if heard.result is not Result.SUCCESS:
            text = f"STARTTLS was refused: {heard.reply}"
            return _in_order(self._in_clear(plan, required, Problem.STARTTLS_NOT_SUPPORTED, text, peer))
        if not session.clean():
            injected = "octets in clear came behind the answer to STARTTLS"
            self._report.in_clear(plan, required, peer, Problem.VALIDATION_FAILURE, injected)
            return Unfit(from_security(injected, peer, final=False))
        return (yield from self.handshake(stream, plan, required, peer))

    def handshake(
        self, stream: Stream, plan: DeliveryPlan, required: Requirement, peer: Peer
    ) -> Generator[Any, Any, Secured | InClear | Unfit | Stale]:
        """The handshake and the judgement on it; ``stream`` is of no use any more unless the result is Secured."""
        options = replace(self.security.context, strength=Strength.of(required.level))
        if self._observe is not ignore:
            self._observe(HandshakeStarted(required.server_name))
        result: TLSResult = yield StartTLS(
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
            return Unfit(from_loss(Interrupted("told to stop"), "", peer), interrupted=True)
        if result.stream is None and result.resuming:
            return Stale(result.error)
        if result.stream is None or result.facts is None:
            outcome = self._in_clear(plan, required, Problem.VALIDATION_FAILURE, result.error, peer)
            return _broken_off(outcome, result.error if result.timed_out else "")
        try:
            judgement = judge(required, result.facts, now=result.now, anchors=result.anchors)
        except ConfigError as error:  # the trust anchors cannot be read
            return Unfit(from_security(str(error), peer, final=False))
        if self._observe is not ignore:
            self._observe(SecuredEvent(peer.endpoint, result.facts, judgement))
            self._tell_more(result.facts, required)
        self._report.secured(plan, required, peer, judgement)
        if not judgement.ok:
            return Unfit(from_security(judgement.text, peer, final=self.security.failure_is_final))
        result.approved()
        return Secured(result.stream, Protection(required, result.facts, judgement))

    def _tell_more(self, facts: TLSFacts, required: Requirement) -> None:
        if self.security.log_level >= 2:
            for line in facts.certificates:
                self._observe(Remark(line, About.SECURITY))
        if self.security.log_level >= 3:
            wanted = " ".join([*required.names, *(f"TLSA {described(record)}" for record in required.tlsa)])
            text = f"required: {required.level.value} ({required.reason}) {wanted}".rstrip()
            self._observe(Remark(text, About.SECURITY))

    def _resumption(self, endpoint: Endpoint, options: ContextOptions, required: Requirement) -> Resumption | None:
        """Where the session for this endpoint and requirement is kept, if sessions are."""
        if self._sessions is None:
            return None
        key = SessionKey(endpoint.address, endpoint.port, required.server_name, options, required)
        return Resumption(self._sessions, key)

    def log_in(
        self, stream: Stream, session: Session, offered: Capabilities, plan: Plan, peer: Peer
    ) -> Generator[Any, Any, Unfit | None]:
        """AUTH, if somebody is to log in here and the server offers it; None if all is well."""
        if not offered.auth and not self.security.login_required:
            return None
        try:
            credentials = self.security.credentials_for(peer.endpoint.host, plan.destination)
        except ConfigError as error:
            return Unfit(from_login(str(error), peer), in_order=True)
        if credentials is None:
            return None
        if not offered.auth:
            return Unfit(from_login("a login was asked for, and AUTH is not offered", peer), in_order=True)
        facts = peer.protection.facts if peer.protection is not None else None
        chosen = sasl.choose(
            offered.auth,
            credentials,
            cleartext_allowed=facts is not None or self.security.allow_cleartext or _stays_here(peer.endpoint),
            channel_binding=_binding(facts),
            nonce=self.security.nonce(),
        )
        if isinstance(chosen, sasl.NoMechanism):
            return Unfit(from_login(chosen.reason, peer), in_order=True)
        secret = credentials.secret.reveal()
        session.hide((secret, b64encode(secret)))  # a server that was told it may say it in words of its own
        login = sasl.Authentication(chosen)
        step: sasl.Line | sasl.Accepted | sasl.Refused = login.start()
        while isinstance(step, sasl.Line):
            session.command(Phase.AUTH, step.wire, shown=step.shown)
            heard = yield Exchange(stream, session)
            if isinstance(heard, Lost):
                stopped = isinstance(heard.error, Interrupted)
                return Unfit(
                    from_login(str(heard.error), peer), interrupted=stopped, unanswered=waited_in_vain(heard.error)
                )
            step = login.hear(heard.reply)
        if isinstance(step, sasl.Refused):
            return Unfit(from_login(step.reason, peer), in_order=True)
        self._observe(Remark(f"logged in with {step.mechanism}", About.SECURITY))
        return None

    def _in_clear(
        self, plan: DeliveryPlan, required: Requirement, problem: Problem, text: str, peer: Peer
    ) -> InClear | Unfit:
        self._report.in_clear(plan, required, peer, problem, text)
        judgement = without_tls(required, problem, text)
        self._observe(Remark(f"no TLS: {judgement.text}", About.SECURITY))
        if self.security.implicit:
            return Unfit(from_security(text, peer, final=False))
        if judgement.ok:
            return InClear(judgement.text)
        return Unfit(from_security(judgement.text, peer, final=self.security.failure_is_final))

    def _broken(self, error: ZsmtpError, plan: DeliveryPlan, required: Requirement, peer: Peer) -> InClear | Unfit:
        if isinstance(error, Interrupted):
            return Unfit(from_loss(error, "", peer), interrupted=True)
        outcome = self._in_clear(plan, required, Problem.STARTTLS_NOT_SUPPORTED, f"STARTTLS: {error}", peer)
        return _broken_off(outcome, waited_in_vain(error))


def _in_order(outcome: InClear | Unfit) -> InClear | Unfit:
    return replace(outcome, in_order=True) if isinstance(outcome, Unfit) else outcome


def _broken_off(outcome: InClear | Unfit, unanswered: str) -> InClear | Unfit:
    if isinstance(outcome, Unfit):
        return replace(outcome, unanswered=unanswered)
    return replace(outcome, broken=True, unanswered=unanswered)


def _stays_here(endpoint: Endpoint) -> bool:
    return endpoint.family is Family.UNIX or is_loopback(endpoint.address)


def _binding(facts: TLSFacts | None) -> sasl.ChannelBinding | None:
    """RFC 5929 4: a digest of the server's certificate binds the login to this session."""
    leaf = facts.leaf if facts is not None else None
    data = server_end_point(leaf) if leaf is not None else None
    return sasl.ChannelBinding("tls-server-end-point", data) if data else None
