"""More than one mail exchanger: when the next is tried, and when it must not be (RFC 5321 5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support.agent import Result, run
from tests.support.nameserver import NameServer, Zone
from tests.support.postoffice import HEADER, PostOffice, Rcpt
from tests.support.script import Script, Step, Then
from tests.support.sink import Sink, refusing_port

ZONE: Zone = {
    "two.example": {"MX": ("10 a.example.", "20 b.example.")},
    "a.example": {"A": ("127.0.0.1",)},
    "b.example": {"A": ("127.0.0.2",)},
    "null.example": {"MX": ("0 .",)},
    "implicit.example": {"A": ("127.0.0.2",)},
    "nothing.example": {"TXT": ('"no address here"',)},
    "alias.example": {"CNAME": ("two.example.",)},
}


@contextmanager
def two_sinks(first: Script, second: Script) -> Iterator[tuple[Sink, Sink]]:
    """Servers on one port of two addresses."""
    with ExitStack() as stack:
        one = stack.enter_context(Sink(first, host="127.0.0.1"))
        two = stack.enter_context(Sink(second, host="127.0.0.2", port=one.port))
        yield one, two


def deliver(office: PostOffice, port: int, host: str = "two.example") -> tuple[str, Result]:
    job = office.post([Rcpt("a@two.example", host), Rcpt("b@two.example", host)])
    with NameServer(ZONE) as dns:
        office.write_zenv(RESOLVER=dns.address)
        result = run(office, "-h", "me.example", "-p", str(port), stdin=job.line(host))
    assert len(result.reports) == 2
    return office.marks(job), result


FIRST_FAILS = {
    "closes at once": Script(banner=Step(None, Then.CLOSE)),
    "421 greeting": Script(banner=Step("421 busy", Then.CLOSE)),
    "450 greeting": Script(banner=Step("450 busy")),
    "554 greeting": Script(banner=Step("554 no service", Then.CLOSE)),
    "421 to EHLO": Script(replies={"EHLO": (Step("421 busy", Then.CLOSE),)}),
    "421 to MAIL": Script(replies={"MAIL": (Step("421 busy", Then.CLOSE),)}),
    "reset at RCPT": Script(replies={"RCPT": (Step(None, Then.RESET),)}),
    "closes at DATA": Script(replies={"DATA": (Step(None, Then.CLOSE),)}),
}


@pytest.mark.parametrize("case", FIRST_FAILS)
def test_the_second_is_tried(office: PostOffice, case: str) -> None:
    with two_sinks(FIRST_FAILS[case], Script()) as (one, two):
        marks, _ = deliver(office, one.port)
    assert marks == "++"
    assert one.deliveries() == {}
    assert two.deliveries() == {b"a@two.example": 1, b"b@two.example": 1}


FIRST_DECIDES = {
    "550 to MAIL": (Script(replies={"MAIL": (Step("550 no"),)}), "--"),
    "550 to RCPT": (Script(replies={"RCPT": (Step("550 no"),)}), "--"),
    "451 to the dot": (Script(replies={"DOT": (Step("451 no"),)}), "  "),
    "554 to the dot": (Script(replies={"DOT": (Step("554 no"),)}), "--"),
    "421 to the dot": (Script(replies={"DOT": (Step("421 busy", Then.CLOSE),)}), "  "),
    "closes after the dot": (Script(replies={"DOT": (Step(None, Then.CLOSE),)}), "  "),
    "resets after the dot": (Script(replies={"DOT": (Step(None, Then.RESET),)}), "  "),
}


@pytest.mark.parametrize("case", FIRST_DECIDES)
def test_the_second_is_left_alone(office: PostOffice, case: str) -> None:
    script, expected = FIRST_DECIDES[case]
    with two_sinks(script, Script()) as (one, two):
        marks, _ = deliver(office, one.port)
    assert marks == expected
    assert two.connections == []


@pytest.mark.parametrize(
    ("first", "second", "marks"),
    [("554 no", "554 no", "--"), ("554 no", "421 busy", "  "), ("421 busy", "554 no", "  "), ("450 a", "450 b", "  ")],
)
def test_all_greetings_refuse(office: PostOffice, first: str, second: str, marks: str) -> None:
    scripts = [Script(banner=Step(text, Then.CLOSE)) for text in (first, second)]
    with two_sinks(scripts[0], scripts[1]) as (one, two):
        assert deliver(office, one.port)[0] == marks
    assert len(one.connections) == len(two.connections) == 1


@pytest.mark.parametrize(
    ("host", "marks", "status"),
    [
        ("null.example", "--", b"5.1.10"),
        ("nothing.example", "--", b"5.4.4"),
        ("unheard.example", "--", b"5.1.2"),
        ("[127.0.0.300]", "--", b"5.1.2"),
    ],
)
def test_hosts_without_an_exchanger(office: PostOffice, host: str, marks: str, status: bytes) -> None:
    actual, result = deliver(office, 2525, host)
    assert actual == marks
    assert {office.notary(report)[2].split(b" ")[0] for report in result.reports} == {status}


@pytest.mark.parametrize("host", ["implicit.example", "alias.example"])
def test_ways_to_a_host(office: PostOffice, host: str) -> None:
    with two_sinks(Script(banner=Step("421 busy", Then.CLOSE)), Script()) as (one, two):
        assert deliver(office, one.port, host)[0] == "++"
    assert len(two.connections) == 1


def test_a_dead_first_exchanger_is_tried_last_for_the_next_session(office: PostOffice, tmp_path: Path) -> None:
    jobs = [office.post([Rcpt("a@two.example", "two.example")], name=str(name)) for name in (1000, 1001, 1002)]
    bye = Script(replies={"DOT": (Step("250 ok\r\n421 that is enough", Then.CLOSE),)})
    with NameServer(ZONE) as dns, Sink(bye, host="127.0.0.2") as second:
        office.write_zenv(RESOLVER=dns.address)
        lines = b"".join(job.line("two.example") for job in jobs)
        run(office, "-h", "me.example", "-p", str(second.port), "-l", str(tmp_path / "log"), stdin=lines)
        assert len(second.connections) == 3
    assert [office.marks(job) for job in jobs] == ["+"] * 3
    log = (tmp_path / "log").read_text()
    assert log.count("Connecting to `a.example'") == 1
    assert log.count("Connecting to `b.example'") == 3
    assert log.count(f"tried after all others: a.example [127.0.0.1|{second.port}] (Connection refused, ") == 2


@pytest.mark.parametrize("field", ["TLS-Required: No\n", ""])
def test_a_dead_host_is_waited_for_once_whatever_mail_asks_for(office: PostOffice, tmp_path: Path, field: str) -> None:
    jobs = [
        office.post([Rcpt("a@implicit.example", "implicit.example")], name=str(name), header=HEADER + field)
        for name in (1000, 1001, 1002)
    ]
    with NameServer(ZONE) as dns, refusing_port() as port:
        office.write_zenv(RESOLVER=dns.address)
        lines = b"".join(job.line("implicit.example") for job in jobs)
        result = run(office, "-h", "me.example", "-p", str(port), "-l", str(tmp_path / "log"), stdin=lines)
    assert [office.marks(job) for job in jobs] == [" "] * 3
    assert len(result.reports) == 3
    assert (tmp_path / "log").read_text().count("Connecting to") == 1
