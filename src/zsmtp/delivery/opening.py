"""Opening a session: along the candidates of a plan until one of them greets back (RFC 5321 3.1, 3.2, 5.1).

:meth:`Opener.open` is a generator of effects. It connects (later candidates start early while earlier ones hang),
hears the greeting and says EHLO, with HELO as the way back for servers that do not know it or drop the connection on
it. A candidate that refuses to talk hands over to the next one; only if every single one refused for good is the mail
an error (the rule is in ``zsmtp.delivery.outcome``).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from zsmtp.delivery.outcome import (
    ConnectFailure,
    Level,
    Peer,
    Verdict,
    combine_host_failures,
    from_loss,
    from_reply,
)
from zsmtp.delivery.settings import Greeting, SessionSettings
from zsmtp.dns.heloname import helo_name
from zsmtp.dns.plan import Endpoint, Plan
from zsmtp.errors import ConnectionLost, Interrupted, ReplyError, ZsmtpError
from zsmtp.events import Connected, ConnectFailed, Detail, Observer, Remark, ignore
from zsmtp.net.effects import Close, Connect, ConnectResult, Exchange, Stream
from zsmtp.proto import command
from zsmtp.proto.capabilities import Capabilities, parse_ehlo
from zsmtp.proto.phase import Phase, Result
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Answer, Lost, Session
from zsmtp.proto.transcript import exchange

Effects = Generator[Any, Any, Any]  # of Effect, Query and OwnAddresses


@dataclass(slots=True, eq=False)
class Link:
    """An open session with its server: what is kept between messages.

    ``capabilities`` are those to be used. ``transactions`` counts those started on it, ``finished`` those answered.
    """

    stream: Stream
    session: Session
    peer: Peer
    capabilities: Capabilities
    transactions: int = 0
    finished: int = 0


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A candidate that opened no session: the verdict if it was the only one, and what else is to be known.

    ``dropped_hello`` tells that the connection was lost on EHLO: HELO may work.
    """

    verdict: Verdict
    interrupted: bool = False
    dropped_hello: bool = False


class Opener:
    """Opens sessions as ``settings`` say. HELO names found by reverse lookup are kept for the life of the object."""

    def __init__(self, settings: SessionSettings, observer: Observer = ignore) -> None:
        self._settings = settings
        self._observe = observer
        self._names: dict[str | None, bytes] = {}

    def open(self, plan: Plan, skip: set[Endpoint]) -> Generator[Any, Any, Link | Verdict]:
        """Walk the candidates of ``plan`` that are not in ``skip``; a verdict if none of them opens a session."""
        remaining = [c.endpoint for c in plan.candidates if c.endpoint not in skip]
        failures: list[ConnectFailure] = []
        refusals: list[Verdict] = []
        while remaining:
            result = yield from self._connect(remaining, failures)
            if result.interrupted:
                return from_loss(Interrupted("told to stop while connecting"), "", None)
            if result.stream is None or result.endpoint is None:
                break
            remaining.remove(result.endpoint)
            opened = yield from self._hello_twice(result.stream, result.endpoint)
            if isinstance(opened, Link):
                return opened
            if opened.interrupted:
                return opened.verdict
            refusals.append(opened.verdict)
        return combine_host_failures(failures, refusals)

    def _connect(self, remaining: list[Endpoint], failures: list[ConnectFailure]) -> Generator[Any, Any, ConnectResult]:
        result: ConnectResult = yield Connect(tuple(remaining), self._settings.timeouts.connect)
        for endpoint, reason in result.failures:
            remaining.remove(endpoint)
            failures.append(ConnectFailure(endpoint, reason))
            self._observe(ConnectFailed(endpoint, reason))
        if result.stream is not None and result.endpoint is not None:
            self._observe(Connected(result.endpoint, result.stream.local))
        return result

    def _hello_twice(self, stream: Stream, endpoint: Endpoint) -> Generator[Any, Any, Link | _Stopped]:
        """Greet, and if the peer drops the connection on EHLO, greet with HELO on a second one."""
        opened = yield from self._hello(stream, endpoint, self._settings.greeting)
        if isinstance(opened, _Stopped) and opened.dropped_hello:
            self._observe(Remark("connection lost on EHLO: trying HELO on a new one"))
            again: ConnectResult = yield Connect((endpoint,), self._settings.timeouts.connect)
            if again.interrupted:
                return _Stopped(from_loss(Interrupted("told to stop while connecting"), "", None), interrupted=True)
            if again.stream is not None:
                self._observe(Connected(endpoint, again.stream.local))
                opened = yield from self._hello(again.stream, endpoint, Greeting.HELO)
        return opened

    def _hello(self, stream: Stream, endpoint: Endpoint, greeting: Greeting) -> Generator[Any, Any, Link | _Stopped]:
        """Hear the greeting and say hello; closes the stream unless a link comes of it."""
        session = Session(timeouts=self._settings.timeouts, lmtp=self._settings.lmtp, observer=self._observe)
        peer = Peer(endpoint, stream.local)
        name = yield from self._name(stream)
        heard = yield Exchange(stream, session)
        if isinstance(heard, Lost):
            yield Close(stream)
            return self._stopped(heard, "", peer)
        if heard.result is not Result.SUCCESS:
            verdict = self._refused(heard, exchange(b"(connecting)", heard.reply), peer)
            return (yield from self._leave(stream, session, verdict))
        phase = _first_word(greeting, heard.reply)
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
        return (yield from self._link(stream, session, peer, phase, heard.reply))

    def _link(
        self, stream: Stream, session: Session, peer: Peer, phase: Phase, reply: Reply
    ) -> Generator[Any, Any, Link | _Stopped]:
        offered = Capabilities()
        if phase is not Phase.HELO:
            try:
                offered = parse_ehlo(reply.lines)
            except ReplyError as error:
                yield Close(stream)
                return _Stopped(from_loss(error, "", peer, level=Level.HOST))
        for problem in offered.problems:
            self._observe(Remark(f"{phase.value}: {problem}"))
        usable = self._settings.usable(offered)
        self._observe(Detail(f"{phase.value} accepted; used: {_names(usable)}"))
        return Link(stream, session, peer, usable)

    def _leave(self, stream: Stream, session: Session, verdict: Verdict) -> Generator[Any, Any, _Stopped]:
        """Say QUIT to a server that does not want to talk."""
        session.command(Phase.QUIT, command.QUIT)
        while session.lost is None and (yield Exchange(stream, session)) is not None:
            pass
        yield Close(stream)
        return _Stopped(verdict)

    def _refused(self, heard: Answer, dialogue: str, peer: Peer) -> Verdict:
        return from_reply(heard.step.phase, heard.reply, heard.result, dialogue, enhanced=False, peer=peer)

    def _stopped(self, lost: Lost, dialogue: str, peer: Peer, *, hello: Phase | None = None) -> _Stopped:
        error: ZsmtpError = lost.error
        interrupted = isinstance(error, Interrupted)
        verdict = from_loss(error, dialogue, peer, level=Level.SESSION if interrupted else Level.HOST)
        dropped = hello is Phase.EHLO and isinstance(error, ConnectionLost)
        return _Stopped(verdict, interrupted=interrupted, dropped_hello=dropped)

    def _name(self, stream: Stream) -> Generator[Any, Any, bytes]:
        """The name to greet with from this local address."""
        address = stream.local[0] if stream.local is not None else None
        if address not in self._names:
            settings = self._settings
            name = yield from helo_name(address, configured=settings.helo_name, host_name=settings.host_name)
            self._names[address] = name.encode("ascii", "replace")
        return self._names[address]


def _first_word(greeting: Greeting, banner: Reply) -> Phase:
    if greeting is Greeting.LHLO:
        return Phase.LHLO
    if greeting is Greeting.IF_ANNOUNCED:
        return Phase.EHLO if b"ESMTP" in b"\n".join(banner.lines).upper() else Phase.HELO
    return Phase.HELO if greeting is Greeting.HELO else Phase.EHLO


def _names(capabilities: Capabilities) -> str:
    words = [line.split(b" ", 1)[0].decode("ascii", "replace") for line in capabilities.keywords]
    return " ".join(words[:40]) or "no extension"
