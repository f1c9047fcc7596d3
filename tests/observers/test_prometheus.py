"""Metrics: what a delivery counts, and that no label is anybody else's choice."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.network import content_form, message, numbered, table
from tests.support.security import Authority, asking

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery, Message
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.errors import ConfigError
from zsmtp.events import Event
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Host, ScriptedNetwork, Unreachable
from zsmtp.observers.prometheus import Metrics
from zsmtp.tls.policy import Level, TLSPolicy


class Measured:
    """A network with metrics that listen."""

    def __init__(self, *hosts: Host, settings: SessionSettings | None = None) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, clock=lambda: self.network.now)
        self.observer: Callable[[Event], None] = self.metrics.observer("example.org")
        lives = {f"192.0.2.{number}": [host] for number, host in enumerate(hosts, 1)}
        self.network = ScriptedNetwork(lives, dns=table(len(hosts)), observer=lambda event: self.observer(event))
        self.courier = Courier(
            settings or SessionSettings(helo_name="client.example"), lambda event: self.observer(event)
        )
        self.route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))

    def deliver(self, *messages: Message) -> Measured:
        for one in messages:
            ledger = Ledger(len(one.envelope.recipients), lambda number, verdict: None)
            self.network.run(self.courier.deliver(self.route, Delivery(one, ledger)))
        return self

    def close(self) -> Measured:
        self.network.run(self.courier.close(self.route, "done"))
        return self

    def value(self, name: str, **labels: Any) -> float:
        return self.registry.get_sample_value(f"zsmtp_{name}", labels) or 0.0


def test_a_delivery_is_counted_in_every_respect() -> None:
    script = Script(
        connect_time=0.02,
        replies={"RCPT": [Reaction("250 ok"), Reaction("550 no")], "DOT": [Reaction("250 queued", delay=0.2)]},
    )
    there = Measured(Unreachable(), script).deliver(message(*numbered(2), content=content_form(b"x" * 98 + b"\r\n")))
    assert there.value("recipients_total", fate="delivered") == 1
    assert there.value("recipients_total", fate="failed") == 1
    assert there.value("messages_total", fate="mixed") == 1
    assert there.value("connections_total", outcome="failed") == 1
    assert there.value("connections_total", outcome="connected") == 1
    assert there.value("connections_open") == 1
    assert there.value("deliveries_in_progress") == 0
    assert there.value("sessions_total", outcome="opened") == 1
    assert there.value("content_bytes_total") == 100
    assert there.value("dns_lookups_total", type="MX", status="ok") == 1
    assert there.value("replies_total", **{"phase": "RCPT", "class": "5xx"}) == 1
    assert there.value("phase_seconds_sum", phase="connect") == pytest.approx(0.02)
    assert there.value("phase_seconds_sum", phase="end of data") == pytest.approx(0.2)
    assert there.value("phase_seconds_count", phase="RCPT") == 2
    assert there.value("delivery_seconds_count") == 1
    assert there.close().value("connections_open") == 0
    assert there.value("sessions_total", outcome="lost") == 0


def test_what_goes_wrong_is_counted() -> None:
    there = Measured(Script(greeting=Reaction("554 no")), Script(replies={"DOT": [Reaction(b"", Then.CLOSE)]})).deliver(
        message()
    )
    assert there.value("sessions_total", outcome="refused") == 1
    assert there.value("sessions_total", outcome="lost") == 1
    assert there.value("recipients_total", fate="in_doubt") == 1
    assert there.value("messages_total", fate="in_doubt") == 1
    assert there.value("connections_open") == 0


def test_handshakes_are_counted() -> None:
    server = Authority.new().server("mx0.example.org")
    there = Measured(server, settings=asking(TLSPolicy(level=Level.ENCRYPT))).deliver(message())
    assert there.value("tls_handshakes_total", protocol="TLSv1.3", resumed="false", outcome="done") == 1
    assert there.value("phase_seconds_count", phase="tls handshake") == 1
    assert there.value("phase_seconds_count", phase="EHLO") == 2


def test_a_connection_that_was_dropped_in_the_middle_counts_no_more() -> None:
    there = Measured(Script()).deliver(message())
    assert there.value("connections_open") == 1
    there.observer = there.metrics.observer("example.org")
    gc.collect()
    assert there.value("connections_open") == 0


def test_no_label_is_from_outside() -> None:
    evil = Reaction("250 evil-text", delay=0.1)
    there = Measured(Script(greeting=Reaction("220 evil-text"), keywords=("EVIL",), replies={"RCPT": [evil]}))
    text = generate_latest(there.deliver(message(b"evil@example.org")).close().registry).decode()
    assert "evil" not in text.lower()
    assert "example.org" not in text
    assert text.count("\n") < 600


def test_without_the_package_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"zsmtp\[metrics\]"):
        Metrics()
