"""A network in memory, for tests and documentation: scripted servers, tables for DNS, and a clock that jumps.

:class:`ScriptedNetwork` is a driver like ``zsmtp.net.blocking``: it carries out the same effects by the same rules, but
its servers follow a :class:`~zsmtp.net.script.Script`, its names come from a table, and its clock is a number that
advances only while both sides wait. A delivery with hours of waits takes a millisecond, and always gives the same
result::

    from zsmtp.net.script import Reaction, Script

    script = Script(replies={"RCPT": [Reaction("550 5.1.1 no such user")]})
    network = ScriptedNetwork({"192.0.2.1": [script]}, dns="example.org A 192.0.2.1")
    network.run(courier.deliver(route, Delivery(message, ledger)))
    assert network.connections[0].lines == ["EHLO client.example", "MAIL FROM:<a@example.org>", ...]

Commands without a reaction in the script get the usual replies of RFC 5321 (RFC 2033 with ``lmtp``). The script also
defines how octets are transferred: how many by one read and one write, how slowly, and whether the server replies while
the client still writes. None of that may ever change the result of a delivery.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from zsmtp.dns.answer import Answer, AskAhead, Query, Status
from zsmtp.dns.candidates import Endpoint
from zsmtp.dns.resolver import Resolver
from zsmtp.dns.static import StaticResolver
from zsmtp.effects import (
    AllowCompletion,
    Close,
    Connect,
    ConnectResult,
    Effect,
    Exchange,
    FetchPolicy,
    GiveWay,
    KeepPolicy,
    Operation,
    OwnAddresses,
    ReadClock,
    ReadStop,
    RecallPolicy,
    Sleep,
    StartTLS,
    TLSResult,
    carry_out,
    unknown_effect,
)
from zsmtp.errors import INTERRUPTED, ConnectionLost, ContentError, Interrupted, LocalError
from zsmtp.events import ConnectFailed, Connecting, LookupDone, LookupStarted, Observer, ignore
from zsmtp.net.race import Race
from zsmtp.net.script import LOCAL, NEVER, Script, ScriptedConnection, ScriptedWebConnection, WebScript

if TYPE_CHECKING:
    from zsmtp.effects import Conversation
    from zsmtp.tls.chain import TrustAnchors
    from zsmtp.tls.mtasts import CachedPolicy, FetchedPolicy, RecalledPolicy

QUERY_TIME = 15.0  # seconds for one lookup

T = TypeVar("T")


def _no_anchors() -> TrustAnchors:
    raise LocalError("the scripted network was given no CA certificates")


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An address where no connection can be made: refused after ``after`` seconds (NEVER: no reply at all).

    ``own``: the failure is on this side.
    """

    reason: str = "Connection refused"
    after: float = 0.0
    own: bool = False


Host = Script | Unreachable
WebHost = bytes | WebScript | Unreachable
Peer = Script | WebScript | Unreachable


class ScriptedNetwork:
    """The driver. ``hosts`` has for each address the scripts of its connections, in turn, the last one repeated.

    Other addresses refuse connections. ``dns`` is a table for :class:`~zsmtp.dns.static.StaticResolver`, or a resolver.
    ``now`` is the time in seconds; ``stop_at`` is when a stop is requested. ``anchors`` are the CA certificates for
    verifying chains, ``policies`` the policy hosts of MTA-STS, by name: the text that they serve, or a script; others
    refuse connections. ``connections`` are all connections made, ``attempts`` all endpoints tried, with the time, and
    ``handshakes`` the handshakes, without those of HTTPS: ``web_connections`` are connections to policy hosts.
    ``fetches`` are the policy fetches, ``policy_cache`` the cached policies.
    """

    def __init__(
        self,
        hosts: Mapping[str, Sequence[Host]],
        *,
        dns: str | Resolver = "",
        own_addresses: frozenset[str] = frozenset({LOCAL[0]}),
        now: float = 1000.0,
        stop_at: float = NEVER,
        observer: Observer = ignore,
        anchors: Callable[[], TrustAnchors] = _no_anchors,
        policies: Mapping[str, WebHost] | None = None,
    ) -> None:
        self.now = now
        self.stop_at = stop_at
        self.connections: list[ScriptedConnection] = []
        self.web_connections: list[ScriptedWebConnection] = []
        self.attempts: list[tuple[float, Endpoint]] = []
        self.handshakes: list[StartTLS] = []
        self.fetches: list[FetchPolicy] = []
        self.policies: dict[str, WebHost] = dict(policies or {})
        self.policy_cache: dict[str, CachedPolicy] = {}
        self._anchors = anchors
        self._hosts = hosts
        self._resolver = StaticResolver(dns) if isinstance(dns, str) else dns
        self._own_addresses = own_addresses
        self._observe = observer
        self._tried: Counter[str] = Counter()
        self.completions: list[AllowCompletion] = []
        self.allow_completion: Callable[[AllowCompletion], bool] = lambda _: True
        self._performers: dict[type[Effect[Any]], Callable[[Any], object]] = {
            Exchange: self._exchange,
            Query: self._look_up,
            AskAhead: lambda _: None,
            Connect: self._connect,
            Close: self._close,
            StartTLS: self._start_tls,
            ReadClock: lambda _: self.now,
            Sleep: self._sleep,
            GiveWay: lambda _: None,
            OwnAddresses: lambda _: self._own_addresses,
            ReadStop: lambda _: INTERRUPTED if self._stopped else "",
            AllowCompletion: self._allow,
            RecallPolicy: self._recall,
            FetchPolicy: self._fetch,
            KeepPolicy: self._keep,
        }

    def run(self, work: Operation[T]) -> T:
        """Run ``work`` to its end and return its result."""
        return carry_out(work, self._perform)

    def _perform(self, effect: Effect[Any]) -> object:
        perform = self._performers.get(type(effect))
        if perform is None:
            raise unknown_effect(effect)
        return perform(effect)

    def _close(self, effect: Close) -> None:
        assert isinstance(effect.stream, ScriptedConnection)
        effect.stream.closed_at = self.now

    def _sleep(self, effect: Sleep) -> None:
        self.now = max(self.now, min(effect.until, self.stop_at))

    def _allow(self, effect: AllowCompletion) -> bool:
        self.completions.append(effect)
        return self.allow_completion(effect)

    def _recall(self, effect: RecallPolicy) -> RecalledPolicy:
        from zsmtp.tls.mtasts import RecalledPolicy

        return RecalledPolicy(self.policy_cache.get(effect.domain), self.now)

    def _keep(self, effect: KeepPolicy) -> None:
        self.policy_cache[effect.entry.domain] = effect.entry

    def _fetch(self, effect: FetchPolicy) -> FetchedPolicy:
        from zsmtp.tls.context import WebContextOptions
        from zsmtp.tls.https import fetch_policy

        self.fetches.append(effect)
        return self.run_for_web(fetch_policy(effect, WebContextOptions()))

    def run_for_web(self, work: Operation[T]) -> T:
        """Run a request over HTTPS: what it connects to are the hosts of ``policies``."""
        return carry_out(work, self._perform_for_web)

    def _perform_for_web(self, effect: Effect[Any]) -> object:
        if isinstance(effect, Connect):
            return self._race(effect, self._web_host, ignore)
        if isinstance(effect, StartTLS):
            peer = effect.stream
            assert isinstance(peer, ScriptedWebConnection)
            result = self._shake_hands(effect, peer)
            return replace(result, untrusted=result.stream is None and peer.web.untrusted)
        return self._perform(effect)

    def _look_up(self, query: Query) -> Answer:
        if self._observe is ignore:
            return self._ask(query)
        self._observe(LookupStarted(query))
        answer = self._ask(query)
        self._observe(LookupDone(answer))
        return answer

    def _ask(self, query: Query) -> Answer:
        if self._stopped:
            return Answer(query, Status.TIMEOUT, problem=INTERRUPTED)
        return self._resolver.lookup(query, self.now + QUERY_TIME)

    def _start_tls(self, effect: StartTLS) -> TLSResult:
        assert isinstance(effect.stream, ScriptedConnection)
        self.handshakes.append(effect)
        return self._shake_hands(effect, effect.stream)

    def _shake_hands(self, effect: StartTLS, peer: ScriptedConnection) -> TLSResult:
        from zsmtp.tls.resume import ResumableSession

        facts, place = peer.script.tls, effect.resumption
        kept = place.find(self.now) if place is not None else None
        resuming = kept is not None
        taken = min(peer.script.tls_time, effect.timeout)
        interrupted = self.now + taken > self.stop_at
        timed_out = taken >= effect.timeout and not interrupted
        self.now = max(self.now, min(self.now + taken, self.stop_at))
        if timed_out or interrupted:
            facts = "the TLS handshake took too long"
        if isinstance(facts, str) or (resuming and not peer.script.resumes):
            peer.closed_at = self.now
            if place is not None and not interrupted:
                place.forget()
            failure = facts if isinstance(facts, str) else "the peer does not like the session"
            return TLSResult(
                None,
                None,
                self.now,
                self._anchors,
                failure,
                interrupted=interrupted,
                timed_out=timed_out,
                resuming=resuming,
            )
        peer.secure()
        chain, since = (kept.chain, kept.since) if kept is not None else (facts.chain, self.now)
        facts = replace(facts, server_name=effect.server_name, chain=chain, resumed=resuming)

        def approved() -> None:
            if place is not None:
                place.keep(ResumableSession("a ticket", chain, since))

        return TLSResult(peer, facts, self.now, self._anchors, resuming=resuming, approved=approved)

    @property
    def _stopped(self) -> bool:
        return self.now >= self.stop_at

    def _exchange(self, effect: Exchange[Any]) -> object:
        """Move octets until the session has an event; None if it has nothing left to do."""
        peer, session = effect.stream, effect.session
        assert isinstance(peer, ScriptedConnection)
        if peer.closed_at is not None:
            raise LocalError("an exchange on a stream that was closed")
        while (event := session.next_event()) is None:
            if self._stopped and not session.idle:
                session.stop()
                if not session.final_reply_due:
                    session.fail(Interrupted(INTERRUPTED))
                    continue
            try:
                out = session.data_to_send(self.now)
            except ContentError as error:
                session.fail(error)
                continue
            if not out and (event := session.next_event()) is not None:
                return event
            deadline = session.deadline()
            if not out and deadline is None:
                return None
            try:
                moved = self._move(peer, session, out)
            except ConnectionLost as error:
                session.fail(error)
                continue
            if not moved:
                self._wait(peer, NEVER if deadline is None else deadline, session)
            session.handle_timer(self.now)
        return event

    def _move(self, peer: ScriptedConnection, session: Conversation[Any], out: memoryview) -> bool:
        """Read what has arrived; if there is nothing, write. Returns whether anything moved."""
        if not out:
            peer.act(self.now)
        data = peer.receive(self.now)
        if data is not None:
            if data:
                session.receive_data(data, self.now)
            else:
                session.receive_eof(self.now)
            return True
        count = peer.take(out, self.now) if out else 0
        if count:
            session.data_written(count, self.now)
        return count > 0

    def _wait(self, peer: ScriptedConnection, deadline: float, session: Conversation[Any]) -> None:
        """Advance the clock until something can happen."""
        moments = [deadline, peer.next_arrival()]
        if self.stop_at > self.now and not session.final_reply_due:
            moments.append(self.stop_at)
        moment = min(moments)
        if moment == NEVER:
            raise LocalError("both sides wait for ever")
        self.now = max(self.now, moment)

    def _connect(self, effect: Connect) -> ConnectResult:
        return self._race(effect, self._next_host, self._observe)

    def _race(self, effect: Connect, host_at: Callable[[Endpoint], Peer], observe: Observer) -> ConnectResult:
        race = Race(effect.endpoints, effect.timeout, self.now, effect.deadline)
        failures: list[tuple[Endpoint, str]] = []
        own: list[Endpoint] = []
        running: dict[Endpoint, tuple[float, Peer]] = {}
        while not race.over:
            if self._stopped:
                return ConnectResult(None, None, tuple(failures), interrupted=True, own=tuple(own))
            while (endpoint := race.start(self.now)) is not None:
                if observe is not ignore:
                    observe(Connecting(endpoint))
                host = host_at(endpoint)
                running[endpoint] = (self.now + _time_to_connect(host), host)
            due = [endpoint for endpoint, (at, _) in running.items() if at <= self.now]
            for endpoint in due:
                host = running.pop(endpoint)[1]
                if not isinstance(host, Unreachable):
                    connection = self._connected(endpoint, host)
                    overtaken = race.overtaken(endpoint, self.now)
                    return ConnectResult(connection, endpoint, tuple(failures), overtaken=overtaken, own=tuple(own))
                race.failed(endpoint)
                if host.own:
                    own.append(endpoint)
                failures.append(_failed(endpoint, host.reason, observe))
            for endpoint in race.expired(self.now):
                del running[endpoint]
                failures.append(_failed(endpoint, "Connection timed out", observe))
            if not due and not race.over:
                deadline = race.deadline()
                moments = [self.stop_at, NEVER if deadline is None else deadline]
                self.now = max(self.now, min(moments + [at for at, _ in running.values()]))
        return ConnectResult(None, None, tuple(failures), own=tuple(own))

    def _connected(self, endpoint: Endpoint, host: Script | WebScript) -> ScriptedConnection:
        if isinstance(host, WebScript):
            self.web_connections.append(ScriptedWebConnection(endpoint, host, self.now))
            return self.web_connections[-1]
        self.connections.append(ScriptedConnection(endpoint, host, self.now))
        return self.connections[-1]

    def _next_host(self, endpoint: Endpoint) -> Host:
        self.attempts.append((self.now, endpoint))
        hosts = self._hosts.get(endpoint.address) or (Unreachable(),)
        count = self._tried[endpoint.address]
        self._tried[endpoint.address] += 1
        return hosts[min(count, len(hosts) - 1)]

    def _web_host(self, endpoint: Endpoint) -> WebScript | Unreachable:
        host = self.policies.get(endpoint.host, Unreachable())
        return WebScript.serving(host) if isinstance(host, bytes) else host


def _time_to_connect(host: Peer) -> float:
    return host.after if isinstance(host, Unreachable) else host.connect_time


def _failed(endpoint: Endpoint, reason: str, observe: Observer) -> tuple[Endpoint, str]:
    if observe is not ignore:
        observe(ConnectFailed(endpoint, reason))
    return endpoint, reason
