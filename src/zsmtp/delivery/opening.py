"""Opening a session: along the candidates of a plan until one of them greets back (RFC 5321 3.1, 3.2, 5.1).

:meth:`Opener.open` is a generator of effects. It connects (later candidates start early while earlier ones hang),
hears the greeting and says EHLO, with HELO as the way back for servers that do not know it or drop the connection on
it. A candidate that refuses to talk hands over to the next one; only if every single one refused for good is the mail
an error (the rule is in ``zsmtp.delivery.outcome``).

The order of trying is the plan's, but for addresses where no connection came about a moment ago: they come after all
others, so that a dead exchanger is waited for once and not for every session. One that took a connection and kept
silent where it was to speak, also in a handshake, counts as such; one that answered does not, whatever it said: to ask
it again costs little, what it says (421 too busy) may be another thing the next moment, and mail belongs to the best
exchanger that takes it. What failed on this side (no file descriptor left) is held against nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from zsmtp.delivery.outcome import (
    ConnectFailure,
    Level,
    Peer,
    Verdict,
    combine_host_failures,
    for_requiretls,
    from_loss,
    from_no_protection,
    from_reply,
    from_requiretls,
    from_security,
    from_silence,
    waited_in_vain,
)
from zsmtp.delivery.plan import DeliveryPlan
from zsmtp.delivery.protection import InClear, Secured, Stale, Unfit
from zsmtp.delivery.rest import Unreached
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.heloname import helo_name
from zsmtp.dns.plan import Endpoint
from zsmtp.errors import ConnectionLost, Interrupted, ReplyError, WaitTimeout, ZsmtpError
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
from zsmtp.net.effects import Close, Connect, ConnectResult, Exchange, ReadClock, Stream
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities, parse_ehlo
from zsmtp.proto.phase import Phase, Result
from zsmtp.proto.plan import Envelope, SenderWish
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Answer, Lost, Session
from zsmtp.proto.transcript import exchange
from zsmtp.records import dataclass, replace

if TYPE_CHECKING:
    from zsmtp.delivery.security import SecurityStage
    from zsmtp.tls.policy import Requirement

Effects = Generator[Any, Any, Any]  # of Effect, Query and OwnAddresses


@dataclass(slots=True, eq=False)
class Link:
    """An open session with its server: what is kept between messages.

    ``capabilities`` are those to be used. ``wish`` is what the sender wanted of the session it was opened for.
    ``transactions`` counts those started on it, ``finished`` those answered.
    """

    stream: Stream
    session: Session
    peer: Peer
    capabilities: Capabilities
    wish: SenderWish = SenderWish.NONE
    transactions: int = 0
    finished: int = 0

    def is_fit_for(self, envelope: Envelope) -> bool:
        """Whether a message may go over this session as far as its sender's wish goes (RFC 8689)."""
        return envelope.wish is self.wish or envelope.wish.is_met_by(self.wish)


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A candidate that opened no session: the verdict if it was the only one, and what else is to be known.

    ``dropped_hello`` tells that the connection was lost on EHLO: HELO may work; ``clear_may_work`` that TLS failed
    where it was only wished for, ``was_stale`` that it failed because an earlier session was to be taken up.
    ``name_decided`` tells that the same address may do under another exchanger's name. ``unanswered`` says in words
    that something was waited for in vain, "" if not.
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
        """Whether the same endpoint may do better on another connection."""
        return self.dropped_hello or self.clear_may_work or self.was_stale


class Opener:
    """Opens sessions as ``settings`` say. HELO names found by reverse lookup are kept for the life of the object.

    ``unreached`` is the memory of addresses that did not answer, its own without.
    """

    def __init__(
        self, settings: SessionSettings, observer: Observer = ignore, unreached: Unreached | None = None
    ) -> None:
        self._settings = settings
        self._observe = observer
        self._names: dict[str | None, bytes] = {}
        self._unreached = Unreached() if unreached is None else unreached
        self._stage: SecurityStage | None = None
        if settings.security is not None:
            from zsmtp.delivery.security import SecurityStage  # what it imports costs only those who use it

            self._stage = SecurityStage(settings.security, settings.timeouts.command, observer)

    def open(self, plan: DeliveryPlan, skip: set[Endpoint]) -> Generator[Any, Any, Link | Verdict]:
        """Walk the candidates of ``plan`` that are not in ``skip``; a verdict if none of them opens a session."""
        strict = plan.wish is SenderWish.REQUIRETLS
        if strict and self._stage is None:
            return from_no_protection()
        verdict = yield from self._walk(plan, skip)
        return for_requiretls(verdict) if strict and not isinstance(verdict, Link) else verdict

    def _walk(self, plan: DeliveryPlan, skip: set[Endpoint]) -> Generator[Any, Any, Link | Verdict]:
        """Connect to one candidate after the other.

        An address is tried once, under the name of its first exchanger; under that of another one too where what its
        certificate, its TLSA records or its login had to be was the reason against it.
        """
        remaining = plan.route.left(skip)
        failures: list[ConnectFailure] = []
        refusals: list[Verdict] = []
        while remaining:
            yield from self._put_last(remaining)
            barred = yield from self._barred(plan, remaining[0])
            if barred is not None:
                refusals.append(barred)
                del remaining[0]
                continue
            result = yield from self._connect(remaining, failures)
            if result.interrupted:
                return from_loss(Interrupted("told to stop while connecting"), "", None)
            if result.stream is None or result.endpoint is None:
                break
            remaining.remove(result.endpoint)
            opened = yield from self._try_all_ways(result.stream, result.endpoint, plan)
            yield from self._learn(result.endpoint, opened)
            if isinstance(opened, Link):
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

    def _put_last(self, remaining: list[Endpoint]) -> Generator[Any, Any, None]:
        """Put addresses where no connection came about a moment ago behind all others; the order is kept in both."""
        if len(remaining) < 2 or not self._unreached.knows_any(remaining):
            return
        now: float = yield ReadClock()
        late = {endpoint: found for endpoint in remaining if (found := self._unreached.get(endpoint, now)) is not None}
        order = [endpoint for endpoint in remaining if endpoint not in late] + list(late)
        if order != remaining and self._observe is not ignore:
            told = [f"{failure.where} ({failure.reason}, {ago:.0f} s ago)" for ago, failure in late.values()]
            text = f"tried after all others: {', '.join(told[:10])}"
            self._observe(Remark(text, About.CONNECTION))
        remaining[:] = order

    def _learn(self, endpoint: Endpoint, opened: Link | _Stopped) -> Generator[Any, Any, None]:
        """Remember of the address of ``endpoint`` whether anything is heard from there."""
        if isinstance(opened, _Stopped) and opened.unanswered:
            yield from self._remember([ConnectFailure(endpoint, opened.unanswered)])
        elif isinstance(opened, Link) or not opened.interrupted:
            self._unreached.forget(endpoint)

    def _remember(self, failures: list[ConnectFailure]) -> Generator[Any, Any, None]:
        if failures:
            now: float = yield ReadClock()
            for failure in failures:
                self._unreached.remember(failure, now)

    def _barred(self, plan: DeliveryPlan, endpoint: Endpoint) -> Generator[Any, Any, Verdict | None]:
        """The verdict if the next candidate must not be used and that is plain without asking anybody."""
        if self._stage is None or plan.needs_lookups(endpoint):
            return None  # known once a connection stands: lookups for hosts that are down help nobody
        found = yield from self._stage.required(plan, endpoint)
        return found.verdict if isinstance(found, Unfit) else None

    def _connect(self, remaining: list[Endpoint], failures: list[ConnectFailure]) -> Generator[Any, Any, ConnectResult]:
        by_place = {endpoint.place: endpoint for endpoint in reversed(remaining)}
        first = tuple(endpoint for endpoint in remaining if by_place[endpoint.place] is endpoint)
        result: ConnectResult = yield Connect(first, self._settings.timeouts.connect)
        failed = [ConnectFailure(endpoint, reason) for endpoint, reason in result.failures]
        failures += failed
        for failure in failed:
            _drop_address(failure.endpoint, remaining)
        learned = [failure for failure in failed if failure.endpoint not in result.own]
        yield from self._remember(learned + [_overtaken(endpoint, waited) for endpoint, waited in result.overtaken])
        if result.stream is not None and result.endpoint is not None and self._observe is not ignore:
            self._observe(Connected(result.endpoint, result.stream.local))
        return result

    def _try_all_ways(
        self, stream: Stream, endpoint: Endpoint, plan: DeliveryPlan
    ) -> Generator[Any, Any, Link | _Stopped]:
        """Open a session, on a second connection if need be.

        With HELO if the peer drops the connection on EHLO; in clear if TLS fails and was not required (RFC 7435).
        """
        required: Requirement | None = None
        if self._stage is not None:
            found = yield from self._stage.required(plan, endpoint)
            if isinstance(found, Unfit):
                yield Close(stream)
                return _Stopped(found.verdict, name_decided=True)
            required = found
        elif plan.needs_protection(endpoint):
            yield Close(stream)
            text = "the plan asks for a protected session, and nothing is configured to make one"
            return _Stopped(from_security(text, Peer(endpoint), final=False))
        greeting = self._settings.greeting
        opened = yield from self._hello(stream, endpoint, plan, greeting, required)
        while isinstance(opened, _Stopped) and opened.worth_another:
            if opened.clear_may_work:
                self._observe(Remark("TLS failed: trying in clear on a new connection", About.SECURITY))
                required = None
            elif opened.was_stale:
                self._observe(Remark("resuming a session failed: a full handshake on a new connection", About.SECURITY))
            else:
                self._observe(Remark("connection lost on EHLO: trying HELO on a new one"))
                greeting = Greeting.HELO
            again: ConnectResult = yield Connect((endpoint,), self._settings.timeouts.connect)
            if again.interrupted:
                return _Stopped(from_loss(Interrupted("told to stop while connecting"), "", None), interrupted=True)
            if again.stream is None:
                told = [reason for one, reason in again.failures if one not in again.own]
                return replace(opened, unanswered=", ".join(told))
            if self._observe is not ignore:
                self._observe(Connected(endpoint, again.stream.local))
            opened = yield from self._hello(again.stream, endpoint, plan, greeting, required)
        return opened

    def _hello(
        self, stream: Stream, endpoint: Endpoint, plan: DeliveryPlan, greeting: Greeting, required: Requirement | None
    ) -> Generator[Any, Any, Link | _Stopped]:
        """Hear the greeting, say hello, and make the session as secure as it must be; closes it otherwise."""
        session = Session(timeouts=self._settings.timeouts, lmtp=self._settings.lmtp, observer=self._observe)
        peer = Peer(endpoint, stream.local)
        if self._stage is not None and self._stage.security.implicit and required is not None:
            secured = yield from self._stage.handshake(stream, plan, required, peer)
            if not isinstance(secured, Secured):
                return (yield from self._not_secure(stream, session, secured, peer))
            stream, peer = secured.stream, replace(peer, protection=secured.protection)
        name = yield from self._name(stream)
        heard = yield Exchange(stream, session)
        if isinstance(heard, Lost):
            yield Close(stream)
            stopped = self._stopped(heard, "", peer)
            silent = isinstance(heard.error, (WaitTimeout, ConnectionLost)) and not session.inside_reply
            return replace(stopped, verdict=from_silence(heard.error, peer)) if silent else stopped
        if heard.result is not Result.SUCCESS:
            verdict = self._refused(heard, exchange(b"(connecting)", heard.reply), peer)
            return (yield from self._leave(stream, session, verdict))
        phase = _first_word(greeting, heard.reply)
        offered = yield from self._say_hello(stream, session, peer, name, phase)
        if not isinstance(offered, Capabilities):
            return offered
        if self._stage is not None and required is not None and peer.protection is None:
            secured = yield from self._stage.start_tls(stream, session, offered, plan, required, peer)
            if isinstance(secured, Secured):  # what was known before the handshake counts no more (RFC 3207 4.2)
                stream, peer = secured.stream, replace(peer, protection=secured.protection)
                offered = yield from self._say_hello(stream, session, peer, name, phase)
                if not isinstance(offered, Capabilities):
                    return offered
            elif not isinstance(secured, InClear) or secured.broken:
                return (yield from self._not_secure(stream, session, secured, peer))
        if self._stage is not None:
            if plan.wish is SenderWish.REQUIRETLS and not offered.require_tls:
                return (yield from self._leave(stream, session, from_requiretls(peer)))
            unfit = yield from self._stage.log_in(stream, session, offered, plan.route, peer)
            if unfit is not None:
                return (yield from self._not_secure(stream, session, unfit, peer))
        usable = self._settings.usable(offered)
        if self._observe is not ignore:
            self._observe(Detail(f"used: {_names(usable)}"))
        # Without any security all sessions are alike.
        wish = plan.wish if self._stage is not None else SenderWish.NONE
        return Link(stream, session, peer, usable, wish)

    def _say_hello(
        self, stream: Stream, session: Session, peer: Peer, name: bytes, phase: Phase
    ) -> Generator[Any, Any, Capabilities | _Stopped]:
        """Say hello; HELO is the way back for servers that do not know EHLO."""
        while True:
            wire = command.hello(phase.value.encode(), name)
            session.command(phase, wire)
            heard = yield Exchange(stream, session)
            if isinstance(heard, Lost):
                yield Close(stream)
                return self._stopped(heard, exchange(wire[:-2], None), peer, hello=phase)
            if heard.result is Result.SUCCESS:
                break
            if phase is not Phase.EHLO or heard.reply.code == 421:
                verdict = self._refused(heard, exchange(wire[:-2], heard.reply), peer)
                return (yield from self._leave(stream, session, verdict))
            phase = Phase.HELO
        if phase is Phase.HELO:
            return Capabilities()
        try:
            offered = parse_ehlo(heard.reply.lines)
        except ReplyError as error:
            yield Close(stream)
            return _Stopped(from_loss(error, "", peer, level=Level.HOST))
        for problem in offered.problems:
            self._observe(Remark(f"{phase.value}: {problem}"))
        return offered

    def _not_secure(
        self, stream: Stream, session: Session, outcome: InClear | Unfit | Stale, peer: Peer
    ) -> Generator[Any, Any, _Stopped]:
        """Give up a connection that is not, or no more, what it must be."""
        if isinstance(outcome, Unfit) and outcome.in_order:
            yield from say_quit(stream, session)
        yield Close(stream)
        if isinstance(outcome, Unfit):
            late = outcome.unanswered
            return _Stopped(outcome.verdict, interrupted=outcome.interrupted, name_decided=not late, unanswered=late)
        verdict = from_security(outcome.reason, peer, final=False)
        if isinstance(outcome, Stale):
            return _Stopped(verdict, was_stale=True)
        return _Stopped(verdict, clear_may_work=True, unanswered=outcome.unanswered)

    def _leave(self, stream: Stream, session: Session, verdict: Verdict) -> Generator[Any, Any, _Stopped]:
        """Say QUIT to a server that does not want to talk."""
        yield from say_quit(stream, session)
        yield Close(stream)
        return _Stopped(verdict)

    def _refused(self, heard: Answer, dialogue: str, peer: Peer) -> Verdict:
        return from_reply(heard.step.phase, heard.reply, heard.result, dialogue, enhanced=False, peer=peer)

    def _stopped(self, lost: Lost, dialogue: str, peer: Peer, *, hello: Phase | None = None) -> _Stopped:
        error: ZsmtpError = lost.error
        interrupted = isinstance(error, Interrupted)
        verdict = from_loss(error, dialogue, peer, level=Level.SESSION if interrupted else Level.HOST)
        dropped = hello is Phase.EHLO and isinstance(error, ConnectionLost)
        unanswered = waited_in_vain(error)
        return _Stopped(verdict, interrupted=interrupted, dropped_hello=dropped, unanswered=unanswered)

    def _name(self, stream: Stream) -> Generator[Any, Any, bytes]:
        """The name to greet with from this local address."""
        address = stream.local[0] if stream.local is not None else None
        if address not in self._names:
            settings = self._settings
            name = yield from helo_name(address, configured=settings.helo_name, host_name=settings.host_name)
            self._names[address] = name.encode("ascii", "replace")
        return self._names[address]


def _overtaken(endpoint: Endpoint, waited: float) -> ConnectFailure:
    return ConnectFailure(endpoint, f"no answer in {waited:.1f} s, and a later address gave one")


def _drop_address(endpoint: Endpoint, remaining: list[Endpoint]) -> None:
    """Take the address of ``endpoint`` out of ``remaining``, whosever it is."""
    remaining[:] = [one for one in remaining if one.place != endpoint.place]


def say_quit(stream: Stream, session: Session) -> Generator[Any, Any, None]:
    """Say QUIT and hear the peer out. The stream is still to be closed."""
    session.command(Phase.QUIT, command.QUIT)
    while session.lost is None and (yield Exchange(stream, session)) is not None:
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
