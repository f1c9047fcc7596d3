"""Counts events as metrics for Prometheus (the package ``prometheus-client``, extra ``metrics``).

One :class:`Metrics` holds the instruments; :meth:`Metrics.observer` returns the observer of one connection::

    metrics = Metrics()                          # in prometheus_client's own registry
    client = zsmtp.aio.Client(observe=metrics.observer)
    prometheus_client.start_http_server(9100)

Names follow Prometheus's conventions: prefix ``zsmtp_``, base units as suffix, ``_total`` for counters. No label has
values from outside: neither hosts nor addresses, only words of this program, so that a hostile peer cannot create time
series. Times are measured with ``clock``, in seconds from any origin.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from zsmtp import events
from zsmtp.errors import ConfigError
from zsmtp.events import Event
from zsmtp.proto.phase import FINAL_PHASES, Phase

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from zsmtp.delivery.envelope import Delivery
    from zsmtp.dns.candidates import Endpoint
    from zsmtp.proto.plan import Transaction

Clock = Callable[[], float]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0)
_PROTOCOLS = frozenset({"TLSv1.2", "TLSv1.3"})
_MAX_AWAITED = 10_000  # commands that await a reply on one connection


class Metrics:
    """The instruments, registered once in a registry: several clients of a program share them.

    Raises ConfigError if the package is not installed, or the registry already has these instruments.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, clock: Clock = time.monotonic) -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Gauge, Histogram
        except ImportError:
            raise ConfigError("metrics need the package prometheus-client (the extra zsmtp[metrics])") from None
        place = registry or REGISTRY

        def counter(name: str, text: str, *labels: str) -> Counter:
            try:
                return Counter(f"zsmtp_{name}", text, labels, registry=place)
            except ValueError:  # prometheus_client's message lists all their names
                raise ConfigError(
                    "this registry has these metrics already: make Metrics once, its observer is for all clients"
                ) from None

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"zsmtp_{name}", text, labels, registry=place, buckets=_SECONDS)

        self.clock = clock
        self._lanes: WeakSet[_Lane] = WeakSet()  # a client that was dropped no longer counts
        self._lock = Lock()  # metrics are served from another thread
        self.messages = counter("messages_total", "Messages by what became of all their recipients.", "fate")
        self.recipients = counter("recipients_total", "Recipients by result.", "fate")
        deliveries = Gauge("zsmtp_deliveries_in_progress", "Messages on their way now.", registry=place)
        deliveries.set_function(lambda: float(sum(lane.deliveries for lane in self._living())))
        self.delivery_seconds = histogram("delivery_seconds", "From the start of a delivery to its last verdict.")
        self.connections = counter("connections_total", "Connection attempts by outcome.", "outcome")
        standing = Gauge("zsmtp_connections_open", "Open connections.", registry=place)
        standing.set_function(lambda: float(sum(lane.stands for lane in self._living())))
        self.sessions = counter("sessions_total", "Sessions by outcome.", "outcome")
        self.handshakes = counter(
            "tls_handshakes_total", "TLS handshakes by outcome.", "protocol", "resumed", "outcome"
        )
        self.lookups = counter("dns_lookups_total", "DNS questions by type and status.", "type", "status")
        self.replies = counter("replies_total", "Replies by phase and class.", "phase", "class")
        self.phase_seconds = histogram("phase_seconds", "How long each phase of the dialogue took.", "phase")
        self.content_bytes = counter("content_bytes_total", "Octets of message content sent to their end.")
        self.transactions = counter("transactions_total", "Transactions by whether they rode on others.", "riding")

    def observer(self, destination: str = "") -> _Lane:
        """The observer of one connection, and of its successors; ``destination`` is no label and not used."""
        lane = _Lane(self)
        with self._lock:
            self._lanes.add(lane)
        return lane

    def _living(self) -> list[_Lane]:
        with self._lock:
            return list(self._lanes)


class _Lane:
    """The state of one connection."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._now = 0.0
        self._deliveries: dict[int, tuple[float, dict[str, int]]] = {}  # by identity: start, recipients by fate
        self._attempts: dict[Endpoint, float] = {}
        self.stands = False
        self._lookup = 0.0
        self._handshake = 0.0
        self._since = 0.0
        self._awaited: deque[tuple[Phase, float]] = deque()
        self._content: dict[Transaction | None, float] = {}

    def __call__(self, event: Event) -> None:
        rule = _RULES.get(type(event))
        if rule is not None:
            self._now = self._metrics.clock()
            rule(self, event)

    @property
    def deliveries(self) -> int:
        """The number of messages in progress."""
        return len(self._deliveries)

    def _took(self, phase: str, since: float) -> None:
        self._metrics.phase_seconds.labels(phase).observe(max(self._now - since, 0.0))

    # ---------------------------------------------------------------------------------------------------- deliveries

    def _started(self, event: events.DeliveryStarted) -> None:
        self._deliveries[id(event.delivery)] = self._now, {}

    def _settled(self, event: events.Settled) -> None:
        verdict = event.verdict
        fate = "in_doubt" if verdict.in_doubt else verdict.fate.value
        self._metrics.recipients.labels(fate).inc()
        started, fates = self._deliveries.get(id(event.delivery), (self._now, {}))
        fates[fate] = fates.get(fate, 0) + 1
        if sum(fates.values()) == len(event.delivery.message.envelope.recipients):
            self._finished(event.delivery, started, fates)

    def _returned(self, event: events.DeliveryReturned) -> None:
        self._deliveries.pop(id(event.delivery), None)

    def _finished(self, delivery: Delivery, started: float, fates: dict[str, int]) -> None:
        self._deliveries.pop(id(delivery), None)
        self._metrics.messages.labels(next(iter(fates)) if len(fates) == 1 else "mixed").inc()
        self._metrics.delivery_seconds.observe(max(self._now - started, 0.0))

    # --------------------------------------------------------------------------------------------------- connections

    def _lookup_started(self, event: events.LookupStarted) -> None:
        self._lookup = self._now

    def _lookup_done(self, event: events.LookupDone) -> None:
        answer = event.answer
        self._metrics.lookups.labels(answer.query.type.value, answer.status.name.lower()).inc()
        self._took("dns", self._lookup)

    def _connecting(self, event: events.Connecting) -> None:
        self._attempts[event.endpoint] = self._now

    def _connect_failed(self, event: events.ConnectFailed) -> None:
        self._attempts.pop(event.endpoint, None)
        self._metrics.connections.labels("failed").inc()

    def _connected(self, event: events.Connected) -> None:
        self._metrics.connections.labels("connected").inc()
        self._took("connect", self._attempts.get(event.endpoint, self._now))
        self._attempts.clear()
        self._drop()
        self.stands, self._since = True, self._now

    def _drop(self) -> None:
        """Note the end of the connection, if there was one."""
        self.stands = False
        self._awaited.clear()
        self._content.clear()

    def _handshake_started(self, event: events.HandshakeStarted) -> None:
        self._handshake = self._now

    def _handshake_done(self, event: events.HandshakeDone) -> None:
        facts = event.facts
        protocol = "none" if facts is None else facts.protocol if facts.protocol in _PROTOCOLS else "other"
        resumed = str(facts is not None and facts.resumed).lower()
        outcome = "failed" if facts is None else "done"
        self._metrics.handshakes.labels(protocol, resumed, outcome).inc()
        self._took("tls handshake", self._handshake)
        self._since = self._now

    def _session_opened(self, event: events.SessionOpened) -> None:
        self._metrics.sessions.labels("opened").inc()

    def _session_refused(self, event: events.SessionRefused) -> None:
        self._metrics.sessions.labels("refused").inc()
        self._drop()

    def _session_lost(self, event: events.SessionLost) -> None:
        if event.phase is not None and event.phase is not Phase.QUIT:
            self._metrics.sessions.labels("lost").inc()

    def _closed(self, event: events.Closed) -> None:
        self._drop()

    # ------------------------------------------------------------------------------------------------------ dialogue

    def _line_sent(self, event: events.LineSent) -> None:
        if event.phase is not None and event.phase not in FINAL_PHASES and len(self._awaited) < _MAX_AWAITED:
            self._awaited.append((event.phase, self._now))

    def _answered(self, event: events.Answered) -> None:
        phase = event.phase
        self._metrics.replies.labels(phase.value, f"{event.reply.code // 100}xx").inc()
        since = self._since
        if phase not in FINAL_PHASES and phase is not Phase.GREETING:
            while self._awaited:
                sent, since = self._awaited.popleft()
                if sent is phase:
                    break
        self._took(phase.value, since)
        self._since = self._now

    def _transaction_started(self, event: events.TransactionStarted) -> None:
        self._metrics.transactions.labels(str(event.riding).lower()).inc()

    def _content_started(self, event: events.ContentStarted) -> None:
        self._content[event.transaction] = self._now

    def _content_sent(self, event: events.ContentSent) -> None:
        self._metrics.content_bytes.inc(event.octets)
        self._took("content", self._content.pop(event.transaction, self._now))
        self._since = self._now


_RULES: dict[type[Event], Callable[[_Lane, Any], None]] = {
    events.DeliveryStarted: _Lane._started,
    events.Settled: _Lane._settled,
    events.DeliveryReturned: _Lane._returned,
    events.LookupStarted: _Lane._lookup_started,
    events.LookupDone: _Lane._lookup_done,
    events.Connecting: _Lane._connecting,
    events.ConnectFailed: _Lane._connect_failed,
    events.Connected: _Lane._connected,
    events.HandshakeStarted: _Lane._handshake_started,
    events.HandshakeDone: _Lane._handshake_done,
    events.SessionOpened: _Lane._session_opened,
    events.SessionRefused: _Lane._session_refused,
    events.SessionLost: _Lane._session_lost,
    events.Closed: _Lane._closed,
    events.LineSent: _Lane._line_sent,
    events.Answered: _Lane._answered,
    events.TransactionStarted: _Lane._transaction_started,
    events.ContentStarted: _Lane._content_started,
    events.ContentSent: _Lane._content_sent,
}
