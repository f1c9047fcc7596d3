"""The agents' totals in one file: whole, only growing, and never in the way of mail."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from zsmtp import events
from zsmtp.dns.answer import Answer, Query, RecordType, Status
from zsmtp.dns.candidates import Endpoint, Family
from zsmtp.observers.prometheus import Metrics
from zsmtp.proto.phase import Phase
from zsmtp.proto.reply import Reply
from zsmtp.zmailer.textfile import MEANINGS, PERIOD, MetricsFile

MX = Endpoint("mx.example.org", "192.0.2.1", 25, Family.INET)
CONNECTED = events.Connected(MX, None)
FAILED = events.ConnectFailed(MX, "Connection refused")
LOOKUP = events.LookupDone(Answer(Query("example.org", RecordType.MX), Status.NXDOMAIN))


class Agent:
    """One agent's counting, with a clock and what it complained of."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.complaints: list[str] = []
        self.metrics = MetricsFile(str(path), lambda: self.now, self.complaints.append)

    def hear(self, *heard: events.Event) -> None:
        for event in heard:
            self.metrics(event)


def totals(path: Path) -> dict[tuple[str, str], float]:
    """What Prometheus's own parser reads: by name and the values of labels."""
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_agents_add_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "zsmtp.prom"
    first, second = Agent(path), Agent(path)
    first.hear(CONNECTED, CONNECTED, FAILED, LOOKUP)
    second.hear(CONNECTED, events.SessionLost("gone", Phase.MAIL), events.SessionLost("gone", Phase.QUIT))
    first.metrics.write()
    second.metrics.write()
    first.hear(CONNECTED)
    first.metrics.write()
    first.metrics.write()
    assert totals(path) == {
        ("zsmtp_connections_total", "connected"): 4,
        ("zsmtp_connections_total", "failed"): 1,
        ("zsmtp_dns_lookups_total", "MX nxdomain"): 1,
        ("zsmtp_sessions_total", "lost"): 1,
    }
    assert sorted(os.listdir(tmp_path)) == ["zsmtp.prom", "zsmtp.prom.lock"]
    assert first.complaints == second.complaints == []


def test_agents_that_write_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "zsmtp.prom"

    def work() -> None:
        agent = Agent(path)
        for _ in range(20):
            agent.hear(CONNECTED)
            agent.metrics.write()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(path) == {("zsmtp_connections_total", "connected"): 100}


def test_it_is_written_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "zsmtp.prom"
    agent = Agent(path)
    agent.hear(CONNECTED)
    agent.metrics.end_of_file()
    assert not path.exists()
    agent.now = PERIOD
    agent.metrics.end_of_file()
    assert path.exists()


def test_what_cannot_be_written_is_told_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    agent = Agent(folder / "zsmtp.prom")
    for _ in range(2):
        agent.hear(CONNECTED)
        agent.metrics.write()
    assert len(agent.complaints) == 1
    assert "No such file or directory" in agent.complaints[0]
    folder.mkdir()
    agent.metrics.write()
    assert totals(folder / "zsmtp.prom") == {("zsmtp_connections_total", "connected"): 2}


@pytest.mark.parametrize(
    "text", ["", "\0\xff", "zsmtp_connections_total{outcome=", "zsmtp_evil_total 7\n", "up 1\n", "x" * 100]
)
def test_what_is_not_ours_counts_for_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "zsmtp.prom"
    path.write_text(text)
    agent = Agent(path)
    agent.hear(CONNECTED)
    agent.metrics.write()
    assert totals(path) == {("zsmtp_connections_total", "connected"): 1}


def test_names_labels_and_meanings_are_those_of_the_library(tmp_path: Path) -> None:
    """The same events, heard by both, are the same totals."""
    Metrics(registry := CollectorRegistry())
    known = {family.name: family.documentation for family in registry.collect() if family.type == "counter"}
    assert known == MEANINGS | {"zsmtp_messages": known["zsmtp_messages"]}
    path = tmp_path / "zsmtp.prom"
    agent = Agent(path)
    observer = Metrics(other := CollectorRegistry()).observer()
    heard = (CONNECTED, FAILED, LOOKUP, events.HandshakeDone(None, "broken"), events.SessionLost("gone", Phase.DATA))
    for event in heard:
        observer(event)
    agent.hear(*heard)
    agent.metrics.write()
    counted = {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in other.collect()
        if family.type == "counter"
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }
    assert totals(path) == counted


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_read_back(tmp_path: Path, phase: Phase) -> None:
    path = tmp_path / "zsmtp.prom"
    for _ in range(2):
        agent = Agent(path)
        agent.hear(events.Answered(phase, Reply(250, (b"ok",)), None, -1))
        agent.metrics.write()
    assert totals(path) == {("zsmtp_replies_total", f"{phase.value} 2xx"): 2}
