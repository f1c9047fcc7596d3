"""Making a session as secure as it must be: STARTTLS, the verdict on the peer's certificate, and the login.

RFC 3207 is the command, RFC 4954 the login; which protection a candidate must have is decided in ``zsmtp.tls.policy``,
whether it has it in ``zsmtp.tls.judgement``. Here the steps are taken in order, and three things are never done:
nothing is said over a session before it was judged good enough, nothing known from before the handshake is used after
it, and no mail goes out without a login that was asked for. The methods await effects.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from zsmtp.delivery.deliveryplan import DeliveryPlan, requirement_for
from zsmtp.delivery.outcome import Peer, from_login, from_loss, from_security, waited_in_vain
from zsmtp.delivery.protection import InClear, NotSecured, Protection, ResumptionFailed, SecuredStream
from zsmtp.delivery.sessionopener import next_reply
from zsmtp.delivery.tlsreport import TLSReporter
from zsmtp.dns.candidates import Endpoint, Family, Plan
from zsmtp.dns.ip import is_loopback
from zsmtp.effects import ReadClock, ReadStop, StartTLS, Stream
from zsmtp.errors import ConfigError, Interrupted, ZsmtpError
from zsmtp.events import About, Decision, HandshakeDone, HandshakeStarted, Observer, Remark, ignore
from zsmtp.events import Secured as SecuredEvent
from zsmtp.proto import auth, sasl
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.session import Lost, Session
from zsmtp.records import dataclass, field, replace
from zsmtp.tls.certificate import server_end_point
from zsmtp.tls.context import ContextOptions, Strength
from zsmtp.tls.dane import described
from zsmtp.tls.facts import TLSFacts
from zsmtp.tls.judgement import judge, without_tls
from zsmtp.tls.policy import Barred, Requirement, STSUse, TLSPolicy
from zsmtp.tls.problem import TLSProblem
from zsmtp.tls.resume import Resumption, SessionCache, SessionKey
from zsmtp.tls.tlsrpt import SessionResult

STARTTLS = b"STARTTLS\r\n"
MAX_PLACES = 1000  # servers and users whose mechanism is remembered
BETTER_AFTER = 3600.0  # seconds after which a server is asked again for the best mechanism it lists


def _say_nothing(text: str) -> None:
    """Who hears warnings if nobody wants to."""


@dataclass(slots=True)
class ResolverTrust:
    """Whether the resolver was asked, and whether its answers can be secure (None: unknown)."""

    asked: bool = False
    validates: bool | None = None


class AcceptedMechanisms:
    """The mechanism that was accepted last, by server and user: connections begin with it for ``BETTER_AFTER`` seconds.

    Otherwise a server that lists SCRAM and has nothing to check it by would see a failed login on every connection.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, int, bytes], tuple[str, float]] = {}  # the oldest first

    def get(self, place: tuple[str, int, bytes], now: float) -> str:
        """Its name, "" if none was, or long ago: a better one may do by now."""
        name, since = self._names.get(place, ("", now))
        return name if now < since + BETTER_AFTER else ""

    def remember(self, place: tuple[str, int, bytes], mechanism: str, now: float) -> None:
        """A login succeeded."""
        if self.get(place, now) == mechanism:
            return
        self._names.pop(place, None)
        while len(self._names) >= MAX_PLACES:
            del self._names[next(iter(self._names))]
        self._names[place] = mechanism, now

    def forget(self, place: tuple[str, int, bytes]) -> None:
        """No mechanism was accepted."""
        self._names.pop(place, None)


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
    ``warn`` hears what whoever runs this should put right, once; ``resolver`` remembers what is known of it,
    ``accepted`` which mechanisms servers took.
    """

    policy_for: Callable[[str], TLSPolicy]
    credentials_for: Callable[[str, str], sasl.Credentials | None]
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
    warn: Callable[[str], None] = _say_nothing
    resolver: ResolverTrust = field(default_factory=ResolverTrust)
    accepted: AcceptedMechanisms = field(default_factory=AcceptedMechanisms)


class SecurityStage:
    """Takes the steps for one configuration; ``timeout`` bounds a handshake, in seconds."""

    def __init__(self, security: Security, timeout: float, observer: Observer) -> None:
        self.security = security
        self._timeout = timeout
        self._observe = observer
        self._report = TLSReporter(security.report)
        lifetime = security.session_lifetime
        self._sessions = SessionCache(lifetime=lifetime) if lifetime else None

    async def required(self, plan: DeliveryPlan, endpoint: Endpoint) -> Requirement | NotSecured:
        """What a session with this candidate must be, or why the candidate must not be used now."""
        decided = endpoint in plan.requirements  # and told
        found = await requirement_for(plan, endpoint, self.security)
        assert found is not None
        if isinstance(found, Barred):
            self._observe(Remark(f"{endpoint.host}: not used: {found.reason}", About.SECURITY))
            if not await ReadStop():  # else it may be for a lookup cut short
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
        """STARTTLS after a first EHLO, if it is wanted and offered."""
        if not required.wants_tls:
            return InClear("no TLS is wanted")
        if not offered.starttls:
            text = "STARTTLS is not offered"
            return _in_order(self._in_clear(plan, required, TLSProblem.STARTTLS_NOT_SUPPORTED, text, peer))
        session.command(Phase.STARTTLS, STARTTLS)
        heard = await next_reply(stream, session)
        if isinstance(heard, Lost):
            return self._broken(heard.error, plan, required, peer)
        if heard.result is not ReplyMeaning.SUCCESS:
            text = f"STARTTLS was refused: {heard.reply}"
            return _in_order(self._in_clear(plan, required, TLSProblem.STARTTLS_NOT_SUPPORTED, text, peer))
        if not session.clean():
            injected = "octets in clear came behind the answer to STARTTLS"
            self._report.in_clear(plan, required, peer, TLSProblem.VALIDATION_FAILURE, injected)
            return NotSecured(from_security(injected, peer, final=False))
        return await self.handshake(stream, plan, required, peer)

    async def handshake(
        self, stream: Stream, plan: DeliveryPlan, required: Requirement, peer: Peer
    ) -> SecuredStream | InClear | NotSecured | ResumptionFailed:
        """The handshake and the judgement on it; ``stream`` is of no use any more unless the result is Secured."""
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
            return NotSecured(from_loss(Interrupted("told to stop"), "", peer), interrupted=True)
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
            self._tell_more(result.facts, required)
        self._report.secured(plan, required, peer, judgement)
        if not judgement.ok:
            return NotSecured(from_security(judgement.text, peer, final=self.security.failure_is_final))
        result.approved()
        return SecuredStream(result.stream, Protection(required, result.facts, judgement))

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

    async def log_in(
        self, stream: Stream, session: Session, offered: Capabilities, plan: Plan, peer: Peer
    ) -> NotSecured | None:
        """AUTH, if somebody is to log in here and the server offers it; None if all is well."""
        if not offered.auth and not self.security.login_required:
            return None
        try:
            credentials = self.security.credentials_for(peer.endpoint.host, plan.destination)
        except ConfigError as error:
            return NotSecured(from_login(str(error), peer), in_order=True)
        if credentials is None:
            return None
        if not offered.auth:
            return NotSecured(from_login("a login was asked for, and AUTH is not offered", peer), in_order=True)
        facts = peer.protection.facts if peer.protection is not None else None
        place = (peer.endpoint.host, peer.endpoint.port, credentials.user)
        now = await ReadClock()
        choice = sasl.MechanismChoice(
            offered.auth,
            credentials,
            cleartext_allowed=facts is not None or self.security.allow_cleartext or _stays_here(peer.endpoint),
            bindings=_bindings(stream, facts),
            nonce=self.security.nonce,
            first=self.security.accepted.get(place, now),
        )
        secret = credentials.secret.reveal()
        session.hide((secret, b64encode(secret)))  # a server that was told it may say it in words of its own
        while not isinstance(chosen := choice.next(), sasl.NoMechanism):
            ended = await _authenticate(stream, session, chosen)
            if isinstance(ended, Lost):
                return _login_lost(ended.error, peer)
            if isinstance(ended, auth.LoginAccepted):
                self.security.accepted.remember(place, ended.mechanism, now)
                self._observe(Remark(f"logged in with {ended.mechanism}", About.SECURITY))
                return None
            self._observe(Remark(ended.reason, About.SECURITY))
            choice.refused(ended)
        self.security.accepted.forget(place)
        return NotSecured(from_login(chosen.reason, peer), in_order=True)

    def _in_clear(
        self, plan: DeliveryPlan, required: Requirement, problem: TLSProblem, text: str, peer: Peer
    ) -> InClear | NotSecured:
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


def _stays_here(endpoint: Endpoint) -> bool:
    return endpoint.family is Family.UNIX or is_loopback(endpoint.address)


async def _authenticate(
    stream: Stream, session: Session, mechanism: auth.Mechanism
) -> auth.LoginAccepted | auth.Refused | Lost:
    """The dialogue of one mechanism."""
    login = auth.Authentication(mechanism)
    step: auth.Line | auth.LoginAccepted | auth.Refused = login.start()
    while isinstance(step, auth.Line):
        session.command(Phase.AUTH, step.wire, shown=step.shown)
        heard = await next_reply(stream, session)
        if isinstance(heard, Lost):
            return heard
        step = login.receive(heard.reply)
    return step


def _login_lost(error: ZsmtpError, peer: Peer) -> NotSecured:
    """What this side broke off says nothing of the login: it is as if nobody had tried."""
    if isinstance(error, Interrupted):
        return NotSecured(from_loss(error, "", peer), interrupted=True)
    return NotSecured(from_login(str(error), peer), unanswered=waited_in_vain(error))


def _bindings(stream: Stream, facts: TLSFacts | None) -> list[sasl.ChannelBinding]:
    """What a login can be tied to this TLS session by, the best first.

    RFC 9266 4: keying material of the session itself; RFC 5929 4: a digest of the server's certificate.
    """
    leaf = facts.leaf if facts is not None else None
    found = {"tls-exporter": stream.exporter, "tls-server-end-point": server_end_point(leaf) if leaf else None}
    return [sasl.ChannelBinding(name, data) for name, data in found.items() if data]
