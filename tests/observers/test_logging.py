"""Standard logging: loggers by room, levels that make sense, fields for machines."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from tests.support.network import World, message, numbered, run, table
from tests.support.security import Authority, asking

from zsmtp.delivery.attempt import Courier
from zsmtp.delivery.envelope import Delivery
from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.pool import Route
from zsmtp.delivery.settings import SessionSettings
from zsmtp.dns.destination import DestinationRequest
from zsmtp.events import DeliveryReturned
from zsmtp.net.script import Reaction, Script, Then
from zsmtp.net.scripted import Host, ScriptedNetwork, Unreachable
from zsmtp.observers.logging import JSONFormatter, logging_observer
from zsmtp.tls.policy import Level, STSUse, TLSPolicy


def logged(
    caplog: pytest.LogCaptureFixture,
    *hosts: Host,
    level: int,
    recipients: int = 1,
    dns: str = "",
    settings: SessionSettings | None = None,
) -> list[logging.LogRecord]:
    with caplog.at_level(level, "zsmtp"):
        observer = logging_observer("example.org")
        lives = {f"192.0.2.{number}": [host] for number, host in enumerate(hosts, 1)}
        network = ScriptedNetwork(lives, dns=dns or table(len(hosts)), observer=observer)
        courier = Courier(settings or SessionSettings(helo_name="client.example"), observer)
        route = Route(DestinationRequest(destination="example.org", shuffle=lambda items: None))
        there = World(network, courier, route)
        there.deliver(message(*numbered(recipients)))
        there.close()
    return [record for record in caplog.records if record.name.startswith("zsmtp.")]


def test_verdicts_have_levels_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    replies = [Reaction("250 ok"), Reaction("450 4.2.1 later"), Reaction("550 5.1.1 never \x1b[2J")]
    records = logged(caplog, Script(replies={"RCPT": replies}), level=logging.INFO, recipients=3)
    told = {
        record.__dict__["smtp_recipient"]: record for record in records if record.__dict__["smtp_event"] == "Settled"
    }
    assert [told[f"r{number}@example.org"].levelname for number in range(3)] == ["INFO", "WARNING", "ERROR"]
    never = told["r2@example.org"]
    assert never.name == "zsmtp.delivery"
    assert never.__dict__["smtp_fate"] == "failed"
    assert never.__dict__["smtp_host"] == "mx0.example.org"
    assert never.__dict__["smtp_destination"] == "example.org"
    assert never.getMessage().startswith("<r2@example.org> failed: 5.")
    assert all(record.getMessage().isprintable() for record in records)


def test_each_room_has_its_logger(caplog: pytest.LogCaptureFixture) -> None:
    records = logged(caplog, Unreachable(), Script(), level=logging.DEBUG)
    assert {record.name for record in records} == {
        "zsmtp.dns",
        "zsmtp.net",
        "zsmtp.proto",
        "zsmtp.body",
        "zsmtp.delivery",
    }
    assert [r.levelname for r in records if r.getMessage().startswith("no connection to mx0.example.org")] == [
        "WARNING"
    ]
    assert [r for r in records if r.getMessage() == "C: EHLO client.example"]


def test_what_is_not_wanted_is_not_put_into_words(caplog: pytest.LogCaptureFixture) -> None:
    assert logged(caplog, Script(), level=logging.ERROR) == []
    assert "->>" not in "".join(r.getMessage() for r in logged(caplog, Script(), level=logging.INFO))


def test_hostile_text_does_not_format(caplog: pytest.LogCaptureFixture) -> None:
    records = logged(caplog, Script(greeting=Reaction("220 %s %d %n")), level=logging.DEBUG)
    assert [record for record in records if "%s %d %n" in record.getMessage()]


def test_run_without_observers_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "zsmtp"):
        run(Script())
    assert not caplog.records


def test_tls_and_the_verdict_on_it(caplog: pytest.LogCaptureFixture) -> None:
    server = Authority.new().server("mx0.example.org")
    records = logged(caplog, server, level=logging.INFO, settings=asking(TLSPolicy(level=Level.ENCRYPT)))
    told = {record.__dict__["smtp_event"]: record for record in records if record.name == "zsmtp.tls"}
    assert told["HandshakeDone"].__dict__["smtp_protocol"] == "TLSv1.3"
    assert told["Secured"].__dict__["smtp_good_enough"] is True
    assert told["Decision"].getMessage().startswith("mx0.example.org: level encrypt")


def test_a_host_that_refuses_and_one_that_breaks_off(caplog: pytest.LogCaptureFixture) -> None:
    refusing = Script(greeting=Reaction("554 no"))
    breaking = Script(replies={"DOT": [Reaction(b"", Then.CLOSE)]})
    records = logged(caplog, refusing, breaking, level=logging.DEBUG)
    told = {record.__dict__["smtp_event"]: record for record in records}
    assert told["SessionRefused"].levelname == "WARNING"
    assert told["SessionRefused"].__dict__["smtp_host"] == "mx0.example.org"
    assert told["SessionLost"].__dict__["smtp_phase"] == "end of data"
    assert told["Settled"].__dict__["smtp_in_doubt"] is True


def test_no_route(caplog: pytest.LogCaptureFixture) -> None:
    records = logged(caplog, level=logging.INFO, dns="example.org MX 0 .")
    (plan,) = [record for record in records if record.__dict__["smtp_event"] == "PlanMade"]
    assert plan.getMessage() == "no route to example.org: example.org does not accept mail (null MX)"
    assert plan.__dict__["smtp_status"] == "5.1.10"


def test_a_policy_that_cannot_be_fetched(caplog: pytest.LogCaptureFixture) -> None:
    dns = table(1) + '\n_mta-sts.example.org TXT "v=STSv1; id=1"\nmta-sts.example.org A 192.0.2.80'
    records = logged(caplog, Script(), level=logging.INFO, dns=dns, settings=asking(TLSPolicy(), mta_sts=STSUse.ON))
    words = "MTA-STS policy: connection to mta-sts.example.org failed: Connection refused"
    assert [record for record in records if record.getMessage() == words]


def test_a_delivery_that_is_taken_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "zsmtp"):
        logging_observer()(DeliveryReturned(Delivery(message(), Ledger(1, print), "S1"), "421 too \x1b[2J many"))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("zsmtp.delivery", "INFO")
    assert record.__dict__["smtp_message"] == "S1"
    assert record.getMessage().startswith("undecided, to be sent again: 421 too ")
    assert record.getMessage().isprintable()


def test_a_record_as_json_has_the_fields_of_its_event(caplog: pytest.LogCaptureFixture) -> None:
    records = logged(caplog, Unreachable(), level=logging.INFO)
    lines = [json.loads(JSONFormatter().format(record)) for record in records]
    (settled,) = [line for line in lines if line.get("event") == "Settled"]
    assert settled["fate"] == "deferred"
    assert settled["recipient"] == "r0@example.org"
    assert settled["reason"] == "connect to mx0.example.org [192.0.2.1]:25: Connection refused"
    assert settled["level"] == "warning"
    assert settled["logger"] == "zsmtp.delivery"


def test_a_record_of_anybody_is_one_line_of_json() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, __file__, 1, "it\n%s", ("broke",), None)
        record.exc_info = sys.exc_info()
    record.created = 0.25
    record.smtp_odd = {1, 2}.__class__
    line = JSONFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found["time"] == "1970-01-01T00:00:00.250Z"
    assert found["text"] == "it\\nbroke"
    assert found["exception"].endswith("ValueError: two\nlines")
    assert found["odd"] == "<class 'set'>"
