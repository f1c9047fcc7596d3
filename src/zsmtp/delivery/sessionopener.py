"""Opens a session with the first candidate of a plan that accepts one (RFC 5321 3.1, 3.2, 5.1).

:meth:`SessionOpener.open` awaits effects. It connects (later candidates start early while earlier ones hang), reads the
greeting and sends EHLO, with a fallback to HELO for servers that do not know EHLO or close the connection on it. After
a candidate that refuses the next one is tried; the mail fails only if all of them refused permanently (the rule is in
``zsmtp.delivery.outcome``).

Candidates are tried in the plan's order, except that addresses to which connecting failed recently come last, so that a
dead exchanger delays one session only. An exchanger that accepts a connection and does not reply, also in a handshake,
counts as dead; one that replies does not, whatever the reply: trying it again costs little, its reply (421 too busy)
may soon change, and mail should go to the best exchanger that accepts it. A failure on this side (no file descriptor
left) does not count for any address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsmtp.delivery.backoff import AddressBackoff
from zsmtp.delivery.deliveryplan import DeliveryPlan
from zsmtp.delivery.outcome import (
    ConnectFailure,
    Peer,
    Scope,
    Verdict,
    combine_host_failures,
    for_requiretls,
    from_loss,
    from_loss_behind,
    from_no_protection,
    from_reply,
    from_requiretls,
    from_security,
    from_silence,
    waited_in_vain,
)
from zsmtp.delivery.pace import SessionStanding
from zsmtp.delivery.protection import InClear, NotSecured, ResumptionFailed, SecuredStream
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.heloname import helo_name
from zsmtp.effects import Close, Connect, ConnectResult, Exchange, ReadClock, ReadStop, Sleep, Stream
from zsmtp.errors import INTERRUPTED, ConnectionLost, Interrupted, LocalError, ReplyError, WaitTimeout, ZsmtpError
from zsmtp.events import (
    About,
    Connected,
    Detail,
    Observer,
    Remark,
    SessionOpened,
    SessionRefused,
    ignore,
)
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities, parse_ehlo
from zsmtp.proto.phase import Phase, ReplyMeaning
from zsmtp.proto.plan import Envelope, TLSDemand
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Lost, Session, StepAnswered
from zsmtp.proto.transcript import CONNECTING, exchange, unfinished
from zsmtp.records import dataclass, replace

if TYPE_CHECKING:
    from zsmtp.delivery.gate import ConnectionGate, Place
    from zsmtp.delivery.security import SecurityStage
    from zsmtp.tls.policy import Requirement

_IN_CLEAR = "in clear: "  # prefix of the judgement on a session without TLS (zsmtp.tls.judgement)


@dataclass(slots=True, eq=False)
class OpenSession:
    """An open session with its server, kept between messages.

    ``capabilities`` are those to use. ``wish`` is the TLS demand that the session was opened for. ``transactions``
    counts those started on it, ``finished`` those answered; ``standing`` is its state for blind content.
    """

    stream: Stream
    session: Session
    peer: Peer
    capabilities: Capabilities
    wish: TLSDemand = TLSDemand.NONE
    transactions: int = 0
    finished: int = 0
    standing: SessionStanding = SessionStanding()

    def is_fit_for(self, envelope: Envelope) -> bool:
        """Whether this session meets the TLS demand of a message (RFC 8689)."""
        return envelope.wish is self.wish or envelope.wish.is_met_by(self.wish)


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A candidate without a session: the verdict if it was the only one, and further facts.

    ``dropped_hello``: the connection was lost on EHLO, so HELO may work; ``clear_may_work``: opportunistic TLS failed;
    ``was_stale``: session resumption failed. ``name_decided``: the same address may work under another exchanger's
    name. ``unanswered`` describes a timeout of the peer, "" without one.
    """

    verdict: Verdict
    interrupted: bool = False
    dropped_hello: bool = False
    clear_may_work: bool = False
    was_stale: bool = False
    name_decided: bool = False
    unanswered: str = ""

    @property
    def worth_another(self) -> bool:
        """Whether another connection to the same endpoint may succeed."""
        return self.dropped_hello or self.clear_may_work or self.was_stale


class SessionOpener:
    """Opens sessions with ``settings``. HELO names found by reverse lookup are cached for the life of the object.

    ``unreached`` remembers addresses that did not answer; None: a new one. ``gate`` limits the connections
    (``zsmtp.delivery.gate``); None: no limit.
    """

    def __init__(
        self,
        settings: SessionSettings,
        observer: Observer = ignore,
        unreached: AddressBackoff | None = None,
        gate: ConnectionGate | None = None,
    ) -> None:
        self._gate = gate
        self._settings = settings
        self._observe = observer
        self._names: dict[str | None, bytes] = {}
        self._unreached = AddressBackoff() if unreached is None else unreached
        self._stage: SecurityStage | None = None
        if settings.security is not None:
            from zsmtp.delivery.security import SecurityStage  # imported only if used, to save start-up time

            self._stage = SecurityStage(settings.security, settings.timeouts.command, observer)

    async def open(self, plan: DeliveryPlan, skip: set[Endpoint], place: Place | None = None) -> OpenSession | Verdict:
        """Try the candidates of ``plan`` that are not in ``skip``; returns a verdict if none of them opens a session.

        ``place`` is the gate's key for counting connections (None: no gate).
        """
        strict = plan.wish is TLSDemand.REQUIRETLS
        if strict and self._stage is None:
            return from_no_protection()
        verdict = await self._walk(plan, skip, place)
        return for_requiretls(verdict) if strict and not isinstance(verdict, OpenSession) else verdict

    async def _walk(self, plan: DeliveryPlan, skip: set[Endpoint], place: Place | None) -> OpenSession | Verdict:
        """Connect to one candidate after the other.

        An address is tried once, under the name of its first exchanger; also under another name if it failed because of
        its certificate, its TLSA records or its login.
        """
        remaining = plan.route.left(skip)
        failures: list[ConnectFailure] = []
        refusals: list[Verdict] = []
        while remaining:
            await self._put_last(remaining)
            barred = await self._barred(plan, remaining[0])
            if barred is not None:
                refusals.append(barred)
                del remaining[0]
                continue
            result = await self._connect(remaining, failures, place)
            if result.interrupted:
                return await _interrupted()
            if result.stream is None or result.endpoint is None:
                if not result.failures:
                    break
                continue  # the gate may have allowed fewer than there are
            remaining.remove(result.endpoint)
            opened = await self._try_all_ways(result.stream, result.endpoint, plan, place)
            await self._learn(result.endpoint, opened)
            if isinstance(opened, OpenSession):
                if self._observe is not ignore:
                    self._observe(SessionOpened(result.endpoint, opened.capabilities))
                return opened
            if self._observe is not ignore:
                self._observe(SessionRefused(result.endpoint, opened.verdict))
            if opened.interrupted:
                return opened.verdict
            refusals.append(opened.verdict)
            if not opened.name_decided:
                _drop_address(result.endpoint, remaining)
        return combine_host_failures(failures, refusals)

    async def _put_last(self, remaining: list[Endpoint]) -> None:
        """Put addresses to which connecting failed recently behind all others; both groups keep their order."""
        if len(remaining) < 2 or not self._unreached.knows_any(remaining):
            return
        now = await ReadClock()
        late = {endpoint: found for endpoint in remaining if (found := self._unreached.get(endpoint, now)) is not None}
        order = [endpoint for endpoint in remaining if endpoint not in late] + list(late)
        if order != remaining and self._observe is not ignore:
            failed = [f"{failure.where} ({failure.reason}, {ago:.0f} s ago)" for ago, failure in late.values()]
            text = f"tried after all others: {', '.join(failed[:10])}"
            self._observe(Remark(text, About.CONNECTION))
        remaining[:] = order

    async def _learn(self, endpoint: Endpoint, opened: OpenSession | _Stopped) -> None:
        """Remember whether the address of ``endpoint`` replied."""
        if isinstance(opened, _Stopped) and opened.unanswered:
            await self._remember([ConnectFailure(endpoint, opened.unanswered)])
        elif isinstance(opened, OpenSession) or not opened.interrupted:
            self._unreached.forget(endpoint)

    async def _remember(self, failures: list[ConnectFailure]) -> None:
        if failures:
            now = await ReadClock()
            for failure in failures:
                self._unreached.remember(failure, now)

    async def _barred(self, plan: DeliveryPlan, endpoint: Endpoint) -> Verdict | None:
        """The verdict if the next candidate must not be used and that is known without lookups."""
        if self._stage is None or plan.needs_lookups(endpoint):
            return None  # decided once connected: lookups for hosts that are down are useless
        found = await self._stage.required(plan, endpoint)
        return found.verdict if isinstance(found, NotSecured) else None

    async def _begin(self, endpoints: tuple[Endpoint, ...], place: Place | None) -> ConnectResult:
        """Connect to the first of ``endpoints`` that accepts, when the gate allows it; all connections are made here.

        Fewer of them are tried if the gate allows fewer now.
        """
        gate, timeout = self._gate, self._settings.timeouts.connect
        if gate is None or place is None:
            return await Connect(endpoints, timeout)
        now = await ReadClock()
        while not (allowed := gate.take(place, len(endpoints), now)):
            opens_at = gate.opens_at(place, now)
            if self._observe is not ignore:
                text = f"waits {opens_at - now:.0f} s: connections to {place[0]} are limited to {gate.rule}"
                self._observe(Remark(text, About.CONNECTION))
            await Sleep(opens_at)
            if await ReadStop():
                return ConnectResult(None, None, interrupted=True)
            now = await ReadClock()
        result = await Connect(endpoints[:allowed], timeout)
        if not result.interrupted:
            begun = len(result.failures) + len(result.overtaken) + (result.stream is not None)
            gate.give_back(place, allowed - begun, now)
        return result

    async def _connect(
        self, remaining: list[Endpoint], failures: list[ConnectFailure], place: Place | None
    ) -> ConnectResult:
        by_place = {endpoint.place: endpoint for endpoint in reversed(remaining)}
        first = tuple(endpoint for endpoint in remaining if by_place[endpoint.place] is endpoint)
        result = await self._begin(first, place)
        failed = [ConnectFailure(endpoint, reason, endpoint in result.own) for endpoint, reason in result.failures]
        failures += failed
        for failure in failed:
            _drop_address(failure.endpoint, remaining)
        learned = [failure for failure in failed if not failure.own]
        await self._remember(learned + [_overtaken(endpoint, waited) for endpoint, waited in result.overtaken])
        if result.stream is not None and result.endpoint is not None and self._observe is not ignore:
            self._observe(Connected(result.endpoint, result.stream.local))
        return result

    async def _try_all_ways(
        self, stream: Stream, endpoint: Endpoint, plan: DeliveryPlan, place: Place | None
    ) -> OpenSession | _Stopped:
        """Open a session, on a second connection if necessary.

        With HELO if the peer drops the connection on EHLO; in clear if TLS fails and was not required (RFC 7435).
        """
        required: Requirement | None = None
        if self._stage is not None:
            found = await self._stage.required(plan, endpoint)
            if isinstance(found, NotSecured):
                await Close(stream)
                return _Stopped(found.verdict, name_decided=True)
            required = found
        elif plan.needs_protection(endpoint):
            await Close(stream)
            text = "the plan asks for a protected session, and nothing is configured to make one"
            return _Stopped(from_security(text, Peer(endpoint), final=False))
        greeting = self._settings.greeting
        in_clear = "" if self._stage is not None else "no TLS is configured"
        opened = await self._hello(stream, endpoint, plan, greeting, required, in_clear)
        while isinstance(opened, _Stopped) and opened.worth_another:
            if opened.clear_may_work:
                self._observe(Remark("TLS failed: trying in clear on a new connection", About.SECURITY))
                required, in_clear = None, opened.verdict.text.removeprefix(_IN_CLEAR)
            elif opened.was_stale:
                self._observe(Remark("resuming a session failed: a full handshake on a new connection", About.SECURITY))
            else:
                self._observe(Remark("connection lost on EHLO: trying HELO on a new one"))
                greeting = Greeting.HELO
            again = await self._begin((endpoint,), place)
            if again.interrupted:
                return _Stopped(await _interrupted(), interrupted=True)
            if again.stream is None:
                reasons = [reason for one, reason in again.failures if one not in again.own]
                return replace(opened, unanswered=", ".join(reasons))
            if self._observe is not ignore:
                self._observe(Connected(endpoint, again.stream.local))
            before = opened
            opened = await self._hello(again.stream, endpoint, plan, greeting, required, in_clear)
            if isinstance(opened, _Stopped) and before.dropped_hello and not opened.interrupted:
                text = before.verdict.text + opened.verdict.text  # the reason may be in the failure of EHLO
                opened = replace(opened, verdict=opened.verdict._replace(text=text))
        return opened

    async def _hello(
        self,
        stream: Stream,
        endpoint: Endpoint,
        plan: DeliveryPlan,
        greeting: Greeting,
        required: Requirement | None,
        in_clear: str,
    ) -> OpenSession | _Stopped:
        """Read the greeting, send EHLO, and secure the session; closes it if that fails.

        ``in_clear`` is the reason why there will be no TLS, if known.
        """
        session = Session(timeouts=self._settings.timeouts, lmtp=self._settings.lmtp, observer=self._observe)
        peer = Peer(endpoint, stream.local, in_clear=in_clear)
        if self._stage is not None and self._stage.security.implicit and required is not None:
            secured = await self._stage.handshake(stream, plan, required, peer)
            if not isinstance(secured, SecuredStream):
                return await self._not_secure(stream, session, secured, peer)
            stream, peer = secured.stream, replace(peer, protection=secured.protection)
        name = await self._name(stream)
        answer = await next_reply(stream, session)
        if isinstance(answer, Lost):
            await Close(stream)
            stopped = self._stopped(answer, "", peer)
            silent = isinstance(answer.error, (WaitTimeout, ConnectionLost)) and not session.inside_reply
            return replace(stopped, verdict=from_silence(answer.error, peer)) if silent else stopped
        if answer.result is not ReplyMeaning.SUCCESS:
            verdict = self._refused(answer, exchange(CONNECTING, answer.reply), peer)
            return await self._leave(stream, session, verdict)
        phase = _first_word(greeting, answer.reply)
        offered = await self._send_hello(stream, session, peer, name, phase)
        if not isinstance(offered, Capabilities):
            return offered
        if self._stage is not None and required is not None and peer.protection is None:
            secured = await self._stage.start_tls(stream, session, offered, plan, required, peer)
            if isinstance(secured, SecuredStream):  # facts from before the handshake do not count (RFC 3207 4.2)
                stream, peer = secured.stream, replace(peer, protection=secured.protection)
                offered = await self._send_hello(stream, session, peer, name, phase)
                if not isinstance(offered, Capabilities):
                    return offered
            elif not isinstance(secured, InClear) or secured.broken:
                return await self._not_secure(stream, session, secured, peer)
            else:
                peer = replace(peer, in_clear=secured.reason.removeprefix(_IN_CLEAR))
        if self._stage is not None:
            if plan.wish is TLSDemand.REQUIRETLS and not offered.require_tls:
                return await self._leave(stream, session, from_requiretls(peer))
            unfit = await self._stage.log_in(stream, session, offered, plan.route, peer)
            if unfit is not None:
                return await self._not_secure(stream, session, unfit, peer)
        usable = self._settings.usable(offered)
        if self._observe is not ignore:
            self._observe(Detail(f"used: {_names(usable)}"))
        # Without security all sessions are equal.
        wish = plan.wish if self._stage is not None else TLSDemand.NONE
        return OpenSession(stream, session, peer, usable, wish, standing=SessionStanding(lmtp=self._settings.lmtp))

    async def _send_hello(
        self, stream: Stream, session: Session, peer: Peer, name: bytes, phase: Phase
    ) -> Capabilities | _Stopped:
        """Send EHLO, with a fallback to HELO for servers that do not know it."""
        dialogue = ""
        refusal: Verdict | None = None
        while True:
            wire = command.hello(phase.value.encode(), name)
            session.command(phase, wire)
            answer = await next_reply(stream, session)
            if isinstance(answer, Lost):
                await Close(stream)
                stopped = self._stopped(answer, dialogue + exchange(wire[:-2], None), peer, hello=phase)
                if refusal is None or stopped.interrupted:
                    return stopped
                return replace(stopped, verdict=from_loss_behind(refusal, stopped.verdict))
            if answer.result is ReplyMeaning.SUCCESS:
                break
            dialogue += exchange(wire[:-2], answer.reply)
            refusal = self._refused(answer, dialogue, peer)
            if phase is not Phase.EHLO or answer.reply.code == 421:
                return await self._leave(stream, session, refusal)
            phase = Phase.HELO
        if phase is Phase.HELO:
            return Capabilities()
        try:
            offered = parse_ehlo(answer.reply.lines)
        except ReplyError as error:
            await Close(stream)
            return _Stopped(from_loss(error, "", peer, level=Scope.HOST))
        for problem in offered.problems:
            self._observe(Remark(f"{phase.value}: {problem}"))
        return offered

    async def _not_secure(
        self, stream: Stream, session: Session, outcome: InClear | NotSecured | ResumptionFailed, peer: Peer
    ) -> _Stopped:
        """Close a connection that does not meet its requirement, or cannot be used again."""
        if isinstance(outcome, NotSecured) and outcome.in_order:
            await say_quit(stream, session)
        await Close(stream)
        if isinstance(outcome, NotSecured):
            late = outcome.unanswered
            return _Stopped(outcome.verdict, interrupted=outcome.interrupted, name_decided=not late, unanswered=late)
        verdict = from_security(outcome.reason, peer, final=False)
        if isinstance(outcome, ResumptionFailed):
            return _Stopped(verdict, was_stale=True)
        return _Stopped(verdict, clear_may_work=True, unanswered=outcome.unanswered)

    async def _leave(self, stream: Stream, session: Session, verdict: Verdict) -> _Stopped:
        """Send QUIT to a server that refused the session."""
        await say_quit(stream, session)
        await Close(stream)
        return _Stopped(verdict)

    def _refused(self, answer: StepAnswered, dialogue: str, peer: Peer) -> Verdict:
        return from_reply(answer.step.phase, answer.reply, answer.result, dialogue, enhanced=False, peer=peer)

    def _stopped(self, lost: Lost, dialogue: str, peer: Peer, *, hello: Phase | None = None) -> _Stopped:
        error: ZsmtpError = lost.error
        interrupted = isinstance(error, Interrupted)
        level = Scope.SESSION if interrupted else Scope.HOST
        verdict = from_loss(error, dialogue + unfinished(lost), peer, level=level)
        dropped = hello is Phase.EHLO and isinstance(error, ConnectionLost)
        unanswered = waited_in_vain(error)
        return _Stopped(verdict, interrupted=interrupted, dropped_hello=dropped, unanswered=unanswered)

    async def _name(self, stream: Stream) -> bytes:
        """The name for EHLO from this local address."""
        address = stream.local[0] if stream.local is not None else None
        if address not in self._names:
            settings = self._settings
            name = await helo_name(address, configured=settings.helo_name, host_name=settings.host_name)
            if await ReadStop():  # lookups cut short may find it next time
                return name.encode("ascii", "replace")
            self._names[address] = name.encode("ascii", "replace")
        return self._names[address]


async def _interrupted() -> Verdict:
    """The verdict when a stop ended the wait for a connection, with the reason of the stop."""
    return from_loss(Interrupted(await ReadStop() or INTERRUPTED), "", None)


def _overtaken(endpoint: Endpoint, waited: float) -> ConnectFailure:
    return ConnectFailure(endpoint, f"no answer in {waited:.1f} s, and a later address gave one")


def _drop_address(endpoint: Endpoint, remaining: list[Endpoint]) -> None:
    """Remove the address of ``endpoint`` from ``remaining``, under all exchangers' names."""
    remaining[:] = [one for one in remaining if one.place != endpoint.place]


async def next_reply(stream: Stream, session: Session) -> StepAnswered | Lost:
    """The next reply that the session awaits, or its loss.

    Raises LocalError if the session awaits nothing: that is an error in this program.
    """
    event = await Exchange(stream, session)
    if isinstance(event, StepAnswered | Lost):
        return event
    raise LocalError(f"a reply was awaited, and the session had {event!r}")


async def say_quit(stream: Stream, session: Session) -> None:
    """Send QUIT and wait for the reply. The caller closes the stream."""
    session.command(Phase.QUIT, command.QUIT)
    while session.lost is None and await Exchange(stream, session) is not None:
        pass


def _first_word(greeting: Greeting, banner: Reply) -> Phase:
    if greeting is Greeting.LHLO:
        return Phase.LHLO
    if greeting is Greeting.IF_ANNOUNCED:
        return Phase.EHLO if b"ESMTP" in b"\n".join(banner.lines).upper() else Phase.HELO
    return Phase.HELO if greeting is Greeting.HELO else Phase.EHLO


def _names(capabilities: Capabilities) -> str:
    words = [line.split(b" ", 1)[0].decode("ascii", "replace") for line in capabilities.keywords]
    return " ".join(words[:40]) or "no extension"
